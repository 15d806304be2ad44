"""Decoding on the CPU by `native.c`, compiled for this machine when it is first asked for.

Needs a C compiler (`cc`, or what the variable CC names) with OpenMP.  The library is kept in ~/.cache/janus
(or $XDG_CACHE_HOME/janus), one for each version of the source, compiler and processor.  Without a compiler,
or with JANUS_NATIVE=0, PyTorch's own products do the same more slowly.

The structures are those of `native.c`, field by field.  N rows, I inputs and O outputs of a matrix.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from ctypes import POINTER, c_double, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

FLOAT32, BFLOAT16, INT8, INT4 = range(4)  # kinds of numbers
KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}
STEPS = (8, 16, 32, 32)  # what the inputs of a matrix must be a multiple of, by kind
OUT = 4  # and its outputs
_SOURCE = Path(__file__).with_name("native.c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")


class Matrix(ctypes.Structure):
    """Weights (O, I), and of integers the scales and zero points, as `janus.core.quantized` has them."""

    _fields_ = (
        ("kind", c_int64),
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("wide_scale", c_int64),
        ("zero", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        ("latent", c_int64),
        ("norm", c_void_p),
        ("norm_ffn", c_void_p),
        *((name, Matrix) for name in ("q_first", "q", "k", "v", "o")),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        *((name, Matrix) for name in ("expand", "gate", "up", "down", "router")),
        ("bias", c_void_p),
        *((name, POINTER(Matrix)) for name in ("gates", "ups", "downs")),
    )


class Settings(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("kind", "width", "heads", "groups", "head")),
        *((name, c_int64) for name in ("nope", "rope", "value", "rank")),
        *((name, c_double) for name in ("eps", "latent_eps", "scale", "latent_scale")),
        *((name, c_int64) for name in ("experts", "active", "expert_groups", "active_groups")),
        *((name, c_int64) for name in ("sigmoid", "normalise")),
        ("routed_scale", c_double),
        ("layers", c_int64),
    )


class Call(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "out", "norm")),
        *((name, c_int64) for name in ("rows", "tokens", "start", "capacity")),
        ("cosines", c_void_p * 2),
        ("sines", c_void_p * 2),
        ("angle_row", c_int64),
        ("seen", c_void_p),
        ("seen_row", c_int64),
        ("seen_token", c_int64),
        ("caches", POINTER(c_void_p)),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where there is no compiler for them."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if os.environ.get("JANUS_NATIVE") == "0" or compiler is None:
        return None
    try:
        path = _folder() / f"native-{_fingerprint(compiler)}.so"
        if not path.exists():
            _compile(compiler, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None
    loaded.janus_linear.argtypes = [c_void_p, c_int64, c_int64, POINTER(Matrix), c_void_p, c_int64]
    loaded.janus_step.argtypes = [POINTER(Settings), POINTER(Layer), POINTER(Call), c_int64]
    for function in (loaded.janus_linear, loaded.janus_step):
        function.restype = c_int
    return loaded


def matrix(kind: int, weight: Tensor, outputs: int, inputs: int, *more: Tensor) -> Matrix | None:
    """`more`: scales, and zero points.  None where the kernels cannot take such numbers or sizes."""
    parts = (weight, *more)
    if any(part.device.type != "cpu" or not part.is_contiguous() for part in parts):
        return None
    if outputs % OUT or inputs % STEPS[kind] or (more and more[0].dtype not in KINDS):
        return None
    scale, zero = (*(part.data_ptr() for part in more), None, None)[:2]
    wide = int(bool(more) and more[0].dtype == torch.float32)
    return Matrix(kind, weight.data_ptr(), scale, wide, zero, outputs, inputs)


def dense(weight: Tensor) -> Matrix | None:
    """Of a weight (O, I) in float32 or bfloat16; None where the kernels cannot take it."""
    kind = KINDS.get(weight.dtype)
    return None if kind is None else matrix(kind, weight, *weight.shape)


def linear(x: Tensor, weights: Matrix) -> Tensor:
    """Rows (N, I), float32 or bfloat16, by a matrix: (N, O) in the precision of the rows."""
    x = x.contiguous()
    y = x.new_empty(len(x), weights.outputs)
    compiled = library()
    assert compiled is not None
    threads = torch.get_num_threads()
    if compiled.janus_linear(x.data_ptr(), KINDS[x.dtype], len(x), weights, y.data_ptr(), threads):
        raise MemoryError(f"no memory for {x.numel()} numbers")
    return y


def step(settings: Settings, layers: ctypes.Array[Layer], call: Call) -> None:
    """A few tokens of some rows through all layers; see `janus.core.steps`."""
    compiled = library()
    assert compiled is not None
    if compiled.janus_step(settings, layers, call, torch.get_num_threads()):
        raise MemoryError(f"no memory for a step of {call.rows} rows")


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "janus"


def _fingerprint(compiler: str) -> str:
    """Of all that the library depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    try:
        told = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        told = None
    processor = told[0] if told else platform.processor()
    parts = (_SOURCE.read_text(encoding="utf-8"), " ".join(_FLAGS), version, platform.machine(), processor)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    """Written beside and renamed, so that nobody loads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCE), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        made.replace(path)
