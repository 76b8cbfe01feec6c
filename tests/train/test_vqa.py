"""Training of answer heads: every format of data, broken pictures, and the baseline."""

import csv
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import twotower
from twotower.asking.head import Head
from twotower.cli.main import main
from twotower.encode.patches import UnpooledEncoder
from twotower.errors import ModelError, TrainError
from twotower.model.answer_head import FusionHead
from twotower.model.config import FusionConfig
from twotower.train.vqa.data import Sample, plain_answer, read_samples
from twotower.train.vqa.features import FrozenFeatures
from twotower.train.vqa.head import fold_scale, train_vqa
from twotower.train.vqa.prior import Prior

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220), "green": (20, 200, 20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of one colour with noise, in easy-VQA's layout."""
    folder = tmp_path_factory.mktemp("vqa")
    (folder / "images").mkdir()
    random, rows = np.random.default_rng(0), []
    for number in range(60):
        colour = list(COLOURS)[number % 3]
        noise = random.integers(-20, 20, (64, 64, 3))
        pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        rows.append(["what color is it?", colour, number])
        rows.append(["is it red?", "yes" if colour == "red" else "no", number])
    (folder / "questions.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path_factory.getbasetemp() / "vqa-cache"))


@pytest.fixture(scope="module")
def trained(folder: Path, tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("heads") / "head"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWOTOWER_CACHE", str(tmp_path_factory.getbasetemp() / "vqa-cache"))
        options = ["--test", str(folder), "--model", str(tiny_directory), "--epochs", "30"]
        code = main(["train", "vqa", str(folder), str(destination), *options])
    assert code == 0
    return destination


def test_answers_depend_on_the_picture(
    trained: Path, folder: Path, tiny_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = Head(trained, tiny_directory)
    correct = []
    for number in range(12):
        picture = folder / "images" / f"{number}.png"
        [answered] = twotower.ask(picture, "what color is it?", head=head)
        correct.append(answered.replies[0].answer == list(COLOURS)[number % 3])
    assert np.mean(correct) > 0.8  # a third without the picture
    options = ["--head", str(trained), "--model", str(tiny_directory)]
    assert main(["ask", str(folder / "images" / "0.png"), "is it red?", *options]) == 0
    assert "[trained]" in capsys.readouterr().out


def test_files_have_the_mode_of_the_umask(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    modes = {path.stat().st_mode for path in trained.iterdir()}
    assert modes == {(tmp_path / "file").stat().st_mode}


def test_the_written_head_takes_unscaled_cells(folder: Path, tiny_directory: Path) -> None:
    samples = read_samples(folder)
    features = FrozenFeatures(UnpooledEncoder(tiny_directory), samples)
    pictures = list(features.pictures)
    scaled = features.cells(pictures)
    torch.testing.assert_close(scaled.mean(dim=(0, 1)), torch.zeros(scaled.shape[2]))
    assert (scaled.std(dim=(0, 1)) - 1).abs().max() < 1e-3
    tokens, real = features.tokens(["is it red?"])
    torch.manual_seed(0)
    sizes = (scaled.shape[2], tokens.shape[2], scaled.shape[1])
    head = FusionHead(FusionConfig("abc", ("yes", "no"), *sizes, width=16)).eval()
    picture = torch.tensor([0])
    pixel_values = features.towers.preprocess(pictures[0])[None]
    cells = torch.from_numpy(features.towers.patches(pixel_values))
    torch.testing.assert_close(
        fold_scale(head, features)(cells, tokens, real, picture),
        head(scaled[:1], tokens, real, picture),
        atol=0.01,  # cells are kept as float16
        rtol=0,
    )


def test_bad_pictures_and_questions_do_not_stop_the_others(
    trained: Path, folder: Path, tiny_directory: Path
) -> None:
    head = Head(trained, tiny_directory)
    pictures = [folder / "images" / "0.png", folder / "missing.png"]
    answered = list(twotower.ask(pictures, ["", "is it red?"], head=head))
    assert [result.error is None for result in answered] == [False, True, False, False]
    [result] = twotower.ask(pictures[0], "is it red?", head=head, answers=["yes", "no"])
    assert {reply.answer for reply in result.replies} == {"yes", "no"}


def test_a_head_of_another_model_is_refused(trained: Path, siglip_directory: Path) -> None:
    with pytest.raises(ModelError, match="another model"):
        Head(trained, siglip_directory)


def test_an_existing_destination_and_unreadable_pictures(
    folder: Path, trained: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="already exists"):
        train_vqa(folder, trained, tiny_directory, epochs=1)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "question", "answer"))
        writer.writerow(("broken.png", "is it red?", "yes"))
        writer.writerow(("gone.png", "is it red?", "yes"))
        for number in range(60):
            writer.writerow((folder / "images" / f"{number}.png", "is it red?", "yes"))
    scores = train_vqa(tmp_path / "table.csv", tmp_path / "head", tiny_directory, epochs=1)
    assert {Path(line.split(":")[0]).name for line in scores.unreadable} == {
        "broken.png",
        "gone.png",
    }
    assert scores.head.mean() == scores.prior.mean() == 1  # there is one answer only


def test_vqa_v2(tmp_path: Path) -> None:
    (tmp_path / "train2014").mkdir()
    picture = tmp_path / "train2014" / "COCO_train2014_000000000042.jpg"
    PIL.Image.new("RGB", (8, 8)).save(picture)
    questions = [
        {"image_id": 42, "question": "What color is it?", "question_id": 420},
        {"image_id": 42, "question": "unanswered", "question_id": 421},
        {"image_id": 7, "question": "no picture", "question_id": 70},
    ]
    answers = [{"answer": answer} for answer in ["gray", "Gray", "a grey", "black", "black"]]
    annotations = [
        {"question_id": 420, "answers": answers},
        {"question_id": 70, "answers": answers},
    ]
    (tmp_path / "v2_OpenEnded_questions.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "v2_annotations.json").write_text(json.dumps({"annotations": annotations}))
    [sample] = read_samples(tmp_path)
    assert sample.picture == picture and sample.answer == "grey"
    assert sample.answers == (("grey", 3), ("black", 2))
    assert [sample.score(answer) for answer in ("grey", "black", "red")] == [1.0, 2 / 3, 0.0]


def test_jsonl_and_csv_are_equal(tmp_path: Path) -> None:
    row = {"image": "a.png", "question": "what is it?", "answer": "The Dog."}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "a.csv").write_text("image,question,answer\na.png,what is it?,The Dog.\n")
    assert read_samples(tmp_path / "a.jsonl") == read_samples(tmp_path / "a.csv")
    assert read_samples(tmp_path / "a.csv")[0].answer == "dog"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image,text\nx,y\n", "needs the columns"),
        ("a.jsonl", "{", "not JSON"),
        ("a.csv", "image,question,answer\n", "needs the columns"),
        ("questions.json", "[[1]]", "not VQA's JSON"),
        ("questions.json", "{", "not VQA's JSON"),
        ("other.json", "{}", r"holds no \*questions"),
        ("questions.json", "[]", "no question in it"),
    ],
)
def test_bad_data_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    location = tmp_path if name.endswith(".json") else tmp_path / name
    with pytest.raises(TrainError, match=message):
        read_samples(location)
    with pytest.raises(TrainError, match="no folder and no table"):
        read_samples(tmp_path / "missing")


def test_the_prior_answers_by_questions_and_their_beginnings() -> None:
    picture = Path("a.png")
    prior = Prior(
        [
            Sample(picture, "is it red?", (("no", 1),)),
            Sample(picture, "is it red?", (("no", 1),)),
            Sample(picture, "is it red?", (("yes", 1),)),
            Sample(picture, "what color is it?", (("blue", 1),)),
        ]
    )
    assert prior("is it red?") == "no"
    assert prior("what color is the dog?") == "blue"
    assert prior("where?") == "no"


def test_answers_in_plain_form() -> None:
    assert plain_answer(" The Gray color. ") == "grey colour"
