"""Progress reports of long tasks, in one shape."""

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
        stage: the activity, to be displayed, such as "Indexing".
        limit: the part of a pipeline that limits the rate, such as "encode-bound".
    """

    done: int
    total: int
    failed: int = 0
    stage: str = ""
    limit: str = ""


ReportProgress: TypeAlias = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """Report nothing."""
