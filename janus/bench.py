"""How fast a model draws and writes on this machine, and how near that comes to what memory allows.

Each step of decoding reads the core's weights once, whatever the number of rows; that is what bounds it.
So the time of a step is told beside the bytes that it has to read and the rate at which this machine reads.
"""

from __future__ import annotations

import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from janus import __version__, checkpoints
from janus.checkpoints.layouts import on_meta
from janus.config import PRESETS
from janus.core.cache import Cache
from janus.core.quantized import Quantization, check_device
from janus.generation import decode
from janus.model import JanusModel
from janus.parties import Group, Kind
from janus.prompts import Prompt
from janus.sampling import Sampling

GUIDANCE = 5.0  # the official one: two rows for each picture
PROMPT = 24  # tokens before a picture
CONTEXT = 640  # tokens before a text: a picture and a question
_WARM_UP = 2  # steps that are not counted
_READ = 2**30  # bytes that the machine's rate is measured on
_READS = 5


@dataclass(frozen=True)
class Pace:
    """One kind of decoding: the time of a step, over all that were timed, and what it reads."""

    median: float  # seconds
    fastest: float
    slowest: float
    bytes: int  # that a step has to read

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.median


def open_model(
    source: str | None,
    device: str | None = None,
    dtype: str | None = None,
    quantize: Quantization | None = None,
) -> JanusModel:
    """A checkpoint (folder or hub id; None: the embedded one), or random weights for the name of a preset.

    Presets have bfloat16 weights unless `dtype`, a name such as "float32", says otherwise.  The device is a
    GPU if there is one.  Raises ValueError for fp8 on other devices.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(quantize, torch.device(device))
    kind: torch.dtype | None = getattr(torch, dtype) if dtype else None
    if source is None or source not in PRESETS or Path(source).exists():
        first = device if quantize is None else "cpu"
        model = checkpoints.load(source or checkpoints.EMBEDDED, device=first, dtype=kind)[0]
        check_device(model.config.core.quantization, torch.device(device))
        if quantize is not None:
            model.quantize(quantize)
        return model.to(device)
    model = on_meta(lambda: JanusModel(PRESETS[source])).to(kind or torch.bfloat16).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02, generator=generator)
        for buffer in model.buffers():
            buffer.zero_()
    if quantize is not None:
        model.quantize(quantize)
    return model.eval()


def bench(
    model: JanusModel, images: int = 1, steps: int = 24, on_step: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Figures of drawing `images` pictures at once, with guidance, and of writing one text.

    Steps are of one token each, without guesses, and timed in the middle of a picture, so that the cache is
    as long as it is on average; the median of `steps` of them counts.  `on_step(done, total)` follows the
    work.  Raises ValueError for numbers below 1, and where a picture has fewer codes than `steps` need.
    """
    config = model.config
    room = config.vq.tokens // 2 - _WARM_UP
    if images < 1 or not 1 <= steps <= room:
        raise ValueError(
            f"images must be at least 1 and steps from 1 to {room}, half a picture; not {images}, {steps}"
        )
    total = 2 * (steps + _WARM_UP)

    def follow(done: int) -> None:
        if on_step is not None:
            on_step(done, total)

    half = PROMPT + config.vq.tokens // 2
    image = _pace(model, "image", images, half, steps, follow)
    text = _pace(model, "text", 1, CONTEXT, steps, lambda done: follow(total // 2 + done))
    peak = peak_memory(model.device)
    limit = reading_rate(model.device)  # after the peak, which its gibibyte would be part of
    return {
        "version": __version__,
        "torch": torch.__version__,
        "machine": _machine(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantize": model.config.core.quantization,
        "images": images,
        "steps": steps,
        "image_ms_per_token": 1e3 * image.median / images,
        "image_ms_per_step": [1e3 * image.median, 1e3 * image.fastest, 1e3 * image.slowest],
        "images_per_second": images / (image.median * config.vq.tokens),
        "text_ms_per_token": 1e3 * text.median,
        "text_ms_per_step": [1e3 * text.median, 1e3 * text.fastest, 1e3 * text.slowest],
        "image_bytes_per_step": image.bytes,
        "text_bytes_per_step": text.bytes,
        "bandwidth": image.rate,
        "bandwidth_limit": limit,
        "bandwidth_share": image.rate / limit,
        "peak_memory_bytes": peak,
    }


def table(figures: dict[str, Any]) -> str:
    """What people read."""
    stored = f", weights {figures['quantize']}" if figures["quantize"] else ""
    rows = [
        ("machine", f"{figures['machine']}, torch {figures['torch']}, {figures['dtype']}{stored}"),
        (
            f"drawing {figures['images']} at once",
            f"{figures['image_ms_per_token']:.2f} ms a token, {figures['images_per_second']:.3f} images/s",
        ),
        ("  a step", "{:.2f} ms ({:.2f} to {:.2f})".format(*figures["image_ms_per_step"])),
        (
            "  reads",
            f"{figures['image_bytes_per_step'] / 1e9:.3f} GB a step, {figures['bandwidth'] / 1e9:.1f} GB/s: "
            f"{figures['bandwidth_share']:.0%} of the {figures['bandwidth_limit'] / 1e9:.1f} GB/s that this "
            "machine reads",
        ),
        (
            "writing",
            f"{figures['text_ms_per_token']:.2f} ms a token ({{:.2f}} to {{:.2f}})".format(
                *figures["text_ms_per_step"][1:]
            ),
        ),
        ("peak memory", f"{figures['peak_memory_bytes'] / 1e9:.2f} GB"),
    ]
    return "\n".join(f"{name:<20}{what}" for name, what in rows)


def _pace(
    model: JanusModel, kind: Kind, count: int, length: int, steps: int, follow: Callable[[int], None]
) -> Pace:
    """Of `count` prompts of `length` tokens; pictures are drawn with guidance."""
    prompts = [Prompt([1] * length)] * count
    guided = kind == "image"
    tokens = decode(
        model,
        Group(
            prompts,
            kind=kind,
            new_tokens=_WARM_UP + steps + 1,
            sampling=Sampling(),
            generators=[torch.Generator().manual_seed(row) for row in range(count)],
            unconditional=prompts if guided else (),
            guidance=GUIDANCE if guided else None,
        ),
    )
    times = []
    for done, _ in enumerate(tokens):  # the first one is that of the prompt
        finish(model.device)
        times.append(time.perf_counter())
        follow(done)
    seconds = [after - before for before, after in pairwise(times)][_WARM_UP:]
    rows = 2 * count if guided else count
    read = step_bytes(model, kind, rows, length + _WARM_UP + steps // 2)
    return Pace(statistics.median(seconds), min(seconds), max(seconds), read)


def step_bytes(model: JanusModel, kind: Kind, rows: int, length: int) -> int:
    """What one step of decoding has to read: weights, once for all rows, and the cache of `length` tokens.

    Of a layer's routed experts that is as many as the rows can choose, all at most; of tables the rows alone.
    """
    core = model.config.core
    head = model.gen_head if kind == "image" else model.language_model.lm_head
    parts = [model.core.layers, model.core.norm, head]
    weights = sum(value.nbytes for part in parts for value in part.state_dict().values())
    if core.moe is not None:
        experts = sum(p.nbytes for name, p in model.core.layers.state_dict().items() if ".experts." in name)
        idle = 1 - min(core.moe.experts, rows * core.moe.active) / core.moe.experts
        weights -= round(idle * experts)
    return weights + Cache.bytes_needed(core, rows, length, model.dtype)


def reading_rate(device: torch.device) -> float:
    """Bytes per second at which the device reads its memory: the best of some sums over one gibibyte."""
    values = torch.ones(_READ // 4, device=device)
    best = 0.0
    for _ in range(_READS):
        started = time.perf_counter()
        total: Tensor = values.sum()
        total.item()
        best = max(best, values.nbytes / (time.perf_counter() - started))
    return best


def peak_memory(device: torch.device) -> int:
    """The most bytes that were in use at once: on a GPU by tensors, elsewhere by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # getrusage would count what the process that started this one held
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None, status
    return 1024 * int(found[1])


def finish(device: torch.device) -> None:
    """Wait for what was started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        names = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"
