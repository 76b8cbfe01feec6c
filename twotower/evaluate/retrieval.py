"""How often the right one is found: recall at k, captions to pictures and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def recall_at_k(
    image_embeds: NDArray[np.float32],
    text_embeds: NDArray[np.float32],
    owners: NDArray[np.int64],
    k: int,
) -> tuple[float, float]:
    """Text to image and image to text, as shares of 1.

    A picture is found by any one of its captions. It says nothing about scores: only about order,
    and only among these pictures, so figures of sets of other sizes must not be compared.

    Args:
        image_embeds: [I, embed_dim]. text_embeds: [T, embed_dim]. Both of unit length.
        owners: [T], the picture that each caption belongs to.
    """
    scores = text_embeds @ image_embeds.T  # [T, I]
    pictures = _best(scores, k)  # [T, k]
    texts = _best(scores.T, k)  # [I, k]
    text_to_image = (pictures == owners[:, None]).any(axis=1)
    image_to_text = (owners[texts] == np.arange(len(image_embeds))[:, None]).any(axis=1)
    return float(text_to_image.mean()), float(image_to_text.mean())


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The k highest of each row, highest first; of equal ones the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
