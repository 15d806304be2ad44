"""Weights of few bits on a GPU: the kernels by Triton's interpreter on the CPU, and compiled for a GPU that
is not here, and what is done where they can't be had.

The interpreter is chosen when Triton is imported, so a process of its own runs what is `@interpreted` and
says what came out, which a test has as `found`.  It has no bfloat16.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from janus import Janus, bench, checkpoints
from janus.checkpoints.files import WeightFiles
from janus.cli import main
from janus.config import PRESETS
from janus.core import quantized
from janus.core.quantized import Float8Linear, Int4Linear, Int8Linear, Quantization, SmallLinear
from janus.model import JanusModel
from tests.conftest import randomise

MADE: dict[Quantization, type[SmallLinear]] = {"int8": Int8Linear, "int4": Int4Linear, "fp8": Float8Linear}
KINDS = pytest.mark.parametrize("kind", MADE)
SIZES = ((24, 32), (72, 96), (72, 544), (16, 1152))  # outputs, inputs; the last two are shared by programs
ROWS = {torch.float32: (1, 2, 5, 16, 40), torch.float16: (2, 16)}
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3}  # of how far products may be off
CASES = [(rows, dtype) for dtype, several in ROWS.items() for rows in several]
INTERPRETED: dict[str, Callable[[], object]] = {}
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def interpreted(function: Callable[[], object]) -> Callable[[], object]:
    INTERPRETED[function.__name__] = function
    return function


@functools.cache
def _interpret() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_gpu_kernels"],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def found(request: pytest.FixtureRequest) -> Any:
    """What the function of the test's name gave by the interpreter."""
    given = _interpret()[request.function.__name__.removeprefix("test_")]
    assert not isinstance(given, str), given  # a traceback
    return given


def _layer(kind: Quantization, outputs: int, inputs: int, dtype: torch.dtype = torch.float32) -> SmallLinear:
    """Outputs of many magnitudes, an odd number of them where that may be."""
    outputs += 0 if kind == "int4" else 3
    weight = _random(outputs, inputs) * torch.linspace(0.01, 2, outputs)[:, None]
    return MADE[kind](weight.to(dtype))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _off(got: Tensor, x: Tensor, layer: SmallLinear) -> float:
    """The most by which a result is off, of what x and the weights of its output could give at most."""
    x, weight = x.float().cpu(), layer.dense(torch.float32).cpu()
    most = x.norm(dim=1)[:, None] * weight.norm(dim=1)
    assert got.shape == most.shape
    return float(((got.float().cpu() - x @ weight.T).abs() / most).nan_to_num(float("inf")).max())


# -- by the interpreter ---------------------------------------------------------------------------


@interpreted
def products_are_those_of_the_dense_matrix() -> dict[str, dict[str, float]]:
    from janus.kernels import gpu

    made: dict[str, dict[str, float]] = {}
    for kind, size in product(MADE, SIZES):
        layer = _layer(kind, *size)
        for rows, dtype in CASES:
            x = _random(rows, size[1], seed=1).to(dtype)
            got = gpu.product(x, kind, layer.stored())
            assert got.dtype == dtype
            made.setdefault(f"{kind} {rows} {dtype}", {})[str(size)] = _off(got, x, layer)
    return made


@needs_triton
@KINDS
@pytest.mark.parametrize(("rows", "dtype"), CASES, ids=str)
def test_products_are_those_of_the_dense_matrix(
    kind: Quantization, rows: int, dtype: torch.dtype, found: dict[str, dict[str, float]]
) -> None:
    off = found[f"{kind} {rows} {dtype}"]
    assert off.keys() == {str(size) for size in SIZES}
    assert max(off.values()) < BOUNDS[dtype], off


