"""The core's matrices in 8 or 4 bits: half or a quarter of bfloat16's memory, and as much less to read.

`int8`: each output has a scale of its own.  `int4`: each `GROUP` inputs of an output have a scale and a zero
point.  `fp8`: as int8, but of small floating-point numbers (e4m3), which newer GPUs have.  Names and packing
of the tensors are those of the compressed-tensors format ("int-quantized", "pack-quantized" and
"float-quantized"), which transformers reads.

O outputs and I inputs of a matrix, N tokens, K experts of each, D width.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from janus.core.moe import Experts, FeedForward
from janus.kernels import native
from janus.kernels.linear import linear

Quantization = Literal["int8", "int4", "fp8"]

GROUP = 32  # inputs that share a scale in int4
_PACKED = 8  # numbers of four bits in an int32
_FEW = 32  # rows that the CPU multiplies by the integers themselves
_LARGEST = 448  # in e4m3
_FP8_CAPABILITY = (8, 9)  # of GPUs that have e4m3
_LEAVE = ("kv_b_proj",)  # absorbed attention multiplies by parts of it


class _SmallLinear(nn.Module):
    """A linear layer without bias whose weight is in few bits, (..., I) -> (..., O)."""

    kind: ClassVar[Quantization]
    weight_scale: nn.Parameter  # in the precision of the model

    def matrix(self) -> native.Matrix | None:
        """As the compiled kernels see it; None where they can't take it."""
        raise NotImplementedError

    def stored(self) -> tuple[Tensor, ...]:
        """As the kernels for GPUs see it: weight, scales and, of int4, zero points."""
        raise NotImplementedError

    def dense(self, dtype: torch.dtype) -> Tensor:
        """(O, I) as the numbers that the stored ones stand for."""
        raise NotImplementedError

    def _by_pytorch(self, rows: Tensor) -> Tensor:
        """Rows (N, I) of bfloat16 by PyTorch's own product for the CPU."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        few = rows.device.type == "cpu" and len(rows) <= _FEW
        same = rows.dtype == self.weight_scale.dtype  # the kernels are as exact as that is
        if few and same and native.library() is not None and (made := self.matrix()) is not None:
            out = native.linear(rows, made)
        elif few and rows.dtype == torch.bfloat16:
            out = self._by_pytorch(rows)
        elif _on_gpu(rows) and (product := self._by_gpu(rows)) is not None:
            out = product
        else:
            out = linear(rows, self.dense(x.dtype))
        return out.unflatten(0, x.shape[:-1])

    def _by_gpu(self, rows: Tensor) -> Tensor | None:
        """Rows (N, I) by the kernels for GPUs; None where they can't or shouldn't take them."""
        learns = torch.is_grad_enabled() and rows.requires_grad
        if learns or torch.is_autocast_enabled("cuda") or (kernels := _kernels()) is None:
            return None
        return kernels.linear(rows, self.kind, self.stored(), self.dense)


class Int8Linear(_SmallLinear):
    """From -127 to 127, times the scale of their output."""

    kind = "int8"

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        wide = weight.detach().float()
        scale = _scale(wide, 127).to(weight.dtype)
        self.register_buffer("weight", (wide / scale.float()).round().clamp(-127, 127).to(torch.int8))
        self.weight_scale = nn.Parameter(scale, requires_grad=False)  # (O, 1)

    weight: Tensor  # (O, I) int8

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.weight * self.weight_scale.to(dtype)

    def matrix(self) -> native.Matrix | None:
        return native.matrix(native.INT8, self.weight, *self.weight.shape, self.weight_scale)

    def stored(self) -> tuple[Tensor, ...]:
        return self.weight, self.weight_scale

    def _by_pytorch(self, rows: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(rows, self.weight, self.weight_scale.to(rows.dtype).flatten())


class Int4Linear(_SmallLinear):
    """From 0 to 15, less their group's zero point, times its scale.

    Raises ValueError where the inputs are not whole groups, or the outputs not a multiple of 8.
    """

    kind = "int4"
    weight_packed: Tensor  # (O, I / 8) int32
    weight_zero_point: Tensor  # (O / 8, I / GROUP) int32
    weight_shape: Tensor  # (2,) int64

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        if inputs % GROUP or outputs % _PACKED:
            raise ValueError(
                f"int4 needs matrices of a multiple of {GROUP} inputs and of {_PACKED} outputs, not of "
                f"{inputs} and {outputs}; int8 takes any"
            )
        wide = weight.detach().float().unflatten(1, (-1, GROUP))  # (O, I / GROUP, GROUP)
        low, high = wide.amin(-1).clamp(max=0), wide.amax(-1).clamp(min=0)
        scale = ((high - low) / 15).clamp(min=torch.finfo(torch.float16).tiny).to(weight.dtype)
        zero = (-low / scale.float()).round().clamp(0, 15)  # (O, I / GROUP)
        whole = (wide / scale.float()[..., None] + zero[..., None]).round().clamp(0, 15).flatten(1)
        self.register_buffer("weight_packed", _pack(whole.to(torch.int32)))
        self.weight_scale = nn.Parameter(scale, requires_grad=False)  # (O, I / GROUP)
        self.register_buffer("weight_zero_point", _pack(zero.to(torch.int32).T).T.contiguous())
        self.register_buffer("weight_shape", torch.tensor(weight.shape, device=weight.device))
        self._for_cpu: tuple[Tensor, Tensor] | None = None

    def dense(self, dtype: torch.dtype) -> Tensor:
        whole = _unpack(self.weight_packed).unflatten(1, (-1, GROUP))
        zero = _unpack(self.weight_zero_point.T).T
        return ((whole - zero[..., None]) * self.weight_scale.to(dtype)[..., None]).flatten(1)

    def matrix(self) -> native.Matrix | None:
        outputs, packed = self.weight_packed.shape
        parts = (self.weight_scale, self.weight_zero_point)
        return native.matrix(native.INT4, self.weight_packed, outputs, packed * _PACKED, *parts)

    def stored(self) -> tuple[Tensor, ...]:
        return self.weight_packed, self.weight_scale, self.weight_zero_point

    def _by_pytorch(self, rows: Tensor) -> Tensor:
        packed, scales = self._as_cpu_wants()
        return torch._weight_int4pack_mm_for_cpu(rows, packed, GROUP, scales)

    def _as_cpu_wants(self) -> tuple[Tensor, Tensor]:
        """The integers in the order of the CPU's kernel, which subtracts 8 from them, and for each group its
        scale and what to add then, (I / GROUP, O, 2)."""
        if self._for_cpu is None:
            packed = torch._convert_weight_to_int4pack_for_cpu(_unpack(self.weight_packed).int(), 1)
            scale = self.weight_scale.float()
            shift = (8 - _unpack(self.weight_zero_point.T).T) * scale
            self._for_cpu = packed, torch.stack((scale, shift), -1).transpose(0, 1).contiguous().bfloat16()
        return self._for_cpu


class Float8Linear(_SmallLinear):
    """From -448 to 448 with three bits after the leading one, times the scale of their output."""

    kind = "fp8"
    weight: Tensor  # (O, I) float8_e4m3fn

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        wide = weight.detach().float()
        scale = _scale(wide, _LARGEST).to(weight.dtype)
        numbers = (wide / scale.float()).clamp(-_LARGEST, _LARGEST)  # beyond, there is nothing but NaN
        self.register_buffer("weight", numbers.to(torch.float8_e4m3fn))
        self.weight_scale = nn.Parameter(scale, requires_grad=False)  # (O, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float8Linear:
        """Keeps the weight in 8 bits through `.to(bfloat16)`: these are floating-point numbers, too."""
        before = self.weight
        super()._apply(fn, recurse)
        if self.weight.dtype != before.dtype:
            self.weight = before.to(self.weight.device)
        return self

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype) * self.weight_scale.to(dtype)

    def matrix(self) -> native.Matrix | None:
        return None

    def stored(self) -> tuple[Tensor, ...]:
        return self.weight, self.weight_scale

    def _by_pytorch(self, rows: Tensor) -> Tensor:
        return linear(rows, self.dense(rows.dtype))


class IntegerExperts(nn.ModuleList):
    """Routed experts as `janus.core.moe.Experts`, each with matrices of its own."""

    def __init__(self, experts: Experts, kind: Quantization) -> None:
        def one(gate_up: Tensor, down: Tensor) -> FeedForward:
            with torch.device("meta"):
                made = FeedForward(down.shape[0], down.shape[1])
            for name, weight in zip(
                ("gate_proj", "up_proj", "down_proj"), (*gate_up.chunk(2), down), strict=True
            ):
                made.register_module(name, _LAYERS[kind](weight))
            return made

        super().__init__(map(one, experts.gate_up_proj, experts.down_proj))

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        """(N, D) and chosen experts (N, K) -> each chosen expert's answer (N, K, D), not yet weighted."""
        answers = x.new_empty(*chosen.shape, x.shape[-1])
        for number in chosen.unique().tolist():
            token, place = torch.where(chosen == number)
            answers[token, place] = self[number](x[token])
        return answers


