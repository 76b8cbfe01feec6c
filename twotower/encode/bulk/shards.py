"""Shards, embedded and written one after the other, without a pause between them."""

from __future__ import annotations

import functools
import hashlib
import io
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow
from PIL import ExifTags, Image

from twotower.arrays import Float32Array
from twotower.encode.bulk.network import Network
from twotower.encode.bulk.output import Row, ShardWriter
from twotower.encode.bulk.plan import Shard, reason_of
from twotower.encode.bulk.readers import ReadPicture, TextItem, read_pictures, read_texts
from twotower.encode.bulk.settings import EmbedSettings
from twotower.encode.encoder import Encoder
from twotower.encode.load import load
from twotower.encode.stream import StageTimes, encode_ahead
from twotower.errors import PairsError, PictureError
from twotower.inputs.pictures import open_header
from twotower.inputs.preprocess import Preprocess
from twotower.progress import Progress, ReportProgress, ignore_progress

_TEXTS = 2048  # in a call of the encoder, which sorts them by length
_EMPTY = "is empty; write a text, or leave it out"
_TURNED = frozenset((5, 6, 7, 8))  # EXIF orientations that exchange width and height
_UNREADABLE = (PairsError, OSError, pyarrow.ArrowException)


@dataclass(frozen=True)
class EmbedJob:
    """All that a process needs to embed shards; can be pickled.

    Attributes:
        folder: of the embeddings.
        model: a directory or name, as `load` takes it.
        threads: of the model and of the decoders; None for all cores.
        processes: that embed shards at the same time.
    """

    folder: Path
    model: str
    settings: EmbedSettings
    threads: int | None = None
    processes: int = 1


class ShardResult(NamedTuple):
    """The result of a shard.

    Attributes:
        rows: of which `failed` have an error, and `cut` texts that are too long.
        fault: why it was not written, or "".
    """

    number: int
    rows: int
    failed: int
    fault: str = ""
    cut: int = 0


def embed_shard(job: EmbedJob, shard: Shard) -> ShardResult:
    """Embed a single shard, as a task of a cluster."""
    [result] = embed_shards(job, [shard])
    return result


def embed_shards(
    job: EmbedJob, shards: Sequence[Shard], report: ReportProgress = ignore_progress
) -> Iterator[ShardResult]:
    """Embed and write shards; yield the result of each when it is written.

    A shard whose input cannot be read is not written, and does not stop those that follow.

    Args:
        report: gets the items of these shards.

    Raises:
        EmbedError: a shard cannot be written.
        ModelError, EngineError: the model cannot be loaded or run.
    """
    encoder = load_encoder(job.model, job.settings.engine, job.threads)
    writer = ShardWriter(
        job.folder,
        encoder.config.embed_dim,
        texts=job.settings.texts,
        clip_retrieval=job.settings.format == "clip-retrieval",
    )
    if job.settings.texts:
        return _embed_texts(job, shards, encoder, writer, report)
    return _PictureShards(job, shards, encoder, writer, report).run()


@functools.lru_cache(maxsize=1)
def load_encoder(model: str, engine: str, threads: int | None) -> Encoder:
    """Load a model once in a process."""
    return load(model, engine=engine, threads=threads)


@dataclass
class _Picture:
    """A picture on its way through the pipeline: its row, which the decoder fills."""

    shard: int
    row: Row
    read: ReadPicture


@dataclass
class _OpenShard:
    """A shard in the pipeline.

    Attributes:
        size: of its rows, as soon as all have been listed.
        fault: why its input could not be read to the end, or "".
    """

    shard: Shard
    rows: list[Row] = field(default_factory=list)
    size: int | None = None
    fault: str = ""

    @property
    def is_complete(self) -> bool:
        return self.size == len(self.rows)


