"""A trained head without torch: the graph is the module, and what is broken is named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from twotower.asking.head import Head, HeadError
from twotower.encode.cells import Cells, _windows
from twotower.encode.export import write_head
from twotower.encode.golden import model_hash
from twotower.model.config import FusionConfig
from twotower.model.fusion import FusionHead
from twotower.model.weights import load_model

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
ANSWERS = ("yes", "no", "red")


@pytest.fixture
def head(tiny_directory: Path, tmp_path: Path) -> tuple[FusionHead, Path]:
    """A head of random weights on the tiny model, and where it is written."""
    towers = Cells(tiny_directory)
    cells = towers.of_pictures(towers.preprocess(PHOTOS / "cat.jpg")[None])
    tokens, _ = towers.of_questions(["what?"])
    sizes = (cells.shape[2], tokens.shape[2], cells.shape[1])
    torch.manual_seed(0)
    module = FusionHead(FusionConfig(model_hash(tiny_directory), ANSWERS, *sizes, width=16)).eval()
    write_head(module, tmp_path)
    return module, tmp_path


def test_the_graph_is_the_module(head: tuple[FusionHead, Path], tiny_directory: Path) -> None:
    module, directory = head
    read = Head(directory, tiny_directory)
    assert read.config == module.config
    model = load_model(tiny_directory)
    questions = ["is it red?", "what colour is the large car on the street?"]
    pixel_values = read.towers.preprocess(PHOTOS / "cat.jpg")[None]
    tokens, real = read.towers.of_questions(questions)
    with torch.inference_mode():
        grid = model.vision.grid(torch.from_numpy(pixel_values))
        ids = torch.from_numpy(read.towers.tokenizer(questions).input_ids[:, : tokens.shape[1]])
        inputs = (grid, model.text.tokens(ids), torch.from_numpy(real), torch.tensor([0, 0]))
        expected = module(*inputs)
    cells = read.towers.of_pictures(pixel_values)[0]
    np.testing.assert_allclose(read.logits(cells, tokens, real), expected, atol=0.01)  # float16


def test_every_engine_sees_the_same(tiny_directory: Path) -> None:
    one, other = Cells(tiny_directory), Cells(tiny_directory, "torch")
    pixel_values = one.preprocess(PHOTOS / "cat.jpg")[None]
    np.testing.assert_allclose(
        one.of_pictures(pixel_values), other.of_pictures(pixel_values), atol=1e-4
    )
    for mine, theirs in zip(
        one.of_questions(["is it?"]), other.of_questions(["is it?"]), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("side", [8, 14, 16, 24])
def test_finer_cells_are_averaged_as_torch_does(side: int) -> None:
    grid = torch.randn(2, 3, side, side)
    mean = torch.from_numpy(_windows(side))
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
    with pytest.raises(HeadError) as caught:
        Head(directory, tiny_directory)
    assert str(directory) in str(caught.value) and "\n" not in str(caught.value)