SmallLinear = Int8Linear | Int4Linear | Float8Linear
_LAYERS: dict[Quantization, type[SmallLinear]] = {
    "int8": Int8Linear,
    "int4": Int4Linear,
    "fp8": Float8Linear,
}


def quantize(layers: Iterable[nn.Module], kind: Quantization) -> None:
    """Replace, in place, the matrices of the core's layers; norms and routers stay as they are.

    Raises ValueError for an unknown kind, and for sizes that int4 cannot hold.
    """
    if kind not in _LAYERS:
        raise ValueError(f"quantize must be one of {list(get_args(Quantization))}, not {kind!r}")
    for layer in layers:
        for parent in [*layer.modules()]:
            for name, module in [*parent.named_children()]:
                if isinstance(module, nn.Linear) and name not in _LEAVE:
                    parent.register_module(name, _LAYERS[kind](module.weight))
                elif isinstance(module, Experts):
                    parent.register_module(name, IntegerExperts(module, kind))


def check_device(kind: Quantization | None, device: torch.device) -> None:
    """Raises ValueError where weights of that kind would only be slow."""
    if kind != "fp8":
        return
    if device.type != "cuda":
        raise ValueError(f"fp8 weights are for GPUs, not for {device}; int8 takes as little memory")
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < _FP8_CAPABILITY:
        least = ".".join(map(str, _FP8_CAPABILITY))
        raise ValueError(
            f"fp8 weights are for GPUs of compute capability {least} or more, and {device} has "
            f"{major}.{minor}; int8 takes as little memory"
        )


