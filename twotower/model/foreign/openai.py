"""OpenAI's archives: TorchScript files whose shapes determine the architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from twotower.errors import ModelError
from twotower.inputs.preprocess import PreprocessConfig
from twotower.inputs.tokenizer import OPENAI_TOKENIZER
from twotower.model.config import (
    CLIPConfig,
    ResNetConfig,
    TextTransformerConfig,
    VisionConfig,
    ViTConfig,
)
from twotower.model.foreign.rename import ForeignModel, import_tensors
from twotower.model.pickles import read_pickle_weights

OPENAI_TABLE = (
    (r"^vision\.proj\.weight", "visual.proj.T"),
    (r"^vision\.patch_embed\.", "visual.conv1."),
    (r"^vision\.class_embed", "visual.class_embedding"),
    (r"^vision\.pos_embed", "visual.positional_embedding"),
    (r"^vision\.blocks\.", "visual.transformer.resblocks."),
    (r"^vision\.stem\.", "visual."),
    (r"^vision\.stages\.", "visual."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.bn\.", ".downsample.1."),
    (r"^vision\.attnpool\.pos_embed", "visual.attnpool.positional_embedding"),
    (r"^vision\.attnpool\.([qkv])\.", r"visual.attnpool.\1_proj."),
    (r"^vision\.attnpool\.out\.", "visual.attnpool.c_proj."),
    (r"^vision\.", "visual."),
    (r"^text\.token_embed\.", "token_embedding."),
    (r"^text\.pos_embed", "positional_embedding"),
    (r"^text\.proj\.weight", "text_projection.T"),
    (r"^text\.blocks\.", "transformer.resblocks."),
    (r"^text\.", ""),
    (r"\.attn\.qkv\.", ".attn.in_proj_"),
    (r"\.attn\.out\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
# Tensors of OpenAI's archives that are no weights but describe the model.
DESCRIPTION = ("input_resolution", "context_length", "vocab_size")


def read_openai(path: Path) -> ForeignModel:
    """Read one of OpenAI's `.pt` archives.

    Raises:
        ModelError: the description that marks OpenAI's archives is missing, so that the activation
            is unknown.
    """
    tensors = read_pickle_weights(path)
    if not all(name in tensors for name in DESCRIPTION):
        raise ModelError(
            path,
            "bare weights, which do not say their activation, preprocessing or tokenizer",
            "name the architecture (--arch ViT-B-32 and the like), or put them in a directory "
            "beside their config.json or open_clip_config.json and give the directory",
        )
    for name in DESCRIPTION:
        del tensors[name]
    config = _config(path, tensors)
    return ForeignModel(config, import_tensors(config, OPENAI_TABLE, tensors, path))


def _config(path: Path, tensors: Mapping[str, NDArray[Any]]) -> CLIPConfig:
    """Derive the architecture from shapes; heads are 64 wide and both towers use QuickGELU."""
    try:
        context_length, width = tensors["positional_embedding"].shape
        vision = _vision(tensors)
        text = TextTransformerConfig(
            context_length=context_length,
            vocab_size=tensors["token_embedding.weight"].shape[0],
            width=width,
            layers=_count(tensors, r"transformer\.resblocks\.(\d+)\..*"),
            heads=width // 64,
            mlp_width=tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            activation="quick_gelu",
        )
        embed_dim = tensors["text_projection"].shape[1]
    except (KeyError, ValueError) as error:
        raise ModelError(
            path, f"not one of OpenAI's models (lacks {error})", "give an archive of OpenAI's"
        ) from None
    preprocess = PreprocessConfig(image_size=vision.image_size)
    return CLIPConfig(path.stem, embed_dim, vision, text, preprocess, OPENAI_TOKENIZER)


def _vision(tensors: Mapping[str, NDArray[Any]]) -> VisionConfig:
    if "visual.proj" in tensors:
        width, _, patch_size, _ = tensors["visual.conv1.weight"].shape
        grid = round((tensors["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        return ViTConfig(
            image_size=grid * patch_size,
            patch_size=patch_size,
            width=width,
            layers=_count(tensors, r"visual\.transformer\.resblocks\.(\d+)\..*"),
            heads=width // 64,
            mlp_width=tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            activation="quick_gelu",
        )
    grid = round((tensors["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    depths = [_count(tensors, rf"visual\.layer{i}\.(\d+)\..*") for i in (1, 2, 3, 4)]
    width = tensors["visual.layer1.0.conv1.weight"].shape[0]
    return ResNetConfig(32 * grid, width, (depths[0], depths[1], depths[2], depths[3]))


def _count(tensors: Mapping[str, NDArray[Any]], pattern: str) -> int:
    """Count the different values of the group of `pattern` among the names."""
    matches = (re.fullmatch(pattern, name) for name in tensors)
    return len({match.group(1) for match in matches if match})
