"""Models of more families, saved by the installed transformers, give equal features when read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    ChineseCLIPConfig,
    ChineseCLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedModel,
)

from tests.tiny_vocabularies import write_vocabulary
from twotower.encode.load import load
from twotower.errors import ModelError
from twotower.inputs.tokenizer import load_tokenizer
from twotower.model.foreign import read_foreign, write_transformers
from twotower.model.foreign.hub_tokenizer import BERT, ROBERTA, T5, SpecialTokens
from twotower.model.weights import build_model

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
VISION = TOWER | {"image_size": 32, "patch_size": 8}
TEXT = TOWER | {"vocab_size": 64, "max_position_embeddings": 16}


def save(model: PreTrainedModel, tokens: SpecialTokens, directory: Path) -> Path:
    """Save a model with random weights, a preprocessor and a vocabulary."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    model.save_pretrained(directory)
    square = {"height": 32, "width": 32}
    processor = {"size": square, "crop_size": square, "do_center_crop": False}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    write_vocabulary(tokens, directory)
    return directory


def metaclip_2(directory: Path, **text: Any) -> tuple[Path, MetaClip2Model]:
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1} | text
    config = MetaClip2Config(projection_dim=24, vision_config=VISION, text_config=TEXT | ids)
    model = MetaClip2Model(config).eval()
    return save(model, ROBERTA, directory), model


def chinese_clip(directory: Path) -> tuple[Path, ChineseCLIPModel]:
    config = ChineseCLIPConfig(projection_dim=24, vision_config=VISION, text_config=TEXT)
    model = ChineseCLIPModel(config).eval()
    return save(model, BERT, directory), model


def features(model: Any, pixel_values: torch.Tensor, ids: torch.Tensor) -> list[torch.Tensor]:
    """Return image_features and text_features of a model of transformers."""
    mask = (ids != 1).long() if model.config.model_type == "metaclip_2" else (ids != 0).long()
    output = model(input_ids=ids, pixel_values=pixel_values, attention_mask=mask)
    return [output.image_embeds, output.text_embeds]


@torch.inference_mode()
def assert_equal_embeds(directory: Path, theirs: Any, ids: torch.Tensor) -> None:
    foreign = read_foreign(directory)
    ours = build_model(foreign.config, foreign.tensors, directory)
    pixel_values = torch.randn(2, 3, 32, 32)
    pairs = zip(ours.embed(pixel_values, ids), features(theirs, pixel_values, ids), strict=True)
    for our_embeds, their_embeds in pairs:
        torch.testing.assert_close(our_embeds, their_embeds, atol=1e-5, rtol=0)


def test_metaclip_2(tmp_path: Path) -> None:
    directory, theirs = metaclip_2(tmp_path / "metaclip2")
    ids = torch.ones(2, 9, dtype=torch.long)
    ids[0, :5], ids[1, :9] = torch.tensor([0, 5, 9, 60, 2]), torch.arange(9).flip(0)
    assert_equal_embeds(directory, theirs, ids)
    config = read_foreign(directory).config
    assert (config.text.eos_id, config.tokenizer.bos_id, config.tokenizer.pad_id) == (2, 0, 1)
    assert config.preprocess.resize == "squash"
    with pytest.raises(ModelError, match="neither transformers' CLIP nor"):
        write_transformers(config, read_foreign(directory).tensors, tmp_path)


def test_metaclip_2_with_the_vocabulary_of_mt5(tmp_path: Path) -> None:
    directory, _ = metaclip_2(tmp_path / "mt5", eos_token_id=1, pad_token_id=0)
    write_vocabulary(T5, directory)
    settings = {"tokenizer_class": "T5Tokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    config = read_foreign(directory).config
    assert (config.text.eos_id, config.tokenizer.bos_id, config.tokenizer.eos_id) == (1, None, 1)


def test_chinese_clip(tmp_path: Path) -> None:
    directory, theirs = chinese_clip(tmp_path / "chinese")
    ids = torch.zeros(2, 9, dtype=torch.long)
    ids[0, :5], ids[1, :9] = torch.tensor([3, 5, 9, 60, 2]), torch.arange(1, 10)
    assert_equal_embeds(directory, theirs, ids)
    config = read_foreign(directory).config
    assert config.vision.activation == "quick_gelu" and config.preprocess.resize == "squash"
    with pytest.raises(ModelError, match="keep it in twotower's format"):
        write_transformers(config, read_foreign(directory).tensors, tmp_path)


def test_a_chinese_vocabulary_without_json(tmp_path: Path) -> None:
    directory, _ = chinese_clip(tmp_path / "chinese")
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n猫\n", encoding="utf-8")
    tokenizer = read_foreign(directory).config.tokenizer
    assert (tokenizer.kind, tokenizer.bos_id, tokenizer.eos_id) == ("wordpiece", 2, 3)
    ids = load_tokenizer(tokenizer, directory)(["猫 "]).input_ids[0]
    assert ids[:4].tolist() == [2, 4, 3, 0]


@pytest.mark.slow
@pytest.mark.parametrize("make", [metaclip_2, chinese_clip])
def test_load(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_CACHE", str(tmp_path / "cache"))
    directory, _ = make(tmp_path / "model")
    assert load(directory).verify() > 0.9999
