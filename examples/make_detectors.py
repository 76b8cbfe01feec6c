"""Fit the rules of the detectors on drawn pictures and on photographs.

    python examples/make_detectors.py ../shared/data

Draws screenshots, documents, receipts and memes with many layouts, fonts and colours, and pictures
that resemble them: drawings, things on white or black, photographs with a sign. The photographs are
those of flickr8k-train and imagenet-sample-1k, some of them enlarged. For each detector it fits a
logistic curve over the facts of `twotower.tagging.pixel_facts` and the deviations of the bundled
models. Writes twotower/tagging/detectors.json. benchmarks/quality/detectors.py tests them on other
pictures.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import twotower
from twotower.arrays import BoolArray, Float64Array
from twotower.calibration.background import background_texts
from twotower.calibration.calibration import read_calibration
from twotower.inputs.pictures import open_picture
from twotower.pairs.sources import open_source
from twotower.tagging.detectors import MAX_DEVIATION, RULES_FILE, SENTENCES
from twotower.tagging.pixel_facts import measure

POSITIVES = 500  # pictures of each detector
NEGATIVES = 250  # drawings of each other kind
PHOTOGRAPHS = 700  # of Flickr8k
MODELS = ("small", "base")
RIDGE = 1.0  # penalty on the weights of standardised facts
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
    for kind, draw in {**DETECTED, **SIMILAR}.items():
        for number in range(POSITIVES if kind in DETECTED else NEGATIVES):
            picture_random = np.random.default_rng([number, *kind.encode()])
            pictures.append(encode_randomly(picture_random, draw(picture_random, photo)))
            kinds.append(kind)
        print(f"{kind} drawn")
    named = open_source(data / "imagenet-sample-1k")
    for image in [*photographs, *(load(named[number].picture) for number in range(len(named)))]:
        scale = random.uniform(1.5, 3.5) if random.random() < 0.4 else 1.0
        width, height = scale * image.width, scale * image.height * random.uniform(0.8, 1.3)
        resized = image.resize((round(width), round(height)), Image.Resampling.BICUBIC)
        pictures.append(encode(resized, "PNG"))
        kinds.append("photograph")
    facts = measure_facts(pictures)
    mean, sd = facts.mean(axis=0), facts.std(axis=0) + 1e-6
    standardised = np.clip((facts - mean) / sd, -MAX_DEVIATION, MAX_DEVIATION)
    weights = {kind: fit(standardised, np.array(kinds) == kind) for kind in DETECTED}
    for kind, rule in weights.items():
        detected = standardised @ rule[:-1] + rule[-1] > 0
        positive = np.array(kinds) == kind
        recall, false_positives = detected[positive].mean(), detected[~positive].mean()
        print(f"{kind}: recall {recall:.3f}, false positives {false_positives:.4f}")
    rules = {
        "mean": rounded(mean),
        "sd": rounded(sd),
        "weights": {kind: rounded(rule) for kind, rule in weights.items()},
    }
    RULES_FILE.write_text(json.dumps(rules, indent=1) + "\n", encoding="utf-8")


def measure_facts(pictures: list[bytes]) -> Float64Array:
    """Return pixel facts, and deviations of the similarity to the sentences [n, facts].

    The bundled models encode every other picture each: the rules hold for both.
    """
    deviations = np.zeros((len(pictures), len(SENTENCES)))
    for turn, name in enumerate(MODELS):
        model = twotower.load(name)
        calibration = read_calibration(model)
        assert calibration is not None
        sentences = model.encode_text(list(SENTENCES))
        image_embeds = model.encode_image(pictures[turn :: len(MODELS)])
        background = calibration.background
        deviations[turn :: len(MODELS)] = background.deviations(sentences, image_embeds)
    return np.column_stack([np.stack([measure(load(picture)) for picture in pictures]), deviations])


def fit(x: Float64Array, positive: BoolArray) -> Float64Array:
    """Return weights and a constant, by Newton's method.

    The steps are limited, because the kinds are nearly separable.
    """
    x = np.column_stack([x, np.ones(len(x))])
    ridge = np.full(x.shape[1], RIDGE)
    ridge[-1] = 1e-3
    weights = np.zeros(x.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(curvature, x.T @ (positive - p) - ridge * weights)
        weights += step * min(1.0, 4 / np.abs(step).max())
        if np.abs(step).max() < 1e-6:
            break
    return weights


def rounded(numbers: Float64Array) -> list[float]:
    return [float(f"{number:.5g}") for number in numbers]


def load(picture: bytes) -> Image.Image:
    return open_picture(picture).convert("RGB")


def encode(image: Image.Image, kind: str, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return file.getvalue()


def encode_randomly(random: Random, image: Image.Image) -> bytes:
    """Encode a picture as JPEG of any quality or as PNG, sometimes reduced."""
    if random.random() < 0.3:
        scale = random.uniform(0.4, 0.9)
        size = max(60, int(image.width * scale)), max(60, int(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if random.random() < 0.6:
        return encode(image, "JPEG", int(random.integers(50, 95)))
    return encode(image, "PNG")


# --- words and colours ---------------------------------------------------------------------------


def draw_font(random: Random, size: float, fonts: list[Path] = FONTS) -> Font:
    path = fonts[int(random.integers(len(fonts)))]
    return ImageFont.truetype(str(path), max(7, round(size)))


def draw_words(random: Random, count: int) -> str:
    return " ".join(random.choice(WORDS, max(1, count)))


def draw_line(random: Random, font: Font, width: float, share: float = 1.0) -> str:
    """Draw words that fill a line of `width` pixels, or a share of it."""
    text = draw_words(random, int(width / (4 * font.size)) + 1)
    while len(text) > 3 and font.getlength(text) > max(width * share, 20):
        text = text[:-3]
    return text


def wrap(text: str, font: Font, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def draw_colour(random: Random, low: int, high: int) -> Colour:
    return tuple(random.integers(low, high, 3).tolist())


def draw_grey(random: Random, low: int, high: int) -> Colour:
    return (int(random.integers(low, high)),) * 3


def shifted(colour: Colour, by: float) -> Colour:
    return tuple(int(np.clip(channel + by, 0, 255)) for channel in colour)


# --- screens -------------------------------------------------------------------------------------


def screenshot(random: Random, photo: Photo) -> Image.Image:
    """Draw a window or a phone screen with bars, and panels of all kinds of content."""
    width, height = SCREENS[int(random.integers(len(SCREENS)))]
    if random.random() < 0.25:
        width, height = int(random.integers(300, 1500)), int(random.integers(250, 1000))
    scale = min(1.0, 1100 / max(width, height))
    width, height = int(width * scale), int(height * scale)
    screen = Screen(random, photo, Image.new("RGB", (width, height)))
    bar_height, side_width = 0, 0
    if random.random() < 0.8:
        bar_height = int(random.integers(20, 64))
        screen.bar(bar_height)
    if width > height and random.random() < 0.6:
        side_width = int(width * random.uniform(0.1, 0.3))
        screen.panel((0, bar_height, side_width, height), 2)
    screen.panel((side_width, bar_height, width, height))
    if random.random() < 0.3:  # a dialog
        w, h = int(width * random.uniform(0.3, 0.6)), int(height * random.uniform(0.2, 0.5))
        x, y = int(random.integers(0, width - w)), int(random.integers(0, height - h))
        box = (x, y, x + w, y + h)
        screen.draw.rounded_rectangle(box, 10, screen.background, screen.accent)
        screen.panel(box, 2)
    if random.random() < 0.4:
        box = (0, height - int(random.integers(20, 50)), width, height)
        screen.draw.rectangle(box, shifted(screen.background, -20))
    return screen.image


class Screen:
    """Draws on a screen in a light or dark theme."""

    def __init__(self, random: Random, photo: Photo, image: Image.Image) -> None:
        self.random, self.photo, self.image = random, photo, image
        self.draw = ImageDraw.Draw(image)
        light = random.random() < 0.6
        self.background = draw_grey(random, 238, 256) if light else draw_grey(random, 10, 56)
        self.ink = draw_grey(random, 0, 90) if light else draw_grey(random, 170, 250)
        self.accent = draw_colour(random, 30, 220) if light else draw_colour(random, 90, 255)
        self.draw.rectangle((0, 0, *image.size), self.background)

    def bar(self, height: int) -> None:
        is_plain = self.random.random() < 0.5
        fill = shifted(self.background, -12) if is_plain else self.accent
        self.draw.rectangle((0, 0, self.image.width, height), fill)
        font, x = draw_font(self.random, min(16, height / 2)), 10
        while x < self.image.width - 80 and self.random.random() < 0.85:
            self.draw.text((x, height / 4), draw_words(self.random, 1), self.ink, font)
            x += int(self.random.integers(60, 160))

    def panel(self, box: Box, depth: int = 0) -> None:
        """Fill a box with content, or split it, up to twice."""
        width, height = box[2] - box[0], box[3] - box[1]
        if width < 60 or height < 40:
            return
        contents = [self.text, self.code, self.rows, self.table, self.form]
        contents += [self.cards, self.picture] if depth < 2 else []
        splits = 2 if depth < 2 else 0
        choice = int(self.random.integers(len(contents) + splits + 1))
        if self.random.random() < 0.4:
            self.draw.rectangle(box, shifted(self.background, float(self.random.integers(-14, 15))))
        if choice < len(contents):
            edge = int(self.random.integers(4, 20))
            inner = (box[0] + edge, box[1] + edge, box[2] - edge, box[3] - edge)
            contents[choice](inner, draw_font(self.random, int(self.random.integers(9, 17))))
        elif choice < len(contents) + splits:
            self.split(box, depth)

    def split(self, box: Box, depth: int) -> None:
        x0, y0, x1, y1 = box
        share = self.random.uniform(0.2, 0.8)
        if self.random.random() < 0.5:
            middle = x0 + int((x1 - x0) * share)
            self.draw.line((middle, y0, middle, y1), shifted(self.background, -24))
            self.panel((x0, y0, middle, y1), depth + 1)
            self.panel((middle + 1, y0, x1, y1), depth + 1)
        else:
            middle = y0 + int((y1 - y0) * share)
            self.panel((x0, y0, x1, middle), depth + 1)
            self.panel((x0, middle, x1, y1), depth + 1)

    def text(self, box: Box, font: Font, code: bool = False) -> None:
        step, y = int(font.size * self.random.uniform(1.4, 2.4)), box[1]
        while y < box[3] - step:
            indent = int(self.random.integers(0, 4)) * 2 * int(font.size) if code else 0
            coloured = code and self.random.random() < 0.5
            fill = draw_colour(self.random, 60, 240) if coloured else self.ink
            share = self.random.uniform(0.2, 1) if code else self.random.uniform(0.7, 1)
            line = draw_line(self.random, font, box[2] - box[0] - indent, share)
            self.draw.text((box[0] + indent, y), line, fill, font)
            y += 2 * step if self.random.random() < 0.12 else step
            if self.random.random() < 0.03:
                break

    def code(self, box: Box, font: Font) -> None:
        self.text(box, font, code=True)

    def rows(self, box: Box, font: Font) -> None:
        size, y = int(font.size), box[1]
        step, ruled = int(size * self.random.uniform(1.8, 4)), self.random.random() < 0.3
        while y < box[3] - step:
            self.draw.ellipse(
                (box[0], y, box[0] + size, y + size), draw_colour(self.random, 40, 230)
            )
            share = self.random.uniform(0.2, 0.9)
            line = draw_line(self.random, font, box[2] - box[0] - 2 * size, share)
            self.draw.text((box[0] + 2 * size, y), line, self.ink, font)
            if ruled:
                under = (box[0], y + step - 3, box[2], y + step - 3)
                self.draw.line(under, shifted(self.background, -14))
            y += step

    def table(self, box: Box, font: Font) -> None:
        wide, high = int(self.random.integers(50, 140)), int(font.size * 1.8)
        for y in range(box[1], box[3] - high, high):
            for x in range(box[0], box[2] - wide, wide):
                number = str(self.random.integers(0, 9999))
                text = number if self.random.random() < 0.5 else draw_line(self.random, font, wide)
                if self.random.random() < 0.7:
                    self.draw.text((x + 3, y), text, self.ink, font)
                cell = (x, y - 3, x + wide, y + high - 3)
                self.draw.rectangle(cell, outline=shifted(self.background, -35))

    def cards(self, box: Box, font: Font) -> None:
        wide = int(self.random.integers(70, 220))
        high = int(wide * self.random.uniform(0.6, 1.4))
        for y in range(box[1], box[3] - high, high):
            for x in range(box[0], box[2] - wide, wide):
                if self.random.random() < 0.5:
                    self.image.paste(self.photo().resize((wide - 10, high - 10)), (x, y))
                else:
                    card = (x, y, x + wide - 10, y + high - 10)
                    self.draw.rounded_rectangle(card, 8, shifted(self.background, -10))
                    line = draw_line(self.random, font, wide - 20)
                    self.draw.text((x + 6, y + 6), line, self.ink, font)

    def picture(self, box: Box, font: Font) -> None:
        size = max(4, box[2] - box[0]), max(4, box[3] - box[1])
        self.image.paste(self.photo().resize(size), box[:2])

    def form(self, box: Box, font: Font) -> None:
        size, outline = int(font.size), shifted(self.background, 128 - self.background[0])
        for y in range(box[1], box[3] - 4 * size, int(4.4 * size)):
            line = draw_line(self.random, font, box[2] - box[0], 0.4)
            self.draw.text((box[0], y), line, self.ink, font)
            x1 = box[0] + int((box[2] - box[0]) * 0.7)
            field = (box[0], y + int(1.4 * size), x1, y + int(3.2 * size))
            self.draw.rectangle(field, outline=outline)
        button = (box[0], box[3] - 2 * size, box[0] + 90, box[3])
        self.draw.rounded_rectangle(button, 5, self.accent)


# --- paper ---------------------------------------------------------------------------------------


def document(random: Random, photo: Photo) -> Image.Image:
    """Draw a printed page, scanned straight or slightly askew, or photographed."""
    shape = random.choice([1.414, 1.414, 1.414, 1.294, 1.25, 1.5, 0.707])
    image = page(random, 850, int(850 * shape))
    if random.random() < 0.3:
        image = image.rotate(float(random.normal(0, 1.2)), fillcolor=draw_grey(random, 150, 255))
    if random.random() < 0.25:
        table = draw_table_top(random, photo, (1000, int(1000 * shape)), 6)
        scale = random.uniform(0.8, 0.97)
        sheet = image.resize((int(table.width * scale), int(table.height * scale)))
        image = add_light(random, lay(table, sheet, float(random.normal(0, 3)), (0.5, 0.5)))
    elif random.random() < 0.4:
        image = add_light(random, image)
    return blur_randomly(random, image)


def page(random: Random, width: int, height: int) -> Image.Image:
    """Draw a heading, perhaps an address, and paragraphs, tables and headings in 1 or 2 columns."""
    image = Image.new("RGB", (width, height), draw_grey(random, 243, 256))
    draw, ink = ImageDraw.Draw(image), draw_grey(random, 0, 70)
    margin, size = width * random.uniform(0.06, 0.15), width * random.uniform(0.014, 0.024)
    font, step = draw_font(random, size), size * random.uniform(1.2, 1.9)
    y0 = margin * random.uniform(0.5, 1.3)
    if random.random() < 0.7:
        large = draw_font(random, size * random.uniform(1.4, 2.4))
        x = margin if random.random() < 0.5 else width * 0.3
        draw.text((x, y0), draw_words(random, int(random.integers(1, 5))).title(), ink, large)
        y0 += 4 * size
    if random.random() < 0.3:
        x = margin if random.random() < 0.7 else width * 0.6
        for _ in range(int(random.integers(2, 6))):
            draw.text((x, y0), draw_words(random, 3), ink, font)
            y0 += step
        y0 += step
    columns = 2 if random.random() < 0.25 else 1
    wide = (width - 2 * margin - (columns - 1) * margin * 0.4) / columns
    end = height - margin * random.uniform(0.6, 4)
    for column in range(columns):
        x, y = margin + column * (wide + margin * 0.4), y0
        while y < end:
            kind = random.random()
            if kind < 0.75:
                for _ in range(min(int(random.integers(2, 9)), int((end - y) / step) + 1)):
                    draw.text((x, y), draw_line(random, font, wide), ink, font)
                    y += step
                y += step * random.uniform(0.3, 1.5)
            elif kind < 0.87:
                cells = int(random.integers(2, 6))
                for _ in range(int(random.integers(3, 9))):
                    for cell in range(cells):
                        cell_x = x + cell * wide / cells
                        box = (cell_x, y, cell_x + wide / cells, y + step * 1.2)
                        draw.rectangle(box, outline=(120, 120, 120))
                        draw.text((cell_x + 3, y + 2), str(random.integers(0, 5000)), ink, font)
                    y += step * 1.2
                y += step
            else:
                draw.text(
                    (x, y), draw_words(random, 3).title(), ink, draw_font(random, size * 1.25)
                )
                y += step * 1.6
    return image


def receipt(random: Random, photo: Photo) -> Image.Image:
    """Draw a narrow strip with a shop, prices and a sum, mostly lying on a table."""
    width, count = int(random.integers(260, 420)), int(random.integers(5, 32))
    size = width * random.uniform(0.04, 0.06)
    font = draw_font(random, size, MONO if random.random() < 0.7 else FONTS)
    step, ink = size * random.uniform(1.2, 1.7), draw_grey(random, 20, 100)
    strip = Image.new("RGB", (width, int(step * (count + 18))), draw_grey(random, 228, 253))
    draw, y = ImageDraw.Draw(strip), size
    shop = f"{draw_words(random, 1).upper()} {random.choice(['SHOP', 'MARKET', 'CAFE', 'STORE'])}"
    draw.text((width / 2, y), shop, ink, draw_font(random, size * 1.5), "ma")
    y += 2 * step

    def line(text: str, price: str = "", font: Font = font) -> None:
        nonlocal y
        if price:
            draw.text((width * 0.05, y), text, ink, font)
            draw.text((width * 0.95, y), price, ink, font, "ra")
        else:
            draw.text((width / 2, y), text, ink, font, "ma")
        y += step

    for _ in range(int(random.integers(1, 5))):
        line(draw_words(random, 2))
    line("-" * 24)
    prices = random.uniform(0.3, 60, count)
    for price in prices:
        line(draw_words(random, 2)[:16], f"{price:.2f}")
    line("-" * 24)
    line("TOTAL", f"{prices.sum():.2f}", draw_font(random, size * random.uniform(1, 1.6)))
    for _ in range(int(random.integers(0, 4))):
        line(draw_words(random, 3))
    if random.random() < 0.4:  # a bar code
        x = width * 0.2
        while x < width * 0.8:
            bar = int(random.integers(1, 4))
            draw.rectangle((x, y, x + bar, y + 1.5 * step), ink)
            x += bar + int(random.integers(1, 4))
    strip = strip.crop((0, 0, width, int(min(strip.height, y + 2 * step))))
    if random.random() < 0.2:
        return strip
    table_size = (
        int(width * random.uniform(1.1, 2.6)),
        int(strip.height * random.uniform(1.02, 1.3)),
    )
    table = draw_table_top(random, photo, table_size, 12)
    position = random.uniform(0.3, 0.7), random.uniform(0.2, 0.8)
    laid = lay(table, strip, float(random.normal(0, 6)), position)
    return blur_randomly(random, add_light(random, laid))


def draw_table_top(random: Random, photo: Photo, size: tuple[int, int], blur: float) -> Image.Image:
    """Draw the background that paper lies on: one colour, or a blurred photograph."""
    if random.random() < 0.45:
        return Image.new("RGB", size, draw_colour(random, 20, 190))
    soft = ImageFilter.GaussianBlur(float(random.uniform(0, blur)))
    return photo().resize(size).filter(soft)


def lay(
    table: Image.Image, paper: Image.Image, angle: float, position: tuple[float, float]
) -> Image.Image:
    """Paste rotated paper on a table, at a position from 0 to 1 in both directions."""
    mask = Image.new("L", paper.size, 255).rotate(angle, expand=True)
    turned = paper.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    margin = table.width - turned.width, table.height - turned.height
    table.paste(turned, (int(margin[0] * position[0]), int(margin[1] * position[1])), mask)
    return table


def add_light(random: Random, image: Image.Image) -> Image.Image:
    """Add uneven, perhaps yellowish light, and noise."""
    pixels = np.asarray(image, np.float32)
    height, width = pixels.shape[:2]
    x, y = np.linspace(-1, 1, width)[None, :, None], np.linspace(-1, 1, height)[:, None, None]
    light = (1 + random.normal(0, 0.12) * x + random.normal(0, 0.12) * y) * random.uniform(0.78, 1)
    tint = np.array([1, random.uniform(0.95, 1.01), random.uniform(0.85, 1.02)])
    noise = random.normal(0, random.uniform(0, 4), (height, width, 1))
    return Image.fromarray(np.clip(pixels * light * tint + noise, 0, 255).astype(np.uint8))


def blur_randomly(random: Random, image: Image.Image) -> Image.Image:
    if random.random() < 0.8:
        return image
    return image.filter(ImageFilter.GaussianBlur(float(random.uniform(0.5, 1.5))))


# --- memes, and similar pictures that are not detected -------------------------------------------


def meme(random: Random, photo: Photo) -> Image.Image:
    """Draw a photograph with white capitals edged in black, or with a bar of words."""
    width = int(random.integers(400, 900))
    height = int(width * random.uniform(0.6, 1.4))
    image = photo().resize((width, height))
    if random.random() < 0.65:
        draw, font = (
            ImageDraw.Draw(image),
            draw_font(random, width * random.uniform(0.06, 0.12), BOLD),
        )
        edge = int(max(2, font.size * random.uniform(0.05, 0.1)))
        sides = random.choice(["both", "both", "top", "bottom"])
        for side, y, step, anchor in (
            ("top", height * 0.02, 1.1 * font.size, "ma"),
            ("bottom", height * 0.98, -1.1 * font.size, "md"),
        ):
            text = draw_words(random, int(random.integers(2, 7))).upper()
            rows = wrap(text, font, width * 0.94)[:2]
            for row in (rows if side == "top" else rows[::-1]) if sides in ("both", side) else ():
                centre = (width / 2, y)
                draw.text(
                    centre, row, "white", font, anchor, stroke_width=edge, stroke_fill="black"
                )
                y += step
        return image
    font = draw_font(random, width * random.uniform(0.045, 0.08))
    rows = wrap(draw_words(random, int(random.integers(4, 14))), font, width * 0.92)[:4]
    bar = int(font.size * (1.3 * len(rows) + 1))
    dark, bar_above = random.random() < 0.15, random.random() < 0.8
    framed = Image.new("RGB", (width, height + bar), "black" if dark else "white")
    framed.paste(image, (0, bar if bar_above else 0))
    draw = ImageDraw.Draw(framed)
    for number, row in enumerate(rows):
        y = (0 if bar_above else height) + font.size * (0.5 + 1.3 * number)
        draw.text((width * 0.04, y), row, "white" if dark else "black", font)
    return framed


def drawing(random: Random, photo: Photo) -> Image.Image:
    width, height = random.integers(250, 800, 2).tolist()
    background = draw_colour(random, 120, 256) if random.random() < 0.5 else (255, 255, 255)
    image = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(1, 30))):
        x, y = int(random.integers(0, width)), int(random.integers(0, height))
        box = (x, y, x + int(random.integers(10, width // 2)), y + int(random.integers(10, 200)))
        points = [tuple(random.integers(0, (width, height)).tolist()) for _ in range(4)]
        fill, outline = draw_colour(random, 0, 256), "black" if random.random() < 0.5 else None
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


def on_plain(random: Random, photo: Photo) -> Image.Image:
    """Draw a round thing on white or black, such as a fruit or a planet; edges may cut it."""
    thing = photo()
    size = int(thing.width * random.uniform(1.1, 2)), int(thing.height * random.uniform(1.1, 2))
    shade = draw_grey(random, 235, 256) if random.random() < 0.5 else draw_grey(random, 0, 16)
    image = Image.new("RGB", size, shade)
    mask = Image.new("L", thing.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, *thing.size), 255)
    x, y = (int(random.uniform(-0.3, 0.5) * side) for side in thing.size)
    image.paste(thing, (x, y), mask)
    return image


def with_a_sign(random: Random, photo: Photo) -> Image.Image:
    width, height = random.integers(300, 800, 2).tolist()
    image = photo().resize((width, height))
    draw, font = ImageDraw.Draw(image), draw_font(random, int(random.integers(12, 60)))
    x, y = int(random.integers(0, width // 2)), int(random.integers(height // 4, 2 * height // 3))
    text = draw_words(random, 2)
    if random.random() < 0.6:
        box = (x - 10, y - 10, x + font.getlength(text) + 10, y + 1.5 * font.size)
        draw.rectangle(box, draw_colour(random, 0, 256))
    draw.text((x, y), text, draw_colour(random, 0, 256), font)
    return image


Draw = Callable[[Random, Photo], Image.Image]
DETECTED: dict[str, Draw] = {
    "screenshot": screenshot,
    "document": document,
    "receipt": receipt,
    "meme": meme,
}
SIMILAR: dict[str, Draw] = {
    "drawing": drawing,
    "on plain": on_plain,
    "with a sign": with_a_sign,
}

if __name__ == "__main__":
    main()
