"""Pictures of the embedded world to ask about, where no published data is at hand.

Tidy scenes in the package's own drawings, made from seeds that no training has; benchmarks write their rows
about them in their published form, and read them as they would read the published file.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from janus.data.facts import Facts
from janus.data.scenes import Scene, SceneMaker
from janus.data.shipped import shipped_sprites
from janus.data.subjects import Kind

SEED = 5000  # recipes train on scenes of smaller ones
SMALL, WHOLE = 12, 500  # scenes of a fixture, and of a whole run
KINDS: tuple[Kind, ...] = (
    "single_object",
    "two_object",
    "counting",
    "colors",
    "position",
    "color_attr",
)


@dataclass(frozen=True)
class FixtureScene:
    """A scene and its picture."""

    number: int
    scene: Scene
    png: bytes

    @cached_property
    def facts(self) -> Facts:
        return Facts(self.scene)

    @property
    def base64(self) -> str:
        """The picture as the cell of a TSV file."""
        return base64.b64encode(self.png).decode()

    def rng(self, *about: int) -> np.random.Generator:
        """For choices about this scene: always the same."""
        return np.random.default_rng((SEED, self.number, *about))


def fixture_scenes(count: int = SMALL) -> list[FixtureScene]:
    """The first `count` scenes, of GenEval's six tasks in turn."""
    maker = SceneMaker(shipped_sprites())
    made = []
    for number in range(count):
        scene = maker.at("tidy", SEED, number, KINDS[number % len(KINDS)])
        stream = io.BytesIO()
        Image.fromarray(maker.render(scene)).save(stream, "PNG")
        made.append(FixtureScene(number, scene, stream.getvalue()))
    return made
