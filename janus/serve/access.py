"""The gate in front of all routes: who may come in, and how much they may carry."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from janus.serve.errors import ApiError
from janus.serve.limits import Limits

_LOCKED = ("/v1/", "/metrics")
_PARTS = b"[{,:"


def is_key(given: str, keys: Collection[str]) -> bool:
    """In a time that tells nothing about the keys."""
    alike = [hmac.compare_digest(given.encode(errors="replace"), key.encode()) for key in keys]
    return any(alike)


class Gate:
    """Checks the host's name (`hosts` empty: any), the key (`keys` empty: none is asked for), the kind of a
    body and its size.

    A body is read to its end before a route sees it, so a route never waits for one.
    """

    def __init__(self, app: ASGIApp, limits: Limits, keys: Collection[str], hosts: Collection[str]) -> None:
        self._app, self._limits, self._keys = app, limits, keys
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
            if "content-length" in headers or "transfer-encoding" in headers:
                receive = await self._whole(scope, headers, receive)
        except ApiError as error:
            await error.response()(scope, receive, send)
        except _LeftError:
            return
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = _name(headers.get("host", ""))
        if self._hosts and host not in self._hosts:
            raise ApiError(
                400,
                f"this server is not called {host[:100]!r}; start it with --allowed-host for other names",
                code="wrong_host",
            )
        path = scope["path"]
        if self._keys and path.startswith(_LOCKED):
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not is_key(key.strip(), self._keys):
                raise ApiError(
                    401,
                    "a key of this server is needed: Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        if path.startswith("/v1/") and scope["method"] == "POST":
            kind = headers.get("content-type", "").split(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, f"the Content-Type must be application/json, not {kind[:100]!r}")

    async def _whole(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        most = self._limits.body
        too_large = ApiError(413, f"a request may have {most:,} bytes", code="body_too_large")
        told = headers.get("content-length", "0")
        if not told.isascii() or not told.isdigit() or len(told) > 15 or int(told) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _LeftError
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self._limits.seconds:.0f} s") from None
        # Every part of a JSON text takes more memory than its bytes.
        if scope["path"].startswith("/v1/") and sum(map(body.count, _PARTS)) > 4 * self._limits.characters:
            raise ApiError(413, "the body has too many parts", code="body_too_large")
        first = True

        async def replay() -> Message:
            nonlocal first, body
            if not first:
                return await receive()
            first = False
            message = {"type": "http.request", "body": bytes(body), "more_body": False}
            body = bytearray()
            return message

        return replay


class _LeftError(Exception):
    """The client hung up before all of the body was here."""


def _name(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()
