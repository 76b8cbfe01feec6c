"""The log of a run: `RUN/log.jsonl`, and a TensorBoard log if the configuration asks for one."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from twotower.errors import TrainError
from twotower.files import atomic_write
from twotower.train.config import OutputConfig
from twotower.train.distributed import rank

LOG = "log.jsonl"


class LogRow(TypedDict, total=False):
    """A line of the log: a step, and measurements since the previous row.

    Held-out loss, recall and accuracy are present in steps after which the model was scored on
    held-out pairs.
    """

    step: int
    loss: float
    logit_scale: float  # exponentiated
    learning_rate: float
    gradient_norm: float  # before clipping
    pairs_per_second: float
    waited_for_data: float  # share of the time
    broken: int  # pairs that could not be read, since the start
    keys: list[str]  # of three pairs of the step
    held_out_loss: float
    text_to_image_recall_at_1: float
    text_to_image_recall_at_5: float
    image_to_text_recall_at_1: float
    image_to_text_recall_at_5: float
    zero_shot_top1: float


ReportRow: TypeAlias = Callable[[LogRow], None]


def ignore_row(row: LogRow) -> None:
    """Report nothing."""


class RunLog:
    """The log of a run, with the clock of its steps; rank 0 writes, all ranks measure."""

    def __init__(self, run: Path, config: OutputConfig) -> None:
        self.run, self.config = run, config
        self.broken = 0
        self._tensorboard: Any = None
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure speed and waiting from now on."""
        self._row_started = self._wait_started = time.perf_counter()
        self._waited, self._steps = 0.0, 0

    def begin_step(self) -> None:
        """Note that the pairs of a step have arrived."""
        self._waited += time.perf_counter() - self._wait_started

    def end_step(self) -> None:
        """Note that the loop waits for pairs."""
        self._wait_started = time.perf_counter()

    def cut(self, step: int) -> None:
        """Remove the rows from `step` on, which a resumed run writes again."""
        path = self.run / LOG
        if rank() == 0 and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["step"] < step]
            with atomic_write(path) as file:
                file.write("".join(f"{line}\n" for line in kept))

    def add(self, row: LogRow, broken: int, batch_size: int, due: bool) -> LogRow | None:
        """Count a step and, if its row is due, complete and write it.

        Args:
            broken: pairs of the step that could not be read.

        Returns:
            The row that was written, or None.
        """
        self.broken += broken
        self._steps += 1
        if not due and row["step"] % self.config.log_every:
            return None
        seconds = time.perf_counter() - self._row_started
        row["pairs_per_second"] = batch_size * self._steps / seconds
        row["waited_for_data"] = self._waited / seconds
        row["broken"] = self.broken
        self._row_started, self._waited, self._steps = time.perf_counter(), 0.0, 0
        if rank() == 0:
            self._write(row)
        return row

    def _write(self, row: LogRow) -> None:
        with (self.run / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self.config.tensorboard:
            if self._tensorboard is None:  # steps after a killed run's checkpoint are not shown
                self._tensorboard = tensorboard_writer(self.run, row["step"])
            for name, value in row.items():
                if isinstance(value, int | float) and name != "step":
                    self._tensorboard.add_scalar(name, value, row["step"])
            self._tensorboard.flush()


def read_log(run: Path) -> list[LogRow]:
    """Return the logged steps of a run. Raises `TrainError` if there are none."""
    path = run / LOG
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise TrainError(path, reason, "give the folder of a run") from None
    rows: list[LogRow] = [json.loads(line) for line in text.splitlines()]
    if not rows:
        raise TrainError(path, "nothing is logged yet", "wait for the first step")
    return rows


def tensorboard_writer(run: Path, first_step: int) -> Any:
    """Open a TensorBoard log in `RUN/tensorboard`. Raises `TrainError` if it is not installed."""
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    create: Any = SummaryWriter
    return create(str(run / "tensorboard"), purge_step=first_step)


def require_tensorboard() -> None:
    """Raise `TrainError` if TensorBoard is not installed."""
    if not importlib.util.find_spec("tensorboard"):
        raise TrainError(
            "output.tensorboard", "TensorBoard is not installed", "pip install tensorboard"
        )
