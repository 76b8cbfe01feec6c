"""Exports of tags for other programs."""

import csv
import io
import json
import os
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given

from tests.index.tiny import index
from tests.metadata.packets import NAMES, TAGGINGS, unhurried
from twotower.errors import TaggingError
from twotower.tagging.export import (
    _safe_name,
    link_folders,
    write_csv,
    write_json,
    write_keyword_list,
)


@unhurried
@given(TAGGINGS)
def test_tables_read_back(tags: dict) -> None:
    path = Path("a,b") / 'c"d\n.jpg'
    file = io.StringIO(newline="")
    write_csv(file, [(path, tags), (Path("none.jpg"), {})])
    header, *rows = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert header == ["path", "tag", "probability"]
    assert rows == [[str(path), "|".join(tag), f"{p:.4f}"] for tag, p in tags.items()]
    file = io.StringIO()
    write_json(file, [(path, tags), (Path("none.jpg"), {})])
    tagged, untagged = json.loads(file.getvalue())
    assert tagged["path"] == str(path) and untagged == {"path": "none.jpg", "tags": []}
    rows = [(row["tag"], row["probability"]) for row in tagged["tags"]]
    assert rows == [("|".join(tag), p) for tag, p in tags.items()]  # as `tag --json` prints it
    file = io.StringIO()
    write_json(file, [])
    assert json.loads(file.getvalue()) == []


def test_names_that_are_no_text_can_be_written() -> None:
    path = Path(os.fsdecode(b"\xff.jpg"))
    file = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="surrogateescape")
    write_json(file, [(path, {("a",): 0.5})])
    write_csv(file, [(path, {("a",): 0.5})])


def test_keyword_list() -> None:
    file = io.StringIO()
    tags = {
        ("animal", "dog", "poodle"): ["caniche"],
        ("sea",): ["ocean", "{main}"],
        ("animal", "dog"): ["hound"],
        ("animal", "cat"): [],
        ("[odd]",): [],
    }
    write_keyword_list(file, tags)
    assert file.getvalue().splitlines() == [
        "animal",
        "\tdog",
        "\t\t{hound}",
        "\t\tpoodle",
        "\t\t\t{caniche}",
        "\tcat",
        "sea",
        "\t{ocean}",
        "\t{(main)}",
        "(odd)",
    ]
    file = io.StringIO()
    write_keyword_list(file, {("things", "cup"): [], ("season", "fall"): []}, [("things",), ("a",)])
    assert file.getvalue() == "[things]\n\tcup\nseason\n\tfall\n"
    deep = tuple(str(number) for number in range(2000))
    write_keyword_list(io.StringIO(), {deep: []})


def test_folders_of_links(tmp_path: Path) -> None:
    pictures = [tmp_path / folder / "a.jpg" for folder in ("x", "y")] + [tmp_path / "x" / "b.jpg"]
    for path in pictures:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(str(path).encode())
    target = tmp_path / "by tag"
    tagged = [
        (pictures[0], {("animal", "dog"): 0.9, ("AC/DC",): 0.5}),
        (pictures[1], {("animal", "dog"): 0.9}),
        (pictures[2], {("con",): 0.5, ("a.",): 0.5, ("..",): 0.5}),
    ]
    (target / "animal" / "dog").mkdir(parents=True)
    mine = target / "animal" / "dog" / "a (2).jpg"
    mine.write_text("a person's own")
    report = link_folders(target, tagged)
    assert (report.linked, report.existing, report.errors) == (6, 0, ())
    links = {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in target.rglob("*")
        if path.is_symlink()
    }
    assert links == {
        "animal/dog/a.jpg": pictures[0].read_bytes(),
        "animal/dog/a (3).jpg": pictures[1].read_bytes(),
        "AC_DC/a.jpg": pictures[0].read_bytes(),
        "_con/b.jpg": pictures[2].read_bytes(),
        "a/b.jpg": pictures[2].read_bytes(),
        "_/b.jpg": pictures[2].read_bytes(),
    }
    repeated = link_folders(target, tagged)
    assert (repeated.linked, repeated.existing) == (0, 6) and mine.read_text() == "a person's own"

    (target / "file").write_text("")
    report = link_folders(target, [(pictures[0], {("file", "b"): 0.5, ("sea",): 0.5})])
    assert report.linked == 1 and len(report.errors) == 1
    assert (target / "file").read_text() == ""
    with pytest.raises(TaggingError, match="cannot be made"):
        link_folders(target / "file", tagged)


def test_not_among_the_pictures(tmp_path: Path) -> None:
    index(tmp_path)
    with pytest.raises(TaggingError, match="twice"):
        link_folders(tmp_path / "by tag", [])


def test_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(TaggingError, match="links cannot be made here"):
        link_folders(tmp_path / "t", [(tmp_path / "a.jpg", {("a",): 0.5})])


@unhurried
@given(NAMES)
def test_names_are_safe_everywhere(name: str) -> None:
    for given_name in (name, name * 100, f"{name}.", f"con.{name}", f"../{name}"):
        safe = _safe_name(given_name)
        assert 0 < len(os.fsencode(safe)) <= 201
        assert safe not in (".", "..") and safe == PureWindowsPath(safe).name
        assert not PureWindowsPath(safe).is_reserved() and safe[-1] not in " ."
        assert not set(safe) & set('<>:"/\\|?*')
