"""Tip-Adapter: a few labelled pictures beside the words, without training (Zhang et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The ranges of the authors' search (gaopengcuhk/Tip-Adapter at commit d0e2d6f, MIT), with fewer
# steps; alpha 0, the words alone, is among them.
BETAS = np.linspace(0.1, 12, 25)
ALPHAS = np.linspace(0, 5, 26)


@dataclass(frozen=True)
class TipAdapter:
    """logits = scale * cosines to the words + alpha * what the nearest known pictures say.

    Attributes:
        classifier: [classes, embed_dim]. keys: [shots, embed_dim], known pictures. values: [shots],
            their classes.
    """

    classifier: NDArray[np.float32]
    keys: NDArray[np.float32]
    values: NDArray[np.int64]
    scale: float
    alpha: float = 1.0
    beta: float = 5.5

    def logits(self, image_embeds: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, classes]."""
        words = self.scale * (image_embeds @ self.classifier.T)
        return words + np.float32(self.alpha) * self._known(image_embeds @ self.keys.T, self.beta)

    def tuned(self, image_embeds: NDArray[np.float32], labels: NDArray[np.int64]) -> TipAdapter:
        """With the alpha and beta that are right most often on a validation set."""
        words = self.scale * (image_embeds @ self.classifier.T)
        cosines = image_embeds @ self.keys.T
        best, chosen = -1.0, (0.0, float(BETAS[0]))
        for beta in BETAS.tolist():
            known = self._known(cosines, beta)
            for alpha in ALPHAS.tolist():
                accuracy = float(((words + alpha * known).argmax(axis=1) == labels).mean())
                if accuracy > best:
                    best, chosen = accuracy, (alpha, beta)
        return TipAdapter(self.classifier, self.keys, self.values, self.scale, *chosen)

    def _known(self, cosines: NDArray[np.float32], beta: float) -> NDArray[np.float32]:
        """[n, classes]: exp(-beta (1 - cosine)), summed over the known pictures of each class."""
        one_hot = np.zeros((len(self.values), len(self.classifier)), np.float32)
        one_hot[np.arange(len(self.values)), self.values] = 1
        return np.asarray(np.exp(-beta * (1 - cosines)) @ one_hot, np.float32)
