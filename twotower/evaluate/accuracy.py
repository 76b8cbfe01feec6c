"""Accuracy and average precision from scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def top_k_accuracy(
    image_embeds: NDArray[np.float32],
    classifier: NDArray[np.float32],
    labels: NDArray[np.int64],
    k: int = 1,
) -> float:
    """Share of pictures whose class is among the k nearest of the classifier's.

    Args:
        image_embeds: [n, embed_dim]. classifier: [classes, embed_dim]. Both of unit length.
        labels: [n], the right class of each.
    """
    return float((class_ranks(image_embeds @ classifier.T, labels) < k).mean())


def class_ranks(
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.int64] | NDArray[np.bool_],
    namesakes: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """How many wrong classes come before the right one, 0 being the best.

    Ties count against, so a model that says the same of everything is never right. Where several
    classes are right, the best of them counts.

    Args:
        scores: [n, classes]. labels: [n], or bool [n, classes].
        namesakes: [classes], equal for classes of the same name (`LabelledSet.namesakes`). Words
            cannot tell these apart: the first of them is given, as in published figures.

    Returns:
        [n].
    """
    right = labels
    if labels.ndim == 1:
        right = np.zeros(scores.shape, np.bool_)
        right[np.arange(len(labels)), labels] = True
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    before = ~(scores < best) & ~right  # this way round, NaN is never right
    if namesakes is not None and labels.ndim == 1:
        later = np.arange(len(namesakes)) > labels[:, None]
        before &= ~(later & (namesakes == namesakes[labels][:, None]))
    return np.asarray(before.sum(axis=1), np.int64)


def top_probability(
    scores: NDArray[np.float32], logit_scale: float, logit_bias: float | None
) -> NDArray[np.float64]:
    """Probability [n] of the nearest class: softmax over all, or its own sigmoid (SigLIP)."""
    logits = logit_scale * scores.astype(np.float64)
    best = logits.max(axis=1)
    if logit_bias is not None:
        return np.asarray(1 / (1 + np.exp(-(best + logit_bias))))
    return np.asarray(1 / np.exp(logits - best[:, None]).sum(axis=1))


def precision_orders(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Of each class, the pictures by falling score [n, classes]; of equal ones, wrong first."""
    return np.stack(
        [np.lexsort((right, -column)) for column, right in zip(scores.T, labels.T, strict=True)],
        axis=1,
    )


def average_precisions(
    labels: NDArray[np.bool_],
    orders: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Average precision of each class [classes]: the mean, over its pictures, of the share of right
    ones down to that picture. NaN for a class of no picture.

    Args:
        labels: [n, classes]. orders: from `precision_orders`. weights: [n], pictures counted so
            many times.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    weighed = weights[orders]  # [n, classes]
    right = weighed * np.take_along_axis(labels, orders, axis=0)
    precision = right.cumsum(axis=0) / np.maximum(weighed.cumsum(axis=0), 1e-12)
    total = right.sum(axis=0)
    sums = (right * precision).sum(axis=0)
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
