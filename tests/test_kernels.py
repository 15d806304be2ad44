"""Products and steps on the CPU: the compiled ones, those by way of float32, and the choice between them."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from janus.config import CoreConfig, MlaConfig, MoeConfig
from janus.core.cache import Cache
from janus.core.quantized import Int4Linear, Int8Linear, Quantization
from janus.core.transformer import LanguageModel, init_weights
from janus.kernels import linear as products
from janus.kernels import native

COMPILED = pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler here")
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


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    made = native.matrix(native.KINDS[weight.dtype], weight, *weight.shape)
    assert made is not None
    return native.linear(x, made)


def _close(got: Tensor, x: Tensor, dense: Tensor) -> None:
    """To float64's product, within float32's rounding, or bfloat16's where that is the result's precision."""
    exact = x.double() @ dense.double().T
    rounding = 2**-8 if got.dtype == torch.bfloat16 else 0
    assert (got - exact).abs().le(rounding * exact.abs() + 1e-6 * exact.abs().max()).all()


@COMPILED
@DTYPES
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 16])
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
def test_products_are_exact(rows: int, inputs: int, weights: torch.dtype, dtype: torch.dtype) -> None:
    x, weight = _numbers(rows, inputs, dtype=dtype), _numbers(132, inputs, dtype=weights, seed=1)
    _close(_linear(x, weight), x, weight)


@COMPILED
@DTYPES
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("inputs", [*INPUTS, 160])
@pytest.mark.parametrize("layer", [Int8Linear, Int4Linear])
def test_integer_products_are_exact(
    layer: type[Int8Linear] | type[Int4Linear],
    inputs: int,
    rows: int,
    dtype: torch.dtype,
) -> None:
    """In bfloat16, of the rows that `_sixteen_bits` leaves."""
    x, made = _numbers(rows, inputs, dtype=dtype), layer(_numbers(136, inputs, dtype=dtype, seed=1))
    x[:, 1] *= 1000
    x[:, 32:64] = 0
    taken = x if dtype == torch.float32 else _sixteen_bits(x.float(), 32 if layer is Int8Linear else 64)
    _close(made(x), taken, made.dense(torch.float64))


def _sixteen_bits(x: Tensor, span: int) -> Tensor:
    """Rows as the integers' kernels take them: in 32,767ths of the largest of so many neighbours."""
    spans = F.pad(x, (0, -x.shape[-1] % span)).unflatten(-1, (-1, span))
    largest = spans.abs().amax(-1, keepdim=True)
    by = torch.where(largest > 0, 32767 / largest, 0)
    return ((spans * by).round().double() * largest.double() / 32767).flatten(-2)[..., : x.shape[-1]]


