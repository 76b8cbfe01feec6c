"""The shard that is being written: a tar that grows, and its rows in the ledger.

A shard has img2dataset's layout: `00000.tar`, `00000.parquet`, `00000_stats.json`. While it grows,
its tar is named `00000.tar.part`. Its bytes are flushed to the disk before the ledger records them,
and bytes that the ledger does not have are cut off when the next run continues.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from twotower.errors import LibraryError, PairsError
from twotower.files import atomic_write, exclusive_lock, sync_folder
from twotower.pairs.fetching.ledger import Ledger, Result, ShardState

_BUFFER = 2**20  # bytes
_TEXT_COLUMNS = (
    "url", "key", "status", "reason", "error_message", "caption", "page_url", "language", "sha256",
    "final_url", "content_type", "fetched_at", "consent",
)  # fmt: skip
_EMPTY_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)  # tarfile takes 100 microseconds
_LIST_COLUMNS = ("captions", "caption_sources")
_NUMBER_COLUMNS = ("width", "height", "original_width", "original_height")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Lock a folder of shards while the block runs; errors of the disk become `PairsError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder):
            yield
    except LibraryError as error:
        raise PairsError(folder, error.reason, "wait until it has finished") from None
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PairsError(
            folder, f"cannot be written ({reason})", "make space, then run the command again"
        ) from error


class Spool:
    """The end of the shards of a folder, to which results are appended.

    `append` and `take_batch` belong to one thread; `write_batch` may run in another.

    Args:
        per_shard: URLs in a shard, failures included.
        first_shard: the number of the first shard of the folder.
        shard_step: from the number of a shard to that of the next.

    Raises:
        PairsError: a tar is shorter than the ledger says.
    """

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        run: int,
        per_shard: int,
        first_shard: int = 0,
        shard_step: int = 1,
    ) -> None:
        self.folder, self.ledger, self.run, self.per_shard = folder, ledger, run, per_shard
        self._step = shard_step
        self._results: list[Result] = []
        next_shard = ledger.next_shard(first_shard, shard_step)
        states = ledger.open_shards() or [ShardState(next_shard, 0, 0)]
        for state in states[:-1]:
            finish_shard(folder, ledger, state)
        state = states[-1]
        self.number, self.rows = state.number, state.rows
        self._tar = _open_part(folder, state)

    @property
    def is_full(self) -> bool:
        """True if the shard has all its rows."""
        return self.rows >= self.per_shard

    def append(
        self, digest: bytes, record: dict[str, Any], picture: bytes, suffix: str, final_url: str
    ) -> None:
        """Append the result of a URL.

        Args:
            digest: the hash of the URL.
            record: its facts; `key` is added.
            picture: the encoded picture; empty if the URL failed.
            suffix: the extension of the picture, without the dot.

        Raises:
            OSError: the tar cannot be written.
        """
        record = {**record, "key": f"{self.number:05d}{self.rows:0{self._digits}d}"}
        text = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")
        if picture:
            caption = record["caption"].encode("utf-8", "replace")
            contents = {suffix: picture, "txt": caption, "json": text}
            self._tar.write(b"".join(_members(record["key"], contents)))
        self._results.append(
            Result(digest, self.rows, record["status"], record["reason"], text.decode(), final_url)
        )
        self.rows += 1

    @property
    def _digits(self) -> int:
        """The digits of a row's number, as img2dataset has them for shards of 10 000."""
        return max(4, len(str(self.per_shard - 1)))

    def take_batch(self) -> Batch:
        """Return the results since the last call, whose bytes are in the file."""
        self._tar.flush()
        results, self._results = self._results, []
        return Batch(self, ShardState(self.number, self.rows, self._tar.tell()), self._tar, results)

    def roll_over(self) -> Batch:
        """Begin the next shard; return the last batch of the full one, which is then finished."""
        batch = self.take_batch()
        batch.is_last = True
        self.number, self.rows = self.number + self._step, 0
        self._tar = _open_part(self.folder, ShardState(self.number, 0, 0))
        return batch

    def finish(self) -> None:
        """Write what is left, and complete the shard, unless it is empty."""
        batch = self.take_batch()
        batch.is_last = True
        batch.write()

    def abandon(self) -> None:
        """Close the tar without recording anything, after an error."""
        with suppress(OSError):  # the buffer of a full disk; the ledger lacks it too
            self._tar.close()


