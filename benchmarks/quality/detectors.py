"""The shipped detectors, on pictures made here and on photographs.

    python benchmarks/quality/detectors.py ../shared/data

Screenshots, documents, receipts and memes are set by a browser (`made_pictures.py`), otherwise than
those that the detectors were fitted on; real ones vary more. Blurred ones are photographs of
flickr8k-val under a Gaussian blur, black ones the same at a fiftieth of the light. What is no
picture of a kind: all 500 photographs of flickr8k-val, the 50 of examples/photos, and the other
made kinds. "Found" and "taken" are by the probability from which `twotower tag` gives them by
default, 0.9. Writes results/detectors.csv and the table in docs/measurements/tagging.md.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

import twotower
from benchmarks.quality.made_pictures import MADE, made_pictures
from twotower.calibration.calibration import read_calibration
from twotower.inputs.pictures import open_picture
from twotower.pairs.sources import open_source
from twotower.tagging.detectors import SENTENCES, detector_logits
from twotower.tagging.pixel_facts import measure

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "detectors.csv"
PAGE = HERE.parent / "docs" / "measurements" / "tagging.md"
EXAMPLES = HERE.parent / "examples" / "photos"
MARKS = "<!-- written by benchmarks/quality/detectors.py -->", "<!-- until here, detectors -->"
EACH = 40
BLURRED = 200
PRECISION = 0.9
COLUMNS = (
    *("detector", "pictures of it", "average precision", "found"),
    *("photographs", "taken", "other made ones", "of these taken"),
)


Numbers = NDArray[np.float64]
Truths = NDArray[np.bool_]


def main() -> None:
    source = open_source(Path(sys.argv[1]) / "flickr8k-val")
    photos = [open_picture(source[number].picture) for number in range(len(source))]
    examples = [one for one in sorted(EXAMPLES.iterdir()) if one.suffix not in (".md", ".csv")]
    photos = [one.convert("RGB") for one in [*photos, *map(open_picture, examples)]]
    made = {kind: list(made_pictures(kind, EACH)) for kind in MADE}
    rows = [COLUMNS, *by_rules(photos, made), *by_pixels(photos[:BLURRED])]
    with RESULTS.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    table = ["| " + " | ".join(row) + " |" for row in rows]
    table.insert(1, "|" + "---|" * len(COLUMNS))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    text = f"{before}{MARKS[0]}\n\n" + "\n".join(table) + f"\n\n{MARKS[1]}{after}"
    PAGE.write_text(text, encoding="utf-8")


def by_rules(
    photos: list[Image.Image], made: dict[str, list[Image.Image]]
) -> Iterator[tuple[str, ...]]:
    model = twotower.load()
    calibration = read_calibration(model.directory)
    assert calibration is not None
    pictures = [*photos, *(one for some in made.values() for one in some)]
    kinds = np.array([""] * len(photos) + [kind for kind in made for _ in range(EACH)])
    measures = np.stack([measure(one) for one in pictures])
    sentences = model.encode_text(list(SENTENCES))
    image_embeds = model.encode_image(pictures)
    deviations = calibration.text.background.deviations(sentences, image_embeds)
    for kind in made:
        p = 1 / (1 + np.exp(-detector_logits(kind, measures, deviations)))
        yield row(kind, p, kinds == kind, kinds == "")


def by_pixels(photos: list[Image.Image]) -> Iterator[tuple[str, ...]]:
    unasked = np.zeros((2 * len(photos), len(SENTENCES)), np.float32)
    photographs = np.arange(2 * len(photos)) < len(photos)
    sharp = [measure(one) for one in photos]
    for share in (100, 50, 25):
        soft = [
            measure(one.filter(ImageFilter.GaussianBlur(max(one.size) / share))) for one in photos
        ]
        p = 1 / (1 + np.exp(-detector_logits("blurry", np.stack(sharp + soft), unasked)))
        yield row(f"blurry (by 1/{share} of the side)", p, ~photographs, photographs)
    dark = [measure(one.point(lambda value: value // 50)) for one in photos]
    p = 1 / (1 + np.exp(-detector_logits("black", np.stack(sharp + dark), unasked)))
    yield row("black picture", p, ~photographs, photographs)


def row(name: str, p: Numbers, true: Truths, photographs: Truths) -> tuple[str, ...]:
    hits = true[np.argsort(-p, kind="stable")]
    precision = (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()
    given, others = p >= PRECISION, ~true & ~photographs
    return (
        *(name, str(true.sum()), f"{precision:.3f}", f"{given[true].mean():.3f}"),
        *(str(photographs.sum()), f"{given[photographs].mean():.3f}", str(others.sum())),
        f"{given[others].mean():.3f}" if others.any() else "",
    )


if __name__ == "__main__":
    main()
