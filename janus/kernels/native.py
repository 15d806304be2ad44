"""Products and attention on the CPU by `native.c`, compiled for this machine when the first one is asked for.

Needs a C compiler (`cc`, or what the variable CC names) with OpenMP.  The library is kept in ~/.cache/janus
(or $XDG_CACHE_HOME/janus), one for each version of the source, compiler and processor.  Without a compiler,
or with JANUS_NATIVE=0, PyTorch's own products do the same more slowly.

N rows, I inputs and O outputs of a matrix; B batch, H heads that share G sets of keys and values, T tokens, S
slots, C channels.
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
from pathlib import Path

import torch
from torch import Tensor

_SOURCE = Path(__file__).with_name("native.c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
BFLOAT16, INT8, INT4 = range(3)  # kinds of a matrix
_STEPS = (16, 32, 64)  # what the inputs must be a multiple of, by kind
_OUT = 4  # and the outputs


class _Attention(ctypes.Structure):
    """`attention` in the source."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "q2", "k2", "seen", "out")),
        *((name, ctypes.c_int64) for name in ("rows", "heads", "groups", "tokens", "slots")),
        *((name, ctypes.c_int64) for name in ("width", "more", "wide_v")),
        *((f"{of}_{by}", ctypes.c_int64) for of in ("k", "v", "k2") for by in ("row", "group", "slot")),
        *((name, ctypes.c_int64) for name in ("seen_row", "seen_token")),
        ("scale", ctypes.c_float),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where there is no compiler for them."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if os.environ.get("JANUS_NATIVE") == "0" or compiler is None:
        return None
    path = _folder() / f"native-{_fingerprint(compiler)}.so"
    try:
        if not path.exists():
            _compile(compiler, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None
    number, size, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    loaded.janus_attend.argtypes = [ctypes.POINTER(_Attention), number]
    loaded.janus_linear.argtypes = [
        *(pointer, number, size),
        *(number, pointer, pointer, number, pointer, size, size),
        *(pointer, number),
    ]
    return loaded


def fits(x: Tensor, kind: int, outputs: int) -> bool:
    """Whether `linear` can multiply such rows by such a matrix."""
    known = x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)
    whole = outputs % _OUT == 0 and x.shape[-1] % _STEPS[kind] == 0
    return known and whole and library() is not None


def linear(
    x: Tensor,
    kind: int,
    outputs: int,
    weight: Tensor,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
) -> Tensor:
    """Rows (N, I), float32 or bfloat16, by a matrix of that kind: (N, O) in the precision of the rows.

    Weights, scales and zero points lie as `janus.core.quantized` has them.  Ask `fits` first.
    """
    x = x.contiguous()
    y = x.new_empty(len(x), outputs)
    compiled = library()
    assert compiled is not None
    failed = compiled.janus_linear(
        *(x.data_ptr(), int(x.dtype == torch.float32), len(x)),
        *(kind, weight.data_ptr(), _pointer(scale), int(scale is not None and scale.dtype == torch.float32)),
        *(_pointer(zero), outputs, x.shape[1]),
        *(y.data_ptr(), torch.get_num_threads()),
    )
    if failed:
        raise MemoryError(f"no memory for {x.numel()} numbers")
    return y


def attends(*parts: Tensor) -> bool:
    """Whether `attend` can take such queries, keys and values."""
    whole = all(
        part.device.type == "cpu"
        and part.dtype == torch.bfloat16
        and part.shape[-1] % _STEPS[BFLOAT16] == 0
        and part.stride(-1) == 1
        for part in parts
    )
    return whole and library() is not None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    seen: Tensor | None = None,
    more: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Softmax attention: bfloat16 q (B, H, T, C), k (B, G, S, C), v (B, G, S, any) -> (B, H, T, any).

    seen: (B or 1, 1, T, S) bool, True where a token looks; none may look nowhere.
    more: further channels of queries and keys, whose products are added to the scores.
    Ask `attends` first.
    """
    q = q.contiguous()
    q2, k2 = (q, k) if more is None else (more[0].contiguous(), more[1])
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    asked = _Attention(
        *(part.data_ptr() for part in (q, k, v, q2, k2)),
        *(_pointer(seen), out.data_ptr()),
        *(q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2]),
        *(q.shape[3], 0 if more is None else q2.shape[3], v.shape[3]),
        *(part.stride(dim) for part in (k, v, k2) for dim in range(3)),
        *((0, 0) if seen is None else (0 if len(seen) == 1 else seen.stride(0), seen.stride(2))),
        scale,
    )
    compiled = library()
    assert compiled is not None
    if compiled.janus_attend(asked, torch.get_num_threads()):
        raise MemoryError(f"no memory for the scores of {k.shape[2]} slots")
    return out


def _pointer(part: Tensor | None) -> int | None:
    return None if part is None else part.data_ptr()


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
        command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        made.replace(path)
