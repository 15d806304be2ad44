"""The engine: one worker owns the device, and works on the requests of everybody together."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal

import torch

from janus.api import Janus
from janus.memory import is_out_of_memory
from janus.requests import Drawing, Question
from janus.serve.limits import Limits
from janus.serve.tickets import ClosingError, Ticket, TooLateError, TooManyError, tell
from janus.serve.work import Work, prompt_tokens

log = logging.getLogger("janus.serve")
_READ = 512  # tokens of prompts between two steps, from which on others wait for the next
_LEAST = 2  # rows, a picture with guidance
_CALM = 256  # steps after which a batch may be larger again


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
    """Takes requests from any thread; `submit` gives the ticket to wait with.

    Requests join the running batch between two steps and leave it as they end.  `rows` is how many the core
    works on at once: one for each answer, two for each picture with guidance; "auto" is 64 on the CPU, whose
    arithmetic is used up by then, and 128 elsewhere.  Memory may allow fewer; where it does not suffice
    after all, half of them, until all has gone well for a while.
    """

    def __init__(self, limits: Limits | None = None, *, rows: int | Literal["auto"] = "auto") -> None:
        if rows != "auto" and rows < _LEAST:
            raise ValueError(f"rows must be at least {_LEAST}, a picture with guidance, not {rows}")
        self.limits = limits or Limits()
        self.counts = Counts()
        self._most = rows
        self._waiting: deque[Ticket] = deque()
        self._work: Work | None = None
        self._allowed = 0  # rows of the batch for now
        self._calm = 0  # steps since memory did not suffice
        self._ends: deque[float] = deque(maxlen=64)  # when the last requests were done
        self._change = threading.Condition()
        self._closing = self._killed = False
        self._thread = threading.Thread(target=self._run, name="janus-engine", daemon=True)
        self._thread.start()

    @property
    def rows(self) -> int:
        """Rows of the running batch."""
        work = self._work
        return 0 if work is None else work.used

    @property
    def running(self) -> int:
        """Requests in work."""
        work = self._work
        return 0 if work is None else len(work.tickets)

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

    def stop_taking(self) -> None:
        """Take nothing new; what was accepted is finished."""
        with self._change:
            self._closing = True
            self._change.notify()

    def close(self, seconds: float | None = None) -> None:
        """Take nothing new, finish what was accepted, at most for so many seconds, then stop."""
        self.stop_taking()
        self._thread.join(seconds)
        self._killed = True
        self._thread.join(seconds)

    def _check_room(self) -> None:
        if self._closing:
            raise ClosingError("the server is about to stop and takes no new requests")
        if len(self._waiting) >= self.limits.waiting:
            self.counts.refused += 1
            raise TooManyError(self._come_back())

    def _come_back(self) -> int:
        """Seconds until the queue has moved on, by how fast it did lately."""
        ends = [*self._ends]
        if len(ends) < 2 or time.monotonic() - ends[-1] > 60:
            return 5
        pace = (len(ends) - 1) / max(time.monotonic() - ends[0], 1e-3)
        return min(max(math.ceil(len(self._waiting) / 4 / pace), 1), 60)

    # -- the worker ----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._change:
                while not (self._waiting or self.running or self._closing):
                    self._change.wait()
                if self._killed or not (self._waiting or self.running):
                    break
            try:
                self._turn()
            except Exception as error:  # whatever it was, it is about those in work
                log.exception("the batch failed")
                self._fail(error)
        stopped = ClosingError("the server stopped before the request was finished")
        for ticket in [*self._waiting, *(self._work.tickets if self._work else ())]:
            self._end(ticket, stopped)
        self._waiting.clear()
        self._work = None

    def _turn(self) -> None:
        """Between two steps, and one step."""
        self._leave()
        enough = True
        try:
            self._join()
            if self._work is not None and self._work.tickets:
                self._step(self._work)
        except RuntimeError as error:
            enough = not is_out_of_memory(error)
            if enough:
                raise
        if not enough:  # and what the error held is free
            self._halve()
        elif not self.running and not self._waiting:
            self._work = None  # nor does its model stay for this

    def _step(self, work: Work) -> None:
        work.step(others=self.running + self.waiting > 1)
        self.counts.steps += 1
        for ticket in work.told():
            self._end(ticket)
        work.preview()
        self._calm += 1
        if self._calm >= _CALM:
            self._calm, self._allowed = 0, min(2 * self._allowed, work.rows)
        tell(work.tickets, step=True)

    def _leave(self) -> None:
        """Those whom nobody waits for, and those that are too late, go."""
        now = time.monotonic()
        seconds = self.limits.seconds
        for ticket in [*self._waiting, *(self._work.tickets if self._work else ())]:
            if not (ticket.unwanted or now - ticket.queued > seconds):
                continue
            if ticket in self._waiting:
                self._unqueue(ticket)
            if self._work is not None:
                self._work.drop(ticket)
            if ticket.unwanted:
                self.counts.dropped += 1
                ticket.end("dropped")
            else:
                self._end(ticket, TooLateError(f"the request took longer than {seconds:g} seconds"))

    def _join(self) -> None:
        """From the queue into the batch, in their order, as many as there is room for."""
        read = 0
        while self._waiting and read < _READ:
            ticket = self._waiting[0]
            work = self._for(ticket)
            seeds = 0 if work is None else work.room(ticket, self._allowed)
            if work is None or not seeds:  # another model's batch has to run out first, or this one is full
                break
            read += prompt_tokens(ticket)
            if ticket.state == "waiting":
                ticket.state, ticket.begun = "running", time.monotonic()
                self.counts.prompt_tokens += ticket.prompt_tokens
            if work.take(ticket, seeds):
                self._unqueue(ticket)
        if self._work is None:
            return
        for ticket, error in self._work.join().items():
            if not isinstance(error, ValueError):
                log.error("a request failed", exc_info=error)
            if ticket in self._waiting:
                self._unqueue(ticket)
            self._work.drop(ticket)
            self._end(ticket, error)

    def _for(self, ticket: Ticket) -> Work | None:
        """The batch that it can join."""
        if self._work is None or (self._work.model is not ticket.model and not self._work.tickets):
            cpu = ticket.model.model.device.type == "cpu"
            most = self._most if self._most != "auto" else 64 if cpu else 128
            self._work, self._allowed, self._calm = Work(ticket.model, most), most, 0
        return self._work if self._work.model is ticket.model else None

    def _unqueue(self, ticket: Ticket) -> None:
        with self._change:
            self._waiting.remove(ticket)
            moved = [*self._waiting]
            for place, one in enumerate(moved, 1):
                one.place = place
        ticket.place = 0
        tell([ticket, *moved])

    def _halve(self) -> None:
        """Memory did not suffice: begin again with half of the rows.  One that had them for itself fails."""
        work, self._work = self._work, None
        assert work is not None
        back = work.tickets
        log.warning("memory did not suffice for a batch of %d rows", work.tried)
        again = Work(work.model, work.rows)
        alone = self._allowed == 1  # then there is a single seed in the batch
        self._allowed, self._calm = max(min(work.tried, self._allowed) // 2, 1), 0
        del work
        if again.model.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self._work = again
        with self._change:
            self._waiting.extendleft(t for t in reversed(back) if t not in self._waiting)
        if alone:
            (ticket,) = back
            self._unqueue(ticket)
            self._end(ticket, ValueError("the request needs more memory than this server has"))

    def _fail(self, error: Exception) -> None:
        """All in work fail, or else the next; the others go on with a batch of their own."""
        work, self._work = self._work, None
        for ticket in (work.tickets if work is not None else []) or [*self._waiting][:1]:
            if ticket in self._waiting:
                self._unqueue(ticket)
            self._end(ticket, error)

    def _end(self, ticket: Ticket, error: Exception | None = None) -> None:
        if ticket.over:
            return
        if error is None:
            self.counts.done += 1
            self._ends.append(time.monotonic())
        else:
            self.counts.failed += 1
        self.counts.pictures += len(ticket.pictures)
        if isinstance(ticket.request, Drawing):
            self.counts.image_tokens += ticket.new_tokens
        else:
            self.counts.text_tokens += ticket.new_tokens
        ticket.end("done" if error is None else "failed", error)
