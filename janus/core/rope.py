"""Rotary positions, plain and extended by YaRN.

B batch, H heads, T tokens, R rotary width.  RoPE: arXiv 2104.09864.  YaRN: arXiv 2309.00071, with the
attention-scale correction as DeepSeek-V2 and V3 publish it in their `modeling_deepseek.py`.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from janus.config import YarnConfig

Rotary = tuple[Tensor, Tensor]  # cosines and sines, each (B, 1, T, R / 2)


def rotary(
    positions: Tensor, width: int, theta: float, yarn: YarnConfig | None, dtype: torch.dtype
) -> Rotary:
    """Cosines and sines (B, 1, T, R/2) of the angles of `positions` (B, T), R being `width`.

    Angles are computed in fp32 whatever the `dtype` of the result, and YaRN's ratio
    mscale / mscale_all_dim is already multiplied in.
    """
    frequencies = _inverse_frequencies(width, theta, yarn, positions.device)
    angles = positions[:, None, :, None].float() * frequencies  # (B, 1, T, R/2)
    ratio = 1.0
    if yarn is not None:
        ratio = _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
    return (angles.cos() * ratio).to(dtype), (angles.sin() * ratio).to(dtype)


def softmax_scale(width: int, yarn: YarnConfig | None) -> float:
    """What query-key products are multiplied by: 1/sqrt(width), times mscale_all_dim's factor squared."""
    scale = width**-0.5
    return scale if yarn is None else scale * _mscale(yarn.factor, yarn.mscale_all_dim) ** 2


def rotate_halves(x: Tensor, angles: Rotary) -> Tensor:
    """Rotates (B, H, T, R) in Llama's layout: channel i is paired with channel i + R/2."""
    cos, sin = angles[0].to(x.dtype), angles[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def rotate_pairs(x: Tensor, angles: Rotary) -> Tensor:
    """Rotates (B, H, T, R) in DeepSeek's layout: channel 2i is paired with channel 2i + 1.

    The result holds the pairs' first channels, then their second ones.  Query and key are both
    reordered in this way, so their products do not change.
    """
    cos, sin = angles[0].to(x.dtype), angles[1].to(x.dtype)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _mscale(factor: float, weight: float) -> float:
    """1 for weight 0, where the published code tests for zero instead."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


@functools.lru_cache(maxsize=64)
def _inverse_frequencies(width: int, theta: float, yarn: YarnConfig | None, device: torch.device) -> Tensor:
    """(R/2,) radians per position, fp32.

    Not a buffer: `model.to(bfloat16)` would round it and a model built on the meta device would lack it.
    """
    # A tensor made in inference mode would stay one, and training could not use it.
    with torch.inference_mode(False):
        steps = torch.arange(0, width, 2, dtype=torch.float32, device="cpu")
        plain = 1.0 / theta ** (steps / width)
        if yarn is None:
            return plain.to(device)
        # Channels that turn more than beta_fast times within the original context stay as they are,
        # those that turn less than beta_slow times are stretched by the factor.
        low = max(math.floor(_channel_of_turns(yarn.beta_fast, width, theta, yarn)), 0)
        high = min(math.ceil(_channel_of_turns(yarn.beta_slow, width, theta, yarn)), width - 1)
        ramp = (torch.arange(width // 2, dtype=torch.float32, device="cpu") - low) / max(high - low, 1e-3)
        stretched = ramp.clamp(0, 1)
        return (plain / yarn.factor * stretched + plain * (1 - stretched)).to(device)


def _channel_of_turns(turns: float, width: int, theta: float, yarn: YarnConfig) -> float:
    """The (fractional) channel pair that turns `turns` times within the original context."""
    return width * math.log(yarn.original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))
