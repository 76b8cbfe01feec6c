"""Measure the gain of fine-tuning on the trained domain, and its loss on other pictures.

    python benchmarks/quality/finetune.py ../shared/data [PICTURES [METHOD ...]]

The domain is PICTURES (400) of CIFAR-10's dev set, 32 x 32 pixels, in folders with their class
names; the bundled model was not trained on them. The outside set is 250 photographs of Flickr8k's
validation set with five captions each, half for the choice of weights and half for the report.
"probe" and "full" are the methods of `fit` with their defaults; "unguarded" is "full" with
may_lose=1, the best in the domain whatever is lost elsewhere. Writes results/finetune.csv.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image

from benchmarks.table import write_results
from twotower.cli.train_progress import print_progress
from twotower.train.finetune.fit import fit
from twotower.train.finetune.report import Card

METHODS = ("probe", "full", "unguarded")
COLUMNS = (
    *("method", "pictures_of", "measure", "pictures", "before", "after", "low", "high"),
    "minutes",
)


def main() -> None:
    data = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    methods = sys.argv[3:] or list(METHODS)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        domain, outside = Path(folder) / "domain", Path(folder) / "outside"
        write_classes(data / "cifar10-dev" / "cifar10-dev.npz", domain, count)
        write_captions(data / "flickr8k-val", outside, 250)
        for method in methods:
            card = run(method, domain, outside, Path(folder) / method)
            for name, change in (("domain", card.domain), ("outside", card.outside)):
                numbers = (change.before, change.after, *change.interval)
                figures = (f"{number:.3f}" for number in numbers)
                minutes = f"{card.minutes:.1f}"
                rows.append((method, name, change.measure, change.pictures, *figures, minutes))
    write_results("finetune.csv", COLUMNS, rows)


def run(method: str, domain: Path, outside: Path, folder: Path) -> Card:
    return fit(
        domain,
        folder,
        method="probe" if method == "probe" else "full",
        may_lose=1.0 if method == "unguarded" else 0.01,
        outside=outside,
        minutes=60,
        progress=print_progress(),
    )


def write_classes(archive: Path, folder: Path, count: int) -> None:
    """Write an equal number of pictures of each class to a folder of its name."""
    arrays = np.load(archive)
    written: Counter[str] = Counter()
    for pixels, label in zip(arrays["images"], arrays["labels"], strict=True):
        name = str(arrays["class_names"][label])
        if written[name] < count // 10:
            written[name] += 1
            (folder / name).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pixels).save(folder / name / f"{written[name]}.png")


def write_captions(source: Path, folder: Path, count: int) -> None:
    folder.mkdir()
    for path in sorted(source.glob("*.jpg"))[:count]:
        shutil.copy(path, folder)
        shutil.copy(path.with_suffix(".json"), folder)


if __name__ == "__main__":
    main()
