"""Columns of pairs: what the filters know of each, computed one input file at a time.

An input file, of candidates or a tar, becomes one Parquet file of features. The filters that
compare pairs with each other read these, as numpy arrays.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import BoolArray, Int64Array, UInt8Array
from twotower.errors import BrokenPairError, PairsError, PictureError
from twotower.files import atomic_write
from twotower.inputs.pictures import open_header
from twotower.pairs.filters.minhash import COMPONENTS, UInt16Array, text_signatures
from twotower.pairs.filters.pictures import HASH_BYTES, read_facts, size_reason
from twotower.pairs.filters.settings import KEPT, FilterSettings, code
from twotower.pairs.filters.texts import content_key, identify_language, text_key, text_reasons
from twotower.pairs.tars import TarPairs

READ_AHEAD = 256  # samples whose pictures are decoded at a time
SIGNATURE_BYTES = 2 * COMPONENTS


@dataclass
class PairColumns:
    """Columns of pairs [n] and of samples [m]; a sample is a picture with its texts.

    Attributes:
        reasons: codes of `settings.REASONS`, or `KEPT` [n].
        ranks: hashes of address and text, by which equally good pairs are ordered [n].
        texts: hashes of the normal forms of the texts [n].
        signatures: MinHash signatures of the texts [n, 64].
        samples: the number of the sample of each pair [n].
        hashes: of the pictures [m, HASH_BYTES]; None for candidates, which have none yet.
        pixels: the number of pixels of each picture [m].
        sizes: the number of pairs in each file.
    """

    reasons: UInt8Array
    ranks: NDArray[np.uint64]
    texts: NDArray[np.uint64]
    signatures: UInt16Array
    samples: Int64Array
    hashes: UInt8Array | None
    pixels: Int64Array
    sizes: list[int]

    def kept(self) -> Int64Array:
        """Return the numbers of the pairs that no filter has removed."""
        return np.flatnonzero(self.reasons == KEPT)

    def remove(self, pairs: Int64Array, name: str, fault: str) -> None:
        """Record a reason for pairs that no earlier filter has removed."""
        self.reasons[pairs] = code(name, fault)

    def file_slices(self) -> Iterator[slice]:
        """Yield the range of pairs of each file."""
        ends = np.cumsum([0, *self.sizes]).tolist()
        for start, end in itertools.pairwise(ends):
            yield slice(start, end)


@cache
def feature_schema() -> Any:
    """Return the schema of a file of features: a row for each pair, samples in order."""
    import pyarrow as pa

    return pa.schema(
        [
            ("key", pa.string()),
            ("number", pa.int32()),  # of the text in its sample, or of the row in its file
            ("caption", pa.string()),
            ("url", pa.string()),
            ("language", pa.string()),
            ("reason", pa.uint8()),
            ("rank", pa.uint64()),
            ("text", pa.uint64()),
            ("signature", pa.binary(SIGNATURE_BYTES)),
            ("pixels", pa.int64()),
            ("hash", pa.binary(HASH_BYTES)),
        ]
    )


def write_candidate_features(
    source: Path, destination: Path, settings: FilterSettings, identify: bool
) -> None:
    """Write the features of a Parquet file of candidates.

    Args:
        identify: also identify the languages of texts.

    Raises:
        PairsError: `source` is no Parquet file with `url` and `caption`.
    """
    columns = read_parquet(source, ["url", "caption"])
    urls = [url or "" for url in columns["url"].to_pylist()]
    captions = [caption or "" for caption in columns["caption"].to_pylist()]
    _write_features(
        destination,
        {
            **_text_features(captions, urls, settings, identify),
            "key": [""] * len(urls),
            "number": list(range(len(urls))),
            "pixels": [0] * len(urls),
            "hash": [None] * len(urls),
        },
    )


def write_shard_features(
    source: Path, destination: Path, settings: FilterSettings, identify: bool
) -> None:
    """Write the features of a tar: a row for each text of each sample.

    A tar that cannot be read, entirely or after a point, is a fault of the file: `read_faults`.
    """
    samples, faults = _read_tar(source, settings)
    pairs = [(sample, number) for sample in samples for number in range(len(sample.captions))]
    features = _text_features(
        [sample.captions[number] for sample, number in pairs],
        [sample.url for sample, _ in pairs],
        settings,
        identify,
    )
    features["reason"] = [
        _earlier(sample.reason, reason)
        for (sample, _), reason in zip(pairs, features["reason"], strict=True)
    ]
    _write_features(
        destination,
        {
            **features,
            "key": [sample.key for sample, _ in pairs],
            "number": [number for _, number in pairs],
            "pixels": [sample.pixels for sample, _ in pairs],
            "hash": [sample.hash for sample, _ in pairs],
        },
        faults,
    )


@dataclass(frozen=True)
class _Sample:
    """Facts of a sample; `reason` is of its picture by itself."""

    key: str
    url: str
    captions: tuple[str, ...]
    pixels: int
    hash: bytes | None
    reason: int


def _read_tar(source: Path, settings: FilterSettings) -> tuple[list[_Sample], list[str]]:
    """Return the samples of a tar, and its faults; an empty tar has none of either."""
    if is_empty_tar(source):
        return [], []
    try:
        tar = TarPairs([str(source)])
    except PairsError as error:
        return [], [str(error)]
    with contextlib.closing(tar):
        return list(_read_samples(tar, settings)), tar.faults


def is_empty_tar(path: Path) -> bool:
    """Return True for a tar without members, such as a shard of which nothing was fetched."""
    with path.open("rb") as file:
        return not any(file.read(512)) and path.stat().st_size >= 1024


def _read_samples(source: TarPairs, settings: FilterSettings) -> Iterator[_Sample]:
    """Yield the facts of all samples in order; pictures are decoded in threads."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(source), READ_AHEAD):
            numbers = range(start, min(start + READ_AHEAD, len(source)))
            yield from pool.map(lambda number: _read_sample(source, number, settings), numbers)


