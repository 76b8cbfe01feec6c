"""Sources of pairs of every kind; broken pairs are named and do not affect others."""

import csv
import json
import multiprocessing
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pairs.conftest import Write, picture, sample
from twotower.errors import BrokenPairError, PairsError
from twotower.pairs import remote
from twotower.pairs.pair import Source
from twotower.pairs.sources import PairSubset, open_source


def keys(source: Source) -> list[str]:
    return [source.key(number) for number in range(len(source))]


def test_tar_samples(write_tar: Write) -> None:
    a, b = sample("a", 1, captions=2), sample("folder/b", 2)
    source = open_source(write_tar("x.tar", a | b))
    assert keys(source) == ["a", "folder/b"]
    assert source[0].picture == a["a.jpg"]
    assert source[0].captions == ("caption 0 of a", "caption 1 of a")
    assert source[1].picture == b["folder/b.jpg"]


@pytest.mark.parametrize(
    ("members", "captions"),
    [
        ({"k.txt": b"one\ntwo\n\n"}, ("one", "two")),
        ({"k.txt": b"txt", "k.json": b'{"caption": "json"}'}, ("txt",)),
        ({"k.json": b'{"caption": " json "}'}, ("json",)),
        ({"k.txt": b"txt", "k.json": b'{"captions": ["a", "b"]}'}, ("a", "b")),
        ({"k.json": b'{"caption": ["a dog", null, "the dog "]}'}, ("a dog", "the dog")),
        ({"k.json": b'{"captions": null, "caption": 7}'}, ("7",)),
        ({"k.json": b'{"caption": "half \\ud83d"}'}, ("half ?",)),
        ({"k.txt": b"txt", "k.json": b'["tag"]'}, ("txt",)),
        ({"k.txt": b"\xef\xbb\xbfmit BOM"}, ("mit BOM",)),
        ({"k.txt": "café".encode("cp1252")}, ("café",)),
        ({"k.txt": "😀 猫".encode()}, ("😀 猫",)),
        (
            {"k.cls": b"7", "k.txt": b"other members are passed over"},
            ("other members are passed over",),
        ),
    ],
)
def test_captions_of_tars(
    write_tar: Write, members: dict[str, bytes], captions: tuple[str, ...]
) -> None:
    source = open_source(write_tar("x.tar", {"k.png": picture(kind="png")} | members))
    assert source[0].captions == captions


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"k.jpg": b"x"}, "k: has no caption"),
        ({"k.jpg": b"x", "k.txt": b" \n"}, "k: has no caption"),
        ({"k.jpg": b"x", "k.json": b"{"}, "json cannot be read"),
        ({"k.jpg": b"x", "k.json": b"[" * 100_000}, "json cannot be read"),
        ({"k.jpg": b"x", "k.json": b'["a cat"]'}, "json is no object"),
        ({"k.jpg": b"x", "k.json": b'"a cat"'}, "json is no object"),
        ({"k.jpg": b"x", "k.json": b"null"}, "json is no object"),
        ({"k.jpg": b"x", "k.json": b'{"caption": null}'}, "k: has no caption"),
        (
            {"k.jpg": b"x", "k.json": b'{"caption": {"en": "a cat"}}'},
            "caption in its json is no text",
        ),
        ({"k.jpg": b"x", "k.json": b'{"captions": [["a cat"]]}'}, "caption in its json is no text"),
        ({"k.txt": b"a caption"}, "k: has no picture"),
    ],
)
def test_broken_samples_among_good_ones(
    write_tar: Write, members: dict[str, bytes], message: str
) -> None:
    source = open_source(write_tar("x.tar", sample("a") | members | sample("z")))
    assert keys(source) == ["a", "k", "z"]
    with pytest.raises(BrokenPairError, match=message) as caught:
        source[1]
    assert "x.tar" in str(caught.value)
    assert source[0].captions and source[2].captions


