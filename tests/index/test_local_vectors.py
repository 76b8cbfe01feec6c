"""Vectors in local files: what a crash, a full disk and rounding must not do to them."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.index.test_vectors import DIM, row_of, unit
from twotower.errors import LibraryError
from twotower.index import int8_scores
from twotower.index.local_vectors import LocalVectors


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sets(st.integers(1, 40), min_size=1, max_size=20)),
        min_size=1,
        max_size=12,
    )
)
def test_readers_follow_the_writer(steps: list[tuple[bool, set[int]]]) -> None:
    """Any sequence of additions and removals, read by the writer and by other instances."""
    with tempfile.TemporaryDirectory() as folder:
        writer, reader = LocalVectors(Path(folder), DIM), LocalVectors(Path(folder), DIM)
        expected: set[int] = set()
        for adding, numbers in steps:
            ids = np.array(sorted(numbers, reverse=True))
            if adding:
                writer.add(ids, np.stack([row_of(number) for number in ids]))
                expected |= numbers
            else:
                writer.remove(ids)
                expected -= numbers
        for store in (writer, reader, LocalVectors(Path(folder), DIM)):
            ids = store.ids()
            assert sorted(ids.tolist()) == sorted(expected)
            for number, row in zip(ids.tolist(), store.get(ids), strict=True):
                np.testing.assert_array_equal(row, row_of(number))


@settings(max_examples=80, deadline=None)
@given(
    arrays(np.float32, (60, 8), elements=st.floats(-1, 1, width=32)),
    arrays(np.float32, 8, elements=st.floats(-1, 1, width=32)),
    st.integers(1, 70),
)
def test_rounding_loses_no_result(rows: np.ndarray, query: np.ndarray, top: int) -> None:
    """The candidates by rounded vectors contain the nearest by float32 vectors."""
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    with tempfile.TemporaryDirectory() as folder:
        store = LocalVectors(Path(folder), 8)
        store.add(np.arange(1, 61), rows)
        ids, scores = store.search(query, top)
        true = rows.astype(np.float64) @ query
        np.testing.assert_allclose(scores, np.sort(true)[::-1][:top], atol=1e-5)
        np.testing.assert_allclose(scores, true[ids - 1], atol=1e-5)


def test_many_chunks_and_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_scores, "CHUNK", 64)
    store = LocalVectors(tmp_path, 64)
    rows = unit(5000, dim=64)
    store.add(np.arange(1, 5001), rows)
    for seed in range(20):
        query = unit(1, seed + 50, 64)[0]
        ids, _ = store.search(query, 30)
        assert ids.tolist() == (np.argsort(-(rows @ query))[:30] + 1).tolist()


def test_free_slots_are_used_again(tmp_path: Path) -> None:
    store = LocalVectors(tmp_path, DIM)
    store.add(np.arange(1, 101), unit(100))
    size = (tmp_path / "rows.f32").stat().st_size
    for start in range(101, 1001, 100):
        store.remove(np.arange(start - 100, start))
        store.add(np.arange(start, start + 100), unit(100, start))
    assert (tmp_path / "rows.f32").stat().st_size == size


def test_leftovers_of_a_crash_are_ignored(tmp_path: Path) -> None:
    """Vectors without an id, and an incomplete id."""
    store = LocalVectors(tmp_path, DIM)
    store.add(np.array([1, 2]), np.stack([row_of(1), row_of(2)]))
    for name in ("rows.f32", "codes.i8", "scales.f32"):
        with (tmp_path / name).open("ab") as file:
            file.write(os.urandom(77))
    with (tmp_path / "ids").open("ab") as file:
        file.write(b"\x03\x00\x00")
    reopened = LocalVectors(tmp_path, DIM)
    assert reopened.ids().tolist() == [1, 2]
    reopened.add(np.array([3]), row_of(3)[None])
    for opened in (reopened, LocalVectors(tmp_path, DIM)):
        assert opened.ids().tolist() == [1, 2, 3]
        np.testing.assert_array_equal(opened.get(np.array([3]))[0], row_of(3))
        assert opened.search(row_of(3), 1)[0].tolist() == [3]


def test_truncated_files_are_an_error(tmp_path: Path) -> None:
    LocalVectors(tmp_path, DIM).add(np.array([1, 2]), unit(2))
    os.truncate(tmp_path / "rows.f32", 10)
    with pytest.raises(LibraryError, match="index again"):
        LocalVectors(tmp_path, DIM)


WRITER = """
import sys, numpy as np
from pathlib import Path
from twotower.index.local_vectors import LocalVectors
sys.path.insert(0, sys.argv[2])
from tests.index.test_vectors import row_of
store = LocalVectors(Path(sys.argv[1]), 16)
resource = __import__("resource")
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
number = 1
try:
    while True:
        ids = np.arange(number, number + 9)
        store.add(ids, np.stack([row_of(number) for number in ids]))
        number += 9
except OSError as error:
    print(number - 1)
"""


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """A write fails halfway: the vectors added before are complete, and more can be added."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", WRITER, tmp_path, root], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    complete = int(done.stdout)
    assert complete > 50
    store = LocalVectors(tmp_path, DIM)
    assert sorted(store.ids().tolist()) == list(range(1, complete + 1))
    store.add(np.array([complete + 1]), row_of(complete + 1)[None])
    for number in range(1, complete + 2):
        np.testing.assert_array_equal(store.get(np.array([number]))[0], row_of(number))
    shutil.rmtree(tmp_path)