@COMPILED
@pytest.mark.parametrize("layer", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("odd", [float("inf"), float("nan")])
def test_integer_products_of_what_is_no_number_are_none(
    layer: type[Int8Linear] | type[Int4Linear], odd: float
) -> None:
    x, made = _numbers(2, 128), layer(_numbers(8, 128, seed=1))
    expected = made(x)[0]
    x[1, 70] = odd
    got = made(x)
    assert got[1].isnan().all()
    assert torch.equal(got[0], expected)


@COMPILED
def test_extreme_numbers_keep_their_value() -> None:
    x = torch.zeros(2, 64, dtype=torch.bfloat16)
    x[0, 0], x[1, 1] = 1, float("inf")
    weight = torch.zeros(4, 64, dtype=torch.bfloat16)
    weight[:, 0] = torch.tensor([3e38, -1e-40, float("inf"), float("nan")])
    weight[:, 1] = 1
    torch.testing.assert_close(_linear(x, weight), F.linear(x, weight), rtol=0, atol=0, equal_nan=True)


@COMPILED
def test_the_number_of_threads_changes_nothing() -> None:
    x, weight = _numbers(2, 512, dtype=torch.bfloat16), _numbers(1000, 512, dtype=torch.bfloat16, seed=1)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(_linear(x, weight))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


def test_sizes_that_the_compiled_products_cannot_take_go_elsewhere() -> None:
    x, weight = _numbers(2, 40, dtype=torch.bfloat16), _numbers(7, 40, dtype=torch.bfloat16, seed=1)
    assert native.matrix(native.BFLOAT16, weight, 7, 40) is None
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


def test_convolutions_by_way_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded once, and the weights stay what they are."""
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: False)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), torch.nn.Conv2d(8, 4, 3)
    ).bfloat16()
    x = _numbers(2, 3, 9, 9, dtype=torch.bfloat16)
    with torch.no_grad():
        got = products.widely(module, x)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    assert torch.equal(got, copy.deepcopy(module).float()(x.float()).bfloat16())
    assert products.widely(module, x).requires_grad


GQA = CoreConfig(64, 128, 4, ("gqa",) * 2, ("dense",) * 2, ffn_width=192, kv_heads=2)
MLA = MlaConfig(kv_rank=64, nope_dim=24, rope_dim=16, v_dim=32)
V2 = MoeConfig(
    8, active=3, expert_width=64, shared=2, routing="softmax", groups=4, active_groups=2, scale=2.5
)
V3 = dataclasses.replace(V2, routing="sigmoid", shared=0, normalise=True)
CORES = {
    "gqa": GQA,
    "mla": dataclasses.replace(GQA, attention=("mla", "mla"), kv_heads=None, mla=MLA),
    "q-rank": dataclasses.replace(GQA, attention=("mla", "mla"), mla=dataclasses.replace(MLA, q_rank=64)),
    "v2": dataclasses.replace(GQA, feed_forward=("dense", "moe"), moe=V2),
    "v3": dataclasses.replace(GQA, attention=("mla", "gqa"), mla=MLA, feed_forward=("moe", "moe"), moe=V3),
}


def _model(core: CoreConfig, dtype: torch.dtype = torch.float32) -> LanguageModel:
    model = LanguageModel(core).eval()
    init_weights(model, torch.Generator().manual_seed(0), std=0.1)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.linspace(-0.2, 0.2, len(buffer)))
    return model.to(dtype)


def _down(model: LanguageModel) -> products.Linear:
    """The last matrix of the first layer."""
    found = model.model.layers.get_submodule("0.mlp.down_proj")
    assert isinstance(found, products.Linear)
    return found


@torch.no_grad()
def _in_steps(model: LanguageModel, padded: bool, copies: int = 1) -> Tensor:
    """Logits of 20 tokens of three rows: nine at once, then one or some at a time."""
    core, dtype = model.model.config, model.lm_head.weight.dtype
    ids = torch.randint(core.vocab_size, (3, 20), generator=torch.Generator().manual_seed(1)).repeat(
        copies, 1
    )
    segments = torch.ones_like(ids)
    if padded:
        segments[0, :4] = 0
    positions = (segments.cumsum(1) - 1).clamp(min=0)
    cache = Cache(core, len(ids), 23, dtype=dtype, device="cpu")
    out = []
    for start, end in ((0, 9), (9, 10), (10, 11), (11, 14), (14, 20)):
        given, places, samples = (t[:, start:end] for t in (ids, positions, segments))
        out.append(model(given, places, samples if padded else None, cache))
    return torch.cat(out[1:], 1)


@COMPILED
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
@pytest.mark.parametrize("name", CORES)
def test_steps_are_those_of_the_modules(
    name: str,
    quantization: Quantization | None,
    copies: int,
    padded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _model(CORES[name])
    if quantization is not None:
        model.model.quantize(quantization)
    got = _in_steps(model, padded, copies)
    assert model.model._compiled
    monkeypatch.setattr(model.model, "_steps", lambda x, cache: None)
    torch.testing.assert_close(got, _in_steps(model, padded, copies), rtol=1e-4, atol=1e-5)


@COMPILED
@pytest.mark.parametrize("name", CORES)
def test_steps_of_bfloat16_are_as_exact_as_the_modules(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of most numbers: a rounding difference may choose another expert."""
    model = _model(CORES[name], torch.bfloat16)
    exact = _in_steps(copy.deepcopy(model).float(), padded=True)
    got = _in_steps(model, padded=True)
    assert model.model._compiled
    monkeypatch.setattr(model.model, "_steps", lambda x, cache: None)
    modules = _in_steps(model, padded=True)
    assert (got - exact).abs().median() <= (modules - exact).abs().median()


@COMPILED
def test_steps_follow_weights_that_change_or_move() -> None:
    model = _model(GQA)
    before = _in_steps(model, padded=False)
    with torch.no_grad():
        _down(model).weight.mul_(2)
    changed = _in_steps(model, padded=False)
    assert not torch.equal(before, changed)
    for twin in (copy.deepcopy(model), copy.deepcopy(model.double()).float()):
        assert torch.equal(_in_steps(twin, padded=False), changed)
    down = _down(model.float())
    down.weight = torch.nn.Parameter(down.weight / 2)
    assert torch.equal(_in_steps(model, padded=False), before)
    down.weight = torch.nn.Parameter(down.weight * 2)  # now that there are steps to hold on to the old one
    assert torch.equal(_in_steps(model, padded=False), changed)


@COMPILED
def test_a_module_put_in_place_of_another_is_called() -> None:
    model = _model(GQA)
    before = _in_steps(model, padded=False)
    inner = _down(model)
    outer = torch.nn.Sequential(inner, torch.nn.Identity())
    outer.register_forward_hook(lambda module, given, out: 2 * out)
    model.model.layers.get_submodule("0.mlp").down_proj = outer
    got = _in_steps(model, padded=False)
    assert model.model._compiled is False
    assert not torch.allclose(got, before, atol=1e-3)


@COMPILED
def test_modules_that_the_kernels_do_not_know_are_called() -> None:
    class Doubled(products.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = _model(GQA)
    before = _in_steps(model, padded=False)
    model = _model(GQA)
    _down(model).__class__ = Doubled
    got = _in_steps(model, padded=False)
    assert model.model._compiled is False
    assert not torch.allclose(got, before, atol=1e-3)


@COMPILED
def test_hooks_on_layers_are_called() -> None:
    model = _model(GQA)
    seen: list[torch.nn.Module] = []
    handle = model.model.layers.get_submodule("1.mlp").register_forward_hook(
        lambda module, given, out: seen.append(module)
    )
    hooked = _in_steps(model, padded=False)
    assert len(seen) == 5
    handle.remove()
    torch.testing.assert_close(_in_steps(model, padded=False), hooked, rtol=1e-4, atol=1e-5)
