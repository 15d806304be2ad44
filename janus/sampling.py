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


def guide(logits: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance on float32 logits: (2B, ..., V), wanted half first, to (B, ..., V).

    `unconditional + guidance * (conditional - unconditional)`, the official generation_inference.py.
    """
    wanted, plain = logits.float().chunk(2)
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


class Dice:
    """The chance in sampling: for each request and each place of its tokens a noise that depends on nothing
    but the request's own generator.

    The Gumbel-max rule: the token is where logits and noise together are largest.  That draws from the
    softmax, and the same token comes out however often, and beside whatever else, a place is looked at.
    """

    def __init__(self, sampling: Sampling, generators: Sequence[torch.Generator]) -> None:
        self.sampling, self.generators = sampling, generators
        self._first = 0  # place of the first noise that is kept
        self._noise: list[Tensor] = []  # (B, V) of each place from there on

    def throw(self, logits: Tensor, place: int) -> Tensor:
        """Float32 logits (B, n, V) of the places from `place` on, to tokens (B, n).

        Places before it are not asked for again.
        """
        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        del self._noise[: place - self._first]
        self._first = place
        while len(self._noise) < logits.shape[1]:
            drawn = [torch.empty(logits.shape[-1]).exponential_(generator=g) for g in self.generators]
            # a zero, which some platforms draw, would always win
            noise = torch.stack(drawn).clamp_(min=1e-9).log_()
            if logits.is_cuda:  # so that nobody waits for its way there
                noise = noise.pin_memory()
            self._noise.append(noise.to(logits.device, non_blocking=True))
        noise = torch.stack(self._noise[: logits.shape[1]], dim=1)
        return (keep_likely(logits, self.sampling) - noise).argmax(-1)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these requests alone."""
        self.generators = [self.generators[row] for row in rows]
        self._noise = [noise[list(rows)] for noise in self._noise]
