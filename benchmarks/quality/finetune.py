"""What fine-tuning gains on real pictures, and what it loses elsewhere.

    python benchmarks/quality/finetune.py ../shared/data [PICTURES [METHOD ...]]

The domain: PICTURES (400) of CIFAR-10's dev set, 32 x 32 pixels, in folders called what they show.
The bundled model never learned from them. Outside: 250 photographs of Flickr8k's validation set
with five captions each, half to choose by and half to report on. "probe" and "full" are `fit`'s
methods as they come; "unguarded" is "full" with may_lose=1: the best in the domain, whatever is
lost elsewhere. Writes results/finetune.csv.
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image

from twotower.cli.train_progress import print_progress
from twotower.train.finetune.fit import Method, fit
from twotower.train.finetune.report import Card

RESULTS = Path(__file__).parents[1] / "results" / "finetune.csv"
METHODS = ("probe", "full", "unguarded")


def main() -> None:
    data = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    methods = sys.argv[3:] or list(METHODS)
    with tempfile.TemporaryDirectory() as folder, RESULTS.open("w", newline="") as file:
        domain, outside = Path(folder) / "domain", Path(folder) / "outside"
        write_classes(data / "cifar10-dev" / "cifar10-dev.npz", domain, count)
        write_captions(data / "flickr8k-val", outside, 250)
        writer = csv.writer(file)
        writer.writerow(
            ("method", "where", "measure", "pictures", "before", "after", "low", "high", "minutes")
        )
        for method in methods:
            card = run(method, domain, outside, Path(folder) / method)
            for where, change in (("domain", card.domain), ("outside", card.outside)):
                row = (
                    *(method, where, change.measure, change.pictures),
                    *(f"{one:.3f}" for one in (change.before, change.after, *change.interval)),
                    f"{card.minutes:.1f}",
                )
                writer.writerow(row)
                file.flush()
                print(*row)


def run(method: str, domain: Path, outside: Path, folder: Path) -> Card:
    how: Method = "probe" if method == "probe" else "full"
    may_lose = 1.0 if method == "unguarded" else 0.01
    return fit(
        domain,
        folder,
        method=how,
        may_lose=may_lose,
        outside=outside,
        minutes=60,
        progress=print_progress(),
    )


def write_classes(archive: Path, folder: Path, count: int) -> None:
    """As many pictures of each class, in a folder of its name."""
    arrays = np.load(archive)
    seen: Counter[str] = Counter()
    for pixels, label in zip(arrays["images"], arrays["labels"], strict=True):
        name = str(arrays["class_names"][label])
        if seen[name] < count // 10:
            seen[name] += 1
            (folder / name).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(pixels).save(folder / name / f"{seen[name]}.png")


def write_captions(source: Path, folder: Path, count: int) -> None:
    folder.mkdir()
    for path in sorted(source.glob("*.jpg"))[:count]:
        shutil.copy(path, folder)
        shutil.copy(path.with_suffix(".json"), folder)


if __name__ == "__main__":
    main()
