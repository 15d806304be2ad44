"""Cross-entropy over a large vocabulary, a few rows at a time.

With all rows at once, the logits would be there four times over in float32: their copy, their log-softmax
and the gradients of both.  Here loss and gradient of a row are made together, while the row is in the
processor's cache, and only the gradient is kept, in the logits' own dtype.  Beside 4,096 image codes that is
a fifth of a training step on a CPU; beside the official 102,400 text tokens it is gigabytes.

Shapes: N targets, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_AT_ONCE = 1 << 18  # logits that are worked on at a time: what stays in the cache of a CPU
_ON_DEVICE = 1 << 26  # elsewhere: enough to keep a GPU busy, a quarter of a gigabyte


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    among: int | None = None,
) -> Tensor:
    """The sum over targets (N,) of logits (N, C) of any dtype, each times its weight (N,); float32.

    `smoothing` is the share of each target that goes to all classes alike (arXiv 1512.00567, section 7), or
    to the target's like alone, where classes come in groups of `among`, one after the other.
    The gradient goes to the logits alone, and can't be differentiated again.
    """
    if weights is None:
        weights = torch.ones(len(targets), device=logits.device)
    total: Tensor = _CrossEntropy.apply(logits, targets, weights.float(), smoothing, among)
    return total


def _group(targets: Tensor, size: int) -> Tensor:
    """All classes of the groups that targets (N, 1) are in, (N, size)."""
    return targets // size * size + torch.arange(size, device=targets.device)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, weights: Tensor, smoothing: float, among: int | None
    ) -> Tensor:
        count, classes = logits.shape
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wanted else None
        total = logits.new_zeros((), dtype=torch.float32)
        step = max(1, (_AT_ONCE if logits.is_cpu else _ON_DEVICE) // classes)
        for start in range(0, count, step):
            rows = slice(start, start + step)
            chances = logits[rows].float().log_softmax(-1)
            target, weight = targets[rows, None], weights[rows, None]
            each = (1 - smoothing) * chances.gather(1, target)
            like = _group(target, among) if smoothing and among else None
            if smoothing:
                alike = chances if like is None else chances.gather(1, like)
                each = each + smoothing * alike.mean(1, keepdim=True)
            total -= (each * weight).sum()
            if gradient is not None:
                pull = chances.exp_()
                if smoothing and like is None:
                    pull -= smoothing / classes
                elif like is not None:
                    pull.scatter_add_(1, like, pull.new_full(like.shape, -smoothing / like.shape[1]))
                pull.scatter_add_(1, target, pull.new_full(target.shape, smoothing - 1))
                gradient[rows] = pull.mul_(weight)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * above[0].to(gradient.dtype), None, None, None, None
