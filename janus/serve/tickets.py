"""A request on its way through the engine, as those who wait for it see it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from janus.api import Janus
from janus.requests import Drawing, Job, Question

State = Literal["waiting", "running", "done", "failed", "dropped"]


class TooManyError(Exception):
    """The queue is full; `seconds` is when to come back."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the server is busy; come back in {seconds} s")
        self.seconds = seconds


class ClosingError(Exception):
    """The server is about to stop and takes nothing new."""


class TooLateError(Exception):
    """The request took longer than it may."""


class DroppedError(Exception):
    """Whoever asked went away, or pressed stop."""


@dataclass(eq=False)
class _Listener:
    loop: asyncio.AbstractEventLoop
    event: asyncio.Event
    steps: bool  # whether it wants to hear of every one


class Ticket:
    """What there is of a request so far.  The engine's worker writes it, everyone may read it.

    Attributes:
        state: "waiting" -> "running" -> "done", "failed" (see `error`) or "dropped".
        place: in the queue, 1 is next; 0 once it is running.
        steps, most: tokens of each of its rows so far, and at most.
        words: of a question, the answer so far.
        previews: of a drawing, its n pictures as far as they are drawn, the rest grey; none at first.
        shown: how many times `previews` was made anew.
        pictures: of a drawing that is done, its n pictures, their settings in `info`.
        finish: "stop" or "length" of an answer that is done.
        prompt_tokens: of the prompt, with its pictures.
        new_tokens: of all rows together so far.
        queued, begun, ended: `time.monotonic()` of each; 0 until then.
    """

    def __init__(self, model: Janus, request: Question | Drawing, job: Job, previews: bool) -> None:
        self.model, self.request, self.job = model, request, job
        self.wants_previews = previews
        self.state: State = "waiting"
        self.place = 0
        self.steps, self.most = 0, job.way.new_tokens
        self.words = ""
        self.previews: list[Image.Image] = []
        self.shown = 0
        self.pictures: list[Image.Image] = []
        self.finish: Literal["stop", "length"] | None = None
        self.error: Exception | None = None
        self.prompt_tokens, self.new_tokens = len(job.prompt.ids), 0
        self.queued, self.begun, self.ended = time.monotonic(), 0.0, 0.0
        self.unwanted = False
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._listeners: list[_Listener] = []

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "dropped")

    def drop(self) -> None:
        """Nobody wants it any more: it is out of the batch before the next step.  Harmless after the end."""
        self.unwanted = True

    def wait(self, seconds: float | None = None) -> Ticket:
        """Block until it is over; returns itself.  Raises its `error`, DroppedError, or TimeoutError."""
        if not self._over.wait(seconds):
            raise TimeoutError(f"not over after {seconds} s")
        self._raise()
        return self

    async def changes(self, *, steps: bool = True) -> AsyncIterator[Ticket]:
        """Itself, now and whenever there is something new, until it is over; changes in between are seen
        together.  Without `steps`, only where its place or its state changes.  Raises its `error` or
        DroppedError.  Leaving the loop before the end drops the request.
        """
        listener = _Listener(asyncio.get_running_loop(), asyncio.Event(), steps)
        with self._lock:
            self._listeners.append(listener)
        try:
            while True:
                listener.event.clear()
                over = self.over
                if over:
                    self._raise()
                yield self
                if over:
                    return
                await listener.event.wait()
        finally:
            self.drop()
            with self._lock:
                self._listeners.remove(listener)

    # -- for the engine ------------------------------------------------------------------------

    def listening(self, step: bool) -> list[_Listener]:
        """Who wants to hear of a step, or of something else."""
        with self._lock:
            return [one for one in self._listeners if one.steps or not step]

    def end(self, state: State, error: Exception | None = None) -> None:
        """Over, in this way; the first end counts."""
        if self.over:
            return
        self.error, self.place, self.ended = error, 0, time.monotonic()
        self.state = state
        self._over.set()
        tell([self])

    def _raise(self) -> None:
        if self.state == "dropped":
            raise DroppedError("stopped")
        if self.error is not None:
            raise self.error


def tell(tickets: Iterable[Ticket], *, step: bool = False) -> None:
    """Wake whoever waits for something new on these, each event loop once."""
    events: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
    for ticket in tickets:
        for listener in ticket.listening(step):
            events.setdefault(listener.loop, []).append(listener.event)
    for loop, own in events.items():
        with contextlib.suppress(RuntimeError):  # the loop is gone, and those who listened with it
            loop.call_soon_threadsafe(_set, own)


def _set(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        event.set()
