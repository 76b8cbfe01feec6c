"""Batches of pairs, in an order that is a pure function of (seed, step).

The pairs of a step, the caption of each and the square that is cut out of its picture depend on
nothing else. The number of worker processes changes nothing, and the number of ranks only divides
the batch. A run can therefore resume at any step, and two ranks with 64 pairs each get the pairs of
one rank with 128.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from twotower.arrays import Int64Array, UInt8Array
from twotower.errors import BrokenPairError, PairsError, PictureError
from twotower.inputs.preprocess import Preprocess, PreprocessConfig
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.config import CLIPConfig
from twotower.pairs.pair import Source
from twotower.train.augmentation import Augmentation
from twotower.train.embed_cache import sample_key

PLAIN = Augmentation()
SUBSTITUTES = 50  # pairs that are tried in place of a broken one

# epoch, position in the epoch, number of the source, number of the pair in it
Address: TypeAlias = tuple[int, int, int, int]


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
    picture_keys: list[bytes]  # `sample_key` of the stored pictures
    broken: list[str]  # unreadable pairs, with the reason; others took their places


@dataclass(frozen=True)
class Order:
    """The order of pairs in each epoch.

    An epoch holds every pair of a source `weight` times, with the sources evenly interleaved.
    Shards are shuffled, then pairs within windows of `buffer`; a smaller source is shuffled as a
    whole.
    """

    shards: tuple[tuple[int, ...], ...]  # for each source, the numbers of pairs in its shards
    weights: tuple[float, ...]
    seed: int
    buffer: int = 100_000

    def __len__(self) -> int:
        """Return the number of pairs in an epoch."""
        return sum(self._pairs_of(source) for source in range(len(self.shards)))

    def epoch(self, epoch: int) -> Int64Array:
        """Return the pairs of an epoch in order: rows of (source, number of the pair in it)."""
        pairs, positions = [], []
        for source in range(len(self.shards)):
            numbers = self._numbers(source, epoch)
            pairs.append(np.stack([np.full_like(numbers, source), numbers], axis=1))
            positions.append((np.arange(len(numbers)) + 0.5) / max(1, len(numbers)))
        interleaved = np.argsort(np.concatenate(positions), kind="stable")
        return np.concatenate(pairs)[interleaved]

    def _pairs_of(self, source: int) -> int:
        """Return the number of pairs of a source in an epoch."""
        return int(self.weights[source] * sum(self.shards[source]))

    def _numbers(self, source: int, epoch: int) -> Int64Array:
        """Return the epoch's section of an endless stream of shuffled passes over the source."""
        count, length = sum(self.shards[source]), self._pairs_of(source)
        start, stop = epoch * length, (epoch + 1) * length
        passes = range(start // count, -(-stop // count))
        shuffled = [self._shuffle(source, number) for number in passes]
        stream = np.concatenate([*shuffled, np.empty(0, np.int64)])
        return stream[start - passes.start * count :][: stop - start]

    def _shuffle(self, source: int, pass_number: int) -> Int64Array:
        """Return the numbers of all pairs of a source in the order of one pass."""
        sizes = np.array(self.shards[source])
        starts = np.cumsum(sizes) - sizes
        random = np.random.default_rng([self.seed, source, pass_number])
        shards = random.permutation(len(sizes))
        numbers = np.concatenate(
            [np.arange(starts[shard], starts[shard] + sizes[shard]) for shard in shards]
        )
        for start in range(0, len(numbers), self.buffer):
            random.shuffle(numbers[start : start + self.buffer])
        return numbers


class Batches:
    """Batches from any step on, for this rank.

    Raises:
        PairsError: fewer pairs than a batch, or a batch that ranks cannot share; while reading,
            too many broken pairs in a row.
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
        augmentation: Augmentation = PLAIN,
        first_step: int = 0,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Open the batches of one rank.

        Args:
            batch_size: pairs of all ranks together.
            weights: passes over each source in an epoch; 1 by default.
            buffer: pairs that are shuffled together.
            augmentation: of the pictures; by default a random square is cut out.
            first_step: the step at which the order begins; each one begins another order.
            workers: processes that decode.
        """
        shards = tuple(tuple(getattr(source, "shard_sizes", (len(source),))) for source in sources)
        if first_step:
            seed = int(np.random.SeedSequence([seed, first_step]).generate_state(1)[0])
        self.order = Order(shards, tuple(weights or (1.0,) * len(sources)), seed, buffer)
        self.first_step = first_step
        self.batch_size, self.workers = batch_size, workers
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = len(self.order) // batch_size
        if self.steps_per_epoch == 0:
            raise PairsError(
                ", ".join(source.name for source in sources),
                f"{len(self.order)} pairs are fewer than a batch of {batch_size}",
                "give more pairs or a smaller batch",
            )
        if batch_size % world_size:
            raise PairsError(
                "data.batch_size",
                f"a batch of {batch_size} cannot be shared by {world_size} ranks",
                f"use a multiple of {world_size}",
            )
        self.tokenizer = tokenizer
        self._samples = _Samples(sources, config, tokenizer, self.order, augmentation)

    def __call__(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of steps `start` to `stop` - 1, counted over all epochs."""
        steps = range(start, stop)
        loader = DataLoader(
            self._samples,
            batch_sampler=_Addresses(self, steps),
            num_workers=self.workers,
            collate_fn=self._samples.collate,
            prefetch_factor=2 if self.workers else None,
        )
        for step, batch in zip(steps, loader, strict=True):
            yield replace(batch, step=step)


class _Addresses(Sampler[list[Address]]):
    """The addresses of this rank's pairs, step by step."""

    def __init__(self, batches: Batches, steps: range) -> None:
        self.batches, self.steps = batches, steps

    def __iter__(self) -> Iterator[list[Address]]:
        batches, ordered_epoch = self.batches, -1
        local = batches.batch_size // batches.world_size
        for step in self.steps:
            epoch, step_of_epoch = divmod(step - batches.first_step, batches.steps_per_epoch)
            if epoch != ordered_epoch:
                ordered_epoch, pairs = epoch, batches.order.epoch(epoch)
            start = step_of_epoch * batches.batch_size + batches.rank * local
            positions = range(start, start + local)
            yield [(epoch, position, *pairs[position].tolist()) for position in positions]

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class _Sample:
    pixels: UInt8Array  # [image_size, image_size, 3]
    caption: str
    image_id: int
    key: str
    picture_key: bytes
    broken: tuple[str, ...]


class _Samples(Dataset[_Sample]):
    """Pairs that are read, decoded and cut out, by address; used in the worker processes."""

    def __init__(
        self,
        sources: Sequence[Source],
        config: CLIPConfig,
        tokenizer: Tokenizer,
        order: Order,
        augmentation: Augmentation,
    ) -> None:
        self.sources, self.order, self.tokenizer = sources, order, tokenizer
        self.augmentation = augmentation
        # decode JPEGs at a reduced size, not below image_size: 2 to 7 times as fast, pixels at
        # cosine .9999
        side = config.preprocess.image_size // 2 * augmentation.enlargement
        self.preprocess = Preprocess(config.preprocess, int(side))
        self.starts = np.cumsum([0, *(len(source) for source in sources)]).tolist()
        self.trim = not config.needs_padding

    def __getitem__(self, address: Address) -> _Sample:
        epoch, position, source, number = address
        random = np.random.default_rng([self.order.seed, 1 << 32, epoch, position])
        broken: list[str] = []
        for _ in range(SUBSTITUTES):
            try:
                return self._read(source, number, random, broken)
            except (BrokenPairError, PictureError) as error:
                broken.append(f"{self.sources[source].key(number)}: {error}")
            number = int(random.integers(len(self.sources[source])))
        raise PairsError(
            self.sources[source].name,
            f"{SUBSTITUTES} pairs in a row are broken, the last is {broken[-1]}",
            "check the source with: twotower pairs stats",
        )

    def _read(
        self, source: int, number: int, random: np.random.Generator, broken: list[str]
    ) -> _Sample:
        pair = self.sources[source][number]
        caption = pair.captions[int(random.integers(len(pair.captions)))]
        square = self.augmentation.square(self.preprocess, pair.picture, random)
        image_id = self.starts[source] + number
        picture_key = sample_key(pair.picture)
        return _Sample(np.asarray(square), caption, image_id, pair.key, picture_key, tuple(broken))

    def collate(self, samples: list[_Sample]) -> Batch:
        """Stack samples into a batch, whose step `Batches` sets."""
        tokens = self.tokenizer([sample.caption for sample in samples])
        length = int(tokens.lengths.max())
        input_ids = tokens.input_ids[:, :length] if self.trim else tokens.input_ids
        pixels = np.stack([sample.pixels for sample in samples]).transpose(0, 3, 1, 2)
        return Batch(
            step=-1,
            pixels=torch.from_numpy(np.ascontiguousarray(pixels)),
            input_ids=torch.from_numpy(np.ascontiguousarray(input_ids)),
            image_ids=torch.tensor([sample.image_id for sample in samples]),
            text_ids=torch.tensor([_text_id(sample.caption) for sample in samples]),
            keys=[sample.key for sample in samples],
            captions=[sample.caption for sample in samples],
            picture_keys=[sample.picture_key for sample in samples],
            broken=[line for sample in samples for line in sample.broken],
        )


def _text_id(caption: str) -> int:
    """Return 64 bits of a hash of the caption; captions in another letter case differ."""
    digest = hashlib.blake2b(caption.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def normalize_pixels(pixels: Tensor, config: PreprocessConfig) -> Tensor:
    """Convert uint8 [b, 3, S, S] to float32 pixel_values as `Preprocess` does, on their device."""
    mean, std = (
        torch.tensor(channels, device=pixels.device).view(3, 1, 1)
        for channels in (config.mean, config.std)
    )
    return (pixels.float() / 255 - mean) / std
