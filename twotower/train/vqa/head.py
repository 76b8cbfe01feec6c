"""A head on frozen towers that answers questions, trained in minutes on what the towers see.

What the towers see of each picture is computed once and kept (`embed_cache.py`), so a run that was
stopped finds it again. Batches are of pictures, with all questions about each.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from twotower.arrays import Float32Array
from twotower.encode.convert import new_directory
from twotower.encode.golden import fingerprint, golden_hash
from twotower.encode.onnx import write_head
from twotower.encode.patches import Cells
from twotower.errors import PictureError, TrainError
from twotower.model.answer_head import FusionHead
from twotower.model.config import FusionConfig
from twotower.train.embed_cache import cache_of, sample_key
from twotower.train.vqa.data import Sample, read_samples

MOST_ANSWERS = 1000
HELD_OUT = 0.1  # of the pictures, where no test set is given
PICTURES = 32  # in a batch, with all their questions
LOOK = 8  # pictures that go through the tower together
SOME, LEAST_SPREAD = 256, 1e-2  # pictures that tell the scale of a channel
LR, WEIGHT_DECAY, WARMUP = 2e-3, 0.05, 0.05
FEWEST_WORDS = 2  # of a question that tell its kind to the language prior

Say = Callable[[str], None]


@dataclass(frozen=True)
class Score:
    """What was right on questions that were not learned from.

    Attributes:
        right: VQA's score of each sample [n], by the head.
        prior: the same, by the most frequent answer to the question, whatever the picture.
        kinds: what each question begins with.
        unreadable: pictures that could not be read.
    """

    right: NDArray[np.float64]
    prior: NDArray[np.float64]
    kinds: list[str]
    unreadable: list[str]


def train_vqa(
    data: Path,
    destination: Path,
    model: Path,
    *,
    test: Path | None = None,
    epochs: int = 12,
    seed: int = 0,
    say: Say = lambda text: None,
) -> Score:
    """Train a head and write it to `destination`.

    Args:
        data: what `read_samples` takes.
        model: the model directory whose towers it sits on.
        test: questions to score it by; by default a tenth of the pictures of `data`.

    Raises:
        TrainError: the data cannot be used.
        ExportError: `destination` is taken.
    """
    learned = read_samples(data)
    if test is None:
        learned, tested = _split(learned)
    else:
        tested = read_samples(test)
    towers = Cells(model)
    seen = FrozenFeatures(towers, [*learned, *tested], say)
    learned, tested = seen.readable(learned), seen.readable(tested)
    if not learned or not tested:
        raise TrainError(f"{data}: too few readable pictures to learn from and to test with")
    answers = tuple(
        answer for answer, _ in Counter(one.answer for one in learned).most_common(MOST_ANSWERS)
    )
    with new_directory(destination) as directory:
        head = _fit(learned, seen, answers, golden_hash(model), epochs, seed, say)
        write_head(of_raw_cells(head, seen), directory)
    right = [
        one.score(said)
        for one, said in zip(tested, answer_samples(head, tested, seen), strict=True)
    ]
    prior = Prior(learned)
    return Score(
        right=np.array(right),
        prior=np.array([one.score(prior(one.question)) for one in tested]),
        kinds=[" ".join(one.question.lower().split()[:FEWEST_WORDS]) for one in tested],
        unreadable=seen.unreadable,
    )


class FrozenFeatures:
    """What frozen towers see of the pictures and questions of samples."""

    def __init__(self, towers: Cells, samples: Sequence[Sample], say: Say) -> None:
        self.towers = towers
        self.pictures: dict[Path, bytes] = {}
        self.unreadable: list[str] = []
        for path in dict.fromkeys(one.picture for one in samples):
            try:
                self.pictures[path] = sample_key(path.read_bytes())
            except OSError as error:
                self.unreadable.append(f"{path}: {error.strerror}")
        size = towers.preprocess.config.image_size
        blank = towers.of_pictures(np.zeros((1, 3, size, size), np.float32))
        self.side_squared, self.vision_width = blank.shape[1:]
        what = f"cells-{self.vision_width}"  # what there is to see of a model may grow
        self._cache = cache_of(fingerprint(towers.directory), what, np.float16)
        self._look(say)
        questions = list(dict.fromkeys(one.question for one in samples))
        self._row = {question: row for row, question in enumerate(questions)}
        tokens, real = towers.of_questions(questions)
        self._tokens, self._real = torch.from_numpy(tokens), torch.from_numpy(real)

    @property
    def text_width(self) -> int:
        """Of the tokens."""
        return int(self._tokens.shape[2])

    def readable(self, samples: Iterable[Sample]) -> list[Sample]:
        """Those whose pictures could be read."""
        return [one for one in samples if one.picture in self.pictures]

    def cells(self, pictures: Sequence[Path]) -> Tensor:
        """[P, cells, width], each channel with mean 0 and deviation 1 over some pictures."""
        mean, spread = self.scale
        return (self._raw(pictures) - mean) / spread

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel [width]."""
        some = self._raw(list(self.pictures)[:SOME]).flatten(0, 1)
        return some.mean(dim=0), some.std(dim=0).clamp_min(LEAST_SPREAD)

    def _raw(self, pictures: Sequence[Path]) -> Tensor:
        rows = self._cache[[self.pictures[one] for one in pictures]]
        return torch.from_numpy(rows.reshape(len(pictures), self.side_squared, -1))

    def tokens(self, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """[Q, L, width] and [Q, L], cut to the longest of these."""
        rows = torch.tensor([self._row[one] for one in questions])
        real = self._real[rows]
        length = int(real.sum(dim=1).max())
        return self._tokens[rows, :length], real[:, :length]

    def _look(self, say: Say) -> None:
        """Have the cells of every picture in the cache."""
        paths = list(self.pictures)
        keys = [self.pictures[path] for path in paths]
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            say(f"{done} of {len(paths)} pictures looked at")

        def compute(chosen: list[int]) -> Float32Array:
            width = self.side_squared * self.vision_width
            rows = np.full((len(chosen), width), np.nan, np.float32)
            with ThreadPoolExecutor() as threads:
                for start in range(0, len(chosen), LOOK):
                    some = chosen[start : start + LOOK]
                    pixels = list(threads.map(self._read, [paths[i] for i in some]))
                    there = [i for i, one in enumerate(pixels) if one is not None]
                    if there:
                        batch = np.stack([one for one in pixels if one is not None])
                        rows[[start + i for i in there]] = self.towers.of_pictures(batch).reshape(
                            len(there), -1
                        )
            return rows

        self._cache.fill(keys, compute, advance)
        for path, key in list(self.pictures.items()):
            if np.isnan(self._cache[[key]][0, 0]):
                self.unreadable.append(f"{path}: not a picture that can be read")
                del self.pictures[path]

    def _read(self, path: Path) -> Float32Array | None:
        try:
            return self.towers.preprocess(path)
        except PictureError:
            return None


class Prior:
    """The answer to a question by a reader who sees no picture: the most frequent one.

    To a question that was never asked, that to those which begin with the same words.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._said: dict[str, Counter[str]] = defaultdict(Counter)
        for one in samples:
            for begin in self._begins(one.question):
                self._said[begin][one.answer] += 1

    def __call__(self, question: str) -> str:
        """The answer."""
        begin = next(begin for begin in self._begins(question) if begin in self._said)
        return self._said[begin].most_common(1)[0][0]

    @staticmethod
    def _begins(question: str) -> list[str]:
        words = question.lower().split()
        return [question, *(f"{' '.join(words[:n])} ..." for n in (4, 3, 2, 1, 0))]


@torch.inference_mode()
def answer_samples(head: FusionHead, samples: Sequence[Sample], seen: FrozenFeatures) -> list[str]:
    """The head's answer to each sample."""
    said = []
    for start in range(0, len(samples), 256):
        some = samples[start : start + 256]
        said += [head.config.answers[i] for i in _logits(head, some, seen).argmax(dim=1).tolist()]
    return said


def _fit(
    samples: Sequence[Sample],
    seen: FrozenFeatures,
    answers: tuple[str, ...],
    model: str,
    epochs: int,
    seed: int,
    say: Say,
) -> FusionHead:
    torch.manual_seed(seed)
    config = FusionConfig(model, answers, seen.vision_width, seen.text_width, seen.side_squared)
    head = FusionHead(config)
    number = {answer: i for i, answer in enumerate(answers)}
    about: dict[Path, list[Sample]] = defaultdict(list)
    for one in samples:
        if one.answer in number:  # the others cannot be said
            about[one.picture].append(one)
    pictures = sorted(about)
    steps = epochs * math.ceil(len(pictures) / PICTURES)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(pictures))
        losses = []
        for start in range(0, len(order), PICTURES):
            chosen = [pictures[i] for i in order[start : start + PICTURES]]
            batch = [one for picture in chosen for one in about[picture]]
            loss = F.cross_entropy(_logits(head, batch, seen), _targets(batch, number))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        say(f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.3f}")
    return head.eval()


