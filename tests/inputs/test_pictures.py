"""Every format, intact or damaged, gives the right picture or one clear error."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from twotower.errors import PictureError
from twotower.inputs.pictures import (
    PICTURE_SUFFIXES,
    find_pictures,
    open_header,
    open_picture,
)
from twotower.metadata.exif import read_metadata


def slope(width: int = 64, height: int = 48, bands: int = 3) -> NDArray[np.uint8]:
    """Return [height, width, bands], smooth for lossy formats, and without symmetry."""
    y, x, band = np.indices((height, width, bands))
    return (20 + x * 150 // width + y * 40 // height + band * 15).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey() -> Image.Image:
    return Image.fromarray(slope()[..., 0])


def rgb() -> Image.Image:
    return Image.fromarray(slope())


def far(image: Image.Image, expected: NDArray[np.uint8]) -> int:
    """Return the largest difference of any level from the expected RGB."""
    return int(np.abs(np.asarray(image.convert("RGB")).astype(int) - expected).max())


def refusal(source: Any, **options: Any) -> PictureError:
    with pytest.raises(PictureError) as caught:
        open_picture(source, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{caught.value.subject}: ")
    assert "; " in str(caught.value)
    return caught.value


# Formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("JPEG", {}, 6),
        ("JPEG", {"progressive": True}, 6),
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("PPM", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("AVIF", {"quality": 90}, 6),
        ("JPEG2000", {}, 0),
    ],
)
def test_formats_are_known_by_their_contents(
    tmp_path: Path, kind: str, options: dict[str, Any], tolerance: int
) -> None:
    path = tmp_path / "misnamed.png"
    path.write_bytes(encode(rgb(), kind, **options))
    for source in (path, str(path), path.read_bytes()):
        image = open_picture(source)
        assert image.mode == "RGB"
        assert far(image, slope()) <= tolerance


def test_mpo_gives_its_first_picture() -> None:
    data = encode(rgb(), "MPO", save_all=True, append_images=[rgb().rotate(180)])
    assert far(open_picture(data), slope()) <= 6


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    frame, next_frame = grey(), grey().rotate(180)
    data = encode(frame, kind, save_all=True, append_images=[next_frame], **options)
    assert far(open_picture(data), np.repeat(slope()[..., :1], 3, axis=2)) == 0


@pytest.mark.parametrize(
    ("image", "kind", "mode"),
    [
        (grey(), "PNG", "L"),
        (grey().convert("1"), "PNG", "1"),
        (grey().convert("LA"), "PNG", "LA"),
        (rgb().convert("RGBA"), "PNG", "RGBA"),
        (rgb().quantize(16), "PNG", "P"),
        (rgb().convert("CMYK"), "JPEG", "CMYK"),
        (rgb().convert("CMYK"), "TIFF", "CMYK"),
    ],
)
def test_modes_stay_as_the_file_has_them(image: Image.Image, kind: str, mode: str) -> None:
    opened = open_picture(encode(image, kind))
    assert opened.mode == mode
    assert far(opened, np.asarray(image.convert("RGB"))) <= (6 if kind == "JPEG" else 0)


def test_palette_keeps_its_transparency() -> None:
    image = rgb().quantize(16)
    for transparency in (3, bytes(range(16))):
        opened = open_picture(encode(image, "PNG", transparency=transparency))
        assert opened.info["transparency"] == transparency


def png(width: int, height: int, bits: int, colour: int, pixels: bytes) -> bytes:
    """Write a PNG by hand, of a kind that Pillow reads but does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    )


@pytest.mark.parametrize(("colour", "bands", "mode"), [(0, 1, "L"), (2, 3, "RGB"), (6, 4, "RGBA")])
def test_sixteen_bits_are_scaled_not_saturated(colour: int, bands: int, mode: str) -> None:
    deep = slope(bands=bands).astype(np.uint16) * 256 + 200
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    image = open_picture(png(64, 48, 16, colour, rows))
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image).reshape(48, 64, bands), slope(bands=bands))


def test_sixteen_bits_in_tiff_and_pgm() -> None:
    deep = slope()[..., 0].astype(np.uint16) * 257
    tiff = encode(Image.fromarray(deep), "TIFF")
    pgm = b"P5 64 48 65535\n" + deep.astype(">u2").tobytes()
    for data in (tiff, pgm):
        np.testing.assert_array_equal(np.asarray(open_picture(data)), slope()[..., 0])


def tiff(bits: int, photometric: int, pixels: bytes, *, order: str = "<") -> bytes:
    """Write a grey TIFF of 64 x 48 pixels by hand."""
    tags = {256: 64, 257: 48, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: 48}
    tags[279] = len(pixels)
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, *((value, 0))) for tag, value in tags.items()
    )
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4) + pixels