def _on_gpu(rows: Tensor) -> bool:
    return rows.device.type == "cuda"


@functools.cache
def _kernels() -> ModuleType | None:
    """`janus.kernels.gpu`, which needs Triton; None, with a warning, where there is none."""
    try:
        from janus.kernels import gpu
    except ImportError as error:
        warnings.warn(f"products with weights of few bits go by way of whole ones: {error}", stacklevel=2)
        return None
    return gpu


def _scale(wide: Tensor, largest: int) -> Tensor:
    """(O, 1) that brings each output's weights within `largest`."""
    return (wide.abs().amax(1, keepdim=True) / largest).clamp(min=torch.finfo(torch.float16).tiny)


def _pack(numbers: Tensor) -> Tensor:
    """(R, C) int32 from 0 to 15 to (R, C / 8), the first in the lowest bits."""
    shifts = 4 * torch.arange(_PACKED, dtype=torch.int32, device=numbers.device)
    # Bits of different numbers do not overlap, so that the sum is their union, also in the sign's bit.
    return (numbers.unflatten(1, (-1, _PACKED)) << shifts).sum(-1, dtype=torch.int32)


def _unpack(packed: Tensor) -> Tensor:
    """What `_pack` packed, in int8."""
    pairs = packed.contiguous().view(torch.uint8)
    return torch.stack((pairs & 15, pairs >> 4), -1).flatten(1).view(torch.int8)
