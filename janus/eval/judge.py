"""The scene judge: finds the eighty classes in pictures of the embedded world, and says their colours.

A small network (`janus.eval.finder`) that shares neither weights nor backbone nor training scenes with the
model it judges; docs/judge.md says how it was trained, how good it is and how strict.  It knows drawings, not
photographs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from janus.checkpoints.files import read_json, some
from janus.config import dataclass_from_dict
from janus.data.paint import dominant_colour, oklab
from janus.data.subjects import NAMES
from janus.eval.detect import Detection
from janus.eval.finder import Finder, FinderConfig, things_in

WEIGHTS, ABOUT = "judge.safetensors", "judge.json"
DOUBTFUL = 0.05  # what is less certain is not told
_BATCH = 64  # pictures that the network looks at together
_FRAME = 2  # pixels along the picture's border that show its background
_SHADE = 0.04  # a side of the cubes of OKLab that colours of the border are gathered in
_COMMON = 0.03  # of the border's pixels: rarer colours may be things that reach it
_LEAST_APART = 0.025  # of OKLab: a pixel of a thing is at least so far from the background
_LEAST_PART = 0.08  # of a box: less than this is no thing, but the background's noise


@dataclass(frozen=True)
class Certainty:
    """The network's scores that stand for GenEval's two thresholds; both were chosen on validation scenes.

    GenEval counts a thing above 0.3, and where it counts how many there are, above 0.9.  What the judge tells
    is its network's score, moved on the scale of logits so that `least` becomes 0.3 and `sure` 0.9.
    """

    least: float
    sure: float

    def __post_init__(self) -> None:
        if not 0 < self.least < self.sure < 1:
            raise ValueError(f"wanted 0 < least < sure < 1, not least {self.least} and sure {self.sure}")

    def told(self, scores: Tensor) -> Tensor:
        """Scores as the judge tells them, in the same order."""
        ends = torch.tensor([self.least, self.sure, 0.3, 0.9], dtype=torch.float64).logit()
        slope = (ends[3] - ends[2]) / (ends[1] - ends[0])
        logits = scores.double().clamp(1e-9, 1 - 1e-9).logit()
        return ((logits - ends[0]) * slope + ends[2]).sigmoid()


class SceneJudge:
    """A `janus.eval.detect.Detector` of `names`, which are the network's classes in its order."""

    title = "scene judge"

    def __init__(
        self,
        finder: Finder,
        certainty: Certainty,
        names: Sequence[str] = NAMES,
        figures: dict[str, Any] | None = None,
    ) -> None:
        if len(names) != finder.config.classes:
            raise ValueError(
                f"the network knows {finder.config.classes} classes, and there are {len(names)} names"
            )
        self.finder = finder.eval().requires_grad_(False)
        self.certainty, self.names = certainty, tuple(names)
        self.figures = dict(figures or {})

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> SceneJudge:
        """The judge in a folder, or the one that comes with the package.

        Raises FileNotFoundError where there is none, and ValueError for files that do not fit each other.
        """
        if folder is None:
            with resources.as_file(resources.files("janus.eval") / "weights") as own:
                return cls.from_pretrained(own)
        from safetensors import SafetensorError
        from safetensors.torch import load

        folder = Path(folder)
        if missing := [name for name in (WEIGHTS, ABOUT) if not (folder / name).is_file()]:
            raise FileNotFoundError(f"there is no {' and no '.join(missing)} in {folder}")
        about = read_json(folder / ABOUT)
        where = str(folder / ABOUT)
        if lacking := [key for key in ("finder", "certainty", "names", "figures") if key not in about]:
            raise ValueError(f"{where} lacks {lacking}")
        config: FinderConfig = dataclass_from_dict(FinderConfig, about["finder"], f"finder in {where}")
        certainty: Certainty = dataclass_from_dict(Certainty, about["certainty"], f"certainty in {where}")
        names, figures = about["names"], about["figures"]
        if not isinstance(names, list) or not isinstance(figures, dict):
            raise ValueError(f"names in {where} must be a list and figures an object")
        data = (folder / WEIGHTS).read_bytes()
        try:
            given = load(data)
        except SafetensorError as error:
            raise ValueError(f"cannot read {folder / WEIGHTS}: {error}") from error
        with torch.device("meta"):
            finder = Finder(config)
        _take(finder, given, folder / WEIGHTS)
        return cls(finder, certainty, names, figures | {"weights": sha256(data).hexdigest()[:16]})

    def save(self, folder: Path) -> None:
        """Weights as float16, and all else as JSON; `from_pretrained` reads them."""
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        half = {k: v.half().contiguous() for k, v in _kept(self.finder).items()}
        about = {
            "finder": asdict(self.finder.config),
            "certainty": asdict(self.certainty),
            "figures": {k: v for k, v in self.figures.items() if k != "weights"},
            "names": list(self.names),
        }
        for name, data in ((WEIGHTS, save(half)), (ABOUT, (json.dumps(about, indent=1) + "\n").encode())):
            beside = folder / f"{name}.part"
            beside.write_bytes(data)
            beside.replace(folder / name)

    @torch.inference_mode()
    def detect(self, pictures: Sequence[Image.Image]) -> list[list[Detection]]:
        """What each picture, of any size, shows, the most certain first.

        The network sees the picture resized to its own square; boxes are those of the picture as it came.
        """
        found: list[list[Detection]] = []
        for start in range(0, len(pictures), _BATCH):
            some_pictures = pictures[start : start + _BATCH]
            maps = self.finder(torch.stack([self._pixels(picture) for picture in some_pictures]))
            for picture, things in zip(some_pictures, things_in(maps, 0.001), strict=True):
                scale = torch.tensor([*picture.size, *picture.size]) / self.finder.config.size
                most = torch.tensor([*picture.size, *picture.size], dtype=torch.float32)
                boxes = torch.minimum((things.boxes * scale).clamp(min=0), most).tolist()
                told = self.certainty.told(things.scores).tolist()
                found.append(
                    [
                        Detection(self.names[kind], score, (left, top, right, bottom))
                        for kind, score, (left, top, right, bottom) in zip(
                            things.kinds.tolist(), told, boxes, strict=True
                        )
                        if score >= DOUBTFUL
                    ]
                )
        return found

    def _pixels(self, picture: Image.Image) -> Tensor:
        size = self.finder.config.size
        picture = picture.convert("RGB")
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2.0)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1

    def colours(self, picture: Image.Image, found: Sequence[Detection]) -> list[str]:
        """The colour of each thing by the rule of `dominant_colour`, on the pixels of `thing_mask`."""
        pixels = np.asarray(picture.convert("RGB"))
        named = []
        for thing in found:
            (left, top, right, bottom), mask = thing_mask(pixels, thing.box)
            named.append(dominant_colour(pixels[top:bottom, left:right], mask))
        return named


