"""`convert --image-size`: models for smaller pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

import twotower
from twotower.cli.main import main
from twotower.encode.convert import Format
from twotower.encode.load import find_model
from twotower.inputs.preprocess import Preprocess
from twotower.model.config import read_config
from twotower.model.weights import load_model
from twotower.train.adapt import adapt_model

PHOTOS = sorted((Path(__file__).parents[2] / "examples" / "photos").glob("*.jpg"))[:8]


def test_embeds_are_those_of_the_resized_model(tiny_directory: Path, tmp_path: Path) -> None:
    twotower.convert(tiny_directory, tmp_path / "small", image_size=48)
    small = twotower.load(tmp_path / "small")
    assert small.verify() > 0.99999 and small.config.name == "tiny-48"
    model = adapt_model(load_model(tiny_directory), small.config).eval()
    pixel_values = np.stack([Preprocess(small.config.preprocess)(path) for path in PHOTOS])
    assert pixel_values.shape == (8, 3, 48, 48)
    with torch.inference_mode():
        expected = model.encode_image(torch.from_numpy(pixel_values))
    np.testing.assert_allclose(small.encode_image(PHOTOS), expected, atol=1e-5)
    texts = ["a cat", "a red car"]
    whole = twotower.load(tiny_directory)
    np.testing.assert_array_equal(small.encode_text(texts), whole.encode_text(texts))


@pytest.mark.parametrize("form", ["transformers", "open_clip"])
def test_in_other_formats(
    tiny_directory: Path, tmp_path: Path, form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    twotower.convert(tiny_directory, tmp_path / "ours", image_size=96)
    twotower.convert(tiny_directory, tmp_path / "theirs", form, image_size=96)
    ours, theirs = (find_model(tmp_path / name) for name in ("ours", "theirs"))
    assert read_config(theirs).preprocess.image_size == 96
    weights, expected = (load_model(directory).state_dict() for directory in (theirs, ours))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_the_bundled_model_stays_small_and_similar(tmp_path: Path) -> None:
    twotower.convert(find_model("base"), tmp_path / "fast", image_size=192)
    assert sum(path.stat().st_size for path in (tmp_path / "fast").iterdir()) < 100e6
    fast, base = twotower.load(tmp_path / "fast"), twotower.load("base")
    image_embeds, expected = fast.encode_image(PHOTOS), base.encode_image(PHOTOS)
    assert (image_embeds * expected).sum(axis=1).min() > 0.8
    assert (image_embeds @ expected.T).argmax(axis=1).tolist() == list(range(len(PHOTOS)))


def test_the_command(
    tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", str(tiny_directory), str(tmp_path / "small"), "--image-size"]
    assert main([*command, "50"]) == 1
    assert "not a multiple of its patch size, 16; give 48" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()
    assert main([*command, "48"]) == 0
    assert "twotower calibrate" in capsys.readouterr().out
    assert twotower.load(tmp_path / "small").config.vision.image_size == 48


def test_graphs_have_one_size(
    tiny_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twotower.convert(tiny_directory, tmp_path / "pair", "onnx")
    command = ["convert", str(tmp_path / "pair"), str(tmp_path / "small"), "--image-size", "48"]
    assert main(command) == 1
    assert "convert the original weights" in capsys.readouterr().err
