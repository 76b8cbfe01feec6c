"""Batch norm over the pairs of all ranks.

A batch norm joins the pictures of a batch in every layer. Statistics over all ranks keep the loss
independent of the number of processes. Chunks of a batch cannot have them: each of the many norms
would need another pass over all chunks, so `require_whole_batch` refuses chunks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from twotower.errors import TrainError
from twotower.model.fastvit import FrozenNorm
from twotower.model.layers import at_least_float32
from twotower.train.distributed import sum_over_ranks, world_size


def uses_batch_statistics(module: nn.Module) -> bool:
    """Return True for a batch norm whose output depends on the other rows of the batch."""
    return isinstance(module, _BatchNorm) and module.training and not isinstance(module, FrozenNorm)


def require_whole_batch(model: nn.Module, chunk_size: int, local_batch_size: int) -> None:
    """Raise `TrainError` if a batch with batch norms would be divided into chunks."""
    if chunk_size >= local_batch_size or not any(map(uses_batch_statistics, model.modules())):
        return
    raise TrainError(
        f"chunks of {chunk_size} pairs",
        f"a batch norm needs all {local_batch_size} pairs of a rank at a time, or loss and "
        "gradients would be those of small batches",
        "allow more memory (--memory or memory.chunk_size), use a smaller batch or more ranks, or "
        "keep the statistics of trained weights with --set optimizer.frozen_statistics=true",
    )


def synchronize_batch_norms(model: nn.Module) -> None:
    """Replace the batch norms of a model that use batch statistics by `SynchronizedBatchNorm`.

    The names and the tensors of the model stay the same.
    """
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if isinstance(module, _BatchNorm) and uses_batch_statistics(module):
                setattr(parent, name, SynchronizedBatchNorm(module))


class SynchronizedBatchNorm(_BatchNorm):
    """A batch norm with statistics over all ranks, on any device; each rank has as many rows."""

    def __init__(self, norm: _BatchNorm) -> None:
        """Share the tensors of `norm`."""
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.training = norm.training

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept [B, channels] and [B, channels, S, S]."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, channels, ...] and, in training mode, update the running statistics."""
        if not self.training:
            return super().forward(input)
        apply: Any = _NormalizeOverRanks.apply
        output, mean, variance, count = apply(input, self.weight, self.bias, self.eps)
        self._update_statistics(mean, variance * count / (count - 1))
        return output

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


class _NormalizeOverRanks(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with two sums over ranks each way."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        values = at_least_float32(x)
        count = world_size() * x.numel() // x.shape[1]
        mean = sum_over_ranks(_sum_by_channel(values)) / count
        centred = values - _per_channel(mean, x)
        variance = sum_over_ranks(_sum_by_channel(centred.square())) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, mean, scale, weight)
        ctx.count = count
        output = centred * _per_channel(scale if weight is None else scale * weight, x)
        if bias is not None:
            output = output + _per_channel(bias, x)
        ctx.mark_non_differentiable(mean, variance)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale, weight = ctx.saved_tensors
        grad = at_least_float32(grads[0])
        normalized = (at_least_float32(x) - _per_channel(mean, x)) * _per_channel(scale, x)
        bias_grad, weight_grad = _sum_by_channel(grad), _sum_by_channel(grad * normalized)
        means = sum_over_ranks(torch.stack([bias_grad, weight_grad])) / ctx.count
        x_grad = grad - _per_channel(means[0], x) - normalized * _per_channel(means[1], x)
        factor = _per_channel(scale if weight is None else scale * weight, x)
        x_grad = (x_grad * factor).to(x.dtype)
        if weight is None:
            return x_grad, None, None, None
        return x_grad, weight_grad.to(weight.dtype), bias_grad.to(weight.dtype), None


def _sum_by_channel(x: Tensor) -> Tensor:
    return x.sum(dim=[axis for axis in range(x.ndim) if axis != 1])


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Return [channels] in a shape that is broadcast to x."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
