"""Image towers of timm: published sizes, and every stage of tiny models.

The stages are those of timm and open_clip (tests/golden/timm, made by make_timm.py).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.model.test_open_clip_parity import weights
from twotower.encode.load import load
from twotower.encode.patches import UnpooledEncoder
from twotower.errors import ModelError
from twotower.model.clip import CLIP
from twotower.model.config import TextTransformerConfig
from twotower.model.foreign import ForeignModel, read_foreign, timm_trunks
from twotower.model.foreign.rename import export_tensors
from twotower.model.text import build_text
from twotower.model.vision import build_vision
from twotower.model.weights import build_model

GOLDEN = Path(__file__).parents[1] / "golden" / "timm"
TOLERANCE = 1e-5

VIT = {"image_size": 40, "patch_size": 8, "width": 16, "layers": 2, "heads": 2}
# the golden file: (timm's name, the sizes that are smaller in it)
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "pe-core": ("vit_pe_core_base_patch16_224", VIT | {"mlp_width": 32}),
    "pe-core-g": ("vit_pe_core_gigantic_patch14_448", VIT | {"mlp_width": 32}),
    "eva02": ("eva02_base_patch16_clip_224", VIT | {"mlp_width": 42}),
    "eva02-e": ("eva02_enormous_patch14_clip_224", VIT | {"mlp_width": 32}),
    "eva01": ("eva_giant_patch14_224", VIT | {"mlp_width": 32}),
}


@pytest.fixture
def shrink(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a published tower other settings under its name."""

    def change(name: str, **sizes: Any) -> None:
        tower = replace(timm_trunks.TRUNKS[name], **sizes)
        monkeypatch.setitem(timm_trunks.TRUNKS, name, tower)

    return change


def read_golden_model(golden: Mapping[str, Any], directory: Path) -> ForeignModel:
    tree = {"model_cfg": json.loads(str(golden["config"])), "preprocess_cfg": {}}
    (directory / "open_clip_config.json").write_text(json.dumps(tree))
    save_file(weights(golden), directory / "open_clip_model.safetensors")
    return read_foreign(directory)


def assert_stages(model: CLIP, golden: np.lib.npyio.NpzFile) -> None:
    outputs: dict[str, torch.Tensor] = {}
    for i, block in enumerate(model.vision.blocks):
        key = f"stages/vision.block.{i}"
        block.register_forward_hook(lambda _m, _i, out, key=key: outputs.__setitem__(key, out))
    with torch.inference_mode():
        pixel_values = torch.from_numpy(golden["pixel_values"]).float()
        outputs["stages/image_features"] = model.vision(pixel_values)
        outputs["stages/text_features"] = model.text(torch.from_numpy(golden["input_ids"]))
    stages = [name for name in golden.files if name.startswith("stages/")]
    assert outputs.keys() == set(stages)
    for name in stages:
        theirs = golden[name]
        tolerance = TOLERANCE * max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(outputs[name], theirs, atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize("name", TINY)
def test_stages(name: str, tmp_path: Path, shrink: Callable[..., None]) -> None:
    timm_name, sizes = TINY[name]
    shrink(timm_name, **sizes)
    with np.load(GOLDEN / f"{name}.npz") as golden:
        foreign = read_golden_model(golden, tmp_path)
        assert_stages(build_model(foreign.config, foreign.tensors, tmp_path), golden)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pe-core", {"rotary_order": "rows"}),
        ("pe-core", {"rotary_grid": 16}),
        ("pe-core", {"eps": 1e-3}),
        ("eva02", {"rotary_offset": 1.0}),
        ("eva02-e", {"block": "pre_norm"}),
    ],
)
def test_a_wrong_constant_would_show(
    name: str, change: dict[str, Any], tmp_path: Path, shrink: Callable[..., None]
) -> None:
    timm_name, sizes = TINY[name]
    shrink(timm_name, **sizes, **change)
    with np.load(GOLDEN / f"{name}.npz") as golden:
        foreign = read_golden_model(golden, tmp_path)
        with pytest.raises(AssertionError, match="stages/"):
            assert_stages(build_model(foreign.config, foreign.tensors, tmp_path), golden)