def _read_sample(source: TarPairs, number: int, settings: FilterSettings) -> _Sample:
    key = source.key(number)
    try:
        pair = source[number]
    except BrokenPairError as error:
        fault = "no caption" if "caption" in error.reason else "picture cannot be read"
        return _Sample(key, "", ("",), 0, None, code("readable", fault))
    fields = source.fields(number)
    url = fields.get("url")
    url = url if isinstance(url, str) and url else key
    try:
        width, height = _original_size(pair.picture, fields)
        facts = read_facts(pair.picture)
    except PictureError:
        reason = code("readable", "picture cannot be read")
        return _Sample(key, url, pair.captions, 0, None, reason)
    reason = size_reason(width, height, facts.contrast, settings)
    return _Sample(key, url, pair.captions, width * height, facts.hash, reason)


def _original_size(picture: bytes, fields: dict[str, Any]) -> tuple[int, int]:
    """Return the size of a picture before it was resized for a shard, if its JSON has it.

    Raises:
        PictureError: the picture cannot be read.
    """
    sizes = fields.get("original_width"), fields.get("original_height")
    with contextlib.suppress(TypeError, ValueError):
        width, height = int(sizes[0]), int(sizes[1])  # type: ignore[arg-type]
        if 0 < width < 2**31 and 0 < height < 2**31:
            return width, height
    with open_header(io.BytesIO(picture), "<picture>") as image:
        return image.size


def _earlier(picture_reason: int, text_reason: int) -> int:
    """Return the reason of the earlier filter; codes are in the order of the filters."""
    reasons = [reason for reason in (picture_reason, text_reason) if reason != KEPT]
    return min(reasons, default=KEPT)


def _text_features(
    captions: Sequence[str], urls: Sequence[str], settings: FilterSettings, identify: bool
) -> dict[str, Any]:
    signatures = text_signatures(captions)
    return {
        "caption": captions,
        "url": urls,
        "language": [identify_language(caption) if identify else "" for caption in captions],
        "reason": text_reasons(captions, settings),
        "rank": [content_key(url, text) for url, text in zip(urls, captions, strict=True)],
        "text": [text_key(caption) for caption in captions],
        "signature": [signature.tobytes() for signature in signatures],
    }


