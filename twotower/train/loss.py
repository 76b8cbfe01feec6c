"""Contrastive losses of pictures and texts.

`clip_loss` and `siglip_loss` are the definitions, on logits. `tiled_clip_loss` and
`tiled_siglip_loss` give the same numbers and gradients for large batches: they start from embeds,
hold one tile of the logits at a time, and join the pairs of all ranks.

A pair is a positive of the loss if it lies on the diagonal of the logits. If pictures or captions
repeat in a batch, `positives` (or ids) names all positives instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twotower.model.layers import at_least_float32
from twotower.train.distributed import all_gather, logsumexp_over_ranks, own_rows_of_sum, rank

TILE = 1024  # pairs on a side; 4 MB of float32 fit the cache of a core


def clip_loss(logits_per_image: Tensor, positives: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE over a batch of B pairs (Radford et al. 2021, figure 3).

    Args:
        logits_per_image: [B, B], exp(logit_scale) * cosine; row i and column i are a pair.
        positives: bool [B, B], the diagonal by default; the target of a row is spread evenly over
            its positives (Khosla et al. 2020, equation 2).
    """
    logits = at_least_float32(logits_per_image)
    if positives is None:
        target = torch.arange(logits.shape[0], device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    rows = positives / positives.sum(dim=1, keepdim=True)
    columns = positives / positives.sum(dim=0, keepdim=True)
    image_loss = F.cross_entropy(logits, rows.to(logits.dtype))
    text_loss = F.cross_entropy(logits.T, columns.T.to(logits.dtype))
    return (image_loss + text_loss) / 2


def siglip_loss(logits_per_image: Tensor, positives: Tensor | None = None) -> Tensor:
    """Pairwise sigmoid loss, summed over texts and averaged over pictures (Zhai et al. 2023).

    Args:
        logits_per_image: [B, B], exp(logit_scale) * cosine + logit_bias.
        positives: bool [B, B], the diagonal by default.
    """
    logits = at_least_float32(logits_per_image)
    if positives is None:
        positives = torch.eye(logits.shape[0], dtype=torch.bool, device=logits.device)
    return -F.logsigmoid(torch.where(positives, logits, -logits)).sum() / logits.shape[0]


def tiled_clip_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    ids: tuple[Tensor, Tensor] | None = None,
    tile: int = TILE,
) -> Tensor:
    """`clip_loss` of all ranks' pairs, in memory of B * tile instead of B * B.

    Args:
        image_embeds: [b, embed_dim] of this rank; b is the same on every rank.
        text_embeds: [b, embed_dim] of this rank.
        logit_scale: the logarithm that the model stores.
        ids: int64 [b] of pictures and [b] of texts; equal ids mean equal pictures or texts.
        tile: rows and columns of the logits that are held at a time.

    Returns:
        This rank's share; the shares of all ranks add up to the loss. The backward pass, which all
        ranks must run, gives the gradient of the whole loss to the embeds, and a share of it to
        `logit_scale`.
    """
    embeds = at_least_float32(image_embeds), at_least_float32(text_embeds)
    positives = _Positives(image_embeds, ids)
    apply: Any = _TiledClip.apply
    return apply(*embeds, logit_scale.exp(), positives, tile)


def tiled_siglip_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    ids: tuple[Tensor, Tensor] | None = None,
    tile: int = TILE,
) -> Tensor:
    """`siglip_loss` of all ranks' pairs; arguments and result as for `tiled_clip_loss`."""
    embeds = at_least_float32(image_embeds), at_least_float32(text_embeds)
    positives = _Positives(image_embeds, ids)
    apply: Any = _TiledSiglip.apply
    return apply(*embeds, logit_scale.exp(), logit_bias, positives, tile)


class _Positives:
    """The positives among this rank's pictures (rows) and all ranks' texts (columns)."""

    def __init__(self, image_embeds: Tensor, ids: tuple[Tensor, Tensor] | None) -> None:
        local = image_embeds.shape[0]
        self.repeats = ids is not None
        if ids is None:
            numbers = torch.arange(local, device=image_embeds.device) + local * rank()
            ids = numbers, numbers
        self.image_ids, self.text_ids = ids
        self.all_image_ids, self.all_text_ids = all_gather(ids[0]), all_gather(ids[1])
        self.offset = local * rank()  # of this rank's pairs among all

    def mask(self, rows: slice, columns: slice) -> Tensor | None:
        """Return bool [rows, columns], or None if the tile is known to hold no positive."""
        start, stop = self.offset + rows.start, self.offset + rows.stop
        if not self.repeats and (columns.stop <= start or columns.start >= stop):
            return None
        return (self.image_ids[rows, None] == self.all_image_ids[columns]) | (
            self.text_ids[rows, None] == self.all_text_ids[columns]
        )

    def counts(self, tile: int) -> tuple[Tensor, Tensor]:
        """Count the positives of each of this rank's pictures [b] and of each text [B]."""
        rows = torch.zeros(len(self.image_ids), device=self.image_ids.device)
        for row, column in _tiles(len(self.image_ids), len(self.all_text_ids), tile):
            mask = self.mask(row, column)
            if mask is not None:
                rows[row] += mask.sum(dim=1)
        return rows, all_gather(rows)  # positives are symmetric, so columns have the same counts


