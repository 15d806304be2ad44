"""Products on the CPU: the compiled ones, those by way of float32, and the choice between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from janus.core.quantized import Int4Linear, Int8Linear
from janus.kernels import linear as products
from janus.kernels import native

COMPILED = pytest.mark.skipif(native.library() is None, reason="no C compiler with OpenMP here")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
INPUTS = [64, 192, 2112]  # less than a block, and more with a rest


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("JANUS_NATIVE", "0")
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def _numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _close(got: Tensor, x: Tensor, dense: Tensor) -> None:
    """To float64's product, within float32's rounding, or bfloat16's where that is the result's precision."""
    exact = x.double() @ dense.double().T
    rounding = 2**-8 if got.dtype == torch.bfloat16 else 0
    assert (got - exact).abs().le(rounding * exact.abs() + 1e-6 * exact.abs().max()).all()


@COMPILED
@DTYPES
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 16])
@pytest.mark.parametrize("inputs", INPUTS)
def test_bfloat16_products_are_exact(rows: int, inputs: int, dtype: torch.dtype) -> None:
    x, weight = _numbers(rows, inputs, dtype=dtype), _numbers(132, inputs, dtype=torch.bfloat16, seed=1)
    _close(native.linear(x, native.BFLOAT16, 132, weight), x, weight)


@COMPILED
@DTYPES
@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("layer", [Int8Linear, Int4Linear])
def test_integer_products_are_exact(
    layer: type[Int8Linear] | type[Int4Linear],
    inputs: int,
    rows: int,
    scales: torch.dtype,
    dtype: torch.dtype,
) -> None:
    x, made = _numbers(rows, inputs, dtype=dtype), layer(_numbers(136, inputs, dtype=scales, seed=1))
    dense = made.dense(torch.float64)
    _close(made(x), x, dense)


@COMPILED
def test_extreme_numbers_keep_their_value() -> None:
    x = torch.zeros(2, 64, dtype=torch.bfloat16)
    x[0, 0], x[1, 1] = 1, float("inf")
    weight = torch.zeros(4, 64, dtype=torch.bfloat16)
    weight[:, 0] = torch.tensor([3e38, -1e-40, float("inf"), float("nan")])
    weight[:, 1] = 1
    torch.testing.assert_close(
        native.linear(x, native.BFLOAT16, 4, weight), F.linear(x, weight), rtol=0, atol=0, equal_nan=True
    )


@COMPILED
def test_the_number_of_threads_changes_nothing() -> None:
    x, weight = _numbers(2, 512, dtype=torch.bfloat16), _numbers(1000, 512, dtype=torch.bfloat16, seed=1)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(native.linear(x, native.BFLOAT16, 1000, weight))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_sizes_that_the_compiled_products_cannot_take_go_elsewhere() -> None:
    x, weight = _numbers(2, 40, dtype=torch.bfloat16), _numbers(7, 40, dtype=torch.bfloat16, seed=1)
    assert not native.fits(x, native.BFLOAT16, 7)
    _close(products.linear(x, weight), x, weight)


@pytest.mark.parametrize("layer", [Int8Linear, Int4Linear])
def test_without_a_compiler_products_are_the_same(
    layer: type[Int8Linear] | type[Int4Linear], uncompiled: None
) -> None:
    assert native.library() is None
    x, made = _numbers(2, 192, dtype=torch.bfloat16), layer(_numbers(128, 192, dtype=torch.bfloat16, seed=1))
    exact = F.linear(x.float(), made.dense(torch.float32))
    assert (made(x) - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_a_compiler_that_fails_is_none(
    compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    try:
        assert native.library() is None
        assert not [*tmp_path.rglob("*.so")]
    finally:
        native.library.cache_clear()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_products_by_way_of_float32_learn_the_same(
    bias: bool, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounded once, and never less exact than bfloat16's own."""
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(products, "_PIECE", 1000)  # several
    kept = torch.float32 if autocast else torch.bfloat16
    x = _numbers(3, 5, 64, dtype=kept).requires_grad_()
    layer = products.Linear(64, 36, bias=bias).to(kept)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.backward(_numbers(3, 5, 36, dtype=torch.bfloat16, seed=2))
    rows, weight = (t.detach().bfloat16().double() for t in (x, layer.weight))
    back = _numbers(3, 5, 36, dtype=torch.bfloat16, seed=2).double()
    wanted = F.linear(rows, weight, None if layer.bias is None else layer.bias.detach().double())
    torch.testing.assert_close(y.double(), wanted, rtol=2**-7, atol=2e-2 if bias else 1e-5)
    assert x.grad is not None
    assert layer.weight.grad is not None
    torch.testing.assert_close(x.grad.double(), back @ weight, rtol=2**-8, atol=1e-5)
    for_weight = back.flatten(0, 1).T @ rows.flatten(0, 1)
    torch.testing.assert_close(layer.weight.grad.double(), for_weight, rtol=2**-8, atol=1e-5)
    assert x.grad.dtype == layer.weight.grad.dtype == kept


@COMPILED
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("more", [0, 16])
def test_attention_is_exact(tokens: int, masked: bool, groups: int, more: int) -> None:
    """In a cache with room left, whose rows are not all seen."""
    q, own = (_numbers(2, 6, tokens, width, dtype=torch.bfloat16, seed=width) for width in (64, 16))
    k, v, k2 = (
        _numbers(2, groups, 40, width, dtype=torch.bfloat16, seed=width + 1)[:, :, :37]
        for width in (64, 32, 16)
    )
    seen = torch.rand(2, 1, tokens, 50, generator=torch.Generator().manual_seed(5))[..., :37] < 0.5
    seen[..., 7] = True
    pair = (own, k2) if more else None
    got = native.attend(q, k, v, 0.3, seen if masked else None, pair)
    keys, queries = (torch.cat(t, -1) if more else t[0] for t in ((k, k2), (q, own)))
    wide_k, wide_v = (t.double().repeat_interleave(6 // groups, 1) for t in (keys, v))
    scores = queries.double() @ wide_k.mT * 0.3
    if masked:
        scores = scores.masked_fill(~seen, -torch.inf)
    exact = scores.softmax(-1) @ wide_v
    torch.testing.assert_close(got.double(), exact, rtol=2**-8, atol=1e-5)


@COMPILED
def test_attention_to_scores_far_apart() -> None:
    """Their exponentials would overflow, or vanish."""
    q, k = torch.full((1, 1, 1, 16), 8.0), torch.full((1, 1, 3, 16), 8.0)
    k[0, 0, 1] = -8
    v = torch.arange(48.0).view(1, 1, 3, 16)
    got = native.attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), 1.0)
    torch.testing.assert_close(got.float(), (v[:, :, :1] + v[:, :, 2:]) / 2, rtol=2**-8, atol=0)