@interpreted
def rows_are_the_same_again_and_beside_others() -> dict[str, dict[str, Any]]:
    from janus.kernels import gpu

    made: dict[str, dict[str, Any]] = {}
    for kind in MADE:
        layer = _layer(kind, 72, 544)
        run = partial(gpu.product, kind=kind, parts=layer.stored())
        x = _random(40, 544, seed=1)
        spoilt = x[:16].index_fill(0, torch.tensor([4]), float("nan"))
        sixteen = run(x[:16])
        made[kind] = {
            "again": torch.equal(run(x[:16]), sixteen),
            "beside fewer": torch.equal(run(x[:5]), sixteen[:5]),
            "beside no number": torch.equal(run(spoilt)[:4], sixteen[:4]),
            "and it is none": bool(run(spoilt)[4].isnan().all()),
            "two beside no number": torch.equal(run(spoilt[3:5])[:1], run(x[3:5])[:1]),
            "two, of one": torch.equal(run(x[:2])[:1], run(x[:1])),
            "other ways": max(_off(sums[:1], x[:1], layer) for sums in (sixteen, run(x), run(x[:1]))),
        }
    return made


@needs_triton
@KINDS
def test_rows_are_the_same_again_and_beside_others(
    kind: Quantization, found: dict[str, dict[str, Any]]
) -> None:
    given = found[kind]
    assert given.pop("other ways") < BOUNDS[torch.float32]
    assert len(given) == 6
    assert all(given.values()), given


@interpreted
def the_first_product_of_a_kind_is_compared() -> dict[str, Any]:
    from janus.kernels import gpu

    layer, x, asked = _layer("int8", 24, 32), _random(5, 32, seed=1), []

    def dense(dtype: torch.dtype) -> Tensor:
        asked.append(dtype)
        return layer.dense(dtype)

    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = [gpu.linear(x, "int8", layer.stored(), dense) for _ in range(2)]
    once = len(asked)
    gpu.linear(x[:1], "int8", layer.stored(), dense)
    return {
        "same": all(
            one is not None and torch.equal(one, gpu.product(x, "int8", layer.stored())) for one in got
        ),
        "asked": [once, len(asked)],
        "random numbers untouched": torch.equal(torch.get_rng_state(), state),
    }


@needs_triton
def test_the_first_product_of_a_kind_is_compared(found: dict[str, Any]) -> None:
    assert found == {"same": True, "asked": [1, 2], "random numbers untouched": True}


@interpreted
def a_whole_model_goes_by_the_kernels() -> dict[str, list[float]]:
    from janus.kernels import gpu

    called = []

    def linear(x: Tensor, *more: Any) -> Tensor | None:
        made = gpu.linear(x, *more)
        called.append(made is not None)
        return made

    kernels = ModuleType("kernels")
    kernels.linear = linear  # type: ignore[attr-defined]
    made: dict[str, list[float]] = {}
    for kind in MADE:
        model = _tiny()
        model.quantize(kind)
        called.clear()
        with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(model.core), "_steps", lambda *_: None)
            x = model.embed_text(torch.arange(12).view(2, 6))
            wanted = model.core(x)
            patch.setattr(quantized, "_on_gpu", lambda rows: True)
            patch.setattr(quantized, "_kernels", lambda: kernels)
            patch.setattr(quantized, "_FEW", 0)
            off = (model.core(x) - wanted).abs().max() / wanted.abs().max()
        made[kind] = [float(off), len(called), sum(called)]
    return made


@needs_triton
@KINDS
def test_a_whole_model_goes_by_the_kernels(kind: Quantization, found: dict[str, list[float]]) -> None:
    off, called, done = found[kind]
    assert off < 1e-4
    assert called == done > 30  # matrices; of experts, those that were chosen


def _tiny() -> JanusModel:
    """With experts, and matrices of whole groups."""
    config = PRESETS["tiny-v3"]
    assert config.core.mla is not None
    mla = dataclasses.replace(config.core.mla, q_rank=32)
    model = JanusModel(dataclasses.replace(config, core=dataclasses.replace(config.core, mla=mla))).eval()
    randomise(model)
    return model


# -- compiled -------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    pytest.importorskip("triton", reason="Triton is not installed")
    from janus.kernels import gpu

    monkeypatch.setattr(gpu, "_works", {})
    monkeypatch.setattr(gpu, "_told", set())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return gpu


