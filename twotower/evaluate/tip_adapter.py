"""Tip-Adapter: text embeds and a few labelled pictures, without training (Zhang et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from twotower.arrays import Float32Array, Int64Array

# The ranges of the authors' search (gaopengcuhk/Tip-Adapter at commit d0e2d6f, MIT), in fewer
# steps. Alpha 0, the text embeds alone, is among them.
BETAS = np.linspace(0.1, 12, 25)
ALPHAS = np.linspace(0, 5, 26)


@dataclass(frozen=True)
class TipAdapter:
    """A classifier: logits = scale * text similarity + alpha * similarity to labelled pictures.

    Attributes:
        classifier: [classes, embed_dim], text embeds.
        keys: [shots, embed_dim], embeds of the labelled pictures.
        values: [shots], their classes.
        scale: the model's logit scale, exponentiated.
        beta: sharpness of the similarity exp(-beta * (1 - cosine)).
    """

    classifier: Float32Array
    keys: Float32Array
    values: Int64Array
    scale: float
    alpha: float = 1.0
    beta: float = 5.5

    def logits(self, image_embeds: Float32Array) -> Float32Array:
        """Return logits [n, classes]."""
        by_text = self.scale * (image_embeds @ self.classifier.T)
        by_shots = self._shot_logits(image_embeds @ self.keys.T, self.beta)
        return by_text + np.float32(self.alpha) * by_shots

    def tune(self, image_embeds: Float32Array, labels: Int64Array) -> TipAdapter:
        """Return a copy with the alpha and beta of the highest accuracy on a validation set."""
        by_text = self.scale * (image_embeds @ self.classifier.T)
        cosines = image_embeds @ self.keys.T
        best_accuracy, best = -1.0, (0.0, float(BETAS[0]))
        for beta in BETAS.tolist():
            by_shots = self._shot_logits(cosines, beta)
            for alpha in ALPHAS.tolist():
                accuracy = float(((by_text + alpha * by_shots).argmax(axis=1) == labels).mean())
                if accuracy > best_accuracy:
                    best_accuracy, best = accuracy, (alpha, beta)
        return replace(self, alpha=best[0], beta=best[1])

    def _shot_logits(self, cosines: Float32Array, beta: float) -> Float32Array:
        """Sum exp(-beta * (1 - cosine)) over the labelled pictures of each class [n, classes]."""
        one_hot = np.zeros((len(self.values), len(self.classifier)), np.float32)
        one_hot[np.arange(len(self.values)), self.values] = 1
        return np.asarray(np.exp(-beta * (1 - cosines)) @ one_hot, np.float32)
