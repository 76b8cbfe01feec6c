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
    """A separate library for each test."""
    return Path(shutil.copytree(indexed, tmp_path / "pictures"))


@pytest.fixture
def words(tmp_path: Path) -> Path:
    file = tmp_path / "words.txt"
    file.write_text(WORDS)
    return file


def judge(root: Path, vocabulary: Vocabulary) -> tuple[Tagger, dict[str, dict[str, float]]]:
    """Return the tagger, and the probabilities by picture and tag."""
    library = Library(root)
    tagger = Tagger(library.opened, vocabulary)
    records = list(library.catalog.records())
    judged = tagger.tag_pictures([record.id for record in records])
    table = {
        record.path: dict(zip(map(str, tagger.tags), picture.probabilities.tolist(), strict=True))
        for record, picture in zip(records, judged, strict=True)
    }
    library.close()
    return tagger, table


def correct(root: Path, tag: str, name: str, accepted: bool) -> None:
    library = Library(root)
    [content] = [record.content_hash for record in library.catalog.records() if record.path == name]
    assert content
    library.catalog.correct([(tag, content, accepted)])
    library.close()


# --- decisions -----------------------------------------------------------------------------------


def test_probabilities_obey_the_tree_and_the_groups(root: Path) -> None:
    _, table = judge(root, parse_vocabulary(WORDS))
    for tags in table.values():
        assert "place" not in tags  # a heading
        assert tags["animal"] >= tags["animal|dog"] >= tags["animal|dog|german shepherd"]
        assert sum(p for tag, p in tags.items() if tag.startswith("place|")) == pytest.approx(1)
    assert table["dog.jpg"]["animal|dog"] > table["tower.jpg"]["animal|dog"]
    assert table["beach.jpg"]["place|coast"] > table["oranges.jpg"]["place|coast"]


def test_ancestors_are_assigned_by_their_own_probability(root: Path) -> None:
    """An ancestor is at least as probable as each kind of it, but needs words of its own."""
    tagger, _ = judge(root, parse_vocabulary(WORDS))
    columns = {str(tag): column for column, tag in enumerate(tagger.tags)}
    animal, dog = columns["animal"], columns["animal|dog"]
    library = Library(root)
    ids = [record.id for record in library.catalog.records()]
    dog_id = ids[NAMES.index("dog.jpg")]
    [before] = [picture for picture in tagger.tag_pictures(ids) if picture.id == dog_id]
    tagger.cutoffs[[dog, columns["animal|dog|german shepherd"]]] = 2.0
    tagger.cutoffs[animal] = before.probabilities[dog] - 1e-6
    [after] = [picture for picture in tagger.tag_pictures(ids) if picture.id == dog_id]
    assert after.probabilities[animal] >= after.probabilities[dog]
    assert not after.assigned[animal]


def test_verdicts_are_final(root: Path) -> None:
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
    ids = {record.path: record.id for record in library.catalog.records()}
    [cat, dog] = tagger.tag_pictures([ids["cat.jpg"], ids["dog.jpg"]])
    columns = {str(tag): column for column, tag in enumerate(tagger.tags)}
    assert cat.assigned[columns["animal"]]
    assert not dog.assigned[columns["animal|dog"]]


def test_negatives_only_lower_probabilities(root: Path) -> None:
    _, plain = judge(root, parse_vocabulary("dog\n"))
    _, warned = judge(root, parse_vocabulary("dog\n\t- a photo of a dog.\n"))
    for name in NAMES:
        assert warned[name]["dog"] < plain[name]["dog"]


def test_negatives_apply_in_groups(root: Path) -> None:
    group = "place (one)\n\tcity\n\tcoast\n{}\tforest\n"
    _, plain = judge(root, parse_vocabulary(group.format("")))
    _, warned = judge(root, parse_vocabulary(group.format("\t\t- a photo of a coast.\n")))
    for name in NAMES:
        assert warned[name]["place|coast"] < plain[name]["place|coast"]
        assert sum(warned[name].values()) == pytest.approx(1)


