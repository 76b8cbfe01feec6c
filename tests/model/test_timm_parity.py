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
from safetensors.numpy import save_file

from tests.golden.named_weights import named_weights
from twotower.encode.load import load
from twotower.encode.patches import UnpooledEncoder
from twotower.errors import ModelError
from twotower.inputs.preprocess import PreprocessConfig
from twotower.inputs.tokenizer import OPENAI_TOKENIZER
from twotower.model import fastvit
from twotower.model.clip import CLIP
from twotower.model.config import TextTransformerConfig
from twotower.model.fastvit import FastViT
from twotower.model.foreign import ForeignModel, read_foreign
from twotower.model.foreign.open_clip_tables import open_clip_table
from twotower.model.foreign.rename import export_tensors
from twotower.model.foreign.timm_towers import FASTVITS, TIMM_TOWERS
from twotower.model.presets import preset
from twotower.model.text import build_text
from twotower.model.vision import build_vision
from twotower.model.weight_files import save_arrays
from twotower.model.weights import build_model

GOLDEN = Path(__file__).parents[1] / "golden" / "timm"
TOLERANCE = 1e-5

VIT = {"image_size": 40, "patch_size": 8, "width": 16, "layers": 2, "heads": 2}
CONV_VIT = {"width": 16, "layers": 2, "heads": 2, "mlp_width": 32}
# the golden file: (timm's name, the sizes that are smaller in it)
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "pe-core": ("vit_pe_core_base_patch16_224", VIT | {"mlp_width": 32}),
    "pe-core-g": ("vit_pe_core_gigantic_patch14_448", VIT | {"mlp_width": 32}),
    "eva02": ("eva02_base_patch16_clip_224", VIT | {"mlp_width": 42}),
    "eva02-e": ("eva02_enormous_patch14_clip_224", VIT | {"mlp_width": 32}),
    "eva01": ("eva_giant_patch14_224", VIT | {"mlp_width": 32}),
    "mobileclip-b": ("vit_base_mci_224", CONV_VIT),
    "mobileclip2-l": ("vit_large_patch14_clip_224", VIT | {"mlp_width": 32}),
    "mobileclip-s0": ("fastvit_mci0", {"layers": (1, 1, 1, 1), "widths": (4, 8, 16, 32)}),
    "mobileclip-s3": ("fastvit_mci3", {"layers": (1, 1, 1, 1, 1), "widths": (4, 8, 16, 32, 32)}),
    "vitamin": ("vitamin_base_224", CONV_VIT | {"stem_widths": (8, 12)}),
    "vitamin-xl": ("vitamin_xlarge_336", CONV_VIT | {"stem_widths": (8, 12)}),
}


