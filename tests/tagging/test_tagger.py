import base64
import csv
import io
import json
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.calibration.background import Background
from twotower.cli.main import main
from twotower.files import atomic_write
from twotower.index.catalog import Catalog
from twotower.index.schema import MIGRATIONS
from twotower.library import Library
from twotower.metadata.keywords import read_keywords
from twotower.metadata.ownership import set_tags
from twotower.metadata.xmp import NEW_PACKET
from twotower.pages.review import choose_questions
from twotower.tagging.detectors import SENTENCES, detector_logits
from twotower.tagging.feedback import fit_feedback
from twotower.tagging.formats import parse_vocabulary
from twotower.tagging.pixel_facts import FACT_COUNT, measure
from twotower.tagging.tagger import TaggedPicture, Tagger
from twotower.tagging.vocabulary import DETECTORS, Vocabulary

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
NAMES = ("beach.jpg", "bicycle.jpg", "cat.jpg", "dog.jpg", "oranges.jpg", "tower.jpg")
WORDS = """\
animal
	dog {puppy}
		german shepherd
	cat
place (one)
	city
	coast
	forest
fruit
dull
	@blurry
"""


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library") / "pictures"
    root.mkdir()
    for name in NAMES:
        shutil.copy(PHOTOS / name, root)
    Library(root).index()
    return root


@pytest.fixture
def root(indexed: Path, tmp_path: Path) -> Path:
    """A library of its own for each test."""
    return Path(shutil.copytree(indexed, tmp_path / "pictures"))


@pytest.fixture
def words(tmp_path: Path) -> Path:
    file = tmp_path / "words.txt"
    file.write_text(WORDS)
    return file


def judge(root: Path, vocabulary: Vocabulary) -> tuple[Tagger, dict[str, dict[str, float]]]:
    """The tagger, and the probabilities by picture and tag."""
    library = Library(root)
    tagger = Tagger(library.opened, vocabulary)
    records = list(library.catalog.records())
    judged = tagger.tag_pictures([one.id for one in records])
    table = {
        record.path: dict(zip(map(str, tagger.tags), one.probabilities.tolist(), strict=True))
        for record, one in zip(records, judged, strict=True)
    }
    library.close()
    return tagger, table


def correct(root: Path, tag: str, name: str, accepted: bool) -> None:
    library = Library(root)
    [content] = [one.content_hash for one in library.catalog.records() if one.path == name]
    assert content
    library.catalog.correct([(tag, content, accepted)])
    library.close()


# --- the decision --------------------------------------------------------------------------------


def test_probabilities_obey_the_tree_and_the_groups(root: Path) -> None:
    _, table = judge(root, parse_vocabulary(WORDS))
    for tags in table.values():
        assert "place" not in tags  # a heading
        assert tags["animal"] >= tags["animal|dog"] >= tags["animal|dog|german shepherd"]
        assert sum(p for tag, p in tags.items() if tag.startswith("place|")) == pytest.approx(1)
    assert table["dog.jpg"]["animal|dog"] > table["tower.jpg"]["animal|dog"]
    assert table["beach.jpg"]["place|coast"] > table["oranges.jpg"]["place|coast"]


def test_a_kind_that_is_not_sure_enough_gives_no_more_than_itself(root: Path) -> None:
    """What is above it gets its probability, but is given by its own."""
    tagger, _ = judge(root, parse_vocabulary(WORDS))
    places = {str(tag): place for place, tag in enumerate(tagger.tags)}
    animal, dog = places["animal"], places["animal|dog"]
    library = Library(root)
    ids = [one.id for one in library.catalog.records()]
    [before] = [one for one in tagger.tag_pictures(ids) if one.id == ids[NAMES.index("dog.jpg")]]
    tagger.cutoffs[[dog, places["animal|dog|german shepherd"]]] = 2.0
    tagger.cutoffs[animal] = before.probabilities[dog] - 1e-6
    [after] = [one for one in tagger.tag_pictures(ids) if one.id == before.id]
    assert after.probabilities[animal] >= after.probabilities[dog]
    assert not after.assigned[animal]


