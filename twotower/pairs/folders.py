"""Pairs in folders: pictures with captions beside them, or in folders named after their content."""

from __future__ import annotations

import re
from pathlib import Path

from twotower.errors import PairsError
from twotower.inputs.pictures import find_pictures
from twotower.pairs.pair import Pair, parse_captions, read_picture

CAPTION_SUFFIXES = (".txt", ".json")


class FolderPairs:
    """Pictures with `NAME.txt` (a caption on each line) or `NAME.json` beside them.

    If no picture has either file and all lie in subfolders, the name of the subfolder is the
    caption.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self.folder = folder
        self._pictures = [path for path in find_pictures([folder]) if path != folder]
        if not self._pictures:
            raise PairsError(folder, "holds no pictures", "choose a folder with pictures")
        self._named_by_folder = not any(
            picture.with_suffix(suffix).exists()
            for picture in self._pictures
            for suffix in CAPTION_SUFFIXES
        )
        if self._named_by_folder and any(picture.parent == folder for picture in self._pictures):
            raise PairsError(
                folder,
                "no picture has a caption beside it",
                "write x.txt or x.json for x.jpg, or sort the pictures into folders named after "
                "what they show",
            )

    def __len__(self) -> int:
        return len(self._pictures)

    def key(self, number: int) -> str:
        """Return the path of a picture inside the folder."""
        return str(self._pictures[number].relative_to(self.folder))

    def __getitem__(self, number: int) -> Pair:
        """Read a pair. Raises `BrokenPairError`."""
        picture = self._pictures[number]
        if self._named_by_folder:
            name = re.sub(r"[\s_-]+", " ", picture.parent.name).strip()
            return Pair(self.key(number), read_picture(picture), (name,))
        beside = [picture.with_suffix(suffix) for suffix in CAPTION_SUFFIXES]
        text, tree = (read_picture(path) if path.exists() else None for path in beside)
        captions = parse_captions(str(picture), text, tree)
        return Pair(self.key(number), read_picture(picture), captions)
