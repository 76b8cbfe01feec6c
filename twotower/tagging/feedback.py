"""What corrections teach a tag: the words stay, and pictures accepted or rejected bend them.

Logistic regression whose start is the log-odds that the words give, with a Gaussian prior on the
departure from them: the same as a Gaussian process over the pictures. Near what was corrected the
verdicts win; far from it, and while there are few, the words do. Solved over the corrections alone,
so it takes milliseconds and nothing has to be trained.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import Float32Array, Float64Array
from twotower.calibration.background import Background
from twotower.index.scan import scan
from twotower.metadata.keywords import collect_keywords, find_sidecars, has_our_mark
from twotower.metadata.ownership import Tag

# Variances of the departure from the words, in log-odds; chosen on flickr8k-train.
EVERYWHERE = 1.0  # the same for every picture
LINEAR = 4.0  # along the directions in which pictures differ
NEARBY = 4.0  # for pictures that look alike
WIDTH = 0.5  # of "alike": the squared distance, where 2 is that of two pictures without relation
MOST = 1000  # corrections of one tag that are used, the last ones


@dataclass(frozen=True)
class Feedback:
    """What was learned of one tag: corrected pictures [m, embed_dim] and their weights [m]."""

    pictures: Float32Array
    weights: Float64Array

    def departure(self, background: Background, image_embeds: Float32Array) -> Float64Array:
        """What to add to the log-odds that the words give [n]."""
        return np.asarray(kernel(background, image_embeds, self.pictures) @ self.weights)


def learn(
    background: Background,
    image_embeds: Float32Array,
    logits: Float64Array,
    accepted: NDArray[np.bool_],
) -> Feedback:
    """The most probable departure from `logits` [m] that explains the verdicts.

    Args:
        image_embeds: the corrected pictures [m, embed_dim].
        logits: what the words say of them.
        accepted: what the person says.
    """
    image_embeds, logits, accepted = image_embeds[-MOST:], logits[-MOST:], accepted[-MOST:]
    covariance = kernel(background, image_embeds, image_embeds)
    weights = np.zeros(len(logits))
    for _ in range(30):  # Newton's method (Rasmussen and Williams 2006, algorithm 3.1)
        departure = covariance @ weights
        p = 1 / (1 + np.exp(-np.clip(logits + departure, -30, 30)))
        curvature = np.maximum(p * (1 - p), 1e-9)
        root = np.sqrt(curvature)
        inner = np.eye(len(p)) + root[:, None] * covariance * root
        right = curvature * departure + accepted - p
        after = right - root * np.linalg.solve(inner, root * (covariance @ right))
        done = np.abs(covariance @ (after - weights)).max() < 1e-6
        weights = after
        if done:
            break
    return Feedback(image_embeds, weights)


def kernel(background: Background, a: Float32Array, b: Float32Array) -> Float64Array:
    """How much the departures at pictures [n, embed_dim] and [m, embed_dim] go together [n, m]."""
    others = len(background.pictures) - len(background.spread)
    size = float((background.spread**2).sum()) + others * background.residual  # of a usual picture
    a, b = a - background.pictures, b - background.pictures
    products = (a @ b.T).astype(np.float64) / size
    squares = (a**2).sum(axis=1)[:, None] / size + (b**2).sum(axis=1) / size
    distances = np.maximum(squares - 2 * products, 0)
    return EVERYWHERE + LINEAR * products + NEARBY * np.exp(-distances / (2 * WIDTH))


def rejected_tags(root: Path) -> dict[bytes, list[Tag]]:
    """By picture in `root`, the tags of ours that a person has taken out of its sidecars.

    Those that were only moved, below another name, are not among them.
    """
    found = {}
    for one in scan(root).files:
        if one.sidecar_ns:
            sidecars = find_sidecars(root / os.fsdecode(one.path))
            known = collect_keywords((), b"", filter(has_our_mark, sidecars))
            theirs = {name.casefold() for tag in known.person for name in tag}
            if rejected := [tag for tag in known.rejected if tag[-1].casefold() not in theirs]:
                found[one.path] = rejected
    return found
