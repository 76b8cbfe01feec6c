"""A library that is indexed with a quick model first, and refined with a better one."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.index.tiny import picture
from twotower.cli.main import main
from twotower.index import indexing
from twotower.index.catalog import BETTER_MODEL, REPLACED_TO, STOPPED_AT
from twotower.index.update import is_quickly_indexed
from twotower.library import Library
from twotower.progress import Progress

PICTURES = 40  # more than a batch


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with other weights than `tiny_directory`."""
    pytest.importorskip("torch")
    from tests.tiny_models import random_tensors, tiny_config
    from twotower.encode.convert import write_directory

    directory = tmp_path_factory.mktemp("models") / "better"
    config = tiny_config("better")
    write_directory(config, random_tensors(config, seed=1), (), directory)
    return directory


@pytest.fixture
def quick(tiny_directory: Path, better: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The quick model; every new library is large enough for it."""
    monkeypatch.setattr("twotower.index.index.QUICK_MODEL", str(tiny_directory))
    monkeypatch.setattr("twotower.index.index.DEFAULT_MODEL", str(better))
    monkeypatch.setattr("twotower.index.update.DIRECT_SECONDS", 0)
    return tiny_directory


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(PICTURES):
        (folder / f"{seed}.png").write_bytes(picture(seed))
    return folder


def model_of(folder: Path) -> Path:
    """Return the model in use, and check that it has a vector of each picture."""
    library = Library(folder)
    ids = library.catalog.select()
    [embeds] = library.vectors.get(ids[:1])
    path = folder / library.catalog.pictures(ids[:1])[0].path
    np.testing.assert_allclose(embeds, library.model.encode_image(path)[0], atol=1e-5)
    assert sorted(library.vectors.ids().tolist()) == ids.tolist()
    library.close()
    return library.model.directory


def stop_at(count: int) -> indexing.ReportProgress:
    def report(progress: Progress) -> None:
        if progress.done == count:
            raise KeyboardInterrupt

    return report


def test_a_large_library_can_be_searched_before_it_is_refined(
    photos: Path, quick: Path, better: Path
) -> None:
    library = Library(photos)
    assert library.index(refine=False).added == PICTURES
    assert library.better_model == str(better)
    assert model_of(photos) == quick
    report = library.refine()
    assert report is not None and report.added == PICTURES
    assert library.better_model is library.refine() is None
    assert model_of(photos) == better
    assert len(library.catalog.models()) == 1
    assert Library(photos).index().unchanged == PICTURES


def test_index_goes_on_to_the_better_model(photos: Path, quick: Path, better: Path) -> None:
    assert Library(photos).index().added == PICTURES
    assert model_of(photos) == better


def test_a_small_library_gets_the_better_model_at_once(
    photos: Path, quick: Path, better: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.index.update.DIRECT_SECONDS", 30)
    assert is_quickly_indexed(photos)
    library = Library(photos)
    library.index(refine=False)
    assert library.better_model is None
    assert model_of(photos) == better


def test_a_model_that_was_asked_for_stays(photos: Path, quick: Path) -> None:
    library = Library(photos, model=quick)
    assert library.index().added == PICTURES
    assert library.better_model is None
    assert Library(photos).index().unchanged == PICTURES
    assert model_of(photos) == quick


@pytest.mark.parametrize("count", [1, 33, 39])
def test_an_interruption_loses_nothing(photos: Path, quick: Path, better: Path, count: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        Library(photos).index(stop_at(count))
    stopped = Library(photos)
    assert 0 < len(stopped.vectors) < PICTURES
    assert stopped.better_model == str(better) and stopped.model.directory == quick
    stopped.close()
    assert 0 < Library(photos).index(refine=False).added < PICTURES
    with pytest.raises(KeyboardInterrupt):
        Library(photos).refine(stop_at(count))
    assert model_of(photos) == quick
    (photos / "new.png").write_bytes(picture(77))
    (photos / "0.png").unlink()
    report = Library(photos).index()
    assert (report.added, report.removed) == (1, 1)
    assert model_of(photos) == better
    catalog = Library(photos).catalog
    assert [catalog.get_setting(name) for name in (STOPPED_AT, REPLACED_TO, BETTER_MODEL)] == [
        "", "", ""
    ]  # fmt: skip
    assert len(list((photos / ".twotower").glob("vectors-*"))) == 1


REFINE = """
import sys
from twotower.index import index
index.QUICK_MODEL, index.DEFAULT_MODEL = sys.argv[2:]
from twotower.library import Library
Library(sys.argv[1]).refine()
"""


def test_a_killed_refinement_loses_nothing(photos: Path, quick: Path, better: Path) -> None:
    for seed in range(1000, 1400):
        (photos / f"{seed}.png").write_bytes(picture(seed))
    Library(photos).index(refine=False)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", REFINE, photos, quick, better]
    with subprocess.Popen(command, env=environment) as process:
        while not (photos / ".twotower" / "vectors-2" / "ids").exists():
            time.sleep(0.005)
            assert process.poll() is None
        process.kill()
    assert model_of(photos) == quick
    Library(photos).index()
    assert model_of(photos) == better


def test_a_library_of_the_former_default_can_be_refined(
    photos: Path, quick: Path, better: Path
) -> None:
    Library(photos, model=quick).index()
    with sqlite3.connect(photos / ".twotower" / "catalog.sqlite") as connection:
        connection.execute("DELETE FROM settings WHERE name = ?", [BETTER_MODEL])
    connection.close()
    assert Library(photos).better_model == str(better)
    assert model_of(photos) == quick
    Library(photos).index()
    assert model_of(photos) == better


def test_commands_say_how_to_refine(
    photos: Path, quick: Path, better: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "type:png", str(photos), "--top", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith(".png\n")
    assert f"{PICTURES} added in " in err
    advice = (
        f"twotower: answered by the quick model tiny; for better answers: twotower index {photos}"
    )
    assert advice in err.splitlines()

    with pytest.raises(KeyboardInterrupt):
        Library(photos).refine(stop_at(35))
    assert main(["search", "type:png", str(photos), "--top", "1"]) == 0
    [line, more] = capsys.readouterr().err.splitlines()
    assert f"tiny, while {better} has indexed 35 of 40; for better answers" in line
    assert more == "40 match; --page or --top for more"

    assert main(["index", str(photos)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("40 unchanged in ")
    assert out.splitlines()[1].startswith("5 refined, 35 unchanged in ")
    assert err.startswith(f"twotower: can be searched now; refining with {better} (Ctrl-C")
    assert main(["search", "type:png", str(photos), "--top", "50"]) == 0
    assert capsys.readouterr().err == ""


def test_the_advice_names_a_library_elsewhere(
    photos: Path, quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    location = tmp_path / "mine"
    assert main(["search", "type:png", str(photos), "--library", str(location)]) == 0
    assert f"twotower index --library {location}\n" in capsys.readouterr().err


def test_milvus_keeps_both_until_the_better_is_complete(
    photos: Path, quick: Path, better: Path, tmp_path: Path
) -> None:
    pytest.importorskip("milvus_lite", reason="pip install 'twotower[milvus]'")
    store = f"{tmp_path}/vectors.db"
    library = Library(photos, vectors=store)
    library.index(refine=False)
    assert library.model.directory == quick
    library.close()
    with pytest.raises(KeyboardInterrupt):
        Library(photos).refine(stop_at(33))
    assert model_of(photos) == quick
    Library(photos).index()
    assert model_of(photos) == better
    assert [record.vectors for record in Library(photos).catalog.models()] == [store]


def test_inverted_lists_are_built_for_the_better_model(
    photos: Path, quick: Path, better: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="pip install 'twotower[approximate]'")
    monkeypatch.setattr("twotower.index.inverted_file.MIN_VECTORS", 10)
    library = Library(photos)
    library.index(approximate=True, refine=False)
    assert library.vectors.has_lists()
    library.refine()
    assert library.vectors.has_lists()
    assert library.model.directory == better


def test_a_copied_library_without_the_models_vectors_is_read_again(
    photos: Path, quick: Path, better: Path
) -> None:
    Library(photos).index(refine=False)
    shutil.rmtree(photos / ".twotower" / "vectors-1")
    assert Library(photos).index().added == PICTURES
    assert model_of(photos) == better
