"""A convex fine-tuning: new vectors for the texts of the pairs, while others keep theirs.

The towers stay as they are, and so do the vectors of all pictures. The last linear map W of the
text tower is changed by D so that the softmax over the texts of the training pairs is right, with a
penalty on everything else that the change does:

    loss(W + D) + strength * trace((I + OUTSIDE_WEIGHT * S) D C D.T)

S is the second moment of the image_embeds of other pictures: a shift of a text's vector that
changes the scores of these pictures is expensive. C is the second moment of the features of general
texts: a change that moves the vectors of these texts is expensive (as in Meng et al. 2022, ROME,
who edit a fact in a linear layer). The minimum is a sum over the training texts, D = shifts.T @
keys.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.arrays import Float32Array, Float64Array, Int64Array
from twotower.train.finetune.text_parts import TextParts, TextUpdate

STRENGTHS = tuple(float(10**exponent) for exponent in np.arange(1, -2.25, -0.5))
OUTSIDE_WEIGHT = 1000.0  # lower ones lose more outside, higher ones gain less
MAX_SCALE = 30.0  # a steeper softmax (100 in CLIP) fits a few dozen pictures too closely
RIDGE = 1e-2  # added to C, in units of its mean diagonal
JITTER = 1e-6  # added to the kernel of texts, whose mean diagonal is 1
ITERATIONS = 60  # of L-BFGS, from the solution for the next higher strength


class ShiftMetric:
    """The price of a change, by the pictures and texts that should keep their scores.

    Args:
        general: texts that should keep their vectors.
        outside: image_embeds [m, embed_dim] whose scores should stay.
    """

    def __init__(self, general: TextParts, outside: Float32Array) -> None:
        moment = torch.from_numpy(_second_moment(_relative(general), RIDGE))
        self.text_root = torch.linalg.cholesky(moment)
        image_metric = np.eye(outside.shape[1]) + OUTSIDE_WEIGHT * _second_moment(outside)
        values, vectors = np.linalg.eigh(image_metric)
        self.image_root = torch.from_numpy((vectors / np.sqrt(values)) @ vectors.T).float()

    def keys(self, relative: Float32Array) -> Float32Array:
        """Solve C @ keys.T = relative.T, for features [n, width]."""
        right = torch.from_numpy(relative.T.astype(np.float64))
        return torch.cholesky_solve(right, self.text_root).numpy().T


class TextFit:
    """The problem of one set of training texts; `path` solves it for training pictures.

    Args:
        texts: of the training pairs, [templates * labels] with one template after the other.
        templates: number of templates.
        scale: the factor from cosines to logits, up to `MAX_SCALE`.
    """

    def __init__(self, texts: TextParts, templates: int, metric: ShiftMetric, scale: float) -> None:
        self.templates, self.image_root = templates, metric.image_root
        self.scale = min(scale, MAX_SCALE)
        lengths = np.linalg.norm(texts.projected, axis=1, keepdims=True)
        relative = texts.features / lengths
        keys = metric.keys(relative)
        kernel = relative @ keys.T
        unit = float(kernel.diagonal().mean())
        self.root = torch.from_numpy(np.linalg.cholesky(kernel / unit + JITTER * np.eye(len(keys))))
        self.keys = (keys / unit).astype(np.float32)
        units = texts.projected / lengths + texts.additions
        self.embeds = torch.from_numpy(texts.embeds())
        self.rate = torch.from_numpy(1 / np.linalg.norm(units, axis=1, keepdims=True))

    def path(
        self, image_embeds: Float32Array, owners: Int64Array, both_ways: bool
    ) -> Iterator[tuple[float, TextUpdate]]:
        """Yield the solution for each of `STRENGTHS`, from the strongest penalty on.

        Args:
            image_embeds: [n, embed_dim], of the training pictures.
            owners: [n], the label of each picture.
            both_ways: True if each label has a picture, so that the softmax over pictures is
                trained too.
        """
        images, labels = torch.from_numpy(image_embeds), torch.from_numpy(owners)
        weights = torch.zeros(self.embeds.shape, requires_grad=True)  # [texts, embed_dim]
        for strength in STRENGTHS:
            self._minimise(weights, images, labels, strength, both_ways)
            shifts = weights.detach() @ self.image_root  # of the whitened texts
            coefficients = torch.linalg.solve_triangular(self.root.T, shifts.double(), upper=True)
            yield strength, TextUpdate(self.keys, coefficients.float().numpy())

    def _minimise(
        self, weights: Tensor, images: Tensor, labels: Tensor, strength: float, both_ways: bool
    ) -> None:
        optimizer = torch.optim.LBFGS(
            [weights], max_iter=ITERATIONS, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
        )

        root = self.root.float()

        def closure() -> Tensor:
            optimizer.zero_grad()
            vectors = self.embeds + self.rate * (root @ weights @ self.image_root)
            logits = self.scale * images @ vectors.T  # [n, templates * labels]
            loss = strength * weights.square().sum() / self.templates
            for block in logits.chunk(self.templates, dim=1):
                loss = loss + F.cross_entropy(block, labels) / self.templates
                if both_ways:
                    rows = torch.arange(len(labels))
                    loss = loss + F.cross_entropy(block[:, labels].T, rows) / self.templates
            torch.autograd.backward(loss)
            return loss

        optimizer.step(closure)


def _relative(texts: TextParts) -> Float32Array:
    """Return the features in units of the length of their projection [n, width]."""
    return texts.features / np.linalg.norm(texts.projected, axis=1, keepdims=True)


def _second_moment(rows: Float32Array, ridge: float = 0.0) -> Float64Array:
    """Return the mean outer product [width, width], with a ridge in units of its diagonal."""
    moment = rows.T.astype(np.float64) @ rows / len(rows)
    return moment + ridge * moment.diagonal().mean() * np.eye(len(moment))
