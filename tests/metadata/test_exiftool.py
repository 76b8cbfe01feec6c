"""exiftool and exiv2 read the files that we write, and we read theirs."""

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import pytest

from tests.metadata.packets import SAMPLES
from twotower.errors import MetadataError
from twotower.metadata import exiftool as exiftool_module
from twotower.metadata.keywords import read_keywords
from twotower.metadata.ownership import Keywords, packet_keywords
from twotower.metadata.sidecars import undo, write_tags
from twotower.metadata.xmp import Packet

EXAMPLES = Path(__file__).parents[2] / "examples" / "photos"
TAGS = {
    ("animal", "dog", "poodle"): 0.93,
    ("Straße", "日本", "naïve, café"): 0.5,
    ("AC/DC",): 0.75,
    ("a|b", "<c> & \"d\" 'e'"): 1.0,
}
FLAT = ["poodle", "naïve, café", "AC/DC", "<c> & \"d\" 'e'"]
LR = ["animal|dog|poodle", "Straße|日本|naïve, café", "AC/DC", "a¦b|<c> & \"d\" 'e'"]
DIGIKAM = ["animal/dog/poodle", "Straße/日本/naïve, café", "AC∕DC", "a|b/<c> & \"d\" 'e'"]
FOUR = Keywords((), TAGS)
HUNDRED = {("all", str(number)): 0.5 for number in range(100)}


def program(name: str) -> str:
    """Return the path of a client program, whose absence is an error in CI."""
    path = shutil.which(name)
    if path is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not installed")
    assert path is not None, f"{name} is not installed"
    return path


