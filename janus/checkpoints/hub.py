"""From a folder or a hub id to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from janus.checkpoints import files

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SETTINGS = ["*.json", "*.jinja"]
_NEEDED = ("config.json", "tokenizer.json")
_WEIGHTS = ("*.safetensors", "*.bin")  # the preferred kind first


def locate(source: str | Path, *, revision: str | None = None, offline: bool = False) -> Path:
    """The folder with a checkpoint's files: `source` itself, or the hub's copy in the cache.

    What the cache holds whole is used without touching the network; a branch that has moved on is
    fetched by naming the new commit as `revision` (a branch, tag or commit; by default `main`).
    Otherwise it is downloaded, with progress on stderr; not if `offline` or HF_HUB_OFFLINE=1.

    Raises ValueError saying what to do if `source` is neither a folder nor a hub id, is not on the hub,
    or cannot be downloaded.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ValueError(f"{source} is a folder; revision={revision!r} is for hub ids")
        return Path(source)
    if not isinstance(source, str) or not _ID.fullmatch(source) or Path(source).exists():
        raise ValueError(
            f"{source} is neither a folder nor a hub id; a hub id looks like deepseek-ai/Janus-Pro-1B"
        )
    folder = _cached(source, revision)
    if folder is None and (offline or constants.HF_HUB_OFFLINE):
        raise ValueError(
            f"there is no folder {source} here, {_name(source, revision)} is not whole in the cache "
            f"({constants.HF_HUB_CACHE}), and downloading is switched off; "
            "run it once without --offline and HF_HUB_OFFLINE"
        )
    return folder or _downloaded(source, revision)


def _name(source: str, revision: str | None) -> str:
    return source if revision is None else f"{source} at {revision}"


def _snapshot(source: str, revision: str | None, weights: str, *, cached: bool) -> Path:
    """The hub's copy of the files at the top of a repository, with one kind of weights."""
    folder = snapshot_download(
        source,
        revision=revision,
        allow_patterns=[*_SETTINGS, weights],
        ignore_patterns=["*/*"],
        local_files_only=cached,
    )
    return Path(folder)


def _lacks(folder: Path) -> str | None:
    """What is missing for a whole checkpoint: an interrupted download leaves a folder with some files."""
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        return f"{folder} lacks {', '.join(missing)}"
    try:
        files.find(folder)
    except ValueError as error:
        return str(error)
    return None


def _cached(source: str, revision: str | None) -> Path | None:
    """The cache's copy, if it is whole."""
    for weights in _WEIGHTS:
        try:
            folder = _snapshot(source, revision, weights, cached=True)
        except LocalEntryNotFoundError:
            continue
        if _lacks(folder) is None:
            return folder
    return None


def _downloaded(source: str, revision: str | None) -> Path:
    name = _name(source, revision)
    try:
        folder = _snapshot(source, revision, _WEIGHTS[0], cached=False)
        if not any(folder.glob(_WEIGHTS[0])):
            folder = _snapshot(source, revision, _WEIGHTS[1], cached=False)
    except GatedRepoError as error:
        raise ValueError(f"{source} is gated: accept its terms on the hub, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no folder {source} here and no such repository on the hub; "
            "if it is private, log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{source} has no branch, tag or commit {revision!r}") from error
    except Exception as error:  # the kinds of network errors differ between versions of the hub's client
        raise ValueError(f"cannot download {name}: {error}; is the network there?") from error
    if lacks := _lacks(folder):  # without a network the library returns what part the cache holds
        raise ValueError(f"{name} could not be downloaded whole, or is not a checkpoint: {lacks}")
    return folder
