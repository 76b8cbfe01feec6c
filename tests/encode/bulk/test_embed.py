"""Collections of every kind become rows, each item exactly once, whatever interrupts the run."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

pytest.importorskip("pyarrow")

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.encode.bulk.collections import (
    embeds_of,
    picture,
    read_rows,
    write_folder,
    write_table,
    write_tar,
)
from twotower.encode import encoder
from twotower.encode.bulk.output import write_error
from twotower.encode.bulk.run import embed
from twotower.encode.bulk.settings import EmbedSettings
from twotower.encode.encoder import Encoder
from twotower.errors import EmbedError
from twotower.files import exclusive_lock
from twotower.pairs.cluster import map_here
from twotower.progress import Progress


@pytest.fixture
def embed_tiny(tiny_directory: Path, tmp_path: Path) -> Any:
    """A function that embeds sources into `out` with a tiny model, and returns summary and rows."""

    def run(*sources: str | Path, **options: Any) -> Any:
        summary = embed(sources, tmp_path / "out", tiny_directory, EmbedSettings(**options))
        return summary, read_rows(tmp_path / "out")

    return run


def assert_embedded(rows: list[dict[str, Any]], pictures: list[bytes], directory: Path) -> None:
    """Check that rows have the vectors and hashes of pictures, in their order."""
    expected = Encoder(directory).encode_image(pictures)
    np.testing.assert_allclose(embeds_of(rows), expected, atol=1e-5)
    assert [row["hash"] for row in rows] == [hashlib.sha256(file).hexdigest() for file in pictures]


def test_a_folder(embed_tiny: Any, tiny_directory: Path, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", 5)
    (photos / "more").mkdir()
    (photos / "more" / "x.png").write_bytes(picture(9, (40, 30)))
    (photos / "00002.png").write_bytes(b"no picture")
    summary, rows = embed_tiny(photos, rows_per_shard=4)
    assert (summary.rows, summary.failed, summary.shards) == (6, 1, 2)
    assert summary.is_success and not summary.faults
    assert [row["key"] for row in rows] == [*(f"0000{i}.png" for i in range(5)), "more/x.png"]
    assert {row["source"] for row in rows} == {str(photos)}
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 10**9, 10**9 + 1]
    broken = rows.pop(2)
    assert broken["embedding"] is None and broken["width"] is None
    assert broken["error"] == "not a picture of a known kind; convert it to JPEG or PNG"
    assert broken["hash"] == hashlib.sha256(b"no picture").hexdigest()
    assert [(row["width"], row["height"], row["error"]) for row in rows[-2:]] == [
        (24, 18, None),
        (40, 30, None),
    ]
    assert_embedded(
        rows, [picture(i) for i in (0, 1, 3, 4)] + [picture(9, (40, 30))], tiny_directory
    )


def test_sizes_are_those_of_the_upright_picture(embed_tiny: Any, tmp_path: Path) -> None:
    import PIL.Image

    image = PIL.Image.new("RGB", (40, 30), "red")
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    _, [row] = embed_tiny(tmp_path / "turned.jpg")
    assert (row["width"], row["height"]) == (30, 40)


def test_tars(embed_tiny: Any, tiny_directory: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(shards / "0.tar", {f"a{i}.png": picture(i) for i in range(3)})
    captioned = {"b.png": picture(3), "b.txt": b"a caption", "c.txt": b"without a picture"}
    write_tar(shards / "1.tar", captioned)
    (shards / "2.tar").write_bytes(b"damaged" * 1000)
    summary, rows = embed_tiny(shards, rows_per_shard=2)
    assert [row["key"] for row in rows] == ["a0", "a1", "a2", "b", "c"]
    assert [Path(row["source"]).name for row in rows] == ["0.tar"] * 3 + ["1.tar"] * 2
    assert rows.pop()["error"].startswith("has no picture")
    assert_embedded(rows, [picture(i) for i in range(4)], tiny_directory)
    [fault] = summary.faults
    assert "2.tar: not a tar" in fault and not summary.is_success
    write_tar(shards / "2.tar", {"d.png": picture(4)})  # repaired
    summary, rows = embed_tiny(shards, rows_per_shard=2)
    assert (summary.rows, summary.earlier_shards) == (6, 3) and summary.is_success
    assert rows[-1]["key"] == "d"


@pytest.mark.parametrize("column", ["image", "jpg", "struct", "path"])
def test_tables(embed_tiny: Any, tiny_directory: Path, tmp_path: Path, column: str) -> None:
    pictures: list[bytes] = [picture(i) for i in range(20)]
    write_folder(tmp_path / "files", 20)
    names = [f"files/{i:05d}.png" for i in range(20)]
    cells: Any = pictures
    if column == "path":
        cells = names
    elif column == "struct":
        cells = [
            {"bytes": content, "path": name} for content, name in zip(pictures, names, strict=True)
        ]
    name = {"struct": "image"}.get(column, column)
    write_table(tmp_path / "t.parquet", {"caption": ["x"] * 20, name: cells})
    _, rows = embed_tiny(tmp_path / "t.parquet", rows_per_shard=6)
    assert [row["key"] for row in rows] == (
        names if column in ("path", "struct") else [*map(str, range(20))]
    )
    assert_embedded(rows, pictures, tiny_directory)


def test_a_table_with_keys_and_gaps(embed_tiny: Any, tmp_path: Path) -> None:
    cells = [picture(0), None, b"", picture(1)]
    write_table(
        tmp_path / "t.parquet", {"key": list("abcd"), "thumbnail": cells, "image": list("wxyz")}
    )
    _, rows = embed_tiny(tmp_path / "t.parquet", column="thumbnail")
    assert [row["key"] for row in rows] == list("abcd")
    assert [row["error"] and row["error"].partition(";")[0] for row in rows] == [
        None,
        "has no picture",
        "has no picture",
        None,
    ]


def test_a_table_without_pictures_names_the_option(embed_tiny: Any, tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", {"a": [1], "b": ["x"]})
    with pytest.raises(EmbedError, match=r"no column of pictures; name it with --column .*: a, b"):
        embed_tiny(tmp_path / "t.parquet")


def test_a_bucket(embed_tiny: Any, tiny_directory: Path, tmp_path: Path) -> None:
    import fsspec

    bucket = fsspec.filesystem("memory")
    bucket.rm("/bulk", recursive=True) if bucket.exists("/bulk") else None
    for seed in range(6):
        bucket.pipe(f"/bulk/photos/{seed}.png", picture(seed))
    tar = write_tar(tmp_path / "x.tar", {f"k{i}.png": picture(i) for i in range(3)})
    bucket.put(str(tar), "/bulk/tars/x.tar")
    table = write_table(tmp_path / "t.parquet", {"image": [picture(i) for i in range(9)]})
    bucket.put(str(table), "/bulk/tables/t.parquet")
    located = {"path": [f"memory://bulk/photos/{i}.png" for i in (5, 4, 99)]}
    write_table(tmp_path / "located.parquet", located)
    sources = [f"memory://bulk/{name}" for name in ("photos", "tars", "tables")]
    _, rows = embed_tiny(*sources, tmp_path / "located.parquet", rows_per_shard=4)
    keys = [row["key"] for row in rows]
    assert keys[:6] == [f"{i}.png" for i in range(6)]
    assert keys[6:9] == ["k0", "k1", "k2"]
    assert keys[9:18] == [str(i) for i in range(9)]
    assert rows.pop()["error"].startswith("cannot be reached")
    numbers = [*range(6), *range(3), *range(9), 5, 4]
    assert_embedded(rows, [picture(i) for i in numbers], tiny_directory)


def test_urls(embed_tiny: Any, tiny_directory: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    from tests.pairs.web_in_a_box import Document, WebInABox

    with WebInABox() as box:
        host = f"127.0.0.1:{box.port}"
        for seed in range(3):
            for name in (host, "127.0.0.1"):
                box.documents[name, f"/{seed}.png"] = Document(
                    picture(seed), 200, {"Content-Type": "image/png"}
                )
        paths = ["0.png", "1.png", "missing.png", "2.png"]
        write_table(tmp_path / "t.parquet", {"url": [f"http://{host}/{path}" for path in paths]})
        summary, rows = embed_tiny(tmp_path / "t.parquet", allow_private=True)
        private, _ = embed_tiny(tmp_path / "t.parquet", allow_private=True)
    assert private.earlier_shards == 1
    assert rows.pop(2)["error"] == "cannot be fetched (http_404); check the URL"
    assert_embedded(rows, [picture(i) for i in range(3)], tiny_directory)
    assert summary.failed == 1


def test_private_addresses_are_not_contacted(embed_tiny: Any, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    write_table(tmp_path / "t.parquet", {"url": ["http://127.0.0.1:9/x.png"]})
    summary, [row] = embed_tiny(tmp_path / "t.parquet")
    assert "blocked_address" in row["error"] and not summary.is_success


def test_texts(embed_tiny: Any, tiny_directory: Path, tmp_path: Path) -> None:
    texts = [f"a photo of number {i}" for i in range(11)]
    (tmp_path / "texts.txt").write_text("\n".join([*texts[:4], "  ", *texts[4:]]), "utf-8")
    write_table(tmp_path / "t.parquet", {"title": [*texts[:5], None], "key": list("abcdef")})
    summary, rows = embed_tiny(
        tmp_path / "texts.txt", tmp_path / "t.parquet", texts=True, rows_per_shard=3
    )
    assert (summary.rows, summary.failed, summary.shards) == (18, 2, 6)
    assert [row["key"] for row in rows] == [*map(str, range(1, 13)), *"abcdef"]
    assert [row["error"] for row in rows if row["error"]] == [
        "is empty; write a text, or leave it out"
    ] * 2
    rows = [row for row in rows if not row["error"]]
    assert [row["text"] for row in rows] == texts + texts[:5]
    np.testing.assert_allclose(
        embeds_of(rows), Encoder(tiny_directory).encode_text(texts + texts[:5]), atol=1e-5
    )


def test_the_layout_of_clip_retrieval(embed_tiny: Any, tmp_path: Path) -> None:
    import pyarrow.parquet

    photos = write_folder(tmp_path / "photos", 5)
    (photos / "00001.png").write_bytes(b"no picture")
    _, rows = embed_tiny(photos, rows_per_shard=3, format="clip-retrieval")
    rows = [row for row in rows if not row["error"]]
    out = tmp_path / "out"
    arrays = [np.load(path) for path in sorted((out / "img_emb").iterdir())]
    assert [path.name for path in sorted((out / "img_emb").iterdir())] == [
        "img_emb_00000.npy",
        "img_emb_00001.npy",
    ]
    assert arrays[0].dtype == np.float16
    np.testing.assert_allclose(np.concatenate(arrays), embeds_of(rows), atol=1e-3)
    metadata = [pyarrow.parquet.read_table(path) for path in sorted((out / "metadata").iterdir())]
    paths = [path for table in metadata for path in table["image_path"].to_pylist()]
    assert paths == [row["key"] for row in rows]


def test_clip_retrieval_does_not_rename_files(embed_tiny: Any, tmp_path: Path) -> None:
    """A shard that is computed again replaces its files, however many shards there are now."""
    photos = write_folder(tmp_path / "photos", 3)
    options = {"rows_per_shard": 1, "format": "clip-retrieval"}
    embed_tiny(photos, **options)
    write_folder(photos, 9, start=3)
    (tmp_path / "out" / "embeddings" / "00002.parquet").unlink()
    embed_tiny(photos, **options)
    assert len(list((tmp_path / "out" / "img_emb").iterdir())) == 12
    assert len(list((tmp_path / "out" / "metadata").iterdir())) == 12


@pytest.mark.parametrize(
    "name", ["plan/notes.txt", "plan/plan.json", "plan/pictures-0.parquet", "embeddings/a.parquet"]
)
def test_files_of_others_are_kept(embed_tiny: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}')
    (tmp_path / "out" / "photos").mkdir()
    leftover = tmp_path / "out" / "photos" / ".twotower-01234567"
    leftover.write_text("mine")
    photos = write_folder(tmp_path / "photos", 1)
    with pytest.raises(EmbedError, match=rf"has other files in {path.parent.name}/; choose anoth"):
        embed_tiny(photos)
    assert path.read_text() == '{"mine": 1}'
    path.unlink()
    embed_tiny(photos)
    assert leftover.exists()


def test_leftovers_of_a_killed_run_are_removed(embed_tiny: Any, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", 1)
    for _ in range(2):  # without a manifest, and with it
        (tmp_path / "out" / "plan").mkdir(parents=True, exist_ok=True)
        leftover = tmp_path / "out" / "plan" / ".twotower-01234567"
        leftover.write_text("x")
        embed_tiny(photos)
        assert not leftover.exists()


def test_a_plan_that_was_killed_is_replaced(
    embed_tiny: Any, tiny_directory: Path, tmp_path: Path
) -> None:
    """The plan of pictures is recognized as one, so that it can be made again."""
    photos = write_folder(tmp_path / "photos", 3)
    embed_tiny(photos)
    (tmp_path / "out" / "manifest.json").unlink()
    for path in (tmp_path / "out" / "embeddings").iterdir():
        path.unlink()
    summary, _ = embed_tiny(photos, rows_per_shard=2)
    assert (summary.rows, summary.shards) == (3, 2)


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.ENOSPC, "free space on the disk"), (errno.EACCES, "check the fol")]
)
def test_a_folder_that_cannot_be_written(code: int, remedy: str, tmp_path: Path) -> None:
    error = write_error(tmp_path, "written", OSError(code, os.strerror(code)))
    assert f"({os.strerror(code)}); complete shards are kept; {remedy}" in str(error)


def test_another_embedding_is_refused(
    embed_tiny: Any, siglip_directory: Path, tmp_path: Path
) -> None:
    photos = write_folder(tmp_path / "photos", 3)
    embed_tiny(photos)
    for sources, options, reason in (
        ([photos], {"rows_per_shard": 2}, "other settings"),
        ([photos], {"texts": True, "column": "a"}, "another model"),
        ([photos / "00000.png"], {}, "other sources"),
    ):
        with pytest.raises(EmbedError, match=reason):
            embed_tiny(*sources, **options)
    with pytest.raises(EmbedError, match=r"another model .* choose another folder"):
        embed(photos, tmp_path / "out", siglip_directory)


def test_a_plan_without_a_manifest_is_of_no_run(embed_tiny: Any, tmp_path: Path) -> None:
    """A run that was killed before its first shard does not bind the settings of the next."""
    (tmp_path / "out" / "plan").mkdir(parents=True)
    (tmp_path / "out" / "plan" / "plan.json").write_text("[]")
    summary, _ = embed_tiny(write_folder(tmp_path / "photos", 3))
    assert summary.rows == 3
    (tmp_path / "out" / "plan" / "plan.json").write_text("[{")
    with pytest.raises(EmbedError, match=r"plan.json: is damaged"):
        embed_tiny(tmp_path / "photos")


def test_sources_that_overlap_count_once(embed_tiny: Any, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"x.png": picture(1)})
    photos = write_folder(tmp_path / "photos", 2)
    summary, _ = embed_tiny(tmp_path / "*.tar", tar, photos, photos)
    assert summary.rows == 3


def test_two_runs_at_once_are_refused(embed_tiny: Any, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", 1)
    (tmp_path / "out").mkdir()
    with (
        exclusive_lock(tmp_path / "out"),
        pytest.raises(EmbedError, match=r"process \d+ is changing this folder; wait until"),
    ):
        embed_tiny(photos)


def test_a_folder_that_cannot_be_locked(
    embed_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: filelock.FileLock, **options: object) -> None:
        raise NotImplementedError("no locks here")

    photos = write_folder(tmp_path / "photos", 1)
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(EmbedError, match=r"no locks here.*; choose another folder with --out"):
        embed_tiny(photos)


def test_new_pictures_are_added(embed_tiny: Any, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", 3)
    embed_tiny(photos, rows_per_shard=2)
    write_folder(photos, 2, start=3)
    (photos / "00000.png").unlink()
    summary, rows = embed_tiny(photos, rows_per_shard=2)
    assert (summary.rows, summary.earlier_shards) == (5, 2)
    assert [row["key"] for row in rows] == [f"{i:05d}.png" for i in range(5)]


def test_a_changed_input_is_refused(embed_tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a\nb\n")
    embed_tiny(tmp_path / "texts.txt", texts=True)
    (tmp_path / "texts.txt").write_text("a\nb\nc\n")
    with pytest.raises(EmbedError, match="has changed since"):
        embed_tiny(tmp_path / "texts.txt", texts=True)


def test_the_manifest_counts(embed_tiny: Any, tmp_path: Path) -> None:
    embed_tiny(write_folder(tmp_path / "photos", 3), rows_per_shard=2)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["complete"] and (manifest["rows"], manifest["shards"]) == (3, 2)
    assert len(manifest["fingerprint"]) == 64


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_unreadable_sources(embed_tiny: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        EmbedError, match="no such file" if name == "missing" else "holds no pictures"
    ):
        embed_tiny(tmp_path / name)


def test_progress_counts_items(tiny_directory: Path, tmp_path: Path) -> None:
    photos, reports = write_folder(tmp_path / "photos", 70), list[Progress]()
    embed(photos, tmp_path / "out", tiny_directory, EmbedSettings(), reports.append)
    embedding = [report for report in reports if report.stage == "Embedding"]
    assert [report.done for report in embedding] == list(range(1, 71))
    assert {report.total for report in embedding} == {70}
    assert embedding[-1].limit


class InterruptionError(Exception):
    pass


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=4),
    st.integers(1, 5),
    st.lists(st.integers(1, 12), max_size=3),
)
def test_no_item_is_lost_or_doubled(
    tiny_directory: Path, sizes: list[int], rows_per_shard: int, stops: list[int]
) -> None:
    """Tars of any sizes, in shards of any size, with runs that stop anywhere."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tars"
        folder.mkdir()
        keys = []
        for tar, size in enumerate([*sizes, 1]):
            names = [f"{tar}-{i}" for i in range(size)]
            write_tar(folder / f"{tar}.tar", {f"{key}.png": picture(3) for key in names})
            keys += names

        def embed_until(stop: int | None) -> None:
            def report(progress: Progress) -> None:
                if progress.stage == "Embedding" and progress.done == stop:
                    raise InterruptionError

            options = EmbedSettings(rows_per_shard=rows_per_shard, batch_size=2)
            embed(folder, Path(name) / "out", tiny_directory, options, report)

        for stop in stops:
            with contextlib.suppress(InterruptionError):
                embed_until(stop)
        embed_until(None)
        assert [row["key"] for row in read_rows(Path(name) / "out")] == keys


