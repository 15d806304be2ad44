"""How a token is drawn from its logits: guidance, temperature, what is left out, and the chance in it.

Shapes: B requests, n places of their tokens, V vocabulary of the head in use (text ids or picture codes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from its logits.  The defaults are the official ones for pictures."""

    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # only the k likeliest tokens; 0: all
    top_p: float = 1.0  # only the likeliest tokens whose probabilities reach p together; 1: all

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (all tokens) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")


def guide(wanted: Tensor, plain: Tensor, guidance: float | Tensor) -> Tensor:
    """Classifier-free guidance on float32 logits (B, ..., V) with and without the prompt.

    `unconditional + guidance * (conditional - unconditional)`, the official generation_inference.py.
    """
    return plain + guidance * (wanted - plain)


def keep_likely(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits (..., V) over the temperature, with what top_k and top_p leave out at minus infinity."""
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


class Noise:
    """The chance in one request: at each place of its tokens something that its own generator alone decides.

    The Gumbel-max rule: the token is where logits and noise together are largest.  That draws from the
    softmax, and the same token comes out however often, and beside whatever else, a place is looked at.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._first = 0  # place of the first that is kept
        self._kept: list[Tensor] = []  # (V,) of each place from there on

    def at(self, place: int, count: int, size: int) -> list[Tensor]:
        """Exponentials (V,), V = `size`, of so many places from `place` on; those before are not asked for
        again."""
        del self._kept[: place - self._first]
        self._first = place
        while len(self._kept) < count:
            # what `exponential_` draws, number by number, in less than half of its time
            uniform = torch.empty(size, dtype=torch.float64).uniform_(generator=self._generator)
            self._kept.append(uniform.neg_().log1p_().neg_().float())
        return self._kept[:count]


class Dice:
    """Draws the tokens of B requests, each in its way and with its noise."""

    def __init__(self, samplings: Sequence[Sampling], noises: Sequence[Noise]) -> None:
        self._noises = noises
        rows: dict[Sampling, list[int]] = {}
        for row, sampling in enumerate(samplings):
            rows.setdefault(sampling, []).append(row)
        self._rows = rows

    def throw(self, logits: Tensor, places: Sequence[int]) -> Tensor:
        """Float32 logits (B, n, V), of n places of each request from its own of `places` on, to tokens
        (B, n)."""
        if len(self._rows) == 1:
            ((sampling, rows),) = self._rows.items()
            return self._thrown(logits, sampling, rows, places)
        tokens = logits.new_empty(logits.shape[:2], dtype=torch.long)
        for sampling, rows in self._rows.items():
            index = torch.tensor(rows, device=logits.device)
            tokens[index] = self._thrown(logits[index], sampling, rows, places)
        return tokens

    def _thrown(
        self, logits: Tensor, sampling: Sampling, rows: Sequence[int], places: Sequence[int]
    ) -> Tensor:
        if sampling.temperature == 0:
            return logits.argmax(-1)
        count, size = logits.shape[1:]
        drawn = [one for row in rows for one in self._noises[row].at(places[row], count, size)]
        # a zero, which some platforms draw, would always win
        noise = torch.stack(drawn).clamp_(min=1e-9).log_().view_as(logits)
        if logits.is_cuda:  # so that nobody waits for its way there
            noise = noise.pin_memory()
        noise = noise.to(logits.device, non_blocking=True)
        return (keep_likely(logits, sampling) - noise).argmax(-1)
