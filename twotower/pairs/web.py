"""Archives, pages, feeds and URL lists -> a folder of candidates, one file for each input.

The folder has `sources.json`, the inputs of each part in order, and `part-00000.parquet` and so on.
A part appears when it is complete, so a run that was stopped continues with the missing ones.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from twotower.errors import PairsError
from twotower.files import atomic_write, create_folder
from twotower.pairs.candidates import Candidate, Counts, Reason, read_counts, write_part
from twotower.pairs.part_workers import Steps, available_cores, make_parts
from twotower.pairs.readers.archives import archive_candidates
from twotower.pairs.readers.encodings import decode_page
from twotower.pairs.readers.feeds import feed_candidates
from twotower.pairs.readers.html import Page, page_candidates
from twotower.pairs.readers.http_bodies import MAX_PAGE
from twotower.pairs.readers.reading import Reading
from twotower.pairs.readers.url_lists import list_candidates
from twotower.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    from twotower.pairs.cluster import Cluster

ARCHIVES = (".warc", ".warc.gz", ".warc.zst", ".wat", ".wat.gz")
PAGES = (".html", ".htm", ".xhtml")
FEEDS = (".xml", ".xml.gz", ".rss", ".atom")
LISTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".parquet")
SUFFIXES = (*ARCHIVES, *PAGES, *FEEDS, *LISTS)
PAGES_PER_PART = 1_000  # saved pages are small files
PLAN = "sources.json"
_BLOCK = 2**16  # bytes of a feed read at a time


@dataclass(frozen=True)
class CollectSettings:
    """Settings that decide which candidates a run finds.

    Attributes:
        keep_refused: keep the images of pages that refuse collection.
        url_column, caption_column: names in URL lists; "" to find them by usual names.
    """

    keep_refused: bool = False
    url_column: str = ""
    caption_column: str = ""


@dataclass(frozen=True)
class PartPlan:
    """A part of the candidates.

    Attributes:
        path: of its Parquet file.
        files: its inputs.
        size: of the inputs together, in bytes.
    """

    path: Path
    files: tuple[Path, ...]
    size: int

    def __str__(self) -> str:
        return str(self.files[0]) if len(self.files) == 1 else f"{self.files[0]} and others"


@dataclass(frozen=True)
class Collected:
    """The result of a run.

    Attributes:
        counts: of all parts in the folder: pages, candidates, and what was left out by reason.
        parts_made: parts that this run has made.
        parts_kept: parts that were complete before.
        failures: a line for each input that could not be read.
    """

    counts: Counts
    parts_made: int
    parts_kept: int
    failures: list[str]


def collect(
    sources: Sequence[Path],
    folder: Path,
    settings: CollectSettings = CollectSettings(),  # it is frozen
    processes: int = 0,
    report: ReportProgress = ignore_progress,
    cluster: Cluster | None = None,
) -> Collected:
    """Collect candidates from files and folders; a part that is complete already is kept.

    Args:
        folder: of the candidates; made if it does not exist.
        processes: 0 for one for each core; without effect on a cluster.
        report: called with bytes.
        cluster: makes the parts; by default processes of this machine do.

    Raises:
        PairsError: a source is missing or of an unknown kind, other settings were used in the
            folder, or another process is collecting into it.
    """
    folder = folder.resolve()  # may lie in a source
    files = [path for path in source_files(sources) if folder not in path.parents]
    create_folder(folder)
    with _only_process(folder):
        plans = plan_parts(files, folder, settings)
        missing = [plan for plan in plans if not plan.path.exists()]
        failures = []
        total, finished = sum(plan.size for plan in missing), 0

        def report_bytes(in_progress: int) -> None:
            report(Progress(min(finished + in_progress, total), total, stage="Collecting"))

        make = functools.partial(_make_part, settings)
        if cluster is None:
            results = make_parts(missing, make, processes or available_cores(), report_bytes)
        else:
            results = cluster.map(functools.partial(_make_in_process, make), missing)
        for plan, failure in results:
            finished += plan.size
            report_bytes(0)
            if failure:
                failures.append(failure)
        counts: Counts = Counter()
        for plan in plans:
            if plan.path.exists():
                counts.update(read_counts(plan.path))
    made = len(missing) - len(failures)
    return Collected(counts, made, len(plans) - len(missing), failures)


def source_files(sources: Sequence[Path]) -> list[Path]:
    """Return the files of sources, of which a folder is searched, without repetitions.

    Raises:
        PairsError: a source does not exist, has an unknown suffix, or is a folder without inputs.
    """
    files: dict[Path, None] = {}
    for source in sources:
        if source.is_dir():
            inside = sorted(path for path in source.rglob("*") if _is_source(path))
            if not inside:
                raise PairsError(source, "no archives, pages, feeds or lists", "check the folder")
            files.update(dict.fromkeys(path.resolve() for path in inside))
        elif not source.exists():
            raise PairsError(source, "no such file or folder", "check the path")
        elif not _is_source(source):
            raise PairsError(source, "of an unknown kind", f"rename it to end in {_SUFFIX_LIST}")
        else:
            files[source.resolve()] = None
    return list(files)


_SUFFIX_LIST = " ".join(SUFFIXES)


def _is_source(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def plan_parts(files: Sequence[Path], folder: Path, settings: CollectSettings) -> list[PartPlan]:
    """Return the parts of a folder: those planned before, then those of new files.

    The part of a file whose size has changed is removed, so that it is made again.

    Raises:
        PairsError: the folder was begun with other settings.
    """
    groups = _planned_groups(folder, settings)
    planned = {name for group in groups for name in group["files"]}
    new = [path for path in files if str(path) not in planned]
    pages = [path for path in new if path.name.lower().endswith(PAGES)]
    page_set = set(pages)
    chunks = [pages[i : i + PAGES_PER_PART] for i in range(0, len(pages), PAGES_PER_PART)]
    chunks += [[path] for path in new if path not in page_set]
    groups += [{"files": [str(path) for path in chunk], "bytes": -1} for chunk in chunks]
    plans = []
    for number, group in enumerate(groups):
        paths = tuple(map(Path, group["files"]))
        plan = PartPlan(folder / f"part-{number:05d}.parquet", paths, _size_of(paths))
        if plan.size != group["bytes"]:
            plan.path.unlink(missing_ok=True)
            group["bytes"] = plan.size
        plans.append(plan)
    with atomic_write(folder / PLAN, sync=True) as file:
        json.dump({"settings": asdict(settings), "parts": groups}, file, indent=1)
    return plans


def _planned_groups(folder: Path, settings: CollectSettings) -> list[dict[str, Any]]:
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(folder.glob("part-*.parquet")):
            raise PairsError(
                folder, f"has parts but no {PLAN}", "collect into another folder"
            ) from None
        return []
    except ValueError:
        raise PairsError(folder / PLAN, "cannot be read", "collect into another folder") from None
    if plan["settings"] != asdict(settings):
        raise PairsError(
            folder, "was collected with other options", "use the same, or another folder"
        )
    return list(plan["parts"])


def _size_of(paths: Sequence[Path]) -> int:
    size = 0
    for path in paths:
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    return size


@contextlib.contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Keep other processes from collecting into a folder, and remove what killed ones left."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise PairsError(
            folder, "another process is collecting into it", "wait until it has finished"
        ) from None
    try:
        for path in folder.glob(".twotower-*"):
            path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _make_part(settings: CollectSettings, plan: PartPlan, steps: Steps) -> None:
    collect_part(plan.files, plan.path, settings, steps)


def _make_in_process(make: Callable[[PartPlan, Steps], None], plan: PartPlan) -> str:
    """Make a part in a process, which a page may stop; return the reason of a failure, or ""."""
    return "".join(failure for _, failure in make_parts([plan], make, 1, lambda _: None))


def collect_part(
    files: Sequence[Path], path: Path, settings: CollectSettings, steps: Steps | None = None
) -> Counts:
    """Read inputs into a part, which appears when it is complete; return its counts.

    Args:
        steps: where to note each page, for a parent that replaces this process if it crashes.

    Raises:
        PairsError: an input is of an unknown kind, or a list lacks a column.
        OSError: an archive, feed or list cannot be opened, or the part cannot be written.
    """
    counts: Counts = Counter()
    write_part(path, _read_files(files, settings, steps, counts), counts)
    return counts


def _read_files(
    files: Sequence[Path], settings: CollectSettings, steps: Steps | None, counts: Counts
) -> Iterator[Candidate]:
    offset = 0

    def begin_page(position: int) -> bool:
        if steps is None or steps.begin(offset + position):
            return True
        counts[Reason.UNREADABLE_PAGE] += 1
        return False

    reading = Reading(counts, **asdict(settings), begin_page=begin_page)
    for file in files:
        yield from read_source(file, reading)
        with contextlib.suppress(OSError):
            offset += file.stat().st_size


def read_source(path: Path, reading: Reading) -> Iterator[Candidate]:
    """Yield the candidates of an archive, page, feed or list, by the suffix of its name.

    Raises:
        PairsError: its kind is unknown, or it is a list that lacks a column.
        OSError: it cannot be opened; saved pages are counted instead.
    """
    name = path.name.lower()
    if name.endswith(ARCHIVES):
        return archive_candidates(path, reading)
    if name.endswith(PAGES):
        return _saved_page(path, reading)
    if name.endswith(FEEDS):
        return _feed_file(path, reading)
    if name.endswith(LISTS):
        return list_candidates(path, reading)
    raise PairsError(path, "of an unknown kind", f"rename it to end in {_SUFFIX_LIST}")


def _saved_page(path: Path, reading: Reading) -> Iterator[Candidate]:
    if not reading.begin_page(0):
        return
    try:
        with path.open("rb") as file:
            body = file.read(MAX_PAGE + 1)
    except OSError:  # removed since it was listed, or not readable
        reading.counts[Reason.MALFORMED_RECORD] += 1
        return
    if len(body) > MAX_PAGE:
        reading.counts[Reason.PAGE_TOO_LONG] += 1
        return
    markup, fits = decode_page(body)
    if not fits:
        reading.counts[Reason.WRONG_ENCODING] += 1
    yield from page_candidates(Page(markup, "", path.name), reading)


def _feed_file(path: Path, reading: Reading) -> Iterator[Candidate]:
    if reading.begin_page(0):
        with path.open("rb") as file:
            blocks = _blocks(file, path.name.lower().endswith(".gz"), reading.counts)
            yield from feed_candidates(blocks, "", path.name, reading)


def _blocks(file: IO[bytes], compressed: bool, counts: Counts) -> Iterator[bytes]:
    stream = gzip.GzipFile(fileobj=file) if compressed else file
    try:
        while block := stream.read(_BLOCK):
            yield block
    except (EOFError, zlib.error, gzip.BadGzipFile):
        counts[Reason.TRUNCATED] += 1
