"""Test the shipped detectors on rendered pictures and on photographs.

    python benchmarks/quality/detectors.py ../shared/data

A browser renders screenshots, documents, receipts and memes (`made_pictures.py`), by other means
than those that the detectors were fitted on; real ones vary more. Blurry pictures are photographs
of flickr8k-val with a Gaussian blur, black ones the same at a fiftieth of the brightness. The
negatives are all 500 photographs of flickr8k-val, the 50 of examples/photos, and the other rendered
kinds. Recall and false positives are at 0.9, the default probability of `twotower tag`. Writes
results/detectors.csv.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

import twotower
from benchmarks.quality.made_pictures import KINDS, made_pictures
from benchmarks.table import ROOT, write_results
from twotower.arrays import BoolArray, Float64Array
from twotower.calibration.calibration import read_calibration
from twotower.inputs.pictures import open_picture
from twotower.pairs.sources import open_source
from twotower.tagging.detectors import SENTENCES, detector_logits
from twotower.tagging.pixel_facts import measure

EXAMPLES = ROOT / "examples" / "photos"
PICTURES_PER_KIND = 40
BLURRED = 200
PRECISION = 0.9
COLUMNS = (
    *("detector", "positives", "average precision", "recall", "photographs", "false positives"),
    *("rendered negatives", "false positives among them"),
)


def main() -> None:
    source = open_source(Path(sys.argv[1]) / "flickr8k-val")
    photos = [open_picture(source[number].picture) for number in range(len(source))]
    examples = [path for path in sorted(EXAMPLES.iterdir()) if path.suffix not in (".md", ".csv")]
    photos = [photo.convert("RGB") for photo in [*photos, *map(open_picture, examples)]]
    rendered = {kind: list(made_pictures(kind, PICTURES_PER_KIND)) for kind in KINDS}
    rows = [*by_rules(photos, rendered), *by_pixels(photos[:BLURRED])]
    write_results("detectors.csv", COLUMNS, rows)


def by_rules(
    photos: list[Image.Image], rendered: dict[str, list[Image.Image]]
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the rendered kinds."""
    model = twotower.load()
    calibration = read_calibration(model)
    assert calibration is not None
    pictures = [*photos, *(picture for pictures in rendered.values() for picture in pictures)]
    kinds = [kind for kind in rendered for _ in range(PICTURES_PER_KIND)]
    kind_of = np.array([""] * len(photos) + kinds)
    measures = np.stack([measure(picture) for picture in pictures])
    sentences = model.encode_text(list(SENTENCES))
    image_embeds = model.encode_image(pictures)
    deviations = calibration.background.deviations(sentences, image_embeds)
    for kind in rendered:
        p = 1 / (1 + np.exp(-detector_logits(kind, measures, deviations)))
        yield make_row(kind, p, kind_of == kind, kind_of == "")


def by_pixels(photos: list[Image.Image]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of blurry and black pictures, which need no model."""
    no_deviations = np.zeros((2 * len(photos), len(SENTENCES)), np.float32)
    photographs = np.arange(2 * len(photos)) < len(photos)
    sharp = [measure(photo) for photo in photos]
    for divisor in (100, 50, 25):
        blurred = [
            measure(photo.filter(ImageFilter.GaussianBlur(max(photo.size) / divisor)))
            for photo in photos
        ]
        logits = detector_logits("blurry", np.stack(sharp + blurred), no_deviations)
        p = 1 / (1 + np.exp(-logits))
        yield make_row(f"blurry (by 1/{divisor} of the side)", p, ~photographs, photographs)
    dark = [measure(photo.point(lambda value: value // 50)) for photo in photos]
    p = 1 / (1 + np.exp(-detector_logits("black", np.stack(sharp + dark), no_deviations)))
    yield make_row("black picture", p, ~photographs, photographs)


def make_row(
    name: str, p: Float64Array, positive: BoolArray, photographs: BoolArray
) -> tuple[str, ...]:
    hits = positive[np.argsort(-p, kind="stable")]
    precision = (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()
    detected, rendered = p >= PRECISION, ~positive & ~photographs
    return (
        *(name, str(positive.sum()), f"{precision:.3f}", f"{detected[positive].mean():.3f}"),
        *(str(photographs.sum()), f"{detected[photographs].mean():.3f}", str(rendered.sum())),
        f"{detected[rendered].mean():.3f}" if rendered.any() else "",
    )


if __name__ == "__main__":
    main()
