"""Image-text pairs, by number: tar shards, tables and folders with captions beside the pictures.

A source is a sequence: `len(source)`, `source[i]` -> `Pair`. Random access is what makes the order
of a training a pure function of its step (docs/training.md). The index of a tar is made once and
holds numpy arrays alone, so that worker processes share its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twotower.errors import PairsError
from twotower.pairs.folders import FolderPairs
from twotower.pairs.pair import Pair, Source
from twotower.pairs.remote import _local
from twotower.pairs.tables import TablePairs
from twotower.pairs.tars import TarPairs, find_tars


def open_source(location: str | Path) -> Source:
    """The pairs at a path or URL.

    Args:
        location: a tar; several as a pattern (`data-*.tar`, `s3://bucket/{000..031}.tar`); a folder
            of tars; a table (`.csv`, `.tsv`, `.parquet`); or a folder of pictures with captions
            beside them (`x.jpg` and `x.txt` or `x.json`), or in folders called what they show.

    Raises:
        PairsError: nothing is there, or it is of none of these kinds.
    """
    text = str(location)
    if text.endswith((".csv", ".tsv", ".parquet")):
        return TablePairs(_local(text))
    tars = find_tars(text)
    if tars:
        return TarPairs(tars)
    if Path(text).is_dir():
        return FolderPairs(Path(text))
    raise PairsError(
        f"{text}: no such pairs; give a tar, a pattern of tars, a .csv, .tsv or .parquet table, "
        "or a folder of pictures with captions beside them"
    )


class PartOfPairs:
    """Some pairs of a source; with `templates`, each caption is put into all of these sentences."""

    def __init__(
        self, source: Source, numbers: Sequence[int], templates: Sequence[str] = ("{}",)
    ) -> None:
        self.name, self.source = source.name, source
        self.numbers, self.templates = list(numbers), tuple(templates)

    def __len__(self) -> int:
        return len(self.numbers)

    def key(self, number: int) -> str:
        """The name that the pair has in its source."""
        return self.source.key(self.numbers[number])

    def __getitem__(self, number: int) -> Pair:
        """Read one. Raises `BrokenPairError`."""
        pair = self.source[self.numbers[number]]
        captions = (t.replace("{}", one) for one in pair.captions for t in self.templates)
        return Pair(pair.key, pair.picture, tuple(captions))
