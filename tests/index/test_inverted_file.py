"""Inverted lists: scores are exact, and recall is as high as measured."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower import Library, load
from twotower.cli.main import main
from twotower.errors import LibraryError
from twotower.index import inverted_file
from twotower.index.local_vectors import LocalVectors
from twotower.progress import Progress

pytest.importorskip("faiss", reason="pip install 'twotower[approximate]'")

DIM = 16
PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(autouse=True)
def allow_small_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverted_file, "MIN_VECTORS", 20)


def clusters(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = 0.5 * random.standard_normal((count, dim))
    rows += np.random.default_rng(9).standard_normal((40, dim))[random.integers(0, 40, count)]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def listed(folder: Path, rows: np.ndarray, queries: np.ndarray) -> LocalVectors:
    store = LocalVectors(folder, rows.shape[1])
    store.add(np.arange(1, len(rows) + 1), rows)
    store.build_lists(queries)
    return store


def test_recall_and_exact_scores(tmp_path: Path) -> None:
    rows, queries = clusters(20_000), clusters(200, seed=1)
    store = listed(tmp_path, rows, queries[:100])
    index = store._open_lists()._index  # type: ignore[union-attr]
    assert 1 < index.nprobe < index.nlist / 4  # otherwise nothing is saved
    hits = []
    for query in queries[100:]:
        ids, scores = store.search(query, 100)
        truth = rows @ query
        np.testing.assert_allclose(scores, truth[ids - 1], atol=1e-6)
        assert (np.diff(scores) <= 0).all() and len(set(ids.tolist())) == 100
        hits.append(len(np.intersect1d(ids - 1, np.argsort(-truth)[:100])) / 100)
    assert np.mean(hits) >= 0.95


def test_the_number_of_lists_to_read_depends_on_the_queries(tmp_path: Path) -> None:
    rows = clusters(5000)
    near = listed(tmp_path / "near", rows, rows[:50])
    far = listed(tmp_path / "far", rows, -rows[:50])
    probes = [store._open_lists()._index.nprobe for store in (near, far)]  # type: ignore[union-attr]
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
def test_reading_all_lists_equals_exact_search(
    steps: list[tuple[bool, set[int]]], top: int, share: float
) -> None:
    """Any sequence of additions, replacements and removals since the lists were built."""
    random = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        rows = clusters(300)
        store = listed(Path(folder), rows, rows[:5])
        exact = {number + 1: row for number, row in enumerate(rows)}
        for adding, numbers in steps:
            ids = np.array(sorted(numbers))
            if adding:
                new = clusters(len(ids), seed=int(random.integers(1000)))
                store.add(ids, new)
                exact |= dict(zip(ids.tolist(), new, strict=True))
            else:
                store.remove(ids)
                exact = {number: row for number, row in exact.items() if number not in numbers}
        index = store._open_lists()._index  # type: ignore[union-attr]
        index.nprobe = index.nlist
        ids = np.array(sorted(exact), np.int64)
        allowed = None if share == 1 else ids[random.random(len(ids)) < share]
        query = clusters(1, seed=77)[0]
        nearest, _ = store.search(query, top, allowed)
        among = ids if allowed is None else allowed
        truth = np.array([exact[number] @ query for number in among.tolist()])
        order = np.lexsort((among, -truth))[:top]
        np.testing.assert_allclose(
            [exact[number] @ query for number in nearest.tolist()], truth[order], atol=1e-6
        )
        assert set(nearest.tolist()) <= set(among.tolist())


def test_lists_are_stale_when_many_vectors_are_unlisted(tmp_path: Path) -> None:
    store = listed(tmp_path, clusters(300), clusters(5))
    assert not store.has_stale_lists()
    store.add(np.arange(301, 321), clusters(20, seed=4))
    assert not store.has_stale_lists()
    store.add(np.arange(321, 361), clusters(40, seed=5))
    assert store.has_stale_lists()
    store.build_lists(clusters(5))
    assert not store.has_stale_lists()


def test_removed_vectors_do_not_reduce_the_results(tmp_path: Path) -> None:
    rows = clusters(5000)
    store = listed(tmp_path, rows, clusters(50, seed=1))
    store.remove(np.arange(1, 4501))
    assert store.has_stale_lists()
    for query in clusters(20, seed=2):
        ids, _ = store.search(query, 200)
        assert len(set(ids.tolist())) == 200 and ids.min() > 4500


def test_filtered_results_far_from_the_query_are_found(tmp_path: Path) -> None:
    """All allowed vectors are in the lists farthest from the query."""
    rows = clusters(20_000)
    store = listed(tmp_path, rows, clusters(50, seed=1))
    for query in clusters(20, seed=2):
        allowed = np.argsort(rows @ query)[:4000] + 1
        ids, _ = store.search(query, 100, allowed)
        assert len(ids) == 100 and np.isin(ids, allowed).all()


def test_recall_is_as_high_for_more_results(tmp_path: Path) -> None:
    rows, queries = clusters(20_000), clusters(200, seed=1)
    store = listed(tmp_path, rows, queries[:100])
    shares = []
    for top in (100, 200):
        nearest = [np.argsort(-(rows @ query))[:top] + 1 for query in queries[100:]]
        results = [store.search(query, top)[0] for query in queries[100:]]
        hits = [len(np.intersect1d(*pair)) for pair in zip(results, nearest, strict=True)]
        shares.append(np.mean(hits) / top)
    assert shares[1] >= shares[0] - 0.005


def test_invalid_slots_in_the_lists_are_ignored(tmp_path: Path) -> None:
    """The last bytes of the file are slots; damaging one loses that result only."""
    rows = clusters(300)
    listed(tmp_path, rows, rows[:5])
    with (tmp_path / inverted_file.LISTS_FOLDER / "lists.faiss").open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(np.int64(2**40).tobytes())
    ids, scores = LocalVectors(tmp_path, DIM).search(rows[0], 300)
    assert len(ids) >= 299
    np.testing.assert_allclose(scores, (rows @ rows[0])[ids - 1], atol=1e-6)


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from twotower.errors import LibraryError
from twotower.index import inverted_file
from twotower.index.local_vectors import LocalVectors
inverted_file.MIN_VECTORS = 20
store = LocalVectors(Path(sys.argv[1]), 16)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    store.build_lists(np.eye(16, dtype=np.float32))
except LibraryError as error:
    print(error)
"""


