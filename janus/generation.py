"""The only decoding loop: prefill, one step, sample; text and image tokens, with or without guidance.

Shapes: B requests of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from janus.core.cache import Cache
from janus.model import JanusModel
from janus.parties import Board, Group, Party, Plan, Request, Row, draws_of, rows_of
from janus.prompts import check_context, left_padded

_WASTE = 256  # slots of padding before all rows that are worth moving them


class Decoding:
    """A batch of requests that decode together: others may join it, and leave it, between any two steps.

    Questions and pictures may be mixed: they share every step of the core, which reads its weights once for
    all of them.  What comes out for each is what it would be alone, up to rounding.
    """

    def __init__(self, model: JanusModel) -> None:
        self._model = model
        self._board = Board(model.device)
        self._cache: Cache | None = None
        self._rows: list[Row] = []  # as they are in the cache
        self._plan: Plan | None = None

    @property
    def rows(self) -> int:
        """In the core."""
        return len(self._rows)

    @property
    def parties(self) -> list[Party]:
        """Those that have not ended."""
        return [*dict.fromkeys(row.request.party for row in self._rows)]

    @torch.inference_mode()
    def join(self, groups: Sequence[Group], *, rows: int = 0, slots: int = 0) -> list[Party]:
        """Read the prompts, each different one of a group once, and draw the first token of each.

        Where there is no memory yet, or too little, that for so many `rows` and `slots` is taken at least, so
        that those who come later find it.  Raises ValueError where a prompt and its new tokens exceed the
        context.  After that, and after any other error, nobody has joined.
        """
        for group in groups:
            check_context(self._model, group.every_prompt, group.new_tokens)
        alone = not self._rows and len(groups) == 1
        own = [row.prompt + row.request.party.group.new_tokens for row in self._rows]
        joined: list[Party] = []
        try:
            self._reserve(
                max(rows, len(own) + sum(group.rows for group in groups)),
                max(slots, *own, *(group.slots for group in groups)),
            )
            for alike in _alike(groups):
                joined += self._read(alike, alone)
        except BaseException:
            for party in joined:
                self.drop(party)
            if not self._rows:
                self._cache = None
            raise
        self._settle([request for party in joined for request in party.requests], 1, 1)
        of = {id(party.group): party for party in joined}
        return [of[id(group)] for group in groups]

    @torch.inference_mode()
    def drop(self, party: Party) -> None:
        """Nobody needs more of its tokens."""
        for request in party.requests:
            request.ended = True
        self._leave()

    @torch.inference_mode()
    def step(self, window: int = 1) -> None:
        """Draw the next token of every request.

        With a `window` above 1, of a party of pictures that is alone, up to so many codes are looked at in
        one pass: all but the first follow guesses, and as many as were guessed right stand.  A guess is what
        came out there the last time, or the code above (Jacobi iteration, arXiv 2410.01699, but with the
        noise of each place held fixed, so that the codes are those of a window of 1 up to rounding, and not
        only equally likely).
        """
        cache = self._cache
        assert cache is not None
        wide = self._guess(window)
        unused = cache.length - max(row.slots for row in self._rows)
        if unused >= _WASTE or cache.length + wide > cache.capacity:
            cache.shift(-unused)
        plan = self._plan = self._plan or self._planned(cache)
        along = torch.arange(wide, device=plan.places.device)
        given = self._board.tokens[plan.lines, plan.places + along]
        embedded = [
            self._model.embed_text(own) if draw.kind == "text" else self._model.embed_codes(own)
            for draw, own in zip(plan.draws, given.split(plan.counts), strict=True)
        ]
        x, length = torch.cat(embedded)[plan.source], cache.length
        hidden = self._model.core(x, plan.positions + along, cache=cache)
        new = torch.cat([draw.choose(self._model, hidden) for draw in plan.draws])
        fresh = 1
        if wide > 1:
            right = new[:, :-1] == given[:, 1:]
            fresh += int(right.all(0).long().cumprod(0).sum())
        self._board.tokens[plan.lines, plan.places + 1 + along] = new
        cache.back_to(length + fresh)
        plan.advance(fresh)
        self._settle(plan.requests, fresh, wide)

    def _reserve(self, rows: int, slots: int) -> None:
        """Memory for so many, with what there is already."""
        old = self._cache
        if old is not None and rows <= old.rows and slots <= old.capacity:
            return
        if old is not None:
            rows, slots = max(rows, old.rows), max(slots, old.capacity)
        made = self._model.core.cache(rows, slots)
        made.use(0)
        if old is not None:
            made.adopt(old, range(len(self._rows)))
        self._cache, self._plan = made, None

    def _read(self, groups: Sequence[Group], alone: bool) -> list[Party]:
        model, together = self._model, self._cache
        assert together is not None
        prompts = [prompt for group in groups for prompt in group.every_prompt]
        different = {(tuple(p.ids), id(p.pixels)): p for p in prompts}
        read = left_padded(model, list(different.values()))
        batch, length, _ = read.x.shape
        if alone and batch == len(prompts):  # nothing to copy
            together.use(batch)
            hidden = model.core(read.x, read.positions, read.segments, together)[:, -1:]
        else:
            cache = Cache(model.config.core, batch, length, dtype=read.x.dtype, device=read.x.device)
            places = {key: place for place, key in enumerate(different)}
            index = [places[tuple(p.ids), id(p.pixels)] for p in prompts]
            hidden = model.core(read.x, read.positions, read.segments, cache)[index, -1:]
            together.use(len(self._rows))
            together.adopt(cache, index)
        parties = [Party(group, self._board) for group in groups]
        rows = [row for party in parties for row in rows_of(party)]
        tokens: dict[Request, Tensor] = {}
        for draw in draws_of(rows, model.device):
            tokens.update(zip(draw.requests, draw.choose(model, hidden)[:, 0], strict=True))
        for party in parties:
            party.begin([tokens[request] for request in party.requests])
        self._rows += rows
        self._plan = None
        return parties

    def _planned(self, cache: Cache) -> Plan:
        """With steps of few different sizes where each size has to be recorded."""
        size = len(self._rows)
        if cache.graphs is not None:
            size = min(1 << (size - 1).bit_length(), cache.rows)
        cache.use(size)
        return Plan(self._rows, size, self._model.device)

    def _guess(self, window: int) -> int:
        """How many places to look at; those behind the first hold guesses then."""
        party = self._rows[0].request.party
        alone = all(row.request.party is party for row in self._rows)
        if window == 1 or not alone or party.group.kind == "text":
            return 1
        wide = min(
            window, party.group.new_tokens - party.known, 1 + 2 * party.fresh
        )  # as far as it was worth it
        tokens, lines = self._board.tokens, party.lines
        for place in range(party.guessed, party.known + wide - 1):
            tokens[lines, place] = tokens[lines, max(place - self._model.config.vq.grid, 0)]
        return wide

    def _settle(self, requests: Sequence[Request], fresh: int, wide: int) -> None:
        """So many tokens of these are known now; who has all of them leaves."""
        for party in dict.fromkeys(request.party for request in requests):
            party.guessed = party.known + wide
            party.known, party.fresh = party.known + fresh, fresh
        ending = [request for request in requests if request.party.group.stop_id is not None]
        if ending:
            lines, places = zip(*((one.line, one.party.known - 1) for one in ending), strict=True)
            for request, token in zip(ending, self._board.tokens[lines, places].tolist(), strict=True):
                request.ended = request.ended or token == request.party.group.stop_id
        for request in requests:
            request.ended = request.ended or request.party.known == request.party.group.new_tokens
        self._leave()

    def _leave(self) -> None:
        """The rows of requests that have ended go."""
        gone = [at for at, row in enumerate(self._rows) if row.request.ended]
        if not gone:
            return
        assert self._cache is not None
        left = [self._rows[at] for at in gone]
        self._cache.use(len(self._rows))
        self._rows = [self._rows[at] for at in self._cache.drop(gone)]
        self._plan = None
        for party in dict.fromkeys(row.request.party for row in left):
            if all(request.ended for request in party.requests):
                party.end()
        if not self._rows:
            self._model.core.keep(self._cache)
            self._cache = None


def _alike(groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Those whose prompts are about as long, so that reading them together is worth their padding."""
    some: list[Group] = []
    for group in sorted(groups, key=lambda one: one.prompt):
        if some and group.prompt > 1.25 * some[0].prompt + 8:
            yield some
            some = []
        some.append(group)
    yield some


def decode_together(
    model: JanusModel, groups: Sequence[Group], *, window: int = 1
) -> Iterator[list[Tensor | None]]:
    """Yield the next tokens of every group, (B,) long each, until all have ended; None for one that has.

    A request that drew its group's `stop_id` yields it for as long as others of its group go on.  `window` is
    that of `Decoding.step`.  Raises ValueError where a prompt and its new tokens exceed the context.
    """
    decoding = Decoding(model)
    parties = decoding.join(groups)
    told = 0
    while True:
        known = max(party.known for party in parties)
        for place in range(told, known):
            yield [party.tokens[:, place] if place < party.known else None for party in parties]
        told = known
        if not decoding.rows:
            return
        decoding.step(window)


def decode(model: JanusModel, group: Group, *, window: int = 1) -> Iterator[Tensor]:
    """`decode_together` of one group: its tokens, (B,) long."""
    for (tokens,) in decode_together(model, [group], window=window):
        assert tokens is not None
        yield tokens
