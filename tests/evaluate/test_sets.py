"""Open every form of a labelled set; check the errors for sets that do not fit."""

import csv
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.evaluate.conftest import COLOURS, square
from twotower.encode.prompts import TEMPLATES
from twotower.errors import EvaluationError
from twotower.evaluate.registry import find_set, normalize_name, public_sets, recognize_set
from twotower.evaluate.sets import LabelledSet, open_set
from twotower.inputs.pictures import open_picture

NAMES = list(COLOURS)
SAMPLES = [(colour, number) for number in range(3) for colour in NAMES]


def png(colour: str, seed: int) -> bytes:
    file = io.BytesIO()
    square(colour, seed).save(file, "png")
    return file.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def colours(labelled: LabelledSet) -> list[str]:
    """Return the colour of each picture, by its brightest channel."""
    means = [
        np.asarray(open_picture(picture).convert("RGB")).mean(axis=(0, 1)) for picture in labelled
    ]
    return [NAMES[int(mean.argmax())] for mean in means]


def check(labelled: LabelledSet) -> None:
    assert len(labelled.keys) == len(labelled.labels) == len(labelled.pictures)
    assert [labelled.classnames[label] for label in labelled.labels] == colours(labelled)


def write_parquet(path: Path, names: list[str] | None) -> Path:
    import pyarrow as pa
    import pyarrow.parquet

    labels = [NAMES.index(c) if names else c for c, _ in SAMPLES]
    images = [{"bytes": png(c, n), "path": None} for c, n in SAMPLES]
    table = pa.table({"image": images, "label": labels})
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pyarrow.parquet.write_table(table, path, row_group_size=4)
    return path


@pytest.fixture
def forms(tmp_path: Path, folders: Path) -> dict[str, Any]:
    members = [(f"{i:03}.png", png(*sample)) for i, sample in enumerate(SAMPLES)]
    numbers = [str(NAMES.index(colour)).encode() for colour, _ in SAMPLES]
    by_cls = [m for i, png_ in enumerate(members) for m in (png_, (f"{i:03}.cls", numbers[i]))]
    trees = [json.dumps({"label": colour}).encode() for colour, _ in SAMPLES]
    by_json = [m for i, png_ in enumerate(members) for m in (png_, (f"{i:03}.json", trees[i]))]
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "classnames.txt").write_text("\n".join(NAMES))
    write_tar(tmp_path / "shards" / "0.tar", by_cls[:8])
    write_tar(tmp_path / "shards" / "1.tar", by_cls[8:])
    with (tmp_path / "set.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label"))
        writer.writerows((f"squares/{c}/{n}.png", c) for c, n in SAMPLES)
    arrays = np.stack([np.asarray(square(*sample)) for sample in SAMPLES])
    labels = np.array([NAMES.index(colour) for colour, _ in SAMPLES])
    np.savez(tmp_path / "set.npz", images=arrays, labels=labels, class_names=NAMES)
    return {
        "folders": folders,
        "json": write_tar(tmp_path / "set.tar", by_json),
        "cls": tmp_path / "shards",
        "csv": tmp_path / "set.csv",
        "npz": tmp_path / "set.npz",
        "parquet": write_parquet(tmp_path / "words.parquet", None),
        "hugging face": write_parquet(tmp_path / "numbers.parquet", NAMES),
    }


FORMS = ("folders", "json", "cls", "csv", "npz", "parquet", "hugging face")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_its_labels(form: str, forms: dict[str, Any]) -> None:
    labelled = open_set(forms[form])
    assert len(labelled.keys) == (12 if form == "folders" else 9)
    assert sorted(labelled.classnames) == sorted(NAMES)
    assert not labelled.multi_label and labelled.public_set is None
    check(labelled)


@pytest.mark.parametrize("form", FORMS)
def test_a_sample_keeps_pictures_and_labels_together(form: str, forms: dict[str, Any]) -> None:
    labelled = open_set(forms[form])
    sample = labelled.sample(5)
    assert len(sample.keys) == 5 and sample.full_size == len(labelled.keys)
    assert sample.fingerprint() != labelled.fingerprint()
    check(sample)
    assert sample.keys == labelled.sample(5).keys


