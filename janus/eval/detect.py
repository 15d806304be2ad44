"""Finding things in pictures: what a detector gives, and which detectors there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from PIL import Image

# What `--detector` takes: module, class (with a `from_pretrained`), and what is said beside its scores.
DETECTORS = {
    "scene": (
        "janus.eval.judge",
        "SceneJudge",
        "judged in the embedded world; not comparable with published numbers",
    ),
    "mask2former": (
        "janus.eval.mask2former",
        "Mask2Former",
        "judged by other weights than the published detector's",  # once it is loaded, its own `caveat`
    ),
}
UNKNOWN_CAVEAT = "not judged by the published detector; not comparable with published numbers"
FEW = 8  # pictures without a thing in any of them may be chance


@dataclass(frozen=True)
class Mask:
    """Which pixels of a picture are a thing's: a bit for each pixel of a box, row by row."""

    box: tuple[int, int, int, int]  # left, top, right, bottom
    bits: bytes

    @classmethod
    def of(cls, pixels: np.ndarray) -> Mask:
        """pixels: (height, width) bool, of the whole picture."""
        rows, columns = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
        if not len(rows):
            return cls((0, 0, 0, 0), b"")
        left, top, right, bottom = (int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        return cls((left, top, right, bottom), np.packbits(pixels[top:bottom, left:right]).tobytes())

    def pixels(self, size: tuple[int, int]) -> np.ndarray:
        """(height, width) bool, of the whole picture.  size: its width and height."""
        left, top, right, bottom = self.box
        if right > size[0] or bottom > size[1]:
            raise ValueError(f"a mask that reaches {right}, {bottom} is not of a picture of {size}")
        whole = np.zeros(size[::-1], bool)
        count = (right - left) * (bottom - top)
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=count)
        whole[top:bottom, left:right] = bits.reshape(bottom - top, right - left)
        return whole


@dataclass(frozen=True)
class Detection:
    """One thing that was found."""

    name: str  # one of GenEval's eighty class names
    score: float  # confidence, 0 to 1
    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels
    mask: Mask | None = field(default=None, kw_only=True, repr=False, compare=False)  # is not stored


class Detector(Protocol):
    """Finds things and their colours.

    A detector may also have `figures`, a dict of numbers that every report prints beside its scores (its
    precision and recall, the hash of its weights); what was found is stored and looked up by them, too.
    And it may have a `caveat`, which stands beside its scores in place of the one in `DETECTORS`.
    """

    title: str  # what reports call it

    def detect(self, pictures: Sequence[Image.Image]) -> list[list[Detection]]:
        """What each RGB picture shows, in any order, the doubtful included."""

    def colours(self, picture: Image.Image, found: Sequence[Detection]) -> list[str]:
        """The colour of each found thing, one of GenEval's ten."""


def figures(detector: Detector) -> dict[str, Any]:
    """What reports print beside a detector's scores; empty where it has no `figures`."""
    return dict(getattr(detector, "figures", {}))


def caveat(detector: Detector, otherwise: str) -> str:
    """What stands beside a detector's scores: its own, which may be empty, or `otherwise`."""
    return str(getattr(detector, "caveat", otherwise))


def nothing_found(seen: Mapping[str, Sequence[Detection]]) -> str:
    """A sentence where nothing at all was found in some pictures, as by a detector with wrong weights."""
    if len(seen) < FEW or any(seen.values()):
        return ""
    return (
        f"The detector found nothing in any of {len(seen)} pictures.  That is what wrong weights look like: "
        "try it on photographs of things that it should know."
    )


def load_detector(name: str, **settings: Any) -> Detector:
    """A detector by its name in `DETECTORS`; settings are those of its `from_pretrained`.

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
        return getattr(loaded, kind).from_pretrained(**settings)
    except OSError as error:
        raise ValueError(f"the weights of the {name} detector are missing: {error}") from error
