"""Run `twotower evaluate` as a user does, on coloured squares."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.evaluate.conftest import ColourEncoder, square
from twotower.errors import EvaluationError, ModelError
from twotower.evaluate.compare import compare
from twotower.evaluate.models import ObjectModel, open_model
from twotower.evaluate.published import published_figures
from twotower.evaluate.registry import public_sets
from twotower.evaluate.sets import open_set
from twotower.evaluate.zero_shot import evaluate_zero_shot

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
CIFAR = ROOT.parent / "shared" / "data" / "cifar10-dev" / "cifar10-dev.npz"


def test_zero_shot_has_the_promised_keys(run: Run, folders: Path) -> None:
    code, out, _ = run("zero-shot", folders, "--json")
    result = json.loads(out)
    assert code == 0
    assert result["n"] == 12 and result["top1"] == result["mean_per_class"] == 1.0
    assert result["ci95"]["mean_per_class"] == result["ci95"]["top1"]  # Wilson's, not 1.0 to 1.0
    assert set(result["ci95"]) == {"top1", "top5", "mean_per_class", "ece"}
    assert result["set"]["subset"] is False and result["unreadable"] == []
    assert result["outcomes"]["ranks"] == "1" * 12
    assert result["configuration"]["templates"] == ["a {} square"]


def test_exchanged_class_names_give_wrong_answers(run: Run, folders: Path) -> None:
    """Exchange blue and red, so that only the three green squares are classified correctly."""
    names = "a red one,a green one,a blue one"
    _, out, _ = run("zero-shot", folders, "--classes", names, "--json")
    result = json.loads(out)
    assert result["top1"] == 3 / 12 and result["mean_per_class"] == pytest.approx(1 / 3)
    assert result["confusion"] == [["a red one", "a blue one", 5], ["a blue one", "a red one", 4]]
    by_class = {row["class"]: row["accuracy"] for row in result["per_class"]}
    assert by_class == {"a red one": 0, "a green one": 1, "a blue one": 0}
    assert len(result["mistakes"]) == 9


def test_retrieval_has_the_promised_keys(run: Run, captioned: Path) -> None:
    code, out, _ = run("retrieval", captioned, "--json")
    result = json.loads(out)
    assert code == 0
    for direction, n in (("text_to_image", 6), ("image_to_text", 3)):
        assert {"recall_at_1", "recall_at_5", "recall_at_10"} < set(result[direction])
        assert result[direction]["recall_at_1"] == 1.0 and result[direction]["n"] == n
        assert set(result[direction]["ci95"]) == {"recall_at_1", "recall_at_5", "recall_at_10"}


def test_unreadable_pictures_are_named_and_the_others_are_measured(
    run: Run, folders: Path, captioned: Path
) -> None:
    (folders / "red" / "0.png").write_bytes(b"no picture")
    code, out, err = run("zero-shot", folders, "--json")
    result = json.loads(out)
    assert code == 1 and result["n"] == 11 and result["set"]["subset"]
    assert "red/0.png" in err and "red/0.png" in result["unreadable"][0]

    (captioned / "1.json").write_text('{"captions": []}')
    code, out, err = run("retrieval", captioned, "--json")
    result = json.loads(out)
    assert code == 1 and "1.jpg: has no caption" in err
    assert result["image_to_text"]["n"] == 2 and result["text_to_image"]["n"] == 4


def test_a_set_without_readable_pictures_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "x.png").write_bytes(b"no picture")
    code, out, err = run("zero-shot", tmp_path / "set", "--json")
    assert (code, out) == (1, "") and "no picture could be read" in err


def test_a_subset_is_marked(run: Run, folders: Path) -> None:
    _, out, _ = run("zero-shot", folders, "--limit", 5)
    assert "a subset, 5 of 12 pictures" in out


def test_several_correct_classes(run: Run, tmp_path: Path, folders: Path) -> None:
    (tmp_path / "set.csv").write_text(
        "path,labels\nsquares/red/0.png,red|warm\nsquares/blue/0.png,blue\n"
        "squares/green/0.png,green|warm\n"
    )
    _, out, _ = run("zero-shot", tmp_path / "set.csv", "--json")
    result = json.loads(out)
    assert result["top1"] == 1.0 and result["mean_per_class"] is None
    precisions = {row["class"]: row["average_precision"] for row in result["per_class"]}
    assert precisions["red"] == precisions["blue"] == 1.0
    assert result["map"] == pytest.approx(np.mean(list(precisions.values())))
    assert "map" in result["ci95"]


def test_the_csv_gets_a_row_for_each_measure(
    run: Run, folders: Path, captioned: Path, tmp_path: Path
) -> None:
    for arguments in (("zero-shot", folders), ("retrieval", captioned)):
        run(*arguments, "--csv", tmp_path / "card.csv")
    with (tmp_path / "card.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["measure"] for row in rows[:2]] == ["top1", "top5"]
    assert len(rows) == 4 + 6
    top1 = rows[0]
    assert (top1["set"], top1["n"], top1["value"]) == ("squares", "12", "1.0000")
    assert float(top1["low"]) < 1 and rows[4]["measure"] == "text_to_image.recall_at_1"


# --- probe and robustness ------------------------------------------------------------------------


def test_probe(run: Run, folders: Path) -> None:
    code, out, _ = run("probe", folders, "--test", folders, "--shots", "1,2,16", "--json")
    result = json.loads(out)
    assert code == 0 and result["top1"] == 1.0 and result["zero_shot"]["top1"] == 1.0
    assert list(result["few_shot"]) == ["1"]  # no class has pictures for more shots
    few = result["few_shot"]["1"]
    assert few["tip_adapter"]["top1"] == 1.0 and len(few["linear_probe"]["draws"]) == 3


def test_probe_with_unequal_classes(run: Run, folders: Path) -> None:
    """Fit precisely at small C, where the bias outweighs the colours."""
    for colour, count in (("red", 14), ("green", 13), ("blue", 15)):
        for number in range(count):
            square(colour, number).save(folders / colour / f"{number}.png")
    _, out, _ = run("probe", folders, "--shots", "1", "--json")
    assert json.loads(out)["top1"] == 1.0


def test_probe_needs_the_same_classes(run: Run, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "red").mkdir(parents=True)
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "other" / "red" / "x.png")
    code, _, err = run("probe", folders, "--test", tmp_path / "other")
    assert code == 1 and "other classes than" in err


def test_robustness(run: Run, folders: Path, tmp_path: Path) -> None:
    """Measure the shift to a set that shares red and green, and whose red squares are green."""
    for colour, shown in (("red", "green"), ("green", "green"), ("mauve", "blue")):
        (tmp_path / "other" / colour).mkdir(parents=True)
        picture = PIL.Image.open(folders / shown / "0.png")
        picture.save(tmp_path / "other" / colour / "x.png")
    arguments = ("--corruptions", "jpeg,brightness", "--severities", "1,5", "--json")
    code, out, _ = run("robustness", folders, tmp_path / "other", *arguments)
    result = json.loads(out)
    assert code == 0 and result["top1"] == 1.0
    [shift] = result["shift"].values()
    assert (shift["classes"], shift["n"], shift["top1"], shift["drop"]) == (2, 2, 0.5, 0.5)
    assert shift["first_set"] == {"top1": 1.0, "n": 7}
    assert set(result["corruptions"]) == {"brightness", "jpeg"}
    assert set(result["corruptions"]["jpeg"]) == {"1", "5"}
    assert result["mean_corrupted"]["top1"] > 0.9


def test_sets_without_shared_classes_are_an_error(run: Run, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "mauve").mkdir(parents=True)
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "other" / "mauve" / "x.png")
    code, _, err = run("robustness", folders, tmp_path / "other")
    assert code == 1 and "shares no class" in err


# --- comparing -----------------------------------------------------------------------------------


def test_compare(run: Run, folders: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(run("zero-shot", folders, "--json")[1])
    bad.write_text(run("zero-shot", folders, "--json", model="tests.evaluate.test_evaluate:Red")[1])
    code, out, _ = run("compare", good, bad, "--json", model=None)
    [top1, _] = json.loads(out)["differences"]
    assert code == 0
    assert (top1["first"], top1["second"]) == (1.0, pytest.approx(4 / 12))
    assert top1["difference"] == pytest.approx(8 / 12)
    assert top1["p"] == pytest.approx(2 / 2**8, abs=0.002)  # 8 of 8 with the same sign
    assert 0.3 < top1["ci95"][0] < top1["ci95"][1] <= 1


def test_only_the_same_pictures_are_compared(run: Run, folders: Path, tmp_path: Path) -> None:
    full, subset = tmp_path / "full.json", tmp_path / "subset.json"
    full.write_text(run("zero-shot", folders, "--json")[1])
    subset.write_text(run("zero-shot", folders, "--limit", 6, "--json")[1])
    code, _, err = run("compare", full, subset, model=None)
    assert code == 1 and "only the same pictures" in err
    (tmp_path / "x.json").write_text("[]")
    code, _, err = run("compare", full, tmp_path / "x.json", model=None)
    assert code == 1 and "no result of twotower evaluate" in err


def test_captions_are_compared_by_picture() -> None:
    """Resample pictures, because the ten captions of a picture are not independent."""

    def result(ranks: str) -> dict[str, Any]:
        outcomes = {"text_to_image": ranks, "image_to_text": "11", "captions": [10, 10]}
        measured_set = {"fingerprint": "x"}
        configuration = {"model": {"name": "m"}}
        return {
            "task": "retrieval",
            "set": measured_set,
            "outcomes": outcomes,
            "configuration": configuration,
        }

    rows = compare(result("1" * 20), result("1" * 10 + "-" * 10))["differences"]
    recall = rows[0]
    assert recall["measure"] == "text_to_image.recall_at_1"
    assert recall["difference"] == 0.5 and recall["p"] == pytest.approx(1.0)
    with pytest.raises(EvaluationError, match="different sets"):
        compare(result("1" * 20), result("1" * 20) | {"set": {"fingerprint": "y"}})


# --- models --------------------------------------------------------------------------------------


class Red(ColourEncoder):
    """An encoder that classifies every picture as red."""

    def encode_image(self, pictures: list[PIL.Image.Image]) -> Any:
        return np.tile([92.0, -98, -98], (len(pictures), 1))


class Broken(ColourEncoder):
    def encode_text(self, texts: list[str]) -> Any:
        return np.full((len(texts), 3), np.nan)


class Torch(ColourEncoder):
    """An encoder that returns tensors with gradients, which are not normalised."""

    def encode_image(self, pictures: list[PIL.Image.Image]) -> Any:
        import torch

        return 7 * torch.tensor(super().encode_image(pictures), requires_grad=True)


def test_objects_that_return_arrays_or_tensors(folders: Path) -> None:
    pytest.importorskip("torch")
    labelled = open_set(folders)
    for encoder in (ColourEncoder(), Torch()):
        assert evaluate_zero_shot(ObjectModel(encoder, "x"), labelled)["top1"] == 1.0


def test_an_object_is_imported_or_the_error_names_it(
    run: Run, folders: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for model, message in (
        ("no.such:thing", "No module named 'no'"),
        ("tests.evaluate.conftest:Nothing", "no attribute 'Nothing'"),
        ("json:dumps", "cannot be called without arguments"),
        ("collections:OrderedDict", "has no encode_image and encode_text"),
        ("tests.evaluate.test_evaluate:Broken", "NaN or infinity"),
    ):
        code, _, err = run("zero-shot", folders, model=model)
        assert code == 1 and message in err and err.count("\n") == 1, model
    (tmp_path / "beside.py").write_text("from tests.evaluate.conftest import ColourEncoder as E\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(open_model("beside:E"), ObjectModel)


def test_wrong_shapes_are_an_error() -> None:
    class Flat(ColourEncoder):
        def encode_text(self, texts: list[str]) -> Any:
            return np.ones(len(texts))

    with pytest.raises(ModelError, match=r"shape \(2,\) for 2 inputs"):
        ObjectModel(Flat(), "flat").encode_text(["a", "b"])


def test_a_model_directory_is_described_by_its_fingerprint(tiny_directory: Path) -> None:
    description = open_model(str(tiny_directory)).describe()
    assert re.fullmatch("[0-9a-f]{64}", description["fingerprint"])
    assert description["preprocess"]["image_size"] == 64


# --- published figures ---------------------------------------------------------------------------


def test_published_figures_are_looked_up_by_model_and_set() -> None:
    cifar = public_sets()["cifar10"]
    result = {"top1": 0.906, "set": {"pictures": 10_000}}
    [row] = published_figures({"asked_for": "weights/ViT-B-16.pt"}, cifar, result)
    assert (row["published"], row["here"], row["whole_set"]) == (0.9077, 0.906, True)
    [row] = published_figures(
        {"asked_for": "hf-hub:openai/clip-vit-base-patch16"},
        cifar,
        result | {"set": {"pictures": 9}},
    )
    assert row["whole_set"] is False
    assert (
        published_figures({"asked_for": "ViT-B-16"}, cifar, result) == []
    )  # a preset may be untrained
    assert published_figures({"asked_for": "weights/ViT-B-16.pt"}, None, result) == []
    recalls = {
        "text_to_image": {"recall_at_1": 0.3},
        "image_to_text": {"recall_at_1": 0.5},
        "set": {"pictures": 5000},
    }
    rows = published_figures({"asked_for": "ViT-B-16.pt"}, public_sets()["coco"], recalls)
    assert [row["published"] for row in rows] == pytest.approx([0.3309, 0.5242])


# --- the page ------------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_escaped(
    run: Run, tmp_path: Path, folders: Path, captioned: Path
) -> None:
    (folders / "red").rename(folders / "red<script>")
    tasks = (
        ("zero-shot", folders),
        ("retrieval", captioned),
        ("probe", folders, "--shots", "1"),
        ("robustness", folders, folders, "--corruptions", "jpeg", "--severities", "1"),
    )
    for number, arguments in enumerate(tasks):
        directory = tmp_path / f"page{number}"
        model = "tests.evaluate.test_evaluate:Red"
        code, _, err = run(*arguments, "--report", directory, model=model)
        page = (directory / "index.html").read_text()
        assert code == 0 and f"Wrote {directory / 'index.html'}" in err
        assert "<script>" not in page and not re.search(r'(src|href)="(?!data:)', page)
        assert "$" not in page.split("</style>")[1]
        assert page.count("<figure>") >= 1 and "data:image/webp" in page
        assert "Configuration" in page and "test_evaluate:Red" in page


# --- the bundled model ---------------------------------------------------------------------------


@pytest.mark.skipif(not CIFAR.exists(), reason="../shared/data is not here")
def test_the_dev_set(run: Run) -> None:
    code, out, _ = run("zero-shot", CIFAR, "--limit", 40, "--json", model=None)
    result = json.loads(out)
    assert code == 0 and result["n"] == 40
    assert result["set"]["known_as"] == "cifar10" and result["set"]["subset"]
    assert result["set"]["of"] == 10_000 and len(result["configuration"]["templates"]) == 18
    assert 0 <= result["ci95"]["top1"][0] <= result["top1"] <= result["ci95"]["top1"][1] <= 1


def test_model_directories_are_evaluated_without_torch(tiny_directory: Path, folders: Path) -> None:
    code = (
        "import sys\n"
        "from twotower.cli.main import main\n"
        f"arguments = ['zero-shot', {str(folders)!r}, '--model', {str(tiny_directory)!r}]\n"
        "assert main(['evaluate', *arguments]) == 0\n"
        "assert not {'torch', 'scipy', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
