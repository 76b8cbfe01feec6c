"""The tiled loss beside the plain one: seconds and peak memory of forward and backward.

    python benchmarks/speed/loss.py [PAIRS] [WIDTH]

16 384 pairs of 512 numbers by default. Each run is a process of its own, the two in turn; memory is
what the process grew by. Writes results/loss.csv.
"""

from __future__ import annotations

import csv
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from twotower.train.loss import clip_loss, siglip_loss, tiled_clip_loss, tiled_siglip_loss

ROUNDS = 3
RESULTS = Path(__file__).parents[1] / "results" / "loss.csv"


def main() -> None:
    pairs, width = (int(one) for one in (sys.argv[1:] + ["16384", "512"][len(sys.argv) - 1 :]))
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("loss", "pairs", "plain_s", "tiled_s", "time_ratio", "plain_MB", "tiled_MB", "memory")
        )
        for loss in ("clip", "siglip"):
            seconds: dict[str, list[float]] = {"plain": [], "tiled": []}
            memory: dict[str, float] = {}
            values = set()
            for _ in range(ROUNDS):
                for form, runs in seconds.items():
                    command = [
                        sys.executable,
                        __file__,
                        "--one",
                        loss,
                        form,
                        str(pairs),
                        str(width),
                    ]
                    answer = subprocess.run(command, check=True, capture_output=True, text=True)
                    taken, grown, value = answer.stdout.split()
                    runs.append(float(taken))
                    memory[form] = float(grown)
                    values.add(round(float(value), 3))
            assert len(values) == 1, values
            plain, tiled = (statistics.median(runs) for runs in seconds.values())
            row = (
                *(loss, pairs, f"{plain:.2f}", f"{tiled:.2f}", f"{tiled / plain:.2f}"),
                *(f"{memory['plain']:.0f}", f"{memory['tiled']:.0f}"),
                f"{memory['tiled'] / memory['plain']:.3f}",
            )
            writer.writerow(row)
            file.flush()
            print(*row)


def run_one(loss: str, form: str, pairs: int, width: int) -> None:
    """Print seconds, megabytes and the loss."""
    torch.manual_seed(0)
    images, texts = (
        F.normalize(torch.randn(pairs, width), dim=-1).requires_grad_() for _ in range(2)
    )
    scale, bias = torch.tensor(3.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if form == "tiled" and loss == "clip":
        value = tiled_clip_loss(images, texts, scale)
    elif form == "tiled":
        value = tiled_siglip_loss(images, texts, scale, bias)
    elif loss == "clip":
        value = clip_loss(scale.exp() * images @ texts.T)
    else:
        value = siglip_loss(scale.exp() * images @ texts.T + bias)
    value.backward()
    seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(seconds, grown, value.item())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