def test_numbered_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"class {number}" for number in range(11)))
    for number in range(11):
        (tmp_path / "set" / str(number)).mkdir(parents=True)
        square("red", number).save(tmp_path / "set" / str(number) / "x.png")
    labelled = open_set(tmp_path / "set", names.read_text().splitlines())
    for key, label in zip(labelled.keys, labelled.labels, strict=True):
        assert labelled.classnames[label] == f"class {key.split('/')[0]}"


def test_class_names_by_order_by_spelling_and_as_a_vocabulary(folders: Path) -> None:
    by_order = open_set(folders, ["azure", "grass", "blood"])  # folders: blue, green, red
    assert by_order.classnames[by_order.labels[0]] == "azure"
    by_spelling = open_set(folders, ["Red", "Green", "Blue"])
    assert by_spelling.classnames[by_spelling.labels[0]] == "Blue"
    more = open_set(folders, ["cyan", "red", "green", "mauve", "blue"])
    assert len(more.classes) == 5 and more.classnames[more.labels[0]] == "blue"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Red", "sea", "Green"], "3 classes are given for 3 labels, and 'blue' is not among them"),
        (["grass", "blood", "Red"], "and 'blue' is not among them"),
        (["red", "green", "blue ", "x", "reed"], None),
    ],
)
def test_a_class_list_with_a_synonym_is_not_taken_by_position(
    folders: Path, names: list[str], message: str | None
) -> None:
    if message is None:
        labelled = open_set(folders, names)
        assert labelled.classnames[labelled.labels[0]] == "blue"
        return
    with pytest.raises(EvaluationError, match=message):
        open_set(folders, names)


def test_stored_names_of_numbers_are_matched_by_name(forms: dict[str, Any]) -> None:
    for form in ("cls", "npz", "hugging face"):  # stored: red, green, blue
        reordered = open_set(forms[form], ["Blue", "mauve", "green", "red"])
        assert [reordered.classnames[n].lower() for n in reordered.labels] == colours(reordered)
        renamed = open_set(forms[form], ["blood", "grass", "sky"])
        assert [renamed.classnames[n] for n in renamed.labels[:3]] == ["blood", "grass", "sky"]
        with pytest.raises(EvaluationError, match="'green' is not among them"):
            open_set(forms[form], ["blue", "grass", "red"])


def test_names_that_differ_in_signs_alone_stay_apart(tmp_path: Path) -> None:
    for name in ("C", "C++"):
        (tmp_path / name).mkdir()
        square("red", 0).save(tmp_path / name / "x.png")
    labelled = open_set(tmp_path, ["C++", "C"])
    assert [labelled.classnames[label] for label in labelled.labels] == ["C", "C++"]
    with pytest.raises(EvaluationError, match="'C' is not among them"):
        open_set(tmp_path, ["c", "d"])


def test_decomposed_names_of_folders_match(tmp_path: Path) -> None:
    for name in ("ba\u0308r", "cafe\u0301"):  # as macOS stores them
        (tmp_path / name).mkdir()
        square("red", 0).save(tmp_path / name / "x.png")
    labelled = open_set(tmp_path, ["caf\u00e9", "B\u00e4r"])
    assert [labelled.classnames[label] for label in labelled.labels] == ["B\u00e4r", "caf\u00e9"]


@pytest.mark.parametrize("form", ["{}", "{}.0", "{}.", "+{}", "0{}"])
def test_numbers_in_tables_are_numbers(tmp_path: Path, form: str) -> None:
    """A column with a gap becomes floating-point in pandas: 0.0, 1.0, ..."""
    rows = [f"{number}.png,{form.format(number)}" for number in range(11)]
    (tmp_path / "set.csv").write_text("\n".join(["path,label", *rows]))
    labelled = open_set(tmp_path / "set.csv", [f"class {number}" for number in range(11)])
    assert labelled.labels.tolist() == list(range(11))


