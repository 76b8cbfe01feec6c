"""A fetch on a cluster: slices of the candidates by host, each fetched by a worker of its own.

All URLs of a host are in one slice, so the limits of requests to a host hold for the cluster.
Layout of the destination:

    slices.json                          the number of slices, which stays
    slices/split/HASH.json               the candidate files of a batch that is split
    slices/0000/candidates/HASH.parquet  the rows of a batch that belong to slice 0
    slices/0000/shards/                  the shards and the ledger of slice 0, as of `fetch`
    00000.tar, ...                       links to the files of all complete shards

Slice k of n writes the shards k, k + n, k + 2n, ..., so names and keys are unique.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from twotower.errors import PairsError
from twotower.files import atomic_write
from twotower.pairs.cluster import Cluster
from twotower.pairs.fetching.fetch import FetchSettings, FetchSummary, fetch
from twotower.pairs.fetching.fetch_input import (
    COLUMNS,
    SLICES_FILE,
    file_identity,
    find_candidates,
    read_rows,
)
from twotower.pairs.fetching.ledger import DATA_HOST, LEDGER_FILE, host_of
from twotower.pairs.fetching.removal import RemovalReport, remove
from twotower.pairs.fetching.spool import writing
from twotower.progress import Progress, ReportProgress, ignore_progress

if TYPE_CHECKING:
    import pyarrow

FILES_PER_BATCH = 100  # a batch becomes one file in each slice
_ROWS = 200_000  # of a batch in memory, about 60 MB
_PROGRESS_FILE = "progress.json"
_PROGRESS_SECONDS = 1.0


class Slice(NamedTuple):
    """A slice of a fetch: the folder of the whole, its number, and the number of slices."""

    destination: Path
    number: int
    slices: int

    @property
    def folder(self) -> Path:
        """The folder of the slice."""
        return self.destination / "slices" / f"{self.number:04d}"

    @property
    def candidates(self) -> Path:
        """The folder of its candidates."""
        return self.folder / "candidates"

    @property
    def shards(self) -> Path:
        """The folder of its shards."""
        return self.folder / "shards"

    def __str__(self) -> str:
        return str(self.folder)


def fetch_on_cluster(
    candidates: Path,
    destination: Path,
    settings: FetchSettings,
    cluster: Cluster,
    report: ReportProgress = ignore_progress,
) -> FetchSummary:
    """Fetch the pictures of candidates on a cluster, or continue a run that was stopped.

    A slice whose worker is lost is continued by another one. `settings` apply to each slice.

    Raises:
        PairsError: the candidates cannot be read, the folder cannot be written, or it has shards
            of a fetch without a cluster.
    """
    destination = destination.resolve()
    if (destination / LEDGER_FILE).exists():
        raise PairsError(destination, "was fetched without --ray", "continue without it")
    files = [file.resolve() for file in find_candidates(candidates)]
    with writing(destination):
        slices = plan_slices(destination, cluster.cpus)
        split_candidates(files, slices, cluster, report)
        filled = [piece for piece in slices if any(piece.candidates.glob("*.parquet"))]
        poll = functools.partial(_report_progress, filled, report)
        step = functools.partial(fetch_slice, settings)
        summaries = [summary for _, summary in cluster.map(step, filled, poll)]
        for piece in slices:
            link_shards(piece)
    return _sum_of(summaries)


def plan_slices(destination: Path, count: int) -> list[Slice]:
    """Return the slices of a folder, `count` if it has none yet."""
    path = destination / SLICES_FILE
    if path.exists():
        count = json.loads(path.read_text(encoding="utf-8"))["slices"]
    else:
        with atomic_write(path, sync=True) as file:
            json.dump({"slices": count}, file)
    return [Slice(destination, number, count) for number in range(count)]


class Batch(NamedTuple):
    """Candidate files that are split together."""

    name: str
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return str(self.files[0])


def split_candidates(
    files: Sequence[Path], slices: Sequence[Slice], cluster: Cluster, report: ReportProgress
) -> None:
    """Split the candidate files that are not split yet, by the hosts of their rows."""
    done_folder = slices[0].destination / "slices" / "split"
    done_folder.mkdir(parents=True, exist_ok=True)
    done = {name for path in done_folder.glob("*.json") for name in json.loads(path.read_text())}
    missing = [file for file in files if file_identity(file) not in done]
    batches = []
    for start in range(0, len(missing), FILES_PER_BATCH):
        chunk = missing[start : start + FILES_PER_BATCH]
        names = "\n".join(map(file_identity, chunk))
        batches.append(Batch(hashlib.sha256(names.encode()).hexdigest()[:16], tuple(chunk)))
    split = functools.partial(split_batch, tuple(slices))
    for number, (batch, identities) in enumerate(cluster.map(split, batches), 1):
        with atomic_write(done_folder / f"{batch.name}.json", sync=True) as file:
            json.dump(identities, file)
        report(Progress(number, len(batches), stage="Splitting"))


def split_batch(slices: Sequence[Slice], batch: Batch) -> list[str]:
    """Write the rows of candidate files into a file of each slice; return the files' identities."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    identities = [file_identity(file) for file in batch.files]
    with ExitStack() as outputs:
        writers: dict[int, Any] = {}
        for table in _read_tables(batch.files):
            urls = table["url"].to_pylist()
            numbers = np.array([slice_number(url, len(slices)) for url in urls])
            for number in np.unique(numbers).tolist():
                if number not in writers:
                    path = slices[number].candidates / f"{batch.name}.parquet"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    output = outputs.enter_context(atomic_write(path, "wb", sync=True))
                    writers[number] = outputs.enter_context(
                        parquet.ParquetWriter(output, table.schema, compression="zstd")
                    )
                writers[number].write_table(table.filter(pa.array(numbers == number)))
    return identities