class _TiledClip(torch.autograd.Function):
    """Forward keeps the log-sum-exp of rows and columns; backward computes each tile again."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, positives: _Positives, tile: int
    ) -> Tensor:
        texts = all_gather(texts)
        row_count, column_count = (count.to(images.dtype) for count in positives.counts(tile))
        row_lse = images.new_full((len(images),), -torch.inf)
        column_lse = images.new_full((len(texts),), -torch.inf)
        attraction = images.new_zeros(())
        for rows, columns in _tiles(len(images), len(texts), tile):
            logits = (images[rows] @ texts[columns].T).mul_(scale)
            row_lse[rows] = torch.logaddexp(row_lse[rows], logits.logsumexp(dim=1))
            column_lse[columns] = torch.logaddexp(column_lse[columns], logits.logsumexp(dim=0))
            mask = positives.mask(rows, columns)
            if mask is not None:
                weight = 1 / row_count[rows, None] + 1 / column_count[columns]
                attraction += (logits * weight * mask).sum()
        column_lse = logsumexp_over_ranks(column_lse)
        local_lse = column_lse[positives.offset : positives.offset + len(images)]
        ctx.save_for_backward(images, texts, scale, row_lse, column_lse, row_count, column_count)
        ctx.positives, ctx.tile = positives, tile
        return (row_lse.sum() + local_lse.sum() - attraction) / (2 * len(texts))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, scale, row_lse, column_lse, row_count, column_count = ctx.saved_tensors
        image_grad, text_grad = torch.zeros_like(images), torch.zeros_like(texts)
        scale_grad = torch.zeros_like(scale)
        for rows, columns in _tiles(len(images), len(texts), ctx.tile):
            cosine = images[rows] @ texts[columns].T
            logits = cosine * scale
            # d loss / d logits, but for the factor 1 / 2B: probabilities minus targets
            error = (logits - row_lse[rows, None]).exp_()
            error += logits.sub_(column_lse[columns]).exp_()
            mask = ctx.positives.mask(rows, columns)
            if mask is not None:
                error -= mask * (1 / row_count[rows, None] + 1 / column_count[columns])
            _accumulate(image_grad, text_grad, error, images, texts, rows, columns)
            scale_grad += torch.vdot(error.flatten(), cosine.flatten())
        share = grads[0] / (2 * len(texts))
        text_grad = own_rows_of_sum(text_grad)
        factor = share * scale
        return image_grad * factor, text_grad * factor, scale_grad * share, None, None


class _TiledSiglip(torch.autograd.Function):
    """The loss is a sum over the entries of the logits, and so a sum over tiles."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor,
        positives: _Positives,
        tile: int,
    ) -> Tensor:
        texts = all_gather(texts)
        loss = images.new_zeros(())
        for rows, columns in _tiles(len(images), len(texts), tile):
            logits = (images[rows] @ texts[columns].T).mul_(scale).add_(bias)
            mask = positives.mask(rows, columns)
            loss += F.softplus(logits if mask is None else torch.where(mask, -logits, logits)).sum()
        ctx.save_for_backward(images, texts, scale, bias)
        ctx.positives, ctx.tile = positives, tile
        return loss / len(texts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, scale, bias = ctx.saved_tensors
        image_grad, text_grad = torch.zeros_like(images), torch.zeros_like(texts)
        scale_grad, bias_grad = torch.zeros_like(scale), torch.zeros_like(bias)
        for rows, columns in _tiles(len(images), len(texts), ctx.tile):
            cosine = images[rows] @ texts[columns].T
            error = (cosine * scale).add_(bias).sigmoid_()  # d loss / d logits, times B
            mask = ctx.positives.mask(rows, columns)
            if mask is not None:
                error -= mask.to(error.dtype)
            _accumulate(image_grad, text_grad, error, images, texts, rows, columns)
            scale_grad += torch.vdot(error.flatten(), cosine.flatten())
            bias_grad += error.sum()
        share = grads[0] / len(texts)
        text_grad = own_rows_of_sum(text_grad)
        factor = share * scale
        scalars = scale_grad * share, bias_grad * share
        return image_grad * factor, text_grad * factor, *scalars, None, None


def _accumulate(
    image_grad: Tensor,
    text_grad: Tensor,
    error: Tensor,
    images: Tensor,
    texts: Tensor,
    rows: slice,
    columns: slice,
) -> None:
    image_grad[rows].addmm_(error, texts[columns])
    text_grad[columns].addmm_(error.T, images[rows])


def _tiles(rows: int, columns: int, tile: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, rows, tile):
        for column in range(0, columns, tile):
            yield (
                slice(row, min(row + tile, rows)),
                slice(column, min(column + tile, columns)),
            )
