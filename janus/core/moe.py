"""Feed-forwards: the dense one and the mixture of fine-grained experts.

N tokens (batch times length), D width, F hidden width of one expert, E routed experts, K of them per
token, G groups of experts, M samples in the batch.
Sources: DeepSeek-V2 report, section 2.2; DeepSeek-V3 report, section 2.1.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from janus.config import CoreConfig, MoeConfig
from janus.kernels.linear import Linear, linear


class FeedForward(nn.Module):
    """SwiGLU in the Llama layout: (..., D) -> (..., D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, hidden, bias=False)
        self.up_proj = Linear(width, hidden, bias=False)
        self.down_proj = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


@dataclass(frozen=True)
class Samples:
    """The sample of each token of a training batch: `index` (N,) from 1 to `count`, 0 for padding."""

    index: Tensor
    count: int


def number_samples(batch: int, tokens: int, segments: Tensor | None, device: torch.device) -> Samples:
    """Samples numbered across the rows of a batch; `segments` (B, T) is unique only within its row."""
    rows = torch.arange(batch, device=device)[:, None]
    if segments is None:
        return Samples((rows + 1).expand(batch, tokens).flatten(), batch)
    low, high = segments.min(), segments.max()
    keys = torch.where(segments == 0, -1, rows * (high - low + 1) + segments - low).flatten()
    # The -1 in front makes padding number 0 even where there is none.
    found, index = torch.unique(torch.cat((keys.new_full((1,), -1), keys)), return_inverse=True)
    return Samples(index[1:], found.numel() - 1)


class Router(nn.Module):
    """Scores all experts for each token and chooses K, in fp32 whatever the weights' precision."""

    e_score_correction_bias: Tensor  # (E,) fp32, of the sigmoid routing only; a buffer, not trained

    def __init__(self, width: int, moe: MoeConfig) -> None:
        super().__init__()
        self.moe = moe
        self.weight = nn.Parameter(torch.empty(moe.experts, width))
        nn.init.normal_(self.weight, std=0.02)
        if moe.routing == "sigmoid":
            self.register_buffer("e_score_correction_bias", torch.zeros(moe.experts, dtype=torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Keeps the bias in fp32 through `.to(bfloat16)`: its steps of 1e-3 would be rounded away."""
        before = self._buffers.get("e_score_correction_bias")
        super()._apply(fn, recurse)
        after = self._buffers.get("e_score_correction_bias")
        if before is not None and after is not None and before.dtype != after.dtype:
            self._buffers["e_score_correction_bias"] = before.to(after.device)
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) -> scores (N, E), chosen experts (N, K), their weights (N, K)."""
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.weight.float())
        if self.moe.routing == "softmax":
            scores = logits.softmax(dim=-1)
            by_preference = scores
        else:
            scores = logits.sigmoid()
            by_preference = scores.detach() + self.e_score_correction_bias.float()
        chosen = self._within_groups(by_preference).topk(self.moe.active, dim=-1).indices
        weights = scores.gather(-1, chosen)  # without the correction, which only steers the choice
        # A single weight would always be normalised to 1 and teach the router nothing; the
        # published code leaves it, too.
        if self.moe.normalise and self.moe.active > 1:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return scores, chosen, weights * self.moe.scale

    def _within_groups(self, preference: Tensor) -> Tensor:
        """(N, E) with -inf outside each token's best groups.

        A group is worth its best expert in V2, the sum of its best two in V3.
        """
        moe = self.moe
        if moe.active_groups == moe.groups:
            return preference
        by_group = preference.unflatten(-1, (moe.groups, -1))  # (N, G, E / G)
        size = by_group.shape[-1]
        leaders = by_group.topk(1 if moe.routing == "softmax" else min(2, size), dim=-1).values
        best = leaders.sum(dim=-1).topk(moe.active_groups, dim=-1).indices
        closed = torch.ones_like(by_group[..., 0], dtype=torch.bool).scatter(-1, best, False)
        return preference.masked_fill(closed.repeat_interleave(size, dim=-1), float("-inf"))


class Experts(nn.Module):
    """A layer's routed experts: `gate_up_proj` (E, 2F, D), gate rows first; `down_proj` (E, D, F)."""

    def __init__(self, width: int, moe: MoeConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(moe.experts, 2 * moe.expert_width, width))
        self.down_proj = nn.Parameter(torch.empty(moe.experts, width, moe.expert_width))
        nn.init.normal_(self.gate_up_proj, std=0.02)
        nn.init.normal_(self.down_proj, std=0.02)

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        """(N, D) and chosen experts (N, K) -> each chosen expert's answer (N, K, D), not yet weighted."""
        sorted_ids, order = chosen.flatten().sort(stable=True)
        experts = torch.arange(self.gate_up_proj.shape[0], device=x.device)
        ends = torch.searchsorted(sorted_ids, experts, right=True)  # (E,) where each expert's rows end
        rows = x.index_select(0, order // chosen.shape[1])  # (N * K, D), expert by expert
        if self._can_group(x):
            answers = self.grouped(rows, ends)
        else:
            answers = self.looped(rows, ends)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=x.device))
        return answers.index_select(0, back).unflatten(0, chosen.shape)

    def looped(self, rows: Tensor, ends: Tensor) -> Tensor:
        """One expert after the other, each on all of its tokens."""
        sizes = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
        # `unbind` rather than indexing: its gradient is one stack, not a full-sized zero per expert.
        weights = zip(self.gate_up_proj.unbind(), self.down_proj.unbind(), strict=True)
        answers = [
            linear(_swiglu(linear(part, gate_up)), down)
            for part, (gate_up, down) in zip(rows.split(sizes), weights, strict=True)
            if part.shape[0]
        ]
        return torch.cat(answers)

    def grouped(self, rows: Tensor, ends: Tensor) -> Tensor:
        """All experts in two grouped matrix products."""
        dtype = _compute_dtype(rows)
        offs = ends.to(torch.int32)
        hidden = F.grouped_mm(rows.to(dtype), self.gate_up_proj.to(dtype).mT, offs=offs)
        return F.grouped_mm(_swiglu(hidden), self.down_proj.to(dtype).mT, offs=offs)

    def _can_group(self, x: Tensor) -> bool:
        """Grouped products need CUDA, bfloat16 and rows of a multiple of 16 bytes."""
        aligned = self.down_proj.shape[1] % 8 == 0 and self.down_proj.shape[2] % 8 == 0
        return x.is_cuda and _compute_dtype(x) == torch.bfloat16 and aligned


