"""Indexing through `Library`, and the metadata read from files."""

import io
import os
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL.PngImagePlugin import PngInfo

import twotower
from tests.index.tiny import TinyEncoder, hash_of, index, opened, picture, rows_of, vector_of
from twotower.encode.golden import EARLIER_MODELS, fingerprint, image_fingerprint
from twotower.encode.load import find_model
from twotower.encode.onnx import stored_tensors
from twotower.errors import LibraryError
from twotower.index import catalog as catalog_module
from twotower.index import indexing
from twotower.index.catalog import Catalog, find_library
from twotower.index.reader import PictureReader
from twotower.index.scan import scan
from twotower.index.schema import PictureRecord
from twotower.inputs.preprocess import Preprocess, PreprocessConfig
from twotower.library import Library
from twotower.metadata.dates import DatePlace, read_video_tags
from twotower.metadata.xmp import NEW_PACKET

SMALL = find_model("small")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(5):
        (folder / f"{seed}.png").write_bytes(picture(seed))
    return folder


def test_vectors_equal_those_of_the_encoder(photos: Path, tiny_directory: Path) -> None:
    library = twotower.Library(photos, model=tiny_directory)
    report = library.index()
    assert (report.added, report.failed, report.unchanged) == (5, 0, 0)
    for record in library.catalog.records():
        [expected] = library.model.encode_image(photos / record.path)
        [embeds] = library.vectors.get(np.array([record.id]))
        np.testing.assert_allclose(embeds, expected, atol=1e-5)
    reopened = Library(photos)
    assert reopened.index().unchanged == 5  # with the same model
    assert reopened.model.directory == tiny_directory


def test_progress_names_the_limiting_stage(photos: Path, tiny_directory: Path) -> None:
    for seed in range(5, 80):
        (photos / f"{seed}.png").write_bytes(picture(seed))
    reports: list[indexing.Progress] = []
    twotower.Library(photos, model=tiny_directory).index(reports.append)
    assert reports[-1].limit.partition(",")[0] in ("decode-bound", "encode-bound")


def test_moved_pictures_keep_their_vectors(tmp_path: Path) -> None:
    for seed in range(4):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))
    index(tmp_path)
    before = {record.content_hash: record.id for record in rows_of(tmp_path).values()}
    (tmp_path / "trip").mkdir()
    (tmp_path / "0.png").rename(tmp_path / "trip" / "renamed.png")
    (tmp_path / "1.png").rename(tmp_path / "between")
    (tmp_path / "2.png").rename(tmp_path / "1.png")
    (tmp_path / "between").rename(tmp_path / "2.png")
    (tmp_path / "3.png").touch()

    class Never(TinyEncoder):
        def encode_pixels(self, pixel_values: np.ndarray) -> np.ndarray:
            raise AssertionError("nothing is to be computed")

    with opened(tmp_path) as (catalog, vectors):
        report = indexing.Indexing(catalog, vectors, Never()).run()
    assert (report.moved, report.added, report.removed) == (4, 0, 0)
    assert {record.content_hash: record.id for record in rows_of(tmp_path).values()} == before
    assert rows_of(tmp_path)["trip/renamed.png"].content_hash == hash_of(picture(0))


def test_a_changed_picture_gets_a_new_id(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture(1))
    index(tmp_path)
    [before] = rows_of(tmp_path).values()
    path.write_bytes(picture(2))
    assert index(tmp_path).added == 1
    [after] = rows_of(tmp_path).values()
    assert after.id > before.id
    with opened(tmp_path) as (_, vectors):
        assert vectors.ids().tolist() == [after.id]
        np.testing.assert_array_equal(vectors.get(vectors.ids())[0], vector_of(picture(2)))


