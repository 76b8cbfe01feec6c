"""Compare the rate of a whole evaluation with that of its encoder, in pictures a second.

    python benchmarks/speed/evaluate.py ../shared/data [PICTURES]

The 2,000 pictures of cifar10-dev, repeated up to PICTURES (10,000), pass through the bundled model.
`twotower evaluate zero-shot` is timed as a whole: classes, pictures, scores, intervals and JSON.
The encoder alone (`Encoder.stream`) is timed before and after it, in the same process and on the
same pictures, and so is its engine on preprocessed pixels, the upper bound of both. Writes
results/evaluate.csv.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import twotower
from benchmarks.table import write_results
from twotower.evaluate.models import TwotowerModel
from twotower.evaluate.results import result_to_json
from twotower.evaluate.sets import open_set
from twotower.evaluate.zero_shot import evaluate_zero_shot

ALONE = 1000  # pictures of each timing of the encoder and the engine
COLUMNS = ("part", "pictures", "pictures_per_second", "share_of_encoder")


def main() -> None:
    labelled = open_set(Path(sys.argv[1]) / "cifar10-dev" / "cifar10-dev.npz")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    repeated = labelled.take(np.arange(count) % len(labelled.keys))
    encoder = twotower.load()
    encoder.encode_image(labelled.pictures[0])  # starts the engines of both towers
    encoder.encode_text("a photo")
    pictures = [labelled.pictures[number] for number in range(ALONE)]
    pixel_values = np.stack([encoder.preprocess(picture) for picture in pictures])
    model = TwotowerModel(encoder)

    def run_engine() -> None:
        for start in range(0, ALONE, 32):
            encoder._vision(pixel_values[start : start + 32])

    def run_encoder() -> None:
        encoder.encode_image(pictures)

    def run_evaluation() -> None:
        result_to_json(evaluate_zero_shot(model, repeated))

    rates = {"engine": [rate(run_engine, ALONE)], "encoder": [rate(run_encoder, ALONE)]}
    evaluation = rate(run_evaluation, count)
    rates["encoder"].append(rate(run_encoder, ALONE))
    rates["engine"].append(rate(run_engine, ALONE))
    means = {name: statistics.mean(runs) for name, runs in rates.items()} | {"evaluate": evaluation}
    rows = [
        (
            name,
            count if name == "evaluate" else ALONE,
            f"{mean:.1f}",
            f"{mean / means['encoder']:.3f}",
        )
        for name, mean in means.items()
    ]
    write_results("evaluate.csv", COLUMNS, rows)


def rate(function: Callable[[], None], pictures: int) -> float:
    start = time.perf_counter()
    function()
    return pictures / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
