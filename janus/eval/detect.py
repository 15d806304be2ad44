"""Finding things in pictures: what a detector gives, and which detectors there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from PIL import Image

# What `--detector` takes: module, class (with a `from_pretrained`), and what is said beside its scores.
DETECTORS = {
    "scene": (
        "janus.eval.judge",
        "SceneJudge",
        "judged in the embedded world; not comparable with published numbers",
    ),
}
UNKNOWN_CAVEAT = "not judged by the published detector; not comparable with published numbers"


@dataclass(frozen=True)
class Detection:
    """One thing that was found."""

    name: str  # one of GenEval's eighty class names
    score: float  # confidence, 0 to 1
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels


class Detector(Protocol):
    """Finds things and their colours.

    A detector may also have `figures`, a dict of numbers that every report prints beside its scores (its
    precision and recall, the hash of its weights); what was found is stored and looked up by them, too.
    """

    title: str  # what reports call it

    def detect(self, pictures: Sequence[Image.Image]) -> list[list[Detection]]:
        """What each RGB picture shows, in any order, the doubtful included."""

    def colours(self, picture: Image.Image, found: Sequence[Detection]) -> list[str]:
        """The colour of each found thing, one of GenEval's ten."""


def figures(detector: Detector) -> dict[str, Any]:
    """What reports print beside a detector's scores; empty where it has no `figures`."""
    return dict(getattr(detector, "figures", {}))


def load_detector(name: str) -> Detector:
    """A detector by its name in `DETECTORS`.

    Raises ValueError for another name, and where the detector or its weights are not installed.
    """
    if name not in DETECTORS:
        raise ValueError(f"unknown detector {name!r}; there are {', '.join(DETECTORS)}")
    module, kind, _ = DETECTORS[name]
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ValueError(f"this installation has no {name} detector: there is no {module}") from error
    try:
        return getattr(loaded, kind).from_pretrained()
    except OSError as error:
        raise ValueError(f"the weights of the {name} detector are missing: {error}") from error