def overwrite(path: Path, content: bytes) -> None:
    """Change a file in place, then put its times of access and modification back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (len(content), status.st_mtime_ns)


def padded(seed: int) -> bytes:
    """Return a PNG of the same size for each seed."""
    return picture(seed).ljust(1000, b"\0")


def test_a_change_that_keeps_size_and_mtime_is_noticed(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(padded(ord(name[0])))
    index(tmp_path)
    before = rows_of(tmp_path)
    overwrite(tmp_path / "a.png", padded(5))
    (tmp_path / "b.png").chmod(0o600)  # changes ctime alone
    report = index(tmp_path)
    assert (report.added, report.moved, report.removed, report.unchanged) == (1, 0, 0, 2)
    rows = rows_of(tmp_path)
    assert (
        rows["a.png"].content_hash == hash_of(padded(5)) and rows["b.png"].id == before["b.png"].id
    )
    assert index(tmp_path).unchanged == 3


def test_a_change_of_a_sidecar_that_keeps_its_mtime_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    sidecar = tmp_path / "a.png.xmp"
    sidecar.write_bytes(keyword_packet("cat"))
    index(tmp_path)
    overwrite(sidecar, keyword_packet("dog"))
    assert index(tmp_path).moved == 1
    assert rows_of(tmp_path)["a.png"].keywords == "dog"


def keyword_packet(keyword: str) -> bytes:
    text = NEW_PACKET.decode().replace(
        " </rdf:RDF>",
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag>'
        f"<rdf:li>{keyword}</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF>",
    )
    return text.encode()


def test_verify_content_reads_every_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(padded(ord(name[0])))
    index(tmp_path)
    before = rows_of(tmp_path)
    overwrite(tmp_path / "a.png", padded(5))
    with opened(tmp_path) as (catalog, vectors):
        # as on a disk without times of change
        catalog.set_change_times({before["a.png"].id: (tmp_path / "a.png").stat().st_ctime_ns})
        assert indexing.Indexing(catalog, vectors, TinyEncoder()).run().unchanged == 2
        run = indexing.Indexing(catalog, vectors, TinyEncoder(), verify_content=True)
        report = run.run()
    assert (report.added, report.moved, report.removed, report.unchanged) == (1, 0, 0, 1)
    rows = rows_of(tmp_path)
    assert (
        rows["a.png"].content_hash == hash_of(padded(5)) and rows["b.png"].id == before["b.png"].id
    )


def test_a_catalog_without_change_times_and_folded_words_is_migrated(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Z\u00fcrichsee.png")
    (tmp_path / name).write_bytes(picture(1))
    index(tmp_path)
    with opened(tmp_path) as (catalog, _):
        execute = catalog._connection.execute
        execute("UPDATE words SET path = ?", [name])
        execute("ALTER TABLE pictures DROP COLUMN ctime_ns")
        execute("PRAGMA user_version = 4")
        catalog._connection.commit()
    with opened(tmp_path) as (catalog, _):
        assert len(catalog.match_words("Z\u00fcrichsee")) == 1
    assert index(tmp_path).unchanged == 1
    assert rows_of(tmp_path)[name].ctime_ns == (tmp_path / name).stat().st_ctime_ns


def test_another_model_is_used_when_it_is_complete(photos: Path, tiny_directory: Path) -> None:
    library = Library(photos, model=tiny_directory)
    library.index()
    ids = sorted(library.vectors.ids().tolist())
    embeds_before = library.vectors.get(np.array(ids))

    def stop(progress: indexing.Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Library(photos, model=SMALL).index(stop)
    still = Library(photos)
    assert still.model.directory == tiny_directory
    np.testing.assert_array_equal(still.vectors.get(np.array(ids)), embeds_before)
    still.close()

    changed = Library(photos, model=SMALL)
    report = changed.index()
    assert 0 < report.added < 5  # it continued
    assert sorted(changed.vectors.ids().tolist()) == ids
    assert Library(photos).model.directory == SMALL
    assert len(changed.catalog.models()) == 1
    assert len(list((photos / ".twotower").glob("vectors-*"))) == 1
    [embeds] = changed.vectors.get(np.array([ids[0]]))
    path = photos / changed.catalog.pictures([ids[0]])[0].path
    np.testing.assert_allclose(embeds, changed.model.encode_image(path)[0], atol=1e-5)


def test_a_partial_first_index_can_be_searched(photos: Path, tiny_directory: Path) -> None:
    def stop(progress: indexing.Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Library(photos, model=tiny_directory).index(stop)
    half = Library(photos)
    assert 0 < len(half.vectors) == len(half.catalog) < 5
    shutil.rmtree(photos / ".twotower" / "vectors-1")
    with pytest.raises(LibraryError, match="vectors of some pictures are missing"):
        Library(photos).vectors.get(half.catalog.select())
    assert Library(photos).index().added == 5


def test_a_model_that_was_changed_is_refused(
    photos: Path, tiny_directory: Path, siglip_directory: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_directory, model)
    Library(photos, model=model).index()
    shutil.rmtree(model)
    shutil.copytree(tiny_directory, model)  # the same files with other times
    assert Library(photos).model.directory == model
    shutil.rmtree(model)
    shutil.copytree(siglip_directory, model)
    with pytest.raises(LibraryError, match="no longer the model"):
        _ = Library(photos).model


def test_vectors_stay_valid_with_another_text_tower(
    photos: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_directory, tmp_path / "model")
    Library(photos, model=model).index()
    weights, tensors = model / "model.safetensors", stored_tensors(model / "model.safetensors")
    content = bytearray(weights.read_bytes())
    content[tensors["text.blocks.0.attn.qkv.weight"].offset] ^= 1
    weights.write_bytes(content)
    assert Library(photos).model.directory == model
    assert Library(photos).index().unchanged == 5
    content[tensors["vision.blocks.0.attn.qkv.weight"].offset] ^= 1
    weights.write_bytes(content)
    with pytest.raises(LibraryError, match="no longer the model"):
        _ = Library(photos).model
    assert Library(photos).index().added == 5


@pytest.mark.parametrize("form", ["files", "fingerprint", "bundled"])
def test_a_library_with_an_earlier_fingerprint_stays_valid(
    photos: Path, tiny_directory: Path, form: str
) -> None:
    model = find_model("twotower-small") if form == "bundled" else tiny_directory
    library = Library(photos, model=model)
    library.index()
    record = library.catalog.model
    assert record is not None
    earlier = {"files": "0", "fingerprint": fingerprint(model), "bundled": min(EARLIER_MODELS)}
    library.catalog.set_fingerprint(record, earlier[form])
    if form != "files":  # otherwise they are unchanged since it was indexed
        library.catalog.add_model(replace(record, fingerprint=earlier[form], files=""))
    library.close()
    assert Library(photos).model.directory == model
    assert Library(photos).index().unchanged == 5
    assert Library(photos).catalog.model.fingerprint == image_fingerprint(model)


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every connection to Milvus fail."""

    def fail(address: str, *_: object) -> None:
        raise LibraryError(address, "Milvus says: nobody there", "start it")

    monkeypatch.setattr("twotower.index.milvus.MilvusVectors.__init__", fail)


