"""Import of the vectors of other programs: of this model and of this picture, or not at all."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import twotower
from twotower.cli.main import main
from twotower.errors import LibraryError
from twotower.index import indexing
from twotower.index.foreign import RCLIP_MODEL, read_tables
from twotower.index.imports import SAMPLE, ImportedEmbeds
from twotower.index.schema import PictureRecord
from twotower.library import Library
from twotower.progress import Progress

pa = pytest.importorskip("pyarrow", reason="pip install 'twotower[web]'")
import pyarrow.parquet

EXAMPLES = Path(__file__).parents[2] / "examples" / "photos"
COUNT = 30
MARK = np.float32(3.7)  # stored vectors are longer than 1 by this, as of programs that keep length

Write = Callable[[Path, dict[Path, np.ndarray]], Path]


def write_rclip(folder: Path, embeds: dict[Path, np.ndarray], version: int = 4) -> Path:
    """Write a database as rclip does: its tables, absolute paths, float32."""
    path = folder / "db.sqlite3"
    file = sqlite3.connect(path)
    file.execute(
        "CREATE TABLE images (id INTEGER PRIMARY KEY, deleted BOOLEAN,"
        " filepath TEXT NOT NULL UNIQUE, modified_at DATETIME NOT NULL,"
        " size INTEGER NOT NULL, vector BLOB NOT NULL, indexing BOOLEAN, hash TEXT)"
    )
    file.execute("CREATE TABLE db_version (version INTEGER)")
    file.execute("INSERT INTO db_version VALUES (?)", [version])
    for picture, vector in embeds.items():
        status = picture.stat()
        row = (str(picture), status.st_mtime, status.st_size, vector.astype(np.float32).tobytes())
        query = "INSERT INTO images (filepath, modified_at, size, vector) VALUES (?, ?, ?, ?)"
        file.execute(query, row)
    file.commit()
    file.close()
    return path


def write_clip_retrieval(folder: Path, embeds: dict[Path, np.ndarray]) -> Path:
    """Write two parts as clip-retrieval's inference does: float16 arrays, and metadata."""
    source = folder / "embeddings"
    for name in ("img_emb", "metadata"):
        (source / name).mkdir(parents=True)
    pictures = list(embeds)
    for number, group in enumerate((pictures[:7], pictures[7:])):
        rows = np.stack([embeds[picture] for picture in group]).astype(np.float16)
        np.save(source / "img_emb" / f"img_emb_{number}.npy", rows)
        table = pa.table(
            {"image_path": [str(picture) for picture in group], "caption": [""] * len(group)}
        )
        pyarrow.parquet.write_table(table, source / "metadata" / f"metadata_{number}.parquet")
    return source


def write_parquet(folder: Path, embeds: dict[Path, np.ndarray]) -> Path:
    """Write one file with paths relative to the pictures, and an error without a vector."""
    path = folder / "embeds.parquet"
    rows: list[list[float] | None] = [vector.tolist() for vector in embeds.values()]
    table = pa.table(
        {
            "path": [*(picture.name for picture in embeds), "broken.jpg"],
            "embedding": pa.array([*rows, None], pa.list_(pa.float32())),
        }
    )
    pyarrow.parquet.write_table(table, path)
    return path


WRITERS = {"rclip": write_rclip, "clip-retrieval": write_clip_retrieval, "parquet": write_parquet}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Write:
    return WRITERS[request.param]


@pytest.fixture(scope="module")
def originals() -> dict[str, np.ndarray]:
    """Names and vectors, by the small model, of some example photos."""
    names = sorted(path.name for path in EXAMPLES.glob("*.jpg"))[:COUNT]
    embeds = twotower.load("small").encode_image([EXAMPLES / name for name in names])
    return dict(zip(names, embeds * MARK, strict=True))