def test_feedback_in_a_group_changes_its_shares(root: Path) -> None:
    """At the solution a weight is the verdict minus the probability."""
    for accepted in (True, False):
        correct(root, "place|city", "oranges.jpg", accepted)
        library = Library(root)
        tagger = Tagger(library.opened, parse_vocabulary(WORDS))
        tagger._verdicts = {}
        [number] = [
            record.id for record in library.catalog.records() if record.path == "oranges.jpg"
        ]
        [judged] = tagger.tag_pictures([number])
        [city] = [column for column, tag in enumerate(tagger.tags) if tag.name == "city"]
        believed = judged.probabilities[city]
        assert tagger._feedback[city].weights == pytest.approx([accepted - believed], abs=1e-4)
        library.close()


def test_corrections_survive_moves_and_other_vocabularies(root: Path) -> None:
    correct(root, "fruit", "oranges.jpg", True)
    (root / "moved").mkdir()
    (root / "oranges.jpg").rename(root / "moved" / "oranges.jpg")
    Library(root).index()
    _, table = judge(root, parse_vocabulary(WORDS))
    assert table["moved/oranges.jpg"]["fruit"] > 0.999
    judge(root, parse_vocabulary("dog\n"))  # has no tag "fruit"
    (root / "moved" / "oranges.jpg").unlink()
    Library(root).index()
    shutil.copy(PHOTOS / "oranges.jpg", root / "back.jpg")
    Library(root).index()
    _, table = judge(root, parse_vocabulary(WORDS))
    assert table["back.jpg"]["fruit"] > 0.999


def test_corrections_match_by_name_if_the_path_differs(root: Path) -> None:
    correct(root, "mood|calm", "beach.jpg", True)
    correct(root, "animal|dog", "cat.jpg", True)
    _, table = judge(root, parse_vocabulary("calm\npet\n\tdog\nmood|stormy\n"))
    assert table["beach.jpg"]["calm"] > 0.999 and table["cat.jpg"]["pet|dog"] > 0.999
    _, table = judge(root, parse_vocabulary("sea|calm\nmood|still {calm}\n"))
    assert max(table["beach.jpg"].values()) < 0.999  # the name is ambiguous
    correct(root, "calm", "beach.jpg", False)
    _, table = judge(root, parse_vocabulary("calm\n"))
    assert table["beach.jpg"]["calm"] < 0.001  # the whole path counts for more


def test_a_correction_can_be_undone(root: Path, tmp_path: Path) -> None:
    correct(root, "mood|calm", "beach.jpg", True)
    words, corrections = tmp_path / "words.txt", tmp_path / "corrections.csv"
    words.write_text("calm\ndog\n")
    corrections.write_text(
        "tag,picture,verdict\ncalm,beach.jpg,no\ncalm,beach.jpg,forget\ndog,cat.jpg,forget\n"
        "dog,dog.jpg,forget\ndog,dog.jpg,no\n"
    )
    assert tag(root, "--vocabulary", words, "--dry-run", "--learn", corrections) == 0
    library = Library(root)
    corrected = [(row.tag, row.accepted) for row in library.catalog.corrections()]
    assert corrected == [("dog", False)]


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
    assert table["beach.jpg"] == pytest.approx(
        before["beach.jpg"]
    )  # keywords alone change no other picture
    correct(root, "animal|dog", "beach.jpg", False)
    tagger, _ = judge(root, vocabulary)
    [dog] = [column for column, tag in enumerate(tagger.tags) if tag.name == "dog"]
    assert len(tagger._feedback[dog].weights) == 2  # as many keywords as rejections
    correct(root, "animal|dog", "tower.jpg", False)
    _, table = judge(root, vocabulary)
    assert table["tower.jpg"]["animal|dog"] < 0.001


