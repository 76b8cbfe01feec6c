"""Writing pairs as tar shards that every webdataset reader reads, and statistics of pairs."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from twotower.errors import BrokenPairError, PairsError, PictureError
from twotower.files import atomic_write
from twotower.inputs.pictures import open_header
from twotower.pairs.pair import Pair, Source
from twotower.progress import Progress, ReportProgress, ignore_progress

SHARD_PAIRS = 10_000  # img2dataset's default


class Header(NamedTuple):
    """Facts of an encoded picture: Pillow's name of its format, and its size in pixels."""

    format: str
    width: int
    height: int


@dataclass
class PairStats:
    """Statistics of a source.

    Attributes:
        formats: the number of pictures of each format.
        widths, heights: of pictures, in pixels.
        words: the number of words of each caption.
        broken: the pairs that cannot be read, with reasons.
    """

    pairs: int = 0
    captions: int = 0
    picture_bytes: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def add(self, pair: Pair, header: Header) -> None:
        """Count a pair."""
        self.pairs += 1
        self.captions += len(pair.captions)
        self.picture_bytes += len(pair.picture)
        self.formats[header.format] += 1
        self.widths.append(header.width)
        self.heights.append(header.height)
        self.words += [len(caption.split()) for caption in pair.captions]

    def lines(self) -> Iterator[str]:
        """Yield the statistics as lines of text."""
        yield f"pairs      {self.pairs:,}, broken {len(self.broken):,}"
        if not self.pairs:
            return
        formats = ", ".join(f"{name} {count:,}" for name, count in self.formats.most_common())
        yield f"pictures   {self.picture_bytes / 2**20:,.1f} MiB: {formats}"
        yield f"width      {_spread(self.widths)}"
        yield f"height     {_spread(self.heights)}"
        yield f"captions   {self.captions:,}, {self.captions / self.pairs:.1f} a picture"
        yield f"words      {_spread(self.words)}"


def _spread(values: list[int]) -> str:
    cuts = quantiles(values, n=20, method="inclusive") if len(values) > 1 else values * 19
    return (
        f"{min(values)} to {max(values)}, median {cuts[9]:.0f}, "
        f"90 % from {cuts[0]:.0f} to {cuts[18]:.0f}"
    )


def count_pairs(source: Source, report: ReportProgress = ignore_progress) -> PairStats:
    """Read every pair once and return statistics, with the broken pairs and their reasons."""
    stats = PairStats(broken=list(getattr(source, "faults", ())))
    for pair, header in _readable_pairs(source, stats.broken, report):
        stats.add(pair, header)
    return stats


def pack(
    source: Source,
    destination: Path,
    pairs_per_shard: int = SHARD_PAIRS,
    report: ReportProgress = ignore_progress,
) -> list[str]:
    """Write `000000.tar`, `000001.tar`, ... into a new folder; pictures keep their bytes.

    A shard appears under its name when it is complete.

    Returns:
        The broken pairs, which are left out, with reasons.

    Raises:
        PairsError: the folder already holds shards.
    """
    destination.mkdir(parents=True, exist_ok=True)
    if any(destination.glob("*.tar")):
        raise PairsError(destination, "already holds shards", "choose another folder")
    broken = list(getattr(source, "faults", ()))
    pairs = _readable_pairs(source, broken, report)
    for shard in itertools.count():
        head = next(pairs, None)
        if head is None:
            break
        tail = itertools.islice(pairs, pairs_per_shard - 1)
        with (
            atomic_write(destination / f"{shard:06d}.tar", "wb") as file,
            tarfile.open(fileobj=file, mode="w") as tar,
        ):
            for number, (pair, header) in enumerate(itertools.chain([head], tail)):
                _add(tar, f"{shard:06d}{number:06d}", pair, header.format)
    return broken


def _readable_pairs(
    source: Source, broken: list[str], report: ReportProgress
) -> Iterator[tuple[Pair, Header]]:
    """Yield the pairs that can be read; append the others, with reasons, to `broken`."""
    faults = len(broken)  # of shards, not of pairs
    for number in range(len(source)):
        try:
            pair = source[number]
            header = _read_header(source, pair)
        except BrokenPairError as error:
            broken.append(str(error))
        else:
            yield pair, header
        report(Progress(number + 1, len(source), failed=len(broken) - faults))


def _read_header(source: Source, pair: Pair) -> Header:
    name = f"{source.name}: {pair.key}"
    try:
        with open_header(io.BytesIO(pair.picture), name) as image:
            return Header(str(image.format), image.width, image.height)
    except PictureError as error:
        raise BrokenPairError(
            name, f"no picture ({error.reason})", "replace or remove it"
        ) from None


def _add(tar: tarfile.TarFile, key: str, pair: Pair, picture_format: str) -> None:
    description = {"key": pair.key, "captions": list(pair.captions)}
    contents = {
        {"JPEG": "jpg"}.get(picture_format, picture_format.lower()): pair.picture,
        "txt": pair.captions[0].encode(),
        "json": json.dumps(description, ensure_ascii=False).encode(),
    }
    for extension, content in contents.items():
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
