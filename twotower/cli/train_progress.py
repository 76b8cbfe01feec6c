"""Training progress on the terminal."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from twotower.train.config import TrainConfig
from twotower.train.curves import DECODE_BOUND, PATIENCE, why_stuck


@contextlib.contextmanager
def show_training(config: TrainConfig) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that shows each logged step: a bar on a terminal, else lines on stderr.

    Where the loss says that nothing is being learned, it says so, once.
    """
    losses: list[float] = []

    def advice(told: dict[str, Any]) -> str | None:
        losses.append(told.get("loss", math.nan))
        return why_stuck(losses, config) if len(losses) == PATIENCE else None

    if not sys.stderr.isatty():

        def print_lines(told: dict[str, Any]) -> None:
            print(log_line(told), file=sys.stderr)
            if text := advice(told):
                print(text, file=sys.stderr)

        yield print_lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=config.steps)

        def move_bar(told: dict[str, Any]) -> None:
            done = told.get("step", -1) + 1
            progress.update(task, completed=done, description=log_line(told), refresh=True)
            if text := advice(told):
                progress.console.print(text)

        yield move_bar


def log_line(told: dict[str, Any]) -> str:
    """One logged step, or how far the teacher has been asked, in one line."""
    if "asked" in told:
        return f"the teacher has seen {told['asked']:,} of {told['pairs']:,} pairs"
    waited = told["waited_for_data"]
    text = (
        f"step {told['step']}  loss {told['loss']:.3f}  scale {told['logit_scale']:.1f}  "
        f"{told['pairs_per_second']:.0f} pairs/s  data wait {waited:.0%}"
    )
    return text + "  (decode-bound: add workers)" * (waited > DECODE_BOUND)
