"""Pairs to batches, in an order that is a pure function of (seed, step).

Which pairs make up a step, which caption is read and where the picture is cut depend on nothing
else: not on the number of worker processes, and of ranks only in who takes which part. So a run
resumes anywhere, and two ranks of 64 see what one of 128 would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from twotower.errors import BrokenPairError, PairsError, PictureError
from twotower.inputs.preprocess import Preprocess, PreprocessConfig
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.config import CLIPConfig
from twotower.pairs.pair import Source
from twotower.train.embed_cache import sample_key

SUBSTITUTES = 50  # other pairs that are tried where one is broken


@dataclass(frozen=True)
class Batch:
    """This rank's b pairs of one step."""

    step: int
    pixels: Tensor  # uint8 [b, 3, image_size, image_size]
    input_ids: Tensor  # int64 [b, L], cut to the longest text unless the tower needs all positions
    image_ids: Tensor  # int64 [b]: equal for the same picture
    text_ids: Tensor  # int64 [b]: equal for the same caption
    keys: list[str]
    captions: list[str]
    picture_keys: list[bytes]  # of the stored pictures' content (`sample_key`)
    broken: list[str]  # why a pair could not be used; another took its place


@dataclass(frozen=True)
class Order:
    """Which pair stands at which place of which epoch.

    An epoch holds `weight` times every pair of each source, evenly interleaved. Shards are
    shuffled, then pairs within windows of `buffer`; a smaller source is shuffled as a whole.
    """

    shards: tuple[tuple[int, ...], ...]  # for each source, how many pairs its shards hold
    weights: tuple[float, ...]
    seed: int
    buffer: int = 100_000

    def __len__(self) -> int:
        """Places in an epoch."""
        return sum(self._amount(source) for source in range(len(self.shards)))

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """[places, 2] of (source, number of the pair in it)."""
        parts, marks = [], []
        for source in range(len(self.shards)):
            numbers = self._numbers(source, epoch)
            parts.append(np.stack([np.full_like(numbers, source), numbers], axis=1))
            marks.append((np.arange(len(numbers)) + 0.5) / max(1, len(numbers)))
        interleaved = np.argsort(np.concatenate(marks), kind="stable")
        return np.concatenate(parts)[interleaved]

    def _amount(self, source: int) -> int:
        return int(self.weights[source] * sum(self.shards[source]))

    def _numbers(self, source: int, epoch: int) -> NDArray[np.int64]:
        """The epoch's part of an endless stream: shuffled passes over the source, end to end."""
        count, amount = sum(self.shards[source]), self._amount(source)
        start, stop = epoch * amount, (epoch + 1) * amount
        passes = range(start // count, -(-stop // count))
        parts = [self._pass(source, one) for one in passes]
        stream = np.concatenate([*parts, np.empty(0, np.int64)])
        return stream[start - passes.start * count :][: stop - start]

    def _pass(self, source: int, which: int) -> NDArray[np.int64]:
        sizes = np.array(self.shards[source])
        starts = np.cumsum(sizes) - sizes
        random = np.random.default_rng([self.seed, source, which])
        shards = random.permutation(len(sizes))
        numbers = np.concatenate([np.arange(starts[i], starts[i] + sizes[i]) for i in shards])
        for start in range(0, len(numbers), self.buffer):
            random.shuffle(numbers[start : start + self.buffer])
        return numbers


class Batches:
    """Batches from any step on, for this rank.

    Raises:
        PairsError: fewer pairs than a batch; while reading, hardly any pair that is not broken.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: CLIPConfig,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        buffer: int = 100_000,
        zoom: float = 1.0,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`batch_size` is of all ranks together; `workers` decode in processes of their own.

        Pictures are enlarged by up to `zoom` before a random square is cut out of them.
        """
        shards = tuple(tuple(getattr(one, "shard_sizes", (len(one),))) for one in sources)
        self.order = Order(shards, tuple(weights or (1.0,) * len(sources)), seed, buffer)
        self.batch_size, self.workers = batch_size, workers
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = len(self.order) // batch_size
        if self.steps_per_epoch == 0:
            raise PairsError(
                f"{', '.join(one.name for one in sources)}: {len(self.order)} pairs are fewer than "
                f"a batch of {batch_size}; give more pairs or a smaller batch"
            )
        if batch_size % world_size:
            raise PairsError(f"a batch of {batch_size} cannot be shared by {world_size} ranks")
        self.tokenizer = tokenizer
        self._samples = _Samples(sources, config, tokenizer, self.order, zoom)

    def __call__(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """The batches of steps `first_step` to `last_step` - 1, counted over all epochs."""
        loader = DataLoader(
            self._samples,
            batch_sampler=_Places(self, first_step, last_step),
            num_workers=self.workers,
            collate_fn=self._samples.collate,
            prefetch_factor=2 if self.workers else None,
        )
        for step, batch in zip(range(first_step, last_step), loader, strict=True):
            yield replace(batch, step=step)


class _Places(Sampler[list[tuple[int, int, int, int]]]):
    """For each step the (epoch, place, source, number) of this rank's pairs."""

    def __init__(self, batches: Batches, first_step: int, last_step: int) -> None:
        self.batches, self.first_step, self.last_step = batches, first_step, last_step

    def __iter__(self) -> Iterator[list[tuple[int, int, int, int]]]:
        batches, known = self.batches, -1
        local = batches.batch_size // batches.world_size
        for step in range(self.first_step, self.last_step):
            epoch, within = divmod(step, batches.steps_per_epoch)
            if epoch != known:
                known, places = epoch, batches.order.epoch(epoch)
            start = within * batches.batch_size + batches.rank * local
            yield [(epoch, place, *places[place].tolist()) for place in range(start, start + local)]

    def __len__(self) -> int:
        return self.last_step - self.first_step


@dataclass(frozen=True)
class _Sample:
    pixels: NDArray[np.uint8]  # [image_size, image_size, 3]
    caption: str
    image_id: int
    key: str
    picture_key: bytes
    broken: tuple[str, ...]


class _Samples(Dataset[_Sample]):
    """Read, decode and cut one pair; runs in the worker processes."""

    def __init__(
        self,
        sources: Sequence[Source],
        config: CLIPConfig,
        tokenizer: Tokenizer,
        order: Order,
        zoom: float,
    ) -> None:
        self.sources, self.order, self.tokenizer, self.zoom = sources, order, tokenizer, zoom
        # never below the size that is needed: 2 to 7 times as fast, pixels at cosine .9999
        self.preprocess = Preprocess(config.preprocess, config.preprocess.image_size // 2)
        self.starts = np.cumsum([0, *(len(source) for source in sources)]).tolist()
        causal = config.text.kind != "transformer" or config.text.causal
        self.trim = causal  # a bidirectional tower without a padding mask needs every position

    def __getitem__(self, place: tuple[int, int, int, int]) -> _Sample:
        epoch, position, source, number = place
        random = np.random.default_rng([self.order.seed, 1 << 32, epoch, position])
        broken: list[str] = []
        for _ in range(SUBSTITUTES):
            try:
                return self._read(source, number, random, broken)
            except (BrokenPairError, PictureError) as error:
                broken.append(f"{self.sources[source].key(number)}: {error}")
            number = int(random.integers(len(self.sources[source])))
        raise PairsError(
            f"{self.sources[source].name}: {SUBSTITUTES} pairs in a row are broken, the last: "
            f"{broken[-1]}"
        )

    def _read(
        self, source: int, number: int, random: np.random.Generator, broken: list[str]
    ) -> _Sample:
        pair = self.sources[source][number]
        caption = pair.captions[int(random.integers(len(pair.captions)))]
        place, zoom = (random.random(), random.random()), random.uniform(1.0, self.zoom)
        square = self.preprocess.square(pair.picture, place, zoom)
        image_id = self.starts[source] + number
        picture_key = sample_key(pair.picture)
        return _Sample(np.asarray(square), caption, image_id, pair.key, picture_key, tuple(broken))

    def collate(self, samples: list[_Sample]) -> Batch:
        """Stack samples into a batch whose step is not known here."""
        tokens = self.tokenizer([one.caption for one in samples])
        length = int(tokens.attention_mask.sum(axis=1).max())
        input_ids = tokens.input_ids[:, :length] if self.trim else tokens.input_ids
        pixels = np.stack([one.pixels for one in samples]).transpose(0, 3, 1, 2)
        return Batch(
            step=-1,
            pixels=torch.from_numpy(np.ascontiguousarray(pixels)),
            input_ids=torch.from_numpy(np.ascontiguousarray(input_ids)),
            image_ids=torch.tensor([one.image_id for one in samples]),
            text_ids=torch.tensor([_text_id(one.caption) for one in samples]),
            keys=[one.key for one in samples],
            captions=[one.caption for one in samples],
            picture_keys=[one.picture_key for one in samples],
            broken=[line for one in samples for line in one.broken],
        )


def _text_id(caption: str) -> int:
    """64 bits of the caption; equal captions of other letter cases count as different."""
    digest = hashlib.blake2b(caption.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def normalize_pixels(pixels: Tensor, config: PreprocessConfig) -> Tensor:
    """uint8 [b, 3, S, S] to float32 pixel_values, as `Preprocess` does, on the pixels' device."""
    mean, std = (
        torch.tensor(one, device=pixels.device).view(3, 1, 1) for one in (config.mean, config.std)
    )
    return (pixels.float() / 255 - mean) / std
