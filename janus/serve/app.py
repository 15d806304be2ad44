"""The web application: an API in OpenAI's style and, on the same port and engine, the page."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from janus import __version__
from janus.serve import chat, drawing, errors
from janus.serve.access import Gate, is_key
from janus.serve.desk import Desk, Options
from janus.serve.engine import Engine
from janus.serve.errors import ApiError, as_api_error
from janus.serve.metrics import Metrics, Watch
from janus.serve.models import Models
from janus.serve.schemas import (
    ChatCompletion,
    ChatRequest,
    Error,
    Health,
    Images,
    ImagesRequest,
    ModelCard,
    ModelCards,
)
from janus.serve.stream import GoneError

__all__ = ["Options", "create_app"]

_EVENTS: dict[str, Any] = {
    "description": "JSON, or with `stream` server-sent events",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
_POSTED = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)


def create_app(engine: Engine, models: Models, options: Options | None = None) -> FastAPI:
    """An app that works with `engine`, and closes it at its own end.

    Raises ValueError where the page is wanted and Gradio is not installed.
    """
    options = options or Options()
    metrics = Metrics(engine)
    desk = Desk(engine, models, options, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close, engine.limits.seconds)
        desk.close()

    app = FastAPI(
        title="Janus-Pro",
        version=__version__,
        description="Chat about pictures, and draw them, in the style of OpenAI's API.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.router.route_class = _Route
    app.state.metrics, app.state.locked = metrics, bool(options.keys)
    errors.install(app)
    _add_work(app, desk)
    _add_models(app, desk)
    _add_state(app, desk)
    nowhere = _Nowhere(app)
    for path in ("/v1/{rest:path}", "/health", "/metrics", "/openapi.json"):
        app.router.routes.append(Route(path, nowhere, include_in_schema=False))
    app.add_middleware(Gate, limits=engine.limits, keys=options.keys, hosts=options.hosts)
    app.add_middleware(Watch, metrics=metrics)
    _describe(app)
    return _with_page(app, desk) if options.page else app


class _Route(APIRoute):
    """Answers whatever goes wrong in OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (HTTPException, RequestValidationError):
                raise
            except GoneError:
                return Response(status_code=499)  # nobody reads it
            except Exception as error:
                return as_api_error(error).response()

        return handled


class _Nowhere:
    """What the API has not, so that the page does not answer for it."""

    def __init__(self, app: FastAPI) -> None:
        self._routes = [route for route in app.router.routes if isinstance(route, Route)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = {
            method
            for route in self._routes
            if route.matches(scope)[0] is not Match.NONE
            for method in route.methods or ()
        }
        error = ApiError(404, "there is nothing at this path", code="unknown_path")
        if methods:
            allowed = ", ".join(sorted(methods))
            error = ApiError(405, f"this path takes {allowed}", headers={"Allow": allowed})
        await error.response()(scope, receive, send)


def _add_work(app: FastAPI, desk: Desk) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={200: _EVENTS, **Error.answers(*_POSTED)},
        summary="Answer a conversation, also about pictures",
    )
    async def create_chat_completion(asked: ChatRequest, request: Request) -> Any:
        return await chat.complete(desk, asked, request)

    @app.post(
        "/v1/images/generations",
        response_model=Images,
        responses={200: _EVENTS, **Error.answers(*_POSTED)},
        summary="Draw pictures",
    )
    async def create_image(asked: ImagesRequest, request: Request) -> Any:
        return await drawing.draw(desk, asked, request)


def _add_models(app: FastAPI, desk: Desk) -> None:
    begun = int(time.time())

    def card(name: str) -> ModelCard:
        return ModelCard(id=name, created=begun, state=desk.models.state(name)[0])

    @app.get("/v1/models", responses=Error.answers(400, 401), summary="The models that are offered")
    async def list_models() -> ModelCards:
        return ModelCards(data=[card(name) for name in desk.models.names])

    @app.get("/v1/models/{model}", responses=Error.answers(400, 401, 404), summary="One of them")
    async def retrieve_model(model: str) -> ModelCard:
        if model not in desk.models.names:
            raise ApiError(404, f"there is no model {model[:200]!r} here", code="model_not_found")
        return card(model)


def _add_state(app: FastAPI, desk: Desk) -> None:
    @app.get(
        "/health",
        response_model=Health,
        responses={503: {"model": Health, "description": "about to stop, or broken"}},
        summary="Whether new requests are taken; asks for no key",
    )
    async def health() -> Response:
        engine = desk.engine
        status = "stopping" if engine.closing else "ok" if engine.alive else "broken"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **Error.answers(401),
        },
        summary="Figures for Prometheus",
    )
    async def metrics() -> Response:
        return Response(desk.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _describe(app: FastAPI) -> None:
    """Make the description true: mistakes are answered with 400, and a key is asked for, or not."""
    made, locked = app.openapi, app.state.locked

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            description = made()
            for path, methods in description["paths"].items():
                for operation in methods.values():
                    operation["responses"].pop("422", None)
                    if locked and path != "/health":
                        operation["security"] = [{"key": []}]
            parts = description.setdefault("components", {})
            for name in ("HTTPValidationError", "ValidationError"):
                parts.get("schemas", {}).pop(name, None)
            if locked:
                parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _with_page(app: FastAPI, desk: Desk) -> FastAPI:
    try:
        with _no_stubs():
            from janus.serve import page
    except ImportError as error:
        raise ValueError(
            f'the page needs {error.name}: pip install "janus-pro[app]"; the API alone does not: --api-only'
        ) from error
    keys = desk.options.keys
    return page.mount(
        app, desk.engine, desk.models, auth=(lambda _, key: is_key(key, keys)) if keys else None
    )


@contextmanager
def _no_stubs() -> Iterator[None]:
    """Whenever Gradio is imported it writes type stubs of its components beside them, which takes half of the
    time; not for those whose file can't be told.
    """
    getfile = inspect.getfile

    def of_others(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError("no stubs are wanted")
        return getfile(thing)

    inspect.getfile = of_others  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getfile = getfile