def test_a_store_that_cannot_be_opened_is_not_recorded(
    photos: Path, tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Library(photos, model=tiny_directory).index()
    unreachable(monkeypatch)
    with pytest.raises(LibraryError, match="nobody there"):
        Library(photos, vectors="milvus://localhost:1/x").index()
    with pytest.raises(LibraryError, match="nobody there"):
        Library(photos, vectors="milvus://me:secret@localhost:1/x").index()
    modes = {path.stat().st_mode & 0o777 for path in photos.glob(".twotower/catalog*")}
    assert modes == {0o600}, "a password may be in it"
    library = Library(photos, model=SMALL)
    assert [record.vectors for record in library.catalog.models()] == [None]
    assert library.index().added == 5
    assert len(library.catalog.models()) == 1


@pytest.mark.parametrize(
    "store", ["qdrant:foo", "localhost:6333", "foo.txt", "Local", "", "vectors", "mysql://h/x.db"]
)
def test_a_mistyped_store_makes_no_folder(
    store: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    with pytest.raises(LibraryError, match=r'no known store; write postgresql://.* or "local"'):
        Library(photos, vectors=store)
    assert not list(Path().iterdir()) and not (photos / ".twotower").exists()


def test_moving_vectors_from_an_unreachable_milvus(
    photos: Path, tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("milvus_lite", reason="pip install 'twotower[milvus]'")
    library = Library(photos, model=tiny_directory, vectors=f"{tmp_path}/vectors.db")
    library.index()
    library.close()
    unreachable(monkeypatch)
    back = Library(photos, vectors="local")
    with pytest.warns(UserWarning) as warned:
        assert back.index().added == 5
    assert "read again" in str(warned[0].message) and "stays" in str(warned[1].message)
    assert len(back.vectors) == 5 and len(back.catalog.models()) == 1
    assert Library(photos).index().unchanged == 5


def test_models_and_libraries_have_separate_collections(
    photos: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    pytest.importorskip("milvus_lite", reason="pip install 'twotower[milvus]'")
    for location in (tmp_path / "one", tmp_path / "two"):
        library = Library(
            photos, location=location, model=tiny_directory, vectors=f"{tmp_path}/vectors.db"
        )
        assert library.index().added == 5
        library.close()
        changed = Library(photos, location=location, model=SMALL)
        assert changed.index().added == 5
        assert changed.vectors.get(changed.vectors.ids()).shape == (5, 512)
        changed.close()


def test_a_library_belongs_to_one_folder_even_if_moved(
    photos: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    library = Library(photos, location=tmp_path / "library", model=tiny_directory)
    library.index()
    (tmp_path / "other").mkdir()
    with pytest.raises(LibraryError, match="is the library of"):
        Library(tmp_path / "other", location=tmp_path / "library").index()
    photos.rename(tmp_path / "moved")
    moved = Library(tmp_path / "moved", location=tmp_path / "library")
    assert moved.index().unchanged == 5
    inside = Library(tmp_path / "moved", model=tiny_directory)
    inside.index()
    inside.close()
    (tmp_path / "moved").rename(tmp_path / "again")  # together with the library inside
    assert Library(location=tmp_path / "again" / ".twotower").root == tmp_path / "again"


def test_finding_the_library_above_a_link(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    index(tmp_path / "photos")
    location = tmp_path.resolve() / "photos" / ".twotower"
    assert find_library(tmp_path / "photos" / "within") == location
    assert find_library(tmp_path / "photos" / ".." / "links") is None
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert find_library(tmp_path / "link" / "within") == location


def test_a_library_that_was_moved_away_from_its_pictures(
    photos: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    Library(photos, model=tiny_directory).index()
    (tmp_path / "stray.png").write_bytes(picture(9))
    (photos / ".twotower").rename(tmp_path / "library")  # its root would be tmp_path now
    with pytest.raises(LibraryError, match=f"moved away from its pictures, which were in {photos}"):
        Library(location=tmp_path / "library").search("a dog")
    with pytest.raises(LibraryError, match=f"moved away from its pictures, which were in {photos}"):
        Library(location=tmp_path / "library").index()
    with pytest.raises(LibraryError, match=f"is the library of {photos}"):
        Library(tmp_path, location=tmp_path / "library").index()
    assert Library(photos, location=tmp_path / "library").index().unchanged == 5
    assert Library(location=tmp_path / "library").index().unchanged == 5


def test_a_library_that_was_copied_with_its_pictures(
    photos: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    Library(photos, model=tiny_directory).index()
    shutil.copytree(photos, tmp_path / "copy")
    copy = Library(location=tmp_path / "copy" / ".twotower")
    assert copy.index().unchanged == 5 and copy.root == tmp_path / "copy"


def test_a_program_may_change_its_working_directory(
    photos: Path, tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    library, by_location = (
        Library("photos", model=tiny_directory),
        Library(location="photos/.twotower"),
    )
    library.index()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert library.index().unchanged == 5 and len(by_location.vectors) == 5
    assert library.search("type:png")[0].path.is_file()
    photos.rename(tmp_path / "gone")
    with pytest.raises(LibraryError, match="no such folder"):
        library.index()
    assert not photos.exists() and not list((tmp_path / "elsewhere").iterdir())


def test_before_the_first_index(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="no such folder"):
        Library(tmp_path / "missing")
    with pytest.raises(LibraryError, match="twotower index"):
        _ = Library(tmp_path).catalog
    assert not list(tmp_path.iterdir())


def test_files_that_are_skipped(tmp_path: Path) -> None:
    for name in (
        "good.png", ".hidden.png", "._good.png", ".folder/a.png", "@eaDir/a.png",
        "Photos.lrdata/a.png", "__MACOSX/a.png", "text.txt", "folder/also.PNG",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(1))
    (tmp_path / "folder" / "up").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere.png").symlink_to("missing.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.png" / "inside.png").write_bytes(picture(2))
    paths = [file.path for file in scan(tmp_path).files]
    assert sorted(paths) == [b"folder.png/inside.png", b"folder/also.PNG", b"good.png"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(picture(1))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "elsewhere")
    assert [file.path for file in scan(tmp_path / "photos").files] == [b"again/a.png"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "gif", "bmp", "tif", "heic"])
def test_file_formats(tmp_path: Path, suffix: str) -> None:
    image = PIL.Image.open(io.BytesIO(picture(1))).resize((60, 40))
    if suffix == "heic":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.register_heif_opener()
    image.save(tmp_path / f"a.{suffix}")
    assert index(tmp_path).added == 1
    [row] = rows_of(tmp_path).values()
    assert row.type == {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
    assert (row.width, row.height, row.orientation) == (60, 40, "landscape")


def test_metadata_and_sidecars(tmp_path: Path) -> None:
    image = PIL.Image.new("RGB", (40, 30), "red")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    exif[0x010F], exif[0x0110] = "FUJIFILM\0", "X-T5"
    exif[0x8769] = {0x9003: "2021:06:05 14:03:02"}
    exif[0x8825] = {1: "S", 2: (48.0, 8.0, 30.0), 3: "W", 4: (11.0, 34.0, 0.0)}
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag>{}</rdf:Bag>'
        "</dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    inside = xmp.format("<rdf:li>Grandmother</rdf:li><rdf:li>a &amp; b</rdf:li>")
    image.save(tmp_path / "a.jpg", exif=exif, xmp=inside.encode())
    index(tmp_path)
    row = rows_of(tmp_path)["a.jpg"]
    assert row.taken == "2021-06-05T14:03:02" and row.camera == "FUJIFILM X-T5"
    assert (row.latitude, row.longitude) == (-48.1416667, -11.5666667)
    assert (row.width, row.height, row.orientation) == (30, 40, "portrait")
    assert row.keywords == "Grandmother\na & b"

    words = {"a.xmp": "summer", "a.jpg.xmp": "by the sea"}
    for name in ("a.xmp", "a.jpg.xmp", "a.xmp"):  # new and changed sidecars are read
        words[name] += "!"
        (tmp_path / name).write_text(xmp.format(f"<rdf:li>{words[name]}</rdf:li>"))
        assert index(tmp_path).moved == 1
        keywords = rows_of(tmp_path)["a.jpg"].keywords.splitlines()
        sidecar_words = [
            words[sidecar] for sidecar in ("a.jpg.xmp", "a.xmp") if (tmp_path / sidecar).exists()
        ]
        assert keywords == ["Grandmother", "a & b", *sidecar_words]
    with opened(tmp_path) as (catalog, _):
        assert catalog.match_words("summer winter").tolist() == [row.id]
        assert catalog.select("camera = ?", ["FUJIFILM X-T5"]).tolist() == [row.id]


ORIGINAL, DIGITIZED, MODIFIED = 0x9003, 0x9004, 0x0132


def dated_exif(tag: int, text: str) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[MODIFIED] = "2001:02:03 04:05:06"
    if tag == MODIFIED:
        exif[MODIFIED] = text
    else:
        exif[0x8769] = {tag: text}
    return exif


@pytest.mark.parametrize(
    ("tag", "text", "taken"),
    [
        (ORIGINAL, "2022:10:31 08:55:46", "2022-10-31T08:55:46"),
        (ORIGINAL, "2022-10-31 08:55:46", "2022-10-31T08:55:46"),
        (ORIGINAL, "2022-10-31T08:55:46.25+02:00", "2022-10-31T08:55:46"),
        (ORIGINAL, "2022:10:31", "2022-10-31T00:00:00"),
        (DIGITIZED, "2022:10:31 08:55:46", "2022-10-31T08:55:46"),
        (MODIFIED, "2022:10:31 08:55:46", "2022-10-31T08:55:46"),
        (ORIGINAL, "2022:02:30 08:55:46", "2001-02-03T04:05:06"),
        (ORIGINAL, "2022:10:00 08:55:46", "2001-02-03T04:05:06"),
        (ORIGINAL, "2022:10:31 24:60:60", "2001-02-03T04:05:06"),
        (ORIGINAL, "0000:00:00 00:00:00", "2001-02-03T04:05:06"),
        (ORIGINAL, "    :  :     :  :  ", "2001-02-03T04:05:06"),
    ],
)
def test_dates_of_exif(tmp_path: Path, tag: int, text: str, taken: str) -> None:
    PIL.Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=dated_exif(tag, text))
    index(tmp_path)
    assert rows_of(tmp_path)["a.jpg"].taken == taken


def fact_packet(attributes: str) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" {attributes}/></rdf:RDF></x:xmpmeta>'
    ).encode()


def test_dates_and_places_of_xmp_sidecars_and_png(tmp_path: Path) -> None:
    image = PIL.Image.new("RGB", (40, 30))
    coordinates = 'exif:GPSLatitude="48,6.0N" exif:GPSLongitude="11,30,36W"'
    image.save(tmp_path / "created.jpg", xmp=fact_packet('photoshop:DateCreated="2022-10-31"'))
    image.save(
        tmp_path / "xmp.jpg", xmp=fact_packet(f'xmp:CreateDate="2022-10-31T08:55" {coordinates}')
    )
    image.save(tmp_path / "sidecar.jpg", exif=dated_exif(ORIGINAL, "2019:01:01 00:00:00"))
    text = PngInfo()
    text.add_text("Creation Time", "2022:10:31 08:55:46")
    image.save(tmp_path / "shot.png", pnginfo=text)
    index(tmp_path)
    rows = rows_of(tmp_path)
    assert rows["created.jpg"].taken == "2022-10-31T00:00:00"
    assert rows["xmp.jpg"].taken == "2022-10-31T08:55:00"
    assert (rows["xmp.jpg"].latitude, rows["xmp.jpg"].longitude) == (48.1, -11.51)
    assert rows["shot.png"].taken == "2022-10-31T08:55:46"
    assert rows["sidecar.jpg"].taken == "2019-01-01T00:00:00"
    corrected = fact_packet(f'exif:DateTimeOriginal="2020-05-06T07:08:09.5Z" {coordinates}')
    (tmp_path / "sidecar.jpg.xmp").write_bytes(corrected)
    assert index(tmp_path).moved == 1
    row = rows_of(tmp_path)["sidecar.jpg"]
    assert (row.taken, row.latitude) == ("2020-05-06T07:08:09", 48.1)
    (tmp_path / "sidecar.jpg.xmp").unlink()
    index(tmp_path)
    row = rows_of(tmp_path)["sidecar.jpg"]
    assert (row.taken, row.latitude) == ("2019-01-01T00:00:00", None)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (
            {"creation_time": "2022-10-31T08:55:46.000000Z", "location": "+48.1000+011.5000/"},
            DatePlace("2022-10-31T08:55:46", 48.1, 11.5),
        ),
        (
            {
                "creation_time": "2022-10-31T06:55:46.000000Z",
                "com.apple.quicktime.creationdate": "2022-10-31T08:55:46+0200",
                "com.apple.quicktime.location.ISO6709": "-33.8568-070.5+010.0/",
            },
            DatePlace("2022-10-31T08:55:46", -33.8568, -70.5),
        ),
        ({"creation_time": "1904-01-01T00:00:00.000000Z"}, DatePlace()),
        ({"date": "2022", "location": "+4806.5+01130/"}, DatePlace()),
    ],
)
def test_tags_of_videos(tags: dict[str, str], expected: DatePlace) -> None:
    assert read_video_tags(tags) == expected


@pytest.mark.parametrize(
    "damage",
    [
        {"exif": b"Exif\0\0II*\0\xff\xff\xff\xff"},
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\x00\x01\x88\x25\x00\x04" + b"\xff" * 8},
        {"xmp": b"<x:xmpmeta"},
        {"xmp": b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"},
    ],
)
def test_damaged_metadata_are_ignored(tmp_path: Path, damage: dict[str, bytes]) -> None:
    PIL.Image.new("RGB", (40, 30), "red").save(tmp_path / "a.jpg", **damage)
    assert index(tmp_path).added == 1
    row = rows_of(tmp_path)["a.jpg"]
    assert row.error is None and row.taken is None and row.keywords == ""


def test_folders_in_the_catalog(tmp_path: Path) -> None:
    for name in ("trips/a.png", "trips/rome/b.png", "trips0.png", "trip/c.png", "d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(picture(len(name)))
    index(tmp_path)
    with opened(tmp_path) as (catalog, _):
        records = catalog.pictures(catalog.select(*catalog.in_folder("trips")))
        assert {record.path for record in records} == {"trips/a.png", "trips/rome/b.png"}


def test_scaled_decoding_of_large_jpegs_is_accurate(tmp_path: Path) -> None:
    """Compare pixels with those of full decoding, on photographs of 6 megapixels."""
    examples = Path(__file__).parents[2] / "examples" / "photos"
    preprocess = Preprocess(PreprocessConfig())
    for name in ("cat.jpg", "giraffe.jpg", "butterfly.jpg"):
        with PIL.Image.open(examples / name) as image:
            scale = 3000 / max(image.size)
            large = image.resize((round(image.width * scale), round(image.height * scale)))
        large.save(tmp_path / name, quality=92)
    for file in scan(tmp_path).files:
        content = PictureReader(tmp_path, preprocess)(file)
        exact = preprocess(tmp_path / content.record.path).ravel()
        scaled = content.pixel_values[0].ravel()
        cosine = exact @ scaled / np.linalg.norm(exact) / np.linalg.norm(scaled)
        assert 0.9999 <= cosine < 1.0
        assert max(content.record.width, content.record.height) == 3000  # not those of the draft


def test_unreadable_pictures_are_read_again_only_when_changed(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"nothing of the kind")
    (tmp_path / "good.png").write_bytes(picture(1))
    assert index(tmp_path).failed == 1
    report = index(tmp_path)
    assert (report.failed, report.unchanged) == (0, 2)
    with opened(tmp_path) as (catalog, vectors):
        [error] = catalog.errors()
        assert error.path == "bad.jpg" and "not a picture" in error.error
        assert len(catalog) == len(vectors) == 1 and catalog.select().tolist() != [error.id]
    (tmp_path / "bad.jpg").write_bytes(picture(2))
    assert index(tmp_path).added == 1


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("a.nef", "rawpy", "raw"), ("a.mp4", "av", "video")]
)
def test_files_are_read_again_once_a_missing_extra_is_installed(
    tmp_path: Path, name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"not read without it")
    with monkeypatch.context() as without:
        without.setitem(__import__("sys").modules, module, None)
        without.setattr("importlib.util.find_spec", lambda name: None)
        assert index(tmp_path).failed == 1
        assert f"pip install 'twotower[{extra}]'" in rows_of(tmp_path)[name].error
        assert index(tmp_path).failed == 0
    pytest.importorskip(module)
    assert index(tmp_path).failed == 1  # read, and it is no such file
    assert "pip install" not in rows_of(tmp_path)[name].error
    assert index(tmp_path).failed == 0


def test_raw_files_by_their_preview(tmp_path: Path) -> None:
    pytest.importorskip("rawpy", reason="pip install 'twotower[raw]'")
    preview = PIL.Image.new("RGB", (320, 240), (20, 160, 60))
    write_dng(tmp_path / "a.dng", preview)
    assert index(tmp_path).added == 1
    [row] = rows_of(tmp_path).values()
    assert (row.type, row.width, row.height) == ("raw", 320, 240)


def write_dng(path: Path, preview: PIL.Image.Image, orientation: int = 1) -> None:
    """Write a raw file of grey pixels with a JPEG preview."""
    import struct

    file = io.BytesIO()
    preview.save(file, "jpeg")
    jpeg = file.getvalue()
    width, height = 64, 48
    raw = np.full((height, width), 2000, "<u2").tobytes()

    def directory(entries: list[tuple[int, int, int, bytes]], start: int) -> bytes:
        extra, body = b"", b""
        after = start + 2 + 12 * len(entries) + 4
        for tag, kind, count, value in sorted(entries):
            if len(value) > 4:
                body += struct.pack("<HHII", tag, kind, count, after + len(extra))
                extra += value + b"\0" * (len(value) % 2)
            else:
                body += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
        return struct.pack("<H", len(entries)) + body + b"\0" * 4 + extra

    def short(*values: int) -> bytes:
        return struct.pack(f"<{len(values)}H", *values)

    def long(*values: int) -> bytes:
        return struct.pack(f"<{len(values)}I", *values)

    def entries(offsets: tuple[int, int, int]) -> tuple[list, list]:
        jpeg_at, raw_at, sub_at = offsets
        main = [
            (254, 4, 1, long(1)), (256, 4, 1, long(preview.width)),
            (257, 4, 1, long(preview.height)), (258, 3, 3, short(8, 8, 8)),
            (259, 3, 1, short(7)), (262, 3, 1, short(6)), (271, 2, 5, b"Test\0"),
            (272, 2, 5, b"Test\0"), (273, 4, 1, long(jpeg_at)), (274, 3, 1, short(orientation)),
            (277, 3, 1, short(3)), (278, 4, 1, long(preview.height)),
            (279, 4, 1, long(len(jpeg))), (330, 4, 1, long(sub_at)),
            (50706, 1, 4, bytes((1, 4, 0, 0))), (50708, 2, 5, b"Test\0"),
        ]  # fmt: skip
        sub = [
            (254, 4, 1, long(0)), (256, 4, 1, long(width)), (257, 4, 1, long(height)),
            (258, 3, 1, short(16)), (259, 3, 1, short(1)), (262, 3, 1, short(32803)),
            (273, 4, 1, long(raw_at)), (277, 3, 1, short(1)), (278, 4, 1, long(height)),
            (279, 4, 1, long(len(raw))), (33421, 3, 2, short(2, 2)),
            (33422, 1, 4, bytes((0, 1, 1, 2))),
        ]  # fmt: skip
        return main, sub

    main, sub = entries((0, 0, 0))
    sub_at = 8 + len(directory(main, 8))
    jpeg_at = sub_at + len(directory(sub, sub_at))
    raw_at = jpeg_at + len(jpeg) + len(jpeg) % 2
    main, sub = entries((jpeg_at, raw_at, sub_at))
    head = b"II*\0" + long(8) + directory(main, 8) + directory(sub, sub_at)
    path.write_bytes(head + jpeg.ljust(raw_at - jpeg_at, b"\0") + raw)


def test_videos_by_the_mean_of_their_frames(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="pip install 'twotower[video]'")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        container.metadata["creation_time"] = "2022-10-31T08:55:46.000000Z"
        container.metadata["location"] = "+48.1000+011.5000/"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.gop_size = 64, 48, 5
        for number in range(80):
            shade = (255, 0, 0) if number < 40 else (0, 0, 255)
            frame = av.VideoFrame.from_image(PIL.Image.new("RGB", (64, 48), shade))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert index(tmp_path).added == 1
    [row] = rows_of(tmp_path).values()
    assert (row.type, row.width, row.height) == ("video", 64, 48)
    assert (row.taken, row.latitude, row.longitude) == ("2022-10-31T08:55:46", 48.1, 11.5)
    with opened(tmp_path) as (_, vectors):
        [embeds] = vectors.get(np.array([row.id]))
    shades = [
        vector_of(as_png(PIL.Image.new("RGB", (64, 48), colour))) for colour in ("red", "blue")
    ]
    mean = sum(shades) / np.linalg.norm(sum(shades))
    assert embeds @ mean > 0.98 > max(shades[0] @ mean, shades[1] @ mean)
    (tmp_path / "a.mp4").rename(tmp_path / "b.mp4")
    assert index(tmp_path).moved == 1


def as_png(image: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def test_migrations_are_atomic_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    index(tmp_path)
    steps = catalog_module.MIGRATIONS
    broken = "ALTER TABLE pictures ADD COLUMN stars INTEGER; INSERT INTO nowhere VALUES (1)"
    monkeypatch.setattr(catalog_module, "MIGRATIONS", (*steps, broken))
    with pytest.raises(LibraryError):
        rows_of(tmp_path)
    monkeypatch.setattr(catalog_module, "MIGRATIONS", steps)
    assert list(rows_of(tmp_path)) == ["a.png"]  # still the previous version
    second = "ALTER TABLE pictures ADD COLUMN stars INTEGER; UPDATE pictures SET stars = 3"
    monkeypatch.setattr(catalog_module, "MIGRATIONS", (*steps, second))
    with opened(tmp_path) as (catalog, _):
        assert catalog.select("stars = 3").tolist() == [1]
    assert index(tmp_path).unchanged == 1
    monkeypatch.setattr(catalog_module, "MIGRATIONS", steps)
    with pytest.raises(LibraryError, match="newer twotower"):
        rows_of(tmp_path)


def test_a_record_is_read_as_it_was_stored(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    index(tmp_path)
    with opened(tmp_path) as (catalog, _):
        [record] = catalog.records()
        full = replace(
            record, taken="2020-01-01T00:00:00", camera="c", latitude=1.5, longitude=-2.5,
            keywords="a\nb", path="ü/\udcff.png",
        )  # fmt: skip
        catalog.replace([], [full])
        assert catalog.pictures([full.id, 77]) == [full]
        assert catalog.next_id() == full.id + 1
        catalog.replace([full.id], [])
        assert catalog.pictures([full.id]) == [] and catalog.next_id() == full.id + 1


def test_the_shapes_of_pictures_come_newest_first(tmp_path: Path) -> None:
    with Catalog(tmp_path / "library", tmp_path) as catalog:
        taken = {1: None, 2: "2020-01-01T00:00:00", 3: "2024-05-06T07:08:09", 4: None}
        records = [
            PictureRecord(number, f"{9 - number}.png", 1, 1, width=3, height=2, taken=date)
            for number, date in taken.items()
        ]
        broken = PictureRecord(5, "broken.png", 1, 1, error="damaged; delete it")
        catalog.replace([], [*records, broken])
        assert [shape.id for shape in catalog.shapes()] == [3, 2, 4, 1]
        assert catalog.shapes()[0][1:] == (3, 2, "2024-05-06T07:08:09")
        assert catalog.count_errors() == 1


def test_a_path_is_found_in_any_normal_form_and_only_if_readable(tmp_path: Path) -> None:
    with Catalog(tmp_path / "library", tmp_path) as catalog:
        composed = PictureRecord(1, "trips/Z\u00fcrich.png", 1, 1)
        broken = PictureRecord(2, "broken.png", 1, 1, error="damaged; delete it")
        catalog.replace([], [composed, broken])
        for path in ("trips/Z\u00fcrich.png", "trips/Zu\u0308rich.png"):
            record = catalog.find_path(path)
            assert record is not None
            assert record.id == 1
        for path in ("broken.png", "../trips/Z\u00fcrich.png", "\ud800.png", "", "\x00"):
            assert catalog.find_path(path) is None


def test_files_of_one_content_share_corrections(tmp_path: Path) -> None:
    with Catalog(tmp_path / "library", tmp_path) as catalog:
        copies = [PictureRecord(n, f"{n}.png", 1, 1, content_hash=b"h" * 16) for n in (1, 2)]
        catalog.replace([], copies)
        catalog.correct([("animal", b"h" * 16, True), ("gone", b"x" * 16, False)])
        corrections = [(row.tag, row.accepted, row.id) for row in catalog.corrections()]
        assert corrections == [("animal", True, 1), ("animal", True, 2), ("gone", False, None)]