@pytest.fixture
def shrink(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a published tower other settings under its name."""

    def change(name: str, **sizes: Any) -> None:
        towers: Any = FASTVITS if name in FASTVITS else TIMM_TOWERS
        monkeypatch.setitem(towers, name, replace(towers[name], **sizes))

    return change


def read_golden_model(golden: Mapping[str, Any], directory: Path) -> ForeignModel:
    tree = {"model_cfg": json.loads(str(golden["config"])), "preprocess_cfg": {}}
    (directory / "open_clip_config.json").write_text(json.dumps(tree))
    tensors = named_weights(json.loads(str(golden["shapes"])))
    save_file(tensors, directory / "open_clip_model.safetensors")
    return read_foreign(directory)


def assert_stages(model: CLIP, golden: np.lib.npyio.NpzFile) -> None:
    outputs: dict[str, torch.Tensor] = {}
    vision = model.vision
    if isinstance(vision, FastViT):
        modules = {"stem": vision.stem, "final": vision.final}
        modules |= {f"stage.{i}": stage for i, stage in enumerate(vision.stages)}
    else:
        modules = {f"block.{i}": block for i, block in enumerate(vision.blocks)}
    for name, module in modules.items():
        key = f"stages/vision.{name}"
        module.register_forward_hook(lambda _m, _i, out, key=key: outputs.__setitem__(key, out))
    with torch.inference_mode():
        pixel_values = torch.from_numpy(golden["pixel_values"]).float()
        outputs["stages/image_features"] = model.vision(pixel_values)
        outputs["stages/text_features"] = model.text(torch.from_numpy(golden["input_ids"]))
    stages = [name for name in golden.files if name.startswith("stages/")]
    assert outputs.keys() == set(stages)
    for name in stages:
        theirs = golden[name]
        assert np.isfinite(theirs).all()
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
        ("vitamin", {"eps": 1e-3}),
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


def test_a_wrong_width_of_heads_would_show(
    tmp_path: Path, shrink: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    timm_name, sizes = TINY["mobileclip-s0"]
    shrink(timm_name, **sizes)
    monkeypatch.setattr(fastvit, "HEAD_WIDTH", 16)
    with np.load(GOLDEN / "mobileclip-s0.npz") as golden:
        foreign = read_golden_model(golden, tmp_path)
        with pytest.raises(AssertionError, match=r"stages/vision\.stage\.3"):
            assert_stages(build_model(foreign.config, foreign.tensors, tmp_path), golden)


# open_clip's name, timm's name, (text width, text layers, context length), embed_dim, parameters of
# the image tower and of the whole. The published figures are in open_clip's
# docs/model_profile.csv for EVA; the others are the sums over the tensors of open_clip's models.
PUBLISHED = (
    ("PE-Core-T-16-384", "vit_pe_core_tiny_patch16_384", (512, 12, 32), 512, 6_141_056, 69_546_113),
    (
        "PE-Core-S-16-384",
        "vit_pe_core_small_patch16_384",
        (512, 12, 32),
        512,
        23_783_168,
        87_188_225,
    ),
    ("PE-Core-B-16", "vit_pe_core_base_patch16_224", (1024, 24, 32), 1024, 93_673_984, 447_660_545),
    (
        "PE-Core-L-14-336",
        "vit_pe_core_large_patch14_336",
        (1024, 24, 32),
        1024,
        317_152_256,
        671_138_817,
    ),
    (
        "PE-Core-bigG-14-448",
        "vit_pe_core_gigantic_patch14_448",
        (1280, 24, 72),
        1280,
        1_882_033_920,
        2_419_267_841,
    ),
    ("EVA02-B-16", "eva02_base_patch16_clip_224", (512, 12, 77), 512, 86_263_040, 149_691_137),
    ("EVA02-L-14", "eva02_large_patch14_clip_224", (768, 12, 77), 768, 304_105_152, 427_755_457),
    (
        "EVA02-L-14-336",
        "eva02_large_patch14_clip_336",
        (768, 12, 77),
        768,
        304_432_832,
        428_083_137,
    ),
    (
        "EVA02-E-14",
        "eva02_enormous_patch14_clip_224",
        (1024, 24, 77),
        1024,
        4_350_556_928,
        4_704_589_569,
    ),
    (
        "EVA02-E-14-plus",
        "eva02_enormous_patch14_clip_224",
        (1280, 32, 77),
        1024,
        4_350_556_928,
        5_044_889_089,
    ),
    ("EVA01-g-14", "eva_giant_patch14_224", (768, 12, 77), 1024, 1_012_588_928, 1_136_435_841),
    (
        "EVA01-g-14-plus",
        "eva_giant_patch14_224",
        (1024, 24, 77),
        1024,
        1_012_588_928,
        1_366_621_569,
    ),
    ("MobileCLIP-S1", "fastvit_mci1", (512, 12, 77), 512, 21_541_632, 84_969_729),
    ("MobileCLIP-S2", "fastvit_mci2", (512, 12, 77), 512, 35_815_232, 99_243_329),
    ("MobileCLIP-B", "vit_base_mci_224", (512, 12, 77), 512, 86_349_056, 149_777_153),
    ("MobileCLIP2-S0", "fastvit_mci0", (512, 12, 77), 512, 11_406_976, 74_835_073),
    ("MobileCLIP2-S3", "fastvit_mci3", (768, 12, 77), 768, 125_235_648, 248_885_953),
    ("MobileCLIP2-S4", "fastvit_mci4", (768, 12, 77), 768, 321_784_832, 445_435_137),
    (
        "MobileCLIP2-L-14",
        "vit_large_patch14_clip_224",
        (768, 12, 77),
        768,
        303_966_976,
        427_617_281,
    ),
    ("ViTamin-S", "vitamin_small_224", (384, 12, 77), 384, 22_025_152, 62_469_185),
    ("ViTamin-S-LTT", "vitamin_small_224", (768, 12, 77), 768, 22_172_608, 145_822_913),
    ("ViTamin-B", "vitamin_base_224", (512, 12, 77), 512, 87_525_248, 150_953_345),
    ("ViTamin-B-LTT", "vitamin_base_224", (768, 12, 77), 768, 87_721_856, 211_372_161),
    ("ViTamin-L", "vitamin_large_224", (768, 12, 77), 768, 333_318_048, 456_968_353),
    ("ViTamin-L-384", "vitamin_large_384", (768, 12, 77), 768, 333_707_168, 457_357_473),
    ("ViTamin-L2-336", "vitamin_large2_336", (1024, 24, 77), 1024, 333_831_072, 687_863_713),
    ("ViTamin-XL-256", "vitamin_xlarge_256", (1152, 27, 77), 1152, 436_054_080, 924_776_257),
)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_published_sizes(row: tuple[str, str, tuple[int, int, int], int, int, int]) -> None:
    name, timm_name, (width, layers, context_length), embed_dim, image_tower, total = row
    text = TextTransformerConfig(
        context_length, 49408, width, layers, width // 64, 4 * width, "gelu"
    )
    tower: Any = (FASTVITS | TIMM_TOWERS)[timm_name]
    if "vitamin_large" in timm_name:
        tower = replace(tower, image_size=int(timm_name[-3:]))
    with torch.device("meta"):
        vision = build_vision(tower, embed_dim)
        towers = [*vision.parameters(), *build_text(text, embed_dim).parameters()]
    assert sum(parameter.numel() for parameter in vision.parameters()) == image_tower, name
    assert sum(parameter.numel() for parameter in towers) + 1 == total  # with logit_scale


SQUASHED = {"interpolation": "bilinear", "resize_mode": "squash"}
UNSCALED = {"interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1]}
# the golden file of the sizes: (settings of the image tower, of the text tower, of pictures,
# number of patches)
LOADED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]] = {
    "pe-core": ({"image_size": 40, "timm_pool": "map"}, {"context_length": 32}, SQUASHED, 25),
    "eva02": ({"image_size": 40, "timm_pool": "token"}, {}, {}, 25),
    "mobileclip-s0": (
        {"image_size": 64, "timm_pool": "avg"},
        {"no_causal_mask": True},
        UNSCALED,
        4,
    ),
    "vitamin": ({"image_size": 64, "timm_pool": "", "timm_proj": "linear"}, {}, {}, 16),
}


def write_random(name: str, directory: Path) -> Path:
    """Write a directory of open_clip with random weights and 49408 token embeds."""
    timm_name = TINY[name][0]
    vision_cfg, text_cfg, preprocess_cfg, _ = LOADED[name]
    towers: Any = FASTVITS | TIMM_TOWERS
    vision = replace(towers[timm_name], image_size=vision_cfg["image_size"])
    vision_cfg = vision_cfg | {"timm_model_name": timm_name}
    text_cfg = text_cfg | {"width": 16, "heads": 2, "layers": 1}
    tree = {
        "model_cfg": {"embed_dim": 20, "vision_cfg": vision_cfg, "text_cfg": text_cfg},
        "preprocess_cfg": preprocess_cfg,
    }
    length, bidirectional = text_cfg.get("context_length", 77), "no_causal_mask" in text_cfg
    text = TextTransformerConfig(
        length,
        49408,
        16,
        1,
        2,
        64,
        "gelu",
        projection="linear",
        bidirectional=bidirectional,
    )
    torch.manual_seed(0)
    modules = {"vision": build_vision(vision, 20), "text": build_text(text, 20)}
    ours = {
        f"{tower}.{name}": 1 + torch.rand_like(tensor)
        if "running_var" in name
        else torch.randn_like(tensor) * 0.2
        if tensor.is_floating_point()
        else tensor
        for tower, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    ours["logit_scale"] = torch.tensor(2.0)
    config = replace(
        preset("ViT-B-16"),
        name="tiny",
        vision=vision,
        text=text,
        embed_dim=20,
        preprocess=PreprocessConfig(vision.image_size),
        tokenizer=replace(OPENAI_TOKENIZER, context_length=length),
    )
    theirs = export_tensors(open_clip_table(config, "text."), ours)
    directory.mkdir()
    (directory / "open_clip_config.json").write_text(json.dumps(tree))
    save_arrays(theirs, directory / "open_clip_model.safetensors")
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
    _, _, preprocess_cfg, patches = LOADED[name]
    preprocess, size = encoder.config.preprocess, encoder.config.vision.image_size
    for key, value in preprocess_cfg.items():
        key = {"resize_mode": "resize"}.get(key, key)
        assert getattr(preprocess, key) == (tuple(value) if isinstance(value, list) else value)
    assert encoder.config.tokenizer.context_length == encoder.config.text.context_length
    assert encoder.encode_text(["a cat", "a red car in the rain"]).shape == (2, 20)
    for graph in ("vision.onnx", "cells.onnx"):
        assert (encoder.directory / graph).stat().st_size < 200_000
    pixel_values = torch.rand(1, 3, size, size).numpy()
    assert UnpooledEncoder(encoder.directory).patches(pixel_values).shape[1] == patches


def test_settings_that_open_clip_does_not_publish_are_refused(
    tmp_path: Path, shrink: Callable[..., None]
) -> None:
    shrink(TINY["eva02"][0], **TINY["eva02"][1])
    with np.load(GOLDEN / "eva02.npz") as golden:
        tree = json.loads(str(golden["config"]))
        tree["vision_cfg"]["timm_pool"] = "avg"
        with pytest.raises(ModelError, match="timm_pool is 'avg', which is not supported"):
            read_golden_model(dict(golden) | {"config": json.dumps(tree)}, tmp_path)
