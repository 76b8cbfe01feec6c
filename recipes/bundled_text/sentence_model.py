"""The sentence encoder of the dictionary: all-mpnet-base-v2 (Apache-2.0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from recipes.twotower_small.losses import PRECISION
from recipes.twotower_small.word_vectors import Encode
from twotower.arrays import Float32Array
from twotower.train.embed_cache import open_cache, sample_key

MAX_TOKENS = 48  # of a description
TOKENS = 4096  # of a batch, about


def cached_sentence_encoder(folder: Path) -> Encode:
    """Return a function from texts to sentence vectors [n, 768], kept in the cache.

    Args:
        folder: the unpacked model, with `config.json` and `tokenizer.json`.
    """
    stored = open_cache("all-mpnet-base-v2", "sentences", np.float16)
    models: list[Encode] = []

    def encode(texts: Sequence[str]) -> Float32Array:
        def compute(rows: list[int]) -> Float32Array:
            if not models:
                models.append(load_sentence_encoder(folder))
            return models[0]([texts[row] for row in rows])

        keys = [sample_key(text) for text in texts]
        stored.fill(keys, compute)
        return stored[keys]

    return encode


def load_sentence_encoder(folder: Path) -> Callable[[Sequence[str]], Float32Array]:
    """Return a function from texts to the mean of their tokens, unit length."""
    from transformers import AutoTokenizer, MPNetModel

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = MPNetModel.from_pretrained(folder, dtype=PRECISION, add_pooling_layer=False)

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> Float32Array:
        tokens = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        order = sorted(range(len(texts)), key=lambda row: len(tokens[row]))
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        size = max(1, TOKENS // MAX_TOKENS)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            batch = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt")
            states = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
            vectors[rows] = F.normalize(pooled, dim=-1).numpy()
        return vectors

    return encode
