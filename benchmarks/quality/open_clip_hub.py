"""Text towers and vocabularies of the hub that open_clip's architectures name, by their sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twotower.model.foreign.hub_tokenizer import SpecialTokens, special_tokens

_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
_ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
_NLLB = {
    "vocab_size": 256_206,
    "d_model": 1024,
    "encoder_attention_heads": 16,
    "decoder_layers": 1,  # not read
    "activation_function": "relu",
    "pad_token_id": 1,
}
# name -> class of transformers, sizes (the config.json on the hub)
HUB: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta-base": (
        "RobertaConfig",
        {**_BASE, **_ROBERTA, "vocab_size": 50_265, "intermediate_size": 3072},
    ),
    "xlm-roberta-base": (
        "XLMRobertaConfig",
        {**_BASE, **_ROBERTA, "vocab_size": 250_002, "intermediate_size": 3072},
    ),
    "xlm-roberta-large": (
        "XLMRobertaConfig",
        {**_LARGE, **_ROBERTA, "vocab_size": 250_002, "intermediate_size": 4096},
    ),
    "facebook/nllb-200-distilled-600M": (
        "M2M100Config",
        {**_NLLB, "encoder_layers": 12, "encoder_ffn_dim": 4096},
    ),
    "facebook/nllb-200-distilled-1.3B": (
        "M2M100Config",
        {**_NLLB, "encoder_layers": 24, "encoder_ffn_dim": 8192},
    ),
}


def tokens_of(name: str | None) -> SpecialTokens | None:
    """Return the special tokens of a vocabulary; None for CLIP's and SigLIP's."""
    return None if name is None or "siglip" in name.lower() else special_tokens(name)


def write_vocabulary(tokens: SpecialTokens, directory: Path) -> None:
    """Write a `tokenizer.json` that has the special tokens and nothing else."""
    names = [tokens.begin, tokens.padding, tokens.end]
    if tokens.begin is None or tokens.begin == "[CLS]":  # T5 and BERT pad with 0
        names = [tokens.padding, tokens.end, tokens.begin]
    added = [{"id": row, "content": name} for row, name in enumerate(names) if name is not None]
    (directory / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
