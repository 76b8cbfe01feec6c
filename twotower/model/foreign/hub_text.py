"""Text towers that open_clip takes from transformers (`hf_model_name`): BERT and its relatives.

Their configuration is on the hub; here the sizes come from the shapes of the tensors. Settings as
in open_clip 3.3.0 (`hf_model.py`); heads are 64 wide in all published ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from twotower.errors import ModelError
from twotower.model.config import BertConfig
from twotower.model.foreign.rename import Settings
from twotower.model.weight_files import Tensors

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
HEAD_WIDTH = 64
OTHER_BERTS = "albert|camembert|deberta|distil|modern"  # with other layers, or other padding
POOLS = {"mean_pooler": "mean", "cls_last_hidden_state_pooler": "first", "cls_pooler": "pooler"}


def hub_text(cfg: Settings, name: str, theirs: Tensors, context_length: int) -> BertConfig:
    """Describe the text tower of an open_clip configuration.

    Args:
        theirs: open_clip's tensors.

    Raises:
        ModelError: an unsupported setting or family.
    """
    family = name.lower()
    nllb = re.search("nllb|m2m", family) is not None
    if not nllb and (re.search(OTHER_BERTS, family) or "bert" not in family):
        raise cfg.unsupported("hf_model_name", name)
    pool, projection = cfg.pop("hf_pooler_type", "mean_pooler"), cfg.pop("hf_proj_type", "mlp")
    for key in ("hf_model_pretrained", "output_tokens", "vocab_size", "width", "heads", "layers"):
        cfg.pop(key)  # the model on the hub has its own sizes
    if pool not in POOLS:
        raise cfg.unsupported("hf_pooler_type", pool)
    if projection not in ("linear", "mlp", None):
        raise cfg.unsupported("hf_proj_type", projection)
    cfg.finish()
    shapes = {
        key.removeprefix("text.transformer."): tuple(tensor.shape)
        for key, tensor in theirs.items()
        if key.startswith("text.transformer.")
    }
    forms: dict[str, Any] = {"projection": projection or "none", "pool": POOLS[pool]}
    if nllb:
        return _nllb(shapes, context_length, forms)
    return _bert(shapes, context_length, forms, roberta="roberta" in family)


def _bert(shapes: Shapes, context_length: int, forms: dict[str, Any], roberta: bool) -> BertConfig:
    """Describe BERT; RoBERTa has padding 1 and counts positions from the one after it."""
    vocab_size, width = _shape(shapes, "embeddings.word_embeddings.weight")
    return BertConfig(
        context_length=context_length,
        vocab_size=vocab_size,
        width=width,
        layers=_count(shapes, r"encoder\.layer\.(\d+)\..*"),
        heads=width // HEAD_WIDTH,
        mlp_width=_shape(shapes, "encoder.layer.0.intermediate.dense.weight")[0],
        pad_id=1 if roberta else 0,
        positions=_shape(shapes, "embeddings.position_embeddings.weight")[0],
        first_position=2 if roberta else 0,
        token_types=_shape(shapes, "embeddings.token_type_embeddings.weight")[0],
        eps=1e-5 if roberta else 1e-12,
        **forms,
    )


def _nllb(shapes: Shapes, context_length: int, forms: dict[str, Any]) -> BertConfig:
    vocab_size, width = _shape(shapes, "embed_tokens.weight")
    pool = "mean" if forms["pool"] == "mean" else "first"  # its encoder has no pooler
    return BertConfig(
        context_length=context_length,
        vocab_size=vocab_size,
        width=width,
        layers=_count(shapes, r"layers\.(\d+)\..*"),
        heads=width // HEAD_WIDTH,
        mlp_width=_shape(shapes, "layers.0.fc1.weight")[0],
        pad_id=1,
        positions=0,
        first_position=2,
        token_types=0,
        activation="relu",
        pre_norm=True,
        **(forms | {"pool": pool}),
    )


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise ModelError(
            f"text.transformer.{name}",
            "no such tensor, which the text tower needs",
            "use weights and configuration of the same model",
        )
    return shapes[name]


def _count(shapes: Shapes, pattern: str) -> int:
    """Count the different numbers in the names that match."""
    return len({match[1] for name in shapes if (match := re.fullmatch(pattern, name))})
