"""The shipped detectors, on pictures made here and on photographs.

    python benchmarks/detectors.py ../shared/data

Screenshots, documents, receipts and memes are drawn (a real one of each kind varies far more: this
says whether the detector works at all), blurred ones are photographs of flickr8k-val under a
Gaussian blur, black ones the same at a fiftieth of the light. The negatives are the photographs as
they are, and the other drawn kinds. Writes results/detectors.csv and the table in docs/tagging.md.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import twotower
from twotower.inputs.pictures import open_picture
from twotower.library.calibrate import read_calibration
from twotower.library.detectors import judge_pixels, measure
from twotower.library.labelled import read_captioned
from twotower.library.tag_vectors import sentence_vectors, tag_vectors
from twotower.library.tags import Words
from twotower.library.vocabulary import Tag, read_vocabulary
from twotower.pairs.sources import open_source

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "detectors.csv"
PAGE = HERE.parent / "docs" / "tagging.md"
MARKS = "<!-- written by benchmarks/detectors.py -->", "<!-- until here, detectors -->"
EACH = 40
PHOTOGRAPHS = 200
PRECISION = 0.9
COLUMNS = ("detector", "pictures of it", "others", "average precision", "found", "of others taken")

Random = np.random.Generator


def main() -> None:
    source = open_source(Path(sys.argv[1]) / "flickr8k-val")
    step = len(source) // PHOTOGRAPHS
    photos = [open_picture(source[i * step].picture).convert("RGB") for i in range(PHOTOGRAPHS)]
    drawn = {
        name: [draw(np.random.default_rng(seed), photos[seed]) for seed in range(EACH)]
        for name, draw in DRAWN.items()
    }
    rows = [COLUMNS, *by_words(photos, drawn), *by_pixels(photos)]
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    table = ["| " + " | ".join(row) + " |" for row in rows]
    table.insert(1, "|" + "---|" * len(COLUMNS))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    text = f"{before}{MARKS[0]}\n\n" + "\n".join(table) + f"\n\n{MARKS[1]}{after}"
    PAGE.write_text(text, encoding="utf-8")


def by_words(
    photos: list[Image.Image], drawn: dict[str, list[Image.Image]]
) -> list[tuple[str, ...]]:
    model = twotower.load()
    calibration = read_calibration(model.directory)
    assert calibration is not None and calibration.tags is not None
    vocabulary = read_vocabulary()
    tags: list[Tag] = [tag for name in drawn if (tag := vocabulary.find(name))]
    negatives = [text for tag in tags for text in tag.negatives]
    places = [place for place, tag in enumerate(tags) for _ in tag.negatives]
    words = Words(
        calibration.tags,
        tag_vectors(model, tags),
        sentence_vectors(model, negatives),
        np.array(places),
    )
    pictures = [*photos, *(one for some in drawn.values() for one in some)]
    kinds = np.array([""] * len(photos) + [name for name in drawn for _ in range(EACH)])
    p = 1 / (1 + np.exp(-words.logits(model.encode_image(pictures))))
    cutoff = calibration.tags.cutoff(PRECISION)
    return [row(tag.name, p[:, i], kinds == tag.name, cutoff) for i, tag in enumerate(tags)]


def by_pixels(photos: list[Image.Image]) -> list[tuple[str, ...]]:
    sharp = [measure(one) for one in photos]
    rows = []
    for share in (100, 50, 25):
        soft = [
            measure(one.filter(ImageFilter.GaussianBlur(max(one.size) / share))) for one in photos
        ]
        p = 1 / (1 + np.exp(-judge_pixels("blurry", np.array(sharp + soft))))
        true = np.arange(len(p)) >= len(sharp)
        rows.append(row(f"blurry (by 1/{share} of the side)", p, true, 0.5))
    dark = [measure(one.point(lambda value: value // 50)) for one in photos]
    p = 1 / (1 + np.exp(-judge_pixels("black", np.array(sharp + dark))))
    return [*rows, row("black picture", p, np.arange(len(p)) >= len(sharp), 0.5)]


def row(
    name: str, p: NDArray[np.float64], true: NDArray[np.bool_], cutoff: float
) -> tuple[str, ...]:
    hits = true[np.argsort(-p, kind="stable")]
    precision = (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()
    given = p >= cutoff
    shares = precision, given[true].mean(), given[~true].mean()
    return (name, str(true.sum()), str((~true).sum()), *(f"{one:.3f}" for one in shares))


# --- what is drawn -------------------------------------------------------------------------------

WORDS = sorted({name for name, _ in read_captioned()})


def text(random: Random, count: int) -> str:
    return " ".join(random.choice(WORDS, count))


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def screenshot(random: Random, photo: Image.Image) -> Image.Image:
    """A window with a bar, a side list, rows of text and perhaps a picture; or a phone's."""
    phone = random.random() < 0.4
    image = Image.new("RGB", (390, 800) if phone else (1280, 800), (246, 246, 248))
    draw = ImageDraw.Draw(image)
    bar = tuple(random.integers(20, 250, 3).tolist())
    draw.rectangle((0, 0, image.width, 44), bar)
    draw.text((16, 12), text(random, 2), "white", font(18))
    left = 16
    if not phone:
        draw.rectangle((0, 44, 230, 800), (228, 230, 235))
        for y in range(70, 760, 34):
            draw.ellipse((16, y, 34, y + 18), tuple(random.integers(60, 220, 3).tolist()))
            draw.text((44, y), text(random, 2), (50, 50, 60), font(15))
        left = 260
    for y in range(70, 740, int(random.integers(40, 90))):
        draw.rectangle((left, y, image.width - 16, y + 32), "white", (215, 215, 220))
        draw.text((left + 10, y + 8), text(random, 5), (30, 30, 35), font(14))
    if random.random() < 0.5:
        image.paste(photo.resize((260, 260)), (left, 300))
    draw.rounded_rectangle((image.width - 130, 752, image.width - 20, 786), 8, bar)
    return image


