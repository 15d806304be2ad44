"""Requests on their way through the decoding loop: their tokens, their rows, and how tokens come out of rows.

Shapes: B requests, R rows in the core (a request's, and with guidance its unguided counterpart's), n places
looked at in one step, D core width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from janus.model import JanusModel
from janus.prompts import Prompt
from janus.sampling import Dice, Noise, Sampling, guide

Kind = Literal["text", "image"]


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

    @property
    def rows(self) -> int:
        """In the core."""
        return len(self.prompts) * (1 if self.guidance is None else 2)

    @property
    def every_prompt(self) -> list[Prompt]:
        return [*self.prompts, *self.unconditional]

    @property
    def prompt(self) -> int:
        """Tokens of the longest one."""
        return max(len(prompt.ids) for prompt in self.every_prompt)

    @property
    def slots(self) -> int:
        """That its longest row comes to need."""
        return self.prompt + self.new_tokens


class Party:
    """A group on its way.

    `known` places of its tokens are drawn; it has `ended` once none of its requests needs more.
    """

    def __init__(self, group: Group, board: Board) -> None:
        self.group, self.known, self.ended = group, 0, False
        self.fresh = 1  # how many the last step drew
        self.guessed = 0  # places that hold tokens, or guesses
        self.requests = [Request(self, Noise(generator)) for generator in group.generators]
        self._board = board
        self._last: Tensor | None = None

    @property
    def lines(self) -> list[int]:
        return [request.line for request in self.requests]

    @property
    def tokens(self) -> Tensor:
        """(B, known) so far; those of a request that drew its group's `stop_id` are that from there on."""
        return self._board.read(self.lines)[:, : self.known] if self._last is None else self._last

    def begin(self, tokens: Sequence[Tensor]) -> None:
        """With the first token of each request, a scalar."""
        lines = self._board.take(len(self.requests), self.group.new_tokens, self.group.stop_id or 0)
        for request, line in zip(self.requests, lines, strict=True):
            request.line = line
        self._board.tokens[lines, 0] = torch.stack([*tokens])

    def end(self) -> None:
        assert not self.ended
        self._last, self.ended = self.tokens.clone(), True
        self._board.free += self.lines


@dataclass(eq=False)
class Request:
    """One of a party's."""

    party: Party
    noise: Noise
    line: int = -1  # of the board
    ended: bool = False


@dataclass(eq=False)
class Row:
    """What a row of the cache is for."""

    request: Request
    prompt: int  # tokens
    plain: bool  # the unguided counterpart

    @property
    def slots(self) -> int:
        """Its own in the cache; the last token is not in there yet."""
        return self.prompt + self.request.party.known - 1


class Board:
    """The tokens of all requests, a line for each."""

    def __init__(self, device: torch.device) -> None:
        self.tokens = torch.zeros(0, 0, dtype=torch.long, device=device)
        self.free: list[int] = []

    def take(self, count: int, places: int, fill: int) -> list[int]:
        """So many lines, filled with one token."""
        lines, width = self.tokens.shape
        more = max(count - len(self.free), 0)
        if more or places > width:
            larger = self.tokens.new_zeros(lines + more, max(places, width))
            larger[:lines, :width] = self.tokens
            self.tokens = larger
            self.free += range(lines, lines + more)
        taken, self.free = self.free[:count], self.free[count:]
        self.tokens[taken] = fill
        return taken

    def read(self, lines: Sequence[int]) -> Tensor:
        first = lines[0]
        if [*lines] == [*range(first, first + len(lines))]:
            return self.tokens[first : first + len(lines)]
        return self.tokens[torch.tensor(lines, device=self.tokens.device)]


class Draw:
    """How the tokens of all requests of a kind come out of the core's rows."""

    def __init__(self, kind: Kind, rows: Sequence[tuple[int, Row]], device: torch.device) -> None:
        wanted = [(at, row) for at, row in rows if not row.plain]
        plain = {row.request: at for at, row in rows if row.plain}
        self.kind = kind
        self.requests = [row.request for _, row in wanted]
        groups = [request.party.group for request in self.requests]
        self.dice = Dice([group.sampling for group in groups], [request.noise for request in self.requests])
        read = [*(at for at, _ in wanted), *(plain[request] for request in self.requests if request in plain)]
        self._rows = torch.tensor(read, device=device)
        self._guidance, self._guided = None, None
        if plain:
            guided = [place for place, request in enumerate(self.requests) if request in plain]
            strengths = [groups[place].guidance for place in guided]
            self._guidance = torch.tensor(strengths, device=device, dtype=torch.float32)[:, None, None]
            if len(guided) < len(wanted):
                self._guided = torch.tensor(guided, device=device)

    @property
    def places(self) -> list[int]:
        return [request.party.known for request in self.requests]

    def choose(self, model: JanusModel, hidden: Tensor) -> Tensor:
        """Hidden states (R, n, D) of all rows to the requests' tokens (B, n)."""
        own = hidden.index_select(0, self._rows)
        logits = (model.image_logits(own) if self.kind == "image" else model.text_logits(own)).float()
        if self._guidance is not None:
            wanted, plain = logits.tensor_split([len(self.requests)])
            if self._guided is None:
                logits = guide(wanted, plain, self._guidance)
            else:
                logits = wanted.index_copy(
                    0, self._guided, guide(wanted[self._guided], plain, self._guidance)
                )
        return self.dice.throw(logits, self.places)


def rows_of(party: Party) -> list[Row]:
    """In the order of its group's prompts."""
    group = party.group
    wanted = [Row(one, len(p.ids), False) for one, p in zip(party.requests, group.prompts, strict=True)]
    if not group.unconditional:
        return wanted
    plain = zip(party.requests, group.unconditional, strict=True)
    return wanted + [Row(one, len(p.ids), True) for one, p in plain]


def draws_of(rows: Sequence[Row], device: torch.device) -> list[Draw]:
    """One for each kind that there is."""
    kinds: tuple[Kind, ...] = ("text", "image")
    of_kinds = {
        kind: [(at, row) for at, row in enumerate(rows) if row.request.party.group.kind == kind]
        for kind in kinds
    }
    return [Draw(kind, own, device) for kind, own in of_kinds.items() if own]


class Plan:
    """Who is where, for as long as nobody comes or goes.  `size` is how many rows a step has; those that are
    nobody's repeat the first."""

    def __init__(self, rows: Sequence[Row], size: int, device: torch.device) -> None:
        self.draws = draws_of(rows, device)
        self.requests = [request for draw in self.draws for request in draw.requests]
        at = {request: place for place, request in enumerate(self.requests)}
        nobody = size - len(rows)
        self.source = torch.tensor([*(at[row.request] for row in rows), *[0] * nobody], device=device)
        self.positions = torch.tensor([*([row.slots] for row in rows), *[[0]] * nobody], device=device)
        self.lines = torch.tensor([[request.line] for request in self.requests], device=device)
        self.places = torch.tensor([[request.party.known - 1] for request in self.requests], device=device)
        self.counts = [len(draw.requests) for draw in self.draws]

    def advance(self, tokens: int) -> None:
        self.positions += tokens
        self.places += tokens
