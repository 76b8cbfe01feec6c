"""`twotower search`, `similar`, `duplicates`, `explain` and `calibrate` as commands."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import twotower
from tests.index.test_index import write_dng
from tests.index.tiny import picture
from twotower.calibration.calibration import read_calibration
from twotower.cli.main import main
from twotower.cli.search import BELOW
from twotower.cli.terminal_images import iterm, kitty, sixel
from twotower.encode.golden import golden_hash
from twotower.library import Library
from twotower.pages.thumbnails import thumbnail
from twotower.progress import Progress

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
NAMES = ("cat.jpg", "dog.jpg", "skyline.jpg", "elephant.png", "penguin.jpg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures, indexed by the first search, and an empty folder."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "within").mkdir()
    for name in NAMES:
        shutil.copy(PHOTOS / name, folder / f"a{NAMES.index(name)}{Path(name).suffix}")
    assert main(["search", "a cat", str(folder)]) == 0
    return folder


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder / "within")
    return folder


def pictures_in(out: str) -> list[str]:
    return [line for line in out.splitlines() if line != BELOW]


def test_the_first_search_indexes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(PHOTOS / "cat.jpg", tmp_path)
    assert main(["search", "a cat", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "is not indexed yet" in err and "1 added" in err
    assert re.fullmatch(r" *\d+%  \S*cat\.jpg  \(by its name\)\n", out)
    assert main(["search", "a cat", str(tmp_path)]) == 0
    assert "indexed" not in capsys.readouterr().err


def test_a_search_warns_of_missing_vectors(
    tmp_path: Path, tiny_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))

    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Library(tmp_path, model=tiny_directory).index(stop)
    assert main(["search", "type:png", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err == (
        "twotower: indexing was stopped at 2 of 3, or still goes on; run: twotower index\n"
    )
    Library(tmp_path).index()
    assert main(["search", "type:png", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""
    shutil.rmtree(tmp_path / ".twotower" / "vectors-1")
    assert main(["search", "a cat", str(tmp_path)]) == 0
    assert "the vectors of 3 of 3 pictures are missing; run: twotower index" in (
        capsys.readouterr().err
    )


def test_a_folder_limits_the_search(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "a cat", str(folder / "within"), "--all"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["search", "a cat", str(folder), "--all"]) == 0
    assert len(pictures_in(capsys.readouterr().out)) == 5
    library = ["--library", str(folder / ".twotower")]
    assert main(["search", "a cat", str(tmp_path), *library]) == 1
    assert "not a folder of the library" in capsys.readouterr().err


def test_json_has_the_documented_fields(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "a big city at night", "--json", "--all"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert list(tree) == ["query", "cutoff", "matches", "hits", "near", "left_out"]
    assert len(tree["hits"]) == 5 and tree["near"] == []
    assert tree["matches"] == sum(hit["match"] for hit in tree["hits"])
    assert {"path", "score", "probability", "match"} <= set(tree["hits"][0])
    assert Path(tree["hits"][0]["path"]).name == "a2.jpg"
    assert Path(tree["hits"][0]["path"]).is_file(), "as seen from here"


def test_where_nothing_comes_near_it_is_said(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "a periodic table"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "nothing here looks like 'a periodic table'; --all lists what comes nearest\n"
    assert main(["search", "a periodic table", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["hits"] == tree["near"] == []
    assert main(["search", "a periodic table", "--all"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == BELOW and len(pictures_in(out)) == 5
    assert err == "nothing here matches 'a periodic table'\n"


def test_pictures_that_come_near_follow_the_matches(
    inside: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("twotower.search.search.NEAR_SHARE", 1e-9)
    monkeypatch.setattr("twotower.search.search.NEAR_HITS", 2)
    sheet = tmp_path / "sheet.html"
    assert main(["search", "a cat", "--html", str(sheet)]) == 0
    out, err = capsys.readouterr()
    match, line, *near = out.splitlines()
    assert match.endswith("a0.jpg") and line == BELOW and len(near) == 2
    assert err == f"Wrote {sheet}\n"
    matching, below = sheet.read_text().split("<h2>below the cut-off</h2>")
    assert (matching.count("<a class=hit"), below.count("<a class=hit")) == (1, 2)
    assert main(["search", "a cat", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [hit["match"] for hit in tree["hits"]] == [True]
    assert [hit["match"] for hit in tree["near"]] == [False, False] and tree["matches"] == 1
    assert main(["search", "a periodic table"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == BELOW and len(pictures_in(out)) == 2
    assert err == "nothing here surely matches 'a periodic table'; --all lists more\n"
    assert main(["similar", str(inside / "a0.jpg")]) == 0
    assert len(pictures_in(capsys.readouterr().out)) == 2


def test_a_match_by_name_alone_shows_no_probability(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(PHOTOS / "cat.jpg", tmp_path / "periodic table.jpg")
    assert main(["search", "periodic table", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"      {tmp_path / 'periodic table.jpg'}  (by its name)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "camra:fuji"], "did you mean camera:fuji?"),
        (["search", ""], "nothing to look for"),
        (["search", "x + gone.jpg"], "gone.jpg: no such file"),
        (["similar", "gone.jpg"], "gone.jpg: no such file"),
        (["explain", "gone.jpg", "a cat"], "gone.jpg: no such file"),
        (["explain", "../a0.jpg", " "], "text: empty"),
        (
            ["explain", "../a0.jpg", "a cat", "--out", "h.xyz"],
            "h.xyz: unsupported suffix; use .png or .jpg",
        ),
    ],
)
def test_errors_are_one_line(
    inside: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("start", ["search", "search --"])
def test_a_query_may_start_with_a_minus(
    inside: Path, capsys: pytest.CaptureFixture[str], start: str
) -> None:
    assert main([*start.split(), "-people"]) == 1
    assert "'-people': only excludes pictures; add what to look for" in capsys.readouterr().err
    if start == "search":
        assert main(["search", "-house dog", "--json", "--all"]) == 0
        tree = json.loads(capsys.readouterr().out)
        assert tree["query"] == "-house dog" and Path(tree["hits"][0]["path"]).name == "a1.jpg"
    with pytest.raises(SystemExit) as done:
        main(["search", "-h"])
    assert done.value.code == 0


def test_a_wrong_query_is_refused_before_indexing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "camra:fuji", str(tmp_path)]) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_picture_is_reported_before_indexing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(PHOTOS / "cat.jpg", tmp_path)
    assert main(["similar", "gone.jpg", str(tmp_path)]) == 1
    assert capsys.readouterr() == ("", "twotower: gone.jpg: no such file; check the path\n")
    assert [path.name for path in tmp_path.iterdir()] == ["cat.jpg"]


def test_similar_and_duplicates(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similar", "../a0.jpg", "--all", "--top", "2"]) == 0
    assert len(pictures_in(capsys.readouterr().out)) == 2
    assert main(["duplicates"]) == 0
    assert capsys.readouterr().out == "no copies here\n"
    assert main(["duplicates", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_pages_count_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zoo").mkdir()
    for name in NAMES:
        shutil.copy(PHOTOS / name, tmp_path / "zoo")
    for number in range(8):
        shutil.copy(PHOTOS / "cat.jpg", tmp_path / "zoo" / f"a{number}.jpg")
    assert main(["index", str(tmp_path)]) == 0

    def page(number: int, query: str, *more: str) -> tuple[int, str]:
        capsys.readouterr()
        options = ["--top", "1", "--page", str(number), *more]
        assert main(["search", query, str(tmp_path), *options]) == 0
        out, err = capsys.readouterr()
        return len(pictures_in(out)), err

    for number in (1, 2, 3, 4):
        assert page(number, "zoo") == (1, "13 match; --page or --top for more\n")
    assert page(5, "zoo") == (1, "")
    assert page(7, "zoo") == (0, "page 7 is beyond the end; the last is --page 5\n")
    monkeypatch.setattr("twotower.search.search.CANDIDATES", 2)
    # also if all candidates retrieved at first are near-duplicates
    assert [page(number, "a cat", "--all")[0] for number in range(1, 7)] == [1, 1, 1, 1, 1, 0]


def test_a_contact_sheet_is_self_contained(inside: Path, tmp_path: Path) -> None:
    file = tmp_path / "sheet.html"
    assert main(["search", '"<b>" + "a cat"', "--all", "--html", str(file)]) == 0
    page = file.read_text()
    assert "&lt;b&gt;" in page and '<b>"' not in page
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 5
    for encoded in pictures:
        with PIL.Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert image.mode == "RGB" and image.height <= 360
    assert not re.search(r'(?:src|href)="https?:', page)


def test_a_query_need_not_be_text(inside: Path, tmp_path: Path) -> None:
    file = tmp_path / "sheet.html"
    assert main(["search", "a \udcff cat", "--html", str(file)]) == 0
    assert "<h1>a \ufffd cat</h1>" in file.read_text(encoding="utf-8")


def test_copies_overwrite_nothing(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["search", "type:png", "--copy-to", str(tmp_path / "found")]) == 0
        assert f"Copied 1 picture to {tmp_path / 'found'}\n" in capsys.readouterr().err
    names = sorted(path.name for path in (tmp_path / "found").iterdir())
    assert names == ["a3-2.png", "a3.png"]
    assert (tmp_path / "found" / "a3.png").read_bytes() == (inside / "a3.png").read_bytes()


def test_a_missing_hit_is_reported_beside_the_others(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, copies = tmp_path / "sheet.html", tmp_path / "found"
    (inside / "a1.jpg").rename(tmp_path / "gone.jpg")
    try:
        options = ["--html", str(sheet), "--copy-to", str(copies)]
        assert main(["search", "a dog", "--all", *options]) == 1
    finally:
        (tmp_path / "gone.jpg").rename(inside / "a1.jpg")
    out, err = capsys.readouterr()
    assert len(pictures_in(out)) == 5, "the result is printed all the same"
    message = f"twotower: {inside / 'a1.jpg'}: no longer there; index again\n"
    assert err.count(message) == 2 and err.count("twotower:") == 2
    assert len(list(copies.iterdir())) == sheet.read_text().count("<a class=hit") == 4


def test_filters_alone_give_no_probability(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.html"
    assert main(["search", "type:png", "--html", str(sheet)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{inside / 'a3.png'}\n" and err == f"Wrote {sheet}\n"
    assert (
        "%</b>" not in sheet.read_text() and "cut-off" not in sheet.read_text().split("</style>")[1]
    )
    assert main(["search", "type:png", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["cutoff"] is tree["hits"][0]["probability"] is tree["hits"][0]["score"] is None
    assert main(["search", "type:gif"]) == 0
    assert capsys.readouterr().err == "nothing here matches 'type:gif'\n"


def test_explain_writes_a_picture(
    inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small.png"
    PIL.Image.new("RGB", (30, 20), "red").save(small)
    out = tmp_path / "heat.png"
    assert main(["explain", str(small), "a cat", "--out", str(out)]) == 0
    assert f"Wrote {out}: the best match is" in capsys.readouterr().out
    with PIL.Image.open(out) as image:
        assert image.size == (30, 20)


def test_calibrate_needs_enough_pictures(
    tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(PHOTOS / "cat.jpg", tmp_path)
    (tmp_path / "cat.txt").write_text("a cat")
    assert main(["calibrate", str(tiny_directory), str(tmp_path)]) == 1
    assert "1 pictures are too few" in capsys.readouterr().err
    assert not (tiny_directory / "calibration.json").exists()


def test_calibrate_writes_curves_and_competitors(
    tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, named, captioned = (tmp_path / name for name in ("model", "named", "captioned"))
    shutil.copytree(tiny_directory, model)
    random = np.random.default_rng(0)
    things = ("dog", "cat", "guitar", "banana", "bus", "chair", "horse", "piano")
    for folder in (named, captioned):
        folder.mkdir()
        for number in range(130):
            name = f"{number:03d}"
            pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
            PIL.Image.fromarray(pixels).save(folder / f"{name}.png")
            thing = things[number % len(things)]
            (folder / f"{name}.txt").write_text(thing)
            if folder == captioned:
                captions = [f"a {thing} stands here", f"one {thing}", f"the {thing}"]
                (folder / f"{name}.json").write_text(json.dumps({"captions": captions}))
    assert main(["calibrate", str(model), str(named), str(captioned)]) == 0
    assert re.fullmatch(
        r"\S+/model/calibration\.json: fitted on 260 pictures; cut-off \d\.\d\d for names, "
        r"\d\.\d\d for phrases, \d\.\d\d for pictures\n",
        capsys.readouterr().out,
    )
    calibration = read_calibration(twotower.load(model))
    assert calibration is not None and calibration.model == golden_hash(model)
    assert (model / "competitors.safetensors").exists()


# --- pictures in the terminal --------------------------------------------------------------------


def test_thumbnails_are_upright_and_on_white() -> None:
    penguin = thumbnail(PHOTOS / "penguin.jpg", 60)
    assert penguin is not None and penguin.width > penguin.height
    elephant = thumbnail(PHOTOS / "elephant.png", 60)
    assert elephant is not None and elephant.getpixel((0, 0)) == (255, 255, 255)
    assert thumbnail(PHOTOS / "README.md", 60) is None


def test_the_preview_in_a_raw_file_is_upright(tmp_path: Path) -> None:
    pytest.importorskip("rawpy", reason="pip install 'twotower[raw]'")
    write_dng(tmp_path / "a.dng", PIL.Image.new("RGB", (320, 240)), orientation=6)
    image = thumbnail(tmp_path / "a.dng", 100)
    assert image is not None and image.width < image.height


def test_kitty_and_iterm_carry_the_picture() -> None:
    image = thumbnail(PHOTOS / "cat.jpg", 60)
    assert image is not None
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty(image))
    assert chunks[0][0].startswith("a=T,f=100,")
    assert [control[-1] for control, _ in chunks] == ["1"] * (len(chunks) - 1) + ["0"]
    content = base64.b64decode("".join(text for _, text in chunks))
    np.testing.assert_array_equal(PIL.Image.open(io.BytesIO(content)), image)
    content = base64.b64decode(iterm(image).split(":")[1].rstrip("\a"))
    assert PIL.Image.open(io.BytesIO(content)).size == image.size


def test_sixels_drawn_again_are_the_picture() -> None:
    image = PIL.Image.new("RGB", (9, 13), "red")
    image.paste((0, 0, 255), (4, 5, 9, 13))
    drawn = draw_sixels(sixel(image))
    np.testing.assert_array_equal(drawn[:13, :9], np.asarray(image))


def draw_sixels(text: str) -> np.ndarray:
    """Draw sixels as a terminal does."""
    body = re.fullmatch(r'\x1bPq"1;1;9;13(.*)\x1b\\', text, re.DOTALL)
    assert body
    canvas = np.zeros((18, 9, 3), np.uint8)
    palette: dict[int, tuple[int, ...]] = {}
    row = column = colour = 0
    token = r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)(.)|([$-])|([?-~])"
    for match in re.finditer(token, body[1]):
        number, *levels, chosen, count, repeated, control, single = match.groups()
        if number:
            palette[int(number)] = tuple(round(int(level) * 2.55) for level in levels)
        elif chosen:
            colour = int(chosen)
        elif control:
            row, column = (row + 6, 0) if control == "-" else (row, 0)
        else:
            for _ in range(int(count or 1)):
                bits = ord(repeated or single) - 63
                for bit in range(6):
                    if bits >> bit & 1:
                        canvas[row + bit, column] = palette[colour]
                column += 1
    return canvas
