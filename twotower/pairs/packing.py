"""Packing of a selection: shards in img2dataset's layout, with a manifest and a datasheet.

Each shard is a function of the selection and its own number, so that a packing that was stopped
continues with the shards that are missing, and writes the same bytes as if it had not been.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twotower.errors import PairsError
from twotower.files import atomic_write
from twotower.inputs.pictures import open_header
from twotower.pairs.filters.columns import read_parquet, write_parquet
from twotower.pairs.filters.funnel import FUNNEL_FILE
from twotower.pairs.pair import Pair
from twotower.pairs.shards import SHARD_PAIRS
from twotower.pairs.tars import PICTURE_EXTENSIONS, TarPairs
from twotower.progress import Progress, ReportProgress, ignore_progress

MARK = ".packing.json"  # names the selection of an unfinished packing
# Fields of a sample's JSON that are columns of the Parquet file, with pyarrow's names of types.
FIELDS = {
    "url": "string",
    "page_url": "string",
    "language": "string",
    "width": "int32",
    "height": "int32",
    "original_width": "int32",
    "original_height": "int32",
    "sha256": "string",
}


@dataclass(frozen=True)
class SelectedSample:
    """A picture to pack: its tar, its key there, and the numbers of its kept texts."""

    shard: str
    key: str
    captions: tuple[int, ...]


@dataclass
class PackedCounts:
    """Counts of a packed shard, for its statistics and the manifest."""

    samples: int = 0
    pairs: int = 0
    caption_sources: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=dict)


def pack_selection(
    source: Path,
    filtering: Path,
    destination: Path,
    samples_per_shard: int = SHARD_PAIRS,
    report: ReportProgress = ignore_progress,
) -> list[PackedCounts]:
    """Write the kept samples of tars as `00000.tar`, `00000.parquet`, `00000_stats.json`, ...

    A sample has its picture unchanged, `KEY.txt` with its first kept text, and `KEY.json` with all
    fields of its source, its kept texts (`captions`) and its origin (`source_shard`, `source_key`).

    Args:
        source: the folder of tars that was filtered.
        filtering: the output folder of `filter_pairs`.

    Returns:
        The counts of each shard.

    Raises:
        PairsError: the filtering is not complete, `destination` holds something else, or a sample
            is no longer there.
    """
    begin_packing(filtering, destination, samples_per_shard)
    total = count_kept(filtering)
    samples = selected_samples(filtering)
    tar = SourceTar(source)
    counts = []
    for shard in itertools.count():
        batch = list(itertools.islice(samples, samples_per_shard))
        if not batch:
            break
        stats = destination / f"{shard:05d}_stats.json"
        if not stats.exists():
            _write_shard(tar, destination, shard, batch, samples_per_shard)
        counts.append(_read_counts(stats))
        report(Progress(shard * samples_per_shard + len(batch), total, stage="Packing"))
    return counts


def begin_packing(filtering: Path, destination: Path, samples_per_shard: int) -> None:
    """Record the selection in the destination, or compare it with what is there.

    Raises:
        PairsError: the filtering is not complete, or `destination` holds something else.
    """
    funnel = filtering / FUNNEL_FILE
    if not funnel.exists():
        raise PairsError(filtering, "holds no complete filtering", "run: twotower pairs filter")
    digest = hashlib.sha256(funnel.read_bytes())
    for path in selection_files(filtering):
        digest.update(path.read_bytes())
    record = {"selection": digest.hexdigest(), "samples_per_shard": samples_per_shard}
    destination.mkdir(parents=True, exist_ok=True)
    mark = destination / MARK
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == record:
        return
    if any(destination.iterdir()):
        raise PairsError(destination, "already holds files", "choose another folder")
    with atomic_write(mark) as file:
        json.dump(record, file)


def end_packing(destination: Path) -> None:
    """Remove the record of `begin_packing`."""
    (destination / MARK).unlink(missing_ok=True)


def selection_files(filtering: Path) -> list[Path]:
    """Return the files of a selection, in order."""
    return sorted((filtering / "selection").glob("*.parquet"))


def count_kept(filtering: Path) -> int:
    """Return the number of samples of a selection with a kept text."""
    funnel: dict[str, Any] = json.loads((filtering / FUNNEL_FILE).read_text(encoding="utf-8"))
    return int(funnel["samples"])


def selected_samples(filtering: Path) -> Iterator[SelectedSample]:
    """Yield the samples with a kept text, in the order of the selection."""
    for path in selection_files(filtering):
        table = read_parquet(path, ["key", "shard", "caption", "kept"])
        rows = table.filter(table["kept"]).to_pylist()
        for (shard, key), group in itertools.groupby(rows, lambda row: (row["shard"], row["key"])):
            yield SelectedSample(shard, key, tuple(row["caption"] for row in group))


class SourceTar:
    """The tars of a folder, of which the one that was read most recently is open."""

    def __init__(self, source: Path) -> None:
        self._folder = source if source.is_dir() else source.parent
        self._shard = ""
        self._tar: TarPairs | None = None
        self._numbers: dict[str, int] = {}

    def read(self, sample: SelectedSample) -> tuple[Pair, dict[str, Any]]:
        """Return a sample with all its texts, and the fields of its JSON.

        Raises:
            PairsError: the tar or the sample is no longer there.
        """
        tar = self._open(sample.shard)
        if sample.key not in self._numbers:
            path = self._folder / sample.shard
            raise PairsError(path, f"no longer has {sample.key}", "filter the shards again")
        number = self._numbers[sample.key]
        return tar[number], tar.fields(number)

    def _open(self, shard: str) -> TarPairs:
        if self._tar is None or shard != self._shard:
            if self._tar is not None:
                self._tar.close()
            self._tar, self._shard = TarPairs([str(self._folder / shard)]), shard
            self._numbers = {self._tar.key(n): n for n in range(len(self._tar))}
        return self._tar


def _write_shard(
    source: SourceTar, destination: Path, shard: int, samples: list[SelectedSample], per_shard: int
) -> None:
    digits = max(1, math.ceil(math.log10(per_shard)))  # of the number in a key, as img2dataset
    counts, rows = PackedCounts(), []
    with (
        atomic_write(destination / f"{shard:05d}.tar", "wb") as file,
        tarfile.open(fileobj=file, mode="w") as tar,
    ):
        for number, sample in enumerate(samples):
            key = f"{shard:05d}{number:0{digits}d}"
            picture, fields = _read_sample(source, sample, key)
            _add_sample(tar, key, picture, fields)
            _count(counts, fields)
            rows.append(fields)
    write_parquet(destination / f"{shard:05d}.parquet", _sample_table(rows))
    _write_stats(destination / f"{shard:05d}_stats.json", counts)


def _read_sample(
    source: SourceTar, sample: SelectedSample, key: str
) -> tuple[bytes, dict[str, Any]]:
    """Return a sample's picture, and its JSON fields with the kept texts."""
    pair, fields = source.read(sample)
    captions = [pair.captions[index] for index in sample.captions]
    sources = fields.get("caption_sources")
    if isinstance(sources, list) and len(sources) == len(pair.captions):
        fields["caption_sources"] = [sources[index] for index in sample.captions]
    fields |= {
        "key": key,
        "caption": captions[0],
        "captions": captions,
        "status": "success",
        "error_message": None,
        "source_shard": sample.shard,
        "source_key": sample.key,
    }
    fields.setdefault("sha256", hashlib.sha256(pair.picture).hexdigest())
    return pair.picture, fields


