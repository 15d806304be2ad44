"""Data sets by path, or by their id on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PICTURES = ("*.jpg", "*.jpeg", "*.png")


def found(data: str | Path, accepts: Sequence[str]) -> Path:
    """The path itself, or the folder of a data set of the hub with those of its files that fit `accepts`.

    What the cache has is used where the hub cannot be reached.  Raises ValueError for what is neither a path
    nor on the hub, or cannot be downloaded.
    """
    if Path(data).exists():
        return Path(data)
    if not _ID.fullmatch(str(data)):
        raise ValueError(f"there is no {data}; --data takes a path, or a data set's id such as lmms-lab/POPE")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    wanted = [f"*{pattern}" for pattern in accepts]
    try:
        return Path(snapshot_download(str(data), repo_type="dataset", allow_patterns=[*wanted, *_PICTURES]))
    except RepositoryNotFoundError as error:
        raise ValueError(f"there is no path {data}, and no data set of that name on the hub") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"there is no path {data}, and the hub cannot be reached: {error}") from error
