"""Outputs of a text tower, divided at its last linear map, and low-rank changes of that map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from twotower.arrays import Float32Array, IndexArray, normalize
from twotower.inputs.tokenizer import Tokenizer
from twotower.model.clip import CLIP

TEXT_BATCH = 128


@dataclass(frozen=True)
class TextUpdate:
    """A low-rank change of the last linear map of a text tower, shifts.T @ keys.

    Attributes:
        keys: [k, width].
        shifts: [k, embed_dim].
    """

    keys: Float32Array
    shifts: Float32Array

    def matrix(self) -> Float32Array:
        """Return the change of the weight [embed_dim, width]."""
        return np.asarray(self.shifts.T @ self.keys, np.float32)


@dataclass(frozen=True)
class TextParts:
    """Outputs of a text tower for n texts.

    Attributes:
        features: [n, width], the inputs of the last linear map.
        projected: [n, embed_dim], its outputs.
        additions: [n, embed_dim], the vectors that a lexicon adds to the projected features, after
            these have been divided by their length; zero for a tower without a lexicon.
    """

    features: Float32Array
    projected: Float32Array
    additions: Float32Array

    def embeds(self, update: TextUpdate | None = None) -> Float32Array:
        """Return the text_embeds [n, embed_dim], with a change of the map."""
        projected = self.projected
        if update is not None:
            change = self.features @ update.keys.T @ update.shifts
            projected = projected + np.asarray(change, np.float32)
        return normalize(normalize(projected) + self.additions)

    def rows(self) -> Float32Array:
        """Return all parts as one array [n, width + 2 * embed_dim]."""
        return np.hstack([self.features, self.projected, self.additions])

    @staticmethod
    def from_rows(rows: Float32Array, embed_dim: int) -> TextParts:
        """Divide an array that `rows` has made."""
        width = rows.shape[1] - 2 * embed_dim
        return TextParts(*np.split(rows, [width, width + embed_dim], axis=1))


def find_text_head(model: CLIP) -> nn.Linear | None:
    """Return the last linear map of the text tower, or None if it ends with another layer."""
    head = getattr(model.text, "proj", None)
    return head if isinstance(head, nn.Linear) else None


def text_head_name(model: CLIP) -> str:
    """Return the name of the weight of the last linear map among the model's parameters."""
    head = find_text_head(model)
    assert head is not None
    return next(name for name, value in model.named_parameters() if value is head.weight)


@torch.inference_mode()
def compute_text_parts(model: CLIP, texts: Sequence[str], tokenizer: Tokenizer) -> TextParts:
    """Compute the parts of texts, of a tower with a last linear map."""
    head = find_text_head(model)
    assert head is not None
    inputs: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    batches, outputs = list(_text_batches(model, texts, tokenizer)), []
    try:
        outputs = [model.text(input_ids) for _, input_ids in batches]
    finally:
        hook.remove()
    original = np.argsort(np.concatenate([rows for rows, _ in batches]))
    features, results = torch.cat(inputs), torch.cat(outputs)
    projected = head(features)
    lengths = projected.norm(dim=-1, keepdim=True)
    tensors = (features, projected, (results - projected) / lengths)
    return TextParts(*(output.numpy()[original] for output in tensors))


@torch.inference_mode()
def text_features(model: CLIP, texts: Sequence[str], tokenizer: Tokenizer) -> Float32Array:
    """Return the outputs of the text tower [n, embed_dim]."""
    batches = list(_text_batches(model, texts, tokenizer))
    results = torch.cat([model.text(input_ids) for _, input_ids in batches]).numpy()
    return np.asarray(results[np.argsort(np.concatenate([rows for rows, _ in batches]))])


def _text_batches(
    model: CLIP, texts: Sequence[str], tokenizer: Tokenizer
) -> Iterator[tuple[IndexArray, Tensor]]:
    """Yield the rows of texts of similar length and their input_ids, cut to the longest."""
    tokens = tokenizer(texts)
    lengths = tokens.lengths.copy()
    if model.config.needs_padding:
        lengths[:] = tokens.input_ids.shape[1]
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), TEXT_BATCH):
        rows = order[start : start + TEXT_BATCH]
        input_ids = np.ascontiguousarray(tokens.input_ids[rows, : lengths[rows].max()])
        yield rows, torch.from_numpy(input_ids)
