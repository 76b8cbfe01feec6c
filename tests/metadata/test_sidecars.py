"""Tags on the disk: the files that change, undoing them, and faults in between."""

import multiprocessing
import os
import random
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.index.tiny import index, picture, rows_of
from tests.metadata.packets import SAMPLES, TAGGINGS, sidecars, unhurried
from twotower.errors import LibraryError, MetadataError
from twotower.index import reader
from twotower.index.scan import ScannedFile
from twotower.metadata import journal
from twotower.metadata.journal import Change, Journal
from twotower.metadata.keywords import read_keywords
from twotower.metadata.ownership import HIERARCHY, SUBJECT, TAGS_LIST, Keywords, packet_keywords
from twotower.metadata.sidecars import plan, sidecars_to_write, undo, write_tags
from twotower.metadata.xmp import Packet
from twotower.progress import Progress

FORK = multiprocessing.get_context("forkserver")
POODLE = {("animal", "dog", "poodle"): 0.93}


def photo(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(len(path.name)))
    return path


def files(root: Path) -> dict[str, bytes]:
    """Return the content of all files in a folder, except those of the library."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".twotower" not in path.relative_to(root).parts
    }


def test_writing_reading_and_taking_back(tmp_path: Path) -> None:
    photo_a, photo_b = photo(tmp_path / "a.jpg"), photo(tmp_path / "b" / "c d.png")
    (tmp_path / "b" / "c d.png.xmp").write_bytes(SAMPLES["digiKam"])
    before = files(tmp_path)
    tagged = [(photo_a, POODLE), (photo_b, {**POODLE, ("beach",): 0.8})]
    location = tmp_path / ".twotower"
    report = write_tags(location, tagged, "model", dry_run=True)
    assert (report.pictures, report.files) == (2, 2) and files(tmp_path) == before
    assert not location.exists()
    ticks: list[Progress] = []
    report = write_tags(location, tagged, "model", report=ticks.append)
    assert (report.pictures, report.files, report.errors) == (2, 2, ()) and len(ticks) == 2
    assert read_keywords(photo_a) == Keywords((), POODLE)
    assert read_keywords(photo_b) == Keywords((("People", "Grandmother"), ("beach",)), POODLE)
    written = files(tmp_path)
    assert written.keys() - before.keys() == {"a.jpg.xmp"}
    assert {name: written[name] for name in ("a.jpg", "b/c d.png")}.items() <= before.items()
    repeated = write_tags(location, tagged, "model")
    assert (repeated.pictures, repeated.unchanged) == (0, 2) and files(tmp_path) == written

    assert write_tags(location, [(photo_a, {}), (photo_b, {("sea",): 0.6})], "model").files == 2
    assert not (tmp_path / "a.jpg.xmp").exists()  # it contained only our tags
    assert read_keywords(photo_b).ours == {("sea",): 0.6}
    assert undo(location).restored == 2 and files(tmp_path) == written
    assert undo(location).restored == 2 and files(tmp_path) == before
    assert undo(location).restored == 0 and files(tmp_path) == before


@settings(unhurried, max_examples=20)
@given(st.lists(sidecars(), min_size=1, max_size=2), TAGGINGS, TAGGINGS, st.booleans())
def test_any_sidecars_come_back(
    contents: list[bytes], tags: dict, new_tags: dict, some_stay: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pictures = [photo(root / f"{number}.png") for number in range(len(contents))]
        for path, content in zip(pictures[1:], contents[1:], strict=True):  # the first has none
            path.with_name(path.name + ".xmp").write_bytes(content)
        states = [files(root)]
        for target in (tags, new_tags, {}):
            tagged = [(path, target) for path in pictures]
            judged = [*target, *list(tags)[:1]] if some_stay else None
            report = write_tags(root / ".twotower", tagged, "m", judged=judged)
            assert not report.errors
            if report.files:
                states.append(files(root))
        while len(states) > 1:
            states.pop()
            assert not undo(root / ".twotower").errors
            assert files(root) == states[-1]


def test_which_sidecar(tmp_path: Path) -> None:
    def named(name: str) -> list[str]:
        return [path.name for path in sidecars_to_write(tmp_path / name)]

    for name in ("a.jpg", "b.jpg", "b.NEF", "c.jpg", "c.png", "d.nef", "e.jpg"):
        photo(tmp_path / name)
    assert named("a.jpg") == ["a.jpg.xmp"] and named("d.nef") == ["d.nef.xmp"]
    for name in ("a", "b", "c", "d", "e"):
        (tmp_path / f"{name}.xmp").write_bytes(SAMPLES["Lightroom"])
    (tmp_path / "e.jpg.XMP").write_bytes(SAMPLES["digiKam"])
    assert named("a.jpg") == ["a.xmp"] and named("d.nef") == ["d.xmp"]
    assert named("b.NEF") == ["b.xmp"] and named("b.jpg") == ["b.jpg.xmp"]  # of the raw file
    assert named("c.jpg") == ["c.jpg.xmp"] and named("c.png") == ["c.png.xmp"]  # of either
    assert named("e.jpg") == ["e.jpg.XMP", "e.xmp"]
    (tmp_path / "a.XMP").write_bytes(SAMPLES["digiKam"])
    if not (tmp_path / "a.xmp").samefile(tmp_path / "a.XMP"):
        with pytest.raises(MetadataError, match="two sidecars"):
            named("a.jpg")


def test_two_sidecars_are_both_kept_up(tmp_path: Path) -> None:
    path, tags = photo(tmp_path / "a.jpg"), {**POODLE, ("sea",): 0.5}
    (tmp_path / "a.jpg.xmp").write_bytes(SAMPLES["darktable"])
    (tmp_path / "a.xmp").write_bytes(SAMPLES["Lightroom"])
    before = files(tmp_path)
    report = write_tags(tmp_path / ".twotower", [(path, tags)], "m")
    assert (report.pictures, report.files) == (1, 2)
    for name in ("a.jpg.xmp", "a.xmp"):
        assert packet_keywords(Packet((tmp_path / name).read_bytes())).ours == tags
    # removed in one program's file, it is removed from the other's by the next run
    content = (tmp_path / "a.xmp").read_bytes()
    (tmp_path / "a.xmp").write_bytes(content.replace(b"<rdf:li>poodle</rdf:li>", b""))
    assert read_keywords(path).rejected == tuple(POODLE)
    write_tags(tmp_path / ".twotower", [(path, tags)], "m")
    assert read_keywords(path).rejected == tuple(POODLE)
    assert b"poodle" not in (tmp_path / "a.jpg.xmp").read_bytes()
    undo(tmp_path / ".twotower")
    undo(tmp_path / ".twotower")
    assert files(tmp_path)["a.jpg.xmp"] == before["a.jpg.xmp"]
    assert read_keywords(path).ours == {}


def test_tags_that_are_not_judged_stay(tmp_path: Path) -> None:
    path, location = photo(tmp_path / "a.jpg"), tmp_path / ".twotower"
    for name in ("a.jpg.xmp", "a.xmp"):
        (tmp_path / name).write_bytes(SAMPLES["Lightroom"])
    write_tags(location, [(path, {**POODLE, ("sea",): 0.5, ("sky",): 0.6})], "m")
    report = write_tags(location, [(path, {("hill",): 0.7})], "n", judged=[("sea",), ("hill",)])
    assert (report.files, report.removed) == (2, 1)
    assert read_keywords(path).ours == {**POODLE, ("sky",): 0.6, ("hill",): 0.7}
    # a tag that a person removes from one file is removed from the other, judged or not
    content = (tmp_path / "a.xmp").read_bytes()
    (tmp_path / "a.xmp").write_bytes(content.replace(b"<rdf:li>poodle</rdf:li>", b""))
    write_tags(location, [(path, {("hill",): 0.7})], "n", judged=[("hill",)])
    assert b"poodle" not in (tmp_path / "a.jpg.xmp").read_bytes()
    assert read_keywords(path).ours == {("sky",): 0.6, ("hill",): 0.7}


def test_keywords_in_the_picture_are_not_hidden_by_a_new_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    PIL.Image.new("RGB", (8, 8)).save(path, xmp=SAMPLES["Lightroom"])
    write_tags(tmp_path / ".twotower", [(path, POODLE)], "m")
    packet = Packet((tmp_path / "a.jpg.xmp").read_bytes())
    assert packet.items(SUBJECT) == ["Grandmother", "beach", "poodle"]
    assert packet.items(HIERARCHY) == ["People|Grandmother", "beach", "animal|dog|poodle"]
    assert packet.items(TAGS_LIST) == ["People/Grandmother", "beach", "animal/dog/poodle"]
    assert read_keywords(path) == Keywords((("People", "Grandmother"), ("beach",)), POODLE)


def test_bad_sidecars_are_left_and_named(tmp_path: Path) -> None:
    tagged = [
        (photo(tmp_path / f"{name}.jpg"), POODLE) for name in ("broken", "empty", "html", "ok")
    ]
    for name, content in (("broken", b"<x:xmp"), ("empty", b""), ("html", b"<html/>")):
        (tmp_path / f"{name}.jpg.xmp").write_bytes(content)
    tagged.append((photo(tmp_path / "folder.jpg"), POODLE))
    (tmp_path / "folder.jpg.xmp").mkdir()
    before = files(tmp_path)
    report = write_tags(tmp_path / ".twotower", tagged, "m")
    assert report.pictures == report.files == 1
    assert len(report.errors) == 4 and all("\n" not in line for line in report.errors)
    for name, line in zip(("broken", "empty", "html", "folder"), report.errors, strict=True):
        assert line.startswith(f"{tmp_path / name}.jpg.xmp: ")
    now = files(tmp_path)
    assert now.pop("ok.jpg.xmp") and now == before


def test_a_sidecar_that_changes_meanwhile_is_left(tmp_path: Path) -> None:
    paths = [photo(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    for name in ("a.jpg.xmp", "c.jpg.xmp"):
        (tmp_path / name).write_bytes(SAMPLES["darktable"])
    changes = [change for path in paths for change in plan(path, POODLE)]
    (tmp_path / "a.jpg.xmp").write_bytes(SAMPLES["digiKam"])
    (tmp_path / "b.jpg.xmp").write_bytes(SAMPLES["digiKam"])
    (tmp_path / "c.jpg.xmp").unlink()
    before = files(tmp_path)
    with Journal(tmp_path / ".twotower") as log:
        errors = [outcome.error for outcome in log.write(changes)]
    assert all(error and "tag again" in error for error in errors)
    assert files(tmp_path) == before
    assert undo(tmp_path / ".twotower") == journal.UndoReport() and files(tmp_path) == before


def test_undo_keeps_what_a_person_did_since(tmp_path: Path) -> None:
    names = ("edited.jpg", "new.jpg", "gone.jpg", "broken.jpg", "mended.jpg")
    paths = [photo(tmp_path / name) for name in names]
    for path in paths:
        if path.name != "new.jpg":
            path.with_name(path.name + ".xmp").write_bytes(SAMPLES["digiKam"])
    location = tmp_path / ".twotower"
    write_tags(location, [(path, {("sky",): 0.7}) for path in paths[:1]], "m")
    write_tags(location, [(path, {**POODLE, ("sea",): 0.5}) for path in paths], "m")
    for name in ("edited.jpg.xmp", "new.jpg.xmp"):
        content = (tmp_path / name).read_bytes()
        theirs = content.replace(b"</rdf:Seq>", b"<rdf:li>mine</rdf:li></rdf:Seq>")
        assert theirs != content
        (tmp_path / name).write_bytes(theirs)
    (tmp_path / "gone.jpg.xmp").unlink()
    (tmp_path / "broken.jpg.xmp").write_bytes(b"<x")
    report = undo(location)
    assert (report.restored, report.untagged, report.unchanged) == (1, 2, 1)
    assert len(report.errors) == 1 and "broken.jpg.xmp: not XML" in report.errors[0]
    assert report.errors[0].startswith(f"{tmp_path.resolve()}{os.sep}broken.jpg.xmp: ")
    beach = (("People", "Grandmother"), ("beach",))
    assert read_keywords(paths[0]) == Keywords((*beach, ("mine",)), {("sky",): 0.7})
    assert read_keywords(paths[1]) == Keywords((("mine",),), {})
    assert not (tmp_path / "gone.jpg.xmp").exists()
    assert (tmp_path / "mended.jpg.xmp").read_bytes() == SAMPLES["digiKam"]
    (tmp_path / "broken.jpg.xmp").write_bytes(SAMPLES["digiKam"])  # now it can be read
    assert undo(location).errors == ()
    assert undo(location).untagged == 1 and read_keywords(paths[0]).ours == {}


def test_links_modes_and_names(tmp_path: Path) -> None:
    path = photo(tmp_path / os.fsdecode(b"odd \xff\n#.jpg"))
    elsewhere = tmp_path / "elsewhere.xmp"
    elsewhere.write_bytes(SAMPLES["digiKam"])
    elsewhere.chmod(0o640)
    sidecar = path.with_name(path.name + ".xmp")
    sidecar.symlink_to(elsewhere)
    assert write_tags(tmp_path / ".twotower", [(path, POODLE)], "m").files == 1
    assert sidecar.is_symlink() and elsewhere.stat().st_mode & 0o777 == 0o640
    assert read_keywords(path).ours == POODLE
    assert undo(tmp_path / ".twotower").restored == 1
    assert elsewhere.read_bytes() == SAMPLES["digiKam"] and sidecar.is_symlink()


def test_a_library_behind_links(tmp_path: Path) -> None:
    path = photo(tmp_path / "real" / "photos" / "a.jpg")
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "real" / "photos" / ".twotower").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "photos")
    linked = tmp_path / "link"
    assert write_tags(linked / ".twotower", [(linked / "a.jpg", POODLE)], "m").files == 1
    assert read_keywords(path).ours == POODLE
    assert undo(tmp_path / "far" / "away").restored == 1
    assert not path.with_name("a.jpg.xmp").exists()


def test_a_library_that_moves_with_its_pictures(tmp_path: Path) -> None:
    path = photo(tmp_path / "here" / "a.jpg")
    write_tags(tmp_path / "here" / ".twotower", [(path, POODLE)], "m")
    (tmp_path / "here").rename(tmp_path / "there")
    assert undo(tmp_path / "there" / ".twotower").restored == 1
    assert not (tmp_path / "there" / "a.jpg.xmp").exists()


def as_nobody(root: Path) -> None:
    """Tag as a user without write access; runs in a process of its own."""
    os.setgid(65534)
    os.setuid(65534)
    tagged = [(root / name, POODLE) for name in ("photos/a.jpg", "photos/b.jpg", "open/c.jpg")]
    report = write_tags(root / "library", tagged, "m")
    (root / "library" / "errors").write_text("\n".join(report.errors))


@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="needs another user to be")
def test_a_folder_that_cannot_be_written_is_one_line() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("a.jpg", "b.jpg"):
            photo(root / "photos" / name)
        photo(root / "open" / "c.jpg")
        (root / "open" / "c.jpg.xmp").write_bytes(SAMPLES["digiKam"])  # owned by root
        (root / "library").mkdir()
        for name in ("library", "open"):
            (root / name).chmod(0o777)
        root.chmod(0o755)
        process = FORK.Process(target=as_nobody, args=(root,))
        process.start()
        process.join()
        folder_error, file_error = (root / "library" / "errors").read_text().splitlines()
        assert folder_error.startswith(
            f"{root / 'photos'}: cannot be written to (Permission denied)"
        )
        assert file_error == f"{root / 'open' / 'c.jpg.xmp'}: is read-only; left as it is"
        assert (root / "open" / "c.jpg.xmp").read_bytes() == SAMPLES["digiKam"]
        assert sorted(path.name for path in (root / "photos").iterdir()) == ["a.jpg", "b.jpg"]


def test_one_at_a_time(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg")
    with Journal(tmp_path / ".twotower"):
        for attempt in (
            lambda: write_tags(tmp_path / ".twotower", [(path, POODLE)], "m"),
            lambda: undo(tmp_path / ".twotower"),
        ):
            with pytest.raises(LibraryError, match="is changing this library"):
                attempt()
    assert write_tags(tmp_path / ".twotower", [(path, POODLE)], "m").files == 1


def test_no_place_for_the_journal(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(LibraryError, match="cannot be created"):
        write_tags(tmp_path / "file" / "library", [(path, POODLE)], "m")
    location = tmp_path / ".twotower"
    location.mkdir()
    (location / journal.JOURNAL_FILE).write_bytes(b"no journal" * 100)
    with pytest.raises(LibraryError, match=r"tags\.sqlite"):
        write_tags(location, [(path, POODLE)], "m")
    assert not (tmp_path / "a.jpg.xmp").exists()


def work(root: Path, task: str) -> None:
    """Tag all pictures, or undo that; the test kills it."""
    journal.BATCH_SIZE = 5
    location = root / ".twotower"
    if task == "undo":
        undo(location)
    else:
        tagged = [(path, {(task,): 0.5, **POODLE}) for path in sorted(root.glob("*.png"))]
        write_tags(location, tagged, task)


def test_kill_at_any_moment(tmp_path: Path) -> None:
    """After kill -9 while writing or undoing, each file is old or new, and all can be restored."""
    for number in range(40):
        photo(tmp_path / f"{number}.png")
        if number % 2:
            name = ("digiKam", "UTF-16", "CRLF", "odd")[number % 4]
            (tmp_path / f"{number}.png.xmp").write_bytes(SAMPLES[name])
    before = files(tmp_path)
    chance = random.Random(3)
    killed = 0
    for turn in range(6):
        for task in (f"tag{turn}", "undo"):
            process = FORK.Process(target=work, args=(tmp_path, task))
            process.start()
            if task == "undo" and turn % 2:
                process.join()
            process.join(0.05 + chance.random() * 0.4)
            if process.is_alive():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
            process.join()
            for path in tmp_path.glob("*.png"):
                person = tuple(tag for tag in read_keywords(path).person)
                assert person == read_back(before, path)
    while undo(tmp_path / ".twotower") != journal.UndoReport():
        pass
    assert files(tmp_path) == before
    assert killed > 2


def read_back(before: dict[str, bytes], path: Path) -> tuple[tuple[str, ...], ...]:
    content = before.get(f"{path.name}.xmp")
    return packet_keywords(Packet(content)).person if content else ()


def test_a_full_disk_or_a_torn_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = photo(tmp_path / "a.jpg")
    (tmp_path / "a.jpg.xmp").write_bytes(SAMPLES["digiKam"])
    before = files(tmp_path)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "fsync", fail)
        report = write_tags(tmp_path / ".twotower", [(path, POODLE)], "m")
    assert report.files == 0 and "No space left" in report.errors[0]
    assert files(tmp_path) == before
    assert undo(tmp_path / ".twotower") == journal.UndoReport()


def test_the_library_finds_what_people_said(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png")
    index(tmp_path)
    (tmp_path / "a.png.xmp").write_bytes(SAMPLES["Lightroom"])
    assert index(tmp_path).moved == 1
    assert rows_of(tmp_path)["a.png"].keywords == "People|Grandmother\nbeach"
    write_tags(tmp_path / ".twotower", [(path, POODLE)], "m")
    assert index(tmp_path).moved == 1  # the sidecar has changed, and the person's keywords have not
    assert rows_of(tmp_path)["a.png"].keywords == "People|Grandmother\nbeach"
    undo(tmp_path / ".twotower")
    (tmp_path / "a.png.xmp").unlink()
    assert index(tmp_path).moved == 1 and rows_of(tmp_path)["a.png"].keywords == ""
    assert index(tmp_path).unchanged == 1


def test_a_new_sidecar_does_not_have_the_picture_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [photo(tmp_path / f"{number}.png") for number in range(3)]
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg", xmp=SAMPLES["Lightroom"])
    index(tmp_path)
    before = rows_of(tmp_path)
    write_tags(tmp_path / ".twotower", [(path, POODLE) for path in paths], "m")
    (tmp_path / "x.jpg.xmp").write_bytes(SAMPLES["exiftool"])
    (tmp_path / "1.png").write_bytes(picture(99))  # this one has another picture now

    def hashed(self: reader.PictureReader, file: ScannedFile) -> reader.PictureContent | None:
        assert file.path == b"1.png"
        return taken(self, file)

    taken = reader.PictureReader.without_pixels
    monkeypatch.setattr(reader.PictureReader, "without_pixels", hashed)
    report = index(tmp_path)
    assert (report.moved, report.added, report.removed) == (3, 1, 0)
    after = rows_of(tmp_path)
    assert after["x.jpg"].keywords == "People|Grandmother\nbeach"
    for name in ("0.png", "2.png", "x.jpg"):
        assert after[name].sidecar_ns != 0
        assert replace(after[name], sidecar_ns=0) == before[name]
    assert index(tmp_path).unchanged == 4


def test_changes_come_back_whatever_they_are(tmp_path: Path) -> None:
    """The journal stores the differing middle, even if beginning and end overlap."""
    contents = [None, b"", b"a", b"aa", b"abab", b"ab", b"xab", bytes(range(256)) * 50]
    pairs = [(before, after) for before in contents for after in contents if before != after]
    changes = [Change(tmp_path / f"{number}.xmp", *pair) for number, pair in enumerate(pairs)]
    for change in changes:
        if change.before is not None:
            change.path.write_bytes(change.before)
    with Journal(tmp_path / "j") as log:
        assert {outcome.error for outcome in log.write(changes)} == {None}
        assert [journal.read_bytes(change.path) for change in changes] == [
            change.after for change in changes
        ]
        report = log.undo(lambda *_: None)
    assert report.restored == len(changes)
    assert [journal.read_bytes(change.path) for change in changes] == [
        change.before for change in changes
    ]


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(journal.os, "link", refuse)
    path = photo(tmp_path / "a.jpg")
    assert write_tags(tmp_path / ".twotower", [(path, POODLE)], "m").files == 1
    assert read_keywords(path).ours == POODLE
