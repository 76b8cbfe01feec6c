"""Lists of like vectors: what they give is true, and what they miss is little and measured."""

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
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_nearly_all_of_the_nearest_and_their_true_scores(tmp_path: Path) -> None:
    rows, queries = clusters(20_000), clusters(200, seed=1)
    store = listed(tmp_path, rows, queries[:100])
    index = store._open_lists()._index  # type: ignore[union-attr]
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
    probes = [one._open_lists()._index.nprobe for one in (near, far)]  # type: ignore[union-attr]
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
        index = store._open_lists()._index  # type: ignore[union-attr]
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
    assert not store.has_stale_lists()
    store.add(np.arange(301, 321), clusters(20, seed=4))
    assert not store.has_stale_lists()
    store.add(np.arange(321, 361), clusters(40, seed=5))
    assert store.has_stale_lists()
    store.build_lists(clusters(5))
    assert not store.has_stale_lists()


def test_removed_vectors_leave_no_gap(tmp_path: Path) -> None:
    rows = clusters(5000)
    store = listed(tmp_path, rows, clusters(50, seed=1))
    store.remove(np.arange(1, 4501))
    assert store.has_stale_lists()
    for query in clusters(20, seed=2):
        found, _ = store.search(query, 200)
        assert len(set(found.tolist())) == 200 and found.min() > 4500


def test_a_filter_far_from_the_query_still_finds(tmp_path: Path) -> None:
    """As in a folder of like pictures: all that pass lie in lists that are looked into last."""
    rows = clusters(20_000)
    store = listed(tmp_path, rows, clusters(50, seed=1))
    for query in clusters(20, seed=2):
        allowed = np.argsort(rows @ query)[:4000] + 1
        found, _ = store.search(query, 100, allowed)
        assert len(found) == 100 and np.isin(found, allowed).all()


def test_as_large_a_share_is_found_where_more_is_asked_for(tmp_path: Path) -> None:
    rows, queries = clusters(20_000), clusters(200, seed=1)
    store = listed(tmp_path, rows, queries[:100])
    shares = []
    for top in (100, 200):
        nearest = [np.argsort(-(rows @ query))[:top] + 1 for query in queries[100:]]
        found = [store.search(query, top)[0] for query in queries[100:]]
        hits = [len(np.intersect1d(*pair)) for pair in zip(found, nearest, strict=True)]
        shares.append(np.mean(hits) / top)
    assert shares[1] >= shares[0] - 0.005


def test_slots_that_are_none_are_passed_over(tmp_path: Path) -> None:
    """The last bytes of the file are slots: damaged, they cost a hit and no more."""
    rows = clusters(300)
    listed(tmp_path, rows, rows[:5])
    with (tmp_path / inverted_file.LISTS_FOLDER / "lists.faiss").open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(np.int64(2**40).tobytes())
    found, scores = LocalVectors(tmp_path, DIM).search(rows[0], 300)
    assert len(found) >= 299
    np.testing.assert_allclose(scores, (rows @ rows[0])[found - 1], atol=1e-6)


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
def test_damaged_lists_are_an_error_that_says_what_to_do(tmp_path: Path, name: str) -> None:
    rows = clusters(300)
    listed(tmp_path, rows, rows[:5])
    path = tmp_path / inverted_file.LISTS_FOLDER / name
    os.truncate(path, path.stat().st_size // 2)
    again = LocalVectors(tmp_path, DIM)
    with pytest.raises(LibraryError, match="index --approximate"):
        again.search(rows[0], 3)
    again.build_lists(rows[:5])
    assert again.search(rows[0], 1)[0].tolist() == [1]


def test_a_build_that_was_killed_leaves_the_search_as_it_was(tmp_path: Path) -> None:
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
    again = LocalVectors(tmp_path, DIM)
    assert again.search(rows[7], 1)[0].tolist() == [8] and again._open_lists() is None
    again.build_lists(rows[:5])
    assert again.search(rows[7], 1)[0].tolist() == [8] and again._open_lists()
    assert not leftover.exists()


def test_without_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clusters(300)
    listed(tmp_path, rows, rows[:5])
    monkeypatch.setitem(sys.modules, "faiss", None)
    again = LocalVectors(tmp_path, DIM)
    found, _ = again.search(rows[3], 300)
    assert found.tolist() == (np.argsort(-(rows @ rows[3]), kind="stable") + 1).tolist()
    with pytest.raises(LibraryError, match=r"twotower\[approximate\]"):
        again.build_lists(rows[:5])


def test_without_faiss_nothing_is_indexed_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["index", str(PHOTOS), "--library", str(tmp_path / "new"), "--approximate"]) == 1
    assert "pip install 'twotower[approximate]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_another_model_has_lists_too(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(load().directory, other)
    with (other / "vocab.txt").open("a") as file:
        file.write("\n")
    location = tmp_path / "library"
    Library(PHOTOS, location=location).index(approximate=True)
    library = Library(PHOTOS, location=location, model=other)
    library.index()
    assert [path.parent.name for path in location.glob("*/lists")] == ["vectors-2"]
    assert library.search("a cat", all=True).hits
    few = Library(PHOTOS, location=tmp_path / "few")
    few.index()
    assert not list((tmp_path / "few").glob("*/lists"))


def test_a_library_that_has_become_small_is_no_error(
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
    built = (library.vectors.folder / inverted_file.LISTS_FOLDER / "marks").stat().st_mtime_ns
    library.vectors.add(np.arange(1001, 1101), clusters(100, dim=512))
    library.close()
    assert main(arguments) == 0  # what has no row leaves, so nothing is lacking
    path = next(Path(location).glob("vectors-*")) / inverted_file.LISTS_FOLDER / "marks"
    assert path.stat().st_mtime_ns == built


def test_too_few_pictures_for_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inverted_file, "MIN_VECTORS", 1000)
    assert main(["index", str(PHOTOS), "--library", str(tmp_path), "--approximate"]) == 1
    assert "are searched exactly" in capsys.readouterr().err
    assert main(["search", "a cat", "--library", str(tmp_path)]) == 0
