"""A trained head without torch: the graph is the module, and what is broken is named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import twotower

torch = pytest.importorskip("torch")

from twotower.asking.head import Head
from twotower.encode.golden import golden_hash
from twotower.encode.onnx import write_head
from twotower.encode.patches import UnpooledEncoder, _averaging_matrix
from twotower.errors import ModelError
from twotower.model.answer_head import FusionHead
from twotower.model.config import FusionConfig
from twotower.model.weights import load_model

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
ANSWERS = ("yes", "no", "red")


@pytest.fixture
def head(tiny_directory: Path, tmp_path: Path) -> tuple[FusionHead, Path]:
    """A head with random weights on the tiny model, and its directory."""
    towers = UnpooledEncoder(tiny_directory)
    cells = towers.patches(towers.preprocess(PHOTOS / "cat.jpg")[None])
    tokens, _ = towers.tokens(["what?"])
    sizes = (cells.shape[2], tokens.shape[2], cells.shape[1])
    torch.manual_seed(0)
    module = FusionHead(FusionConfig(golden_hash(tiny_directory), ANSWERS, *sizes, width=16)).eval()
    write_head(module, tmp_path)
    return module, tmp_path


def test_the_graph_is_the_module(head: tuple[FusionHead, Path], tiny_directory: Path) -> None:
    module, directory = head
    read = Head(directory, tiny_directory)
    assert read.config == module.config
    model = load_model(tiny_directory)
    questions = ["is it red?", "what colour is the large car on the street?"]
    pixel_values = read.towers.preprocess(PHOTOS / "cat.jpg")[None]
    tokens, real = read.towers.tokens(questions)
    with torch.inference_mode():
        grid = model.vision.patches(torch.from_numpy(pixel_values))
        ids = torch.from_numpy(read.towers.tokenizer(questions).input_ids[:, : tokens.shape[1]])
        inputs = (grid, model.text.tokens(ids), torch.from_numpy(real), torch.tensor([0, 0]))
        expected = module(*inputs)
    cells = read.towers.patches(pixel_values)[0]
    np.testing.assert_allclose(read.logits(cells, tokens, real), expected, atol=0.01)  # float16


def test_engines_compute_the_same_cells_and_tokens(tiny_directory: Path) -> None:
    onnx, torch_cells = UnpooledEncoder(tiny_directory), UnpooledEncoder(tiny_directory, "torch")
    pixel_values = onnx.preprocess(PHOTOS / "cat.jpg")[None]
    np.testing.assert_allclose(
        onnx.patches(pixel_values), torch_cells.patches(pixel_values), atol=1e-4
    )
    for mine, theirs in zip(onnx.tokens(["is it?"]), torch_cells.tokens(["is it?"]), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("side", [8, 14, 16, 24])
def test_finer_cells_are_averaged_as_torch_does(side: int) -> None:
    grid = torch.randn(2, 3, side, side)
    mean = torch.from_numpy(_averaging_matrix(side))
    expected = torch.nn.functional.adaptive_avg_pool2d(grid, 7)
    torch.testing.assert_close(mean @ grid @ mean.T, expected)


@pytest.mark.parametrize("damage", ["missing", "cut", "graph", "json", "extra", "other"])
def test_a_damaged_head_is_one_line(
    head: tuple[FusionHead, Path], tiny_directory: Path, damage: str
) -> None:
    _, directory = head
    config, weights = directory / "head.json", directory / "head.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "graph":
        (directory / "head.onnx").write_bytes(b"no graph")
    elif damage == "json":
        config.write_text("{")
    elif damage == "extra":
        config.write_text(config.read_text().replace('"model"', '"modle"'))
    else:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"answers": ["yes", "no"]}))
    with pytest.raises(ModelError) as caught:
        Head(directory, tiny_directory)
    assert str(directory) in str(caught.value) and "\n" not in str(caught.value)


def test_the_bundled_head_answers_the_kinds_that_it_learned() -> None:
    kinds = {
        "what colour is the horse?": "head",
        "what is the horse doing?": "head",
        "is the horse brown?": "zero-shot",
        "where was this taken?": "zero-shot",
        "how many horses are there?": "zero-shot",
    }
    answered = list(twotower.ask(PHOTOS / "horse.jpg", list(kinds), top=None))
    assert {answer.question: answer.by for answer in answered} == kinds
    colour, doing = answered[:2]
    assert (colour.kind, colour.answer) == ("colour", "brown")
    assert doing.kind == "activity" and "running" in {reply.answer for reply in doing.replies}
    for answer in (colour, doing):
        assert sum(reply.probability or 0 for reply in answer.replies) == pytest.approx(1)
    [chosen] = twotower.ask(PHOTOS / "horse.jpg", "what colour is it?", answers=["red", "brown"])
    assert (chosen.by, chosen.kind) == ("zero-shot", "choice")


def test_each_of_many_pictures_is_answered(tmp_path: Path) -> None:
    pictures = [PHOTOS / "horse.jpg", tmp_path / "missing.jpg", PHOTOS / "elephant.png"]
    question = "what colour is the animal?"
    together = list(twotower.ask(pictures, ["is it an animal?", question]))
    assert [answer.error is None for answer in together] == [True, True, False, False, True, True]
    for answered in (together[1], together[5]):
        [alone] = twotower.ask(answered.source, question)
        assert [reply.answer for reply in alone.replies] == [
            reply.answer for reply in answered.replies
        ]
        assert alone.replies[0].probability == pytest.approx(
            answered.replies[0].probability, abs=1e-3
        )


def test_a_model_without_a_head_answers_zero_shot(
    head: tuple[FusionHead, Path], tiny_directory: Path, tmp_path: Path
) -> None:
    questions = ["what colour is it?", "what is the man doing?"]

    def by(directory: Path) -> list[str]:
        model = twotower.load(directory)
        return [answer.by for answer in twotower.ask(PHOTOS / "cat.jpg", questions, model=model)]

    assert by(tiny_directory) == ["zero-shot", "zero-shot"]
    copy = shutil.copytree(tiny_directory, tmp_path / "own")
    shutil.copytree(head[1], copy / "head", ignore=shutil.ignore_patterns("own"))
    assert by(copy) == ["head", "zero-shot"]  # it has the answer "red", but no activity
    (copy / "head" / "head.json").unlink()
    model = twotower.load(copy)
    [plain] = twotower.ask(PHOTOS / "cat.jpg", "is it red?", model=model)
    assert plain.error is None
    with pytest.raises(ModelError, match="no such file"):
        list(twotower.ask(PHOTOS / "cat.jpg", questions, model=model))


def test_the_bundled_head_needs_no_torch() -> None:
    code = (
        "import sys, twotower\n"
        f"[one] = twotower.ask({str(PHOTOS / 'horse.jpg')!r}, 'what colour is the horse?')\n"
        "assert one.by == 'head' and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
