"""uvicorn, but that it goes on listening while it finishes what was accepted: new requests are told 503."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from janus.serve.engine import Engine
from janus.serve.metrics import Metrics

QUIET = 0.5  # seconds without work after which the last results are on their way, also to the page


class Server(uvicorn.Server):
    """`tell` is called once requests are answered."""

    def __init__(
        self, config: uvicorn.Config, engine: Engine, metrics: Metrics, tell: Callable[[], None]
    ) -> None:
        self._leaving = asyncio.Event()
        config.app = _Leaving(config.app, self._leaving)  # type: ignore[arg-type]
        super().__init__(config)
        self._engine, self._metrics, self._tell = engine, metrics, tell
        self._idle_since: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal: take nothing new.  The second: the end."""
        if self._engine.closing:
            os._exit(128 + sig)
        self._engine.stop_taking()

    async def on_tick(self, counter: int) -> bool:
        engine = self._engine
        if engine.closing:
            now = time.monotonic()
            if engine.waiting or engine.running or self._metrics.in_work:
                self._idle_since = None
            elif self._idle_since is None:
                self._idle_since = now
            elif now - self._idle_since >= QUIET:
                self._leaving.set()
                self.should_exit = True
        return await super().on_tick(counter)


class _Leaving:
    """Tells what the page keeps open that its client is gone, once `event` is set: it would never end."""

    def __init__(self, app: ASGIApp, event: asyncio.Event) -> None:
        self._app, self._event = app, event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return

        async def receive_or_leave() -> Message:
            tasks = [asyncio.ensure_future(receive()), asyncio.ensure_future(self._event.wait())]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                message = tasks[0].result() if tasks[0].done() else {"type": "http.disconnect"}
            finally:
                for task in tasks:
                    task.cancel()
            assert isinstance(message, dict)
            return message

        await self._app(scope, receive_or_leave, send)
