"""Graphs that are written without torch compute what torch's own export computes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

from tests.tiny_models import random_tensors, resnet_config, siglip_config, tiny_config
from twotower.arrays import normalize
from twotower.encode.convert import write_directory
from twotower.encode.engine import start_engine
from twotower.encode.golden import read_golden
from twotower.encode.graphs import write_graphs
from twotower.encode.onnx import TEXT_TOWERS, export_onnx, vision_towers
from twotower.encode.sessions import GRAPH_FILES
from twotower.errors import VerificationError
from twotower.model.config import Activation, CLIPConfig, SentenceEncoderConfig
from twotower.model.weight_files import save_weights
from twotower.model.weights import load_model


def with_activation(activation: Activation) -> CLIPConfig:
    config = tiny_config()
    vision, text = (replace(tower, activation=activation) for tower in (config.vision, config.text))
    return replace(config, vision=vision, text=text)


def sentence_config() -> CLIPConfig:
    """Return a sentence encoder with a hidden layer and a lexicon beside a ResNet."""
    text = SentenceEncoderConfig(
        77, 400, 32, 2, 2, 64, hidden_width=16, lexicon_size=9, lexicon_rank=32
    )
    return replace(resnet_config(), text=text)


FAMILIES: dict[str, Callable[[], CLIPConfig]] = {
    "ViT": tiny_config,
    "ViT-gelu": lambda: with_activation("gelu"),
    "ViT-relu": lambda: with_activation("relu"),
    "SigLIP": siglip_config,
    "ResNet": resnet_config,
    "sentence": sentence_config,
}


def batches(config: CLIPConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel_values [3, 3, S, S] and input_ids [4, L] with ends, padding and names."""
    random, size = np.random.default_rng(0), config.vision.image_size
    pixel_values = random.standard_normal((3, 3, size, size)).astype(np.float32)
    input_ids = random.integers(1, 400, (4, config.tokenizer.max_length))
    if not config.logit_bias:  # texts of a variable length
        input_ids = input_ids[:, :12]
        input_ids[:, 9:] = 49407 if config.text.kind == "transformer" else 405  # end, or a name
        input_ids[1, 6:9] = getattr(config.text, "pad_id", 49407)
    return pixel_values, input_ids


def assert_same_direction(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    rows = [normalize(features.reshape(-1, features.shape[-1])) for features in (ours, theirs)]
    assert (rows[0] * rows[1]).sum(axis=1).min() >= 0.99999


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_compute_what_the_torch_model_computes(
    family: str, int8: bool, tmp_path: Path
) -> None:
    config = FAMILIES[family]()
    towers = (*vision_towers(config), *TEXT_TOWERS)
    save_weights(config, random_tensors(config), tmp_path, int8)
    write_graphs(config, tmp_path, towers)
    pixel_values, input_ids = batches(config)
    for tower in towers:
        batch = input_ids if tower in TEXT_TOWERS else pixel_values
        expected = start_engine("torch", tmp_path, tower)(batch)
        for engine in ("onnxruntime", "openvino"):
            compute = start_engine(engine, tmp_path, tower)
            assert_same_direction(compute(batch), expected)
            assert_same_direction(compute(batch[:1]), expected[:1])


@pytest.mark.slow  # the export of a graph takes seconds
@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_equal_the_export_of_torch(family: str, tmp_path: Path) -> None:
    config = FAMILIES[family]()
    towers = (*vision_towers(config), *TEXT_TOWERS)
    for name in ("direct", "exported"):
        save_weights(config, random_tensors(config), tmp_path / name)
    write_graphs(config, tmp_path / "direct", towers)
    export_onnx(load_model(tmp_path / "exported"), tmp_path / "exported", towers)
    pixel_values, input_ids = batches(config)
    for tower in towers:
        batch = input_ids if tower in TEXT_TOWERS else pixel_values
        direct, exported = (
            start_engine("onnxruntime", tmp_path / name, tower)(batch)
            for name in ("direct", "exported")
        )
        assert_same_direction(direct, exported)


@pytest.mark.parametrize("make", [tiny_config, resnet_config])
def test_weights_have_the_bytes_that_torch_writes(
    make: Callable[[], CLIPConfig], tmp_path: Path
) -> None:
    tensors = random_tensors(make())
    save_weights(make(), tensors, tmp_path)
    save_file(tensors, tmp_path / "torch.safetensors")
    expected = (tmp_path / "torch.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == expected


def test_a_graph_holds_no_weights(tiny_directory: Path) -> None:
    for name in GRAPH_FILES.values():
        assert (tiny_directory / name).stat().st_size < 50_000


@pytest.mark.parametrize(
    ("name", "factor", "message"),
    [
        ("vision.proj.weight", float("nan"), "the vision tower computes NaN or infinity"),
        ("text.proj.weight", 0.0, "the text tower computes the same for different inputs"),
    ],
)
def test_damaged_weights_are_not_converted(
    name: str, factor: float, message: str, tmp_path: Path
) -> None:
    tensors = random_tensors(tiny_config())
    tensors[name] *= factor
    with pytest.raises(VerificationError, match=message):
        write_directory(tiny_config(), tensors, (), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_towers_without_graphs_are_exported_by_torch(
    tiny_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.encode.convert.has_graphs", lambda config: False)
    config = tiny_config()
    write_directory(config, random_tensors(config), (), tmp_path / "model")
    exported, direct = read_golden(tmp_path / "model"), read_golden(tiny_directory)
    assert_same_direction(exported.image_embeds, direct.image_embeds)
    assert_same_direction(exported.text_embeds, direct.text_embeds)
