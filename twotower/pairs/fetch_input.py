"""Reading of candidates into the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from twotower.errors import PairsError
from twotower.pairs.ledger import Candidate, Ledger, Text
from twotower.progress import Progress, ReportProgress

_BATCH_ROWS = 10_000
_COLUMNS = ("caption", "caption_source", "page_url", "language")


def find_parts(candidates: Path) -> list[Path]:
    """Return the Parquet files of a folder, or the file itself.

    Raises:
        PairsError: there is none.
    """
    parts = sorted(candidates.glob("*.parquet")) if candidates.is_dir() else [candidates]
    if not parts or not parts[0].is_file():
        raise PairsError(candidates, "holds no candidates", "give a folder of `pairs collect`")
    return parts


def read_into_ledger(parts: Sequence[Path], ledger: Ledger, report: ReportProgress) -> None:
    """Add the candidates of Parquet files to a ledger; those that it has are skipped.

    Raises:
        PairsError: a file cannot be read, or has no column `url`.
    """
    for done, part in enumerate(parts, 1):
        facts = part.stat()
        name = f"{part.name}:{facts.st_size}:{facts.st_mtime_ns}"
        if not ledger.has_part(name):
            ledger.add_part(name, _read_batches(part))
        report(Progress(done, len(parts), stage="Reading candidates"))


def _read_batches(part: Path) -> Iterator[list[Candidate]]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(part)
        if "url" not in file.schema_arrow.names:
            raise PairsError(part, "has no column `url`", "give a folder of `pairs collect`")
        columns = [name for name in ("url", *_COLUMNS) if name in file.schema_arrow.names]
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
            yield [_candidate(row) for row in batch.to_pylist() if row["url"]]
    except (pa.ArrowException, OSError) as error:
        raise PairsError(part, f"cannot be read ({error})", "collect or copy it again") from None


def _candidate(row: dict[str, Any]) -> Candidate:
    texts = [str(row.get(name) or "") for name in _COLUMNS]
    return Candidate(str(row["url"]), Text(*texts))
