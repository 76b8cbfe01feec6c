"""Reading of candidates into the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twotower.errors import PairsError
from twotower.pairs.fetching.ledger import Candidate, Ledger, Text
from twotower.progress import Progress, ReportProgress

SLICES_FILE = "slices.json"  # in the folder of a fetch on a cluster
COLUMNS = ("url", "caption", "caption_source", "page_url", "language")
_BATCH_ROWS = 10_000


def find_candidates(candidates: Path) -> list[Path]:
    """Return the Parquet files of a folder, or the file itself.

    Raises:
        PairsError: there is none.
    """
    files = sorted(candidates.glob("*.parquet")) if candidates.is_dir() else [candidates]
    if not files or not files[0].is_file():
        raise PairsError(candidates, "holds no candidates", "give a folder of `pairs collect`")
    return files


def read_into_ledger(files: Sequence[Path], ledger: Ledger, report: ReportProgress) -> None:
    """Add the candidates of Parquet files to a ledger; those that it has are skipped.

    Raises:
        PairsError: a file cannot be read, or has no column `url`.
    """
    for done, file in enumerate(files, 1):
        name = file_identity(file)
        if not ledger.has_part(name):
            ledger.add_part(name, _read_batches(file))
        report(Progress(done, len(files), stage="Reading candidates"))


def file_identity(file: Path) -> str:
    """Return the name of a file with its size and time, which change with its contents."""
    facts = file.stat()
    return f"{file.name}:{facts.st_size}:{facts.st_mtime_ns}"


def _read_batches(path: Path) -> Iterator[list[Candidate]]:
    for rows in read_rows(path, _BATCH_ROWS):
        yield [_candidate(row) for row in rows]


def read_rows(path: Path, number: int) -> Iterator[list[dict[str, Any]]]:
    """Yield lists of at most `number` rows that have a URL, with those of `COLUMNS` that exist.

    Raises:
        PairsError: the file cannot be read, or has no column `url`.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        if "url" not in table.schema_arrow.names:
            raise PairsError(path, "has no column `url`", "give a folder of `pairs collect`")
        columns = [name for name in COLUMNS if name in table.schema_arrow.names]
        for batch in table.iter_batches(number, columns=columns):
            yield [row for row in batch.to_pylist() if row["url"]]
    except (pa.ArrowException, OSError) as error:
        raise PairsError(path, f"cannot be read ({error})", "collect or copy it again") from None


def _candidate(row: dict[str, Any]) -> Candidate:
    texts = [str(row.get(name) or "") for name in COLUMNS[1:]]
    return Candidate(str(row["url"]), Text(*texts))
