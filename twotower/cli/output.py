"""Shared by the commands: exit codes, progress, printed text, and types of arguments."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twotower.encode.devices import AUTO, DEVICES, ENGINE_NAMES
from twotower.encode.registry import BUNDLED_MODELS, DEFAULT_MODEL
from twotower.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    # argparse has no public name for this class
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

OK, FAILED, INTERRUPTED = 0, 1, 130
BUNDLED = ", ".join(BUNDLED_MODELS.values())  # the short names, for help texts
DEFAULT = BUNDLED_MODELS[DEFAULT_MODEL]
Item = TypeVar("Item")


@contextlib.contextmanager
def show_progress(stage: str) -> Iterator[ReportProgress]:
    """Yield a function that shows progress on stderr; nothing is shown if that is no terminal.

    The line has the stage, a bar, the count, the rate, what limits it, and the time left. Without
    a total it moves without a count. It disappears at the end.

    Args:
        stage: shown until a report names another one.
    """
    if not sys.stderr.isatty():
        yield ignore_progress
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.TextColumn("{task.fields[count]}"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # otherwise lines for a file would go to stderr
    ) as display:
        task = display.add_task(stage, total=None, count="")

        def report(progress: Progress) -> None:
            speed = display.tasks[0].speed
            rate = f" {speed:.0f}/s" if speed else ""
            limit = f" ({progress.limit})" if progress.limit else ""
            display.update(
                task,
                completed=progress.done,
                total=progress.total or None,
                description=progress.stage or stage,
                count=f"{progress.done}/{progress.total}{rate}{limit}" if progress.total else "",
            )

        yield report


def track(items: Iterable[Item], stage: str, total: int) -> Iterator[Item]:
    """Yield items one by one, and show how many of `total` are done."""
    with show_progress(stage) as report:
        for done, item in enumerate(items, 1):
            yield item
            report(Progress(done, total))


def shown_path(path: Path) -> str:
    """Return a path relative to the current folder, or absolute if it lies outside."""
    relative = os.path.relpath(path)
    return str(path.resolve()) if relative.startswith("..") else relative


def printable(text: str) -> str:
    """Return text for one line of a terminal, with control characters in names escaped."""
    return re.sub(_CONTROLS, lambda match: ascii(match[0])[1:-1], text)


_CONTROLS = "[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"


def count_of(number: int, noun: str) -> str:
    """Return a count with its noun, such as "1 picture" or "2 pictures"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def to_json(tree: Any, indent: int | None = None) -> str:
    """Return JSON as text that stdout can print."""
    return escape_json(json.dumps(tree, ensure_ascii=False, indent=indent))


def escape_json(text: str) -> str:
    """Return JSON with the characters escaped that stdout cannot print.

    These are all but ASCII, unless its encoding is UTF-8, and the bytes in the name of a file that
    are no text, which `os.fsencode` restores.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    unprintable = "[\udc80-\udcff]" if codecs.lookup(encoding).name == "utf-8" else "[^\x00-\x7f]"
    return re.sub(unprintable, lambda match: json.dumps(match[0])[1:-1], text)


def print_array(trees: Iterable[dict[str, Any]]) -> int:
    """Print a JSON array, each object as soon as it is available; valid also if interrupted.

    Returns:
        The number of objects with an "error".
    """
    failed, separator = 0, "["
    try:
        for tree in trees:
            failed += tree["error"] is not None
            print(separator + to_json(tree), end="")
            separator = ",\n "
    finally:
        print("[]" if separator == "[" else "]")
    return failed


def print_failures(failures: Sequence[str], limit: int = 20) -> None:
    """Print the first `limit` lines on stderr, and the number of the others."""
    for line in failures[:limit]:
        print(f"twotower: {printable(line)}", file=sys.stderr)
    if len(failures) > limit:
        print(f"twotower: and {len(failures) - limit} more", file=sys.stderr)


def add_model_options(
    command: argparse.ArgumentParser,
    positional: bool = False,
    default_engine: str = "onnxruntime",
) -> None:
    """Add `--model` (or the argument `model`), `--engine` and `--device`."""
    text = f"{BUNDLED}, a name of `models`, a directory, file or hf-hub:org/name ({DEFAULT})"
    if positional:
        command.add_argument("model", nargs="?", help=text)
    else:
        command.add_argument("--model", help=text)
    command.add_argument(
        "--engine",
        choices=(AUTO, *ENGINE_NAMES),
        default=default_engine,
        help=f"what computes the model; auto: the fastest for pictures here ({default_engine})",
    )
    command.add_argument(
        "--device",
        choices=DEVICES,
        default=AUTO,
        help="what computes; the CPU replaces one that fails (cuda if there is one, else cpu)",
    )


def add_arch_option(command: argparse.ArgumentParser) -> None:
    """Add `--arch`, for weights without a configuration."""
    command.add_argument(
        "--arch",
        metavar="NAME",
        help="the architecture of bare weights, by open_clip's name (ViT-B-32-quickgelu)",
    )


def positive(text: str) -> int:
    """Parse an argument that is an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def size_in_bytes(text: str) -> int:
    """Parse a size such as 8GB, 500MB or a number of bytes."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    number, unit = text[:-2], text[-2:].upper()
    try:
        return int(float(number) * units[unit]) if unit in units else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 8GB") from None