@pytest.fixture
def photos(originals: dict[str, np.ndarray], tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in originals:
        shutil.copy2(EXAMPLES / name, folder / name)
        os.utime(folder / name, ns=(10**18, 1_600_000_000_123_456_789))
    return folder


@pytest.fixture
def stored(originals: dict[str, np.ndarray], photos: Path) -> dict[Path, np.ndarray]:
    """The vectors that another program has, by the path of the picture."""
    return {photos / name: embeds for name, embeds in originals.items()}


def embeds_by_name(library: Library) -> dict[str, np.ndarray]:
    records = list(library.catalog.records())
    ids = np.array([record.id for record in records], np.int64)
    assert sorted(library.vectors.ids().tolist()) == sorted(ids.tolist())
    names = [record.path for record in records]
    return dict(zip(names, library.vectors.get(ids), strict=True))


def test_an_index_is_imported(write: Write, photos: Path, stored: dict, tmp_path: Path) -> None:
    source = write(tmp_path, stored)
    shutil.copy(EXAMPLES / "flower.webp", photos)
    library = Library(photos, model="small")
    report = library.index(import_from=source)
    assert (report.imported, report.added, report.failed) == (COUNT, 1, 0)
    embeds = embeds_by_name(library)
    assert len(embeds) == COUNT + 1
    for path, vector in stored.items():
        np.testing.assert_allclose(np.linalg.norm(embeds[path.name]), 1, atol=1e-6)
        assert embeds[path.name] @ vector / MARK > 0.9999
    report = Library(photos).index(import_from=source)
    assert (report.unchanged, report.imported, report.added) == (COUNT + 1, 0, 0)
    library.close()


@pytest.mark.slow
def test_the_catalog_is_that_of_plain_indexing(
    write: Write, photos: Path, stored: dict, tmp_path: Path
) -> None:
    plain = Library(photos, location=tmp_path / "plain", model="small")
    plain.index()
    imported = Library(photos, location=tmp_path / "imported", model="small")
    assert imported.index(import_from=write(tmp_path, stored)).imported == COUNT

    def facts(library: Library) -> list[PictureRecord]:
        records = (replace(record, id=0) for record in library.catalog.records())
        return sorted(records, key=lambda record: record.path)

    assert facts(plain) == facts(imported)


def test_changed_pictures_are_embedded_again(
    write: Write, photos: Path, stored: dict, tmp_path: Path
) -> None:
    source = write(tmp_path, stored)
    names = [path.name for path in stored]
    shutil.copyfile(EXAMPLES / "flower.webp", photos / names[0])  # another content, and a new time
    (photos / names[1]).unlink()
    library = Library(photos, model="small")
    report = library.index(import_from=source)
    assert (report.imported, report.added) == (COUNT - 2, 1)
    embeds = embeds_by_name(library)
    [expected] = twotower.load("small").encode_image(photos / names[0])
    np.testing.assert_allclose(embeds[names[0]], expected, atol=1e-4)
    assert names[1] not in embeds


def test_vectors_of_another_model_are_refused(
    write: Write, photos: Path, stored: dict, tmp_path: Path
) -> None:
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((512, 512)))[0].astype(np.float32)
    source = write(tmp_path, {path: vector @ turn for path, vector in stored.items()})
    with pytest.raises(
        LibraryError, match=r"not those of small \(median cosine .*--model"
    ) as caught:
        Library(photos, model="small").index(import_from=source)
    assert (RCLIP_MODEL in str(caught.value)) == (write is write_rclip)
    assert not (photos / ".twotower").exists(), "nothing is written"


@pytest.mark.slow
def test_another_bundled_model_is_refused(photos: Path, stored: dict, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="not those of base"):
        Library(photos, model="base").index(import_from=write_parquet(tmp_path, stored))


@pytest.mark.slow
def test_vectors_of_other_pictures_are_refused(
    write: Write, photos: Path, stored: dict, tmp_path: Path
) -> None:
    """Rows that are shifted by one."""
    shifted = dict(zip(stored, np.roll(np.stack(list(stored.values())), 1, axis=0), strict=True))
    with pytest.raises(LibraryError, match="not those of small"):
        Library(photos, model="small").index(import_from=write(tmp_path, shifted))


