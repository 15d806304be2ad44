"""Products of few rows with weights in 8 or 4 bits on a GPU, by Triton kernels that read them as stored.

A decoding step has few rows and reads every weight for them, so memory bounds it; to make the matrix whole
for each product would be several times as much to write and to read.

Up to `_ADDED` rows, threads multiply and add in float32; more go to the tensor cores.  There, where outputs
are too few to keep a GPU busy, several programs share the inputs, and a second kernel adds what they found
in the order of the inputs.  What is added together depends on the sizes of the matrix alone, so that the same
rows give the same bits each time.

N rows, I inputs and O outputs of a matrix.  Importing this needs Triton.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import triton  # type: ignore
import triton.language as tl  # type: ignore
from torch import Tensor
from torch.nn import functional as F

# Rows up to which the kernels are used, by the precision of the rows: with more, reading the weights is not
# what takes the time.  Tensor cores are not as exact as float32.
MOST = {torch.bfloat16: 64, torch.float16: 64, torch.float32: 16}
_ADDED = 2  # rows
_PROGRAMS = 264  # two for each multiprocessor of an H100
# How far a product may be from the one of whole matrices, of the largest result: there the weights are
# rounded to the rows' precision, and float32 is computed with fewer bits if PyTorch is told so.
_OFF = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 4e-3}
_works: dict[tuple[object, ...], bool] = {}  # by device, kind, sizes and precisions
_told: set[tuple[object, ...]] = set()  # kinds on devices that were warned about


def linear(
    x: Tensor, kind: str, parts: tuple[Tensor, ...], dense: Callable[[torch.dtype], Tensor]
) -> Tensor | None:
    """Rows (N, I) by a matrix of `janus.core.quantized` to (N, O); None where they should go by `dense`.

    kind: "int8", "int4" or "fp8".  parts: weight, scales and, of int4, zero points.
    dense: makes the matrix whole; what the first product of each kind, size and precision is compared with.
    """
    if not 0 < len(x) <= MOST.get(x.dtype, 0):
        return None
    if any(part.device != x.device or not part.is_contiguous() for part in parts):
        return None
    key = (x.device, kind, len(parts[0]), x.shape[1], x.dtype, parts[1].dtype, _room(len(x)))
    if key not in _works:
        if _recording(x):
            return None  # to compare is to wait for the GPU, which can't be recorded
        _works[key] = _check(x, kind, parts, dense)
    return product(x, kind, parts) if _works[key] else None


def _recording(x: Tensor) -> bool:
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def _check(x: Tensor, kind: str, parts: tuple[Tensor, ...], dense: Callable[[torch.dtype], Tensor]) -> bool:
    """Whether the kernels give what whole matrices do, for other rows like x; warns where they don't."""
    seeded = torch.Generator().manual_seed(0)
    rows = torch.randn(x.shape, generator=seeded, device="cpu").to(x.device, x.dtype)
    try:
        wrong = _wrong(product(rows, kind, parts), F.linear(rows, dense(x.dtype)))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many kinds: compilers, drivers, limits of the device
        wrong = f"{type(error).__name__}: {str(error).strip().rpartition(chr(10))[2]}"
    if wrong is None:
        return True
    if (x.device, kind) not in _told:
        _told.add((x.device, kind))
        size = f"{len(parts[0])} by {x.shape[1]}"
        name = str(x.dtype).removeprefix("torch.")
        warnings.warn(
            f"products with {kind} weights ({size}) on {x.device} go on by way of {name}: {wrong}",
            stacklevel=2,
        )
    return False


def _wrong(got: Tensor, wanted: Tensor) -> str | None:
    """What is wrong with a product, if anything."""
    most = float(wanted.abs().max())
    off = float((got.float() - wanted.float()).abs().max())
    if off <= _OFF[wanted.dtype] * most:
        return None
    return f"Triton's product is off by {off:.3g} where the largest is {most:.3g}"