class Batch:
    """Results of a shard to be recorded.

    Attributes:
        is_last: True if the shard is complete with it.
    """

    def __init__(
        self, spool: Spool, state: ShardState, tar: IO[bytes], results: list[Result]
    ) -> None:
        self._spool, self._state, self._tar, self._results = spool, state, tar, results
        self.is_last = False

    def write(self) -> None:
        """Flush the tar to the disk, then record the results."""
        if self._results:
            os.fsync(self._tar.fileno())
            self._spool.ledger.record_results(self._state, self._spool.run, self._results)
        if self.is_last:
            self._tar.close()
            finish_shard(self._spool.folder, self._spool.ledger, self._state)


def finish_shard(folder: Path, ledger: Ledger, state: ShardState) -> None:
    """Complete the files of a shard; can be repeated after a crash at any point.

    A shard without rows leaves no files.
    """
    growing, tar = _part_path(folder, state.number), tar_path(folder, state.number)
    if not state.rows:
        growing.unlink(missing_ok=True)
        return
    _open_part(folder, state).close()
    with growing.open("r+b") as file:
        file.seek(state.bytes)
        file.write(_end_of_tar(state.bytes))
        file.flush()
        os.fsync(file.fileno())
    growing.replace(tar)
    sync_folder(folder)
    write_tables(folder, state.number, ledger.shard_records(state.number))
    ledger.complete_shard(state.number)


def write_tables(folder: Path, shard: int, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the Parquet table and the statistics of a shard."""
    import pyarrow as pa
    import pyarrow.parquet

    fields = [(name, pa.string()) for name in _TEXT_COLUMNS]
    fields += [(name, pa.list_(pa.string())) for name in _LIST_COLUMNS]
    fields += [(name, pa.int32()) for name in _NUMBER_COLUMNS]
    rows = [{**record, "consent": json.dumps(record.get("consent", []))} for record in records]
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
    with atomic_write(folder / f"{shard:05d}.parquet", "wb", sync=True) as file:
        pyarrow.parquet.write_table(table, file, compression="zstd")
    with atomic_write(folder / f"{shard:05d}_stats.json", sync=True) as file:
        json.dump(_statistics(records), file, indent=4)


def tar_path(folder: Path, shard: int) -> Path:
    """Return the tar of a complete shard."""
    return folder / f"{shard:05d}.tar"


def _part_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.tar.part"


def _open_part(folder: Path, state: ShardState) -> IO[bytes]:
    """Open the tar of an incomplete shard, cut to its recorded bytes, at its end."""
    growing, tar = _part_path(folder, state.number), tar_path(folder, state.number)
    if tar.exists() and not growing.exists():  # killed between its renaming and the ledger
        tar.replace(growing)
    growing.touch()
    if growing.stat().st_size < state.bytes:
        raise PairsError(growing, "shorter than the ledger says", "restore it from a copy")
    file = growing.open("r+b", buffering=_BUFFER)
    file.truncate(state.bytes)
    file.seek(state.bytes)
    return file


def _members(key: str, contents: Mapping[str, bytes]) -> Iterator[bytes]:
    """Yield the headers and padded contents of a sample's members, by their extensions."""
    for extension, content in contents.items():
        yield _header(f"{key}.{extension}", len(content))
        yield content
        yield bytes(-len(content) % tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    """Return the header of a member: that of an empty one, with name, size and checksum."""
    header = bytearray(_EMPTY_HEADER)
    header[: len(name)] = name.encode()
    header[124:135] = b"%011o" % size
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


def _end_of_tar(size: int) -> bytes:
    """Return two empty blocks, and the padding to a whole record."""
    return bytes(2 * tarfile.BLOCKSIZE + -(size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)


def _statistics(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return img2dataset's statistics of a shard."""
    statuses = Counter(record["status"] for record in records)
    times = sorted(datetime.fromisoformat(record["fetched_at"]).timestamp() for record in records)
    start, end = (times[0], times[-1]) if times else (0.0, 0.0)
    return {
        "count": len(records),
        "successes": statuses["success"],
        "failed_to_download": statuses["failed_to_download"],
        "failed_to_resize": statuses["failed_to_resize"],
        "duration": end - start,
        "start_time": start,
        "end_time": end,
        "status_dict": dict(
            Counter(record["reason"] or record["status"] for record in records).most_common()
        ),
    }