def test_numbers_in_every_form_are_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    names = [f"class {number}" for number in range(11)]
    for form, tree in (("float", lambda n: float(n)), ("text", str), ("list", lambda n: [str(n)])):
        members = [
            (f"{number}.{suffix}", content)
            for number in range(11)
            for suffix, content in (
                ("png", b"picture"),
                ("json", json.dumps({"label": tree(number)}).encode()),
            )
        ]
        labels = open_set(write_tar(tmp_path / f"{form}.tar", members), names).labels
        assert (labels.argmax(axis=1) if form == "list" else labels).tolist() == list(range(11))
    table = pa.table({"image": [b"picture"] * 11, "label": [float(n) for n in range(11)]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert open_set(tmp_path / "x.parquet", names).labels.tolist() == list(range(11))
    several = "\n".join(f"{number}.png,{number}|{10 - number}" for number in range(11))
    (tmp_path / "several.csv").write_text("path,labels\n" + several)
    assert np.flatnonzero(open_set(tmp_path / "several.csv", names).labels[1]).tolist() == [1, 9]


@pytest.mark.parametrize("label", ["-1", "-1.0", "0.5", "1e-3"])
def test_labels_that_number_no_class(tmp_path: Path, label: str) -> None:
    (tmp_path / "set.csv").write_text(f"path,label\na.png,0\nb.png,{label}\n")
    with pytest.raises(EvaluationError, match=f"a label is {label}; number the classes 0, 1"):
        open_set(tmp_path / "set.csv", ["a", "b"])


def test_superscripts_are_words(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("path,label\na.png,\u00b3\nb.png,\u00b2\n", encoding="utf-8")
    assert open_set(tmp_path / "set.csv").classnames == ["\u00b2", "\u00b3"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([[2], [0], [1]], np.uint8), [2, 0, 1]),
        (np.array([2.0, 0.0, 1.0]), [2, 0, 1]),
        (np.array([b"c", b"a", b"b"]), [2, 0, 1]),
        (np.eye(3)[[2, 0, 1]], [[False, False, True], [True, False, False], [False, True, False]]),
        (np.array([[0, 1, 1]] * 3), [[False, True, True]] * 3),
    ],
)
def test_shapes_and_types_of_labels_in_arrays(
    tmp_path: Path, labels: Any, expected: list[Any]
) -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    assert open_set(tmp_path / "x.npz", ["a", "b", "c"]).labels.tolist() == expected


def test_splits_of_a_set_are_no_classes(tmp_path: Path) -> None:
    for folder in ("train/red", "train/blue", "val/red", "val/blue"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        square("red", 0).save(tmp_path / "set" / folder / "x.png")
    with pytest.raises(EvaluationError, match=r"splits of a set \(train, val\).*such as .*set/val"):
        open_set(tmp_path / "set")
    assert open_set(tmp_path / "set" / "val").classnames == ["blue", "red"]
    trains = tmp_path / "vehicles" / "train"  # a class of that name, with its pictures
    trains.mkdir(parents=True)
    square("red", 0).save(trains / "x.png")
    assert open_set(tmp_path / "vehicles").classnames == ["train"]


def test_shards_of_one_numbering_keep_their_pictures_apart(tmp_path: Path) -> None:
    for shard, colour in enumerate(("red", "blue")):
        label = json.dumps({"label": colour}).encode()
        write_tar(tmp_path / f"{shard}.tar", [("0.png", png(colour, 0)), ("0.json", label)])
    labelled = open_set(tmp_path)
    assert len(set(labelled.keys)) == 2
    check(labelled)


def test_a_wordnet_number_has_precedence_over_a_name(tmp_path: Path) -> None:
    """Distinguish the two classes of ImageNet that are called "crane"."""
    birds = json.dumps({"label": "crane", "wnid": "n02012849"}).encode()
    machines = json.dumps({"label": "crane", "wnid": "n03126707"}).encode()
    members = [
        ("0.png", png("red", 0)),
        ("0.json", birds),
        ("1.png", png("red", 1)),
        ("1.json", machines),
    ]
    labelled = open_set(write_tar(tmp_path / "x.tar", members), set_key="imagenet")
    assert [labelled.classnames[label] for label in labelled.labels] == [
        "crane bird",
        "construction crane",
    ]


def test_several_labels(tmp_path: Path, folders: Path) -> None:
    (tmp_path / "set.csv").write_text(
        "path,labels\nsquares/red/0.png,red|warm\nsquares/blue/0.png,blue\n"
    )
    labelled = open_set(tmp_path / "set.csv")
    assert labelled.multi_label and labelled.classnames == ["blue", "red", "warm"]
    assert labelled.labels.tolist() == [[False, True, True], [True, False, False]]
    tables = tmp_path / "tables"
    tables.mkdir()
    (tmp_path / "set.csv").rename(tables / "set.csv")
    moved = open_set(tables / "set.csv", root=tmp_path)
    assert colours(moved) == ["red", "blue"]


def errors(tmp_path: Path) -> Iterator[tuple[str, Any, dict[str, Any], str]]:
    empty = tmp_path / "holes"
    for name in ("a", "b"):
        (empty / name).mkdir(parents=True)
    square("red", 0).save(empty / "a" / "x.png")
    yield "class folder without pictures", empty, {}, "holes/b: a class folder without pictures"
    bare = tmp_path / "nothing"
    bare.mkdir()
    yield "empty folder", bare, {}, "holds no class folders"
    yield "no such", tmp_path / "none", {}, "no such set"
    yield "known name", "food101", {}, "get it from https://"
    yield "more classes", tmp_path / "squares", {"classes": list("abcd")}, "4 classes are given for"
    yield "fewer classes", tmp_path / "squares", {"classes": ["a"]}, "1 classes are given for 3"
    yield "other set", tmp_path / "squares", {"set_key": "cifar10"}, "'blue' is no class of cifar10"
    arrays = np.zeros((3, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "short.npz", images=arrays, labels=np.array([0, 1]))
    yield "npz lengths", tmp_path / "short.npz", {}, "3 images but 2 labels"
    np.savez(tmp_path / "bare.npz", images=arrays, labels=np.array([0, 1, 2]))
    yield "no names", tmp_path / "bare.npz", {}, "its labels are numbers; name them with --classes"
    yield "npz classes", tmp_path / "bare.npz", {"classes": ["a", "b"]}, "2 classes are given but"
    np.savez(tmp_path / "soft.npz", images=arrays, labels=np.full((3, 2), 0.5))
    yield "soft labels", tmp_path / "soft.npz", {}, "of shape [3, 2] are neither numbers of classes"
    names = ["a", "b", "c"]
    np.savez(tmp_path / "wide.npz", images=arrays, labels=np.eye(3)[:, :2], class_names=names)
    yield "fewer columns", tmp_path / "wide.npz", {}, "nor 0 and 1 [n, 3]"
    np.savez(tmp_path / "minus.npz", images=arrays, labels=np.array([0, 1, -1]), class_names=names)
    yield "minus one", tmp_path / "minus.npz", {}, "a label is -1"
    np.savez(tmp_path / "flat.npz", images=np.zeros((3, 4)), labels=np.array([0, 1, 2]))
    yield "flat images", tmp_path / "flat.npz", {}, "its images have the shape [3, 4]"
    np.savez(tmp_path / "field.npz", pictures=arrays)
    yield "npz field", tmp_path / "field.npz", {}, "store the arrays images and labels"
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    yield "no npz", tmp_path / "bad.npz", {}, "cannot be read"
    unlabelled = write_tar(tmp_path / "unlabelled.tar", [("a.png", png("red", 0))])
    yield "no label", unlabelled, {}, "a has neither .json nor .cls"
    empty_json = write_tar(tmp_path / "e.tar", [("a.png", png("red", 0)), ("a.json", b"{}")])
    yield "empty json", empty_json, {}, "a has no label"
    unpictured = write_tar(tmp_path / "u.tar", [("a.cls", b"0")])
    yield "no picture", unpictured, {}, "a has no picture"
    dotted = write_tar(tmp_path / "d.tar", [("a.b.png", png("red", 0)), ("a.b.cls", b"0")])
    yield "dots in the key", dotted, {}, "has no picture: the extension of a.b.png is 'b.png'"
    deep = write_tar(tmp_path / "n.tar", [("a.png", png("red", 0)), ("a.json", b"[" * 100_000)])
    yield "deep json", deep, {}, "the .json of a cannot be read"
    (tmp_path / "torn.tar").write_bytes(unlabelled.read_bytes()[:700])
    yield "torn", tmp_path / "torn.tar", {}, "damaged or cut short"
    (tmp_path / "c.csv").write_text("file,colour\na.png,red\n")
    yield "no column", tmp_path / "c.csv", {}, "no column of labels"
    (tmp_path / "quote.csv").write_text('path,label\na.png,"red\nb.png,blue\n')
    yield "open quote", tmp_path / "quote.csv", {}, "quote.csv line 2: cannot be read"
    (tmp_path / "comma.csv").write_text("path,label\na.png,red\nb.png,sky blue, grey\n")
    yield "surplus cell", tmp_path / "comma.csv", {}, "line 3: 3 cells below 2 columns"


def test_errors_name_the_set_and_the_problem_in_one_line(tmp_path: Path, folders: Path) -> None:
    for case, location, options, message in errors(tmp_path):
        with pytest.raises(EvaluationError) as error:
            open_set(location, **options)
        assert message in str(error.value), case
        assert "\n" not in str(error.value), case


def test_an_array_larger_than_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(
        tmp_path / "big.npz", images=np.zeros((100, 64, 64, 3), np.uint8), labels=np.zeros(100)
    )
    monkeypatch.setattr("twotower.evaluate.set_readers._memory", lambda: 10**6)
    with pytest.raises(EvaluationError, match="more than this machine's memory"):
        open_set(tmp_path / "big.npz")


# --- public sets ---------------------------------------------------------------------------------


def test_the_papers_sets_are_complete() -> None:
    labelled = [public_set for public_set in public_sets().values() if public_set.classes]
    assert len(labelled) == 27 + 5  # and five variants of ImageNet
    for public_set in labelled:
        names = [normalize_name(names[0]) for names in public_set.classes]
        assert len(public_set.classes) >= 2, public_set.key
        assert all(template.count("{}") == 1 for template in public_set.templates), public_set.key
        assert (
            public_set.templates
            and public_set.pictures > 0
            and public_set.obtain.startswith("http")
        )
        assert all(names), public_set.key
    counts = {"food101": 101, "sun397": 397, "birdsnap": 500, "kinetics700": 700, "imagenet": 1000}
    counts |= {
        "imagenet-a": 200,
        "imagenet-r": 200,
        "objectnet": 113,
        "fer2013": 7,
        "country211": 211,
    }
    for key, count in counts.items():
        assert len(public_sets()[key].classes) == count
    assert public_sets()["imagenet"].templates == TEMPLATES["imagenet"]
    assert len(TEMPLATES["imagenet"]) == 80
    assert public_sets()["fer2013"].classes[3] == ("happy", "smiling")


def test_variants_of_imagenet_have_its_names() -> None:
    imagenet, variant = public_sets()["imagenet"], public_sets()["imagenet-r"]
    name = dict(zip(imagenet.folders, imagenet.classes, strict=True))
    assert name["n01440764"] == ("tench",)
    assert [name[folder] for folder in variant.folders] == list(variant.classes)


def test_a_set_is_recognised_by_its_classes_and_its_size() -> None:
    imagenet = public_sets()["imagenet"]
    assert recognize_set(imagenet.folders, 50_000) is imagenet
    assert recognize_set(imagenet.folders, 50_889) is public_sets()["imagenet-sketch"]
    names = [names[0].replace(" ", "_").upper() for names in public_sets()["food101"].classes]
    assert recognize_set(names, 99) is public_sets()["food101"]
    assert recognize_set(names[1:], 99) is None
    assert recognize_set(["red", "green"], 3) is None


def test_namesakes(folders: Path) -> None:
    assert open_set(folders).namesakes is None
    numbers = open_set(folders, ["dog", "cat", "dog"]).namesakes
    assert numbers is not None and numbers[0] == numbers[2] != numbers[1]


def test_folders_of_imagenet_get_its_names(tmp_path: Path) -> None:
    public_set = public_sets()["imagenet-a"]
    for folder in public_set.folders:
        (tmp_path / folder).mkdir()
        PIL.Image.new("RGB", (4, 4)).save(tmp_path / folder / "x.png")
    labelled = open_set(tmp_path)
    assert labelled.public_set is public_set and labelled.full_size == 7500
    assert labelled.classnames[0] == "stingray"


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(EvaluationError, match="did you mean 'cifar10'"):
        find_set("cifar-10")