@pytest.fixture
def exiftool() -> Callable[..., str]:
    path = program("exiftool")

    def run(*arguments: str | Path) -> str:
        command = [path, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


@pytest.fixture
def exiv2() -> Callable[..., str]:
    path = program("exiv2")

    def run(*arguments: str | Path) -> str:
        command = [path, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


def lists(exiftool: Callable[..., str], path: Path) -> dict[str, list[str]]:
    names = ("Subject", "HierarchicalSubject", "TagsList")
    [answer] = json.loads(exiftool("-json", *(f"-XMP:{name}" for name in names), path))
    values = {name: answer.get(name, []) for name in names}
    return {
        name: value if isinstance(value, list) else [str(value)] for name, value in values.items()
    }


@pytest.mark.clients
@pytest.mark.parametrize("name", ["a.jpg", *SAMPLES])
def test_sidecars_in_exiftool_and_exiv2(
    tmp_path: Path, name: str, exiftool: Callable[..., str], exiv2: Callable[..., str]
) -> None:
    path = tmp_path / "a.jpg"
    shutil.copy(EXAMPLES / "cat.jpg", path)
    sidecar = tmp_path / "a.jpg.xmp"
    theirs: tuple[tuple[str, ...], ...] = ()
    if name in SAMPLES:
        sidecar.write_bytes(SAMPLES[name])
        theirs = read_keywords(path).person
    before = sidecar.read_bytes() if name in SAMPLES else None
    write_tags(tmp_path / "l", [(path, TAGS)], "0123456789ab")
    if name not in ("odd", "Latin-1"):  # exiftool does not recognise these as XMP, or changes them
        values = lists(exiftool, sidecar)
        assert values["Subject"][-4:] == FLAT
        assert values["HierarchicalSubject"][-4:] == LR and values["TagsList"][-4:] == DIGIKAM
        written = sidecar.read_bytes()
        exiftool("-overwrite_original", "-XMP-xmp:Rating=3", "-XMP-dc:Subject+=theirs", sidecar)
        assert read_keywords(path) == Keywords((*theirs, ("theirs",)), TAGS)
        sidecar.write_bytes(written)
    if name not in ("odd", "Latin-1") and "UTF-16" not in name:  # exiv2 reads only UTF-8
        assert exiv2("-PXv", "-g", "Xmp.digiKam.TagsList", sidecar).endswith(
            ", ".join(DIGIKAM) + "\n"
        )
        written = sidecar.read_bytes()
        exiv2("-M", "set Xmp.xmp.Rating 3", "-M", "set Xmp.dc.subject theirs", sidecar)
        assert read_keywords(path) == Keywords((*theirs, ("theirs",)), TAGS)
        sidecar.write_bytes(written)
    assert undo(tmp_path / "l").restored == 1
    assert (sidecar.read_bytes() if sidecar.exists() else None) == before


@pytest.mark.clients
def test_into_pictures(tmp_path: Path, exiftool: Callable[..., str]) -> None:
    exif = PIL.Image.Exif()
    exif[0x010F] = "Maker"
    paths = [tmp_path / f"ä 日 #.{suffix}" for suffix in ("jpg", "png", "webp", "tif", "avif")]
    for path in paths:
        with PIL.Image.open(EXAMPLES / "cat.jpg") as image:
            profile = image.info.get("icc_profile")
            image.convert("RGB").resize((64, 48)).save(path, exif=exif, icc_profile=profile)
        path.chmod(0o640)
    before = {path: path.read_bytes() for path in paths}
    tagged = [(path, TAGS) for path in paths]
    report = write_tags(tmp_path / "l", tagged, "m", embed=True, dry_run=True)
    assert report.files == 5 and all(path.read_bytes() == before[path] for path in paths)
    report = write_tags(tmp_path / "l", tagged, "m", embed=True)
    assert (report.pictures, report.files, report.errors) == (5, 5, ())
    assert {path for path in tmp_path.iterdir() if path.is_file()} == set(paths)
    for path in paths:
        assert read_keywords(path) == FOUR and path.stat().st_mode & 0o777 == 0o640
        with PIL.Image.open(path) as image, PIL.Image.open(io.BytesIO(before[path])) as original:
            assert image.getexif()[0x010F] == "Maker"
            assert image.tobytes() == original.tobytes()
    expected = {"Subject": FLAT, "HierarchicalSubject": LR, "TagsList": DIGIKAM}
    assert lists(exiftool, paths[0]) == lists(exiftool, paths[3]) == expected
    assert write_tags(tmp_path / "l", tagged, "m", embed=True).unchanged == 5

    exiftool("-overwrite_original", "-XMP-dc:Subject+=theirs", paths[0])
    assert read_keywords(paths[0]) == Keywords((("theirs",),), TAGS)
    taken_back = undo(tmp_path / "l")
    assert (taken_back.restored, taken_back.untagged, taken_back.errors) == (4, 1, ())
    assert read_keywords(paths[0]) == Keywords((("theirs",),))
    assert all(path.read_bytes() == before[path] for path in paths[1:])


@pytest.mark.clients
def test_many_pictures_through_one_process(tmp_path: Path, exiftool: Callable[..., str]) -> None:
    paths = []
    for number, source in enumerate(sorted(EXAMPLES.glob("*.jpg"))[:8]):
        paths.append(tmp_path / f"{number}.jpg")
        shutil.copy(source, paths[-1])
    exiftool("-overwrite_original", "-IPTC:Keywords=Grandmother", paths[0])
    exiftool("-overwrite_original", "-XMP-dc:Subject=poodle", "-XMP-xmp:Label=Red", paths[1])
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "line\nbreak.jpg").write_bytes(paths[2].read_bytes())
    (tmp_path / "raw.nef").write_bytes(b"raw")
    unreadable = [tmp_path / name for name in ("bad.jpg", "line\nbreak.jpg", "raw.nef")]
    before = {path: path.read_bytes() for path in [*paths, *unreadable]}
    tags = {**TAGS, **HUNDRED}
    report = write_tags(tmp_path / "l", [(path, tags) for path in before], "m", embed=True)
    assert report.files == 9 and len(report.errors) == 2
    assert "bad.jpg: exiftool cannot write into it" in report.errors[0]
    assert "cannot be given this name" in report.errors[1]
    assert (tmp_path / "raw.nef.xmp").exists()  # raw files are not changed
    assert all(path.read_bytes() == before[path] for path in unreadable)
    assert read_keywords(paths[0]) == Keywords((("Grandmother",),), tags)
    assert read_keywords(paths[1]) == Keywords((("poodle",),), tags)
    assert "Red" in exiftool("-XMP-xmp:Label", paths[1])
    assert undo(tmp_path / "l").restored == 9
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not (tmp_path / "raw.nef.xmp").exists()


@pytest.mark.clients
def test_sidecars_that_are_there_are_kept_up_too(
    tmp_path: Path, exiftool: Callable[..., str]
) -> None:
    path = tmp_path / "a.jpg"
    shutil.copy(EXAMPLES / "cat.jpg", path)
    (tmp_path / "a.jpg.xmp").write_bytes(SAMPLES["digiKam"])
    assert write_tags(tmp_path / "l", [(path, TAGS)], "m", embed=True).files == 2
    assert lists(exiftool, path)["Subject"] == ["Grandmother", "beach", *FLAT]
    sidecar = Packet((tmp_path / "a.jpg.xmp").read_bytes())
    assert packet_keywords(sidecar).ours == TAGS


@pytest.mark.clients
def test_keywords_that_programs_have_embedded(
    tmp_path: Path, exiftool: Callable[..., str], exiv2: Callable[..., str]
) -> None:
    path = tmp_path / "a.jpg"
    shutil.copy(EXAMPLES / "cat.jpg", path)
    exiv2("-M", "add Iptc.Application2.Keywords String Großmutter", path)
    exiftool("-overwrite_original", "-XMP-lr:HierarchicalSubject=trips|Rome", path)
    assert read_keywords(path).person == (("trips", "Rome"), ("Großmutter",))
    write_tags(tmp_path / "l", [(path, TAGS)], "m")
    assert lists(exiftool, tmp_path / "a.jpg.xmp")["TagsList"] == [
        "trips/Rome",
        "Großmutter",
        *DIGIKAM,
    ]


def test_without_exiftool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exiftool_module.shutil, "which", lambda _: None)
    path = tmp_path / "a.jpg"
    shutil.copy(EXAMPLES / "cat.jpg", path)
    with pytest.raises(MetadataError, match="exiftool is not installed"):
        write_tags(tmp_path / "l", [(path, TAGS)], "m", embed=True)
    assert list(tmp_path.iterdir()) == [path]
