"""From a folder or a hub id to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from janus.checkpoints import files

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SETTINGS = ["*.json", "*.jinja"]
_NEEDED = ("config.json", "tokenizer.json")


def locate(source: str | Path, *, revision: str | None = None, offline: bool = False) -> Path:
    """The folder with a checkpoint's files: `source` itself, or the hub's copy in the cache.

    A hub id (`owner/name`) is downloaded unless the cache holds all of it at `revision` (a branch, tag or
    commit; by default `main`); then, and with `offline` or HF_HUB_OFFLINE=1, the network is not touched.
    Safetensors are preferred to `.bin`.

    Raises ValueError saying what to do if it is neither, cannot be found or cannot be downloaded.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ValueError(f"{source} is a folder; revision={revision!r} is for hub ids")
        return Path(source)
    if not isinstance(source, str) or not _ID.fullmatch(source) or Path(source).exists():
        raise ValueError(
            f"{source} is neither a folder nor a hub id; a hub id looks like deepseek-ai/Janus-Pro-1B"
        )
    return _download(source, revision, offline)
