"""The running batch of one model: tickets join it, and leave it, between any two steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor

from janus import memory
from janus.api import WINDOW, Janus, label
from janus.core.cache import Cache
from janus.generation import Decoding
from janus.parties import Party
from janus.previews import SHARE, partial, undrawn
from janus.requests import Drawing, Job, group
from janus.serve.tickets import Ticket
from janus.tokenizers.text import TextStream

_SHARE_ALONE = 0.2  # of the time, for previews, where nobody else waits for it
_SPARE = 128  # slots beyond what the first needs, for those who come later
_OF_FREE = 0.4  # memory; where the batch grows, it is there twice for a moment


@dataclass(eq=False)
class _Going:
    """A ticket in the batch.  Its seeds may join it in several parties."""

    ticket: Ticket
    todo: list[int]  # seeds that have not joined, by their place among all
    parties: dict[Party, list[int]] = field(default_factory=dict)
    codes: dict[int, Tensor] = field(default_factory=dict)  # of the pictures that are done, (tokens,) each
    stream: TextStream | None = None
    words: str = ""
    told: int = 0  # tokens in `words`
    shown: float = 0.0  # when the last preview was made
    rows: int = 0  # of codes in it

    @property
    def steps(self) -> int:
        """Tokens of its rows so far, on average."""
        job = self.ticket.job
        drawn = sum(party.known * len(places) for party, places in self.parties.items())
        return (drawn + len(self.codes) * job.way.new_tokens) // len(job.seeds)


class Work:
    """The batch of one model.  `rows` is how many the core may have at most."""

    def __init__(self, model: Janus, rows: int) -> None:
        self.model, self.rows = model, rows
        self._decoding = Decoding(model.model)
        self._going: dict[Ticket, _Going] = {}
        self._coming: list[tuple[_Going, list[int], Job]] = []
        self._slots = self._room = 0  # of the memory for the batch: slots, and rows that fit beside them
        self.tried = 0  # rows of the last step or join
        self._credit = 0.0  # seconds that may go into previews

    @property
    def used(self) -> int:
        """Rows in the core, with those that are about to join."""
        return self._decoding.rows + sum(len(job.seeds) * _each(job) for *_, job in self._coming)

    @property
    def tickets(self) -> list[Ticket]:
        """In the order in which they came."""
        return [*self._going]

    def room(self, ticket: Ticket, most: int) -> int:
        """How many of a ticket's seeds can join now, with `most` rows in all; at least one where nobody else
        is there."""
        self._plan(ticket.job)
        left = len(self._going[ticket].todo) if ticket in self._going else len(ticket.job.seeds)
        free = min(most, self._room) - self.used
        return max(min(left, free // _each(ticket.job)), 0 if self.used else 1)

    def take(self, ticket: Ticket, seeds: int) -> bool:
        """Let so many of a ticket's seeds `join` next; whether these are its last."""
        going = self._going.setdefault(ticket, _Going(ticket, [*range(len(ticket.job.seeds))]))
        places, going.todo = going.todo[:seeds], going.todo[seeds:]
        job = replace(ticket.job, seeds=[ticket.job.seeds[place] for place in places])
        self._coming.append((going, places, job))
        return not going.todo

    def join(self) -> dict[Ticket, Exception]:
        """Read the prompts of those that were taken.  Returns those that could not be read, and why.

        Raises RuntimeError where memory does not suffice.
        """
        if not self._coming:
            return {}
        self.tried = self.used
        coming, self._coming = self._coming, []
        try:
            self._join(coming)
        except Exception as error:
            if _is_too_much(error):
                raise
            if len(coming) == 1:
                return {coming[0][0].ticket: error}
        else:
            return {}
        failed: dict[Ticket, Exception] = {}
        for one in coming:  # it is about one of them
            self._coming = [one]
            failed |= self.join()
        return failed

    def _join(self, coming: Sequence[tuple[_Going, list[int], Job]]) -> None:
        groups = [group([job]) for *_, job in coming]  # with generators that nobody has used
        parties = self._decoding.join(groups, rows=self._room, slots=self._slots)
        for party, (going, places, _) in zip(parties, coming, strict=True):
            going.stream = going.stream or self.model.tokenizer.stream()
            going.parties[party] = places

    def drop(self, ticket: Ticket) -> None:
        """It is in the batch no more."""
        going = self._going.pop(ticket, None)
        self._coming = [one for one in self._coming if one[0] is not going]
        for party in going.parties if going is not None else ():
            if not party.ended:
                self._decoding.drop(party)

    def step(self, others: bool) -> None:
        """One token more for everybody.  `others` wait for their turn."""
        begun, self.tried = time.perf_counter(), self.used
        if self.used:
            count = sum(len(party.requests) for party in self._decoding.parties)
            self._decoding.step(max(1, WINDOW // count))
        spent = time.perf_counter() - begun
        self._credit = min(self._credit + spent * (SHARE if others else _SHARE_ALONE), 1.0)

    def told(self) -> list[Ticket]:
        """Put what is new into the tickets, and let those go that are done.  Returns them."""
        done = []
        for ticket, going in [*self._going.items()]:
            if ticket.job.way.kind == "text":
                over = self._write(going)
            else:
                over = self._draw(going)
            ticket.steps = max(ticket.steps, going.steps)
            if over:
                del self._going[ticket]
                done.append(ticket)
        return done

    def preview(self) -> None:
        """Make one where somebody wants it and time allows; of the ticket that saw none for the longest."""
        grid = self.model.config.vq.grid
        wanted = [
            going
            for going in self._going.values()
            if going.ticket.wants_previews and going.steps // grid > going.rows
        ]
        if not wanted or self._credit <= 0:
            return
        going = min(wanted, key=lambda one: one.shown)
        begun = time.perf_counter()
        going.ticket.previews = self._partly(going)
        going.ticket.shown += 1
        going.rows, going.shown = going.steps // grid, begun
        self._credit -= time.perf_counter() - begun

    # -- inside --------------------------------------------------------------------------------

    def _plan(self, job: Job) -> None:
        """Memory for the batch, with this one in it."""
        needed = len(job.prompt.ids) + job.way.new_tokens
        core = self.model.config.core
        if not self.used:
            self._slots = self._room = 0
        if self._room and needed <= self._slots:
            return
        slots = max(needed if self.used else min(needed + _SPARE, core.max_positions), self._slots)
        dtype, device = self.model.model.dtype, self.model.model.device
        free = memory.free_bytes(device)
        fit = self.rows
        if free is not None:
            free += self.model.model.core.kept_bytes
            fit = int(_OF_FREE * free / Cache.bytes_needed(core, 1, slots, dtype))
        if self.used and fit < self.used:
            self._room = 0  # not beside those who are there
            return
        self._slots, self._room = slots, max(min(self.rows, fit), 2)

    def _write(self, going: _Going) -> bool:
        """The answer so far; whether it is at its end."""
        [party] = going.parties
        ticket, end, stream = going.ticket, self.model.tokenizer.eos_id, going.stream
        assert stream is not None
        stopped = False
        for token in party.tokens[0, going.told :].tolist():
            going.told += 1
            stopped = token == end
            if not stopped:
                going.words += stream.push(token)
        if party.ended:
            going.words += stream.finish()
            ticket.finish = "stop" if stopped else "length"
        ticket.new_tokens = max(ticket.new_tokens, going.told)
        ticket.words += going.words[len(ticket.words) :]
        return party.ended

    def _draw(self, going: _Going) -> bool:
        """The pictures that are done; whether they are all of them."""
        for party, places in [*going.parties.items()]:
            if party.ended:
                del going.parties[party]
                going.codes.update(zip(places, party.tokens, strict=True))
        ticket, job = going.ticket, going.ticket.job
        ticket.new_tokens = max(ticket.new_tokens, going.steps * len(job.seeds))
        if len(going.codes) < len(job.seeds):
            return False
        codes = torch.stack([going.codes[place] for place in range(len(job.seeds))])
        pictures = self.model.decode_images(codes)
        assert isinstance(ticket.request, Drawing)
        for picture, seed in zip(pictures, job.seeds, strict=True):
            label(picture, ticket.request.prompt, seed, job.way)
        ticket.pictures = pictures
        return True

    def _partly(self, going: _Going) -> list[Image.Image]:
        vq, decode = self.model.config.vq, self.model.decode_images
        made = {place: decode(codes[None])[0] for place, codes in going.codes.items()}
        for party, places in going.parties.items():
            if party.known >= vq.grid:
                made.update(zip(places, partial(party.tokens, vq.grid, decode), strict=True))
        nothing = undrawn(vq.image_size)
        return [made.get(place, nothing) for place in range(len(going.ticket.job.seeds))]


def prompt_tokens(ticket: Ticket) -> int:
    """To be read before it has joined."""
    return len(ticket.job.prompt.ids) * _each(ticket.job)


def _each(job: Job) -> int:
    """Rows of one of its seeds."""
    return 1 if job.unconditional is None else 2


def _is_too_much(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and memory.is_out_of_memory(error)
