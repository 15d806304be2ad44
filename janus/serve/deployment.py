"""The API on a cluster: a Ray Serve deployment whose replicas, behind one address, have an engine each.

    serve run janus.serve.deployment:build model=deepseek-ai/Janus-Pro-7B replicas=4 gpus=1

Ray reports its use to its makers unless RAY_USAGE_STATS_ENABLED=0.
The web page is not part of it: a visitor's clicks would land on one replica now and another then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from janus.api import Janus
from janus.core.quantized import Quantization
from janus.serve.app import Options, create_app
from janus.serve.command import KEYS
from janus.serve.engine import Engine
from janus.serve.limits import Limits
from janus.serve.models import Models

REPLICA = "X-Janus-Replica"  # the header that names who answered
_SPARE = 256  # requests of a replica that are in work, beside those in its engine's queue


class Settings(BaseModel):
    """The arguments of `build`; as strings, too, as the command line gives them."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        None, description="folder or hub id, as replicas see it; none: the packaged one"
    )
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    quantize: Quantization | None = None
    offline: bool = False
    replicas: int = Field(1, ge=1)
    gpus: float = Field(0, ge=0, description="of each replica")
    cpus: float = Field(1, ge=0, description="of each replica; also its threads")
    rows: Literal["auto"] | int = "auto"
    queue: int = Field(256, ge=1, description="requests that may wait at each replica")
    time_limit: float = Field(600.0, gt=0, description="seconds for a request")
    allow_remote: str = Field("", description="hosts from which pictures may be fetched, commas between them")
    log_prompts: bool = False


class Replica:
    """Has the app that `serve.ingress` makes for it."""

    app: Any

    def check_health(self) -> None:
        """Ray replaces the replica where this raises."""
        if not self.app.state.engine.alive:
            raise RuntimeError("the engine's worker is dead")


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application for `serve run` and `serve.run`; `args` are the fields of `Settings`.

    Keys come from JANUS_API_KEYS where this is called.  A replica that is stopped takes nothing new and has
    `time_limit` to finish what it accepted.  Raises ValueError for an unknown or wrong field.
    """
    settings = Settings.model_validate(dict(args))
    keys = frozenset(filter(None, re.split(r"[,\s]+", os.environ.get(KEYS, ""))))

    def application() -> ASGIApp:
        return _application(settings, keys)

    deployment = serve.deployment(
        serve.ingress(application)(Replica),
        name="janus",
        num_replicas=settings.replicas,
        ray_actor_options={"num_gpus": settings.gpus, "num_cpus": settings.cpus},
        max_ongoing_requests=settings.queue + _SPARE,  # the engine batches, and refuses, by itself
        graceful_shutdown_timeout_s=settings.time_limit,
    )
    return deployment.bind()


def _application(settings: Settings, keys: frozenset[str]) -> ASGIApp:
    """In the replica's own process: its model, its engine and the app."""

    def load(source: str | None, on_bytes: Any) -> Janus:
        return Janus.from_pretrained(
            source,
            device=settings.device,
            dtype=settings.dtype,
            quantize=settings.quantize,
            offline=settings.offline,
            on_bytes=on_bytes,
        )

    models = Models([settings.model], load)
    models.get()
    engine = Engine(Limits(waiting=settings.queue, seconds=settings.time_limit), rows=settings.rows)
    remote = tuple(host.strip() for host in settings.allow_remote.split(",") if host.strip())
    options = Options(keys=keys, remote=remote, page=False, log_prompts=settings.log_prompts)
    app = create_app(engine, models, options)
    app.state.engine = engine
    app.add_middleware(_Named, name=serve.get_replica_context().replica_id.unique_id)
    return app


class _Named:
    """Puts the replica's name into every answer."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app, self._name = app, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REPLICA] = self._name
            await send(message)

        await self._app(scope, receive, named)
