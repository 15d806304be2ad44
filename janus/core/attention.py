"""What attention may see, and grouped-query attention in the Llama layout.

B batch, T new tokens, S seen slots (T, or the cache's length with them), D width, H query heads,
G key-value heads, C channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from janus.config import CoreConfig
from janus.core.cache import Cache
from janus.core.rope import Rotary, rotate_halves, softmax_scale
from janus.kernels.linear import Linear, multiplies_bfloat16


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension, in fp32, scaled after the cast back (Llama)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


@dataclass(frozen=True)
class Visibility:
    """The slots each new token attends: `mask` (B or 1, 1, T, S), True is seen; without it all, or causal."""

    mask: Tensor | None = None
    causal: bool = False


def visibility(
    x: Tensor, segments: Tensor | None, cache: Cache | None, branches: Tensor | None = None
) -> Visibility:
    """The rule of every layer: a token sees the slots up to its own that belong to its own sample.

    x (B, T, D); segments (B, T); branches (B, T), if given, hide those of a sample from one another: a token
    sees its own branch and branch 0.  Call after `cache.begin`.  A mask is made only where plain causal
    or full attention would not do.  Padding (sample 0) sees padding, so that no row is ever empty.
    """
    tokens = x.shape[1]
    start = 0 if cache is None else cache.length
    padded = segments is not None if cache is None else cache.padded
    if not padded and branches is None and (start == 0 or tokens == 1):
        return Visibility(causal=tokens > 1)
    slots = torch.arange(start + tokens, device=x.device)
    mask = (slots <= slots[start:, None])[None, None]  # (1, 1, T, S)
    if padded:
        seen = segments if cache is None else cache.segments[:, : start + tokens]
        assert seen is not None
        mask = mask & (seen[:, None, start:, None] == seen[:, None, None, :])
    if branches is not None:
        trunk = (branches == 0)[:, None, None, :]
        mask = mask & (trunk | (branches[:, None, :, None] == branches[:, None, None, :]))
    return Visibility(mask)


_FEW = 16  # queries of a row that the CPU attends by plain products


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Visibility, scale: float) -> Tensor:
    """Softmax attention: q (B, H, T, C), k (B, G, S, C), v (B, G, S, any) -> (B, H, T, any)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not multiplies_bfloat16():
        q, k, v = q.float(), k.float(), v.float()
        return attend(q, k, v, visible, scale).bfloat16()
    if q.device.type == "cpu" and q.shape[2] <= _FEW and not visible.causal:
        return _attend_few(q, k, v, visible.mask, scale)
    grouped = k.shape[1] != q.shape[1]
    if grouped and visible.mask is not None:
        # The fused kernels take either a mask or grouped heads; together they would fall back to
        # the one that writes out all scores.
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=visible.mask, is_causal=visible.causal, scale=scale, enable_gqa=grouped
    )


def _attend_few(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The same by products that read keys and values in the order in which they lie in memory.

    The CPU's fused kernel is made for many queries; for the few of a decoding step it reads the cache at a
    fraction of the memory's speed.
    """
    heads, few = q.shape[1:3]
    q = q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1])  # (B, G, H / G * T, C)
    scores = (k @ q.mT).mT.float().reshape(q.shape[0], heads, few, -1) * scale  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    shares = scores.softmax(-1).to(v.dtype).reshape(*q.shape[:3], -1)
    return (shares @ v).reshape(q.shape[0], heads, few, -1)


class GroupedQueryAttention(nn.Module):
    """Llama's attention: `heads` queries share `kv_heads` keys and values."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.head_dim = config.gqa_head_dim
        self.scale = softmax_scale(self.head_dim, config.yarn)
        kv_width = config.num_kv_heads * self.head_dim
        self.q_proj = Linear(config.width, config.heads * self.head_dim, bias=False)
        self.k_proj = Linear(config.width, kv_width, bias=False)
        self.v_proj = Linear(config.width, kv_width, bias=False)
        self.o_proj = Linear(config.heads * self.head_dim, config.width, bias=False)

    def forward(
        self, x: Tensor, angles: Rotary, visible: Visibility, cache: Cache | None, layer: int
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); `layer` is this layer's place in the cache."""
        q, k = self._rotated(x, angles)
        v = self._split(self.v_proj(x))
        if cache is not None:
            all_k, all_v = cache.write(layer, k, v)
            if cache.length > 0:  # a first call attends its own tokens, unrounded by the cache's dtype
                k, v = all_k.to(q.dtype), all_v.to(q.dtype)
        mixed = attend(q, k, v, visible, self.scale)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def scores(self, x: Tensor, angles: Rotary, heads: int) -> Tensor:
        """What the first `heads` heads score each token (last) for each other, unmasked, (B, heads, T, T)."""
        q, k = self._rotated(x, angles)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        return q[:, :heads] @ k[:, :heads].mT * self.scale

    def _rotated(self, x: Tensor, angles: Rotary) -> tuple[Tensor, Tensor]:
        """Queries (B, H, T, C) and keys (B, G, T, C)."""
        q, k = self._split(self.q_proj(x)), self._split(self.k_proj(x))
        return rotate_halves(q, angles), rotate_halves(k, angles)

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, heads * C) -> (B, heads, T, C)"""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
