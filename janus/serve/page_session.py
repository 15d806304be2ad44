"""What the page keeps for one visitor: pictures, conversation, and what is being worked on for them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from janus.api import Janus
from janus.gallery import save_pictures
from janus.requests import Drawing, Question
from janus.serve.engine import Engine
from janus.serve.models import Models
from janus.serve.tickets import Ticket

Tab = Literal["draw", "ask", "compare"]
KEPT = 200  # pictures of one visit; older ones make room


@dataclass(frozen=True)
class Shot:
    """A drawn picture: a PNG file that carries its settings, and those settings."""

    path: Path
    settings: dict[str, Any]

    @property
    def told(self) -> str:
        """Its settings as a line of words."""
        return " · ".join(
            f"{name} {_number(self.settings[name])}" for name in ("seed", "guidance", "temperature")
        )


@dataclass
class Turn:
    """A question with its pictures (files in the page's folder), or an answer."""

    role: Literal["user", "assistant"]
    content: str
    images: list[str] = field(default_factory=list)


@dataclass
class Run:
    """Something that was started on a tab; a new start replaces it."""

    tickets: list[Ticket] = field(default_factory=list)
    stopped: bool = False
    replaced: bool = False

    def stop(self) -> None:
        self.stopped = True
        for ticket in self.tickets:
            ticket.drop()


@dataclass
class Session:
    """One open page.  It lives in Gradio's state of that page, and nowhere else."""

    shots: list[Shot] = field(default_factory=list)  # the newest first
    latest: int = 0  # how many of them the last drawing made
    chosen: Shot | None = None
    turns: list[Turn] = field(default_factory=list)
    runs: dict[Tab, Run] = field(default_factory=dict)
    folder: Path | None = None
    model: str | None = None  # the last one that was loaded

    def begin(self, tab: Tab) -> Run:
        self.stop(tab)
        if tab in self.runs:
            self.runs[tab].replaced = True
        self.runs[tab] = Run()
        return self.runs[tab]

    def stop(self, tab: Tab) -> None:
        if tab in self.runs:
            self.runs[tab].stop()

    def keep(self, pictures: Sequence[Image.Image], under: str) -> list[Shot]:
        """Write pictures whose `info` holds their settings into this visit's folder, made in `under`."""
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="visit-", dir=under))
        files = save_pictures(pictures, self.folder)
        return [
            Shot(file, {str(name): value for name, value in picture.info.items()})
            for file, picture in zip(files, pictures, strict=True)
        ]

    def add(self, shots: Sequence[Shot]) -> None:
        self.shots[:0] = shots
        self.latest, self.chosen = len(shots), shots[0]
        for old in self.shots[KEPT:]:
            old.path.unlink(missing_ok=True)
        del self.shots[KEPT:]

    def end(self) -> None:
        """The visitor has gone: nothing of theirs stays."""
        for run in self.runs.values():
            run.stop()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


async def loading(models: Models, name: str) -> AsyncIterator[tuple[Janus | None, float]]:
    """The model at last; until then none, and the share of it that is read.  Raises what loading raises."""
    while models.state(name)[0] == "loading":  # for somebody else: wait without taking a thread
        yield None, models.state(name)[1]
        await asyncio.sleep(0.2)
    task = asyncio.create_task(asyncio.to_thread(models.get, name))
    while not (await asyncio.wait({task}, timeout=0.2))[0]:
        yield None, models.state(name)[1]
    yield task.result(), 1.0


async def asked(
    engine: Engine, model: Janus, request: Question | Drawing, run: Run, *, previews: bool = False
) -> Ticket:
    """Put a request into the queue, on a thread.  Raises what `Engine.submit` raises."""
    ticket = await asyncio.to_thread(engine.submit, model, request, previews=previews)
    run.tickets.append(ticket)
    if run.stopped:
        ticket.drop()
    return ticket


async def following(ticket: Ticket, seconds: float = 0.05) -> AsyncIterator[Ticket]:
    """Its changes, but not more of them than a page can show.  Leaving early drops it."""
    async with aclosing(ticket.changes()) as changes:  # type: ignore[type-var]
        async for _ in changes:
            yield ticket
            if not ticket.over:
                await asyncio.sleep(seconds)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