def test_dots_in_keys_are_explained(write_tar: Write) -> None:
    """webdataset splits at the first dot too: all these are members of one sample, "img"."""
    members = {}
    for name in ("cat", "dog", "bus"):
        members |= {f"img.{name}.v1.jpg": b"x", f"img.{name}.v1.txt": name.encode()}
    several = sample("k") | {"k.left.jpg": b"x"}  # more pictures than one are no fault
    source = open_source(write_tar("x.tar", members | several))
    with pytest.raises(BrokenPairError) as caught:
        source[0]
    assert "img: has no picture: the extension of img.cat.v1.jpg is 'cat.v1.jpg'" in str(
        caught.value
    )
    assert "and 2 more pictures" in str(caught.value)
    assert source[1].picture == several["k.jpg"]


def test_many_shards_are_one_source(write_tar: Write, tmp_path: Path) -> None:
    for shard in range(8, 12):
        write_tar(f"s-{shard:03d}.tar", {**sample(f"{shard}a", shard), **sample(f"{shard}b")})
    expected = [f"{shard}{letter}" for shard in range(8, 12) for letter in "ab"]
    for location in (tmp_path, tmp_path / "s-*.tar", tmp_path / "s-{008..011}.tar"):
        source = open_source(location)
        assert keys(source) == expected
        assert [source[number].key for number in (7, 0, 3)] == ["11b", "8a", "9b"]
    assert keys(open_source(tmp_path / "s-{009..010}.tar")) == expected[2:6]


@pytest.mark.parametrize("cut", [100, 700, 5000])
def test_a_truncated_shard_gives_the_samples_before_its_end(write_tar: Write, cut: int) -> None:
    path = write_tar("x.tar", {k: v for i in range(9) for k, v in sample(f"k{i}", i).items()})
    whole = keys(open_source(path))
    path.write_bytes(path.read_bytes()[: -10240 - cut])
    source = open_source(path)
    assert 0 < len(source) < 9 and keys(source) == whole[: len(source)]
    assert [bool(source[number].picture) for number in range(len(source))]
    [fault] = source.faults
    assert "x.tar: cut short after k" in fault


def test_invalid_tars(tmp_path: Path, write_tar: Write) -> None:
    (tmp_path / "x.tar").write_bytes(b"nothing" * 1000)
    with pytest.raises(PairsError, match=r"x\.tar: not a tar"):
        open_source(tmp_path / "x.tar")
    with pytest.raises(PairsError, match="holds no pairs"):
        open_source(write_tar("empty.tar", {}))


def read(source: Source) -> list[bytes]:
    return [source[number].picture for number in range(len(source))]


def test_workers_read_the_same(write_tar: Write) -> None:
    """A forked process must not share the position in a file with its parent."""
    source = open_source(write_tar("x.tar", sample("a", 1) | sample("b", 2) | sample("c", 3)))
    expected = read(source)
    assert read(pickle.loads(pickle.dumps(source))) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(contents == expected for contents in pool.map(read, [source] * 6))


