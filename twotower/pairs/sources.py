"""Image-text pairs by number, from tar shards, tables, or folders of pictures with captions.

A source is a sequence: `len(source)`, `source[i]` -> `Pair`. Random access makes the order of a
training a pure function of its step (docs/training.md). The index of a tar is made once and
consists of numpy arrays, so that worker processes share its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twotower.errors import PairsError
from twotower.pairs.folders import FolderPairs
from twotower.pairs.pair import Pair, Source
from twotower.pairs.remote import local_copy
from twotower.pairs.tables import TablePairs
from twotower.pairs.tars import TarPairs, find_tars


def open_source(location: str | Path) -> Source:
    """Open the pairs at a path or URL.

    Args:
        location: a tar; several as a pattern (`data-*.tar`, `s3://bucket/{000..031}.tar`); a folder
            of tars; a table (`.csv`, `.tsv`, `.parquet`); a folder of pictures with captions beside
            them (`x.jpg` and `x.txt` or `x.json`); or a folder of folders that are named after
            what their pictures show.

    Raises:
        PairsError: nothing exists there, or it is of none of these kinds.
    """
    text = str(location)
    if text.endswith((".csv", ".tsv", ".parquet")):
        return TablePairs(local_copy(text))
    tars = find_tars(text)
    if tars:
        return TarPairs(tars)
    if Path(text).is_dir():
        return FolderPairs(Path(text))
    raise PairsError(
        text,
        "no such pairs",
        "give a tar, a pattern of tars, a .csv, .tsv or .parquet table, or a folder of pictures "
        "with captions beside them",
    )


class PairSubset:
    """Selected pairs of a source, in a given order, with captions put into templates.

    Args:
        numbers: the pairs, as numbers in `source`.
        templates: sentences with `{}` for the caption; each caption is put into all of them.
    """

    def __init__(
        self, source: Source, numbers: Sequence[int], templates: Sequence[str] = ("{}",)
    ) -> None:
        self.name, self.source = source.name, source
        self.numbers, self.templates = list(numbers), tuple(templates)

    def __len__(self) -> int:
        return len(self.numbers)

    def key(self, number: int) -> str:
        """Return the name of a pair in its source."""
        return self.source.key(self.numbers[number])

    def __getitem__(self, number: int) -> Pair:
        """Read a pair. Raises `BrokenPairError`."""
        pair = self.source[self.numbers[number]]
        captions = (
            template.replace("{}", caption)
            for caption in pair.captions
            for template in self.templates
        )
        return Pair(pair.key, pair.picture, tuple(captions))
