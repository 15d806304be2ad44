"""The only decoding loop: prefill, one step, sample; text and image tokens, with or without guidance.

Shapes: B requests, R rows in the core (B, or 2B with guidance), T prompt tokens after left padding,
D core width, V vocabulary of the head in use (text ids or picture codes), N pictures of one prompt,
P tokens per picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from janus.core.cache import Cache
from janus.model import JanusModel

Kind = Literal["text", "image"]


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


@dataclass(frozen=True)
class Prompt:
    """One request's tokens.  Places of `image_id` take the vectors of `pixels`, in order."""

    ids: Sequence[int]
    pixels: Tensor | None = None  # (N, 3, S, S)
    image_id: int = -1


@dataclass
class _Rows:
    """Prompts as one left-padded batch."""

    x: Tensor  # (R, T, D) embeddings
    positions: Tensor  # (R, T) long, 0 at each row's first own token
    segments: Tensor | None  # (R, T) long, 0 for padding and 1 for the row's own tokens; None: no padding

    def extend(self, x: Tensor) -> _Rows:
        """With more tokens of the rows' own after the prompt: x (R, n, D)."""
        more = torch.arange(1, x.shape[1] + 1, device=x.device)
        segments = self.segments
        if segments is not None:
            segments = torch.cat([segments, segments.new_ones(x.shape[:2])], dim=1)
        return _Rows(
            torch.cat([self.x, x], dim=1),
            torch.cat([self.positions, self.positions[:, -1:] + more], dim=1),
            segments,
        )