def test_what_a_person_said_is_said(root: Path) -> None:
    correct(root, "animal|dog|german shepherd", "cat.jpg", True)
    correct(root, "animal", "dog.jpg", False)
    correct(root, "place|city", "tower.jpg", True)
    vocabulary = parse_vocabulary(WORDS)
    tagger, table = judge(root, vocabulary)
    for tag in ("animal|dog|german shepherd", "animal|dog", "animal"):
        assert table["cat.jpg"][tag] > 0.999
        assert table["dog.jpg"][tag] < 0.001
    assert table["tower.jpg"]["place|city"] > 0.999
    library = Library(root)
    ids = {one.path: one.id for one in library.catalog.records()}
    [cat, dog] = tagger.tag_pictures([ids["cat.jpg"], ids["dog.jpg"]])
    places = {str(tag): place for place, tag in enumerate(tagger.tags)}
    assert cat.assigned[places["animal"]]
    assert not dog.assigned[places["animal|dog"]]


def test_a_negative_takes_away_and_never_adds(root: Path) -> None:
    _, plain = judge(root, parse_vocabulary("dog\n"))
    _, warned = judge(root, parse_vocabulary("dog\n\t- a photo of a dog.\n"))
    for name in NAMES:
        assert warned[name]["dog"] < plain[name]["dog"]


def test_a_negative_counts_in_a_group_too(root: Path) -> None:
    group = "place (one)\n\tcity\n\tcoast\n{}\tforest\n"
    _, plain = judge(root, parse_vocabulary(group.format("")))
    _, warned = judge(root, parse_vocabulary(group.format("\t\t- a photo of a coast.\n")))
    for name in NAMES:
        assert warned[name]["place|coast"] < plain[name]["place|coast"]
        assert sum(warned[name].values()) == pytest.approx(1)


def test_a_lesson_in_a_group_is_about_its_shares(root: Path) -> None:
    """At the solution a weight is what was said less what is then believed."""
    for accepted in (True, False):
        correct(root, "place|city", "oranges.jpg", accepted)
        library = Library(root)
        tagger = Tagger(library.opened, parse_vocabulary(WORDS))
        tagger._verdicts = {}
        [number] = [one.id for one in library.catalog.records() if one.path == "oranges.jpg"]
        [judged] = tagger.tag_pictures([number])
        [city] = [place for place, one in enumerate(tagger.tags) if one.name == "city"]
        believed = judged.probabilities[city]
        assert tagger._feedback[city].weights == pytest.approx([accepted - believed], abs=1e-4)
        library.close()


def test_corrections_live_through_moves_and_another_vocabulary(root: Path) -> None:
    correct(root, "fruit", "oranges.jpg", True)
    (root / "moved").mkdir()
    (root / "oranges.jpg").rename(root / "moved" / "oranges.jpg")
    Library(root).index()
    _, table = judge(root, parse_vocabulary(WORDS))
    assert table["moved/oranges.jpg"]["fruit"] > 0.999
    judge(root, parse_vocabulary("dog\n"))  # knows nothing of fruit
    (root / "moved" / "oranges.jpg").unlink()
    Library(root).index()
    shutil.copy(PHOTOS / "oranges.jpg", root / "back.jpg")
    Library(root).index()
    _, table = judge(root, parse_vocabulary(WORDS))
    assert table["back.jpg"]["fruit"] > 0.999


def test_corrections_are_known_by_their_name_where_the_path_is_another(root: Path) -> None:
    correct(root, "mood|calm", "beach.jpg", True)
    correct(root, "animal|dog", "cat.jpg", True)
    _, table = judge(root, parse_vocabulary("calm\npet\n\tdog\nmood|stormy\n"))
    assert table["beach.jpg"]["calm"] > 0.999 and table["cat.jpg"]["pet|dog"] > 0.999
    _, table = judge(root, parse_vocabulary("sea|calm\nmood|still {calm}\n"))
    assert max(table["beach.jpg"].values()) < 0.999  # which of the two is not known
    correct(root, "calm", "beach.jpg", False)
    _, table = judge(root, parse_vocabulary("calm\n"))
    assert table["beach.jpg"]["calm"] < 0.001  # the whole path counts for more


