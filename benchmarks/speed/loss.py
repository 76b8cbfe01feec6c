"""Compare the tiled loss with the untiled one: seconds and peak memory of forward and backward.

    python benchmarks/speed/loss.py [PAIRS [WIDTH]]

By default for 16,384 pairs of 512 numbers. Each run is a process of its own, the two in turn; the
memory is the growth of the process. Writes results/loss.csv.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from benchmarks.table import write_results
from twotower.train.loss import clip_loss, siglip_loss, tiled_clip_loss, tiled_siglip_loss

ROUNDS = 3
COLUMNS = ("loss", "pairs", "plain_s", "tiled_s", "time_ratio", "plain_MB", "tiled_MB", "memory")


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 16_384
    width = int(sys.argv[2]) if len(sys.argv) > 2 else 512
    write_results("loss.csv", COLUMNS, [measure(loss, pairs, width) for loss in ("clip", "siglip")])


def measure(loss: str, pairs: int, width: int) -> tuple[object, ...]:
    """Return the row of a loss."""
    seconds: dict[str, list[float]] = {"plain": [], "tiled": []}
    memory: dict[str, float] = {}
    values = set()
    for _ in range(ROUNDS):
        for form, runs in seconds.items():
            command = [sys.executable, __file__, "--run", loss, form, str(pairs), str(width)]
            process = subprocess.run(command, check=True, capture_output=True, text=True)
            taken, growth, value = process.stdout.split()
            runs.append(float(taken))
            memory[form] = float(growth)
            values.add(round(float(value), 3))
    assert len(values) == 1, values
    plain, tiled = (statistics.median(runs) for runs in seconds.values())
    return (
        *(loss, pairs, f"{plain:.2f}", f"{tiled:.2f}", f"{tiled / plain:.2f}"),
        *(f"{memory['plain']:.0f}", f"{memory['tiled']:.0f}"),
        f"{memory['tiled'] / memory['plain']:.3f}",
    )


def run_loss(loss: str, form: str, pairs: int, width: int) -> None:
    """Print seconds, megabytes and the value of the loss."""
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
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(seconds, growth, value.item())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run_loss(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