def test_vectors_of_another_length_are_refused(
    write: Write, photos: Path, stored: dict, tmp_path: Path
) -> None:
    source = write(tmp_path, {path: vector[:256] for path, vector in stored.items()})
    with pytest.raises(LibraryError, match=r"of 256 numbers, those of small of 512; .*--model"):
        Library(photos, model="small").index(import_from=source)


def test_no_vectors_are_no_vectors(
    write: Write, photos: Path, stored: dict, tmp_path: Path
) -> None:
    """Zeros and NaN, as of files that could not be read, are embedded again."""
    paths = list(stored)
    stored[paths[0]] = np.zeros(512, np.float32)
    stored[paths[1]] = np.full(512, np.nan, np.float32)
    library = Library(photos, model="small")
    report = library.index(import_from=write(tmp_path, stored))
    assert (report.imported, report.added) == (COUNT - 2, 2)
    assert np.isfinite(np.stack(list(embeds_by_name(library).values()))).all()


@pytest.mark.parametrize("upright", [True, False])
def test_pictures_that_exif_turns(
    upright: bool, photos: Path, stored: dict, tmp_path: Path
) -> None:
    """They are imported only from a program that has embedded them upright."""
    encoder = twotower.load("small")
    paths = list(stored)[: COUNT // 2]
    for path in paths:
        image = PIL.Image.open(path)
        exif = image.getexif()
        exif[0x0112] = 6
        image.rotate(90, expand=True).save(path, exif=exif, quality=95)
        os.utime(path, ns=(10**18, 1_600_000_000_000_000_000))
        sideways = PIL.Image.fromarray(np.asarray(PIL.Image.open(path)))  # without EXIF
        [stored[path]] = encoder.encode_image(path if upright else sideways)
    library = Library(photos, model="small")
    report = library.index(import_from=write_rclip(tmp_path, stored))
    expected = COUNT if upright else COUNT - len(paths)
    assert (report.imported, report.added) == (expected, COUNT - expected)
    embeds = embeds_by_name(library)
    for path in paths:
        [computed] = encoder.encode_image(path)
        assert embeds[path.name] @ computed > 0.99


def test_an_interrupted_import_goes_on(
    photos: Path, stored: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "COMMIT_SECONDS", 0)
    source = write_rclip(tmp_path, stored)

    def stop(progress: Progress) -> None:
        if progress.done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Library(photos, model="small").index(stop, import_from=source)
    library = Library(photos)
    report = library.index(import_from=source)
    assert (report.unchanged, report.imported, report.added) == (12, COUNT - 12, 0)
    assert len(embeds_by_name(library)) == COUNT


def test_the_sample_is_random(photos: Path, stored: dict, tmp_path: Path) -> None:
    """It reads few pictures, however many there are."""
    read: list[str] = []
    encoder = twotower.load("small")
    imports = ImportedEmbeds(write_rclip(tmp_path, stored), photos)
    get = imports.get
    imports.get = lambda record: (read.append(record.path), get(record))[1]  # type: ignore[method-assign]
    imports.check_model(encoder, "small")
    imports.check_model(encoder, "small")
    assert len(read) == 2 * SAMPLE and set(read[:SAMPLE]) != set(read[SAMPLE:])


def test_sources_that_are_no_index(photos: Path, stored: dict, tmp_path: Path) -> None:
    library = Library(photos, model="small")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    sqlite3.connect(tmp_path / "other.sqlite3").execute("CREATE TABLE x (y)")
    (tmp_path / "empty").mkdir()
    pyarrow.parquet.write_table(pa.table({"name": ["a"]}), tmp_path / "names.parquet")
    numbers = pa.table({"path": ["a"], "embedding": [1.5]})
    pyarrow.parquet.write_table(numbers, tmp_path / "numbers.parquet")
    clip = write_clip_retrieval(tmp_path, stored)
    np.save(clip / "img_emb" / "img_emb_0.npy", np.zeros((3, 512), np.float16))
    for name, message in {
        "notes.txt": "no index that can be imported; name rclip's",
        "missing": "no such file or folder",
        "broken.parquet": "cannot be read",
        "other.sqlite3": "no database of rclip",
        "empty": "no index that can be imported",
        "names.parquet": "has no column 'path', only name",
        "numbers.parquet": "cannot be read",
        "embeddings": r"has the shape \(3, 512\), but metadata_0.parquet names 7 pictures",
    }.items():
        with pytest.raises(LibraryError, match=message):
            library.index(import_from=tmp_path / name)


def test_unfinished_rows_of_rclip(photos: Path, stored: dict, tmp_path: Path) -> None:
    source = write_rclip(tmp_path, stored)
    file = sqlite3.connect(source)
    file.executescript(
        "CREATE TABLE copied (id, deleted, filepath, modified_at, size, vector);"
        "INSERT INTO copied SELECT id, deleted, filepath, modified_at, size, vector FROM images;"
        "DROP TABLE images; ALTER TABLE copied RENAME TO images;"
        "UPDATE images SET vector = NULL WHERE id = 1; UPDATE images SET size = NULL WHERE id = 2;"
        "UPDATE images SET vector = x'' WHERE id = 3;"
        "UPDATE images SET modified_at = NULL WHERE id = 4"
    )
    report = Library(photos, model="small").index(import_from=source)
    assert (report.imported, report.added) == (COUNT - 4, 4)
    file.executescript("UPDATE images SET vector = NULL")
    with pytest.raises(LibraryError, match="has no vectors; let its program embed"):
        Library(photos, model="small").index(import_from=source)


@pytest.mark.parametrize("subfolder", ["", "embeddings"])
def test_a_folder_of_embed(subfolder: str, photos: Path, tmp_path: Path) -> None:
    (photos / "trips").mkdir()
    for name in sorted(path.name for path in photos.glob("*.jpg"))[:3]:
        (photos / name).rename(photos / "trips" / name)
    (photos / "broken.jpg").write_bytes(b"no picture")
    settings = twotower.EmbedSettings(format="clip-retrieval", rows_per_shard=20)
    twotower.embed(tmp_path, tmp_path / "out", "small", settings)
    library = Library(photos, model="small")
    report = library.index(import_from=tmp_path / "out" / subfolder)
    assert (report.imported, report.added, report.failed) == (COUNT, 0, 1)
    library.close()


def test_keys_without_a_source(tmp_path: Path) -> None:
    table = pa.table({"key": ["a.jpg"], "embedding": [[1.0]]})
    pyarrow.parquet.write_table(table, tmp_path / "keys.parquet")
    with pytest.raises(LibraryError, match="has no column 'source', only key, embedding"):
        read_tables(tmp_path / "keys.parquet")


def test_an_index_of_another_folder(photos: Path, stored: dict, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    source = write_rclip(tmp_path, stored)
    shutil.copytree(photos, moved)
    with pytest.raises(LibraryError, match=f"none of its {COUNT} pictures is in .*moved"):
        Library(moved, model="small").index(import_from=source)
    for path in photos.iterdir():
        path.touch()
    with pytest.raises(LibraryError, match="can be read as it was; index without --import"):
        Library(photos, model="small").index(import_from=source)


def test_the_command(
    photos: Path, stored: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_rclip(tmp_path, stored)
    command = ["index", str(photos), "--import", str(source)]
    assert main([*command, "--model", "small"]) == 0
    assert capsys.readouterr().out.startswith(f"{COUNT} imported in ")
    assert main(["index", str(photos), "--import", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith(f"twotower: {tmp_path / 'none'}: no such file")
