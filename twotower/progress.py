"""Progress reports: one shape for everything that takes longer than a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Progress:
    """The state of a task.

    Attributes:
        done: items finished, of which `failed` could not be read.
        total: items in all.
        stage: the activity, for people ("Indexing").
    """

    done: int
    total: int
    failed: int = 0
    stage: str = ""


ReportProgress: TypeAlias = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """Report nothing."""