def thing_mask(
    pixels: np.ndarray, box: tuple[float, float, float, float]
) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Which pixels of a box are the thing's: the box in whole pixels, and inside of it (h, w) bool.

    pixels: (H, W, 3) uint8.  The background is known from the picture's border: the colours that are common
    there, outside the box.  What differs from all of them, by more than they differ among themselves, is
    the thing; its edge, where colours mix, is left out while half of it remains.  Where next to nothing
    differs, the thing is what lies in the box's middle.
    """
    height, width = pixels.shape[:2]
    left, right = (int(np.clip(round(v), 0, width)) for v in box[0::2])
    top, bottom = (int(np.clip(round(v), 0, height)) for v in box[1::2])
    left, top = min(left, width - 1), min(top, height - 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    border = np.ones((height, width), bool)
    border[_FRAME:-_FRAME, _FRAME:-_FRAME] = False
    border[top:bottom, left:right] = False
    inside = oklab(pixels[top:bottom, left:right])
    mask = np.zeros(inside.shape[:2], bool)
    if border.any():
        shades, spread = _common(oklab(pixels[border]))
        apart = np.linalg.norm(inside[:, :, None] - shades, axis=-1)
        mask = (apart > np.maximum(_LEAST_APART, 2 * spread)).all(-1)
    if mask.mean() < _LEAST_PART:
        rows, columns = bottom - top, right - left
        down, across = ((np.arange(side) + 0.5) / side - 0.5 for side in (rows, columns))
        mask = np.hypot(down[:, None], across) < 0.3
        mask[rows // 2, columns // 2] = True
    core = _core(mask)
    return (left, top, right, bottom), core if 2 * core.sum() >= mask.sum() else mask


def _common(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The common ones of colours (n, 3) in OKLab: their means (k, 3), and how far they spread (k,)."""
    _, which, counts = np.unique(np.floor(colours / _SHADE), axis=0, return_inverse=True, return_counts=True)
    common = np.flatnonzero(counts >= min(_COMMON * len(colours), counts.max()))
    groups = [colours[which.reshape(-1) == i] for i in common]
    means = np.stack([group.mean(0) for group in groups])
    return means, np.array([np.linalg.norm(g - m, axis=1).mean() for g, m in zip(groups, means, strict=True)])


def _core(mask: np.ndarray) -> np.ndarray:
    """Pixels whose four neighbours are in the mask, too; beyond its edge there is nothing."""
    wide = np.pad(mask, 1)
    return mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]


def _kept(finder: Finder) -> dict[str, Tensor]:
    return {k: v for k, v in finder.state_dict().items() if not k.endswith("num_batches_tracked")}


def _take(finder: Finder, given: dict[str, Tensor], where: Path) -> None:
    """Load weights strictly, as float32.  Raises ValueError listing the tensors that do not fit."""
    own = _kept(finder)
    wrong = [f"{name} is unknown" for name in sorted(given.keys() - own.keys())]
    wrong += [f"{name} is not in it" for name in sorted(own.keys() - given.keys())]
    wrong += [
        f"{name} is {list(value.shape)} instead of {list(own[name].shape)}"
        for name, value in given.items()
        if name in own and value.shape != own[name].shape
    ]
    if wrong:
        raise ValueError(f"{where} does not fit {ABOUT} beside it: {some(wrong)}")
    counters = {
        k: torch.zeros((), dtype=torch.int64)
        for k in finder.state_dict()
        if k.endswith("num_batches_tracked")
    }
    finder.load_state_dict({k: v.float() for k, v in given.items()} | counters, assign=True)
