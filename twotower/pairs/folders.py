"""Pairs in folders."""

from __future__ import annotations

import re
from pathlib import Path

from twotower.errors import PairsError
from twotower.inputs.pictures import find_pictures
from twotower.pairs.pair import Pair, _captions, _read_file


class FolderPairs:
    """Pictures with `NAME.txt` (a caption on each line) or `NAME.json` beside them.

    Where no picture has either and all lie in folders of their own, a folder's name is the caption.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self.folder = folder
        self._pictures = [one for one in find_pictures([folder]) if one != folder]
        if not self._pictures:
            raise PairsError(f"{folder}: holds no pictures")
        self._named_by_folder = not any(
            one.with_suffix(s).exists() for one in self._pictures for s in (".txt", ".json")
        )
        if self._named_by_folder and any(one.parent == folder for one in self._pictures):
            raise PairsError(
                f"{folder}: no picture has a caption beside it; write x.txt or x.json for x.jpg, "
                "or put the pictures into folders that are called what they show"
            )

    def __len__(self) -> int:
        return len(self._pictures)

    def key(self, number: int) -> str:
        """The picture's path inside the folder."""
        return str(self._pictures[number].relative_to(self.folder))

    def __getitem__(self, number: int) -> Pair:
        """Read one. Raises `BrokenPairError`."""
        picture = self._pictures[number]
        if self._named_by_folder:
            name = re.sub(r"[\s_-]+", " ", picture.parent.name).strip()
            return Pair(self.key(number), _read_file(picture), (name,))
        text, tree = (
            _read_file(beside) if (beside := picture.with_suffix(suffix)).exists() else None
            for suffix in (".txt", ".json")
        )
        return Pair(self.key(number), _read_file(picture), _captions(str(picture), text, tree))
