"""Experts as files hold them, one at a time, and as memory does, stacked.

Files: `…mlp.experts.3.gate_proj.weight` (F, D), `up_proj` (F, D), `down_proj` (D, F).
Memory: `…mlp.experts.gate_up_proj` (E, 2F, D), gate rows first, and `…mlp.experts.down_proj` (E, D, F).
E experts, F hidden width of one, D width.  Every other key passes through, whatever its prefix.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from janus.config import CoreConfig

_ONE_EXPERT = re.compile(r"(?P<prefix>.*mlp\.experts\.)(?P<expert>\d+)\.(?P<part>gate|up|down)_proj\.weight")


def split_experts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Memory to files.  The new tensors are contiguous views of the stacked ones."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        prefix, dot, part = key.rpartition(".")
        if not prefix.endswith("mlp.experts") or part not in ("gate_up_proj", "down_proj"):
            out[key] = value
            continue
        for expert, matrix in enumerate(value):
            name = f"{prefix}{dot}{expert}"
            if part == "down_proj":
                out[f"{name}.down_proj.weight"] = matrix
            else:
                out[f"{name}.gate_proj.weight"], out[f"{name}.up_proj.weight"] = matrix.chunk(2)
    return out


def stack_experts(state: Mapping[str, Tensor], config: CoreConfig) -> dict[str, Tensor]:
    """Files to memory.

    Raises ValueError if a layer lacks one of the config's experts or has others, or a matrix has
    another shape than the config says.
    """
    out: dict[str, Tensor] = {}
    layers: dict[str, dict[tuple[int, str], Tensor]] = defaultdict(dict)
    for key, value in state.items():
        match = _ONE_EXPERT.fullmatch(key)
        if match is None:
            out[key] = value
        else:
            layers[match["prefix"]][int(match["expert"]), match["part"]] = value
    if layers and config.moe is None:
        raise ValueError(f"experts under {sorted(layers)} but the config has no mixture of experts")
    for prefix, parts in layers.items():
        _check(prefix, parts, config)
        experts = range(1 + max(expert for expert, _ in parts))
        out[f"{prefix}gate_up_proj"] = torch.stack(
            [torch.cat((parts[e, "gate"], parts[e, "up"])) for e in experts]
        )
        out[f"{prefix}down_proj"] = torch.stack([parts[e, "down"] for e in experts])
    return out


def _check(prefix: str, parts: Mapping[tuple[int, str], Tensor], config: CoreConfig) -> None:
    assert config.moe is not None
    hidden, width = config.moe.expert_width, config.width
    expected = {(e, part) for e in range(config.moe.experts) for part in ("gate", "up", "down")}
    if missing := sorted(expected - parts.keys()):
        raise ValueError(f"{prefix}* lacks {missing}; experts are 0 to {config.moe.experts - 1}")
    if unknown := sorted(parts.keys() - expected):
        raise ValueError(f"{prefix}* has unknown {unknown}; experts are 0 to {config.moe.experts - 1}")
    for (expert, part), matrix in parts.items():
        shape = (width, hidden) if part == "down" else (hidden, width)
        if tuple(matrix.shape) != shape:
            raise ValueError(f"{prefix}{expert}.{part}_proj.weight is {tuple(matrix.shape)}, not {shape}")