def pack_12_bits(levels: NDArray[np.uint16]) -> bytes:
    """Pack pairs of 12-bit levels into three bytes, the highest bits first."""
    even, odd = levels.reshape(-1, 2).T.astype(np.uint32)
    packed = even << 12 | odd
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], 1).astype(np.uint8).tobytes()


def test_tiff_of_any_depth_and_polarity_gives_the_same_grey() -> None:
    levels = slope()[..., 0]
    deep = levels.astype(np.uint16)
    twelve = pack_12_bits(deep << 4)
    for data in (
        tiff(8, 1, levels.tobytes()),
        tiff(8, 0, (255 - levels).tobytes()),
        tiff(12, 1, twelve),
        tiff(16, 1, (deep * 257).astype("<u2").tobytes()),
        tiff(16, 1, (deep * 257).astype(">u2").tobytes(), order=">"),
        tiff(16, 0, (65535 - deep * 257).astype("<u2").tobytes()),
    ):
        np.testing.assert_array_equal(np.asarray(open_picture(data)), levels)


def test_a_turned_12_bit_tiff_keeps_its_grey() -> None:
    """The TIFF tags are lost when a picture is turned."""
    image = Image.open(
        io.BytesIO(tiff(12, 1, pack_12_bits(slope()[..., 0].astype(np.uint16) << 4)))
    )
    image.getexif()[ExifTags.Base.Orientation] = 3
    np.testing.assert_array_equal(np.asarray(open_picture(image)), slope()[::-1, ::-1, 0])


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_pixels_without_a_range_are_refused(kind: str) -> None:
    image = Image.fromarray(np.ones((3, 3), kind))
    assert "brightness" in refusal(encode(image, "TIFF")).reason
    assert "brightness" in refusal(image).reason


