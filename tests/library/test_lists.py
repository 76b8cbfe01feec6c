"""Lists of like vectors: what they give is true, and what they miss is little and measured."""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower import Library
from twotower.cli.main import main
from twotower.library import lists
from twotower.library.catalog import LibraryError
from twotower.library.vectors import LocalVectors

pytest.importorskip("faiss", reason="pip install 'twotower[approximate]'")

DIM = 16
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "LEAST", 20)


def clusters(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = 0.5 * random.standard_normal((count, dim))
    rows += np.random.default_rng(9).standard_normal((40, dim))[random.integers(0, 40, count)]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def listed(folder: Path, rows: np.ndarray, queries: np.ndarray) -> LocalVectors:
    store = LocalVectors(folder, rows.shape[1])
    store.add(np.arange(1, len(rows) + 1), rows)
    store.approximate(queries)
    return store


def test_nearly_all_of_the_nearest_and_their_true_scores(tmp_path: Path) -> None:
    rows, queries = clusters(20_000), clusters(200, seed=1)
    store = listed(tmp_path, rows, queries[:100])
    index = store._open_lists()[0]._index  # type: ignore[index]
    assert 1 < index.nprobe < index.nlist / 4  # else it would save nothing
    hits = []
    for query in queries[100:]:
        found, scores = store.search(query, 100)
        truth = rows @ query
        np.testing.assert_allclose(scores, truth[found - 1], atol=1e-6)
        assert (np.diff(scores) <= 0).all() and len(set(found.tolist())) == 100
        hits.append(len(np.intersect1d(found - 1, np.argsort(-truth)[:100])) / 100)
    assert np.mean(hits) >= 0.95


def test_how_many_lists_are_read_follows_from_the_queries(tmp_path: Path) -> None:
    rows = clusters(5000)
    near = listed(tmp_path / "near", rows, rows[:50])
    far = listed(tmp_path / "far", rows, -rows[:50])
    probes = [one._open_lists()[0]._index.nprobe for one in (near, far)]  # type: ignore[index]
    assert probes[0] < probes[1]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sets(st.integers(1, 400), min_size=1, max_size=60)),
        max_size=6,
    ),
    st.integers(1, 60),
    st.sampled_from([0.0, 0.2, 0.7, 1.0]),
)
def test_when_all_lists_are_read_nothing_is_missed_or_stale(
    steps: list[tuple[bool, set[int]]], top: int, share: float
) -> None:
    """Whatever was added, replaced or removed since the lists were built, as in an exact store."""
    random = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        rows = clusters(300)
        store = listed(Path(folder), rows, rows[:5])
        exact = {number + 1: row for number, row in enumerate(rows)}
        for adding, some in steps:
            ids = np.array(sorted(some))
            if adding:
                new = clusters(len(ids), seed=int(random.integers(1000)))
                store.add(ids, new)
                exact |= dict(zip(ids.tolist(), new, strict=True))
            else:
                store.remove(ids)
                exact = {one: row for one, row in exact.items() if one not in some}
        index = store._open_lists()[0]._index  # type: ignore[index]
        index.nprobe = index.nlist
        ids = np.array(sorted(exact), np.int64)
        allowed = None if share == 1 else ids[random.random(len(ids)) < share]
        query = clusters(1, seed=77)[0]
        found, _ = store.search(query, top, allowed)
        among = ids if allowed is None else allowed
        truth = np.array([exact[one] @ query for one in among.tolist()])
        order = np.lexsort((among, -truth))[:top]
        np.testing.assert_allclose(
            [exact[one] @ query for one in found.tolist()], truth[order], atol=1e-6
        )
        assert set(found.tolist()) <= set(among.tolist())


def test_lists_that_lack_much_are_stale(tmp_path: Path) -> None:
    store = listed(tmp_path, clusters(300), clusters(5))
    assert not store.is_stale()
    store.add(np.arange(301, 321), clusters(20, seed=4))
    assert not store.is_stale()
    store.add(np.arange(321, 361), clusters(40, seed=5))
    assert store.is_stale()
    store.approximate(clusters(5))
    assert not store.is_stale()


@pytest.mark.parametrize("name", ["lists.faiss", "marks"])
def test_damaged_lists_are_an_error_that_says_what_to_do(tmp_path: Path, name: str) -> None:
    rows = clusters(300)
    listed(tmp_path, rows, rows[:5])
    path = tmp_path / lists.FOLDER / name
    os.truncate(path, path.stat().st_size // 2)
    again = LocalVectors(tmp_path, DIM)
    with pytest.raises(LibraryError, match="index --approximate"):
        again.search(rows[0], 3)
    again.approximate(rows[:5])
    assert again.search(rows[0], 1)[0].tolist() == [1]


def test_a_build_that_was_killed_leaves_the_search_as_it_was(tmp_path: Path) -> None:
    rows = clusters(300)
    store = LocalVectors(tmp_path, DIM)
    store.add(np.arange(1, 301), rows)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.approximate(rows[:5], stop)
    (tmp_path / f"{lists.FOLDER}.partial").mkdir()
    (tmp_path / f"{lists.FOLDER}.partial" / "lists.faiss").write_bytes(b"half")
    again = LocalVectors(tmp_path, DIM)
    assert again.search(rows[7], 1)[0].tolist() == [8] and again._open_lists() is None
    again.approximate(rows[:5])
    assert again.search(rows[7], 1)[0].tolist() == [8] and again._open_lists()


def test_without_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clusters(300)
    listed(tmp_path, rows, rows[:5])
    monkeypatch.setitem(sys.modules, "faiss", None)
    again = LocalVectors(tmp_path, DIM)
    found, _ = again.search(rows[3], 300)
    assert found.tolist() == (np.argsort(-(rows @ rows[3]), kind="stable") + 1).tolist()
    with pytest.raises(LibraryError, match=r"twotower\[approximate\]"):
        again.approximate(rows[:5])


def test_index_approximate_and_what_comes_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    location = str(tmp_path / "library")
    arguments = ["index", str(PHOTOS), "--library", location]
    assert main([*arguments, "--approximate"]) == 0
    assert main(["search", "a cat", "--library", location]) == 0
    assert "cat.jpg" in capsys.readouterr().out
    library = Library(location=location)
    assert isinstance(library.vectors, LocalVectors)
    built = (library.vectors.folder / lists.FOLDER / "marks").stat().st_mtime_ns
    library.vectors.add(np.arange(1001, 1101), clusters(100, dim=512))
    library.close()
    assert main(arguments) == 0  # what has no row leaves, so nothing is lacking
    path = next(Path(location).glob("vectors-*")) / lists.FOLDER / "marks"
    assert path.stat().st_mtime_ns == built


def test_too_few_pictures_for_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "LEAST", 1000)
    assert main(["index", str(PHOTOS), "--library", str(tmp_path), "--approximate"]) == 1
    assert "are searched exactly" in capsys.readouterr().err
    assert main(["search", "a cat", "--library", str(tmp_path)]) == 0
