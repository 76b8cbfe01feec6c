"""What pictures are called, and what else they may be called: a poodle is a dog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.twotower_small.losses import SYNONYMS, Words
from recipes.twotower_small.wordnet import WordNet, plain

CALLED_ITS_KIND, UP = 0.5, 0.75  # how often; and how much less often for each step up


@dataclass(frozen=True)
class Kinds:
    """Names, and what each is a kind of."""

    names: list[str]
    fits: Tensor  # [n, n], bool: what the first is called, the second is too
    above: list[tuple[NDArray[np.int64], NDArray[np.float64]]]  # for each: rows, and how often

    def also(self, row: int, draw: np.random.Generator) -> int:
        """The name itself, or what it is a kind of."""
        rows, chances = self.above[row]
        if not len(rows) or draw.random() > CALLED_ITS_KIND:
            return row
        return int(draw.choice(rows, p=chances))

    def log_prior(self, labels: Tensor) -> Tensor:
        """Logarithm of how often each name [n] is said, where pictures with these labels are drawn
        as `rare_more_often` does."""
        often = torch.from_numpy(rare_more_often(labels))
        own = labels.bincount(often, minlength=len(self.above))
        shares = own.clone()
        for row, (above, chances) in enumerate(self.above):
            if len(above):
                shares[row] -= CALLED_ITS_KIND * own[row]
                shares[above] += CALLED_ITS_KIND * own[row] * torch.from_numpy(chances)
        return shares.clamp(min=1e-5).log().float()

    def same(self, labels: Tensor, right: Tensor, embeds: Tensor, among: Tensor) -> Tensor:
        """Which of `among` [k] are no mistakes [b, k], where `labels` are called `right` [b]: what
        fits too, or means the same by the text `embeds` [n, embed_dim]."""
        same = self.fits[labels][:, among]
        for chosen in (labels, right):
            same = same | (embeds[chosen] @ embeds[among].T > SYNONYMS)
        return same


def look_up_kinds(
    words: Words, wordnet: WordNet, said: Sequence[tuple[str, ...]]
) -> tuple[Kinds, Tensor]:
    """The names of pictures with what they are kinds of, and for each picture its row in them.

    Of kinds those count that have a vector of their own, not from the dictionary: what people call
    things.
    """
    own = [plain(captions[0]) for captions in said]
    first = dict(zip(reversed(own), reversed(said), strict=True))  # of each name
    known = set(words.names[: words.known])
    above = {name: wordnet.kinds(captions, known) for name, captions in sorted(first.items())}
    names = list(dict.fromkeys([*above, *(kind for kinds in above.values() for kind in kinds)]))
    rows = {name: row for row, name in enumerate(names)}
    fits = torch.eye(len(names), dtype=torch.bool)
    choices = []
    for name in names:
        kinds = above.get(name, {})
        up = np.array([rows[kind] for kind in kinds], np.int64)
        fits[rows[name], up] = True
        chances = np.array([UP**steps_up for steps_up in kinds.values()])
        choices.append((up, chances / chances.sum()))
    return Kinds(names, fits, choices), torch.tensor([rows[name] for name in own])


def rare_more_often(labels: Tensor) -> NDArray[np.float64]:
    """How often each picture is drawn: rare names come up more often than they are there."""
    chances = labels.bincount().clamp(min=5).double()[labels].rsqrt().numpy()
    return np.asarray(chances / chances.sum())