class MoE(nn.Module):
    """Shared experts for every token, beside K routed ones chosen token by token.

    After a forward in training, `last_counts` (E,) holds how many tokens chose each expert and
    `last_balance_loss` the sequence-wise balance loss, weighted; padding counts for neither.
    """

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        assert config.moe is not None
        self.moe = config.moe
        self.gate = Router(config.width, self.moe)
        self.experts = Experts(config.width, self.moe)
        self.shared_experts = (
            FeedForward(config.width, self.moe.shared * self.moe.expert_width) if self.moe.shared else None
        )
        self.last_counts: Tensor | None = None
        self.last_balance_loss: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the last loss: a tensor inside a graph can be neither copied nor pickled."""
        return self.__dict__ | {"last_balance_loss": None}

    def forward(self, x: Tensor, samples: Samples | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D).  `samples`: of training, see `number_samples`; None counts nothing."""
        flat = x.flatten(0, -2)
        scores, chosen, weights = self.gate(flat)
        if samples is not None:
            self._count(scores, chosen, samples)
        answers = self.experts(flat, chosen)
        out = (answers.to(weights.dtype) * weights[..., None]).sum(dim=1).to(x.dtype).view_as(x)
        return out if self.shared_experts is None else out + self.shared_experts(x)

    def _count(self, scores: Tensor, chosen: Tensor, samples: Samples) -> None:
        real = (samples.index > 0).long()[:, None].expand_as(chosen)
        counts = torch.zeros(self.moe.experts, dtype=torch.long, device=chosen.device)
        self.last_counts = counts.scatter_add_(0, chosen.flatten(), real.flatten())
        self.last_balance_loss = self.moe.balance_loss * balance_loss(scores, chosen, samples, self.moe)

    @torch.no_grad()
    def update_bias(self, counts: Tensor) -> None:
        """One step of the balancing without a loss: overloaded experts (E,) become less likely to be chosen.

        DeepSeek-V3 report, section 2.1.2.  The V2 routing has no bias; there, nothing changes.
        """
        if self.moe.routing == "sigmoid":
            load = counts.to(self.gate.e_score_correction_bias)
            self.gate.e_score_correction_bias += self.moe.bias_speed * torch.sign(load.mean() - load)


def balance_loss(scores: Tensor, chosen: Tensor, samples: Samples, moe: MoeConfig) -> Tensor:
    """Sum over experts of f_i * P_i for each sample, the mean over samples, not yet weighted.

    f_i is the share of a sample's tokens that chose expert i, times E/K; P_i the mean of its score
    among all experts' scores.  V3 (equations 17 to 20) takes the choice by the uncorrected score, V2
    (equations 23 to 25) the actual one.  scores (N, E), chosen (N, K).
    """
    if moe.routing == "sigmoid":
        chosen = scores.detach().topk(moe.active, dim=-1).indices
        scores = scores / scores.sum(dim=-1, keepdim=True)
    picked = torch.zeros_like(scores).scatter(-1, chosen, 1.0)

    def sample_sums(values: Tensor) -> Tensor:
        """(N, any) -> (M, any); padding is dropped."""
        return values.new_zeros(samples.count + 1, values.shape[-1]).index_add(0, samples.index, values)[1:]

    tokens = sample_sums(scores.new_ones(len(scores), 1))  # (M, 1)
    share = sample_sums(picked) / tokens * (moe.experts / moe.active)
    score = sample_sums(scores) / tokens
    return (share * score).sum() / max(samples.count, 1)


def _swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The precision of matrix products on `x` here: autocast's if it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
