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
from janus.sampling import Dice, Sampling, guide

Kind = Literal["text", "image"]


@dataclass(frozen=True)
class Prompt:
    """One request's tokens.  Places of `image_id` take the vectors of `pixels`, in order."""

    ids: Sequence[int]
    pixels: Tensor | None = None  # (N, 3, S, S)
    image_id: int = -1


@dataclass(frozen=True)
class Group:
    """Requests whose tokens are of one kind and drawn in one way."""

    prompts: Sequence[Prompt]  # B
    kind: Kind
    new_tokens: int  # at most
    sampling: Sampling
    generators: Sequence[torch.Generator]  # one for each request
    unconditional: Sequence[Prompt] = ()  # with guidance, each request's unguided counterpart
    guidance: float | None = None
    stop_id: int | None = None


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


@torch.inference_mode()
def _prefill(model: JanusModel, groups: Sequence[Group]) -> tuple[Cache, list[Tensor], Tensor]:
    """The prompts through the core, each different one of a group once: cache, last hidden states (R, D) of
    each group, next positions (R, 1) of all."""
    # Each group is padded by itself: an answer's long prompt with pictures costs no picture's short one.
    read: list[tuple[Cache, list[int]]] = []
    hidden, positions = [], []
    for group in groups:
        prompts = [*group.prompts, *group.unconditional]
        different = {(tuple(p.ids), id(p.pixels)): p for p in prompts}
        rows = _rows(model, list(different.values()), group.new_tokens)
        batch, length, _ = rows.x.shape
        alone = len(groups) == 1 and batch == len(prompts)  # nothing to copy
        if alone:
            cache = model.core.cache(batch, length + group.new_tokens)
        else:
            cache = Cache(model.config.core, batch, length, dtype=rows.x.dtype, device=rows.x.device)
        last = model.core(rows.x, rows.positions, rows.segments, cache)[:, -1]
        after = rows.positions[:, -1:] + 1
        if alone:
            return cache, [last], after
        places = {key: place for place, key in enumerate(different)}
        index = [places[tuple(p.ids), id(p.pixels)] for p in prompts]
        read.append((cache, index))
        hidden.append(last[index])
        positions.append(after[index])
    slots = max(cache.length for cache, _ in read) + max(group.new_tokens for group in groups)
    together = model.core.cache(sum(len(index) for _, index in read), slots)
    together.gather(read)
    return together, hidden, torch.cat(positions)


class _Going:
    """A group on its way: its tokens so far, and which of its requests are still in the core."""

    def __init__(self, group: Group, device: torch.device) -> None:
        self.group = group
        self.dice = Dice(group.sampling, group.generators)
        count = len(group.prompts)
        self.tokens = torch.zeros(count, group.new_tokens, dtype=torch.long, device=device)
        self.stopped = torch.zeros(count, dtype=torch.bool, device=device)
        self.rows: list[int] | None = [*range(count)]  # None: it has ended
        self._own: slice | Tensor = slice(None)  # the same, as an index

    @property
    def height(self) -> int:
        """Rows in the core."""
        return 0 if self.rows is None else len(self.rows) * (1 if self.group.guidance is None else 2)

    def given(self, first: int, end: int) -> Tensor:
        """Tokens (R, n) of the places from `first` to `end` for the core."""
        tokens = self.tokens[self._own, first:end]
        return tokens if self.group.guidance is None else tokens.repeat(2, 1)

    def put(self, place: int, tokens: Tensor) -> None:
        self.tokens[self._own, place : place + tokens.shape[1]] = tokens

    @torch.inference_mode()
    def choose(self, model: JanusModel, hidden: Tensor, place: int) -> Tensor:
        """Hidden states (R, n, D) to the tokens of the places from `place` on, one row for each request."""
        image = self.group.kind == "image"
        logits = model.image_logits(hidden) if image else model.text_logits(hidden)
        guidance = self.group.guidance
        return self.dice.throw(logits.float() if guidance is None else guide(logits, guidance), place)

    def tell(self, place: int) -> Tensor | None:
        """The tokens (B,) of a place; None after the end."""
        if self.rows is None:
            return None
        stop = self.group.stop_id
        if stop is not None:
            self.tokens[:, place] = self.tokens[:, place].masked_fill(self.stopped, stop)
            self.stopped |= self.tokens[:, place] == stop
        return self.tokens[:, place]

    def leave(self, known: int) -> list[int] | None:
        """With `known` tokens told, the rows of the core to go on with, of those here; None: all of them.

        Requests that have stopped leave once they are half of those that are in the core.
        """
        assert self.rows is not None
        count, left = len(self.rows), self.rows
        if self.group.stop_id is not None:
            stopped = self.stopped.tolist()
            left = [row for row in self.rows if not stopped[row]]
        if known == self.group.new_tokens or not left:
            self.rows = None
            return []
        if 2 * len(left) > count:
            return None
        kept = [self.rows.index(row) for row in left]
        self.rows, self._own = left, torch.tensor(left, device=self.tokens.device)
        self.dice.keep(kept)
        return kept if self.group.guidance is None else [*kept, *(count + place for place in kept)]


