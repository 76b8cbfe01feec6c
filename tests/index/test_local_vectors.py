"""The protocol `Vectors`, for each store: no vector is lost, doubled or under another id."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from twotower.errors import LibraryError
from twotower.index import int8_scores
from twotower.index.index import open_vectors
from twotower.index.local_vectors import LocalVectors
from twotower.index.vectors import Vectors

DIM = 16


def unit(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def row_of(number: int) -> np.ndarray:
    """Return the vector that belongs to an id in these tests."""
    return unit(1, seed=number)[0]


@pytest.fixture(params=["local", "without simsimd", "milvus"])
def vectors(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Vectors]:
    if request.param == "milvus":
        pytest.importorskip("milvus_lite", reason="pip install 'twotower[milvus]'")
        opened = open_vectors(f"{tmp_path}/vectors.db", DIM)
    else:
        opened = open_vectors(tmp_path / "vectors", DIM)
    if request.param == "without simsimd":
        monkeypatch.setitem(sys.modules, "simsimd", None)
    yield opened
    opened.close()


def test_an_empty_store(vectors: Vectors) -> None:
    assert len(vectors) == 0 and len(vectors.ids()) == 0
    ids, scores = vectors.search(row_of(1), 5)
    assert len(ids) == len(scores) == 0
    ids, scores = vectors.scores(unit(3))
    assert scores.shape == (3, 0)
    vectors.remove(np.array([1]))


def test_adding_replacing_and_removing(vectors: Vectors) -> None:
    vectors.add(np.array([3, 1, 7]), np.stack([row_of(3), row_of(1), row_of(70)]))
    vectors.add(np.array([7, 9]), np.stack([row_of(7), row_of(9)]))
    vectors.remove(np.array([1, 5]))
    vectors.add(np.array([4]), row_of(4)[None])
    assert sorted(vectors.ids().tolist()) == [3, 4, 7, 9] and len(vectors) == 4
    np.testing.assert_array_equal(
        vectors.get(np.array([9, 3, 4, 7])), np.stack([row_of(number) for number in (9, 3, 4, 7)])
    )
    assert vectors.get(np.zeros(0, np.int64)).shape == (0, DIM)
    with pytest.raises(LibraryError, match="twotower index"):
        vectors.get(np.array([3, 1]))


def test_search_is_exact(vectors: Vectors) -> None:
    rows = unit(700)
    ids = np.random.default_rng(1).permutation(700) + 5
    vectors.add(ids, rows)
    vectors.remove(ids[::7])
    kept = np.ones(700, bool)
    kept[::7] = False
    for seed, top in ((1, 1), (2, 10), (3, 100), (4, 1000)):
        query = unit(1, seed)[0]
        nearest, scores = vectors.search(query, top)
        order = np.argsort(-(rows[kept] @ query))[:top]
        assert nearest.tolist() == ids[kept][order].tolist()
        np.testing.assert_allclose(scores, (rows[kept] @ query)[order], atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_filters(vectors: Vectors, share: float) -> None:
    rows, ids = unit(500), np.arange(1, 501)
    vectors.add(ids, rows)
    chosen = np.random.default_rng(5).random(500) < share
    query = unit(1, 9)[0]
    allowed = np.append(ids[chosen], [0, 999_999])  # and ids that are not stored
    nearest, _ = vectors.search(query, 20, allowed)
    expected = ids[chosen][np.argsort(-(rows[chosen] @ query))[:20]]
    assert nearest.tolist() == expected.tolist()


def test_equal_scores_come_by_id(vectors: Vectors) -> None:
    vectors.add(np.array([5, 2, 9, 4]), np.stack([row_of(1)] * 4))
    ids, _ = vectors.search(row_of(1), 4)
    assert ids.tolist() == [2, 4, 5, 9]


def test_all_scores(vectors: Vectors) -> None:
    rows, ids = unit(300), np.arange(300, 0, -1)
    vectors.add(ids, rows)
    vectors.remove(np.array([17]))
    queries = unit(4, 8)
    stored, scores = vectors.scores(queries)
    order = np.argsort(stored)
    assert stored[order].tolist() == [number for number in range(1, 301) if number != 17]
    np.testing.assert_allclose(scores[:, order], queries @ rows[300 - stored[order]].T, atol=1e-6)


def test_vectors_persist(tmp_path: Path) -> None:
    for location in (tmp_path / "folder", f"{tmp_path}/lite.db"):
        if str(location).endswith(".db"):
            pytest.importorskip("milvus_lite")
        store = open_vectors(location, DIM)
        store.add(np.array([2, 5]), np.stack([row_of(2), row_of(5)]))
        store.remove(np.array([2]))
        store.close()
        reopened = open_vectors(location, DIM)
        assert reopened.ids().tolist() == [5]
        np.testing.assert_array_equal(reopened.get(np.array([5]))[0], row_of(5))
        reopened.drop()
        empty = open_vectors(location, DIM)
        assert len(empty) == 0
        empty.close()


def test_a_milvus_that_cannot_be_reached(tmp_path: Path) -> None:
    pytest.importorskip("pymilvus")
    with pytest.raises(LibraryError, match="milvus://localhost:1"):
        open_vectors("milvus://localhost:1/some", DIM)
    with pytest.raises(LibraryError, match="names no host"):
        open_vectors("milvus:///some", DIM)


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    pytest.importorskip("pymilvus")
    for address in ("milvus://me:se@c:ret@localhost:1/some", "milvus://me:se/ret@host/some"):
        with pytest.raises(LibraryError, match=r"milvus://me:\*\*\*@") as caught:
            open_vectors(address, DIM)
        assert "ret" not in str(caught.value)


def test_milvus_lite_serves_one_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("milvus_lite", reason="pip install 'twotower[milvus]'")
    (tmp_path / "lite.db").mkdir()
    with (tmp_path / "lite.db" / "LOCK").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as the other process does
        with pytest.raises(LibraryError, match="another process has it open"):
            open_vectors(f"{tmp_path}/lite.db", DIM)
    assert not caplog.records


def test_a_collection_of_another_model(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    open_vectors(f"{tmp_path}/lite.db", DIM).close()
    with pytest.raises(LibraryError, match="another collection"):
        open_vectors(f"{tmp_path}/lite.db", DIM + 1)


# Local files


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
def test_every_id_keeps_its_vector(steps: list[tuple[bool, set[int]]]) -> None:
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
from tests.index.test_local_vectors import row_of
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
