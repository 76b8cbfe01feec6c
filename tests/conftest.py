"""Small models with random weights, made once for all tests."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from twotower.encode.convert import write_directory
from twotower.model.clip import CLIP
from twotower.model.config import CLIPConfig, TextTransformerConfig, ViTConfig
from twotower.model.presets import preset


def tiny_config(name: str = "tiny") -> CLIPConfig:
    """Return a CLIP with few parameters besides 49408 token embeds, and OpenAI's preprocessing."""
    base = preset("ViT-B-32")
    return replace(
        base,
        name=name,
        embed_dim=32,
        vision=ViTConfig(64, 16, 48, 2, 4, 96, "quick_gelu"),
        text=TextTransformerConfig(77, 49408, 32, 2, 2, 64, "quick_gelu"),
        preprocess=replace(base.preprocess, image_size=64),
    )


def siglip_config() -> CLIPConfig:
    base = preset("SigLIP-B-16-224")
    return replace(
        base,
        name="tiny-siglip",
        embed_dim=32,
        vision=ViTConfig(64, 16, 32, 2, 2, 64, "gelu_tanh", pool="map", eps=1e-6),
        text=TextTransformerConfig(64, 400, 32, 2, 2, 64, "gelu_tanh", eos_id=None, eps=1e-6),
        preprocess=replace(base.preprocess, image_size=64),
    )


def random_tensors(config: CLIPConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return weights so large that every part of the model affects its output."""
    torch.manual_seed(seed)
    tensors = CLIP(config).state_dict()
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not name.startswith("logit"):
            tensor += 0.2 * torch.randn_like(tensor)
    return tensors


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of `tiny_config`."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    config = tiny_config()
    write_directory(config, random_tensors(config), (), directory)
    return directory


@pytest.fixture(scope="session")
def sentence_pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sentencepiece model with SigLIP's special ids: pad and end are 1, unknown is 2."""
    import sentencepiece

    directory = tmp_path_factory.mktemp("pieces")
    golden = Path(__file__).parent / "golden" / "tokenizer" / "openai.json"
    corpus = [text for text in json.loads(golden.read_text()) if text.isprintable() and text] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(directory / "spiece"),
        vocab_size=400,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    return directory


@pytest.fixture(scope="session")
def siglip_directory(sentence_pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of `siglip_config`, with its vocabulary."""
    directory = tmp_path_factory.mktemp("models") / "tiny-siglip"
    config = siglip_config()
    write_directory(config, random_tensors(config), [sentence_pieces / "spiece.model"], directory)
    return directory
