"""Figures for Prometheus, and one line in the log for every request."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from janus.serve.engine import Engine
from janus.serve.tickets import Ticket

log = logging.getLogger("janus.serve")

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_COUNTED = {
    "done": "Requests that were finished",
    "failed": "Requests that failed",
    "dropped": "Requests whose client went away, or that were stopped",
    "refused": "Requests for which the queue was full",
    "steps": "Steps of the running batch",
    "prompt_tokens": "Tokens of prompts",
    "text_tokens": "Tokens of answers",
    "image_tokens": "Tokens of pictures",
    "pictures": "Pictures that were drawn",
}


class Metrics:
    """The figures of one app.

    `in_work` are the requests to its API that are not answered to their end, but for those that came while
    the engine took none.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.in_work = 0
        self._registry = CollectorRegistry()
        self._registry.register(_Engine(engine))
        self.requests = Counter(
            "janus_requests", "HTTP requests", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "janus_request_seconds",
            "From a request's arrival at the engine to its end",
            ["kind"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._waited = Histogram(
            "janus_wait_seconds", "In the queue", ["kind"], buckets=_SECONDS, registry=self._registry
        )

    def ended(self, ticket: Ticket) -> None:
        """Count a ticket that is done with."""
        kind = ticket.job.way.kind
        now = ticket.ended or time.monotonic()
        self._waited.labels(kind).observe((ticket.begun or now) - ticket.queued)
        self._seconds.labels(kind).observe(now - ticket.queued)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Engine(Collector):
    """Reads what the engine counts at the moment it is asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        engine = self._engine
        for name, words in _COUNTED.items():
            yield CounterMetricFamily(f"janus_engine_{name}", words, value=getattr(engine.counts, name))
        yield GaugeMetricFamily("janus_engine_waiting", "Requests in the queue", value=engine.waiting)
        yield GaugeMetricFamily("janus_engine_running", "Requests in work", value=engine.running)
        yield GaugeMetricFamily("janus_engine_rows", "Rows of the running batch", value=engine.rows)


class Watch:
    """Counts and logs the requests that pass."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 499  # the client left before there was one
        counted = scope["path"].startswith("/v1/") and not self._metrics.engine.closing

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.in_work += counted
        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            self._metrics.in_work -= counted
            route = getattr(scope.get("route"), "path", None) or "other"
            self._metrics.requests.labels(route, str(status)).inc()
            self._log(scope, status, 1000 * (time.perf_counter() - begun))

    def _log(self, scope: Scope, status: int, milliseconds: float) -> None:
        told = scope.get("state", {}).get("tokens")
        tokens = "" if told is None else f" {told[0]}+{told[1]} tokens"
        path = scope["path"].encode("ascii", "backslashreplace").decode()
        quiet = path in ("/health", "/metrics") or not path.startswith("/v1/")
        log.log(
            logging.DEBUG if quiet and status < 400 else logging.INFO,
            "%s %r %d %.0f ms%s",
            scope["method"],
            path[:200],
            status,
            milliseconds,
            tokens,
        )