def test_heic() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC is an extra: twotower[heif]")
    file = io.BytesIO()
    pillow_heif.from_pillow(rgb()).save(file, quality=95)
    for _ in range(2):
        assert far(open_picture(file.getvalue()), slope()) <= 8
    assert "cut short" in refusal(file.getvalue()[:-50]).reason


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("turned", [True, False])
def test_heic_is_upright_with_and_without_a_turn_in_its_container(
    orientation: int, turned: bool
) -> None:
    """pillow-heif writes the boxes `irot` and `imir`; phones may write EXIF alone."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC is an extra: twotower[heif]")
    pillow_heif.register_heif_opener()
    data = encode(rgb(), "HEIF", quality=95, exif=exif(orientation))
    if not turned:
        data = data.replace(b"irot", b"free").replace(b"imir", b"free")
    upright = open_picture(data)
    assert far(upright, SHOWN[orientation](slope())) <= 8
    assert open_picture(upright).tobytes() == upright.tobytes()
    metadata = read_metadata(open_header(io.BytesIO(data), "a.heic"))
    assert (metadata.width, metadata.height) == upright.size


def test_heic_without_its_package(tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    # In a process of its own, since a reader stays registered with Pillow.
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from twotower.inputs.pictures import open_picture\n"
        f"open_picture({str(path)!r})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stderr.splitlines()[-1].endswith(
        f"{path}: HEIC pictures need one more package; pip install twotower[heif]"
    )


# Orientation -----------------------------------------------------------------------------------

# The displayed picture from the stored one, written out from the EXIF standard (row 0 and column 0
# of the stored picture are the displayed ...) independently of the table in `pictures`.
SHOWN = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored.transpose(1, 0, 2)[:, ::-1],
    7: lambda stored: stored.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}


def exif(orientation: Any) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_pictures_come_back_upright_once(kind: str, orientation: int) -> None:
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "AVIF": {"quality": 90}}.get(kind, {})
    upright = open_picture(encode(rgb(), kind, exif=exif(orientation), **options))
    tolerance = 6 if kind in ("JPEG", "AVIF") else 0
    assert far(upright, SHOWN[orientation](slope())) <= tolerance
    reopened = open_picture(upright)
    assert reopened.tobytes() == upright.tobytes()


def test_a_pil_picture_is_turned_but_not_changed() -> None:
    image = Image.open(io.BytesIO(encode(rgb(), "PNG", exif=exif(6))))
    assert open_picture(image).size == (48, 64)
    assert image.size == (64, 48)
    assert open_picture(image).size == (48, 64)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "junk", [b"", b"junk", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0" + b"\xff" * 40]
)
def test_a_broken_exif_block_does_no_harm(junk: bytes) -> None:
    for kind in ("JPEG", "WEBP"):
        assert open_picture(encode(rgb(), kind, exif=b"Exif\0\0" + junk)).size == (64, 48)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_upright(orientation: int) -> None:
    assert open_picture(encode(rgb(), "PNG", exif=exif(orientation))).size == (64, 48)


# Arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "mode"), [((5, 4), "L"), ((5, 4, 3), "RGB"), ((5, 4, 4), "RGBA")]
)
def test_arrays(shape: tuple[int, ...], mode: str) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    image = open_picture(array)
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image), array)
    np.testing.assert_array_equal(np.asarray(open_picture(array[::-1])), array[::-1])


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.ones((4, 4, 3), np.float32), "float32"),
        (np.ones((4, 4), np.uint16), "uint16"),
        (np.ones((4, 4), bool), "bool"),
        (np.ones((3, 8, 8), np.uint8), "(3, 8, 8)"),
        (np.ones((4, 4, 2), np.uint8), "(4, 4, 2)"),
        (np.ones((1, 4, 4, 3), np.uint8), "(1, 4, 4, 3)"),
        (np.ones(4, np.uint8), "(4,)"),
        (np.ones((0, 4, 3), np.uint8), "(0, 4, 3)"),
    ],
)
def test_arrays_that_are_no_pictures(array: NDArray[Any], says: str) -> None:
    error = refusal(array)
    assert error.subject == "<array>"
    assert says in error.reason


# Errors -------------------------------------------------------------------------------------


def test_missing_folder_empty_and_text(tmp_path: Path) -> None:
    missing, empty, text = tmp_path / "none.jpg", tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.write_bytes(b"")
    text.write_text("Dear Sir,\nthis is not a photograph.\n")
    for path, says in (
        (missing, "no such file"),
        (tmp_path, "folder"),
        (empty, "empty"),
        (text, "not a picture"),
    ):
        error = refusal(path)
        assert error.subject == str(path)
        assert says in error.reason


def test_odd_sources() -> None:
    assert "empty" in refusal(b"").reason
    assert "null" in refusal("a\0b.jpg").reason
    assert refusal(None).subject == "<NoneType>"
    assert "no pixels" in refusal(Image.new("RGB", (0, 5))).reason
    with pytest.raises(PictureError, match=r"^two lines\.jpg: no such file; check the path$"):
        open_picture("two\nlines.jpg")


def test_postscript_is_not_run() -> None:
    assert "not a picture" in refusal(encode(rgb(), "EPS")).reason


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("AVIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("JPEG2000", {}),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of Pillow, about some of the files
def test_a_file_cut_anywhere_is_refused_or_whole(kind: str, options: dict[str, Any]) -> None:
    data = encode(rgb(), kind, **options)
    whole = open_picture(data).convert("RGB").tobytes()
    refused = 0
    cuts = [len(data) * i // 40 for i in range(40)]
    for cut in cuts:
        try:
            image = open_picture(data[:cut])
        except PictureError:
            refused += 1
        else:  # nothing but a trailer is missing
            assert image.convert("RGB").tobytes() == whole
    assert refused >= 30


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_raise_nothing_else() -> None:
    generator = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"):
        sound = np.frombuffer(encode(rgb(), kind, exif=exif(6)), np.uint8)
        for _ in range(40):
            data = sound.copy()
            spots = generator.integers(0, min(len(data), 400), size=4)
            data[spots] = generator.integers(0, 256, size=4)
            try:
                open_picture(data.tobytes(), max_pixels=1_000_000)
            except PictureError as error:
                assert str(error)


def test_a_jpeg_without_its_end_is_decoded_with_a_warning(tmp_path: Path) -> None:
    """Browsers show it as well."""
    for progressive in (False, True):
        data = encode(rgb(), "JPEG", progressive=progressive)
        path = tmp_path / "cut.jpg"
        path.write_bytes(data[:-2])
        for source in (path, data[:-2], Image.open(io.BytesIO(data[:-2]))):
            with pytest.warns(UserWarning, match="cut short, and decoded") as caught:
                image = open_picture(source)
            assert image.tobytes() == open_picture(data).tobytes()
            if source is path:
                assert str(caught[0].message).startswith(f"{path}: ")


@pytest.mark.filterwarnings("ignore")
def test_a_jpeg_cut_anywhere_is_refused_or_right_above_its_last_blocks() -> None:
    data = encode(Image.fromarray(slope(320, 240)), "JPEG")
    whole = np.asarray(open_picture(data))
    accepted = []
    for missing in range(2, len(data), len(data) // 60):
        try:
            image = open_picture(data[:-missing])
        except PictureError:
            continue
        accepted.append(missing)
        np.testing.assert_array_equal(np.asarray(image)[:222], whole[:222])  # blocks of 16
    assert accepted and max(accepted) < len(data) // 8


@pytest.mark.filterwarnings("ignore")
def test_a_cut_jpeg_at_a_reduced_scale() -> None:
    data = encode(Image.fromarray(slope(900, 700)), "JPEG")
    whole = np.asarray(open_picture(data, draft_size=80))
    for cut in (data[:-2], data[:-20]):
        image = np.asarray(open_picture(cut, draft_size=80))
        np.testing.assert_array_equal(image[:170], whole[:170])
    with pytest.raises(PictureError, match="cut short"):
        open_picture(data[: len(data) // 2], draft_size=80)


def test_bombs_are_refused_by_their_header() -> None:
    assert "too large" in refusal(png(100_000, 100_000, 8, 2, b"\0" * 100)).reason
    small = encode(rgb(), "PNG")
    assert open_picture(small, max_pixels=64 * 48).size == (64, 48)
    error = refusal(small, max_pixels=64 * 48 - 1)
    assert "64 x 48" in error.reason
    assert "too large" in refusal(rgb(), max_pixels=100).reason


@pytest.mark.filterwarnings("error")  # Pillow warns from 89 megapixels on, and refuses 179
def test_photographs_of_200_megapixels() -> None:
    data = encode(Image.new("L", (16320, 12240), 200), "JPEG")
    assert open_header(io.BytesIO(data), "a.jpg").size == (16320, 12240)
    image = open_picture(data, draft_size=224)
    assert image.size == (2040, 1530)
    assert image.getpixel((0, 0)) == 200
    assert open_picture(data, draft_size=224, max_pixels=2040 * 1530).size == (2040, 1530)
    assert "16320 x 12240" in refusal(data, max_pixels=2040 * 1530).reason


def test_a_reduced_scale_saves_no_memory_in_progressive_jpegs() -> None:
    data = encode(Image.new("L", (640, 480)), "JPEG", progressive=True)
    assert open_picture(data, draft_size=40, max_pixels=640 * 480).size == (160, 120)
    assert "too large" in refusal(data, draft_size=40, max_pixels=640 * 480 - 1).reason


def test_the_error_survives_a_process_pool() -> None:
    error = pickle.loads(pickle.dumps(PictureError("a.jpg", "is empty", "copy it again")))
    assert (error.subject, error.reason) == ("a.jpg", "is empty")
    assert str(error) == "a.jpg: is empty; copy it again"
    assert isinstance(error, ValueError)


# Reduced decoding ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draft_size", "expected"),
    [(None, (900, 700)), (224, (900, 700)), (175, (450, 350)), (80, (225, 175)), (8, (113, 88))],
)
def test_draft_keeps_twice_the_shorter_side(
    draft_size: int | None, expected: tuple[int, int]
) -> None:
    data = encode(Image.fromarray(slope(900, 700)), "JPEG")
    assert open_picture(data, draft_size=draft_size).size == expected


def test_draft_leaves_other_formats_alone() -> None:
    assert open_picture(encode(rgb(), "PNG"), draft_size=4).size == (64, 48)


# Folders -------------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path) -> Path:
    album = tmp_path / "album"
    for name in (
        *("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "._a.png", "10/z.webp", "2/deep/y.avif"),
        *(".thumbnails/t.jpg", "2/x.heic", "2/folder.jpg/w.tiff"),
    ):
        path = album / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return album


def test_folders_are_walked_in_order(album: Path) -> None:
    names = [str(path.relative_to(album)) for path in find_pictures([album])]
    assert names == [
        *("a.png", "b.JPG", "10/z.webp", "2/x.heic", "2/deep/y.avif", "2/folder.jpg/w.tiff"),
    ]


def test_files_are_taken_as_given(album: Path) -> None:
    paths = [album / "notes.txt", str(album / "10"), album / ".hidden.jpg", album / "notes.txt"]
    assert find_pictures(paths) == [
        *(album / "notes.txt", album / "10/z.webp", album / ".hidden.jpg", album / "notes.txt"),
    ]
    assert find_pictures([album / ".thumbnails"]) == [album / ".thumbnails/t.jpg"]


def test_links_are_followed_but_not_round(album: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.gif").touch()
    try:
        (album / "10/loop").symlink_to(album, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no symbolic links")
    (album / "linked").symlink_to(elsewhere, target_is_directory=True)
    (album / "linked too").symlink_to(elsewhere, target_is_directory=True)
    (album / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    pictures = find_pictures([album])
    assert album / "linked/far.gif" in pictures
    assert len(pictures) == 7


def test_what_cannot_be_found_keeps_its_place(album: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "notes.txt").touch()
    missing = tmp_path / "nowhere.jpg"
    assert find_pictures([missing, album / "10", bare]) == [missing, album / "10/z.webp", bare]
    with pytest.raises(PictureError, match="bare: a folder, not a picture; give pictures, or a"):
        open_picture(bare)
    assert find_pictures([]) == []


def test_every_suffix_is_lower_case_with_a_dot() -> None:
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in PICTURE_SUFFIXES)