def _write_features(
    destination: Path, features: dict[str, Any], faults: Sequence[str] = ()
) -> None:
    import pyarrow as pa

    schema = feature_schema().with_metadata({"faults": json.dumps(list(faults))})
    columns = [features[name] for name in schema.names]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
    write_parquet(destination, pa.table(arrays, schema=schema))


def read_faults(path: Path) -> list[str]:
    """Return the faults of the input of a file of features, each with its remedy."""
    import pyarrow.parquet as pq

    faults: list[str] = json.loads(pq.read_schema(path).metadata[b"faults"])
    return faults


def write_parquet(destination: Path, table: Any) -> None:
    """Write a table of pyarrow atomically, compressed with zstd."""
    import pyarrow.parquet as pq

    destination.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(destination, "wb") as file:
        pq.write_table(table, file, compression="zstd")


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> Any:
    """Read a table of pyarrow.

    Raises:
        PairsError: it is no Parquet file, lacks a column, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise PairsError(
            path, "the package 'pyarrow' is missing", "pip install twotower[web]"
        ) from None
    try:
        schema = pq.read_schema(path)
        missing = [column for column in columns or () if column not in schema.names]
        if missing:
            raise PairsError(path, f"has no column {missing[0]!r}", "give a file that has it")
        return pq.read_table(path, columns=columns, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise PairsError(path, f"cannot be read ({error})", "write it again") from None


def read_columns(files: Iterable[Path], pictures: bool) -> PairColumns:
    """Read files of features.

    Args:
        pictures: the samples are those of tars, with pictures; else they are distinct addresses.
    """
    tables = [_read_numbers(path, pictures) for path in files]
    joined = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    sizes = [len(table["rank"]) for table in tables]
    if pictures:
        samples = np.cumsum(joined["begins"]) - 1
        starts = np.flatnonzero(joined["begins"])
    else:
        _, starts, samples = np.unique(joined["url"], return_index=True, return_inverse=True)
        samples = samples.reshape(-1)
    return PairColumns(
        joined["reason"],
        joined["rank"],
        joined["text"],
        joined["signature"],
        samples,
        joined["hash"][starts] if pictures else None,
        joined["pixels"][starts],
        sizes,
    )


def _read_numbers(path: Path, pictures: bool) -> dict[str, NDArray[Any]]:
    """Return the columns of a file as arrays of numbers."""
    names = ["reason", "rank", "text", "signature", "pixels"]
    table = read_parquet(path, [*names, *(["hash", "number"] if pictures else ["url"])])
    numbers = {name: table[name].to_numpy() for name in ("reason", "rank", "text", "pixels")}
    numbers["reason"] = numbers["reason"].copy()
    numbers["signature"] = _bytes_matrix(table["signature"], SIGNATURE_BYTES).view(np.uint16)
    if pictures:
        hashes = table["hash"].fill_null(bytes(HASH_BYTES))
        numbers["hash"] = _bytes_matrix(hashes, HASH_BYTES)
        numbers["begins"] = table["number"].to_numpy() == 0
    else:
        urls = [content_key(url or "") for url in table["url"].to_pylist()]
        numbers["url"] = np.array(urls, np.uint64)
    return numbers


def _bytes_matrix(column: Any, width: int) -> UInt8Array:
    """Return a column of fixed-size binaries without nulls as uint8 [n, width]."""
    array = column.combine_chunks()
    content = np.frombuffer(array.buffers()[1] or b"", np.uint8)
    start = array.offset * width
    return content[start : start + len(array) * width].reshape(-1, width)


def alive_samples(columns: PairColumns) -> BoolArray:
    """Return True for the samples [m] of which a pair is kept."""
    alive = np.zeros(len(columns.pixels), np.bool_)
    alive[columns.samples[columns.kept()]] = True
    return alive
