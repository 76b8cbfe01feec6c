"""The rules of the detectors, from pictures that are drawn here and from photographs.

    python examples/make_detectors.py ../shared/data

Draws screenshots, documents, receipts and memes of many layouts, types and colours, and what may be
taken for them: drawings, things on white, photographs with a sign. Photographs are those of
flickr8k-train and imagenet-sample-1k, some of them enlarged. To all of them a logistic curve for
each detector is fitted, over what `twotower.tagging.detectors` measures and what the bundled model
says. Writes twotower/library/detectors.json. On what else they were tested:
benchmarks/quality/detectors.py.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import twotower
from twotower.calibration.background import background_texts
from twotower.calibration.calibration import read_calibration
from twotower.inputs.pictures import open_picture
from twotower.pairs.sources import open_source
from twotower.tagging.detectors import MAX_DEVIATION, RULES_FILE, SENTENCES
from twotower.tagging.pixel_facts import measure

EACH = 500  # pictures of a detector
OTHERS = 250  # drawings of a kind that is none
PHOTOGRAPHS = 700  # of Flickr8k
RIDGE = 1.0  # on weights of facts in deviations
FOLDER = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FONTS = sorted(path for path in FOLDER.glob("DejaVu*.ttf") if "Display" not in path.name)
BOLD = [path for path in FONTS if "Bold" in path.name]
MONO = [path for path in FONTS if "Mono" in path.name]
WORDS = " ".join(background_texts()).split()
SCREENS = (
    *((1280, 800), (1920, 1080), (1366, 768), (1440, 900), (1024, 768), (2560, 1440)),
    *((390, 844), (1080, 1920), (1170, 2532), (414, 736), (768, 1024)),
)

Random = np.random.Generator
Photo = Callable[[], Image.Image]
Colour = tuple[int, ...]
Box = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont


def main() -> None:
    data = Path(sys.argv[1])
    flickr = open_source(str(data / "flickr8k-train" / "*.tar"))
    step = len(flickr) // PHOTOGRAPHS
    photographs = [load(flickr[number * step].picture) for number in range(PHOTOGRAPHS)]
    random = np.random.default_rng(0)

    def photo() -> Image.Image:
        return photographs[int(random.integers(len(photographs)))]

    pictures: list[bytes] = []
    kinds: list[str] = []
    for kind, draw in {**DRAWN, **TAKEN_FOR_THEM}.items():
        for number in range(EACH if kind in DRAWN else OTHERS):
            own = np.random.default_rng([number, *kind.encode()])
            pictures.append(as_file(own, draw(own, photo)))
            kinds.append(kind)
        print(f"{kind} drawn")
    named = open_source(data / "imagenet-sample-1k")
    for image in [*photographs, *(load(named[number].picture) for number in range(len(named)))]:
        scale = random.uniform(1.5, 3.5) if random.random() < 0.4 else 1.0
        width, height = scale * image.width, scale * image.height * random.uniform(0.8, 1.3)
        resized = image.resize((round(width), round(height)), Image.Resampling.BICUBIC)
        pictures.append(encoded(resized, "PNG"))
        kinds.append("photograph")
    facts = find_facts(pictures)
    mean, sd = facts.mean(axis=0), facts.std(axis=0) + 1e-6
    usual = np.clip((facts - mean) / sd, -MAX_DEVIATION, MAX_DEVIATION)
    weights = {kind: fit(usual, np.array(kinds) == kind) for kind in DRAWN}
    for kind, rule in weights.items():
        found = usual @ rule[:-1] + rule[-1] > 0
        true = np.array(kinds) == kind
        print(f"{kind}: {found[true].mean():.3f} found, {found[~true].mean():.4f} of others taken")
    rules = {
        "mean": rounded(mean),
        "sd": rounded(sd),
        "weights": {kind: rounded(rule) for kind, rule in weights.items()},
    }
    RULES_FILE.write_text(json.dumps(rules, indent=1) + "\n", encoding="utf-8")


def find_facts(pictures: list[bytes]) -> NDArray[np.float64]:
    """What is measured, and how far the bundled model finds each like the sentences [n, facts]."""
    model = twotower.load()
    calibration = read_calibration(model.directory)
    assert calibration is not None
    sentences = model.encode_text(list(SENTENCES))
    background = calibration.text.background
    deviations = background.deviations(sentences, model.encode_image(pictures))
    return np.column_stack([np.stack([measure(load(one)) for one in pictures]), deviations])


def fit(x: NDArray[np.float64], true: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights and a constant, by Newton's method with short steps: the kinds are nearly apart."""
    x = np.column_stack([x, np.ones(len(x))])
    ridge = np.full(x.shape[1], RIDGE)
    ridge[-1] = 1e-3
    weights = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(curvature, x.T @ (true - p) - ridge * weights)
        weights += step * min(1.0, 4 / np.abs(step).max())
        if np.abs(step).max() < 1e-6:
            break
    return weights


