"""The engine: one worker owns the device, and works on the requests of everybody together."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

import torch

from janus.api import Janus, label
from janus.generation import decode
from janus.requests import Drawing, Question, group
from janus.serve.limits import Limits
from janus.serve.tickets import ClosingError, Ticket, TooManyError


@dataclass
class Counts:
    """Since the start."""

    done: int = 0
    failed: int = 0
    dropped: int = 0
    refused: int = 0  # because the queue was full
    steps: int = 0
    prompt_tokens: int = 0
    text_tokens: int = 0
    image_tokens: int = 0
    pictures: int = 0


class Engine:
    """Takes requests from any thread; `submit` gives the ticket to wait with."""

    def __init__(self, limits: Limits | None = None, *, rows: int | Literal["auto"] = "auto") -> None:
        self.limits = limits or Limits()
        self.counts = Counts()
        self._waiting: deque[Ticket] = deque()
        self._running: list[Ticket] = []
        self._change = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="janus-engine", daemon=True)
        self._thread.start()

    @property
    def rows(self) -> int:
        """Rows of the running batch: one for each answer, two for each picture with guidance."""
        return sum(len(t.job.seeds) * (2 if t.job.unconditional else 1) for t in self._running)

    @property
    def running(self) -> int:
        """Requests in work."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def closing(self) -> bool:
        return self._closing

    @property
    def alive(self) -> bool:
        """Whether the worker is there."""
        return self._thread.is_alive()

    def submit(self, model: Janus, request: Question | Drawing, *, previews: bool = False) -> Ticket:
        """Check a request and put it into the queue.

        Checking takes milliseconds of the caller's thread (tokenising, scaling pictures).  Raises ValueError
        for what is wrong with the request, TooManyError where the queue is full, ClosingError after `close`.
        """
        self._check_room()
        ticket = Ticket(model, request, model.prepare(request), previews)
        with self._change:
            self._check_room()
            self._waiting.append(ticket)
            ticket.place = len(self._waiting)
            self._change.notify()
        return ticket

    def close(self, seconds: float | None = None) -> None:
        """Take nothing new, finish what was accepted, at most for so many seconds, then stop."""
        with self._change:
            self._closing = True
            self._change.notify()
        self._thread.join(seconds)
        for ticket in [*self._waiting, *self._running]:
            ticket.end("failed", ClosingError("the server stopped before the request was finished"))

    def _check_room(self) -> None:
        if self._closing:
            raise ClosingError("the server is about to stop and takes no new requests")
        if len(self._waiting) >= self.limits.waiting:
            self.counts.refused += 1
            raise TooManyError(1)

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._closing:
                    self._change.wait()
                if not self._waiting:
                    return
                ticket = self._waiting.popleft()
            self._running = [ticket]
            try:
                self._one(ticket)
            except Exception as error:
                ticket.end("failed", error)
            self._running = []

    def _one(self, ticket: Ticket) -> None:
        ticket.state, ticket.place = "running", 0
        job, model = ticket.job, ticket.model
        codes: list[torch.Tensor] = []
        stream, eos = model.tokenizer.stream(), model.tokenizer.eos_id
        ticket.finish = "length"
        for step in decode(model.model, group([job]), window=4):
            if ticket.unwanted:
                ticket.end("dropped")
                return
            ticket.steps += 1
            ticket.new_tokens += len(job.seeds)
            if job.way.kind == "image":
                codes.append(step)
                if ticket.wants_previews and ticket.steps % 16 == 0 and ticket.steps < ticket.most:
                    drawn = torch.stack(codes, 1)
                    rest = ticket.most - drawn.shape[1]
                    ticket.previews = model.decode_images(torch.cat([drawn, drawn[:, :1].repeat(1, rest)], 1))
                    ticket.shown += 1
            elif int(step[0]) == eos:
                ticket.finish = "stop"
            else:
                ticket.words += stream.push(int(step[0]))
            ticket.tell()
        if job.way.kind == "image":
            ticket.pictures = model.decode_images(torch.stack(codes, 1))
            assert isinstance(ticket.request, Drawing)
            for picture, seed in zip(ticket.pictures, job.seeds, strict=True):
                label(picture, ticket.request.prompt, seed, job.way)
        ticket.end("done")
