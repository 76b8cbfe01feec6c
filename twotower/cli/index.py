"""`twotower index`: make a folder of pictures searchable, and keep it so."""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from twotower.cli.output import FAILED, OK, add_model_options, printable, show_progress, shown_path

if TYPE_CHECKING:
    from twotower.cli.output import Commands
    from twotower.index.indexing import IndexReport
    from twotower.library import Library

_TICK_MS = 500  # how long to wait for a change before looking at the clock
_RETRY_SECONDS = 10.0


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("index", help="make a folder of pictures searchable")
    command.set_defaults(run=run_index)
    command.add_argument(
        "folder", nargs="?", type=Path, help="the pictures (those of the library you are in)"
    )
    add_library_option(command)
    command.add_argument(
        "--vectors",
        metavar="WHERE",
        help='milvus://HOST:PORT/COLLECTION, a .db file of Milvus Lite, or "local" (as before)',
    )
    command.add_argument(
        "--approximate",
        action="store_true",
        help="for millions of pictures: nearly all of the best, in milliseconds, from now on",
    )
    command.add_argument("--watch", action="store_true", help="go on and follow changes")
    command.add_argument(
        "--errors", action="store_true", help="only list the pictures that could not be read"
    )
    add_model_options(command)


def add_library_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--library",
        type=Path,
        metavar="FOLDER",
        help="where catalog and vectors lie (.twotower in the folder of pictures)",
    )


def run_index(arguments: argparse.Namespace) -> int:
    from twotower.library import Library

    folder, location = where(arguments.folder, arguments.library)
    library = Library(
        folder,
        location=location,
        model=arguments.model,
        vectors=arguments.vectors,
        engine=arguments.engine,
    )
    if arguments.errors:
        return print_errors(library)
    if folder and location is None:
        say_if_nested(folder)
    if arguments.watch:
        watch(library, approximate=arguments.approximate)
        return OK
    return index_once(library, approximate=arguments.approximate)


def where(folder: Path | None, location: Path | None) -> tuple[Path | None, Path | None]:
    """Root and location for `Library`: those given, else of the library around us."""
    from twotower.errors import LibraryError
    from twotower.index.catalog import find_library

    if folder is None and location is None:
        location = find_library(Path.cwd())
        if location is None:
            raise LibraryError("no library here or above; run: twotower index FOLDER")
    return folder, location


def say_if_nested(folder: Path) -> None:
    """Say that a folder inside a library is about to get one of its own."""
    from twotower.index.catalog import find_library

    location = find_library(folder)
    if location and not location.parent.samefile(folder):
        inner, outer = (printable(shown_path(path)) for path in (folder, location.parent))
        print(
            f"twotower: {inner} lies in the library of {outer} and gets one of its own, which is "
            f"searched there instead; for a single one: twotower index {outer}",
            file=sys.stderr,
        )


def index_once(library: Library, out: TextIO | None = None, *, approximate: bool = False) -> int:
    """Index with a progress bar, and say what was done, on stdout or elsewhere."""
    warnings.filterwarnings("ignore", module="PIL")  # about single files, and not saying which
    with show_progress("Indexing") as report_progress:
        report = library.index(report_progress, approximate=approximate)
    print(summary(report), file=out)
    for path, reason in report.unreadable.items():
        folder = printable(shown_path(library.root / path))
        print(f"twotower: {folder}: {reason}; its pictures stay", file=sys.stderr)
    if report.failed:
        print(f"twotower: {report.failed} could not be read: index --errors", file=sys.stderr)
    return FAILED if report.failed or report.unreadable else OK


def summary(report: IndexReport) -> str:
    """Such as "50 added, 3 unchanged in 2.1 s (24 a second)"."""
    counts = ("added", "moved", "removed", "unchanged")
    parts = [f"{count} {name}" for name in counts if (count := getattr(report, name))]
    rate = f" ({report.added / report.seconds:.0f} a second)" if report.added else ""
    return f"{', '.join(parts) or 'no pictures'} in {report.seconds:.1f} s{rate}"


def print_errors(library: Library) -> int:
    """One line for each picture that could not be read."""
    errors = library.catalog.errors()
    for record in errors:
        print(printable(f"{shown_path(library.root / record.path)}: {record.error}"))
    return OK


def watch(library: Library, *, approximate: bool = False) -> None:
    """Index, and again whenever something in the folder has changed, until Ctrl-C.

    What fails after the first time is said, and tried again: another process may be at it, or the
    disk be away for a while.

    Raises:
        LibraryError: the first time fails.
    """
    from twotower.errors import LibraryError

    try:
        import watchfiles
    except ImportError:
        raise LibraryError(
            "--watch needs one more package; pip install 'twotower[watch]'"
        ) from None
    location = library.location.resolve()
    changes = watchfiles.watch(
        library.root.resolve(),
        watch_filter=lambda change, path: not Path(path).is_relative_to(location),
        debounce=2000,
        rust_timeout=_TICK_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
        raise_interrupt=True,
    )
    next(changes)  # it looks from here on, and keeps what changes meanwhile
    index_once(library, approximate=approximate)
    root = printable(shown_path(library.root))
    print(f"watching {root} (Ctrl-C ends)", file=sys.stderr)
    due, said = math.inf, ""
    for changed in changes:
        if not changed and time.monotonic() < due:
            continue
        try:
            index_once(library)
            due, said = math.inf, ""
        except LibraryError as error:
            due = time.monotonic() + _RETRY_SECONDS
            if str(error) != said:
                print(f"twotower: {printable(str(error))}", file=sys.stderr)
            said = str(error)
