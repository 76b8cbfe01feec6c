"""Names of pictures and their hypernyms: a poodle is also a dog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.twotower_small.losses import SYNONYM_COSINE, Words
from recipes.twotower_small.wordnet import WordNet, plain
from twotower.arrays import Float64Array, Int64Array

HYPERNYM_PROBABILITY = 0.5  # that a picture is labelled with a hypernym
STEP_FACTOR = 0.75  # by which each step up is less probable


@dataclass(frozen=True)
class Hypernyms:
    """Names and the hypernyms of each."""

    names: list[str]
    fits: Tensor  # [n, n], bool: the second name fits whatever the first fits
    choices: list[tuple[Int64Array, Float64Array]]  # for each name: hypernyms, probabilities

    def sample(self, row: int, random: np.random.Generator) -> int:
        """Return the name itself or one of its hypernyms."""
        rows, probabilities = self.choices[row]
        if not len(rows) or random.random() > HYPERNYM_PROBABILITY:
            return row
        return int(random.choice(rows, p=probabilities))

    def log_prior(self, labels: Tensor) -> Tensor:
        """Return the log frequency [n] of each name, for pictures drawn by
        `sampling_probabilities`."""
        weights = torch.from_numpy(sampling_probabilities(labels))
        frequencies = labels.bincount(weights, minlength=len(self.choices))
        shares = frequencies.clone()
        for row, (rows, probabilities) in enumerate(self.choices):
            if len(rows):
                shares[row] -= HYPERNYM_PROBABILITY * frequencies[row]
                shares[rows] += (
                    HYPERNYM_PROBABILITY * frequencies[row] * torch.from_numpy(probabilities)
                )
        return shares.clamp(min=1e-5).log().float()

    def acceptable(
        self, labels: Tensor, sampled: Tensor, embeds: Tensor, candidates: Tensor
    ) -> Tensor:
        """Return which of `candidates` [k] are no mistakes, [b, k].

        These are the names that fit too, and synonyms by the cosine of `embeds` [n, embed_dim].

        Args:
            labels: [b], the names of pictures. sampled: [b], the label of each in this step.
        """
        acceptable = self.fits[labels][:, candidates]
        for rows in (labels, sampled):
            acceptable = acceptable | (embeds[rows] @ embeds[candidates].T > SYNONYM_COSINE)
        return acceptable


def find_hypernyms(
    words: Words, wordnet: WordNet, captions: Sequence[tuple[str, ...]]
) -> tuple[Hypernyms, Tensor]:
    """Return the names of pictures with their hypernyms, and the row of each picture's name.

    Hypernyms need a vector that was not estimated by the dictionary: those are words that people
    use.
    """
    labels = [plain(names[0]) for names in captions]
    names_by_label = dict(zip(reversed(labels), reversed(captions), strict=True))
    vocabulary = set(words.names[: words.known_count])
    steps_by_label = {
        label: wordnet.hypernyms(names, vocabulary)
        for label, names in sorted(names_by_label.items())
    }
    names = list(
        dict.fromkeys([*steps_by_label, *(name for s in steps_by_label.values() for name in s)])
    )
    rows = {name: row for row, name in enumerate(names)}
    fits = torch.eye(len(names), dtype=torch.bool)
    choices = []
    for name in names:
        steps = steps_by_label.get(name, {})
        hypernyms = np.array([rows[hypernym] for hypernym in steps], np.int64)
        fits[rows[name], hypernyms] = True
        weights = np.array([STEP_FACTOR**count for count in steps.values()])
        choices.append((hypernyms, weights / weights.sum()))
    return Hypernyms(names, fits, choices), torch.tensor([rows[label] for label in labels])


def sampling_probabilities(labels: Tensor) -> Float64Array:
    """Return the probability of each picture, by which rare names are drawn more often."""
    weights = labels.bincount().clamp(min=5).double()[labels].rsqrt().numpy()
    return np.asarray(weights / weights.sum())
