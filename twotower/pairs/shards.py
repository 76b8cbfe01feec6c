"""Write pairs as tar shards that every webdataset reader understands; count what is in pairs."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from PIL import Image

from twotower.errors import BrokenPairError, PairsError
from twotower.pairs.pair import Pair, Source

SHARD_PAIRS = 10_000  # img2dataset's default


@dataclass
class Stats:
    """What `stats` counted. Lengths are of captions, in words; sizes of pictures, in pixels."""

    pairs: int = 0
    captions: int = 0
    picture_bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The counts, for people."""
        yield f"pairs      {self.pairs:,}, broken {len(self.broken):,}"
        if not self.pairs:
            return
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.kinds.most_common())
        yield f"pictures   {self.picture_bytes / 2**20:,.1f} MiB: {kinds}"
        yield f"width      {_spread(self.widths)}"
        yield f"height     {_spread(self.heights)}"
        yield f"captions   {self.captions:,}, {self.captions / self.pairs:.1f} a picture"
        yield f"words      {_spread(self.words)}"


def _spread(values: list[int]) -> str:
    cuts = quantiles(values, n=20) if len(values) > 1 else values * 19
    return (
        f"{min(values)} to {max(values)}, middle {cuts[9]:.0f}, "
        f"nine in ten from {cuts[0]:.0f} to {cuts[18]:.0f}"
    )


def count_pairs(source: Source, advance: Callable[[], None] = lambda: None) -> Stats:
    """Read every pair once and count; broken ones are named with their reason."""
    stats = Stats(broken=list(getattr(source, "faults", ())))
    for pair in read_all(source, stats.broken, advance):
        header = _header(source, pair, stats.broken)
        if header is None:
            continue
        stats.kinds[header[0]] += 1
        stats.widths.append(header[1])
        stats.heights.append(header[2])
        stats.pairs += 1
        stats.captions += len(pair.captions)
        stats.picture_bytes += len(pair.picture)
        stats.words += [len(caption.split()) for caption in pair.captions]
    return stats


def pack(
    source: Source,
    destination: Path,
    pairs_per_shard: int = SHARD_PAIRS,
    advance: Callable[[], None] = lambda: None,
) -> list[str]:
    """Write `000000.tar`, `000001.tar`, ... into a new folder; pictures keep their bytes.

    A shard appears under its name only when it is complete.

    Returns:
        The broken pairs, which were left out.

    Raises:
        PairsError: the folder already holds shards.
    """
    destination.mkdir(parents=True, exist_ok=True)
    if any(destination.glob("*.tar")):
        raise PairsError(f"{destination}: already holds shards; choose another folder")
    broken = list(getattr(source, "faults", ()))
    shard, inside = 0, 0
    tar: tarfile.TarFile | None = None
    for pair in read_all(source, broken, advance):
        header = _header(source, pair, broken)
        if header is None:
            continue
        if tar is None:
            tar = tarfile.open(destination / ".writing", "w")  # noqa: SIM115  # closed by _finish
        _add(tar, f"{shard:06d}{inside:06d}", pair, header[0])
        inside += 1
        if inside == pairs_per_shard:
            _finish(tar, destination / f"{shard:06d}.tar")
            shard, inside, tar = shard + 1, 0, None
    if tar is not None:
        _finish(tar, destination / f"{shard:06d}.tar")
    return broken


def read_all(source: Source, broken: list[str], advance: Callable[[], None]) -> Iterator[Pair]:
    """Every pair that can be read; why not, of the others, is added to `broken`."""
    for number in range(len(source)):
        try:
            yield source[number]
        except BrokenPairError as error:
            broken.append(str(error))
        advance()


def _header(source: Source, pair: Pair, broken: list[str]) -> tuple[str, int, int] | None:
    """Format, width and height of a picture; None, and a line in `broken`, where it is none."""
    try:
        with Image.open(io.BytesIO(pair.picture)) as image:
            return str(image.format), image.width, image.height
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged header
        broken.append(f"{source.name}: {pair.key}: no picture ({error})")
        return None


def _add(tar: tarfile.TarFile, key: str, pair: Pair, kind: str) -> None:
    about = {"key": pair.key, "captions": list(pair.captions)}
    contents = {
        {"JPEG": "jpg"}.get(kind, kind.lower()): pair.picture,
        "txt": pair.captions[0].encode(),
        "json": json.dumps(about, ensure_ascii=False).encode(),
    }
    for extension, content in contents.items():
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _finish(tar: tarfile.TarFile, path: Path) -> None:
    tar.close()
    Path(str(tar.name)).replace(path)
