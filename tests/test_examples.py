"""The example photographs are credited, freely licensed, small, and of the promised kinds."""

import csv
from collections import Counter
from pathlib import Path

from PIL import ExifTags, Image, ImageChops, ImageOps

EXAMPLES = Path(__file__).parents[1] / "examples"
PHOTOS = EXAMPLES / "photos"
LICENCES = {
    "Public domain",
    "CC0-1.0",
    "CC-BY-2.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
}
PICTURES = sorted(path for path in PHOTOS.iterdir() if path.suffix not in {".csv", ".md"})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_picture_has_one_source_and_every_source_a_picture() -> None:
    assert [row["file"] for row in rows(PHOTOS / "SOURCES.csv")] == [p.name for p in PICTURES]


def test_sources_are_complete_and_licences_are_free() -> None:
    for row in rows(PHOTOS / "SOURCES.csv"):
        assert all(row.values()), row["file"]
        assert row["licence"] in LICENCES, row["file"]


def test_the_readme_links_every_licence_in_use() -> None:
    readme = (PHOTOS / "README.md").read_text(encoding="utf-8")
    for licence in {row["licence"] for row in rows(PHOTOS / "SOURCES.csv")}:
        assert f"| {licence} |" in readme


def test_there_are_many_and_they_are_small() -> None:
    assert len(PICTURES) >= 40
    assert sum(path.stat().st_size for path in PHOTOS.iterdir()) < 4_000_000
    for path in PICTURES:
        with Image.open(path) as image:
            assert max(image.size) <= 640, path.name


def test_each_special_kind_is_there_once() -> None:
    kinds: Counter[tuple[str | None, str]] = Counter()
    turned = []
    for path in PICTURES:
        with Image.open(path) as image:
            image.load()
            kinds[image.format, image.mode] += 1
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            if orientation != 1:
                turned.append((path.name, orientation))
    plain = kinds.pop(("JPEG", "RGB"))
    assert kinds == {("AVIF", "RGB"): 1, ("WEBP", "RGB"): 1, ("JPEG", "L"): 1, ("PNG", "RGBA"): 1}
    assert plain == len(PICTURES) - 4
    assert turned == [("penguin.jpg", 6)]


def test_the_turned_picture_is_upright_after_exif() -> None:
    """The penguin was taken wide; stored tall, the tag alone makes it wide again."""
    with Image.open(PHOTOS / "penguin.jpg") as image:
        assert image.height > image.width
        upright = ImageOps.exif_transpose(image)
    assert upright.width > upright.height
    # turned the other way it would be wide too, but on its head: its feet are the pink below
    red, green, _ = upright.split()
    pink = ImageChops.subtract(red, green).point(lambda difference: 255 * (difference > 15))
    quarter = upright.height // 4
    top = pink.crop((0, 0, upright.width, quarter)).histogram()[255]
    bottom = pink.crop((0, 3 * quarter, upright.width, upright.height)).histogram()[255]
    assert bottom > 500 and top < 50


def test_the_cut_out_is_really_cut_out() -> None:
    with Image.open(PHOTOS / "elephant.png") as image:
        alpha = image.getchannel("A").histogram()
    assert alpha[0] > 1000
    assert alpha[255] > 1000


def test_jpegs_carry_no_metadata_but_orientation() -> None:
    for path in PICTURES:
        with Image.open(path) as image:
            assert set(image.getexif()) <= {ExifTags.Base.Orientation}, path.name
            assert not {"icc_profile", "comment", "xmp", "photoshop"} & set(image.info), path.name


def test_expected_labels_are_in_the_word_list() -> None:
    labels = (EXAMPLES / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert len(labels) == len(set(labels)) == 100
    assert all(label == label.strip() and label for label in labels)
    expected = rows(EXAMPLES / "expected.csv")
    assert [row["file"] for row in expected] == [path.name for path in PICTURES]
    for row in expected:
        assert set(row["labels"].split("|")) <= set(labels), row["file"]