def document(random: Random, photo: Image.Image) -> Image.Image:
    """A white page with a title and paragraphs."""
    image = Image.new("RGB", (850, 1100), (250, 250, 247))
    draw = ImageDraw.Draw(image)
    draw.text((90, 80), text(random, 4).title(), "black", font(32))
    y = 160
    while y < 1000:
        for _ in range(int(random.integers(3, 8))):
            draw.text((90, y), text(random, 9)[:80], (35, 35, 35), font(17))
            y += 25
        y += 24
    return image.rotate(float(random.normal(0, 1)), fillcolor=(220, 220, 220))


def receipt(random: Random, photo: Image.Image) -> Image.Image:
    """A narrow strip with prices, on a table."""
    lines = int(random.integers(8, 20))
    strip = Image.new("RGB", (300, 200 + 28 * lines), (244, 243, 238))
    draw = ImageDraw.Draw(strip)
    draw.text((70, 20), text(random, 1).upper() + " SHOP", "black", font(22))
    prices = random.uniform(0.5, 30, lines)
    for i, price in enumerate(prices):
        draw.text((20, 80 + 28 * i), text(random, 1), (40, 40, 40), font(17))
        draw.text((220, 80 + 28 * i), f"{price:.2f}", (40, 40, 40), font(17))
    draw.text((20, 100 + 28 * lines), "TOTAL", "black", font(24))
    draw.text((200, 100 + 28 * lines), f"{prices.sum():.2f}", "black", font(24))
    table = tuple(random.integers(60, 190, 3).tolist())
    image = Image.new("RGB", (640, strip.height + 120), table)
    turned = strip.rotate(float(random.normal(0, 5)), expand=True, fillcolor=table)
    image.paste(turned, (160, 40))
    return image


def meme(random: Random, photo: Image.Image) -> Image.Image:
    """A photograph with white capitals at the top and the bottom."""
    image = photo.resize((600, 600))
    draw = ImageDraw.Draw(image)
    for y in (20, 525):
        words = text(random, 3).upper()[:22]
        draw.text((300, y), words, "white", font(44), "ma", stroke_width=3, stroke_fill="black")
    return image


DRAWN: dict[str, Callable[[Random, Image.Image], Image.Image]] = {
    "screenshot": screenshot,
    "document": document,
    "receipt": receipt,
    "meme": meme,
}

if __name__ == "__main__":
    main()
