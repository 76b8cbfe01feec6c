"""Libraries whose vectors are on a server: moves, and a server that goes away and comes back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.index.postgres import PostgresServer
from tests.index.test_vectors import STORES, location_of
from tests.index.tiny import picture
from twotower.cli.main import main
from twotower.errors import LibraryError
from twotower.index import indexing
from twotower.library import Library
from twotower.progress import Progress

PICTURES = 70  # more than two batches


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(PICTURES):
        (folder / f"{seed}.png").write_bytes(picture(seed))
    return folder


def stop_at(count: int, stop: Callable[[], None]) -> indexing.ReportProgress:
    """Return a callback that stops a server after `count` pictures."""

    def report(progress: Progress) -> None:
        if progress.done == count:
            stop()

    return report


def assert_complete(folder: Path, tmp_path: Path, model: Path) -> None:
    """Check that each picture has one vector, equal to that of a new library with local files."""
    shutil.rmtree(tmp_path / "local", ignore_errors=True)
    local = Library(folder, location=tmp_path / "local", model=model)
    local.index()
    stored = Library(folder)
    expected, actual = embeds_by_path(local), embeds_by_path(stored)
    assert actual.keys() == expected.keys()
    for path, embeds in expected.items():
        np.testing.assert_allclose(actual[path], embeds, atol=1e-5, err_msg=path)
    stored.close()
    local.close()


def embeds_by_path(library: Library) -> dict[str, np.ndarray]:
    records = list(library.catalog.records())
    ids = np.array([record.id for record in records], np.int64)
    assert sorted(library.vectors.ids().tolist()) == sorted(ids.tolist())
    paths = [record.path for record in records]
    return dict(zip(paths, library.vectors.get(ids), strict=True))


@pytest.mark.parametrize("store", [name for name in STORES if name != "local"])
def test_vectors_move_to_a_store_and_back(
    store: str, photos: Path, tiny_directory: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    location = location_of(store, tmp_path, request)
    library = Library(photos, model=tiny_directory)
    library.index()
    ids = np.sort(library.vectors.ids())
    rows = library.vectors.get(ids)
    library.close()
    for vectors, files in ((location, 0), (None, 0), ("local", 1)):
        moved = Library(photos, vectors=vectors)
        assert moved.index().added == 0
        np.testing.assert_array_equal(moved.vectors.get(ids), rows)
        moved.close()
        assert len(list(photos.glob(".twotower/vectors-*"))) == files


@pytest.mark.parametrize("store", STORES)
def test_changes_on_the_disk_reach_the_store(
    store: str, photos: Path, tiny_directory: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    location = location_of(store, tmp_path, request)
    library = Library(
        photos, model=tiny_directory, vectors="local" if store == "local" else location
    )
    library.index()
    (photos / "0.png").unlink()
    (photos / "1.png").write_bytes(picture(1001))
    (photos / "2.png").rename(photos / "moved.png")
    (photos / "new.png").write_bytes(picture(1002))
    report = library.index()
    assert (report.added, report.moved, report.removed) == (2, 1, 1)
    library.close()
    assert_complete(photos, tmp_path, tiny_directory)
    if location.startswith("postgres"):
        Library(photos, vectors="local").index()  # which drops the table


@pytest.mark.parametrize(("count", "crash"), [(1, False), (40, True), (PICTURES, False)])
def test_indexing_goes_on_after_the_server_is_back(
    count: int,
    crash: bool,
    photos: Path,
    tiny_directory: Path,
    tmp_path: Path,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(indexing, "COMMIT_SECONDS", 0)
    library = Library(photos, model=tiny_directory, vectors=postgres.address())
    with pytest.raises(LibraryError, match=r"PostgreSQL says: .*; .*run the command again"):
        library.index(stop_at(count, lambda: postgres.stop(crash=crash)))
    library.close()
    postgres.start()
    report = Library(photos).index()
    assert report.failed == 0 and report.added + report.unchanged == PICTURES
    assert report.unchanged >= count - 1, "what was committed is not embedded again"
    assert_complete(photos, tmp_path, tiny_directory)


def test_removals_go_on_after_the_server_is_back(
    photos: Path, tiny_directory: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    Library(photos, model=tiny_directory, vectors=postgres.address()).index()
    for seed in range(40):
        (photos / f"{seed}.png").unlink()
    (photos / "new.png").write_bytes(picture(2000))
    library = Library(photos)
    with pytest.raises(LibraryError, match="PostgreSQL says"):
        library.index(stop_at(1, postgres.stop))
    library.close()
    postgres.start()
    Library(photos).index()
    assert_complete(photos, tmp_path, tiny_directory)


def test_a_copy_goes_on_after_the_server_is_back(
    photos: Path,
    tiny_directory: Path,
    tmp_path: Path,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The vectors are copied, not computed again, and meanwhile the local ones are searched."""
    from twotower.index.postgres import PostgresVectors

    monkeypatch.setattr("twotower.index.update._COPY_BATCH", 20)
    Library(photos, model=tiny_directory).index()
    add, calls = PostgresVectors.add, []

    def add_twice(self: PostgresVectors, ids: np.ndarray, embeds: np.ndarray) -> None:
        if len(calls) == 2:
            postgres.stop()
        calls.append(len(ids))
        add(self, ids, embeds)

    monkeypatch.setattr(PostgresVectors, "add", add_twice)
    with pytest.raises(LibraryError, match="run the command again"):
        Library(photos, vectors=postgres.address()).index()
    assert calls == [20, 20, 20] and len(Library(photos).vectors) == PICTURES
    postgres.start()
    assert Library(photos, vectors=postgres.address()).index().added == 0
    assert calls == [20, 20, 20, 20, 10], "two batches of the first run were kept"
    assert_complete(photos, tmp_path, tiny_directory)


