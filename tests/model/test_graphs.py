"""The graphs that are written for a configuration have exactly the weights of the torch model."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from tests.tiny_models import tiny_config
from twotower.model.clip import CLIP
from twotower.model.config import ViTConfig
from twotower.model.graph import Graph
from twotower.model.graphs import has_graph, has_graphs, weight_shapes
from twotower.model.presets import PRESETS
from twotower.model.weight_files import expected_shapes


@pytest.mark.parametrize("name", PRESETS)
def test_weights_of_every_preset(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in CLIP(config).state_dict().items()}
    assert expected_shapes(config) == shapes
    assert has_graphs(config) == (name != "twotower-small")  # its image tower has no graph
    if has_graphs(config):
        assert weight_shapes(config) == shapes


@dataclass(frozen=True)
class RotaryConfig(ViTConfig):
    """A tower of a later version: another class."""


def test_a_tower_with_an_unknown_setting_has_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    vision = tiny_config().vision
    assert isinstance(vision, ViTConfig) and has_graph(vision)
    assert not has_graph(RotaryConfig(64, 16, 48, 2, 4, 96, "gelu"))
    followed = "image_size patch_size width layers heads mlp_width activation pool kind"
    monkeypatch.setattr("twotower.model.graphs.FOLLOWED", {ViTConfig: followed})
    assert has_graph(vision)  # its eps is the default
    assert not has_graph(replace(vision, eps=1e-6))


@pytest.mark.parametrize(
    ("tower", "settings"),
    [
        ("vision", {"pool": "average"}),
        ("vision", {"pool": "query", "pool_heads": 8}),
        ("vision", {"no_ln_pre": True}),
        ("vision", {"patch_bias": True}),
        ("text", {"projection": "none"}),
        ("text", {"class_token": True}),
        ("text", {"bidirectional": True}),
    ],
)
def test_forms_of_other_families_have_no_graph(tower: str, settings: dict[str, Any]) -> None:
    """Their shapes are those of the torch model, which exports them."""
    towers: dict[str, Any] = {tower: replace(getattr(tiny_config(), tower), **settings)}
    config = replace(tiny_config(), **towers)
    assert not has_graphs(config)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in CLIP(config).state_dict().items()}
    assert expected_shapes(config) == shapes


def test_equal_constants_are_stored_once() -> None:
    graph = Graph()
    assert graph.integers([1, 2]) == graph.integers((1, 2)) != graph.integers([1])
    assert graph.floats(1) != graph.integers(1)
    assert len(graph.constants) == 4
