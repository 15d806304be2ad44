"""Servers on ports of their own, in threads, for tests over real sockets; and an engine worked by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
import uvicorn

from janus import Janus
from janus.serve.app import Options, create_app
from janus.serve.engine import Counts, Engine
from janus.serve.limits import Limits
from janus.serve.models import Models
from janus.serve.tickets import ClosingError, Ticket, TooManyError

PLAIN = Options(page=False)


@contextmanager
def served(model: Janus, options: Options = PLAIN, engine: Engine | ByHand | None = None) -> Iterator[str]:
    """Its address, as http://127.0.0.1:PORT."""
    models = Models([None], lambda source, follow: model)
    models.get()
    app = create_app(cast(Engine, engine or Engine()), models, options)
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup()
            ready.set()

    server = Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        assert ready.wait(30)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


class ByHand:
    """Stands for the engine: hands out real tickets, and works on none; the test does."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits, self.counts = limits or Limits(), Counts()
        self.tickets: list[Ticket] = []
        self.closing, self.alive = False, True
        self._come = threading.Condition()

    @property
    def waiting(self) -> int:
        return sum(not ticket.over for ticket in self.tickets)

    running = rows = 0

    def submit(self, model: Janus, request: Any, *, previews: bool = False) -> Ticket:
        if self.closing:
            raise ClosingError("the server is about to stop and takes no new requests")
        if self.waiting >= self.limits.waiting:
            raise TooManyError(7)
        ticket = Ticket(model, request, model.prepare(request), previews)
        with self._come:
            self.tickets.append(ticket)
            self._come.notify_all()
        return ticket

    def stop_taking(self) -> None:
        self.closing = True

    def close(self, seconds: float | None = None) -> None:
        self.stop_taking()

    def ticket(self, number: int = 0) -> Ticket:
        """Waits for it."""
        with self._come:
            assert self._come.wait_for(lambda: len(self.tickets) > number, 30)
        return self.tickets[number]


def post(url: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{path}", json=body, timeout=60, trust_env=False)


def question(words: str = "Hi", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}], **more}


def refusal(answer: httpx.Response) -> tuple[int, str | None, str]:
    """Status, the field at fault, and the sentence of an answer with an error."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["param"], error["message"]
