"""`janus serve`: its options, and a server that finishes what it accepted before it stops.

Nothing heavy is imported before the command runs.
"""

from __future__ import annotations

import argparse
import gc
import ipaddress
import logging
import os
import re
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from janus.serve.engine import Engine
    from janus.serve.limits import Limits
    from janus.serve.models import Load

Bar = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]  # what is being done, unit
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_LIMITS = ("body", "pixels", "images", "tokens", "n", "characters")  # of `Limits`, what one request may have
KEYS = "JANUS_API_KEYS"  # in the environment


def add_options(verb: argparse.ArgumentParser) -> None:
    """All but the device's."""
    verb.add_argument(
        "--model",
        action="append",
        metavar="M",
        help="folder or hub id; may be repeated, the first is asked by default (default: the packaged model)",
    )
    verb.add_argument("--adapter", metavar="A", help="folder of a LoRA adapter to add, where there is one M")
    verb.add_argument("--revision", help="branch, tag or commit of a hub id, where there is one M")
    verb.add_argument("--offline", action="store_true", help="take hub files from the cache alone")
    at = verb.add_argument_group("where")
    at.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 is all (default: 127.0.0.1)"
    )
    at.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    at.add_argument("--open", action="store_true", help="open the page in a browser")
    at.add_argument("--api-only", action="store_true", help="without the page")
    who = verb.add_argument_group("who may ask for what")
    who.add_argument(
        "--key",
        action="append",
        metavar="K",
        help=f"ask for a key; may be repeated (others see it in the list of processes; {KEYS} is an "
        "environment variable for keys with commas between them)",
    )
    who.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer to this name; needed at 127.0.0.1 behind a proxy",
    )
    who.add_argument(
        "--allow-remote",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="fetch pictures from there, too (default: they must be in the request)",
    )
    who.add_argument("--rows", type=_rows, default="auto", help="of the batch, at most (default: auto)")
    who.add_argument("--queue", type=int, default=256, help="requests that may wait (default: 256)")
    who.add_argument(
        "--time-limit", type=float, default=600, metavar="S", help="seconds for a request (default: 600)"
    )
    who.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="of one request: body (bytes), pixels, images, tokens, n or characters; may be repeated "
        "(defaults: docs/serving.md)",
    )
    who.add_argument("--log-prompts", action="store_true", help="write into the log what people ask for")


def _rows(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdigit() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"must be auto or a number from 2 on, not {text!r}")
    return int(text)


def run(options: argparse.Namespace, load: Load, bar: Bar) -> None:
    """Serve until a signal comes: the first has all accepted requests finished, a second stops at once.

    `load(source, on_bytes)` loads a model.

    Raises ValueError where the port is taken, a model can't be loaded, or a package is missing.
    """
    # A thread that waits long for the next work must not keep a core from those that talk to clients.  OpenMP
    # reads this when it is loaded, with PyTorch.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    sources = options.model or [None]
    if len(sources) > 1 and (options.adapter or options.revision):
        raise ValueError("--adapter and --revision belong to one --model; leave them out with several")
    keys = _keys(options.key or [], os.environ.get(KEYS, ""))
    limits = _limits(options)
    with _listener(options.host, options.port) as listener:
        with _uncollected():
            app, engine = _app(options, sources, keys, limits, load, bar)
        _log_to_stderr()
        _serve(app, engine, listener, options)


def _limits(options: argparse.Namespace) -> Limits:
    from janus.serve.limits import Limits

    given: dict[str, int] = {}
    for text in options.limit:
        name, _, number = text.partition("=")
        if name not in _LIMITS or not number.isdecimal():
            raise ValueError(f"--limit {text!r} must be one of {', '.join(_LIMITS)}, then = and a number")
        given[name] = int(number)
    return Limits(waiting=options.queue, seconds=options.time_limit, **given)


def _app(
    options: argparse.Namespace,
    sources: list[str | None],
    keys: frozenset[str],
    limits: Limits,
    load: Load,
    bar: Bar,
) -> tuple[FastAPI, Engine]:
    """The app and its engine, with the first model in memory."""
    try:
        import uvicorn  # noqa: F401

        from janus.serve.app import Options, create_app
    except ImportError as error:
        raise ValueError(f'{error.name} is missing: pip install "janus-pro[app]"') from error
    from janus.serve.engine import Engine
    from janus.serve.models import Models

    models = Models(sources, load)
    with bar("loading", "B") as show:
        models.get(on_bytes=show)
    engine = Engine(limits, rows=options.rows)
    wanted = Options(
        keys=keys,
        remote=tuple(options.allow_remote),
        page=not options.api_only,
        log_prompts=options.log_prompts,
        hosts=_names(options.host, options.allowed_host),
    )
    return create_app(engine, models, wanted), engine


def _serve(app: FastAPI, engine: Engine, listener: socket.socket, options: argparse.Namespace) -> None:
    import uvicorn

    from janus.serve.server import Server

    host, port = listener.getsockname()[:2]
    shown = "localhost" if ipaddress.ip_address(host).is_unspecified else options.host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"

    def tell() -> None:
        if not options.api_only:
            print(f"page  {address}/")
        print(f"API   {address}/v1", flush=True)
        if not app.state.locked and not ipaddress.ip_address(host).is_loopback:
            print(
                f"warning: whoever reaches {host} may use this server; --key, or {KEYS}, asks for a key",
                file=sys.stderr,
                flush=True,
            )
        threading.Thread(target=_prepare_to_look, args=[engine], daemon=True).start()
        if options.open and not options.api_only:
            threading.Thread(target=webbrowser.open, args=[f"{address}/"], daemon=True).start()

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=2,  # for what the page keeps open; the rest has been waited for
    )
    Server(config, engine, app.state.metrics, tell).run([listener])


def _prepare_to_look(engine: Engine) -> None:
    """Import what looking at a picture needs, for seconds, when nobody waits: most begin by drawing one."""
    time.sleep(5)
    while engine.running or engine.waiting:
        time.sleep(0.5)
    import_module("timm.models.vision_transformer")


@contextmanager
def _uncollected() -> Iterator[None]:
    """What a start makes stays; to look through all of it for garbage, again and again, takes seconds."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _listener(host: str, port: int) -> socket.socket:
    """Bound, but not listening yet: the port is ours before a model is loaded."""
    if not 0 <= port < 65536:
        raise ValueError(f"a port is a number from 0 to 65535, not {port}")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise ValueError(f"there is no address {host!r} to listen at ({error.strerror})") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"can't listen at {host}:{port}: {error.strerror}; choose another with --port"
        ) from error
    return listener


def _names(host: str, more: Iterable[str]) -> tuple[str, ...]:
    """By which this server may be called; none: any.  At home no page from elsewhere may take its name."""
    more = tuple(more)
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not more:
        return ()
    return (*LOOPBACK, f"[{host}]" if ":" in host else host, *more)


def _keys(given: list[str], environment: str) -> frozenset[str]:
    keys = [*given, *re.split(r"[,\s]+", environment.strip())] if environment.strip() else given
    if any(not key.strip() for key in keys):
        raise ValueError("a key must not be empty")
    return frozenset(keys)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("janus.serve")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