# --- tables and folders --------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(picture())
    return tmp_path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables(pictures: Path, suffix: str) -> None:
    rows = [("a.jpg", 'one, "two"\nlines'), ("b.jpg", "b"), ("a.jpg", "again"), ("no.jpg", "gone")]
    path = pictures / f"pairs{suffix}"
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        names = ["filepath", "title"]
        columns = [list(column) for column in zip(*rows, strict=True)]
        pyarrow.parquet.write_table(pyarrow.table(columns, names=names), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
            writer.writerows([("filepath", "title"), *rows])
    source = open_source(path)
    assert keys(source) == ["a.jpg", "b.jpg", "no.jpg"]
    assert source[0].captions == ('one, "two"\nlines', "again")
    assert source[1].picture == (pictures / "b.jpg").read_bytes()
    with pytest.raises(BrokenPairError, match=r"no\.jpg: No such file"):
        source[2]


def caption_table(folder: Path, name: str, text: str) -> dict[str, tuple[str, ...] | str]:
    """Return the captions of each picture of a table, or the error of its pair."""
    for picture_name in re.findall(r"\b\w+\.jpg", text):
        (folder / picture_name).write_bytes(b"jpeg")
    (folder / name).write_text(text, encoding="utf-8")
    source = open_source(folder / name)
    captions: dict[str, tuple[str, ...] | str] = {}
    for number, key in enumerate(keys(source)):
        try:
            captions[key] = source[number].captions
        except BrokenPairError as error:
            captions[key] = str(error)
    return captions


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (['"big dog', "b", 'on 5" pipe'], ['"big dog', "b", 'on 5" pipe']),
        (['"big dog', "b", 'a pipe of 5"'], ['"big dog', "b", 'a pipe of 5"']),
        (['"Best in show', "b", "c"], ['"Best in show', "b", "c"]),
        (['"Best" in show', "b", "c"], ['"Best" in show', "b", "c"]),
        (['"Best in show"', '"a ""b"""', "c"], ["Best in show", 'a "b"', "c"]),
        (['"two\nlines, also"', "b", "c"], ["two\nlines, also", "b", "c"]),
    ],
)
def test_quotes_of_tab_separated_tables(
    tmp_path: Path, captions: list[str], expected: list[str]
) -> None:
    """Quotes delimit cells where all of them fit, as pandas writes them; else they are text."""
    rows = [f"{name}.jpg\t{caption}\n" for name, caption in zip("abc", captions, strict=True)]
    table = caption_table(tmp_path, "x.tsv", "filepath\tcaption\n" + "".join(rows))
    assert table == {
        f"{name}.jpg": (caption,) for name, caption in zip("abc", expected, strict=True)
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('a.jpg,x\nb.jpg,"cat\nc.jpg,dog\n', r"x\.csv line 3: cannot be read \(unexpected end"),
        ('a.jpg,x\nb.jpg,"big" dog\nc.jpg,dog\n', r"line 3: cannot be read .* expected after"),
        (
            'a.jpg,"big dog\nb.jpg,a bus\nc.jpg,a 5"\n',
            "line 2: a quote takes in all lines up to .* 4",
        ),
        ('a.jpg,"x\ny"\nb.jpg,"cat\n', "line 4: cannot be read"),
        (f"a.jpg,x\nb.jpg,{'x' * 140_000}\n", "line 3: .*field limit"),
    ],
)
def test_a_quote_that_is_not_closed_names_its_line(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(PairsError, match=message) as caught:
        caption_table(tmp_path, "x.csv", "filepath,caption\n" + rows)
    assert "\n" not in str(caught.value)


def test_a_row_with_too_many_cells_is_a_broken_pair(tmp_path: Path) -> None:
    rows = 'a.jpg,"a cat, asleep"\nb.jpg,a 3" dog\nc.jpg,a bee, a flower\nd.jpg,a cow,\ne.jpg\n'
    table = caption_table(tmp_path, "x.csv", "filepath,caption\n" + rows)
    assert table["a.jpg"] == ("a cat, asleep",) and table["b.jpg"] == ('a 3" dog',)
    assert "x.csv line 4: 3 cells below 2 columns" in table["c.jpg"]
    assert table["d.jpg"] == ("a cow",)
    assert "e.jpg: has no caption" in table["e.jpg"]


def test_a_table_without_a_known_column(pictures: Path) -> None:
    (pictures / "pairs.csv").write_text("picture_file,caption\na.jpg,x\n")
    with pytest.raises(PairsError, match=r"no column of pictures; .*there are: picture_file"):
        open_source(pictures / "pairs.csv")


def test_folders(pictures: Path) -> None:
    (pictures / "a.txt").write_text("a dog\na brown dog\n")
    (pictures / "c.jpg").write_bytes(picture())
    (pictures / "c.json").write_text(json.dumps({"captions": ["see"]}))
    source = open_source(pictures)
    assert keys(source) == ["a.jpg", "b.jpg", "c.jpg"]
    assert source[0].captions == ("a dog", "a brown dog") and source[2].captions == ("see",)
    with pytest.raises(BrokenPairError, match=r"b\.jpg: has no caption"):
        source[1]


def test_folders_named_after_their_content(tmp_path: Path) -> None:
    for name in ("red_car/1.jpg", "red_car/2.jpg", "dog/old/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture())
    source = open_source(tmp_path)
    captions_by_key = {source[i].key: source[i].captions for i in range(len(source))}
    assert captions_by_key == {"dog/old/3.jpg": ("old",), "red_car/1.jpg": ("red car",)} | {
        "red_car/2.jpg": ("red car",)
    }
    (tmp_path / "red_car" / "1.txt").write_text("one caption")  # then captions are meant
    with pytest.raises(BrokenPairError, match="has no caption"):
        open_source(tmp_path)[0]


def test_a_subset_of_a_source(pictures: Path) -> None:
    for name in ("a", "b"):
        (pictures / f"{name}.txt").write_text(f"{name} dog")
    subset = PairSubset(open_source(pictures), [1], ["a photo of {}.", "{}"])
    assert (len(subset), subset.key(0), subset[0].key) == (1, "b.jpg", "b.jpg")
    assert subset[0].captions == ("a photo of b dog.", "b dog")


def test_a_folder_without_captions(pictures: Path) -> None:
    with pytest.raises(PairsError, match="no picture has a caption beside it"):
        open_source(pictures)


@pytest.mark.parametrize("location", ["nowhere", "nowhere.tar", "nowhere.csv", "nowhere/*.tar"])
def test_missing_sources(location: str, tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="no such"):
        open_source(str(tmp_path / location))


# --- remote --------------------------------------------------------------------------------------


def test_any_fsspec_url(write_tar: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/s-0.tar", write_tar("x.tar", sample("far")).read_bytes())
    for location in ("memory://bucket/s-0.tar", "memory://bucket/s-*.tar"):
        source = open_source(location)
        assert keys(source) == ["far"] and source[0].captions == ("caption 0 of far",)
    with pytest.raises(PairsError, match="cannot be reached"):
        open_source("memory://bucket/s-1.tar")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Any, list[float]]]:
    """A file system that fails `failures` times, and the waits between attempts."""
    from fsspec import register_implementation
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        protocol = "bucket"
        cachable = False
        failures = 0

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.replace("bucket://", "memory://"))

        def fail(self) -> None:
            if Bucket.failures:
                Bucket.failures -= 1
                raise ConnectionError("refused")

        def get_file(self, *arguments: Any, **options: Any) -> None:
            self.fail()
            super().get_file(*arguments, **options)

        def glob(self, *arguments: Any, **options: Any) -> Any:
            self.fail()
            return super().glob(*arguments, **options)

    register_implementation("bucket", Bucket, clobber=True)
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    yield Bucket, waits
    Bucket.store.clear()


@pytest.mark.parametrize("location", ["bucket://far/s-0.tar", "bucket://far/s-*.tar"])
def test_a_remote_that_fails_is_tried_again(
    write_tar: Write, bucket: tuple[Any, list[float]], location: str
) -> None:
    files, waits = bucket
    files().pipe("/far/s-0.tar", write_tar("x.tar", sample("far")).read_bytes())
    files.failures = 2
    assert keys(open_source(location)) == ["far"]
    assert waits == [1, 2]


@pytest.mark.parametrize("location", ["bucket://far/s-0.tar", "bucket://far/s-*.tar"])
def test_a_bucket_that_cannot_be_reached(
    write_tar: Write, bucket: tuple[Any, list[float]], location: str
) -> None:
    files, waits = bucket
    files().pipe("/far/s-0.tar", write_tar("x.tar", sample("far")).read_bytes())
    files.failures = 99
    with pytest.raises(PairsError, match=r"bucket://far/s-.*cannot be reached .*refused.*network"):
        open_source(location)
    assert waits == [1, 2, 4]


def test_a_protocol_whose_package_is_missing() -> None:
    with pytest.raises(PairsError, match=r"gcs://bucket/y\.tar: .*gcsfs"):
        open_source("gcs://bucket/y.tar")
