"""Candidate weights of a fine-tuning: their scores, the choice among them, and their file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from torch import Tensor

from twotower.arrays import Float64Array, Int64Array
from twotower.files import atomic_write
from twotower.train.finetune.held_out import difference_interval
from twotower.train.finetune.text_parts import TextUpdate

Stage: TypeAlias = Literal["start", "texts", "towers"]


@dataclass(frozen=True)
class Candidate:
    """Weights, and their scores on the pairs that the choice is made by.

    Attributes:
        stage: "start", the model before; "texts", new vectors for the texts; "towers", a mixture of
            the weights before and after the training of both towers.
        value: the strength of the penalty of "texts", or the share of the trained weights.
        domain: [n], the score of each picture, from 0 to 1, by weights that it did not train.
        outside: [m], the score of each outside picture.
        update: of the text tower, for "texts".
    """

    stage: Stage
    value: float
    domain: Float64Array
    outside: Float64Array
    update: TextUpdate | None = None

    def name(self) -> str:
        """Return the candidate's name in the card."""
        if self.stage == "start":
            return "the model before"
        if self.stage == "texts":
            return f"texts, penalty {self.value:.3g}"
        return f"towers, {self.value:.1%} of the way"

    def gain(self, start: Candidate) -> tuple[float, tuple[float, float]]:
        """Return the gain in the domain, and its 95 % interval."""
        return _difference(start.domain, self.domain)

    def change_outside(self, start: Candidate) -> tuple[float, tuple[float, float]]:
        """Return the change outside, and its 95 % interval."""
        return _difference(start.outside, self.outside)

    def is_allowed(self, start: Candidate, may_lose: float) -> bool:
        """Return True if the loss outside and its standard error are at most `may_lose`, of 1."""
        loss = start.outside - self.outside
        error = float(loss.std() / np.sqrt(len(loss)))
        return self.stage == "start" or float(loss.mean()) + error <= may_lose + 1e-9


def _difference(before: Float64Array, after: Float64Array) -> tuple[float, tuple[float, float]]:
    return float((after - before).mean()), difference_interval(before, after)


def choose_candidate(candidates: Sequence[Candidate], may_lose: float) -> Candidate:
    """Return the candidate with the best domain score among those that are allowed.

    Of equal ones, the one with the best outside score, then the first one. The first candidate is
    the model before fine-tuning and is always allowed.

    Args:
        may_lose: the loss of outside score that is allowed, of 1.
    """
    start = candidates[0]
    allowed = [candidate for candidate in candidates if candidate.is_allowed(start, may_lose)]
    return max(allowed, key=lambda candidate: (candidate.domain.mean(), candidate.outside.mean()))


def interpolate(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], mix: float
) -> dict[str, Tensor]:
    """Return (1 - mix) * before + mix * after; counters are those of `after`."""
    return {
        name: before[name].lerp(tensor, mix) if tensor.is_floating_point() else tensor
        for name, tensor in after.items()
    }


def write_candidates(candidates: Sequence[Candidate], path: Path) -> None:
    """Write candidates, so that another one can be chosen later."""
    updates = [candidate.update for candidate in candidates if candidate.update]
    empty = np.zeros((0, 0), np.float32)
    with atomic_write(path, "wb") as file:
        np.savez(
            file,
            stages=np.array([candidate.stage for candidate in candidates]),
            values=np.array([candidate.value for candidate in candidates]),
            domain=np.stack([candidate.domain for candidate in candidates]),
            outside=np.stack([candidate.outside for candidate in candidates]),
            keys=updates[0].keys if updates else empty,
            shifts=np.stack([update.shifts for update in updates]) if updates else empty,
        )


def read_candidates(path: Path) -> list[Candidate]:
    """Read what `write_candidates` wrote."""
    with np.load(path) as arrays:
        stored = dict(arrays)
    shifts = iter(stored["shifts"])
    stages: list[Stage] = stored["stages"].tolist()
    return [
        Candidate(
            stage,
            float(stored["values"][row]),
            stored["domain"][row],
            stored["outside"][row],
            TextUpdate(stored["keys"], next(shifts)) if stage == "texts" else None,
        )
        for row, stage in enumerate(stages)
    ]


def divide(keys: Sequence[bytes], labels: Sequence[str], count: int) -> Int64Array:
    """Divide pictures into count of equal size with an equal share of each label.

    The part depends on the keys and labels alone, and equal pictures are in the same part.

    Args:
        keys: [n], of the pictures.
        labels: [n], names of classes; equal ones for pictures without classes.

    Returns:
        The part of each picture [n].
    """
    order: dict[bytes, int] = {}
    for _, key in sorted(zip(labels, keys, strict=True)):
        order.setdefault(key, len(order))
    return np.array([order[key] % count for key in keys])
