"""Settings of a bulk embedding, and its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from twotower.errors import EmbedError

Format: TypeAlias = Literal["parquet", "clip-retrieval"]
FORMATS: tuple[str, ...] = get_args(Format)
ROWS_PER_SHARD = 10_000  # img2dataset's default for its shards
BATCH_SIZE = 32  # pictures
# Ids are the number of the shard times this, plus the row in it.
MAX_ROWS_PER_SHARD = 10**9


@dataclass(frozen=True)
class EmbedSettings:
    """Settings of a bulk embedding. All but the last four belong to its folder.

    Attributes:
        texts: embed texts instead of pictures: the lines of files, or a column of tables.
        column: of Parquet tables: the pictures, paths, URLs or texts; None to choose by its name.
        format: "clip-retrieval" writes the folders of that program too.
        rows_per_shard: items in a shard; a run that is stopped loses at most that many.
        engine: the runtime, see `load`.
        batch_size: pictures that are computed at once.
        contact: an address for complaints, in the `User-Agent` header of requests.
        allow_private: request URLs at private and loopback addresses, for tests.
    """

    texts: bool = False
    column: str | None = None
    format: Format = "parquet"
    rows_per_shard: int = ROWS_PER_SHARD
    engine: str = "auto"
    batch_size: int = BATCH_SIZE
    contact: str = ""
    allow_private: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise EmbedError(
                f"format {self.format!r}", "unknown", f"choose one of {', '.join(FORMATS)}"
            )
        if not 0 < self.rows_per_shard <= MAX_ROWS_PER_SHARD:
            raise EmbedError(
                f"rows_per_shard {self.rows_per_shard}",
                "is no number of rows",
                f"give one from 1 to {MAX_ROWS_PER_SHARD}",
            )

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the files."""
        run = ("engine", "batch_size", "contact", "allow_private")
        return {name: value for name, value in asdict(self).items() if name not in run}


@dataclass(frozen=True)
class EmbedSummary:
    """The state of a folder of embeddings after a run.

    Attributes:
        rows: in the shards, of which `failed` have an error instead of an embedding.
        shards: that are complete.
        earlier_shards: of these, complete before this run.
        faults: input files that could not be read, with reasons.
        seconds: of this run.
    """

    rows: int
    failed: int
    shards: int
    earlier_shards: int
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_success(self) -> bool:
        """True if all inputs were read and at least one item was embedded."""
        return not self.faults and self.failed < self.rows