def test_a_correction_can_be_taken_back(root: Path, tmp_path: Path) -> None:
    correct(root, "mood|calm", "beach.jpg", True)
    words, corrections = tmp_path / "words.txt", tmp_path / "corrections.csv"
    words.write_text("calm\ndog\n")
    corrections.write_text(
        "tag,picture,verdict\ncalm,beach.jpg,no\ncalm,beach.jpg,forget\ndog,cat.jpg,forget\n"
        "dog,dog.jpg,forget\ndog,dog.jpg,no\n"
    )
    assert tag(root, "--vocabulary", words, "--dry-run", "--learn", corrections) == 0
    library = Library(root)
    assert [(one.tag, one.accepted) for one in library.catalog.corrections()] == [("dog", False)]


def test_keywords_of_a_person_are_verdicts(root: Path) -> None:
    vocabulary = parse_vocabulary(WORDS)
    _, before = judge(root, vocabulary)
    for name, keyword in (("tower.jpg", "puppy"), ("cat.jpg", "place|city"), ("dog.jpg", "place")):
        (root / f"{name}.xmp").write_bytes(set_tags(NEW_PACKET, {tuple(keyword.split("|")): 1}))
        content = (root / f"{name}.xmp").read_bytes()
        (root / f"{name}.xmp").write_bytes(content.replace(b"ns.twotower", b"ns.other"))
    Library(root).index()
    _, table = judge(root, vocabulary)
    assert table["tower.jpg"]["animal|dog"] > 0.999 and table["cat.jpg"]["place|city"] > 0.999
    assert "place" not in table["dog.jpg"]
    assert table["beach.jpg"] == pytest.approx(before["beach.jpg"])  # they alone teach nothing
    correct(root, "animal|dog", "beach.jpg", False)
    tagger, _ = judge(root, vocabulary)
    [dog] = [place for place, one in enumerate(tagger.tags) if one.name == "dog"]
    assert len(tagger._feedback[dog].weights) == 2  # as many as were rejected
    correct(root, "animal|dog", "tower.jpg", False)
    _, table = judge(root, vocabulary)
    assert table["tower.jpg"]["animal|dog"] < 0.001


