"""What of Gradio a browser can reach: the requests that the page makes, and no others."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Gradio also fetches addresses for whoever asks (file=https://...), converts films, edits its own source, and
# more.  A page needs none of that.
_OPEN = re.compile(
    r"/(?:|theme\.css|favicon\.ico|manifest\.json|robots\.txt|config/?|login/?|logout/?|pwa_icon(?:/\d+)?"
    r"|(?:assets|static|svelte)/.*"
    r"|gradio_api/(?:startup-events|upload|upload_progress|app_id/?|login_check/?|user/?|token/?|reset/?|cancel"
    r"|queue/join/?|queue/data|heartbeat/[^/]*|file=(?!\w+:)[^\r\n]*))"
)

_made: set[str] = set()  # folders of our own


class Door:
    """Lets through what the page needs; the rest is 404."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if not _OPEN.fullmatch(path):
                await PlainTextResponse("There is no such page.\n", 404)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Page(gr.Blocks):
    """Blocks whose handlers never see a file but those that lie in the page's own folder.

    Gradio makes this check only after its own `launch`, not where it is mounted; and it fetches addresses.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **more: Any) -> Any:
        refuse_strangers(inputs)
        return await super().preprocess_data(block_fn, inputs, *rest, **more)


def refuse_strangers(value: Any) -> None:
    """Raises gr.Error for anything that names a file outside the page's folder."""
    if isinstance(value, list | tuple):
        for one in value:
            refuse_strangers(one)
    elif isinstance(value, dict):
        if "path" in value:
            named, folder = value["path"], Path(folder_of_files()).resolve()
            inside = (
                isinstance(named, str) and "\0" not in named and Path(named).resolve().is_relative_to(folder)
            )
            if not inside:
                raise gr.Error("That file was not sent to this page.", print_exception=False)
        for one in value.values():
            refuse_strangers(one)


def folder_of_files() -> str:
    """Where Gradio keeps what is sent and shown: a private folder, which goes when the server ends.

    An operator may name another by GRADIO_TEMP_DIR; that one is left alone.
    """
    folder = os.environ.get("GRADIO_TEMP_DIR")
    if not folder:
        folder = tempfile.mkdtemp(prefix="janus-page-")
        _made.add(folder)
        atexit.register(forget_files)
        os.environ["GRADIO_TEMP_DIR"] = folder  # Gradio asks here each time
    os.makedirs(folder, 0o700, exist_ok=True)
    return folder


def forget_files() -> None:
    """Also called when the server ends, as a process that a signal ends never comes to its `atexit`."""
    folder = os.environ.get("GRADIO_TEMP_DIR", "")
    if folder in _made:
        shutil.rmtree(folder, ignore_errors=True)