def rounded(numbers: NDArray[np.float64]) -> list[float]:
    return [float(f"{one:.5g}") for one in numbers]


def load(picture: bytes) -> Image.Image:
    return open_picture(picture).convert("RGB")


def encoded(image: Image.Image, kind: str, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return file.getvalue()


def as_file(random: Random, image: Image.Image) -> bytes:
    """As people pass pictures on: some made smaller, some as JPEG of any quality."""
    if random.random() < 0.3:
        scale = random.uniform(0.4, 0.9)
        size = max(60, int(image.width * scale)), max(60, int(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if random.random() < 0.6:
        return encoded(image, "JPEG", int(random.integers(50, 95)))
    return encoded(image, "PNG")


# --- words and colours ---------------------------------------------------------------------------


def font(random: Random, size: float, among: list[Path] = FONTS) -> Font:
    path = among[int(random.integers(len(among)))]
    return ImageFont.truetype(str(path), max(7, round(size)))


def words(random: Random, count: int) -> str:
    return " ".join(random.choice(WORDS, max(1, count)))


def fitting(random: Random, type: Font, width: float, share: float = 1.0) -> str:
    """Words that fill a line of `width` pixels, or a share of it."""
    text = words(random, int(width / (4 * type.size)) + 1)
    while len(text) > 3 and type.getlength(text) > max(width * share, 20):
        text = text[:-3]
    return text


def lines(text: str, type: Font, width: float) -> list[str]:
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if type.getlength(longer) > width and found[-1]:
            found.append(word)
        else:
            found[-1] = longer
    return found


def colour(random: Random, low: int, high: int) -> Colour:
    return tuple(random.integers(low, high, 3).tolist())


def grey(random: Random, low: int, high: int) -> Colour:
    return (int(random.integers(low, high)),) * 3


def shifted(one: Colour, by: float) -> Colour:
    return tuple(int(np.clip(part + by, 0, 255)) for part in one)


# --- screens -------------------------------------------------------------------------------------


def screenshot(random: Random, photo: Photo) -> Image.Image:
    """A window or a telephone's screen with bars, and panels of all kinds of content."""
    width, height = SCREENS[int(random.integers(len(SCREENS)))]
    if random.random() < 0.25:
        width, height = int(random.integers(300, 1500)), int(random.integers(250, 1000))
    scale = min(1.0, 1100 / max(width, height))
    width, height = int(width * scale), int(height * scale)
    screen = Screen(random, photo, Image.new("RGB", (width, height)))
    top, left = 0, 0
    if random.random() < 0.8:
        top = int(random.integers(20, 64))
        screen.bar(top)
    if width > height and random.random() < 0.6:
        left = int(width * random.uniform(0.1, 0.3))
        screen.panel((0, top, left, height), 2)
    screen.panel((left, top, width, height))
    if random.random() < 0.3:  # a dialog
        w, h = int(width * random.uniform(0.3, 0.6)), int(height * random.uniform(0.2, 0.5))
        x, y = int(random.integers(0, width - w)), int(random.integers(0, height - h))
        box = (x, y, x + w, y + h)
        screen.draw.rounded_rectangle(box, 10, screen.ground, screen.accent)
        screen.panel(box, 2)
    if random.random() < 0.4:
        box = (0, height - int(random.integers(20, 50)), width, height)
        screen.draw.rectangle(box, shifted(screen.ground, -20))
    return screen.image


class Screen:
    """A screen in one theme, light or dark."""

    def __init__(self, random: Random, photo: Photo, image: Image.Image) -> None:
        self.random, self.photo, self.image = random, photo, image
        self.draw = ImageDraw.Draw(image)
        light = random.random() < 0.6
        self.ground = grey(random, 238, 256) if light else grey(random, 10, 56)
        self.ink = grey(random, 0, 90) if light else grey(random, 170, 250)
        self.accent = colour(random, 30, 220) if light else colour(random, 90, 255)
        self.draw.rectangle((0, 0, *image.size), self.ground)

    def bar(self, height: int) -> None:
        plain = self.random.random() < 0.5
        fill = shifted(self.ground, -12) if plain else self.accent
        self.draw.rectangle((0, 0, self.image.width, height), fill)
        type, x = font(self.random, min(16, height / 2)), 10
        while x < self.image.width - 80 and self.random.random() < 0.85:
            self.draw.text((x, height / 4), words(self.random, 1), self.ink, type)
            x += int(self.random.integers(60, 160))

    def panel(self, box: Box, depth: int = 0) -> None:
        """Fill a box with content; the first two times it may be split."""
        width, height = box[2] - box[0], box[3] - box[1]
        if width < 60 or height < 40:
            return
        contents = [self.text, self.code, self.rows, self.table, self.form]
        contents += [self.cards, self.picture] if depth < 2 else []
        splits = 2 if depth < 2 else 0
        choice = int(self.random.integers(len(contents) + splits + 1))
        if self.random.random() < 0.4:
            self.draw.rectangle(box, shifted(self.ground, float(self.random.integers(-14, 15))))
        if choice < len(contents):
            edge = int(self.random.integers(4, 20))
            inner = (box[0] + edge, box[1] + edge, box[2] - edge, box[3] - edge)
            contents[choice](inner, font(self.random, int(self.random.integers(9, 17))))
        elif choice < len(contents) + splits:
            self.split(box, depth)

    def split(self, box: Box, depth: int) -> None:
        left, top, right, bottom = box
        part = self.random.uniform(0.2, 0.8)
        if self.random.random() < 0.5:
            middle = left + int((right - left) * part)
            self.draw.line((middle, top, middle, bottom), shifted(self.ground, -24))
            self.panel((left, top, middle, bottom), depth + 1)
            self.panel((middle + 1, top, right, bottom), depth + 1)
        else:
            middle = top + int((bottom - top) * part)
            self.panel((left, top, right, middle), depth + 1)
            self.panel((left, middle, right, bottom), depth + 1)

    def text(self, box: Box, type: Font, code: bool = False) -> None:
        step, y = int(type.size * self.random.uniform(1.4, 2.4)), box[1]
        while y < box[3] - step:
            indent = int(self.random.integers(0, 4)) * 2 * int(type.size) if code else 0
            coloured = code and self.random.random() < 0.5
            fill = colour(self.random, 60, 240) if coloured else self.ink
            share = self.random.uniform(0.2, 1) if code else self.random.uniform(0.7, 1)
            line = fitting(self.random, type, box[2] - box[0] - indent, share)
            self.draw.text((box[0] + indent, y), line, fill, type)
            y += 2 * step if self.random.random() < 0.12 else step
            if self.random.random() < 0.03:
                break

    def code(self, box: Box, type: Font) -> None:
        self.text(box, type, code=True)

    def rows(self, box: Box, type: Font) -> None:
        size, y = int(type.size), box[1]
        step, ruled = int(size * self.random.uniform(1.8, 4)), self.random.random() < 0.3
        while y < box[3] - step:
            self.draw.ellipse((box[0], y, box[0] + size, y + size), colour(self.random, 40, 230))
            share = self.random.uniform(0.2, 0.9)
            line = fitting(self.random, type, box[2] - box[0] - 2 * size, share)
            self.draw.text((box[0] + 2 * size, y), line, self.ink, type)
            if ruled:
                under = (box[0], y + step - 3, box[2], y + step - 3)
                self.draw.line(under, shifted(self.ground, -14))
            y += step

    def table(self, box: Box, type: Font) -> None:
        wide, high = int(self.random.integers(50, 140)), int(type.size * 1.8)
        for y in range(box[1], box[3] - high, high):
            for x in range(box[0], box[2] - wide, wide):
                number = str(self.random.integers(0, 9999))
                text = number if self.random.random() < 0.5 else fitting(self.random, type, wide)
                if self.random.random() < 0.7:
                    self.draw.text((x + 3, y), text, self.ink, type)
                cell = (x, y - 3, x + wide, y + high - 3)
                self.draw.rectangle(cell, outline=shifted(self.ground, -35))

    def cards(self, box: Box, type: Font) -> None:
        wide = int(self.random.integers(70, 220))
        high = int(wide * self.random.uniform(0.6, 1.4))
        for y in range(box[1], box[3] - high, high):
            for x in range(box[0], box[2] - wide, wide):
                if self.random.random() < 0.5:
                    self.image.paste(self.photo().resize((wide - 10, high - 10)), (x, y))
                else:
                    card = (x, y, x + wide - 10, y + high - 10)
                    self.draw.rounded_rectangle(card, 8, shifted(self.ground, -10))
                    line = fitting(self.random, type, wide - 20)
                    self.draw.text((x + 6, y + 6), line, self.ink, type)

    def picture(self, box: Box, type: Font) -> None:
        size = max(4, box[2] - box[0]), max(4, box[3] - box[1])
        self.image.paste(self.photo().resize(size), box[:2])

    def form(self, box: Box, type: Font) -> None:
        size, outline = int(type.size), shifted(self.ground, 128 - self.ground[0])
        for y in range(box[1], box[3] - 4 * size, int(4.4 * size)):
            line = fitting(self.random, type, box[2] - box[0], 0.4)
            self.draw.text((box[0], y), line, self.ink, type)
            right = box[0] + int((box[2] - box[0]) * 0.7)
            field = (box[0], y + int(1.4 * size), right, y + int(3.2 * size))
            self.draw.rectangle(field, outline=outline)
        button = (box[0], box[3] - 2 * size, box[0] + 90, box[3])
        self.draw.rounded_rectangle(button, 5, self.accent)


# --- paper ---------------------------------------------------------------------------------------


def document(random: Random, photo: Photo) -> Image.Image:
    """A page of print, scanned straight or a little askew, or photographed."""
    shape = random.choice([1.414, 1.414, 1.414, 1.294, 1.25, 1.5, 0.707])
    image = page(random, 850, int(850 * shape))
    if random.random() < 0.3:
        image = image.rotate(float(random.normal(0, 1.2)), fillcolor=grey(random, 150, 255))
    if random.random() < 0.25:
        ground = under(random, photo, (1000, int(1000 * shape)), 6)
        scale = random.uniform(0.8, 0.97)
        sheet = image.resize((int(ground.width * scale), int(ground.height * scale)))
        image = lit(random, laid(ground, sheet, float(random.normal(0, 3)), (0.5, 0.5)))
    elif random.random() < 0.4:
        image = lit(random, image)
    return softened(random, image)


def page(random: Random, width: int, height: int) -> Image.Image:
    """A heading, perhaps an address, and paragraphs, tables and headings in one or two columns."""
    image = Image.new("RGB", (width, height), grey(random, 243, 256))
    draw, ink = ImageDraw.Draw(image), grey(random, 0, 70)
    margin, size = width * random.uniform(0.06, 0.15), width * random.uniform(0.014, 0.024)
    type, step = font(random, size), size * random.uniform(1.2, 1.9)
    top = margin * random.uniform(0.5, 1.3)
    if random.random() < 0.7:
        large = font(random, size * random.uniform(1.4, 2.4))
        left = margin if random.random() < 0.5 else width * 0.3
        draw.text((left, top), words(random, int(random.integers(1, 5))).title(), ink, large)
        top += 4 * size
    if random.random() < 0.3:
        left = margin if random.random() < 0.7 else width * 0.6
        for _ in range(int(random.integers(2, 6))):
            draw.text((left, top), words(random, 3), ink, type)
            top += step
        top += step
    columns = 2 if random.random() < 0.25 else 1
    wide = (width - 2 * margin - (columns - 1) * margin * 0.4) / columns
    end = height - margin * random.uniform(0.6, 4)
    for column in range(columns):
        x, y = margin + column * (wide + margin * 0.4), top
        while y < end:
            kind = random.random()
            if kind < 0.75:
                for _ in range(min(int(random.integers(2, 9)), int((end - y) / step) + 1)):
                    draw.text((x, y), fitting(random, type, wide), ink, type)
                    y += step
                y += step * random.uniform(0.3, 1.5)
            elif kind < 0.87:
                cells = int(random.integers(2, 6))
                for _ in range(int(random.integers(3, 9))):
                    for place in range(cells):
                        left = x + place * wide / cells
                        cell = (left, y, left + wide / cells, y + step * 1.2)
                        draw.rectangle(cell, outline=(120, 120, 120))
                        draw.text((left + 3, y + 2), str(random.integers(0, 5000)), ink, type)
                    y += step * 1.2
                y += step
            else:
                draw.text((x, y), words(random, 3).title(), ink, font(random, size * 1.25))
                y += step * 1.6
    return image


def receipt(random: Random, photo: Photo) -> Image.Image:
    """A narrow strip with a shop, prices and a sum, mostly lying on something."""
    width, count = int(random.integers(260, 420)), int(random.integers(5, 32))
    size = width * random.uniform(0.04, 0.06)
    type = font(random, size, MONO if random.random() < 0.7 else FONTS)
    step, ink = size * random.uniform(1.2, 1.7), grey(random, 20, 100)
    strip = Image.new("RGB", (width, int(step * (count + 18))), grey(random, 228, 253))
    draw, y = ImageDraw.Draw(strip), size
    shop = f"{words(random, 1).upper()} {random.choice(['SHOP', 'MARKET', 'CAFE', 'STORE'])}"
    draw.text((width / 2, y), shop, ink, font(random, size * 1.5), "ma")
    y += 2 * step

    def line(left: str, right: str = "", type: Font = type) -> None:
        nonlocal y
        if right:
            draw.text((width * 0.05, y), left, ink, type)
            draw.text((width * 0.95, y), right, ink, type, "ra")
        else:
            draw.text((width / 2, y), left, ink, type, "ma")
        y += step

    for _ in range(int(random.integers(1, 5))):
        line(words(random, 2))
    line("-" * 24)
    prices = random.uniform(0.3, 60, count)
    for price in prices:
        line(words(random, 2)[:16], f"{price:.2f}")
    line("-" * 24)
    line("TOTAL", f"{prices.sum():.2f}", font(random, size * random.uniform(1, 1.6)))
    for _ in range(int(random.integers(0, 4))):
        line(words(random, 3))
    if random.random() < 0.4:  # a bar code
        x = width * 0.2
        while x < width * 0.8:
            bar = int(random.integers(1, 4))
            draw.rectangle((x, y, x + bar, y + 1.5 * step), ink)
            x += bar + int(random.integers(1, 4))
    strip = strip.crop((0, 0, width, int(min(strip.height, y + 2 * step))))
    if random.random() < 0.2:
        return strip
    size2 = int(width * random.uniform(1.1, 2.6)), int(strip.height * random.uniform(1.02, 1.3))
    ground = under(random, photo, size2, 12)
    where = random.uniform(0.3, 0.7), random.uniform(0.2, 0.8)
    return softened(random, lit(random, laid(ground, strip, float(random.normal(0, 6)), where)))


def under(random: Random, photo: Photo, size: tuple[int, int], blur: float) -> Image.Image:
    """What paper lies on."""
    if random.random() < 0.45:
        return Image.new("RGB", size, colour(random, 20, 190))
    soft = ImageFilter.GaussianBlur(float(random.uniform(0, blur)))
    return photo().resize(size).filter(soft)


def laid(
    ground: Image.Image, paper: Image.Image, angle: float, where: tuple[float, float]
) -> Image.Image:
    mask = Image.new("L", paper.size, 255).rotate(angle, expand=True)
    turned = paper.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    room = ground.width - turned.width, ground.height - turned.height
    ground.paste(turned, (int(room[0] * where[0]), int(room[1] * where[1])), mask)
    return ground


def lit(random: Random, image: Image.Image) -> Image.Image:
    """In uneven and perhaps yellowish light, with noise."""
    pixels = np.asarray(image, np.float32)
    height, width = pixels.shape[:2]
    x, y = np.linspace(-1, 1, width)[None, :, None], np.linspace(-1, 1, height)[:, None, None]
    light = (1 + random.normal(0, 0.12) * x + random.normal(0, 0.12) * y) * random.uniform(0.78, 1)
    tint = np.array([1, random.uniform(0.95, 1.01), random.uniform(0.85, 1.02)])
    noise = random.normal(0, random.uniform(0, 4), (height, width, 1))
    return Image.fromarray(np.clip(pixels * light * tint + noise, 0, 255).astype(np.uint8))


def softened(random: Random, image: Image.Image) -> Image.Image:
    if random.random() < 0.8:
        return image
    return image.filter(ImageFilter.GaussianBlur(float(random.uniform(0.5, 1.5))))


# --- memes, and what is none of all that ---------------------------------------------------------


def meme(random: Random, photo: Photo) -> Image.Image:
    """A photograph with white capitals edged in black, or with a bar of words."""
    width = int(random.integers(400, 900))
    height = int(width * random.uniform(0.6, 1.4))
    image = photo().resize((width, height))
    if random.random() < 0.65:
        draw, type = ImageDraw.Draw(image), font(random, width * random.uniform(0.06, 0.12), BOLD)
        edge = int(max(2, type.size * random.uniform(0.05, 0.1)))
        which = random.choice(["both", "both", "top", "bottom"])
        for side, y, step, anchor in (
            ("top", height * 0.02, 1.1 * type.size, "ma"),
            ("bottom", height * 0.98, -1.1 * type.size, "md"),
        ):
            text = words(random, int(random.integers(2, 7))).upper()
            rows = lines(text, type, width * 0.94)[:2]
            for row in (rows if side == "top" else rows[::-1]) if which in ("both", side) else ():
                centre = (width / 2, y)
                draw.text(
                    centre, row, "white", type, anchor, stroke_width=edge, stroke_fill="black"
                )
                y += step
        return image
    type = font(random, width * random.uniform(0.045, 0.08))
    rows = lines(words(random, int(random.integers(4, 14))), type, width * 0.92)[:4]
    bar = int(type.size * (1.3 * len(rows) + 1))
    dark, top = random.random() < 0.15, random.random() < 0.8
    framed = Image.new("RGB", (width, height + bar), "black" if dark else "white")
    framed.paste(image, (0, bar if top else 0))
    draw = ImageDraw.Draw(framed)
    for number, row in enumerate(rows):
        y = (0 if top else height) + type.size * (0.5 + 1.3 * number)
        draw.text((width * 0.04, y), row, "white" if dark else "black", type)
    return framed


def drawing(random: Random, photo: Photo) -> Image.Image:
    width, height = random.integers(250, 800, 2).tolist()
    ground = colour(random, 120, 256) if random.random() < 0.5 else (255, 255, 255)
    image = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(1, 30))):
        x, y = int(random.integers(0, width)), int(random.integers(0, height))
        box = (x, y, x + int(random.integers(10, width // 2)), y + int(random.integers(10, 200)))
        points = [tuple(random.integers(0, (width, height)).tolist()) for _ in range(4)]
        fill, outline = colour(random, 0, 256), "black" if random.random() < 0.5 else None
        kind = int(random.integers(4))
        if kind == 0:
            draw.ellipse(box, fill, outline)
        elif kind == 1:
            draw.rectangle(box, fill, outline)
        elif kind == 2:
            draw.polygon(points, fill, outline)
        else:
            draw.line(points, fill, int(random.integers(1, 9)))
    return image


def on_white(random: Random, photo: Photo) -> Image.Image:
    thing = photo()
    size = int(thing.width * random.uniform(1.1, 2)), int(thing.height * random.uniform(1.1, 2))
    image = Image.new("RGB", size, grey(random, 235, 256))
    mask = Image.new("L", thing.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, *thing.size), 255)
    image.paste(thing, ((size[0] - thing.width) // 2, (size[1] - thing.height) // 2), mask)
    return image


def with_a_sign(random: Random, photo: Photo) -> Image.Image:
    width, height = random.integers(300, 800, 2).tolist()
    image = photo().resize((width, height))
    draw, type = ImageDraw.Draw(image), font(random, int(random.integers(12, 60)))
    x, y = int(random.integers(0, width // 2)), int(random.integers(height // 4, 2 * height // 3))
    text = words(random, 2)
    if random.random() < 0.6:
        box = (x - 10, y - 10, x + type.getlength(text) + 10, y + 1.5 * type.size)
        draw.rectangle(box, colour(random, 0, 256))
    draw.text((x, y), text, colour(random, 0, 256), type)
    return image


Draw = Callable[[Random, Photo], Image.Image]
DRAWN: dict[str, Draw] = {
    "screenshot": screenshot,
    "document": document,
    "receipt": receipt,
    "meme": meme,
}
TAKEN_FOR_THEM: dict[str, Draw] = {
    "drawing": drawing,
    "on white": on_white,
    "with a sign": with_a_sign,
}

if __name__ == "__main__":
    main()