def of_raw_cells(head: FusionHead, seen: FrozenFeatures) -> FusionHead:
    """The same head for cells as the towers give them."""
    raw, (mean, spread) = copy.deepcopy(head), seen.scale
    with torch.no_grad():
        raw.cell_proj.weight.div_(spread)
        raw.cell_proj.bias.sub_(raw.cell_proj.weight @ mean)
    return raw


def _logits(head: FusionHead, samples: Sequence[Sample], seen: FrozenFeatures) -> Tensor:
    """[n, answers]"""
    pictures = list(dict.fromkeys(one.picture for one in samples))
    place = {picture: i for i, picture in enumerate(pictures)}
    tokens, real = seen.tokens([one.question for one in samples])
    picture = torch.tensor([place[one.picture] for one in samples])
    return head(seen.cells(pictures), tokens, real, picture)


def _targets(samples: Sequence[Sample], number: dict[str, int]) -> Tensor:
    """How people's answers share out over those that can be said [n, answers]."""
    targets = torch.zeros(len(samples), len(number))
    for row, one in enumerate(samples):
        for answer, count in one.answers:
            if answer in number:
                targets[row, number[answer]] = count
    return targets / targets.sum(dim=1, keepdim=True)


def _rate(done: float) -> float:
    """A short rise, then a cosine down to 0."""
    return min(1.0, done / WARMUP + 1e-3) * (1 + math.cos(math.pi * done)) / 2


def _split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """By picture, and the same in every run: what the name of a picture says."""
    learned: list[Sample] = []
    tested: list[Sample] = []
    for one in samples:
        draw = int.from_bytes(blake2b(one.picture.name.encode(), digest_size=4).digest(), "big")
        (tested if draw < HELD_OUT * 2**32 else learned).append(one)
    return learned, tested
