"""What a model is made of, as text: parts, parameters, memory, and where each part comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from janus import checkpoints
from janus.config import PRESETS, JanusConfig
from janus.core.cache import Cache
from janus.model import JanusModel

PARTS = {
    "vision_model": "SigLIP encoder (understanding)",
    "aligner": "its adaptor",
    "gen_vision_model": "VQ image tokenizer (drawing)",
    "gen_embed": "its code table",
    "gen_aligner": "its adaptor",
    "language_model": "core transformer and text head",
    "gen_head": "image head",
}


def describe(source: str | Path | None, *, revision: str | None = None, offline: bool = False) -> str:
    """A report on a folder, a hub id, a preset (by name) or, with None, the embedded model.

    No weights are read into memory.  Raises ValueError for a source that is none of these.
    """
    if str(source) in PRESETS and not Path(str(source)).exists():
        config, name = PRESETS[str(source)], f"{source} (preset, no weights)"
        files: Mapping[str, str] = {}
    else:
        summary = checkpoints.inspect(source or checkpoints.EMBEDDED, revision=revision, offline=offline)
        config, files = summary.config, summary.files
        name = f"{source or 'the embedded model'} ({summary.layout} layout)"
    with torch.device("meta"):
        model = JanusModel(config)
    lines = [name, "", f"{'part':<48}{'parameters':>15}   from"]
    for prefix, what in PARTS.items():
        part = getattr(model, prefix)
        origin = ", ".join(sorted({file for key, file in files.items() if key.startswith(prefix + ".")}))
        lines.append(f"{prefix + ': ' + what:<48}{_count(part):>15,}   {origin or '-'}".rstrip(" -"))
    total = _count(model)
    lines += [f"{'together':<48}{total:>15,}", *_core_lines(config, model), ""]
    lines += _memory_lines(config, total)
    return "\n".join(lines)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _core_lines(config: JanusConfig, model: JanusModel) -> list[str]:
    core = config.core
    kinds = Counter(zip(core.attention, core.feed_forward, strict=True))
    layers = ", ".join(f"{n} x {attention}+{ffn}" for (attention, ffn), n in kinds.items())
    lines = ["", f"core      {layers}; width {core.width}, {core.heads} heads, context {core.max_positions}"]
    if core.moe is not None:
        idle = core.moe.experts - core.moe.active
        per_expert = 3 * core.width * core.moe.expert_width
        active = _count(model.language_model) - idle * per_expert * core.feed_forward.count("moe")
        lines.append(
            f"experts   {core.moe.active} of {core.moe.experts} routed and {core.moe.shared} shared for each "
            f"token; {active:,} of the core's parameters are active"
        )
    lines += [
        f"asked     pictures of {config.image.size} pixels, {config.vision.tokens} tokens each",
        f"drawn     pictures of {config.vq.image_size} pixels, {config.vq.tokens} tokens each "
        f"from {config.vq.codes:,} codes",
    ]
    return lines


def _memory_lines(config: JanusConfig, parameters: int) -> list[str]:
    lines = [f"{'memory':<12}{'weights':>12}{'cache of one drawing with guidance':>40}"]
    prompt = 64  # a generous prompt
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        cache = Cache.bytes_needed(config.core, 2, prompt + config.vq.tokens, dtype)
        lines.append(f"{name:<12}{_bytes(parameters * dtype.itemsize):>12}{_bytes(cache):>40}")
    return lines


def _bytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