def test_a_disk_that_fills_up_while_lists_are_written(tmp_path: Path) -> None:
    rows = clusters(3000)
    store = listed(tmp_path, rows, rows[:5])
    before = sorted(path.name for path in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True
    )
    assert "make room" in done.stdout, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert store.search(rows[7], 1)[0].tolist() == [8]


@pytest.mark.parametrize("name", ["lists.faiss", "marks"])
def test_damaged_lists_are_an_error_with_a_remedy(tmp_path: Path, name: str) -> None:
    rows = clusters(300)
    listed(tmp_path, rows, rows[:5])
    path = tmp_path / inverted_file.LISTS_FOLDER / name
    os.truncate(path, path.stat().st_size // 2)
    reopened = LocalVectors(tmp_path, DIM)
    with pytest.raises(LibraryError, match="index --approximate"):
        reopened.search(rows[0], 3)
    reopened.build_lists(rows[:5])
    assert reopened.search(rows[0], 1)[0].tolist() == [1]


def test_a_killed_build_leaves_the_search_unchanged(tmp_path: Path) -> None:
    rows = clusters(300)
    store = LocalVectors(tmp_path, DIM)
    store.add(np.arange(1, 301), rows)

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build_lists(rows[:5], stop)
    leftover = tmp_path / f".writing-{inverted_file.LISTS_FOLDER}-1234"
    leftover.mkdir()
    (leftover / "lists.faiss").write_bytes(b"half")
    reopened = LocalVectors(tmp_path, DIM)
    assert reopened.search(rows[7], 1)[0].tolist() == [8] and reopened._open_lists() is None
    reopened.build_lists(rows[:5])
    assert reopened.search(rows[7], 1)[0].tolist() == [8] and reopened._open_lists()
    assert not leftover.exists()


def test_without_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clusters(300)
    listed(tmp_path, rows, rows[:5])
    monkeypatch.setitem(sys.modules, "faiss", None)
    reopened = LocalVectors(tmp_path, DIM)
    ids, _ = reopened.search(rows[3], 300)
    assert ids.tolist() == (np.argsort(-(rows @ rows[3]), kind="stable") + 1).tolist()
    with pytest.raises(LibraryError, match=r"twotower\[approximate\]"):
        reopened.build_lists(rows[:5])


def test_without_faiss_nothing_is_indexed_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["index", str(PHOTOS), "--library", str(tmp_path / "new"), "--approximate"]) == 1
    assert "pip install 'twotower[approximate]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_lists_are_built_for_a_new_model_too(tmp_path: Path) -> None:
    bundled = load().directory
    for folder in (bundled, bundled.parent / "text"):
        shutil.copytree(folder, tmp_path / folder.name)
    config = tmp_path / bundled.name / "config.json"
    text = config.read_text().replace('"fast_decode": true', '"fast_decode": false')
    config.write_text(text)
    location = tmp_path / "library"
    Library(PHOTOS, location=location).index(approximate=True)
    library = Library(PHOTOS, location=location, model=config.parent)
    library.index()
    assert [path.parent.name for path in location.glob("*/lists")] == ["vectors-2"]
    assert library.search("a cat", all=True).hits
    few = Library(PHOTOS, location=tmp_path / "few")
    few.index()
    assert not list((tmp_path / "few").glob("*/lists"))


def test_lists_of_a_library_that_became_small_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = tmp_path / "library"
    library = Library(PHOTOS, location=location)
    library.index(approximate=True)
    monkeypatch.setattr(inverted_file, "MIN_VECTORS", 1000)
    assert isinstance(library.vectors, LocalVectors)
    library.vectors.remove(library.vectors.ids()[:20])
    assert library.vectors.has_stale_lists()
    library.index()


def test_index_approximate_then_search_and_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    location = str(tmp_path / "library")
    arguments = ["index", str(PHOTOS), "--library", location]
    assert main([*arguments, "--approximate"]) == 0
    assert main(["search", "a cat", "--library", location]) == 0
    assert "cat.jpg" in capsys.readouterr().out
    library = Library(location=location)
    assert isinstance(library.vectors, LocalVectors)
    built = (library.vectors.folder / inverted_file.LISTS_FOLDER / "marks").stat().st_mtime_ns
    library.vectors.add(np.arange(1001, 1101), clusters(100, dim=512))
    library.close()
    assert main(arguments) == 0  # vectors without a row are removed, so nothing is unlisted
    path = next(Path(location).glob("vectors-*")) / inverted_file.LISTS_FOLDER / "marks"
    assert path.stat().st_mtime_ns == built


def test_too_few_pictures_for_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inverted_file, "MIN_VECTORS", 1000)
    assert main(["index", str(PHOTOS), "--library", str(tmp_path), "--approximate"]) == 1
    assert "are searched exactly" in capsys.readouterr().err
    assert main(["search", "a cat", "--library", str(tmp_path)]) == 0
