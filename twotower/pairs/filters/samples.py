"""Samples of the pairs that each filter removed, for a person to judge the filters by."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from twotower.errors import BrokenPairError
from twotower.pairs.filters.columns import read_parquet
from twotower.pairs.filters.run import Filtering
from twotower.pairs.filters.settings import REASONS, Reason
from twotower.pairs.tars import TarPairs

KEPT_REASON = Reason("kept", "")
SAMPLES = 12  # of each reason


_Entry: TypeAlias = tuple[int, int, Path, str, str, str]


@dataclass(frozen=True)
class SampledPair:
    """A pair that was removed, or kept.

    Attributes:
        picture: the encoded picture; None for candidates, and if it cannot be read.
    """

    caption: str
    url: str
    picture: bytes | None


def sample_pairs(filtering: Filtering, count: int = SAMPLES) -> dict[Reason, list[SampledPair]]:
    """Return up to `count` pairs of each reason, and of `KEPT_REASON`, chosen at random.

    The choice is that of the lowest ranks, so that it is the same for every run.
    """
    chosen: dict[Reason, list[_Entry]] = {}
    for number, file in enumerate(filtering.files):
        for row, (reason, rank, key, caption, url) in enumerate(_rows(filtering, file)):
            heap = chosen.setdefault(reason, [])
            entry: _Entry = (-rank, -(number << 40 | row), file, key, caption, url)
            if len(heap) < count:
                heapq.heappush(heap, entry)
            elif entry > heap[0]:
                heapq.heapreplace(heap, entry)
    pictures = _read_pictures(filtering, chosen)
    return {
        reason: [
            SampledPair(caption, url, pictures.get((file, key)))
            for _, _, file, key, caption, url in sorted(chosen[reason], reverse=True)
        ]
        for reason in (*REASONS, KEPT_REASON)
        if reason in chosen
    }


def _rows(filtering: Filtering, file: Path) -> Iterator[tuple[Reason, int, str, str, str]]:
    """Yield the reason, rank, key, caption and address of each pair of an input file."""
    selection = read_parquet(filtering.selection(file), ["filter", "reason"])
    features = read_parquet(filtering.features(file), ["rank", "key", "caption", "url"])
    columns = [column.to_pylist() for column in (*selection.columns, *features.columns)]
    for name, fault, rank, key, caption, url in zip(*columns, strict=True):
        yield Reason(name or KEPT_REASON.filter, fault), rank, key, caption, url


def _read_pictures(
    filtering: Filtering, chosen: dict[Reason, list[_Entry]]
) -> dict[tuple[Path, str], bytes]:
    """Return the encoded pictures of chosen pairs by tar and key; broken ones are left out."""
    pictures: dict[tuple[Path, str], bytes] = {}
    if not filtering.pictures:
        return pictures
    keys: dict[Path, set[str]] = {}
    for entries in chosen.values():
        for _, _, file, key, _, _ in entries:
            keys.setdefault(file, set()).add(key)
    for file, chosen_keys in keys.items():
        with contextlib.closing(TarPairs([str(file)])) as tar:
            for number in range(len(tar)):
                if (key := tar.key(number)) in chosen_keys:
                    with contextlib.suppress(BrokenPairError):
                        pictures[file, key] = tar[number].picture
    return pictures
