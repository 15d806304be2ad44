"""The models that a server offers, and those of them that are in memory."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from janus.api import Janus
from janus.checkpoints import EMBEDDED

Load = Callable[[str | None, Callable[[int, int], None]], Janus]
State = Literal["on disk", "loading", "ready"]
OWN = "janus-embedded"  # the name of the model in the package


class UnknownModelError(ValueError):
    """A server does not offer it."""


class Models:
    """Offers some sources by name; the first is the default.  At most `keep` are in memory, the one that was
    used longest ago makes room.

    `load(source, on_bytes)` loads one; source None is the model in the package.  A name is the last part of
    the source.  Safe to use from any thread.  Raises ValueError for no sources, or two of one name.
    """

    def __init__(self, sources: Sequence[str | None], load: Load, *, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        names = [name_of(source) for source in sources]
        twice = {name for name in names if names.count(name) > 1}
        if twice or not names:
            raise ValueError(f"models need names of their own, not {names}")
        self._sources = dict(zip(names, sources, strict=True))
        self._load, self._keep = load, keep
        self._ready: dict[str, Janus] = {}  # the one used last comes last
        self._shares: dict[str, float] = {}  # of those being loaded
        self._locks = {name: threading.Lock() for name in names}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        return [*self._sources]

    @property
    def default(self) -> str:
        return next(iter(self._sources))

    def state(self, name: str) -> tuple[State, float]:
        """And, while it is loading, the share that is read."""
        if name in self._ready:
            return "ready", 1.0
        share = self._shares.get(name)
        return ("on disk", 0.0) if share is None else ("loading", share)

    def get(self, name: str | None = None, *, on_bytes: Callable[[int, int], None] | None = None) -> Janus:
        """The model of this name, or the default; loaded if it is not in memory, which may take minutes and
        is followed by `on_bytes(done, total)`.

        Raises UnknownModelError where it is not offered, ValueError where it can't be loaded.
        """
        name = self.default if name is None else name
        if name not in self._sources:
            raise UnknownModelError(f"there is no model {name!r} here; there are: {', '.join(self.names)}")
        with self._locks[name]:
            with self._lock:
                if name in self._ready:
                    self._ready[name] = self._ready.pop(name)
                    return self._ready[name]
            self._shares[name] = 0.0

            def follow(done: int, total: int) -> None:
                self._shares[name] = done / max(total, 1)
                if on_bytes is not None:
                    on_bytes(done, total)

            try:
                model = self._load(self._sources[name], follow)
            finally:
                self._shares.pop(name, None)
            with self._lock:
                self._ready[name] = model
                while len(self._ready) > self._keep:
                    self._ready.pop(next(iter(self._ready)))
            return model


def name_of(source: str | None) -> str:
    """A folder's or hub id's last part; of the model in the package, `janus-embedded`."""
    if source is None or Path(source) == EMBEDDED:
        return OWN
    return re.sub(r"[^\w.-]+", "-", Path(source).name).strip("-") or OWN