def _rows(model: JanusModel, prompts: Sequence[Prompt], new_tokens: int) -> _Rows:
    longest = max(len(prompt.ids) for prompt in prompts)
    limit = model.config.core.max_positions
    if longest + new_tokens > limit:
        raise ValueError(
            f"a prompt of {longest} tokens and {new_tokens} new ones exceed the context of {limit}; "
            "shorten the prompt, give fewer pictures or ask for fewer tokens"
        )
    device = model.device
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    segments = torch.zeros_like(ids)
    slots = torch.zeros_like(ids, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        own = torch.tensor(prompt.ids)
        ids[row, longest - len(own) :] = own
        segments[row, longest - len(own) :] = 1
        if prompt.pixels is not None:
            slots[row, longest - len(own) :] = own == prompt.image_id
    x = model.embed_text(ids.to(device))
    if slots.any():
        # one prompt's pictures at a time, so that memory does not grow with the batch
        vectors = [model.embed_images(p.pixels).flatten(0, 1) for p in prompts if p.pixels is not None]
        x = x.masked_scatter(slots.to(device).unsqueeze(-1), torch.cat(vectors))
    positions = (segments.cumsum(1) - 1).clamp(min=0)
    padded = any(len(prompt.ids) < longest for prompt in prompts)
    return _Rows(x, positions.to(device), segments.to(device) if padded else None)


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


@torch.inference_mode()
def _prefill(model: JanusModel, prompts: Sequence[Prompt], new_tokens: int) -> tuple[Cache, Tensor, Tensor]:
    """The prompts through the core, each different one once: cache, last hidden states (R, D), next
    positions (R, 1)."""
    different = {(tuple(p.ids), id(p.pixels)): p for p in prompts}
    rows = _rows(model, list(different.values()), new_tokens)
    batch, length, _ = rows.x.shape
    shared = batch < len(prompts)
    capacity = length + new_tokens
    if shared:
        cache = Cache(model.config.core, batch, length, dtype=rows.x.dtype, device=rows.x.device)
    else:
        cache = model.core.cache(batch, capacity)
    hidden = model.core(rows.x, rows.positions, rows.segments, cache)[:, -1]
    positions = rows.positions[:, -1:] + 1
    if shared:
        places = {key: place for place, key in enumerate(different)}
        index = [places[tuple(p.ids), id(p.pixels)] for p in prompts]
        short, cache = cache, model.core.cache(len(prompts), capacity)
        short.spread(index, cache)
        hidden, positions = hidden[index], positions[index]
    return cache, hidden, positions


@torch.inference_mode()
def _decode_some(model: JanusModel, kind: Kind, tokens: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Tokens (R, n) from positions (R, 1) on through the core: hidden states (R, n, D)."""
    embed = model.embed_text if kind == "text" else model.embed_codes
    along = torch.arange(tokens.shape[1], device=tokens.device)
    return model.core(embed(tokens), positions + along, cache=cache)


@torch.inference_mode()
def _choose(
    model: JanusModel, kind: Kind, hidden: Tensor, guidance: float | None, dice: Dice, place: int
) -> Tensor:
    """Hidden states (R, n, D) to the tokens (B, n) of the places from `place` on."""
    logits = model.text_logits(hidden) if kind == "text" else model.image_logits(hidden)
    return dice.throw(logits.float() if guidance is None else guide(logits, guidance), place)


def decode(
    model: JanusModel,
    prompts: Sequence[Prompt],
    *,
    kind: Kind,
    new_tokens: int,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    unconditional: Sequence[Prompt] = (),
    guidance: float | None = None,
    stop_id: int | None = None,
    window: int = 1,
) -> Iterator[Tensor]:
    """Yield the next token of every request, (B,) long, until `new_tokens` or all have stopped.

    With `guidance`, `unconditional` holds each request's unguided counterpart.  A request that drew
    `stop_id` yields it for as long as others go on.  Raises ValueError where a prompt and its new
    tokens exceed the context.

    With a `window` above 1, of pictures, up to so many codes are looked at in one pass: all but the first
    follow guesses, and as many as were guessed right stand.  A guess is what came out there the last time,
    or the code above (Jacobi iteration, arXiv 2410.01699, but with the noise of each place held fixed, so
    that the codes are those of a window of 1 up to rounding, and not only equally likely).
    """
    cache, hidden, positions = _prefill(model, [*prompts, *unconditional], new_tokens)
    start, count = cache.length, len(prompts)
    dice = Dice(sampling, generators)
    tokens = torch.zeros(count, new_tokens, dtype=torch.long, device=hidden.device)
    tokens[:, :1] = _choose(model, kind, hidden[:, None], guidance, dice, 0)
    stopped = torch.zeros(count, dtype=torch.bool, device=hidden.device)
    known, fresh, guessed = 0, 1, 1  # tokens that were yielded, that now can be, and with guesses behind them
    while True:
        for place in range(known, known + fresh):
            if stop_id is not None:
                tokens[:, place] = tokens[:, place].masked_fill(stopped, stop_id)
                stopped |= tokens[:, place] == stop_id
            yield tokens[:, place]
        known += fresh
        if known == new_tokens or (stop_id is not None and bool(stopped.all())):
            model.core.keep(cache)
            return
        wide = min(window, new_tokens - known, 1 + 2 * fresh)  # as far as guesses have been worth it
        for place in range(guessed, known + wide - 1):
            tokens[:, place] = tokens[:, max(place - model.config.vq.grid, 0)]
        given = tokens[:, known - 1 : known + wide - 1]
        both = given if guidance is None else given.repeat(2, 1)
        hidden = _decode_some(model, kind, both, positions + known - 1, cache)
        new = _choose(model, kind, hidden, guidance, dice, known)
        fresh, guessed = 1, known + wide
        if wide > 1:
            fresh += int((new[:, :-1] == given[:, 1:]).all(0).long().cumprod(0).sum())
        tokens[:, known : known + wide] = new
        cache.back_to(start + known + fresh - 1)


@torch.inference_mode()
def score(
    model: JanusModel,
    prompts: Sequence[Prompt],
    tokens: Sequence[Sequence[int]],
    *,
    kind: Kind,
    unconditional: Sequence[Prompt] = (),
    guidance: float | None = None,
) -> list[Tensor]:
    """Log-probabilities of given `tokens` after their prompts, one float32 tensor (n,) per request.

    The whole sequences pass through the core once, without a cache; with `guidance` the
    probabilities are those of the guided logits.
    """
    longest = max(len(row) for row in tokens)
    rows = _rows(model, [*prompts, *unconditional], longest)
    padded = torch.zeros(len(tokens), longest, dtype=torch.long, device=model.device)
    for row, own in enumerate(tokens):  # what follows a shorter row is after it and cannot change it
        padded[row, : len(own)] = torch.tensor(own, device=model.device)
    embed = model.embed_text if kind == "text" else model.embed_codes
    given = padded if guidance is None else padded.repeat(2, 1)
    prompt_length = rows.x.shape[1]
    rows = rows.extend(embed(given[:, :-1]))
    hidden = model.core(rows.x, rows.positions, rows.segments)[:, prompt_length - 1 :]
    logits = model.text_logits(hidden) if kind == "text" else model.image_logits(hidden)
    logits = logits.float() if guidance is None else guide(logits, guidance)
    log_probs = logits.log_softmax(-1).gather(-1, padded.unsqueeze(-1)).squeeze(-1)
    return [log_probs[row, : len(own)] for row, own in enumerate(tokens)]