def test_the_message_of_a_stopped_server(
    photos: Path,
    tiny_directory: Path,
    postgres: PostgresServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    index = ["index", str(photos), "--model", str(tiny_directory), "--vectors", postgres.address()]
    assert main(index) == 0
    postgres.stop()
    capsys.readouterr()
    for command in (["index", str(photos)], ["search", "a dog", str(photos)]):
        assert main(command) == 1
        [line] = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"twotower: {postgres.address()}: PostgreSQL says: ")
        assert line.endswith("; check the address and the server, then run the command again")
    postgres.start()
    assert main(["index", str(photos)]) == 0
    assert main(["search", "a dog", str(photos), "--all"]) == 0


def test_an_open_library_survives_a_restart(
    photos: Path, tiny_directory: Path, postgres: PostgresServer
) -> None:
    library = Library(photos, model=tiny_directory, vectors=postgres.address())
    library.index()
    before = library.search("a dog", all=True)
    postgres.stop()
    with pytest.raises(LibraryError, match="check the address"):
        library.search("a dog", all=True)
    postgres.start()
    after = library.search("a dog", all=True)
    assert [hit.path for hit in after.hits] == [hit.path for hit in before.hits]
    library.close()


def test_vectors_of_another_model_are_refused(
    photos: Path, tiny_directory: Path, tmp_path: Path, postgres: PostgresServer
) -> None:
    """A catalog restored from a backup does not know of a model that was added afterwards."""
    library = Library(photos, model=tiny_directory)
    library.index()
    library.close()
    shutil.copytree(photos / ".twotower", tmp_path / "backup")
    Library(photos, vectors=postgres.address()).index()
    shutil.rmtree(photos / ".twotower")
    shutil.copytree(tmp_path / "backup", photos / ".twotower")
    with pytest.raises(LibraryError, match=r"already has vectors named \w+_2, of another model"):
        Library(photos, vectors=postgres.address()).index()
    assert Library(photos).index().unchanged == PICTURES


def test_a_password_keeps_others_out(photos: Path, postgres: PostgresServer) -> None:
    address = f"{postgres.address()}?password=secret"
    Library(photos, vectors=address, model="small").index()
    modes = {path.stat().st_mode & 0o777 for path in photos.glob(".twotower/catalog*")}
    assert modes == {0o600}
    postgres.stop()
    with pytest.raises(LibraryError, match=r"password=\*\*\*") as caught:
        Library(photos).index()
    assert "secret" not in str(caught.value)
