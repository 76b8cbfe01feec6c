"""Compare AdamW and Muon on the same small ViT, pairs and steps: final loss and seconds a step.

    python benchmarks/quality/optimizers.py [STEPS]

Trains from scratch on Noto emoji and tests on Twemoji's drawings. Each optimizer runs at two
learning rates, with the same schedule, batches and seed. Muon updates the matrices of the blocks,
AdamW all other weights. Writes results/optimizers.csv.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.table import write_results
from twotower.model.config import TextTransformerConfig, ViTConfig
from twotower.train.config import TrainConfig, with_values
from twotower.train.loop import run_steps
from twotower.train.recipes import emoji
from twotower.train.run_log import read_log

RATES = (1e-3, 3e-3)
COLUMNS = ("optimizer", "learning_rate", "steps", "last_loss", "zero_shot_top1", "seconds_a_step")


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    rows = [run(steps, optimizer, rate) for rate in RATES for optimizer in ("adamw", "muon")]
    write_results("optimizers.csv", COLUMNS, rows)


def run(steps: int, optimizer: str, rate: float) -> tuple[object, ...]:
    """Train and return the row of a run."""
    config = with_values(small_vit(steps), {"optimizer.name": optimizer, "optimizer.lr": rate})
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_steps(config, Path(folder) / "run")
        seconds = (time.perf_counter() - start) / steps
        log = read_log(Path(folder) / "run")
    losses = [entry["loss"] for entry in log[-3:]]
    return (
        *(optimizer, f"{rate:g}", steps, f"{sum(losses) / len(losses):.3f}"),
        *(f"{log[-1]['zero_shot_top1']:.4f}", f"{seconds:.3f}"),
    )


def small_vit(steps: int) -> TrainConfig:
    """Return the emoji run with a transformer instead of its ResNet, which has no blocks."""
    config = emoji(steps, batch_size=128)
    model = replace(
        config.model,
        vision=ViTConfig(64, 16, 128, 4, 2, 512, "quick_gelu"),
        text=TextTransformerConfig(24, 49408, 128, 4, 2, 512, "quick_gelu"),
    )
    return with_values(
        replace(config, model=model),
        {
            "validation.every": steps,
            "validation.retrieval": None,
            "output.save_every": 10 * steps,
        },
    )


if __name__ == "__main__":
    main()
