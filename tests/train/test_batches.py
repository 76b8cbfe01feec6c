"""The order of pairs is a pure function of the step; workers and ranks do not change it."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pairs.conftest import picture
from tests.tiny_models import siglip_config, tiny_config
from twotower.errors import BrokenPairError, PairsError
from twotower.inputs.preprocess import Preprocess
from twotower.inputs.tokenizer import Tokens, load_tokenizer
from twotower.pairs.pair import Pair
from twotower.train.batches import Batch, Batches, Order, normalize_pixels

CONFIG = tiny_config()
TOKENIZER = load_tokenizer(CONFIG.tokenizer)


class Numbers:
    """Synthetic pairs: each number has its own picture and captions."""

    def __init__(self, count: int, name: str = "numbers", broken: frozenset[int] = frozenset()):
        self.name, self.count, self.broken = name, count, broken

    def __len__(self) -> int:
        return self.count

    def key(self, number: int) -> str:
        return f"{self.name}-{number}"

    def __getitem__(self, number: int) -> Pair:
        if number in self.broken:
            raise BrokenPairError(self.name, "made so", "replace it")
        captions = tuple(f"{self.name} {number} {letter}" for letter in "abc")
        return Pair(self.key(number), picture(number, "png", (70, 90)), captions)


def batches(*sources: Numbers, batch_size: int = 4, **options: object) -> Batches:
    return Batches(sources or (Numbers(30),), CONFIG, TOKENIZER, batch_size=batch_size, **options)


def assert_same(batch: Batch, expected: Batch) -> None:
    assert (batch.step, batch.keys, batch.broken) == (expected.step, expected.keys, expected.broken)
    for name in ("pixels", "input_ids", "image_ids", "text_ids"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name


# --- the order -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    shards=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=4), min_size=1, max_size=3),
    seed=st.integers(0, 9),
    buffer=st.integers(1, 50),
)
def test_an_epoch_holds_every_pair_once(shards: list[list[int]], seed: int, buffer: int) -> None:
    order = Order(tuple(map(tuple, shards)), (1.0,) * len(shards), seed, buffer)
    everything = {(s, n) for s, sizes in enumerate(shards) for n in range(sum(sizes))}
    for epoch in (0, 3):
        pairs = order.epoch(epoch)
        assert len(pairs) == len(order) == len(everything)
        assert set(map(tuple, pairs.tolist())) == everything


def test_weights_are_passes_over_a_source() -> None:
    order = Order(((20,), (10, 10), (8,)), (2.0, 0.5, 1.0), 0)
    counts: Counter[tuple[int, int]] = Counter()
    for epoch in range(4):
        pairs = order.epoch(epoch)
        assert Counter(pairs[:, 0].tolist()) == {0: 40, 1: 10, 2: 8}
        half = Counter(pairs[:29, 0].tolist())  # evenly interleaved
        assert abs(half[0] - 20) <= 1 and abs(half[1] - 5) <= 1
        counts.update(map(tuple, pairs.tolist()))
    assert {counts[0, n] for n in range(20)} == {8}
    assert {counts[1, n] for n in range(20)} == {2}  # half of it in each epoch, all after two


def test_epochs_and_seeds_differ() -> None:
    epochs = [Order(((50,),), (1.0,), seed).epoch(epoch) for seed in (0, 1) for epoch in (0, 1)]
    for i, order in enumerate(epochs):
        assert not any(np.array_equal(order, earlier) for earlier in epochs[:i])


def test_a_small_buffer_stays_near_its_shard() -> None:
    order = Order(((100,) * 10,), (1.0,), 0, buffer=100)
    shards = order.epoch(0)[:, 1].reshape(10, 100) // 100
    assert all(len(set(row)) == 1 for row in shards.tolist())  # a window is a shard
    assert [row[0] for row in shards.tolist()] != list(range(10))  # and shards are shuffled


# --- batches -------------------------------------------------------------------------------------


def test_any_step_is_reached_directly() -> None:
    whole = list(batches()(0, 20))
    assert [batch.step for batch in whole] == list(range(20))
    for start in (1, 7, 13):
        for batch, expected in zip(batches()(start, 20), whole[start:], strict=True):
            assert_same(batch, expected)


def test_workers_change_nothing() -> None:
    source = Numbers(30, broken=frozenset({3, 17}))
    alone = list(batches(source)(2, 12))
    for workers in (1, 3):
        for batch, expected in zip(batches(source, workers=workers)(2, 12), alone, strict=True):
            assert_same(batch, expected)


def test_ranks_share_a_batch() -> None:
    alone = list(batches(batch_size=8)(0, 5))
    ranks = [list(batches(batch_size=8, rank=r, world_size=4)(0, 5)) for r in range(4)]
    for step, whole in enumerate(alone):
        assert [key for rank in ranks for key in rank[step].keys] == whole.keys
        assert torch.equal(torch.cat([rank[step].pixels for rank in ranks]), whole.pixels)
        assert torch.equal(torch.cat([rank[step].text_ids for rank in ranks]), whole.text_ids)


def test_a_broken_pair_is_named_and_replaced() -> None:
    clean = list(batches()(0, 7))
    replaced = list(batches(Numbers(30, broken=frozenset({5})))(0, 7))
    named = [line for batch in replaced for line in batch.broken]
    assert named == ["numbers-5: numbers: made so; replace it"]
    for batch, expected in zip(replaced, clean, strict=True):
        assert len(batch.keys) == 4 and "numbers-5" not in batch.keys
        kept = [i for i, key in enumerate(expected.keys) if key != "numbers-5"]
        assert [batch.keys[i] for i in kept] == [expected.keys[i] for i in kept]
        assert torch.equal(batch.pixels[kept], expected.pixels[kept])


def test_all_broken_is_an_error() -> None:
    with pytest.raises(PairsError, match="50 pairs in a row are broken"):
        next(batches(Numbers(30, broken=frozenset(range(30))))(0, 1))


def test_fewer_pairs_than_a_batch() -> None:
    with pytest.raises(PairsError, match="30 pairs are fewer than a batch of 31"):
        batches(batch_size=31)
    with pytest.raises(PairsError, match="cannot be shared by 3 ranks"):
        batches(world_size=3)


def test_pictures_and_captions_belong_together() -> None:
    for batch in batches(Numbers(9, "x"), Numbers(12, "y"))(0, 10):
        for key, image_id, text_id in zip(
            batch.keys, batch.image_ids.tolist(), batch.text_ids.tolist(), strict=True
        ):
            name, number = key.split("-")
            assert image_id == int(number) + (9 if name == "y" else 0)
            assert text_id in {text_id_of(f"{name} {number} {letter}") for letter in "abc"}


def text_id_of(caption: str) -> int:
    from twotower.train.batches import _text_id

    return _text_id(caption)


def test_every_caption_is_read() -> None:
    texts = Counter(t for batch in batches(Numbers(4))(0, 30) for t in batch.text_ids.tolist())
    assert len(texts) == 12 and min(texts.values()) >= 3


def test_pixels_are_a_random_square_of_the_resized_picture() -> None:
    preprocess = Preprocess(CONFIG.preprocess)
    tall = np.asarray(preprocess.square(picture(3, "png", (70, 90)), (0.0, 0.0)))
    squares = set()
    for batch in batches(Numbers(4))(0, 12):
        for key, pixels in zip(batch.keys, batch.pixels, strict=True):
            assert pixels.shape == (3, 64, 64)
            if key == "numbers-3":
                squares.add(pixels.numpy().tobytes())
    assert len(squares) > 3
    top = np.asarray(preprocess.square(picture(3, "png", (70, 90)), (0.0, 0.999)))
    assert not np.array_equal(top, tall)


def test_normalized_pixels_equal_preprocess() -> None:
    source = picture(1, "png", (64, 64))
    preprocess = Preprocess(CONFIG.preprocess)
    pixels = torch.from_numpy(np.array(preprocess.square(source))).permute(2, 0, 1)[None]
    expected = torch.from_numpy(preprocess(source))[None]
    torch.testing.assert_close(normalize_pixels(pixels, CONFIG.preprocess), expected)


def test_texts_are_cut_to_the_longest_unless_the_tower_needs_all_positions() -> None:
    batch = next(batches()(0, 1))
    assert batch.input_ids.shape[1] == (batch.input_ids == 49407).int().argmax(dim=1).max() + 1
    config = siglip_config()

    def stub(texts: list[str]) -> Tokens:
        shape = (len(texts), 64)
        mask = np.zeros(shape, np.int64)
        mask[:, :5] = 1
        ids, truncated = np.ones(shape, np.int64), np.zeros(len(texts), bool)
        return Tokens(ids, mask, mask.sum(axis=1), truncated)

    siglip = Batches((Numbers(9),), config, stub, batch_size=3)
    assert next(siglip(0, 1)).input_ids.shape == (3, 64)


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_stays_flat_over_epochs(shards: Path, workers: int) -> None:
    """The memory of this process, or of its worker, which shares the pages of the source."""
    from twotower.pairs.sources import open_source

    process = psutil.Process()

    def memory() -> int:
        gc.collect()
        processes = process.children(recursive=True) if workers else [process]
        return sum(running.memory_info().rss for running in processes)

    many = Batches([open_source(shards)], CONFIG, TOKENIZER, batch_size=20, workers=workers)
    sizes = [memory() for batch in many(0, 160) if batch.step in (40, 150)]
    assert len(sizes) == 2 and sizes[0] > 0
    assert sizes[1] - sizes[0] < 8 * 2**20


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Path]:
    from twotower.pairs.shards import pack

    pack(Numbers(20), tmp_path / "shards", pairs_per_shard=7)
    yield tmp_path / "shards"


def test_tars_with_more_workers_than_shards(shards: Path) -> None:
    from twotower.pairs.sources import open_source

    source = open_source(shards)
    make: Callable[..., Batches] = lambda workers: Batches(  # noqa: E731
        [source], replace(CONFIG, name="x"), TOKENIZER, batch_size=5, workers=workers
    )
    alone = list(make(0)(0, 8))
    for batch, expected in zip(make(5)(0, 8), alone, strict=True):
        assert_same(batch, expected)
    assert sorted(key for batch in alone[:4] for key in batch.keys) == sorted(
        source.key(number) for number in range(20)
    )
