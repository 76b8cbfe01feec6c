"""Comparison with transformers, stage by stage: equal weights give equal numbers within 1e-5.

Variants of the architectures are compared with the installed transformers, and two models with the
arrays in tests/golden/transformers, made by an earlier version. Weights are renamed here
independently of `twotower.model.foreign`, so that neither hides a mistake of the other.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from twotower.inputs.preprocess import PreprocessConfig
from twotower.inputs.tokenizer import OPENAI_TOKENIZER
from twotower.model.clip import CLIP
from twotower.model.config import (
    Activation,
    CLIPConfig,
    SentenceEncoderConfig,
    TextTransformerConfig,
    ViTConfig,
)
from twotower.model.text import SentenceEncoder
from twotower.train.loss import clip_loss, siglip_loss

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5  # absolute, on values of up to about 10

_spec = importlib.util.spec_from_file_location("make", GOLDEN / "make_transformers.py")
assert _spec is not None and _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


# Conversion of their configuration and weights.

ACTIVATIONS: dict[str, Activation] = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
CLIP_NAMES = (
    (r"vision_model\.embeddings\.class_embedding", "vision.class_embed"),
    (r"vision_model\.embeddings\.patch_embedding", "vision.patch_embed"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "vision.pos_embed"),
    (r"vision_model\.pre_layrnorm", "vision.ln_pre"),
    (r"vision_model\.post_layernorm", "vision.ln_post"),
    (r"vision_model\.head\.attention\.in_proj_", "vision.pool.qkv."),
    (r"vision_model\.head\.attention\.out_proj", "vision.pool.out"),
    (r"vision_model\.head\.layernorm", "vision.pool.ln"),
    (r"vision_model\.head", "vision.pool"),
    (r"visual_projection", "vision.proj"),
    (r"text_model\.embeddings\.token_embedding", "text.token_embed"),
    (r"text_model\.embeddings\.position_embedding\.weight", "text.pos_embed"),
    (r"text_model\.final_layer_norm", "text.ln_final"),
    (r"text_model\.head|text_projection", "text.proj"),
    (r"(vision|text)_model\.encoder\.layers", r"\1.blocks"),
    (r"self_attn\.out_proj", "attn.out"),
    (r"self_attn", "attn"),
    (r"layer_norm(\d)", r"ln_\1"),
)
BERT_NAMES = (
    (r"embeddings\.word_embeddings", "token_embed"),
    (r"embeddings\.LayerNorm", "ln_embed"),
    (r"encoder\.layer", "blocks"),
    (r"attention\.self\.query", "attn.q_proj"),
    (r"attention\.self\.key", "attn.k_proj"),
    (r"attention\.self\.value", "attn.v_proj"),
    (r"attention\.output\.dense", "attn.out"),
    (r"attention\.output\.LayerNorm", "ln_1"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    (r"output\.LayerNorm", "ln_2"),
)


def renamed(theirs: dict[str, Tensor], names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """Return their tensors under our names, with q, k and v of each block stacked."""
    ours = {}
    for name, tensor in theirs.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        ours[name] = tensor.reshape(()) if name in ("logit_scale", "logit_bias") else tensor
    for name in [name for name in ours if ".q_proj." in name]:
        stacked = [ours.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        ours[name.replace(".q_proj.", ".qkv.")] = torch.cat(stacked)
    return ours


def our_config(theirs: dict[str, Any]) -> CLIPConfig:
    vision, text = theirs["vision_config"], theirs["text_config"]
    siglip = theirs["model_type"] == "siglip"

    def shape(tower: dict[str, Any]) -> dict[str, Any]:
        return {
            "width": tower["hidden_size"],
            "layers": tower["num_hidden_layers"],
            "heads": tower["num_attention_heads"],
            "mlp_width": tower["intermediate_size"],
            "activation": ACTIVATIONS[tower["hidden_act"]],
            "eps": tower["layer_norm_eps"],
        }

    length = text["max_position_embeddings"]
    return CLIPConfig(
        name="parity",
        embed_dim=vision["hidden_size"] if siglip else theirs["projection_dim"],
        vision=ViTConfig(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            pool="map" if siglip else "class",
            **shape(vision),
        ),
        text=TextTransformerConfig(
            context_length=length,
            vocab_size=text["vocab_size"],
            eos_id=None if siglip else text["eos_token_id"],
            **shape(text),
        ),
        preprocess=PreprocessConfig(image_size=vision["image_size"]),
        tokenizer=replace(OPENAI_TOKENIZER, context_length=length),
        logit_bias=siglip,
    )


def our_model(config: CLIPConfig, theirs: dict[str, Tensor]) -> CLIP:
    model = CLIP(config)
    model.load_state_dict(renamed(theirs, CLIP_NAMES), strict=True)
    return model.eval()


# The stages of our models, under the names of the golden files.


class Recorder:
    """Keeps inputs and outputs of modules by name while they run."""

    def __init__(self) -> None:
        self.stages: dict[str, Tensor] = {}

    def input(self, name: str, module: nn.Module) -> None:
        def keep(name: str, module: nn.Module, inputs: Any) -> None:
            self.stages[name] = inputs[0]

        module.register_forward_pre_hook(partial(keep, name))

    def output(self, name: str, module: nn.Module) -> None:
        def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
            self.stages[name] = output

        module.register_forward_hook(partial(keep, name))

    def blocks(self, name: str, blocks: nn.ModuleList) -> None:
        self.input(f"{name}.in", blocks[0])
        for index, block in enumerate(blocks):
            self.output(f"{name}.{index}", block)


@torch.no_grad()
def our_stages(model: CLIP, pixel_values: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
    recorder = Recorder()
    recorder.input("vision.embeddings", model.vision.ln_pre)
    recorder.blocks("vision.blocks", model.vision.blocks)
    recorder.output("vision.normed", model.vision.ln_post)
    recorder.output("image_features", model.vision)
    recorder.input("text.embeddings", model.text.blocks[0])
    recorder.blocks("text.blocks", model.text.blocks)
    recorder.output("text.normed", model.text.ln_final)
    recorder.input("text.pooled", model.text.proj)
    recorder.output("text_features", model.text)
    output = model(pixel_values, input_ids)
    loss = siglip_loss if model.config.logit_bias else clip_loss
    return recorder.stages | {
        "image_embeds": output.image_embeds,
        "text_embeds": output.text_embeds,
        "logit_scale": model.logit_scale,
        "logits_per_image": output.logits_per_image,
        "logits_per_text": output.logits_per_text,
        "loss": loss(output.logits_per_image),
    }


def assert_same_stages(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    shapes = {name: tensor.shape for name, tensor in theirs.items()}
    assert {name: tensor.shape for name, tensor in ours.items()} == shapes
    apart = {name: (ours[name] - tensor).abs().max().item() for name, tensor in theirs.items()}
    assert {name: tensor for name, tensor in apart.items() if not tensor <= TOLERANCE} == {}


# Comparison with the installed transformers.

ROWS = make.INPUT_IDS
ERF = {"hidden_act": "gelu"}
HEADS_OF_64 = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512}
# id 11 ends the text; there are larger ids before and after it, and it occurs again.
EOS_11 = ((38, 5, 39, 2, 11, 0, 39, 11, 0), (38, 11, *[11] * 7), (38, *[39] * 7, 11))


def variant(
    base: dict[str, Any],
    towers: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
) -> dict[str, Any]:
    changes = {
        "vision_config": (towers or {}) | (vision or {}),
        "text_config": (towers or {}) | (text or {}),
    }
    return base | {tower: base[tower] | change for tower, change in changes.items()}


VARIANTS: dict[str, tuple[dict[str, Any], tuple[tuple[int, ...], ...]]] = {
    "clip": (make.CLIP, ROWS),
    "clip, gelu": (variant(make.CLIP, towers=ERF), ROWS),
    "clip, gelu in the text tower": (variant(make.CLIP, text=ERF), ROWS),
    "clip, heads of 64": (variant(make.CLIP, towers=HEADS_OF_64), ROWS),
    "clip, pixels to spare": (variant(make.CLIP, vision={"image_size": 15}), ROWS),
    "clip, short texts": (make.CLIP, tuple(row[:5] for row in ROWS)),
    "clip, eos is not the largest id": (variant(make.CLIP, text={"eos_token_id": 11}), EOS_11),
    "siglip": (make.SIGLIP, ROWS),
    "siglip, erf gelu": (variant(make.SIGLIP, towers=ERF), ROWS),
    "siglip, heads of 64": (
        variant(make.SIGLIP, towers=HEADS_OF_64, text={"projection_size": 128}),
        ROWS,
    ),
}


def pixels(config: dict[str, Any], pictures: int = 3) -> Tensor:
    size = config["vision_config"]["image_size"]
    return torch.randn(pictures, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_stage_equals_transformers(name: str, attention: str) -> None:
    config, rows = VARIANTS[name]
    theirs = make.build(config, seed=2, attention=attention)
    inputs = pixels(config), torch.tensor(rows)
    ours = our_model(our_config(config), theirs.state_dict())
    assert_same_stages(our_stages(ours, *inputs), make.record(theirs, *inputs))


def test_legacy_eos_id_of_transformers_is_the_largest_id() -> None:
    """In old configurations, eos_token_id 2 means the largest id of a row, here 39."""
    legacy = variant(make.CLIP, text={"eos_token_id": 2})
    theirs = make.build(legacy, seed=3)
    inputs = pixels(legacy), torch.tensor(ROWS)  # two rows have a 2 that is not the end
    ours = our_model(our_config(make.CLIP), theirs.state_dict())
    assert_same_stages(our_stages(ours, *inputs), make.record(theirs, *inputs))


TINY_BERT = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 60,
    "max_position_embeddings": 11,
    "layer_norm_eps": 1e-3,
}
MINILM = {
    "vocab_size": 200,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", [TINY_BERT, MINILM], ids=["tiny", "MiniLM"])
def test_sentence_encoder_equals_bert(shape: dict[str, Any], attention: str) -> None:
    """Our tower has no token types: the vector of type 0 is part of the positional embeds."""
    theirs = make.build({"model_type": "bert", **shape}, seed=4, attention=attention)
    weights = {name: tensor for name, tensor in theirs.state_dict().items() if "pooler" not in name}
    positions = weights.pop("embeddings.position_embeddings.weight")
    types = weights.pop("embeddings.token_type_embeddings.weight")
    ours = SentenceEncoder(
        SentenceEncoderConfig(
            context_length=shape["max_position_embeddings"],
            vocab_size=shape["vocab_size"],
            width=shape["hidden_size"],
            layers=shape["num_hidden_layers"],
            heads=shape["num_attention_heads"],
            mlp_width=shape["intermediate_size"],
            eps=shape["layer_norm_eps"],
        ),
        embed_dim=7,
    ).eval()
    projection = {"proj.weight": ours.proj.weight.detach(), "pos_embed": positions + types[0]}
    ours.load_state_dict(renamed(weights, BERT_NAMES) | projection, strict=True)

    input_ids = torch.tensor(
        [[2, 7, 9, 3, 0, 0, 0], [2, 5, 1, 8, 30, 12, 3], [2, 3, 0, 0, 0, 0, 0]]
    )
    mask = (input_ids != 0).long()
    recorder = Recorder()
    recorder.output("embeddings", ours.ln_embed)
    recorder.blocks("blocks", ours.blocks)
    recorder.input("pooled", ours.proj)
    with torch.no_grad():
        features = ours(input_ids)
        hidden = theirs(input_ids, attention_mask=mask, output_hidden_states=True).hidden_states
    pooled = torch.stack([h[m.bool()].mean(dim=0) for h, m in zip(hidden[-1], mask, strict=True)])
    expected = {f"blocks.{index}": tensor for index, tensor in enumerate(hidden[1:])}
    expected |= {"embeddings": hidden[0], "blocks.in": hidden[0], "pooled": pooled}
    assert_same_stages(recorder.stages, expected)
    torch.testing.assert_close(features, pooled @ ours.proj.weight.T, rtol=0, atol=TOLERANCE)


# Comparison with golden files.


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_every_stage_equals_golden(name: str) -> None:
    with np.load(GOLDEN / "transformers" / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if "/" in key}
        config = json.loads(str(file["config"]))

    def group(prefix: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(prefix): array
            for key, array in arrays.items()
            if key.startswith(prefix)
        }

    assert config["model_type"] == name
    model = our_model(our_config(config), group("weights/"))
    stages = group("stages/")
    assert len(stages) == 20
    assert_same_stages(our_stages(model, **group("inputs/")), stages)