def test_an_input_that_disappears_stops_no_other(
    embed_tiny: Any, tiny_directory: Path, tmp_path: Path
) -> None:
    """The second tar is damaged after its items were counted, and restored for the next run."""
    tars = tmp_path / "tars"
    tars.mkdir()
    for number in range(3):
        write_tar(tars / f"{number}.tar", {f"{number}-{i}.png": picture(i) for i in range(3)})
    content = (tars / "1.tar").read_bytes()

    def damage(progress: Progress) -> None:
        if progress.stage == "Reading sources" and progress.done == 3:
            status = (tars / "1.tar").stat()
            (tars / "1.tar").write_bytes(b"x" * len(content))
            os.utime(tars / "1.tar", ns=(status.st_atime_ns, status.st_mtime_ns))

    summary = embed(tars, tmp_path / "out", tiny_directory, EmbedSettings(), damage)
    [fault] = summary.faults
    assert "1.tar: not a tar" in fault
    assert [row["key"][0] for row in read_rows(tmp_path / "out")] == ["0"] * 3 + ["2"] * 3
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert not manifest["complete"] and manifest["faults"] == summary.faults
    status = (tars / "1.tar").stat()
    (tars / "1.tar").write_bytes(content)
    os.utime(tars / "1.tar", ns=(status.st_atime_ns, status.st_mtime_ns))
    summary, rows = embed_tiny(tars)
    assert summary.is_success
    assert [row["key"][0] for row in rows] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_tables_with_damaged_pages(embed_tiny: Any, tmp_path: Path, damaged: int) -> None:
    """The first tables have no rows; those after them are embedded."""
    tables = tmp_path / "tables"
    tables.mkdir()
    for number in range(3):
        cells = [picture(10 * number + i) for i in range(3)]
        table = write_table(tables / f"{number}.parquet", {"key": [f"{number}"] * 3, "jpg": cells})
        if number < damaged:
            content = bytearray(table.read_bytes())
            content[4:400] = bytes(396)  # its schema, at the end, stays
            table.write_bytes(content)
    summary, rows = embed_tiny(tables)
    assert len(summary.faults) == damaged and not summary.is_success
    assert [row["key"] for row in rows] == [f"{i}" for i in range(damaged, 3) for _ in range(3)]