def decode_together(
    model: JanusModel, groups: Sequence[Group], *, window: int = 1
) -> Iterator[list[Tensor | None]]:
    """Yield the next tokens of every group, (B,) long each, until all have ended; None for one that has.

    Questions and pictures may be mixed: they share every step of the core, which reads its weights once for
    all of them.  A request that drew its group's `stop_id` yields it for as long as others of its group go
    on.  Raises ValueError where a prompt and its new tokens exceed the context.

    With a `window` above 1, of a group of pictures that is alone, up to so many codes are looked at in one
    pass: all but the first follow guesses, and as many as were guessed right stand.  A guess is what came
    out there the last time, or the code above (Jacobi iteration, arXiv 2410.01699, but with the noise of
    each place held fixed, so that the codes are those of a window of 1 up to rounding, and not only equally
    likely).
    """
    cache, hidden, positions = _prefill(model, groups)
    start = cache.length
    every = [_Going(group, model.device) for group in groups]
    for one, last in zip(every, hidden, strict=True):
        one.put(0, one.choose(model, last[:, None], 0))
    known, fresh, guessed = 0, 1, 1  # tokens that were yielded, that now can be, and with guesses behind them
    while True:
        for place in range(known, known + fresh):
            yield [one.tell(place) for one in every]
        known += fresh
        cache, positions = _narrow(model, cache, positions, [one for one in every if one.rows], known)
        going = [one for one in every if one.rows]
        if not going:
            model.core.keep(cache)
            return
        wide = 1
        if len(going) == 1 and going[0].group.kind == "image":  # as far as guesses have been worth it
            wide = min(window, going[0].group.new_tokens - known, 1 + 2 * fresh)
            for place in range(guessed, known + wide - 1):
                tokens = going[0].tokens
                tokens[:, place] = tokens[:, max(place - model.config.vq.grid, 0)]
        hidden = _step(model, going, positions, cache, known, wide)
        fresh, guessed = 1, known + wide
        for one, own in zip(going, hidden, strict=True):
            new = one.choose(model, own, known)
            if wide > 1:
                right = new[:, :-1] == one.tokens[:, known : known + wide - 1]
                fresh += int(right.all(0).long().cumprod(0).sum())
            one.put(known, new)
        cache.back_to(start + known + fresh - 1)


def _narrow(
    model: JanusModel, cache: Cache, positions: Tensor, going: Sequence[_Going], known: int
) -> tuple[Cache, Tensor]:
    """Without the rows of requests that need no more tokens, where it is worth copying the others."""
    rows: list[int] = []
    before = 0
    for one in going:
        height = one.height
        kept = one.leave(known)
        rows += range(before, before + height) if kept is None else (before + row for row in kept)
        before += height
    if len(rows) in (0, before):
        return cache, positions
    narrow = model.core.cache(len(rows), cache.capacity)
    narrow.gather([(cache, rows)])
    return narrow, positions[rows]


@torch.inference_mode()
def _step(
    model: JanusModel, going: Sequence[_Going], positions: Tensor, cache: Cache, known: int, wide: int
) -> list[Tensor]:
    """The last `wide` tokens of those `known` through the core: hidden states (R, wide, D) of each group."""
    x = []
    for one in going:
        embed = model.embed_text if one.group.kind == "text" else model.embed_codes
        x.append(embed(one.given(known - 1, known + wide - 1)))
    along = torch.arange(known - 1, known + wide - 1, device=positions.device)
    hidden = model.core(x[0] if len(x) == 1 else torch.cat(x), positions + along, cache=cache)
    return list(hidden.split([one.height for one in going]))


def decode(model: JanusModel, group: Group, *, window: int = 1) -> Iterator[Tensor]:
    """`decode_together` of one group: its tokens, (B,) long."""
    for (tokens,) in decode_together(model, [group], window=window):
        assert tokens is not None
        yield tokens


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
