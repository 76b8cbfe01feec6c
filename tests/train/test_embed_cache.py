"""Cached vectors are found by content, and survive a kill and a full disk."""

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from twotower.errors import TrainError
from twotower.train import embed_cache
from twotower.train.embed_cache import EmbedCache, sample_key


def vector(content: bytes) -> NDArray[np.float32]:
    return np.frombuffer(sample_key(content) * 2, np.uint8).astype(np.float32)


def fill(cache: EmbedCache, contents: list[bytes]) -> list[int]:
    """Fill the cache; return the contents that were computed."""
    computed: list[int] = []

    def compute(chosen: list[int]) -> NDArray[np.float32]:
        computed.extend(chosen)
        return np.stack([vector(contents[i]) for i in chosen])

    cache.fill([sample_key(content) for content in contents], compute)
    return computed


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.binary(max_size=2), max_size=30), min_size=1, max_size=4))
def test_every_content_gets_its_own_vector(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[bytes]]
) -> None:
    folder, stored = tmp_path_factory.mktemp("cache"), set[bytes]()
    for contents in rounds:
        cache = EmbedCache(folder)  # opened anew, as another run would
        computed = fill(cache, contents)
        assert sorted(contents[i] for i in computed) == sorted(set(contents) - stored)
        stored |= set(contents)
        assert len(cache) == len(stored)
        if contents:
            vectors = cache[[sample_key(content) for content in contents]]
            np.testing.assert_array_equal(
                vectors, np.stack([vector(content) for content in contents])
            )


def test_a_run_that_is_stopped_keeps_complete_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_cache, "BLOCK", 4)
    contents = [bytes([number]) for number in range(10)]
    done: list[int] = []

    def compute(chosen: list[int]) -> NDArray[np.float32]:
        if len(done) == 8:
            raise KeyboardInterrupt
        done.extend(chosen)
        return np.stack([vector(contents[i]) for i in chosen])

    with pytest.raises(KeyboardInterrupt):
        EmbedCache(tmp_path).fill([sample_key(content) for content in contents], compute)
    (tmp_path / "000009-dead.vectors.npy").write_bytes(b"without its keys")  # killed in between
    assert fill(EmbedCache(tmp_path), contents) == [8, 9]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EmbedCache(tmp_path)
    fill(cache, [b"a", b"b"])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embed_cache.np, "save", full)
    with pytest.raises(TrainError, match=r"cannot be written \(No space left on device\)"):
        fill(cache, [b"c"])
    monkeypatch.undo()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert fill(EmbedCache(tmp_path), [b"a", b"b", b"c"]) == [2]


def test_half_precision_on_disk(tmp_path: Path) -> None:
    cache = EmbedCache(tmp_path, np.float16)
    cache.fill([sample_key(b"x")], lambda chosen: np.full((1, 3), 1 / 3, np.float32))
    vectors = cache[[sample_key(b"x")]]
    assert vectors.dtype == np.float32 and vectors == pytest.approx(1 / 3, abs=1e-3)
    assert np.load(next(tmp_path.glob("*.vectors.npy"))).dtype == np.float16