def test_an_input_that_was_deleted_stops_no_other(embed_tiny: Any, tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    tars.mkdir()
    for number in range(2):
        write_tar(tars / f"{number}.tar", {f"{number}.png": picture(number)})
    embed_tiny(tars)
    for path in (tmp_path / "out" / "embeddings").iterdir():
        path.unlink()
    (tars / "0.tar").unlink()
    summary, [row] = embed_tiny(tars)
    assert row["key"] == "1" and len(summary.faults) == 1


def test_paths_that_are_none(embed_tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    write_table(tmp_path / "t.parquet", {"path": ["", "a\0.png", "a.png"]})
    _, rows = embed_tiny(tmp_path / "t.parquet")
    assert [row["error"] for row in rows] == [
        "is empty; write a path, or leave the row out",
        "is no path (embedded null byte); correct it",
        None,
    ]


def test_a_column_is_one_of_tables(embed_tiny: Any, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", 2)
    write_table(tmp_path / "t.parquet", {"x": [picture(3)]})
    summary, _ = embed_tiny(photos, tmp_path / "t.parquet", column="x")
    assert (summary.rows, summary.failed) == (3, 0)


def test_long_texts_warn_once(embed_tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text(("short\n" + "word " * 500 + "\n") * 3)
    with pytest.warns(UserWarning) as records:
        summary, _ = embed_tiny(tmp_path / "texts.txt", texts=True, rows_per_shard=2)
    assert (summary.rows, summary.failed) == (6, 0)
    [message] = [str(record.message) for record in records]
    assert message.startswith("3 of 6 texts are longer than the ")


class Tasks:
    """A cluster of two cores whose tasks run in this process, to see what they do."""

    cpus, gpus = 2, 0

    def map(self, function: Any, tasks: Any, **_: Any) -> Any:
        return map_here(function, tasks)


def test_a_cluster_measures_engines_once(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def choose(engine: str, _directory: Path, threads: int | None, _report: Any) -> str:
        measured.append((engine, threads))
        return engine

    monkeypatch.setattr(encoder, "choose_engine", choose)
    monkeypatch.setattr(encoder, "MEASURED_FROM", 6)  # more than a shard has
    photos, options = write_folder(tmp_path / "photos", 6), EmbedSettings(rows_per_shard=2)
    cluster: Any = Tasks()
    summary = embed(photos, tmp_path / "out", tiny_directory, options, cluster=cluster)
    assert (summary.rows, summary.failed) == (6, 0)
    assert measured == [("onnxruntime", 1)]


def test_a_remote_tar_cut_short_is_not_complete(embed_tiny: Any, tmp_path: Path) -> None:
    import fsspec

    tar = write_tar(tmp_path / "x.tar", {f"k{i}.png": picture(i) for i in range(5)})
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/cut/x.tar", tar.read_bytes()[:3000])
    summary, rows = embed_tiny("memory://cut/x.tar")
    assert summary.faults == ["memory://cut/x.tar: is cut short; run again, or pack it again"]
    assert rows == []


def test_names_that_are_no_text(embed_tiny: Any, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    try:
        Path(os.fsdecode(bytes(photos) + b"/\xff.png")).write_bytes(picture(1))
    except OSError:
        pytest.skip("this file system has no such names")
    _, [row] = embed_tiny(photos)
    assert row["key"] == "\\xff.png" and row["error"] is None


def test_rows_do_not_depend_on_groups(embed_tiny: Any, tmp_path: Path) -> None:
    """Shards begin and end anywhere in the row groups of a table."""
    names = [f"text {i}" for i in range(53)]
    write_table(tmp_path / "t.parquet", {"text": names}, group=8)
    _, rows = embed_tiny(tmp_path / "t.parquet", texts=True, rows_per_shard=11)
    assert [row["text"] for row in rows] == names
    assert [row["key"] for row in rows] == [*map(str, range(53))]
