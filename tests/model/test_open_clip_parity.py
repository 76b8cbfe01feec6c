"""Every stage of tiny models equals that of open_clip 3.3.0 (tests/golden/open_clip)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from twotower.inputs.preprocess import PreprocessConfig
from twotower.inputs.tokenizer import OPENAI_TOKENIZER, SIGLIP_TOKENIZER
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, ResNetConfig, TextTransformerConfig, ViTConfig
from twotower.model.foreign import read_foreign
from twotower.model.foreign.open_clip import import_open_clip
from twotower.model.weights import build_model
from twotower.train.loss import clip_loss, siglip_loss

GOLDEN = Path(__file__).parents[1] / "golden" / "open_clip"
TOLERANCE = 1e-5


def weights(golden: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    names = [name for name in golden if name.startswith("weights/")]
    return {
        name.removeprefix("weights/"): torch.from_numpy(golden[name]).float()
        if golden[name].dtype == np.float16
        else torch.from_numpy(golden[name])
        for name in names
    }


def observe(
    model: CLIP, pixel_values: np.ndarray, input_ids: np.ndarray
) -> dict[str, torch.Tensor]:
    """Return the stages of our towers under the names of the golden files."""
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _m, _i, output: outputs.__setitem__(name, output))

    vision, text = model.vision, model.text
    stages = list(vision.stages if isinstance(model.config.vision, ResNetConfig) else vision.blocks)
    keep("vision.embeddings", vision.stem if hasattr(vision, "stem") else vision.ln_pre)
    for i, block in enumerate(stages):
        keep(f"vision.block.{i}", block)
    for i, block in enumerate(text.blocks):
        keep(f"text.block.{i}", block)
    keep("text.final", text.ln_final)
    keep("image_features", vision)
    keep("text_features", text)
    with torch.inference_mode():
        output = model(torch.from_numpy(pixel_values), torch.from_numpy(input_ids))
    outputs["image_embeds"], outputs["text_embeds"] = output.image_embeds, output.text_embeds
    outputs["logits_per_image"] = output.logits_per_image
    outputs["clip_loss"] = clip_loss(output.logits_per_image)
    outputs["siglip_loss"] = siglip_loss(output.logits_per_image - 10)
    return outputs


def assert_stages(model: CLIP, golden: np.lib.npyio.NpzFile) -> None:
    outputs = observe(model, golden["pixel_values"], golden["input_ids"])
    stages = [name for name in golden.files if name.startswith("stages/")]
    assert len(stages) >= 6
    for name in stages:
        ours = outputs[name.removeprefix("stages/")].numpy()
        scale = max(1.0, float(np.abs(golden[name]).max()))  # losses and logits exceed 1
        np.testing.assert_allclose(ours, golden[name], atol=TOLERANCE * scale, rtol=0, err_msg=name)


@pytest.mark.parametrize("name", ["vit", "vit-gelu", "resnet"])
def test_clip_stages(name: str, tmp_path: Path) -> None:
    with np.load(GOLDEN / f"{name}.npz") as golden:
        directory = tmp_path / name
        directory.mkdir()
        config = json.loads(str(golden["config"]))
        (directory / "open_clip_config.json").write_text(json.dumps(config))
        save_file(weights(golden), directory / "open_clip_model.safetensors")
        foreign = read_foreign(directory)
        assert foreign.config.preprocess.mean == (0.5, 0.5, 0.5)
        assert foreign.config.preprocess.std == (0.25, 0.25, 0.25)
        model = build_model(foreign.config, foreign.tensors, directory)
        assert_stages(model, golden)


def test_siglip_stages() -> None:
    vision = ViTConfig(32, 8, 40, 2, 2, 80, "gelu", pool="map", eps=1e-6)
    text = TextTransformerConfig(16, 96, 32, 2, 2, 128, "gelu", eos_id=None, eps=1e-6)
    config = CLIPConfig(
        "tiny",
        40,
        vision,
        text,
        PreprocessConfig(image_size=32),
        tokenizer=SIGLIP_TOKENIZER.__class__(**{**vars(SIGLIP_TOKENIZER), "context_length": 16}),
        logit_bias=True,
    )
    with np.load(GOLDEN / "siglip.npz") as golden:
        tensors = import_open_clip(config, weights(golden), GOLDEN)
        assert_stages(build_model(config, tensors, GOLDEN), golden)


def test_a_wrong_activation_would_show(tmp_path: Path) -> None:
    """The tolerance is tight enough to distinguish QuickGELU from GELU."""
    with np.load(GOLDEN / "vit.npz") as golden:
        vision = ViTConfig(32, 8, 40, 2, 2, 100, "gelu")
        text = TextTransformerConfig(16, 96, 32, 2, 2, 128, "gelu", eos_id=95)
        tokenizer = OPENAI_TOKENIZER.__class__(**{**vars(OPENAI_TOKENIZER), "context_length": 16})
        preprocess = PreprocessConfig(image_size=32)
        config = CLIPConfig("wrong", 24, vision, text, preprocess, tokenizer)
        tensors = import_open_clip(config, weights(golden), tmp_path)
        with pytest.raises(AssertionError, match=r"vision\.block\.0"):
            assert_stages(build_model(config, tensors, tmp_path), golden)
