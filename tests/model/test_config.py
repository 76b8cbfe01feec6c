"""Configurations: round trips through JSON, and errors that name each mistake."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from twotower.errors import ModelError
from twotower.model.config import (
    CLIPConfig,
    EfficientNetLiteConfig,
    ResNetConfig,
    SentenceEncoderConfig,
    TextTransformerConfig,
    ViTConfig,
)
from twotower.model.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    config = preset(name)
    text = config.to_json()
    parsed = CLIPConfig.from_json(text)
    assert parsed == config
    assert hash(parsed.vision) == hash(config.vision)  # tuples came back as tuples
    assert parsed.to_json() == text
    assert json.loads(text)["name"] == name


def test_values_that_no_preset_has_survive() -> None:
    config = replace(
        preset("ViT-B-32"),
        name="déjà vu",
        templates=("a photo of a {}.", "ein Foto: {}"),
        logit_bias=True,
        vision=EfficientNetLiteConfig(224, 1.1, 1.2),
    )
    text = config.to_json()
    assert "déjà vu" in text
    assert CLIPConfig.from_json(text) == config


def test_each_kind_is_parsed_as_its_class() -> None:
    kinds = {
        "ViT-B-32": (ViTConfig, TextTransformerConfig),
        "RN50": (ResNetConfig, TextTransformerConfig),
        "twotower-small": (EfficientNetLiteConfig, SentenceEncoderConfig),
    }
    for name, expected in kinds.items():
        parsed = CLIPConfig.from_json(preset(name).to_json())
        assert (type(parsed.vision), type(parsed.text)) == expected


def test_integers_are_accepted_as_floats() -> None:
    tree = json.loads(preset("twotower-small").to_json())
    tree["vision"]["width_multiplier"] = 2
    parsed = CLIPConfig.from_json(json.dumps(tree))
    assert isinstance(parsed.vision, EfficientNetLiteConfig)
    assert type(parsed.vision.width_multiplier) is float


MISSING = object()


def broken(path: str, value: Any, name: str = "ViT-B-32") -> str:
    """Return the JSON of a preset with the value at `path` set, or removed if MISSING."""
    tree = json.loads(preset(name).to_json())
    *parents, key = path.split(".")
    inner = tree
    for parent in parents:
        inner = inner[parent]
    if value is MISSING:
        del inner[key]
    else:
        inner[key] = value
    return json.dumps(tree)


def test_directories_from_before_a_field_are_read() -> None:
    """Version 1 of the bundled model was written without these fields."""
    tree = json.loads(preset("twotower-small").to_json())
    for name in ("pooled_stages", "hidden_width"):
        del tree["vision"][name]
    assert CLIPConfig.from_json(json.dumps(tree), "config.json").vision == EfficientNetLiteConfig(
        224, 1.0, 1.1
    )


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        # unknown keys
        ("embed_dims", 512, "config has an unknown key 'embed_dims'; did you mean 'embed_dim'?"),
        (
            "vision.patchsize",
            16,
            "config.vision has an unknown key 'patchsize'; did you mean 'patch_size'?",
        ),
        ("text.zzz", 1, "config.text has an unknown key 'zzz'"),
        ("preprocess.stdd", 1, "config.preprocess has an unknown key 'stdd'; did you mean 'std'?"),
        # missing keys, those with a default too
        ("embed_dim", MISSING, "config lacks embed_dim"),
        ("vision.heads", MISSING, "config.vision lacks heads"),
        ("text.eps", MISSING, "config.text lacks eps"),
        ("preprocess.mean", MISSING, "config.preprocess lacks mean"),
        ("tokenizer.context_length", MISSING, "config.tokenizer lacks context_length"),
        # wrong types
        ("embed_dim", "512", "config.embed_dim is '512', expected int"),
        ("embed_dim", 512.0, "config.embed_dim is 512.0, expected int"),
        ("embed_dim", True, "config.embed_dim is True, expected int"),
        ("embed_dim", None, "config.embed_dim is None, expected int"),
        ("logit_bias", 1, "config.logit_bias is 1, expected bool"),
        ("name", 5, "config.name is 5, expected str"),
        ("vision.eps", "small", "config.vision.eps is 'small', expected float"),
        ("vision.eps", True, "config.vision.eps is True, expected float"),
        ("text.eos_id", "last", "config.text.eos_id is 'last', expected int"),
        ("preprocess.mean", [0.5, 0.5], "config.preprocess.mean is [0.5, 0.5], expected tuple"),
        ("preprocess.mean", 0.5, "config.preprocess.mean is 0.5, expected tuple"),
        ("templates", "a {}", "config.templates is 'a {}', expected tuple"),
        ("templates", [1], "config.templates is 1, expected str"),
        ("preprocess", None, "config.preprocess is None, expected an object"),
        # choices
        ("vision.activation", "swish", "config.vision.activation is 'swish', expected"),
        ("vision.pool", "mean", "config.vision.pool is 'mean', expected"),
        ("preprocess.resize", "crop", "config.preprocess.resize is 'crop', expected"),
        # kinds
        ("vision.kind", "vlt", "config.vision.kind is 'vlt', expected one of vit, resnet, effi"),
        ("vision.kind", "resnet", "config.vision has an unknown key"),
        ("vision.kind", MISSING, "config.vision.kind is None, expected one of vit"),
        (
            "text.kind",
            "vit",
            "config.text.kind is 'vit', expected one of transformer, sentence_enc",
        ),
        ("vision", 5, "config.vision.kind is None, expected one of vit"),
        # values that a field refuses
        ("preprocess.image_size", 0, "config.preprocess: image_size is 0"),
        ("preprocess.std", [0.5, 0.0, 0.5], "config.preprocess: std is (0.5, 0.0, 0.5)"),
        ("tokenizer.context_length", 2, "config.tokenizer: context_length is 2; give 3 or more"),
        ("tokenizer.kind", "word", "config.tokenizer.kind is 'word', expected"),
        # disagreements
        ("vision.image_size", 256, "preprocess.image_size is 224 but vision.image_size is 256"),
        ("text.context_length", 64, "tokenizer.context_length is 77 but text.context_length is 64"),
    ],
)
def test_a_mistake_is_named(path: str, value: Any, expected: str) -> None:
    with pytest.raises(ModelError) as caught:
        CLIPConfig.from_json(broken(path, value), source="model/config.json")
    message = str(caught.value)
    assert message.startswith("model/config.json: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("layers", [[3, 4, 6], [3, 4, 6, 3, 1], [3, 4, 6, 3.0], 16])
def test_resnet_has_four_stages(layers: Any) -> None:
    with pytest.raises(ModelError, match=r"config\.vision\.layers is"):
        CLIPConfig.from_json(broken("vision.layers", layers, "RN50"))


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"config"', "\x00"])
def test_invalid_json_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"^config\.json: "):
        CLIPConfig.from_json(text)


def test_tokenizer_may_use_fewer_positions_than_there_are() -> None:
    config = preset("twotower-small")
    assert config.tokenizer.context_length < config.text.context_length


def test_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"ViT-B32: no such preset; did you mean 'ViT-B-32'\?"):
        preset("ViT-B32")
    with pytest.raises(ModelError, match=r"zzz: no such preset; there are RN50, "):
        preset("zzz")


def test_preset_with_changes_leaves_the_preset_alone() -> None:
    changed = preset("ViT-B-32", embed_dim=16)
    assert (changed.embed_dim, preset("ViT-B-32").embed_dim) == (16, 512)
    with pytest.raises(FrozenInstanceError):
        changed.embed_dim = 3  # type: ignore[misc]


def test_presets_have_their_names_as_keys() -> None:
    assert all(config.name == name for name, config in PRESETS.items())
    issue = "RN50 RN101 RN50x4 RN50x16 RN50x64 ViT-B-32 ViT-B-16 ViT-L-14 ViT-L-14-336 ViT-H-14"
    for name in (*issue.split(), "ViT-bigG-14", "SigLIP-B-16-224", "SigLIP-SO400M-14-384"):
        assert name in PRESETS
    assert preset("SigLIP2-B-16-256").vision.image_size == 256