@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_what_a_person_took_out_of_a_sidecar_is_rejected(
    root: Path, words: Path, codec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dog, sidecar = ("animal", "dog"), root / "dog.jpg.xmp"
    content = set_tags(NEW_PACKET, {dog: 0.9, ("fruit",): 0.8}).replace(
        b"<rdf:li>dog</rdf:li>", b""
    )
    sidecar.write_bytes(content.decode().encode(codec))
    assert read_keywords(root / "dog.jpg").rejected == (dog,)
    assert tag(root, "--vocabulary", words, "--precision", "0.5") == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if "dog.jpg" in line]
    assert "dog " not in line and "shepherd" not in line
    assert "dog" not in {name for path in read_keywords(root / "dog.jpg").ours for name in path}
    (root / "cat.jpg.xmp").write_text(  # moved, which says nothing against it
        set_tags(NEW_PACKET, {("animal", "cat"): 0.9, ("fruit",): 0.8})
        .decode()
        .replace("<rdf:li>animal|cat</rdf:li>", "<rdf:li>pets|cat</rdf:li>")
    )
    assert read_keywords(root / "cat.jpg").rejected == (("animal", "cat"),)
    tagger, table = judge(root, parse_vocabulary(WORDS))
    assert table["dog.jpg"]["animal|dog|german shepherd"] < 0.001
    assert [tagger.tags[place].path for place in tagger._feedback] == [dog]
    correct(root, "animal|dog", "dog.jpg", True)
    _, table = judge(root, parse_vocabulary(WORDS))
    assert table["dog.jpg"]["animal|dog"] > 0.999


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.binary(min_size=16, max_size=16), st.booleans()),
        max_size=12,
    )
)
@settings(max_examples=25, deadline=None)
def test_corrections_are_never_lost_nor_mixed(said: list[tuple[str, bytes, bool]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for one in said:
            with Catalog(Path(folder) / "library", Path(folder)) as catalog:
                catalog.correct([one])
        with Catalog(Path(folder) / "library", Path(folder)) as catalog:
            kept = {(one.tag, one.content_hash): one.accepted for one in catalog.corrections()}
        assert kept == {(tag, content): accepted for tag, content, accepted in said}


def test_a_catalog_of_the_version_before_is_brought_up_to_date(tmp_path: Path) -> None:
    import sqlite3

    location = tmp_path / "library"
    location.mkdir()
    connection = sqlite3.connect(location / "catalog.sqlite")
    connection.executescript(MIGRATIONS[0])
    connection.execute("INSERT INTO settings VALUES ('root', '\"..\"'), ('name', 'old')")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    with Catalog(location) as catalog:
        assert catalog.name == "old"
        catalog.correct([("dog", b"x", True)])
        catalog.add_measures({})
        assert [one.id for one in catalog.corrections()] == [None]


# --- learning ------------------------------------------------------------------------------------


def space(seed: int, n: int = 40, dim: int = 16) -> tuple[Background, np.ndarray]:
    random = np.random.default_rng(seed)
    embeds = random.standard_normal((n, dim)).astype(np.float32) + 1
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    mean = embeds.mean(axis=0)
    spread = (np.eye(dim, dtype=np.float32) * (embeds - mean).std(axis=0))[:8]
    return Background(mean, spread, float((embeds - mean).var()), mean, 0.1), embeds


@given(st.integers(0, 1000), st.lists(st.booleans(), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_a_correction_moves_towards_the_verdict_and_never_far(seed: int, said: list[bool]) -> None:
    background, embeds = space(seed)
    logits = np.random.default_rng(seed).normal(-1, 2, len(said))
    accepted = np.array(said)
    feedback = fit_feedback(background, embeds[: len(said)], logits, accepted)
    after = feedback.shift(background, embeds)
    assert np.isfinite(after).all()
    assert np.abs(after).max() < 12
    loss = np.logaddexp(0, np.where(accepted, -1, 1) * logits).sum()
    taught = logits + after[: len(said)]
    assert np.logaddexp(0, np.where(accepted, -1, 1) * taught).sum() <= loss + 1e-9
    if len(said) == 1:
        assert (after[0] > 0) == said[0]
        assert np.abs(after[0]) < 6


def test_nothing_is_learned_from_what_was_known() -> None:
    background, embeds = space(0)
    feedback = fit_feedback(
        background, embeds[:2], np.array([20.0, -20.0]), np.array([True, False])
    )
    assert np.abs(feedback.shift(background, embeds)).max() < 1e-3


# --- pixels --------------------------------------------------------------------------------------


def detections(detector: str, *pictures: PIL.Image.Image) -> list[bool]:
    """Whether a detector takes pictures for its own where the model says nothing."""
    measures = np.stack([measure(one) for one in pictures])
    assert measures.shape == (len(pictures), FACT_COUNT)
    unasked = np.zeros((len(pictures), len(SENTENCES)), np.float32)
    return [bool(one) for one in detector_logits(detector, measures, unasked) > 0]


def test_blurry_and_black_pictures() -> None:
    sharp = [PIL.Image.open(PHOTOS / name) for name in ("dog.jpg", "tower.jpg", "bicycle.jpg")]
    soft = [one.filter(PIL.ImageFilter.GaussianBlur(max(one.size) / 60)) for one in sharp]
    black = PIL.Image.new("RGB", (640, 480), (3, 3, 4))
    assert detections("blurry", *sharp, *soft, black) == [False] * 3 + [True] * 3 + [False]
    assert detections("black", *sharp, *soft, black) == [False] * 6 + [True]
    assert measure(PIL.Image.new("L", (1, 1), 9))[1] == 9
    unread = np.full((1, FACT_COUNT), np.nan)
    for detector in DETECTORS:
        assert (
            detector_logits(detector, unread, np.zeros((1, len(SENTENCES)), np.float32)) < 0
        ).all()


def test_a_page_of_text_is_a_document_and_a_photograph_is_nothing_drawn(root: Path) -> None:
    page = PIL.Image.new("RGB", (850, 1200), "white")
    draw = PIL.ImageDraw.Draw(page)
    for y in range(90, 1100, 26):
        draw.text((80, y), "What is written here has no meaning of its own, " * 2, "black", size=16)
    page.save(root / "page.png")
    Library(root).index()
    kinds = ("screenshot", "document", "receipt", "meme")
    vocabulary = parse_vocabulary("".join(f"{kind}\n\t@{kind}\n" for kind in kinds))
    _, table = judge(root, vocabulary)
    taken = [(name, kind) for name in table for kind in kinds if table[name][kind] > 0.5]
    assert taken == [("page.png", "document")]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
@settings(max_examples=30, deadline=None)
def test_any_picture_can_be_measured(width: int, height: int, value: int) -> None:
    assert np.isfinite(measure(PIL.Image.new("L", (width, height), value))).all()


# --- the command ---------------------------------------------------------------------------------


def tag(*arguments: str | Path) -> int:
    return main(["tag", *map(str, arguments)])


def test_a_dry_run_says_tags_and_writes_nothing(
    root: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(root.iterdir())
    assert tag(root, "--vocabulary", words, "--dry-run", "--precision", "0.5", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [Path(one["path"]).name for one in printed] == list(NAMES)
    known = {str(one) for one in parse_vocabulary(WORDS).tags if not one.heading}
    for one in printed:
        assert {given["tag"] for given in one["tags"]} <= known
        assert all(0 <= given["probability"] <= 1 for given in one["tags"])
    assert sorted(root.iterdir()) == before
    assert tag(root, "--vocabulary", words, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NAMES)


def test_corrections_are_written_and_taken_back(
    root: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrections = tmp_path / "corrections.csv"
    corrections.write_text("tag,picture,verdict\nfruit,oranges.jpg,yes\ndog,dog.jpg,no\n")
    export, folders = tmp_path / "tags.csv", tmp_path / "by-tag"
    options = ("--vocabulary", words, "--learn", corrections)
    assert tag(root, *options, "--export", export, "--to-folders", folders) == 0
    assert b"fruit" in (root / "oranges.jpg.xmp").read_bytes()
    with export.open(newline="") as file:
        rows = list(csv.DictReader(file))
    fruit = [row for row in rows if row["tag"] == "fruit" and row["path"].endswith("oranges.jpg")]
    assert float(fruit[0]["probability"]) > 0.99
    assert (folders / "fruit" / "oranges.jpg").samefile(root / "oranges.jpg")
    assert not any("dog" in row["tag"] for row in rows if row["path"].endswith("dog.jpg"))
    capsys.readouterr()
    assert tag(root, "--undo") == 0
    assert not list(root.glob("*.xmp"))


def test_tags_of_another_vocabulary_stay(
    root: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tag(root, "--vocabulary", words, "--precision", "0.5") == 0
    before = read_keywords(root / "dog.jpg").ours
    assert ("animal", "dog") in before
    other = tmp_path / "other.txt"
    other.write_text("fruit\nanimal\n")
    corrections = tmp_path / "corrections.csv"
    corrections.write_text("tag,picture,verdict\nanimal,dog.jpg,no\n")
    capsys.readouterr()
    assert tag(root, "--vocabulary", other, "--learn", corrections) == 0
    assert re.search(r"[1-9]\d* old tags removed", capsys.readouterr().err)
    after = read_keywords(root / "dog.jpg").ours
    assert after == {tag: p for tag, p in before.items() if tag != ("animal",)}


def test_corrections_that_cannot_be_used_write_nothing(
    root: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with a page that was made with another vocabulary."""
    corrections = tmp_path / "corrections.csv"
    corrections.write_text("tag,picture,verdict\nunicorn,dog.jpg,yes\nfruit,oranges.jpg,yes\n")
    assert tag(root, "--vocabulary", words, "--learn", corrections) == 1
    assert "corrections can be used, so no sidecars were written; fix" in capsys.readouterr().err
    assert not list(root.glob("*.xmp"))
    library = Library(root)
    assert [one.tag for one in library.catalog.corrections()] == ["fruit"]


def test_a_wrong_line_is_named_and_the_others_are_learned(
    root: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrections = tmp_path / "corrections.csv"
    corrections.write_text(
        "tag,picture,verdict\nunicorn,dog.jpg,yes\nfruit,nowhere.jpg,yes\n"
        "fruit,dog.jpg,perhaps\nfruit,oranges.jpg,yes\n"
    )
    options = ("--vocabulary", words, "--dry-run", "--learn", corrections)
    assert tag(root, *options) == 1
    captured = capsys.readouterr()
    assert "line 2: tag 'unicorn': not in the vocabulary" in captured.err
    assert "line 3: nowhere.jpg: not among the pictures" in captured.err
    assert "line 4: verdict 'perhaps': unknown; write yes, no or forget" in captured.err
    assert "Imported 1 corrections. Undo one with the verdict: forget" in captured.err
    assert "fruit 100%" in captured.out
    corrections.write_text("a,b\n1,2\n")
    assert tag(root, *options) == 1
    assert "no column 'tag'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vocabulary", "missing.txt"), "missing.txt: No such file"),
        (("--vocabulary", "{empty}"), "contains no tags; write one on each line"),
        (("--learn", "missing.csv"), "missing.csv: No such file"),
        (("--export", "tags.docx"), "tags.docx: cannot be written; end it in .csv or .json or"),
        (("--export", "nowhere/tags.csv"), "choose a file in an existing folder"),
        (("--export", "{words}"), "words.txt: is also read, and would be overwritten"),
        (("--review", "{root}/dog.jpg"), "dog.jpg: cannot be written; end it in .html or .htm"),
        (("--to-folders", "{root}/by-tag"), "by-tag: is inside the library of"),
        (("--to-folders", "{words}"), "words.txt: cannot be made (it is a file)"),
    ],
)
def test_bad_input_is_one_line(
    root: Path,
    words: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    given = [one.format(empty=empty, words=words, root=root) for one in arguments]
    if "--vocabulary" not in given:
        given += ["--vocabulary", str(words)]
    before = {path: path.read_bytes() for path in (words, root / "dog.jpg")}
    assert tag(root, *given, "--precision", "0.5") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert {path: path.read_bytes() for path in before} == before
    assert not list(root.glob("*.xmp"))


@pytest.mark.parametrize("options", [("--to-folders", "by-tag"), ("--review", "cat.jpg")])
def test_targets_are_looked_at_before_anything_is_indexed(
    tmp_path: Path,
    options: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(PHOTOS / "cat.jpg", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert tag(*options) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cat.jpg"]


def test_links_beside_pictures_whose_library_lies_elsewhere(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = Library(root)
    library.catalog.set_setting("root", json.dumps(str(root)))
    library.close()
    location = (root / ".twotower").rename(tmp_path / "library")
    options = ("--library", location, "--dry-run", "--to-folders", root / "by-tag")
    assert tag(root / "some", *options) == 1
    assert "is inside the library of" in capsys.readouterr().err


def test_a_file_that_cannot_be_finished_is_as_before(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tags.csv"
    file.write_text("before")
    with pytest.raises(OSError, match=r"tags\.csv"), atomic_write(file) as out:
        out.write("half")
        raise OSError(28, "No space left on device")
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]
    with atomic_write(file) as out:
        out.write("after")
    assert file.read_text() == "after" and list(tmp_path.iterdir()) == [file]


def test_a_precision_that_is_none(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("0", "1", "90", "nan", "x"):
        with pytest.raises(SystemExit) as ended:
            tag(root, "--precision", text)
        assert ended.value.code == 2
        assert f"{text} is not between 0 and 1; write one such as 0.9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--undo", "--dry-run"),
        ("--undo", "--learn", "corrections.csv"),
        ("--undo", "--review", "page.html"),
        ("--review", "page.html", "--json"),
        ("--review", "page.html", "--to-folders", "by-tag"),
        ("--review", "page.html", "--export", "tags.csv"),
    ],
)
def test_options_that_would_be_passed_over_are_wrong_usage(
    root: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tag(root, *options)
    assert ended.value.code == 2
    other = [one for one in options if one.startswith("--")][1]
    assert f"{other} has no effect with {options[0]}; leave it out" in capsys.readouterr().err


def test_headings_stay_headings_in_a_keyword_list(
    root: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    correct(root, "place|coast", "beach.jpg", True)
    export = tmp_path / "keywords.txt"
    assert tag(root, "--vocabulary", words, "--dry-run", "--export", export) == 0
    assert "\n[place]\n\t" in export.read_text()
    capsys.readouterr()


def test_a_precision_that_the_model_never_has_is_said(
    root: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tag(root, "--vocabulary", words, "--dry-run", "--precision", "0.99999") == 0
    assert (
        "cannot assign 5 of 9 tags at precision 0.99999; lower --precision"
        in capsys.readouterr().err
    )


def test_no_tag_at_all_comes_with_a_hint(
    root: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words.write_text("zebra crossing\nx-ray\n")
    assert tag(root, "--vocabulary", words, "--dry-run", "--precision", "0.7") == 0
    printed = capsys.readouterr()
    assert all(line.endswith("  -") for line in printed.out.splitlines())
    assert "no picture has a tag at precision 0.7; lower --precision" in printed.err


def test_the_tags_of_one_folder(
    root: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "some").mkdir()
    (root / "cat.jpg").rename(root / "some" / "cat.jpg")
    Library(root).index()
    assert tag(root / "some", "--vocabulary", words, "--dry-run", "--json") == 0
    [only] = json.loads(capsys.readouterr().out)
    assert only["path"].endswith("some/cat.jpg")
    assert tag(root / "nowhere", "--vocabulary", words) == 1
    assert "nowhere: no folder in" in capsys.readouterr().err


def test_pictures_that_are_not_as_they_were_indexed_are_left(
    root: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "beach.jpg").unlink()
    shutil.copy(root / "dog.jpg", root / "cat.jpg")
    for options in ((), ("--review", tmp_path / "page.html")):
        assert tag(root, "--vocabulary", words, "--precision", "0.5", *options) == 1
        printed = capsys.readouterr()
        assert "beach.jpg: was removed after it was indexed; run: twotower index\n" in printed.err
        assert "cat.jpg: was changed after it was indexed; run: twotower index\n" in printed.err
        assert "beach.jpg" not in printed.out and "cat.jpg" not in printed.out
    assert not (root / "beach.jpg.xmp").exists() and not (root / "cat.jpg.xmp").exists()
    assert (root / "dog.jpg.xmp").exists()


def test_a_folder_that_is_not_indexed_yet_is_named(
    root: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "new").mkdir()
    shutil.copy(root / "dog.jpg", root / "new")
    assert tag(root / "new", "--vocabulary", words) == 1
    assert "new: contains no indexed pictures; if there are new" in capsys.readouterr().err


def test_the_review_asks_first_what_may_be_given() -> None:
    """Not the tags of which most is unsure: these may be far from their cut-offs."""
    probabilities = np.array([[0.5, 0.92, 0.001, 0.5], [0.5, 0.85, 0.002, 0.4]])
    tagger = SimpleNamespace(cutoffs=np.array([2.0, 0.9, 0.9, 0.9999]))
    tagged = [TaggedPicture(n, row, row > 0.9) for n, row in enumerate(probabilities)]
    questions = choose_questions(cast(Tagger, tagger), tagged)
    assert [tag for tag, _ in questions] == [1, 0, 3, 2]
    assert dict(questions)[1] == [1, 0]


def test_the_review_page_holds_what_is_unsure(
    root: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "review.html"
    assert tag(root, "--vocabulary", words, "--review", page) == 0
    assert not list(root.glob("*.xmp"))
    text = page.read_text()
    command = ["twotower", "tag", str(root), "--vocabulary", str(words), "--learn"]
    assert f"<code>{shlex.join(command)} corrections.csv</code>" in text
    start = text.index('type="application/json">') + len('type="application/json">')
    tree = json.loads(text[start : text.index("</script>", start)])
    assert "animal|dog" in {one["tag"] for one in tree["tags"]}
    for one in tree["tags"]:
        doubts = [round(min(p, 1 - p), 6) for _, p, _ in one["questions"]]
        assert doubts == sorted(doubts, reverse=True)
    for picture in tree["pictures"].values():
        content = io.BytesIO(base64.b64decode(picture["jpeg"]))
        assert PIL.Image.open(content).height <= 200