@pytest.fixture
def compiled(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """For an H100; the kernels of which `gpu.product` thinks that it launches them."""
    from triton.backends.compiler import GPUTarget  # type: ignore
    from triton.runtime import driver  # type: ignore

    class Elsewhere:
        def get_current_target(self) -> Any:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 1000  # what was compiled is kept for it alone

        def get_current_stream(self, device: int) -> int:
            return 0

    class Compiles:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *args, **options: made.append(self.kernel.warmup(*args, grid=grid, **options))

    made: list[Any] = []
    for name in ("_add", "_multiply", "_total"):
        monkeypatch.setattr(gpu, name, Compiles(getattr(gpu, name)))
    monkeypatch.setattr(driver, "_active", Elsewhere())
    return made


@KINDS
@pytest.mark.parametrize("rows", [2, 64])
def test_compiles_for_a_gpu(kind: Quantization, rows: int, gpu: ModuleType, compiled: list[Any]) -> None:
    layer = _layer(kind, 512, 5632, torch.bfloat16)
    gpu.product(_random(rows, 5632).bfloat16(), kind, layer.stored())
    assert [kernel.name for kernel in compiled] == (["_add"] if rows == 2 else ["_multiply", "_total"])
    assert all(kernel.metadata.shared <= 99 * 1024 for kernel in compiled)  # what RTX 30 and 40 have
    assert "cp.async.cg.shared.global" in compiled[0].asm["ptx"]  # 16 bytes, ahead of when they are needed
    assert ("wgmma.mma_async" in compiled[0].asm["ptx"]) == (rows > 2)


# -- where the kernels can't be had ---------------------------------------------------------------


def _linear(gpu: ModuleType, x: Tensor, kind: Quantization = "int8") -> Tensor | None:
    layer = _layer(kind, 24, x.shape[1])
    return gpu.linear(x, kind, layer.stored(), layer.dense)


def test_a_wrong_product_is_found(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def wrong(x: Tensor, kind: str, parts: tuple[Tensor, ...]) -> Tensor:
        called.append(kind)
        made = x @ _layer("int8", 24, 32).dense(torch.float32).T
        made[-1, -1] += 0.1 * made.abs().max()
        return made

    monkeypatch.setattr(gpu, "product", wrong)
    with pytest.warns(
        UserWarning, match=r"int8 weights \(27 by 32\) on cpu go on by way of float32: .* off by"
    ):
        assert _linear(gpu, _random(5, 32)) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _linear(gpu, _random(6, 32)) is None  # known
        assert _linear(gpu, _random(2, 32)) is None  # tried, but not told again
    assert len(called) == 2


def test_no_number_is_found(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "product", lambda x, *_: x.new_full((len(x), 27), float("nan")))
    with pytest.warns(UserWarning, match="is off by nan"):
        assert _linear(gpu, _random(5, 32)) is None


def test_a_device_that_triton_has_nothing_for(gpu: ModuleType) -> None:
    with pytest.warns(
        UserWarning, match=r"fp8 weights \(27 by 32\) on cpu go on by way of float16: \w+: \w+"
    ):
        assert _linear(gpu, _random(5, 32).half(), "fp8") is None


def test_too_little_memory_says_nothing_about_the_kernels(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu, "product", full)
    with pytest.raises(torch.OutOfMemoryError):
        _linear(gpu, _random(5, 32))
    assert not gpu._works


def test_nothing_is_compared_in_a_recording(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = _layer("int8", 24, 32), _random(5, 32)
    monkeypatch.setattr(gpu, "product", lambda x, *_: x @ layer.dense(x.dtype).T)
    monkeypatch.setattr(gpu, "_recording", lambda x: True)
    assert _linear(gpu, x) is None
    monkeypatch.setattr(gpu, "_recording", lambda x: False)
    assert _linear(gpu, x) is not None
    monkeypatch.setattr(gpu, "_recording", lambda x: True)
    assert _linear(gpu, x) is not None


def test_what_is_not_for_the_kernels(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = _layer("int8", 24, 32)
    monkeypatch.setattr(gpu, "product", lambda x, *_: x @ layer.dense(x.dtype).T)
    for rows, dtype in ((64, torch.float16), (65, torch.float16), (16, torch.float32), (17, torch.float32)):
        assert (_linear(gpu, _random(rows, 32).to(dtype)) is not None) == (rows in (16, 64))
    assert _linear(gpu, _random(0, 32)) is None
    assert _linear(gpu, _random(5, 32).double()) is None
    turned = layer.stored()[0].T.contiguous().T, layer.stored()[1]
    assert gpu.linear(_random(5, 32), "int8", turned, layer.dense) is None


@pytest.fixture
def as_if_on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType | None], None]:
    def begin(kernels: ModuleType | None) -> None:
        monkeypatch.setattr(quantized, "_on_gpu", lambda rows: True)
        monkeypatch.setattr(quantized, "_kernels", lambda: kernels)
        monkeypatch.setattr(quantized, "_FEW", 0)

    return begin


def test_gradients_and_autocast_go_by_whole_matrices(
    as_if_on_gpu: Callable[[ModuleType | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, asked = ModuleType("kernels"), []
    kernels.linear = lambda x, *_: asked.append(x.shape)  # type: ignore[attr-defined]
    as_if_on_gpu(kernels)
    layer, x = _layer("int8", 24, 32), _random(2, 3, 32)
    wanted = x @ layer.dense(torch.float32).T
    torch.testing.assert_close(layer(x), wanted)
    assert asked == [(6, 32)]
    learns = x.clone().requires_grad_()
    layer(learns).sum().backward()
    assert learns.grad is not None
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    layer(x)
    assert len(asked) == 1


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "janus.kernels.gpu", raising=False)
    monkeypatch.delattr("janus.kernels.gpu", raising=False)
    monkeypatch.setattr(quantized, "_on_gpu", lambda rows: True)
    monkeypatch.setattr(quantized, "_FEW", 0)
    quantized._kernels.cache_clear()
    layer, x = _layer("int4", 24, 32), _random(2, 32)
    try:
        with pytest.warns(UserWarning, match="go by way of whole ones: .*triton"):
            torch.testing.assert_close(layer(x), x @ layer.dense(torch.float32).T)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            layer(x)
    finally:
        quantized._kernels.cache_clear()


# -- fp8 ------------------------------------------------------------------------------------------


def test_fp8_is_within_half_a_step() -> None:
    weight = _random(64, 96) * torch.linspace(0.01, 2, 64)[:, None]
    weight[3] = 0
    dense = Float8Linear(weight).dense(torch.float32)
    assert (dense[3] == 0).all()
    # Three bits after the leading one; below 2 ** -6, steps of 2 ** -9, of what is 448 at most.
    step = torch.maximum(weight.abs() / 8, weight.abs().amax(1, keepdim=True) / 448 * 2**-9)
    assert ((dense - weight).abs() <= step / 2 * 1.0001).all()
    assert float((dense - weight).norm() / weight.norm()) > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_fp8_is_right_on_the_cpu_too(dtype: torch.dtype) -> None:
    layer, x = _layer("fp8", 24, 96, dtype), _random(2, 3, 96).to(dtype)
    got = layer(x)
    assert (got.dtype, got.shape) == (dtype, (2, 3, 27))
    assert _off(got.flatten(0, 1), x.flatten(0, 1), layer) < (1e-6 if dtype == torch.float32 else 1e-2)


def test_fp8_stays_as_it_is_in_another_precision() -> None:
    layer = _layer("fp8", 24, 96)
    before = layer.stored()[0].view(torch.uint8).clone()
    layer.to(torch.bfloat16)
    weight, scale = layer.stored()
    assert (weight.dtype, scale.dtype) == (torch.float8_e4m3fn, torch.bfloat16)
    assert torch.equal(weight.view(torch.uint8), before)


def test_fp8_is_refused_where_it_would_be_slow(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_gpus = "fp8 weights are for GPUs, not for cpu; int8 takes as little memory"
    with pytest.raises(ValueError, match=for_gpus):
        Janus.from_pretrained(folder, device="cpu", quantize="fp8")
    for source in ("tiny", str(folder)):
        with pytest.raises(ValueError, match=for_gpus):
            bench.open_model(source, "cpu", quantize="fp8")
    assert (
        main(["convert", str(folder), str(tmp_path / "made"), "--layout", "official", "--quantize", "fp8"])
        == 0
    )
    stored = {info.dtype for info in WeightFiles(tmp_path / "made").infos.values()}
    assert torch.float8_e4m3fn in stored
    with pytest.raises(ValueError, match=for_gpus):
        Janus.from_pretrained(tmp_path / "made", device="cpu")
    with pytest.raises(ValueError, match=for_gpus):
        bench.open_model(str(tmp_path / "made"), "cpu")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(ValueError, match=r"of compute capability 8\.9 or more, and cuda:1 has 8\.6; int8"):
        Janus.from_pretrained(folder, device="cuda:1", quantize="fp8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    quantized.check_device("fp8", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    quantized.check_device("int8", torch.device("cuda"))


def _logits(model: JanusModel) -> Tensor:
    with torch.inference_mode():
        return model.image_logits(model.core(model.embed_text(torch.arange(24).view(2, 12))))


def test_fp8_is_saved_and_loaded_without_a_change(folder: Path, tmp_path: Path) -> None:
    model = _tiny()
    before = _logits(model)
    model.quantize("fp8")
    off = float((_logits(model) - before).norm() / before.norm())
    assert 1e-3 < off < 0.2
    checkpoints.save(model, tmp_path / "made", source=folder)
    loaded, _ = checkpoints.load(tmp_path / "made")
    assert loaded.config.core == model.config.core
    assert torch.equal(_logits(loaded), _logits(model))
    checkpoints.convert(tmp_path / "made", tmp_path / "again", "official")
    assert torch.equal(_logits(checkpoints.load(tmp_path / "again")[0]), _logits(model))
    weights = load_file(tmp_path / "made/model.safetensors")
    key = "language_model.model.layers.0.mlp.up_proj.weight"
    save_file(weights | {key: weights[key].bfloat16()}, tmp_path / "made/model.safetensors")
    with pytest.raises(ValueError, match=rf"{key} holds torch.bfloat16, not torch.float8_e4m3fn"):
        checkpoints.load(tmp_path / "made")


def test_the_format_of_fp8_is_that_of_compressed_tensors(
    tiny: Callable[[str], JanusModel], folder: Path, tmp_path: Path
) -> None:
    """Its own package turns what was saved back into the matrices that it stands for."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig

    model = copy.deepcopy(tiny("tiny"))
    model.quantize("fp8")
    checkpoints.save(model, tmp_path / "made", source=folder)
    settings = json.loads((tmp_path / "made/config.json").read_text(encoding="utf-8"))["quantization_config"]
    (scheme,) = QuantizationConfig.model_validate(settings).config_groups.values()
    assert scheme.weights.pytorch_dtype() == torch.float8_e4m3fn
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    weights = load_file(tmp_path / "made/model.safetensors")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Float8Linear)}
    assert layers
    for name, layer in layers.items():
        own = {key.removeprefix(f"{name}."): v for key, v in weights.items() if key.startswith(f"{name}.")}
        theirs = compressor.decompress(own, scheme)["weight"]
        assert torch.equal(theirs, layer.dense(theirs.dtype))


# -- on a GPU, if there is one --------------------------------------------------------------------


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@KINDS
def test_on_a_gpu(kind: Quantization) -> None:
    from janus.core.graphs import record

    if kind == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    bounds = {torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float32: 1e-6}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error")
        for (outputs, inputs), dtype in product(((2048, 2048), (4096, 5632), (136, 544)), bounds):
            layer = _layer(kind, outputs, inputs, dtype).cuda()
            given = _random(64, inputs, seed=1).to("cuda", dtype)
            for rows in (1, 2, 5, 16, 40, 64):
                x = given[:rows]
                wanted = layer(x)
                assert _off(wanted, x, layer) < bounds[dtype]
                assert torch.equal(layer(x), wanted)
                replay, out = record(partial(layer, x))
                out.zero_()
                replay()
                assert torch.equal(out, wanted)


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # what nobody has written is NaN
    results: dict[str, object] = {}
    for name, function in INTERPRETED.items():
        try:
            results[name] = function()
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))