def _add_sample(tar: tarfile.TarFile, key: str, picture: bytes, fields: dict[str, Any]) -> None:
    with open_header(io.BytesIO(picture), key) as image:
        suffix = str(image.format).lower()
    contents = {  # readers choose pictures by these suffixes, and formats by the content
        suffix if suffix in PICTURE_EXTENSIONS and suffix != "jpeg" else "jpg": picture,
        "txt": fields["caption"].encode("utf-8", "replace"),
        "json": json.dumps(fields, indent=4).encode(),
    }
    for extension, content in contents.items():
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _count(counts: PackedCounts, fields: dict[str, Any]) -> None:
    from urllib.parse import urlsplit

    counts.samples += 1
    counts.pairs += len(fields["captions"])
    sources = fields.get("caption_sources")
    for name in sources if isinstance(sources, list) else []:
        counts.caption_sources[str(name)] = counts.caption_sources.get(str(name), 0) + 1
    try:
        host = urlsplit(str(fields.get("url") or "")).hostname or ""
    except ValueError:
        host = ""
    if host:
        counts.hosts[host] = counts.hosts.get(host, 0) + 1


def _sample_table(rows: list[dict[str, Any]]) -> Any:
    """Return the Parquet table of a shard; fields without a column are JSON in `other_fields`."""
    import pyarrow as pa

    texts = ("key", "caption", "status", "error_message", "source_shard", "source_key")
    kinds = {name: pa.string() for name in texts} | {
        name: pa.type_for_alias(kind) for name, kind in FIELDS.items()
    }
    lists = {"captions": pa.list_(pa.string()), "caption_sources": pa.list_(pa.string())}
    columns = {
        name: pa.array([_cell(row.get(name), kind) for row in rows], kind)
        for name, kind in (kinds | lists).items()
    }
    remaining = [{k: v for k, v in row.items() if k not in columns} for row in rows]
    columns["other_fields"] = pa.array([json.dumps(fields) for fields in remaining], pa.string())
    return pa.table(columns)


def _cell(value: Any, kind: Any) -> Any:
    """Return a value of a JSON as a cell of a type of pyarrow, or None if it has another type."""
    if str(kind) == "string":
        return value if isinstance(value, str) else None
    if str(kind) == "int32":
        return value if isinstance(value, int) and abs(value) < 2**31 else None
    return [str(text) for text in value] if isinstance(value, list) else None


def _write_stats(path: Path, counts: PackedCounts) -> None:
    """Write the statistics of a shard, the mark that it is complete."""
    tree = {
        "count": counts.samples,
        "successes": counts.samples,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": counts.samples},
        "pairs": counts.pairs,
        "caption_sources": counts.caption_sources,
        "hosts": counts.hosts,
    }
    with atomic_write(path, sync=True) as file:
        json.dump(tree, file, indent=1)


def _read_counts(path: Path) -> PackedCounts:
    tree = json.loads(path.read_text(encoding="utf-8"))
    return PackedCounts(tree["count"], tree["pairs"], tree["caption_sources"], tree["hosts"])