class _PictureShards:
    """The pipeline of all shards: pictures are listed, decoded in threads, and encoded in order."""

    def __init__(
        self,
        job: EmbedJob,
        shards: Sequence[Shard],
        encoder: Encoder,
        writer: ShardWriter,
        report: ReportProgress,
    ) -> None:
        self._job, self._shards, self._encoder, self._writer = job, shards, encoder, writer
        self._report = report
        self._times = StageTimes(job.threads)
        self._open: deque[_OpenShard] = deque()
        self._total = sum(shard.rows or job.settings.rows_per_shard for shard in shards)
        self._done = self._failed = 0

    def run(self) -> Iterator[ShardResult]:
        """Yield the results of the shards, in their order."""
        settings = self._job.settings
        self._encoder.choose_engine(self._total, self._report)
        decode = functools.partial(_decode, self._encoder.preprocess, self._times)
        with closing(
            Network(settings.contact, settings.allow_private, self._job.processes)
        ) as network:
            for picture, outcome in encode_ahead(
                self._list(network),
                decode,
                self._encoder.encode_pixels,
                settings.batch_size,
                self._times,
            ):
                yield from self._finish()  # a shard without rows may come before this picture
                self._add(picture, outcome)
                yield from self._finish()
        yield from self._finish()

    def _list(self, network: Network) -> Iterator[_Picture]:
        """Yield the pictures of all shards; runs ahead of the decoders."""
        for shard in self._shards:
            current = _OpenShard(shard)
            self._open.append(current)
            size = 0
            try:
                for item in read_pictures(shard, self._job.settings, network):
                    yield _Picture(shard.number, Row(item.key), item.read)
                    size += 1
            except _UNREADABLE as error:
                current.fault = reason_of(shard.source.source, error)
            current.size = size

    def _add(self, picture: _Picture, outcome: Float32Array | PictureError) -> None:
        row = picture.row
        if isinstance(outcome, PictureError):
            row.error = f"{outcome.reason}; {outcome.remedy}"
            self._failed += 1
        else:
            row.embeds = outcome
        assert self._open[0].shard.number == picture.shard  # complete shards were removed
        self._open[0].rows.append(row)
        self._done += 1
        limit = self._times.limit
        self._report(Progress(self._done, self._total, self._failed, "Embedding", limit))

    def _finish(self) -> Iterator[ShardResult]:
        """Write the shards of which all rows have come through."""
        while self._open and self._open[0].is_complete:
            current = self._open.popleft()
            if current.shard.rows is None:  # its size was a guess
                self._total += len(current.rows) - self._job.settings.rows_per_shard
            yield _write(self._writer, current.shard, current.rows, current.fault)


def _decode(preprocess: Preprocess, times: StageTimes, picture: _Picture) -> Float32Array:
    """Read a picture and return its pixel_values [3, S, S]; fill in its row. Runs in threads."""
    start = end_of_reading = time.monotonic()
    try:
        content, sha256 = picture.read()
        end_of_reading = time.monotonic()
        return _pixel_values(preprocess, picture.row, content, sha256)
    except PairsError as error:
        raise PictureError(error.subject, error.reason, error.remedy) from None
    finally:
        times.add_work(end_of_reading - start, time.monotonic() - end_of_reading)


def _pixel_values(preprocess: Preprocess, row: Row, content: bytes, sha256: str) -> Float32Array:
    """Return pixel_values [3, S, S], and fill in the hash and size of a row.

    Large JPEGs are decoded at a reduced scale, as for a library.
    """
    row.sha256 = sha256 or hashlib.sha256(content).hexdigest()
    image = open_header(io.BytesIO(content), row.key)
    row.image_size = _upright_size(image)
    side = 2 * preprocess.config.image_size
    image.draft(None, (side, side))
    return preprocess(image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    try:
        is_turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    except Exception:  # Pillow raises nearly anything on a damaged block; the pixels are intact
        is_turned = False
    return (image.height, image.width) if is_turned else (image.width, image.height)


def _embed_texts(
    job: EmbedJob,
    shards: Sequence[Shard],
    encoder: Encoder,
    writer: ShardWriter,
    report: ReportProgress,
) -> Iterator[ShardResult]:
    total = sum(shard.rows or 0 for shard in shards)
    done = failed = 0
    for shard in shards:
        rows: list[Row] = []
        fault, cut = "", 0
        try:
            items = read_texts(shard, job.settings)
            while chunk := list(islice(items, _TEXTS)):
                chunk_rows, chunk_cut = _text_rows(chunk, encoder)
                rows, cut = rows + chunk_rows, cut + chunk_cut
                failed += sum(row.embeds is None for row in chunk_rows)
                report(Progress(done + len(rows), total, failed, "Embedding"))
        except _UNREADABLE as error:
            fault = reason_of(shard.source.source, error)
        done += len(rows)
        yield _write(writer, shard, rows, fault)._replace(cut=cut)


def _text_rows(items: Sequence[TextItem], encoder: Encoder) -> tuple[list[Row], int]:
    """Return the rows of texts, and how many are longer than the context of the model."""
    texts = [item.text for item in items if item.text is not None]
    if not texts:
        return [Row(item.key, error=_EMPTY) for item in items], 0
    tokens = encoder.tokenizer(texts)
    embeds = iter(encoder.encode_tokens(tokens))
    rows = [
        Row(item.key, error=_EMPTY)
        if item.text is None
        else Row(item.key, text=item.text, embeds=next(embeds))
        for item in items
    ]
    return rows, int(tokens.truncated.sum())


def _write(writer: ShardWriter, shard: Shard, rows: Sequence[Row], fault: str) -> ShardResult:
    if not fault:
        writer.write(shard, rows)
    return ShardResult(shard.number, len(rows), sum(row.embeds is None for row in rows), fault)
