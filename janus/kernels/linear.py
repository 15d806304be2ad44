"""Linear layers that multiply in the way that is fastest on the device at hand, to the same result.

A decoding step has few rows and reads every weight for them: on the CPU, `native.c` does that at the memory's
speed.  And where PyTorch has no bfloat16 products for the processor (AVX2 alone, for instance) but loops of
its own, converting the matrix to float32 first is many times faster.

N rows (batch times tokens), I inputs and O outputs of a matrix.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from janus.kernels import native

_PIECE = 1 << 20  # numbers of a matrix that are converted at once
_PLAIN = 6  # rows up to which PyTorch's loops are faster than converting the matrix


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def matrix(self) -> native.Matrix | None:
        """As the compiled kernels see it, without the bias; None where they can't take it."""
        return native.dense(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def adopt(module: nn.Module) -> None:
    """Make the plain linear layers in another library's module `Linear` ones."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., I) by a weight (O, I) to (..., O): `torch.nn.functional.linear` up to rounding."""
    if x.device.type != "cpu" or _dtype(x) != torch.bfloat16:
        return F.linear(x, weight, bias)
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    rows, both = x.shape[:-1].numel(), x.dtype == weight.dtype == torch.bfloat16
    if both and not learns and rows <= few(x.dtype) and native.library() is not None:
        made = native.dense(weight)
    else:
        made = None
    if made is not None:
        y = native.linear(x.reshape(-1, x.shape[-1]), made).view(*x.shape[:-1], -1)
    elif not multiplies_bfloat16() and (learns or rows > _PLAIN):
        y = _Wide.apply(x, weight)
    else:
        return F.linear(x, weight, bias)
    return y if bias is None else y + bias.to(y.dtype)


def widely(module: nn.Module, x: Tensor) -> Tensor:
    """module(x), by way of float32 where the processor has no products of bfloat16; without gradients.

    Makes a copy of the weights for the time being: for what is small and has convolutions.
    """
    narrow = x.device.type == "cpu" and x.dtype == torch.bfloat16 and not multiplies_bfloat16()
    if not narrow or torch.is_grad_enabled():
        return module(x)
    wide = {name: value.float() for name, value in module.named_parameters()}
    return functional_call(module, wide, (x.float(),)).to(x.dtype)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether PyTorch has products of bfloat16 made for this processor."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def few(dtype: torch.dtype) -> int:
    """Rows up to which the compiled products of such numbers are the faster ones."""
    return 4 if dtype == torch.bfloat16 and multiplies_bfloat16() else 32


def _dtype(x: Tensor) -> torch.dtype:
    """The precision of products with x here: autocast's if it is on."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class _Wide(torch.autograd.Function):
    """The product of bfloat16 numbers by way of float32, piece by piece of the weight."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        wide = x.float()
        parts = [F.linear(wide, piece.float()).to(x.dtype) for piece in _pieces(weight)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, *outside: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        grad, rows = outside[0].float().flatten(0, -2), x.float().flatten(0, -2)
        back = for_weight = None
        pieces = _pieces(weight)
        grads = grad.split([len(piece) for piece in pieces], 1)
        if ctx.needs_input_grad[0]:
            back = sum(g @ piece.float() for g, piece in zip(grads, pieces, strict=True))
            back = back.to(x.dtype).view_as(x)
        if ctx.needs_input_grad[1]:
            for_weight = torch.cat([(g.T @ rows).to(weight.dtype) for g in grads])
        return back, for_weight


def _pieces(weight: Tensor) -> tuple[Tensor, ...]:
    return weight.split(max(1, _PIECE // weight.shape[1]))
