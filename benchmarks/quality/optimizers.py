"""AdamW and Muon on the same small ViT, pairs and steps: the loss at the end, and seconds a step.

    python benchmarks/quality/optimizers.py [STEPS]

From scratch on Noto's emoji, scored on Twemoji's; each optimizer at two learning rates and the
same schedule, batches and seed. Muon takes the matrices of the blocks, AdamW the rest. Writes
results/optimizers.csv.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from twotower.model.config import TextTransformerConfig, ViTConfig
from twotower.train.config import TrainConfig, with_values
from twotower.train.loop import run_steps
from twotower.train.recipes import emoji
from twotower.train.run_log import read_log

RATES = (1e-3, 3e-3)
RESULTS = Path(__file__).parents[1] / "results" / "optimizers.csv"


def small_vit(steps: int) -> TrainConfig:
    """The emoji run with a transformer in place of its ResNet, which has no blocks for Muon."""
    run = emoji(steps, batch_size=128)
    model = replace(
        run.model,
        vision=ViTConfig(64, 16, 128, 4, 2, 512, "quick_gelu"),
        text=TextTransformerConfig(24, 49408, 128, 4, 2, 512, "quick_gelu"),
    )
    return with_values(
        replace(run, model=model),
        {
            "validation.every": steps,
            "validation.retrieval": None,
            "output.save_every": 10 * steps,
        },
    )


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("optimizer", "learning_rate", "steps", "last_loss", "zero_shot_top1", "seconds_a_step")
        )
        for rate in RATES:
            for optimizer in ("adamw", "muon"):
                config = with_values(
                    small_vit(steps), {"optimizer.name": optimizer, "optimizer.lr": rate}
                )
                with tempfile.TemporaryDirectory() as folder:
                    start = time.perf_counter()
                    run_steps(config, Path(folder) / "run")
                    seconds = (time.perf_counter() - start) / steps
                    told = read_log(Path(folder) / "run")
                late = [one["loss"] for one in told[-3:]]
                row = (
                    *(optimizer, f"{rate:g}", steps, f"{sum(late) / len(late):.3f}"),
                    *(f"{told[-1]['zero_shot_top1']:.4f}", f"{seconds:.3f}"),
                )
                writer.writerow(row)
                file.flush()
                print(*row)


if __name__ == "__main__":
    main()
