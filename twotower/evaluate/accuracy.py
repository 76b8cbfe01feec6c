"""Accuracy and average precision, computed from arrays of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from twotower.arrays import BoolArray, Float32Array, Float64Array, Int64Array


def top_k_accuracy(
    image_embeds: Float32Array, classifier: Float32Array, labels: Int64Array, k: int = 1
) -> float:
    """Return the share of pictures whose class is among the k classes that score highest.

    Args:
        image_embeds: [n, embed_dim], of unit length.
        classifier: [classes, embed_dim], of unit length.
        labels: [n], the correct class of each picture.
    """
    return float((class_ranks(image_embeds @ classifier.T, labels) < k).mean())


def class_ranks(
    scores: NDArray[np.floating[Any]],
    labels: Int64Array | BoolArray,
    namesakes: Int64Array | None = None,
) -> Int64Array:
    """Count the wrong classes that score at least as high as the correct class.

    Rank 0 is a correct answer. Ties count as errors, so a model that scores all classes alike is
    never correct. If several classes are correct, the best of them counts.

    Args:
        scores: [n, classes].
        labels: [n], or bool [n, classes] where a picture may have several classes.
        namesakes: [classes], equal numbers for classes of the same name
            (`LabelledSet.namesakes`). Their scores are equal; the lowest of these classes counts as
            the answer, as in published figures.

    Returns:
        Ranks [n].
    """
    correct = labels
    if labels.ndim == 1:
        correct = np.zeros(scores.shape, np.bool_)
        correct[np.arange(len(labels)), labels] = True
    best = np.where(correct, scores, -np.inf).max(axis=1, keepdims=True)
    ahead = ~(scores < best) & ~correct  # not `>=`, so that NaN counts as an error
    if namesakes is not None and labels.ndim == 1:
        higher_class = np.arange(len(namesakes)) > labels[:, None]
        ahead &= ~(higher_class & (namesakes == namesakes[labels][:, None]))
    return np.asarray(ahead.sum(axis=1), np.int64)


def top_probability(
    scores: Float32Array, logit_scale: float, logit_bias: float | None
) -> Float64Array:
    """Return the probability [n] of the class that scores highest.

    It is the softmax over all classes; for a model with a `logit_bias` (SigLIP), the sigmoid of the
    class alone.

    Args:
        scores: [n, classes], before scale and bias.
    """
    logits = logit_scale * scores.astype(np.float64)
    best = logits.max(axis=1)
    if logit_bias is not None:
        return np.asarray(1 / (1 + np.exp(-(best + logit_bias))))
    return np.asarray(1 / np.exp(logits - best[:, None]).sum(axis=1))


def precision_orders(scores: Float32Array, labels: BoolArray) -> Int64Array:
    """Return, for each class, the pictures by falling score; at equal scores, wrong ones first.

    Args:
        scores: [n, classes].
        labels: [n, classes].

    Returns:
        Numbers of pictures [n, classes], a column for each class.
    """
    columns = zip(scores.T, labels.T, strict=True)
    return np.stack([np.lexsort((correct, -column)) for column, correct in columns], axis=1)


def average_precisions(
    labels: BoolArray, orders: Int64Array, weights: Float64Array | None = None
) -> Float64Array:
    """Return the average precision of each class [classes]; NaN for a class without pictures.

    It is the mean, over the pictures of a class, of the precision among the pictures down to that
    one.

    Args:
        labels: [n, classes].
        orders: [n, classes], from `precision_orders`.
        weights: [n], the number of times that each picture counts.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    ordered_weights = weights[orders]  # [n, classes]
    hits = ordered_weights * np.take_along_axis(labels, orders, axis=0)
    precision = hits.cumsum(axis=0) / np.maximum(ordered_weights.cumsum(axis=0), 1e-12)
    total = hits.sum(axis=0)
    sums = (hits * precision).sum(axis=0)
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
