"""Janus-Pro, whole: understanding and drawing pictures with one autoregressive transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from janus.config import JanusConfig

if TYPE_CHECKING:
    from janus.api import Janus
    from janus.requests import Drawing, Question

__version__ = "0.1.0"
__all__ = ["Drawing", "Janus", "JanusConfig", "Question", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Janus":  # torch is imported when a model is wanted, not before
        from janus.api import Janus

        return Janus
    if name in ("Drawing", "Question"):
        from janus import requests

        return getattr(requests, name)
    raise AttributeError(f"module 'janus' has no attribute {name!r}")
