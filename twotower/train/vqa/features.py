"""The outputs of frozen towers for pictures and questions, computed once and cached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twotower.arrays import Float32Array
from twotower.encode.golden import image_fingerprint
from twotower.encode.patches import UnpooledEncoder
from twotower.errors import PictureError
from twotower.progress import ReportProgress, ignore_progress
from twotower.train.embed_cache import open_cache, sample_key
from twotower.train.vqa.data import Sample

BATCH = 8  # pictures that go through the tower together
SCALE_PICTURES, LEAST_DEVIATION = 256, 1e-2  # for the scale of a channel


class FrozenFeatures:
    """The cells of pictures and the tokens of questions, as frozen towers compute them.

    Attributes:
        pictures: the cache key of each readable picture.
        unreadable: a line about each unreadable picture.
        cells_per_picture: the number of cells.
        vision_width: of a cell.
        text_width: of a token.
    """

    def __init__(
        self,
        towers: UnpooledEncoder,
        samples: Sequence[Sample],
        progress: ReportProgress = ignore_progress,
    ) -> None:
        self.towers = towers
        self.pictures: dict[Path, bytes] = {}
        self.unreadable: list[str] = []
        for path in dict.fromkeys(sample.picture for sample in samples):
            try:
                self.pictures[path] = sample_key(path.read_bytes())
            except OSError as error:
                self.unreadable.append(f"{path}: {error.strerror}")
        size = towers.preprocess.config.image_size
        blank = towers.patches(np.zeros((1, 3, size, size), np.float32))
        self.cells_per_picture, self.vision_width = blank.shape[1:]
        kind = f"cells-{self.vision_width}"  # other layers of the model have another width
        self._cache = open_cache(image_fingerprint(towers.directory), kind, np.float16)
        self._fill_cache(progress)
        questions = list(dict.fromkeys(sample.question for sample in samples))
        self._rows = {question: row for row, question in enumerate(questions)}
        tokens, mask = towers.tokens(questions)
        self._tokens, self._mask = torch.from_numpy(tokens), torch.from_numpy(mask)
        self.text_width = int(self._tokens.shape[2])

    def readable(self, samples: Iterable[Sample]) -> list[Sample]:
        """Return the samples whose pictures are readable."""
        return [sample for sample in samples if sample.picture in self.pictures]

    def cells(self, pictures: Sequence[Path]) -> Tensor:
        """Return [P, cells, width]; each channel has mean 0 and deviation 1 over some pictures."""
        mean, deviation = self.scale
        return (self._raw_cells(pictures) - mean) / deviation

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel [width]."""
        cells = self._raw_cells(list(self.pictures)[:SCALE_PICTURES]).flatten(0, 1)
        return cells.mean(dim=0), cells.std(dim=0).clamp_min(LEAST_DEVIATION)

    def tokens(self, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return tokens [Q, L, width] and their mask [Q, L], cut to the longest question."""
        rows = torch.tensor([self._rows[question] for question in questions])
        mask = self._mask[rows]
        length = int(mask.sum(dim=1).max())
        return self._tokens[rows, :length], mask[:, :length]

    def _raw_cells(self, pictures: Sequence[Path]) -> Tensor:
        rows = self._cache[[self.pictures[picture] for picture in pictures]]
        return torch.from_numpy(rows.reshape(len(pictures), self.cells_per_picture, -1))

    def _fill_cache(self, progress: ReportProgress) -> None:
        """Compute the cells of every picture, and remove unreadable pictures."""
        paths = list(self.pictures)
        with ThreadPoolExecutor() as threads:
            self._cache.fill(
                list(self.pictures.values()),
                lambda rows: self._compute([paths[row] for row in rows], threads),
                progress,
                stage="Computing features of pictures",
            )
        for path, key in list(self.pictures.items()):
            if np.isnan(self._cache[[key]][0, 0]):
                self.unreadable.append(f"{path}: not a picture that can be read")
                del self.pictures[path]

    def _compute(self, paths: Sequence[Path], threads: ThreadPoolExecutor) -> Float32Array:
        """Return the cells of pictures [n, cells * width]; NaN for an unreadable one."""
        width = self.cells_per_picture * self.vision_width
        cells = np.full((len(paths), width), np.nan, np.float32)
        for start in range(0, len(paths), BATCH):
            pixels = list(threads.map(self._preprocess, paths[start : start + BATCH]))
            readable = {row: picture for row, picture in enumerate(pixels) if picture is not None}
            if readable:
                batch = self.towers.patches(np.stack(list(readable.values())))
                cells[[start + row for row in readable]] = batch.reshape(len(readable), -1)
        return cells

    def _preprocess(self, path: Path) -> Float32Array | None:
        try:
            return self.towers.preprocess(path)
        except PictureError:
            return None
