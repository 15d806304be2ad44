"""Multi-head latent attention (DeepSeek-V2 report, section 2.1).

B batch, T new tokens, S seen slots, D width, H heads, N channels of a head without position,
P rotary channels, V value channels of a head, L width of the key-value latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from janus.config import CoreConfig
from janus.core.attention import RMSNorm, Visibility, attend
from janus.core.cache import Cache
from janus.core.rope import Rotary, rotate_pairs, softmax_scale
from janus.kernels.linear import Linear


class LatentAttention(nn.Module):
    """Keys and values of all heads come from one latent per token; one rotary key is shared by all heads.

    The cache holds the latent and the rotary key.  Prefill and training expand keys and values from
    the latent.  Decoding leaves it compressed: the key expansion is applied to the query and the value
    expansion to the result instead (the "absorbed" form of section 2.1.2).
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        assert config.mla is not None
        mla = config.mla
        self.heads = config.heads
        self.nope_dim, self.rope_dim, self.v_dim, self.kv_rank = (
            mla.nope_dim,
            mla.rope_dim,
            mla.v_dim,
            mla.kv_rank,
        )
        self.qk_dim = mla.nope_dim + mla.rope_dim
        self.scale = softmax_scale(self.qk_dim, config.yarn)
        # The published latents' norms have an epsilon of their own, 1e-6 whatever the other norms use.
        self.compresses_queries = mla.q_rank is not None
        if mla.q_rank is None:
            self.q_proj = Linear(config.width, self.heads * self.qk_dim, bias=False)
        else:
            self.q_a_proj = Linear(config.width, mla.q_rank, bias=False)
            self.q_a_layernorm = RMSNorm(mla.q_rank)
            self.q_b_proj = Linear(mla.q_rank, self.heads * self.qk_dim, bias=False)
        self.kv_a_proj_with_mqa = Linear(config.width, mla.kv_rank + mla.rope_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(mla.kv_rank)
        self.kv_b_proj = Linear(mla.kv_rank, self.heads * (mla.nope_dim + mla.v_dim), bias=False)
        self.o_proj = Linear(self.heads * mla.v_dim, config.width, bias=False)

    def forward(
        self, x: Tensor, angles: Rotary, visible: Visibility, cache: Cache | None, layer: int
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); `layer` is this layer's place in the cache."""
        q_nope, q_rope = self._queries(x, angles)
        latent, k_rope = self._latents(x, angles)
        mix = self._expanded
        if cache is not None:
            all_latent, all_k_rope = cache.write(layer, latent, k_rope)
            if cache.length > 0:  # a first call attends its own tokens, unrounded by the cache's dtype
                latent, k_rope = all_latent.to(x.dtype), all_k_rope.to(x.dtype)
                if self._absorbing_is_cheaper(x.shape[1]):
                    mix = self._absorbed
        mixed = mix(q_nope, q_rope, latent, k_rope, visible)  # (B, H, T, V)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def scores(self, x: Tensor, angles: Rotary, heads: int) -> Tensor:
        """What the first `heads` heads score each token (last) for each other, unmasked, (B, heads, T, T)."""
        q_nope, q_rope = (part[:, :heads] for part in self._queries(x, angles))
        latent, k_rope = self._latents(x, angles)
        k_nope = self._expand(latent)[0][:, :heads]
        return (q_nope @ k_nope.mT + q_rope @ k_rope[:, None].mT) * self.scale

    def _queries(self, x: Tensor, angles: Rotary) -> tuple[Tensor, Tensor]:
        """Without position (B, H, T, N) and rotated (B, H, T, P)."""
        if self.compresses_queries:
            q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        else:
            q = self.q_proj(x)
        q = q.unflatten(-1, (self.heads, self.qk_dim)).transpose(1, 2)
        q_nope, q_rope = q.split((self.nope_dim, self.rope_dim), dim=-1)
        return q_nope, rotate_pairs(q_rope, angles)

    def _latents(self, x: Tensor, angles: Rotary) -> tuple[Tensor, Tensor]:
        """The latents (B, T, L) and the rotated keys (B, T, P)."""
        latent, k_rope = self.kv_a_proj_with_mqa(x).split((self.kv_rank, self.rope_dim), dim=-1)
        return self.kv_a_layernorm(latent), rotate_pairs(k_rope[:, None], angles)[:, 0]

    def _expand(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, H, S, N) and values (B, H, S, V) of latents (B, S, L)."""
        heads = self.kv_b_proj(latent).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k_nope, v = heads.split((self.nope_dim, self.v_dim), dim=-1)
        return k_nope, v

    def _absorbing_is_cheaper(self, tokens: int) -> bool:
        """Products per slot and head: expanding costs L(N + V) once, absorbing 2L, not N + V, per token."""
        expanded = self.nope_dim + self.v_dim
        return tokens * (2 * self.kv_rank - expanded) < self.kv_rank * expanded

    def _expanded(
        self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, visible: Visibility
    ) -> Tensor:
        k_nope, v = self._expand(latent)
        k = torch.cat((k_nope, k_rope[:, None].expand(-1, self.heads, -1, -1)), dim=-1)
        q = torch.cat((q_nope, q_rope), dim=-1)
        if q.device.type == "cpu" and self.v_dim < self.qk_dim:
            # The CPU's fused kernel wants values as wide as keys; the other one writes out all scores.
            v = F.pad(v, (0, self.qk_dim - self.v_dim))
        return attend(q, k, v, visible, self.scale)[..., : self.v_dim]

    def _absorbed(
        self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, visible: Visibility
    ) -> Tensor:
        weight = self.kv_b_proj.weight.view(self.heads, -1, self.kv_rank)
        to_k, to_v = weight.split((self.nope_dim, self.v_dim), dim=1)  # (H, N, L), (H, V, L)
        # Scaled before the product: fp16 scores could overflow.  Heads and tokens are rows of one
        # matrix because all heads see the same latents.
        q_latent = (q_nope @ to_k * self.scale).flatten(1, 2)  # (B, H * T, L)
        q_rope_rows = (q_rope * self.scale).flatten(1, 2)
        scores = q_latent @ latent.mT + q_rope_rows @ k_rope.mT  # (B, H * T, S)
        scores = scores.float().unflatten(1, (self.heads, -1))
        if visible.mask is not None:
            scores = scores.masked_fill(~visible.mask, float("-inf"))
        shares = scores.softmax(dim=-1).to(latent.dtype).flatten(1, 2)
        mixed = (shares @ latent).unflatten(1, (self.heads, -1))  # (B, H, T, L)
        return mixed @ to_v.mT
