"""Measure the loss of the image tower in int8: the same pictures in both engines, paired.

    python benchmarks/quality/int8.py DATA [MODEL [PICTURES]]

DATA has `cifar10-dev` and `flickr8k-val`. Zero-shot top-1 on PICTURES (1,000) of CIFAR-10, recall
at 1 of captions on Flickr8k's 500, and the cosine of the embeds. `low` and `high` are the 95 %
interval of the difference in points. Writes results/int8.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

import twotower
from benchmarks.quality.paired_tasks import COLUMNS, cifar10, compare, flickr8k
from benchmarks.table import write_results

ENGINES = ("onnxruntime", "onnxruntime-int8")


def main() -> None:
    data = Path(sys.argv[1])
    name = sys.argv[2] if len(sys.argv) > 2 else "base"
    limit = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
    exact, int8 = (twotower.load(name, engine=engine) for engine in ENGINES)
    rows = []
    for task in (cifar10(exact, data, limit), flickr8k(exact, data)):
        before, after = (model.encode_image(task.pictures) for model in (exact, int8))
        rows.append((name, *compare(task, before, after)))
    write_results("int8.csv", ("model", *COLUMNS), rows)


if __name__ == "__main__":
    main()