@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_tags_removed_from_a_sidecar_are_rejected(
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
    (root / "cat.jpg.xmp").write_text(  # moved to another parent, which is no rejection
        set_tags(NEW_PACKET, {("animal", "cat"): 0.9, ("fruit",): 0.8})
        .decode()
        .replace("<rdf:li>animal|cat</rdf:li>", "<rdf:li>pets|cat</rdf:li>")
    )
    assert read_keywords(root / "cat.jpg").rejected == (("animal", "cat"),)
    tagger, table = judge(root, parse_vocabulary(WORDS))
    assert table["dog.jpg"]["animal|dog|german shepherd"] < 0.001
    assert [tagger.tags[column].path for column in tagger._feedback] == [dog]
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
def test_corrections_are_never_lost_nor_mixed(verdicts: list[tuple[str, bytes, bool]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for verdict in verdicts:
            with Catalog(Path(folder) / "library", Path(folder)) as catalog:
                catalog.correct([verdict])
        with Catalog(Path(folder) / "library", Path(folder)) as catalog:
            kept = {(row.tag, row.content_hash): row.accepted for row in catalog.corrections()}
        assert kept == {(tag, content): accepted for tag, content, accepted in verdicts}


def test_a_catalog_of_the_previous_version_is_migrated(tmp_path: Path) -> None:
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
        assert [correction.id for correction in catalog.corrections()] == [None]


# --- learning ------------------------------------------------------------------------------------


def space(seed: int, n: int = 40, dim: int = 16) -> tuple[Background, np.ndarray]:
    random = np.random.default_rng(seed)
    embeds = random.standard_normal((n, dim)).astype(np.float32) + 1
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    mean = embeds.mean(axis=0)
    spread = (np.eye(dim, dtype=np.float32) * (embeds - mean).std(axis=0))[:8]
    return Background(mean, spread, float((embeds - mean).var())), embeds


def test_a_correction_moves_towards_the_verdict_and_never_far() -> None:
    random = np.random.default_rng(0)
    spaces = [space(seed) for seed in range(100)]
    for case in range(3000):
        background, embeds = spaces[case % len(spaces)]
        count = int(random.integers(1, 21))
        logits = random.normal(-1, 2, count)
        accepted = random.random(count) < random.random()
        signs = np.where(accepted, -1, 1)
        feedback = fit_feedback(background, embeds[:count], logits, accepted)
        after = feedback.shift(background, embeds)
        assert np.abs(after).max() < 12
        taught = logits + after[:count]
        loss = np.logaddexp(0, signs * logits).sum()
        assert np.logaddexp(0, signs * taught).sum() <= loss + 1e-9
        # at the optimum a weight is the verdict minus the probability
        p = 1 / (1 + np.exp(-taught))
        np.testing.assert_allclose(feedback.weights, accepted - p, atol=1e-4)
        if count == 1:
            assert (after[0] > 0) == accepted[0]
            assert np.abs(after[0]) < 6


def test_verdicts_that_agree_with_the_words_change_nothing() -> None:
    background, embeds = space(0)
    feedback = fit_feedback(
        background, embeds[:2], np.array([20.0, -20.0]), np.array([True, False])
    )
    assert np.abs(feedback.shift(background, embeds)).max() < 1e-3


# --- pixels --------------------------------------------------------------------------------------


def detections(detector: str, *pictures: PIL.Image.Image) -> list[bool]:
    """Return which pictures a detector accepts by their pixels alone."""
    measures = np.stack([measure(picture) for picture in pictures])
    assert measures.shape == (len(pictures), FACT_COUNT)
    deviations = np.zeros((len(pictures), len(SENTENCES)), np.float32)
    return [bool(logit > 0) for logit in detector_logits(detector, measures, deviations)]


def test_blurry_and_black_pictures() -> None:
    sharp = [PIL.Image.open(PHOTOS / name) for name in ("dog.jpg", "tower.jpg", "bicycle.jpg")]
    soft = [
        picture.filter(PIL.ImageFilter.GaussianBlur(max(picture.size) / 60)) for picture in sharp
    ]
    black = PIL.Image.new("RGB", (640, 480), (3, 3, 4))
    assert detections("blurry", *sharp, *soft, black) == [False] * 3 + [True] * 3 + [False]
    assert detections("black", *sharp, *soft, black) == [False] * 6 + [True]
    assert measure(PIL.Image.new("L", (1, 1), 9))[1] == 9
    unread = np.full((1, FACT_COUNT), np.nan)
    for detector in DETECTORS:
        assert (
            detector_logits(detector, unread, np.zeros((1, len(SENTENCES)), np.float32)) < 0
        ).all()


def test_only_a_page_of_text_is_detected_as_a_document(root: Path) -> None:
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


def test_tags_are_decided_written_and_undone_by_a_library(root: Path) -> None:
    library = Library(root)
    (root / "cat.jpg").unlink()
    result = library.tag(parse_vocabulary(WORDS), precision=0.5)
    assert [picture.path.name for picture in result.stale] == ["cat.jpg"]
    tagged = {path.name: tags for path, tags in result.assigned()}
    assert list(tagged) == [name for name in NAMES if name != "cat.jpg"]
    assert ("animal", "dog") in tagged["dog.jpg"]
    report = library.write_tags(result)
    assert report.pictures == sum(bool(tags) for tags in tagged.values()) and not report.errors
    assert library.undo_tags().restored == report.files
    assert not list(root.glob("*.xmp"))
    library.close()


def test_a_dry_run_prints_tags_and_writes_nothing(
    root: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(root.iterdir())
    assert tag(root, "--vocabulary", words, "--dry-run", "--precision", "0.5", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [Path(picture["path"]).name for picture in printed] == list(NAMES)
    names = {str(tag) for tag in parse_vocabulary(WORDS).tags if not tag.heading}
    for picture in printed:
        assert {tag["tag"] for tag in picture["tags"]} <= names
        assert all(0 <= tag["probability"] <= 1 for tag in picture["tags"])
    assert sorted(root.iterdir()) == before
    assert tag(root, "--vocabulary", words, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(NAMES)


def test_corrections_are_written_and_undone(
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
    written = len(list(root.glob("*.xmp")))
    capsys.readouterr()
    assert tag(root, "--undo") == 0
    assert capsys.readouterr().out.startswith(
        f"Restored {written} file{'s' if written > 1 else ''}. Removed only our tags from 0 files"
    )
    assert not list(root.glob("*.xmp"))


def test_tags_of_another_vocabulary_stay(
    root: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tag(root, "--vocabulary", words, "--precision", "0.5") == 0
    before = read_keywords(root / "dog.jpg").ours
    assert ("animal", "dog") in before
    foreign = tmp_path / "other.txt"
    foreign.write_text("fruit\nanimal\n")
    corrections = tmp_path / "corrections.csv"
    corrections.write_text("tag,picture,verdict\nanimal,dog.jpg,no\n")
    capsys.readouterr()
    assert tag(root, "--vocabulary", foreign, "--learn", corrections) == 0
    assert re.search(r"[1-9]\d* old tags removed", capsys.readouterr().err)
    after = read_keywords(root / "dog.jpg").ours
    assert after == {tag: p for tag, p in before.items() if tag != ("animal",)}


def test_corrections_that_cannot_be_used_write_nothing(
    root: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as those from a review page for another vocabulary."""
    corrections = tmp_path / "corrections.csv"
    corrections.write_text("tag,picture,verdict\nunicorn,dog.jpg,yes\nfruit,oranges.jpg,yes\n")
    assert tag(root, "--vocabulary", words, "--learn", corrections) == 1
    assert "corrections can be used, so no sidecars were written; fix" in capsys.readouterr().err
    assert not list(root.glob("*.xmp"))
    library = Library(root)
    assert [correction.tag for correction in library.catalog.corrections()] == ["fruit"]


def test_an_unusable_line_is_named_and_the_others_are_imported(
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
    assert "Imported 1 correction. Undo one with the verdict: forget" in captured.err
    assert "fruit 100%" in captured.out
    corrections.write_text("a,b\n1,2\n")
    assert tag(root, *options) == 1
    assert "no column 'tag'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vocabulary", "missing.txt"), "missing.txt: no such file; check the path"),
        (("--vocabulary", "{empty}"), "contains no tags; write one on each line"),
        (("--learn", "missing.csv"), "missing.csv: no such file; check the path"),
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
    options = [text.format(empty=empty, words=words, root=root) for text in arguments]
    if "--vocabulary" not in options:
        options += ["--vocabulary", str(words)]
    before = {path: path.read_bytes() for path in (words, root / "dog.jpg")}
    assert tag(root, *options, "--precision", "0.5") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert {path: path.read_bytes() for path in before} == before
    assert not list(root.glob("*.xmp"))


@pytest.mark.parametrize("options", [("--to-folders", "by-tag"), ("--review", "cat.jpg")])
def test_targets_are_checked_before_indexing(
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


def test_links_among_pictures_whose_library_is_elsewhere(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = Library(root)
    library.catalog.set_setting("root", json.dumps(str(root)))
    library.close()
    location = (root / ".twotower").rename(tmp_path / "library")
    options = ("--library", location, "--dry-run", "--to-folders", root / "by-tag")
    assert tag(root / "some", *options) == 1
    assert "is inside the library of" in capsys.readouterr().err


def test_a_file_that_cannot_be_finished_is_unchanged(
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


def test_an_invalid_precision_is_wrong_usage(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
def test_options_without_effect_are_wrong_usage(
    root: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        tag(root, *options)
    assert ended.value.code == 2
    ignored = [word for word in options if word.startswith("--")][1]
    assert f"{ignored} has no effect with {options[0]}; leave it out" in capsys.readouterr().err


def test_a_review_may_be_a_dry_run(root: Path, words: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert tag(root, "--vocabulary", words, "--review", page, "--dry-run") == 0
    assert page.exists() and not list(root.rglob("*.xmp"))


def test_headings_stay_headings_in_a_keyword_list(
    root: Path, words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    correct(root, "place|coast", "beach.jpg", True)
    export = tmp_path / "keywords.txt"
    assert tag(root, "--vocabulary", words, "--dry-run", "--export", export) == 0
    assert "[place]\n\t" in export.read_text()
    capsys.readouterr()


def test_unassignable_tags_are_counted(
    root: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tag(root, "--vocabulary", words, "--dry-run", "--precision", "0.99999") == 0
    assert (
        "cannot assign 5 of 9 tags at precision 0.99999; lower --precision"
        in capsys.readouterr().err
    )


def test_a_run_without_tags_prints_a_hint(
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
    assert "nowhere: not a folder of the library" in capsys.readouterr().err


def test_stale_pictures_are_named_and_skipped(
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


def test_a_folder_without_indexed_pictures_is_named(
    root: Path, words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "new").mkdir()
    shutil.copy(root / "dog.jpg", root / "new")
    assert tag(root / "new", "--vocabulary", words) == 1
    assert "new: contains no indexed pictures; if there are new" in capsys.readouterr().err


def test_the_review_begins_with_tags_near_their_cutoffs() -> None:
    """Tags with the most uncertain pictures may be far from their cut-offs, and come later."""
    probabilities = np.array([[0.5, 0.92, 0.001, 0.5], [0.5, 0.85, 0.002, 0.4]])
    tagger = SimpleNamespace(cutoffs=np.array([2.0, 0.9, 0.9, 0.9999]))
    tagged = [TaggedPicture(n, row, row > 0.9) for n, row in enumerate(probabilities)]
    questions = choose_questions(cast(Tagger, tagger), tagged)
    assert [tag for tag, _ in questions] == [1, 0, 3, 2]
    assert dict(questions)[1] == [1, 0]


def test_the_review_page_contains_uncertain_pictures(
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
    assert "animal|dog" in {tag["tag"] for tag in tree["tags"]}
    for entry in tree["tags"]:
        doubts = [round(min(p, 1 - p), 6) for _, p, _ in entry["questions"]]
        assert doubts == sorted(doubts, reverse=True)
    for picture in tree["pictures"].values():
        content = io.BytesIO(base64.b64decode(picture["jpeg"]))
        assert PIL.Image.open(content).height <= 200
