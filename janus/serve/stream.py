"""Server-sent events that end when the client goes away, and work that does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from janus.serve.errors import as_api_error, to_json

T = TypeVar("T")
SILENCE = 15.0  # seconds


class GoneError(Exception):
    """The client hung up."""


def event(content: Any, name: str | None = None) -> bytes:
    """One event of a stream."""
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + to_json(content) + b"\n\n"


class EventStream(Response):
    """Sends what a generator of events yields.

    The generator is closed as soon as the client is gone, maybe before it began; `ended` is called however it
    ends.  An error in it becomes the last event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], ended: Callable[[], None]) -> None:
        self.status_code, self.background = 200, None
        self._events, self._ended = events, ended
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(GoneError):
                await _unless(_gone(receive), self._send(send))
        finally:
            self._ended()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._events) as events:
            try:
                async with contextlib.aclosing(_with_signs(events)) as told:
                    async for one in told:
                        await send({"type": "http.response.body", "body": one, "more_body": True})
            except Exception as error:
                last = event(as_api_error(error).body(), "error")
                await send({"type": "http.response.body", "body": last, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _with_signs(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events, and signs of life between those that take long: proxies end what is silent for a minute."""
    while True:
        coming = asyncio.create_task(_next(events))
        try:
            while not (await asyncio.wait([coming], timeout=SILENCE))[0]:
                yield b": still at it\n\n"
            one = await coming
        finally:
            await _end([coming])
        if one is None:
            return
        yield one


async def _next(events: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(events, None)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away.  Raises GoneError then."""
    return await _unless(_gone(request.receive), work)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless(leaving: Coroutine[Any, Any, None], work: Coroutine[Any, Any, T]) -> T:
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(work), asyncio.create_task(leaving)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise GoneError
        return await tasks[0]
    finally:
        await _end(tasks)


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    ended: Awaitable[list[Any]] = asyncio.gather(*tasks, return_exceptions=True)
    await ended
