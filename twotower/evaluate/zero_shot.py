"""How often the right class is among the best: top-k accuracy."""

from __future__ import annotations

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
    best = np.argsort(-(image_embeds @ classifier.T), axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())