def product(x: Tensor, kind: str, parts: tuple[Tensor, ...]) -> Tensor:
    """Rows (N, I), at most `MOST`, by the matrix; what `linear` checks, unchecked."""
    x = x.contiguous()
    (rows, inputs), outputs, room = x.shape, len(parts[0]), _room(len(x))
    four, whole = kind == "int4", inputs % 128 == 0
    out = x.new_empty(rows, outputs)
    arguments = (x, *parts[:2], parts[-1])
    with torch.cuda.device_of(x):
        if rows <= _ADDED:
            tall, wide = 16 if four and outputs >= 4096 else 8, 1024 if four else 512
            _add[(triton.cdiv(outputs, tall),)](
                *(*arguments, out, outputs, inputs, four, whole, rows, tall, wide), ahead=4
            )
            return out
        tall, wide = 64, 128
        blocks, pieces = triton.cdiv(outputs, tall), triton.cdiv(inputs, wide)
        each = triton.cdiv(pieces, max(1, min(_PROGRAMS // blocks, pieces // 2)))
        shares = triton.cdiv(pieces, each)
        found = out if shares == 1 else x.new_empty(shares, rows, outputs, dtype=torch.float32)
        _multiply[(blocks, shares)](
            *(*arguments, found, rows, outputs, inputs, each, four, whole, room, tall, wide),
            ahead=4 if room < 64 else 3,
        )
        if shares > 1:
            _total[(triton.cdiv(out.numel(), 256),)](found, out, out.numel(), shares, wide=256)
    return out


def _room(rows: int) -> int:
    """Rows that a program has room for: tensor cores take 16 at least, and powers of 2."""
    return rows if rows <= _ADDED else max(16, triton.next_power_of_2(rows))


# In the kernels, x is (N, I) and out (N, O).  weight is (O, I), or of int4 (O, I / 8), eight numbers in one,
# the first in the lowest bits; scale is (O, 1) or (O, I / 32); zero is of int4 alone, (O / 8, I / 32), packed
# in the same way.  A program takes `tall` outputs, and one piece of `wide` inputs after the other, `ahead` of
# them under way at once.  `whole`: I is a multiple of 128, so that the rows of int4's parts are aligned.


@triton.jit
def _add(
    x: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    zero: tl.tensor,
    out: tl.tensor,
    outputs: tl.tensor,
    inputs: tl.tensor,
    four: tl.constexpr,
    whole: tl.constexpr,
    rows: tl.constexpr,  # 1 or 2
    tall: tl.constexpr,
    wide: tl.constexpr,
    ahead: tl.constexpr,
) -> None:
    """Each thread multiplies what it reads, and adds."""
    o = tl.program_id(0).to(tl.int64) * tall + tl.arange(0, tall)
    if four:
        first = tl.zeros((tall, wide // 32), tl.float32)
    else:
        first = tl.zeros((tall, wide), tl.float32)
    second = first
    for piece in tl.range(0, tl.cdiv(inputs, wide), num_stages=ahead):
        i = piece * wide + tl.arange(0, wide)
        one = tl.load(x + i, mask=i < inputs, other=0.0).to(tl.float32)
        other = one
        if rows == 2:
            other = tl.load(x + inputs + i, mask=i < inputs, other=0.0).to(tl.float32)
        if four:
            numbers, factors = _fours(weight, scale, zero, o, piece, outputs, inputs, whole, tall, wide)
            first += tl.sum(numbers * tl.reshape(one, (1, wide // 32, 32)), 2) * factors
            if rows == 2:
                second += tl.sum(numbers * tl.reshape(other, (1, wide // 32, 32)), 2) * factors
        else:
            numbers = _eights(weight, o, i, outputs, inputs).to(tl.float32)
            first += numbers * one[None, :]
            if rows == 2:
                second += numbers * other[None, :]
    _write(out + o, tl.sum(first, 1), scale, o, outputs, four)
    if rows == 2:
        _write(out + outputs + o, tl.sum(second, 1), scale, o, outputs, four)


@triton.jit
def _write(
    at: tl.tensor, sums: tl.tensor, scale: tl.tensor, o: tl.tensor, outputs: tl.tensor, four: tl.constexpr
) -> None:
    if not four:
        sums *= tl.load(scale + o, mask=o < outputs, other=0.0).to(tl.float32)
    tl.store(at, sums.to(at.dtype.element_ty), mask=o < outputs)


@triton.jit(do_not_specialize=["rows", "each"])
def _multiply(
    x: tl.tensor,
    weight: tl.tensor,
    scale: tl.tensor,
    zero: tl.tensor,
    found: tl.tensor,  # out, or (shares of the inputs, N, O)
    rows: tl.tensor,
    outputs: tl.tensor,
    inputs: tl.tensor,
    each: tl.tensor,  # pieces of a share
    four: tl.constexpr,
    whole: tl.constexpr,
    room: tl.constexpr,  # for rows
    tall: tl.constexpr,
    wide: tl.constexpr,
    ahead: tl.constexpr,
) -> None:
    """Tensor cores do, but for float32, which they would round."""
    o = tl.program_id(0).to(tl.int64) * tall + tl.arange(0, tall)
    n = tl.arange(0, room)
    sums = tl.zeros((tall, room), tl.float32)
    begin = tl.program_id(1) * each
    for piece in tl.range(begin, tl.minimum(begin + each, tl.cdiv(inputs, wide)), num_stages=ahead):
        i = piece * wide + tl.arange(0, wide)
        given = tl.load(
            x + n[None, :] * inputs + i[:, None],
            mask=(n < rows)[None, :] & (i < inputs)[:, None],
            other=0.0,
        )
        if four:
            numbers, factors = _fours(weight, scale, zero, o, piece, outputs, inputs, whole, tall, wide)
            numbers = tl.reshape(numbers * factors[:, :, None], (tall, wide))
        else:
            numbers = _eights(weight, o, i, outputs, inputs)
            if numbers.dtype == tl.float8e4nv:
                numbers = numbers.to(tl.float32)  # to bfloat16, this way is shorter
        sums = tl.dot(numbers.to(given.dtype), given, sums, input_precision="ieee")
    if not four:
        sums *= tl.load(scale + o, mask=o < outputs, other=0.0).to(tl.float32)[:, None]
    at = (tl.program_id(1) * rows + n).to(tl.int64)[None, :] * outputs + o[:, None]
    there = (o < outputs)[:, None] & (n < rows)[None, :]
    tl.store(found + at, sums.to(found.dtype.element_ty), mask=there)


@triton.jit
def _eights(
    weight: tl.tensor, o: tl.tensor, i: tl.tensor, outputs: tl.tensor, inputs: tl.tensor
) -> tl.tensor:
    """(tall, wide) numbers as they are stored."""
    there = (o < outputs)[:, None] & (i < inputs)[None, :]
    return tl.load(weight + o[:, None] * inputs + i[None, :], mask=there, other=0.0)


@triton.jit
def _fours(
    weight: tl.tensor,
    scale: tl.tensor,
    zero: tl.tensor,
    o: tl.tensor,
    piece: tl.tensor,
    outputs: tl.tensor,
    inputs: tl.tensor,
    whole: tl.constexpr,
    tall: tl.constexpr,
    wide: tl.constexpr,
) -> tl.tensor:
    """float32 numbers (tall, groups, 32) and their factors (tall, groups)."""
    if whole:  # said in this way, the compiler sees it
        words, groups = inputs // 128 * 16, inputs // 128 * 4
    else:
        words, groups = inputs // 8, inputs // 32
    word = piece * (wide // 8) + tl.arange(0, wide // 8)
    there = (o < outputs)[:, None] & (word < words)[None, :]
    numbers = tl.load(weight + o[:, None] * words + word[None, :], mask=there, other=0)
    numbers = tl.join(numbers, numbers >> 16)
    numbers = tl.join(numbers, numbers >> 8)
    numbers = tl.join(numbers, numbers >> 4)
    numbers = tl.reshape(numbers, (tall, wide // 32, 32)) & 15
    group = piece * (wide // 32) + tl.arange(0, wide // 32)
    there = (o < outputs)[:, None] & (group < groups)[None, :]
    factors = tl.load(scale + o[:, None] * groups + group[None, :], mask=there, other=0.0)
    zeros = tl.load(zero + (o // 8)[:, None] * groups + group[None, :], mask=there, other=0)
    zeros = (zeros >> (o % 8 * 4).to(tl.int32)[:, None]) & 15
    # As bits of a float32, these are 2 ** 23 more: cheaper than to convert them.
    numbers = (numbers | 0x4B000000).to(tl.float32, bitcast=True)
    zeros = (zeros | 0x4B000000).to(tl.float32, bitcast=True)
    return numbers - zeros[:, :, None], factors.to(tl.float32)


@triton.jit(do_not_specialize=["numbers"])
def _total(
    found: tl.tensor, out: tl.tensor, numbers: tl.tensor, shares: tl.constexpr, wide: tl.constexpr
) -> None:
    """The sum over the first dimension of (shares, numbers)."""
    at = tl.program_id(0).to(tl.int64) * wide + tl.arange(0, wide)
    there = at < numbers
    sums = tl.load(found + at, mask=there, other=0.0)
    for share in tl.static_range(1, shares):
        sums += tl.load(found + at + share * numbers, mask=there, other=0.0)
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=there)
