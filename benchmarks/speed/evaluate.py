"""How near an evaluation comes to the rate of its encoder: pictures a second, from end to end.

    python benchmarks/speed/evaluate.py ../shared/data [PICTURES]

The 2 000 pictures of cifar10-dev, again and again up to PICTURES (10 000), through the bundled
model. `twotower evaluate zero-shot` is timed whole: classes, pictures, scores, every interval, and
writing its JSON. Beside it, before and after in the same process, the encoder alone on the same
pictures (`Encoder.stream`), and what its engine does with pixels that are ready, the bound of both.
Writes results/evaluate.csv.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import twotower
from twotower.evaluate.models import TwotowerModel
from twotower.evaluate.results import result_to_json
from twotower.evaluate.sets import LabelledSet, open_set
from twotower.evaluate.zero_shot import evaluate_zero_shot

RESULTS = Path(__file__).parents[1] / "results" / "evaluate.csv"
ALONE = 1000  # pictures for each timing of the encoder by itself


def main() -> None:
    labelled = open_set(Path(sys.argv[1]) / "cifar10-dev" / "cifar10-dev.npz")
    pictures = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    many = labelled.take(np.arange(pictures) % len(labelled.keys))
    encoder = twotower.load()
    encoder.encode_image(labelled.pictures[0])  # both towers have started
    encoder.encode_text("a photo")
    some = [labelled.pictures[number] for number in range(ALONE)]
    pixel_values = np.stack([encoder.preprocess(one) for one in some])

    def engine() -> None:
        for start in range(0, ALONE, 32):
            encoder._vision(pixel_values[start : start + 32])

    def alone() -> None:
        encoder.encode_image(some)

    rates: dict[str, list[float]] = {
        "engine": [rate(engine, ALONE)],
        "encoder": [rate(alone, ALONE)],
    }
    model = TwotowerModel(encoder)
    rates["evaluate"] = [rate(lambda: evaluate(model, many), pictures)]
    rates["encoder"].append(rate(alone, ALONE))
    rates["engine"].append(rate(engine, ALONE))
    write({name: statistics.mean(runs) for name, runs in rates.items()}, pictures)


def evaluate(model: TwotowerModel, labelled: LabelledSet) -> None:
    result_to_json(evaluate_zero_shot(model, labelled))


def rate(function: Callable[[], None], pictures: int) -> float:
    start = time.perf_counter()
    function()
    return pictures / (time.perf_counter() - start)


def write(rates: dict[str, float], pictures: int) -> None:
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("what", "pictures", "pictures_per_second", "share_of_encoder"))
        for name, each in rates.items():
            n = pictures if name == "evaluate" else ALONE
            row = (name, n, f"{each:.1f}", f"{each / rates['encoder']:.3f}")
            writer.writerow(row)
            print(*row)


if __name__ == "__main__":
    main()
