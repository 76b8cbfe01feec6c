"""`twotower index`: index a folder of pictures, or bring its library up to date."""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from twotower.cli.output import (
    FAILED,
    OK,
    add_model_options,
    count_of,
    printable,
    show_progress,
    shown_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from twotower.cli.output import Commands
    from twotower.index.indexing import IndexReport
    from twotower.library import Library

_TICK_MS = 500  # longest wait for a change before the clock is read
_RETRY_SECONDS = 10.0


def add_commands(commands: Commands) -> None:
    command = commands.add_parser("index", help="make a folder of pictures searchable")
    command.set_defaults(run=run_index)
    command.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="the pictures (default: the library of the working directory)",
    )
    add_library_option(command)
    command.add_argument(
        "--vectors",
        metavar="STORE",
        help="where the vectors are: postgresql://HOST/DATABASE, qdrant://HOST/COLLECTION, "
        'milvus://HOST/COLLECTION, a .db file of Milvus Lite, or "local" (default: unchanged)',
    )
    command.add_argument(
        "--approximate",
        action="store_true",
        help="for millions of pictures: build lists for a search in milliseconds, which finds "
        "nearly all of the best",
    )
    command.add_argument(
        "--verify-content",
        action="store_true",
        help="read every file again, also those whose size and times are unchanged",
    )
    command.add_argument(
        "--import",
        dest="import_from",
        type=Path,
        metavar="SOURCE",
        help="take the vectors of another program's index, after a sample was compared: rclip's "
        "db.sqlite3, a folder of twotower embed or clip-retrieval, or Parquet with the columns "
        "path and embedding",
    )
    command.add_argument("--watch", action="store_true", help="keep running and follow changes")
    command.add_argument(
        "--errors", action="store_true", help="only list the pictures that could not be read"
    )
    add_model_options(command, default_engine="auto")


def add_library_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--library",
        type=Path,
        metavar="FOLDER",
        help="folder of catalog and vectors (default: .twotower in the folder of pictures)",
    )


def run_index(arguments: argparse.Namespace) -> int:
    from twotower.library import Library

    folder, location = resolve_library(arguments.folder, arguments.library)
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
        warn_if_nested(folder)
    if arguments.watch:
        watch(
            library,
            approximate=arguments.approximate,
            verify_content=arguments.verify_content,
            import_from=arguments.import_from,
        )
        return OK
    return index_once(
        library,
        approximate=arguments.approximate,
        verify_content=arguments.verify_content,
        import_from=arguments.import_from,
    )


def resolve_library(folder: Path | None, location: Path | None) -> tuple[Path | None, Path | None]:
    """Return root and location for `Library`; without either, those of the working directory.

    Raises:
        LibraryError: there is no library in the working directory or above it.
    """
    from twotower.errors import LibraryError
    from twotower.index.catalog import find_library

    if folder is None and location is None:
        location = find_library(Path.cwd())
        if location is None:
            raise LibraryError(
                Path.cwd(), "no library here or in a folder above", "run: twotower index FOLDER"
            )
    return folder, location


def warn_if_nested(folder: Path) -> None:
    """Warn that a folder inside a library is about to get a library of its own."""
    from twotower.index.catalog import find_library

    location = find_library(folder)
    if location and not location.parent.samefile(folder):
        inner, outer = (printable(shown_path(path)) for path in (folder, location.parent))
        print(
            f"twotower: {inner}: lies in the library of {outer}, and gets a separate library, "
            f"which is searched there instead; for a single one: twotower index {outer}",
            file=sys.stderr,
        )


def index_once(
    library: Library,
    out: TextIO | None = None,
    *,
    approximate: bool = False,
    verify_content: bool = False,
    import_from: Path | None = None,
    refine: bool = True,
) -> int:
    """Index with a progress bar, and print the result to `out`, by default stdout.

    Args:
        refine: go on with the better model, where the library is indexed with a quick one.
    """
    warnings.filterwarnings("ignore", module="PIL")  # about single files, without their names
    with show_progress("Indexing") as report_progress:
        report = library.index(
            report_progress,
            approximate=approximate,
            verify_content=verify_content,
            import_from=import_from,
            refine=False,
        )
    print(summary(report), file=out, flush=True)
    for path, reason in report.unreadable.items():
        folder = printable(shown_path(library.root / path))
        print(f"twotower: {folder}: {reason}; its pictures stay indexed", file=sys.stderr)
    if report.failed:
        print(
            f"twotower: {count_of(report.failed, 'picture')} could not be read; "
            "list them with: twotower index --errors",
            file=sys.stderr,
        )
    if refine:
        refine_once(library, out, approximate=approximate)
    return FAILED if report.failed or report.unreadable else OK


def refine_once(library: Library, out: TextIO | None = None, *, approximate: bool = False) -> None:
    """Change to the better model if there is one, with a progress bar, and print the result."""
    if not library.better_model:
        return
    print(
        f"twotower: can be searched now; refining with {library.better_model} "
        "(Ctrl-C loses nothing)",
        file=sys.stderr,
    )
    with show_progress("Refining") as report_progress:
        report = library.refine(report_progress, approximate=approximate)
    if report:
        print(summary(report, "refined"), file=out)


def summary(report: IndexReport, verb: str = "added") -> str:
    """Return a line such as "50 added, 3 unchanged in 2.1 s (24 a second)"."""
    names = {"added": verb} | {name: name for name in ("imported", "moved", "removed", "unchanged")}
    counts = [f"{count} {word}" for name, word in names.items() if (count := getattr(report, name))]
    rate = f" ({report.added / report.seconds:.0f} a second)" if report.added else ""
    return f"{', '.join(counts) or 'no pictures'} in {report.seconds:.1f} s{rate}"


def print_errors(library: Library) -> int:
    """Print a line for each picture that could not be read."""
    errors = library.catalog.errors()
    for record in errors:
        print(printable(f"{shown_path(library.root / record.path)}: {record.error}"))
    return OK


def watch(
    library: Library,
    *,
    approximate: bool = False,
    verify_content: bool = False,
    import_from: Path | None = None,
) -> None:
    """Index, and again after each change in the folder, until Ctrl-C.

    Errors after the first run are printed and indexing is tried again: another process may be
    indexing, or the disk be disconnected for a while.

    Raises:
        LibraryError: the first run fails, or watchfiles is not installed.
    """
    changes = watch_changes(library)
    next(changes)  # starts watching: changes during the first run are kept
    index_once(
        library, approximate=approximate, verify_content=verify_content, import_from=import_from
    )
    root = printable(shown_path(library.root))
    print(f"watching {root}; stop with Ctrl-C", file=sys.stderr)
    index_changes(library, changes)


def watch_changes(library: Library) -> Iterator[bool]:
    """Return an iterator: True after changes in the folder of pictures, else False each tick.

    Raises:
        LibraryError: watchfiles is not installed.
    """
    from twotower.errors import LibraryError

    try:
        import watchfiles
    except ImportError:
        raise LibraryError(
            "--watch", "needs one more package", "pip install 'twotower[watch]'"
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
    return map(bool, changes)


def index_changes(library: Library, changes: Iterator[bool]) -> None:
    """Index after each change, and again `_RETRY_SECONDS` after an error; print an error once."""
    from twotower.errors import LibraryError

    due, printed = math.inf, ""
    for changed in changes:
        if not changed and time.monotonic() < due:
            continue
        try:
            index_once(library)
            due, printed = math.inf, ""
        except LibraryError as error:
            due = time.monotonic() + _RETRY_SECONDS
            if str(error) != printed:
                print(f"twotower: {printable(str(error))}", file=sys.stderr)
            printed = str(error)
