"""The desk between HTTP and the engine: finds the model, prepares requests in threads, gives out tickets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from janus.api import Janus
from janus.requests import Drawing, Question
from janus.serve.engine import Engine
from janus.serve.errors import ApiError
from janus.serve.metrics import Metrics
from janus.serve.models import Models, UnknownModelError
from janus.serve.tickets import ClosingError, DroppedError, Ticket

log = logging.getLogger("janus.serve")
T = TypeVar("T")
THREADS = 4  # that unpack and pack pictures; together they hold as many large ones


@dataclass(frozen=True)
class Options:
    """How a server is to behave; see `janus serve --help`.

    Attributes:
        keys: one of them is asked for; none: nobody is asked.
        remote: hosts from which pictures may be fetched.
        page: whether the web page is there, too.
        log_prompts: whether the log holds what people asked for.
        hosts: names by which clients may call this server; none: any.
    """

    keys: frozenset[str] = frozenset()
    remote: tuple[str, ...] = ()
    page: bool = True
    log_prompts: bool = False
    hosts: tuple[str, ...] = ()


class Desk:
    """One for each app."""

    def __init__(self, engine: Engine, models: Models, options: Options, metrics: Metrics) -> None:
        self.engine, self.models, self.options, self.metrics = engine, models, options, metrics
        self._threads = ThreadPoolExecutor(THREADS, "janus-desk")
        self._loading = {name: asyncio.Lock() for name in models.names}

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def model(self, name: str | None) -> Janus:
        """Loaded if it is not in memory.  However many wait for it, one thread does.

        Raises UnknownModelError, or ApiError where it can't be loaded.
        """
        name = self.models.default if name is None else name
        if self.engine.closing:
            raise ClosingError("the server is about to stop and takes no new requests")
        if name not in self._loading:
            raise UnknownModelError(
                f"there is no model {name[:200]!r} here; there are: {', '.join(self.models.names)}"
            )
        async with self._loading[name]:
            try:
                return await asyncio.to_thread(self.models.get, name)
            except Exception as error:
                log.error("the model %s can't be loaded", name, exc_info=error)
                raise ApiError(
                    503, f"the model {name} can't be loaded now; the server's log says why", field="model"
                ) from error

    async def submit(
        self, model: Janus, make: Callable[[], Iterable[Question | Drawing]], *, previews: bool = False
    ) -> list[Ticket]:
        """Tickets of the requests that `make` makes, all of them or, where one is refused, none.

        `make` runs in a thread.  Where the waiting task is cancelled, the tickets are dropped.
        """
        left = False

        def work() -> list[Ticket]:
            tickets: list[Ticket] = []
            if left:
                return tickets
            try:
                for request in make():
                    tickets.append(self.engine.submit(model, request, previews=previews))
            except BaseException:
                drop(tickets)
                raise
            return tickets

        def forget(done: Future[list[Ticket]]) -> None:
            if left and done.exception() is None:
                drop(done.result())

        future = self._threads.submit(work)
        try:
            tickets = await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            left = True
            future.add_done_callback(forget)
            raise
        if self.options.log_prompts:
            for ticket in tickets:
                log.info("prompt: %r", ticket.request.prompt)
        return tickets

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def changes(
        self, tickets: Sequence[Ticket], *, steps: bool
    ) -> AsyncGenerator[tuple[int, Ticket], None]:
        """Whenever one of the tickets has something new, its place among them and itself, until all are over.
        Without `steps`, not while they are in work: that spares waking up for each token.

        A ticket that was dropped just has nothing new any more.  Raises a ticket's error.  Closing the
        generator drops all of them.
        """
        news: asyncio.Queue[tuple[int, Exception | None]] = asyncio.Queue(len(tickets))
        tasks = [asyncio.create_task(_follow(i, ticket, news, steps)) for i, ticket in enumerate(tickets)]
        left = len(tickets)
        try:
            while left:
                place, error = await news.get()
                if place < 0:
                    left -= 1
                elif error is not None:
                    raise error
                else:
                    yield place, tickets[place]
        finally:
            drop(tickets)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for ticket in tickets:
                self.metrics.ended(ticket)


def drop(tickets: Iterable[Ticket]) -> None:
    for ticket in tickets:
        ticket.drop()


async def _follow(
    place: int, ticket: Ticket, news: asyncio.Queue[tuple[int, Exception | None]], steps: bool
) -> None:
    try:
        async with aclosing(ticket.changes(steps=steps)) as changes:  # type: ignore[type-var]
            async for _ in changes:
                await news.put((place, None))
    except DroppedError:
        pass
    except Exception as error:
        await news.put((place, error))
    await news.put((-1, None))