def slice_number(url: str | None, count: int) -> int:
    """Return the slice of a URL: that of its host; data URIs, which have none, are spread."""
    host = host_of(url or "")
    return zlib.crc32((url or "" if host == DATA_HOST else host).encode("utf-8", "replace")) % count


def _read_tables(files: Iterable[Path]) -> Iterator[pyarrow.Table]:
    """Yield tables of bounded size with the columns that `fetch` reads, all of strings."""
    import pyarrow as pa

    for path in files:
        for rows in read_rows(path, _ROWS):
            columns = {name: [str(row.get(name) or "") for row in rows] for name in COLUMNS}
            yield pa.table(columns, pa.schema([(name, pa.string()) for name in COLUMNS]))


def fetch_slice(settings: FetchSettings, piece: Slice) -> FetchSummary:
    """Fetch a slice, or continue it; its progress is in a file for the process that waits."""
    settings = replace(settings, first_shard=piece.number, shard_step=piece.slices)
    written = -math.inf

    def write_progress(progress: Progress) -> None:
        nonlocal written
        if time.monotonic() - written > _PROGRESS_SECONDS or progress.done == progress.total:
            written = time.monotonic()
            with atomic_write(piece.folder / _PROGRESS_FILE) as file:
                json.dump([progress.done, progress.total, progress.failed], file)

    return fetch(piece.candidates, piece.shards, settings, write_progress)


def _report_progress(slices: Sequence[Slice], report: ReportProgress) -> None:
    done = total = failed = 0
    for piece in slices:
        path = piece.folder / _PROGRESS_FILE
        if path.exists():
            numbers = json.loads(path.read_text(encoding="utf-8"))
            done, total, failed = done + numbers[0], total + numbers[1], failed + numbers[2]
    report(Progress(done, total, failed, "Fetching"))


def link_shards(piece: Slice) -> None:
    """Link the files of complete shards in the destination, where other commands look for them."""
    for path in piece.shards.glob("[0-9]*"):
        link = piece.destination / path.name
        if path.suffix in (".tar", ".parquet", ".json") and not link.is_symlink():
            link.symlink_to(path.relative_to(piece.destination))


def _sum_of(summaries: Sequence[FetchSummary]) -> FetchSummary:
    reasons: Counter[str] = Counter()
    for summary in summaries:
        reasons.update(summary.reasons)
    return FetchSummary(
        sum(summary.pictures for summary in summaries),
        sum(summary.waiting for summary in summaries),
        dict(reasons.most_common()),
    )


def remove_from_slices(folder: Path, urls: Sequence[str], hosts: Sequence[str]) -> RemovalReport:
    """Remove pictures from all slices of a folder, as `removal.remove` does from one fetch."""
    slices = plan_slices(folder.resolve(), 0)
    reports = [remove(piece.shards, urls, hosts) for piece in slices if piece.shards.exists()]
    return RemovalReport([removal for report in reports for removal in report.removals])
