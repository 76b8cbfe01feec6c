"""Progress of a training on the terminal."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator

from twotower.progress import Progress, ReportProgress
from twotower.train.config import TrainConfig
from twotower.train.curves import PATIENCE, advise_on_stuck_loss
from twotower.train.run_log import LogRow, ReportRow

DECODE_BOUND = 0.2  # share of the time spent waiting for pairs above which decoding is the limit


@contextlib.contextmanager
def show_training(config: TrainConfig) -> Iterator[tuple[ReportRow, ReportProgress]]:
    """Show logged rows and the teacher's progress: a bar on a terminal, else lines on stderr.

    Once in a run it prints advice, if the loss shows that nothing is learned.
    """
    if not sys.stderr.isatty():
        pairs = config.steps * config.data.batch_size
        _print_error(
            f"Training {config.steps:,} steps, {pairs:,} pairs; the first step takes longer"
        )

        def print_remaining(row: LogRow) -> None:
            _print_error(f"{format_row(row)}  {format_remaining(row, config)}")

        yield _with_advice(config, print_remaining, _print_error), print_progress()
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=config.steps)

        def show_row(row: LogRow) -> None:
            bar.update(task, completed=row["step"] + 1, description=format_row(row), refresh=True)

        def show_progress(progress: Progress) -> None:
            bar.update(task, description=format_progress(progress), refresh=True)

        yield _with_advice(config, show_row, bar.console.print), show_progress


def _with_advice(
    config: TrainConfig, show: ReportRow, print_text: Callable[[str], None]
) -> ReportRow:
    """Return a function that shows a row, and advice after the row number `PATIENCE`."""
    losses: list[float] = []

    def report(row: LogRow) -> None:
        show(row)
        losses.append(row.get("loss", math.nan))
        if len(losses) == PATIENCE and (advice := advise_on_stuck_loss(losses, config)):
            print_text(advice)

    return report


def print_progress() -> ReportProgress:
    """Return a function that prints a line for each new stage, and for each count in it."""
    previous = ""

    def report(progress: Progress) -> None:
        nonlocal previous
        line = format_progress(progress)
        if line != previous:
            _print_error(line)
        previous = line

    return report


def print_row(row: LogRow) -> None:
    """Print a row of the log on stderr."""
    _print_error(format_row(row))


def _print_error(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def format_progress(progress: Progress) -> str:
    """Return the state of a task as a line."""
    if not progress.total:
        return progress.stage
    return f"{progress.stage}: {progress.done:,} of {progress.total:,}"


def format_remaining(row: LogRow, config: TrainConfig) -> str:
    """Return the time that the other steps take at the speed of a row, such as "12 min left"."""
    pairs = (config.steps - row["step"] - 1) * config.data.batch_size
    seconds = pairs / max(row["pairs_per_second"], 1e-9)
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} left"
    return f"{seconds:.0f} s left"


def format_row(row: LogRow) -> str:
    """Return a row of the log as a line."""
    waited = row["waited_for_data"]
    text = (
        f"step {row['step']}  loss {row['loss']:.3f}  scale {row['logit_scale']:.1f}  "
        f"{row['pairs_per_second']:.0f} pairs/s  data wait {waited:.0%}"
    )
    return text + "  (decode-bound: add workers)" * (waited > DECODE_BOUND)