# open_clip's name: (timm's name, (text width, text layers, context length), embed_dim, parameters
# of the image tower, of the whole). The published figures in millions: open_clip's
# docs/model_profile.csv for EVA; otherwise the sums over the tensors of open_clip's models.
PUBLISHED = {
    "PE-Core-T-16-384": ("vit_pe_core_tiny_patch16_384", (512, 12, 32), 512, 6_141_056, 69_546_113),
    "PE-Core-S-16-384": (
        "vit_pe_core_small_patch16_384",
        (512, 12, 32),
        512,
        23_783_168,
        87_188_225,
    ),
    "PE-Core-B-16": ("vit_pe_core_base_patch16_224", (1024, 24, 32), 1024, 93_673_984, 447_660_545),
    "PE-Core-L-14-336": (
        "vit_pe_core_large_patch14_336",
        (1024, 24, 32),
        1024,
        317_152_256,
        671_138_817,
    ),
    "PE-Core-bigG-14-448": (
        "vit_pe_core_gigantic_patch14_448",
        (1280, 24, 72),
        1280,
        1_882_033_920,
        2_419_267_841,
    ),
    "EVA02-B-16": ("eva02_base_patch16_clip_224", (512, 12, 77), 512, 86_263_040, 149_691_137),
    "EVA02-L-14": ("eva02_large_patch14_clip_224", (768, 12, 77), 768, 304_105_152, 427_755_457),
    "EVA02-L-14-336": (
        "eva02_large_patch14_clip_336",
        (768, 12, 77),
        768,
        304_432_832,
        428_083_137,
    ),
    "EVA02-E-14": (
        "eva02_enormous_patch14_clip_224",
        (1024, 24, 77),
        1024,
        4_350_556_928,
        4_704_589_569,
    ),
    "EVA02-E-14-plus": (
        "eva02_enormous_patch14_clip_224",
        (1280, 32, 77),
        1024,
        4_350_556_928,
        5_044_889_089,
    ),
    "EVA01-g-14": ("eva_giant_patch14_224", (768, 12, 77), 1024, 1_012_588_928, 1_136_435_841),
    "EVA01-g-14-plus": (
        "eva_giant_patch14_224",
        (1024, 24, 77),
        1024,
        1_012_588_928,
        1_366_621_569,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    timm_name, (width, layers, context_length), embed_dim, image_tower, total = PUBLISHED[name]
    text = TextTransformerConfig(
        context_length, 49408, width, layers, width // 64, 4 * width, "gelu"
    )
    with torch.device("meta"):
        vision = build_vision(timm_trunks.TRUNKS[timm_name], embed_dim)
        towers = [*vision.parameters(), *build_text(text, embed_dim).parameters()]
    assert sum(parameter.numel() for parameter in vision.parameters()) == image_tower
    assert sum(parameter.numel() for parameter in towers) + 1 == total  # with logit_scale


LOADED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # the golden file of the sizes: (settings of the image tower, of the text tower)
    "pe-core": ({"timm_pool": "map"}, {"context_length": 32}),
    "eva02": ({"timm_pool": "token"}, {}),
}


def write_random(name: str, directory: Path) -> Path:
    """Write a directory of open_clip with random weights and 49408 token embeds."""
    timm_name, (vision_cfg, text_cfg) = TINY[name][0], LOADED[name]
    vision = timm_trunks.TRUNKS[timm_name]
    vision_cfg |= {"timm_model_name": timm_name, "image_size": vision.image_size}
    text_cfg |= {"width": 16, "heads": 2, "layers": 1}
    tree = {
        "model_cfg": {"embed_dim": 20, "vision_cfg": vision_cfg, "text_cfg": text_cfg},
        "preprocess_cfg": {"interpolation": "bilinear", "resize_mode": "squash"},
    }
    length = text_cfg.get("context_length", 77)
    text = TextTransformerConfig(length, 49408, 16, 1, 2, 64, "gelu")
    torch.manual_seed(0)
    towers = {"vision": build_vision(vision, 20), "text": build_text(text, 20)}
    ours = {
        f"{tower}.{name}": torch.randn_like(tensor) * 0.2 if tensor.is_floating_point() else tensor
        for tower, module in towers.items()
        for name, tensor in module.state_dict().items()
    }
    ours["logit_scale"] = torch.tensor(2.0)
    theirs = export_tensors(timm_trunks.trunk_table(vision), ours)
    theirs = {
        name if name.startswith(("visual.", "logit")) else f"text.{name}": tensor
        for name, tensor in theirs.items()
    }
    directory.mkdir()
    (directory / "open_clip_config.json").write_text(json.dumps(tree))
    save_file(theirs, directory / "open_clip_model.safetensors")
    return directory


@pytest.mark.parametrize("name", LOADED)
def test_load(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shrink: Callable[..., None]
) -> None:
    """A directory of open_clip is converted; its graphs reproduce the torch model."""
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    timm_name, sizes = TINY[name]
    shrink(timm_name, **sizes)
    encoder = load(write_random(name, tmp_path / "tiny"))
    assert encoder.verify() > 0.99999
    assert encoder.config.preprocess.interpolation == "bilinear"
    assert encoder.config.preprocess.resize == "squash"
    assert encoder.config.tokenizer.context_length == encoder.config.text.context_length
    assert encoder.encode_text(["a cat", "a red car in the rain"]).shape == (2, 20)
    for graph in ("vision.onnx", "cells.onnx"):
        assert (encoder.directory / graph).stat().st_size < 100_000
    patches = UnpooledEncoder(encoder.directory).patches(torch.rand(1, 3, 40, 40).numpy())
    assert patches.shape[1] == 25


def test_settings_that_open_clip_does_not_publish_are_refused(
    tmp_path: Path, shrink: Callable[..., None]
) -> None:
    shrink(TINY["eva02"][0], **TINY["eva02"][1])
    with np.load(GOLDEN / "eva02.npz") as golden:
        tree = json.loads(str(golden["config"]))
        tree["vision_cfg"]["timm_pool"] = "avg"
        with pytest.raises(ModelError, match="timm_pool is 'avg', which is not supported"):
            read_golden_model(dict(golden) | {"config": json.dumps(tree)}, tmp_path)
