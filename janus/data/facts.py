"""What is certain about a scene: only this is said and asked, in any language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from janus.data.scenes import COLOURS, NAMES, Relation, Scene, relation

T = TypeVar("T")
Pair = tuple[str, Relation, str]  # where the first class's thing is, seen from the second's
OPPOSITE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}


@dataclass(frozen=True)
class Group:
    """Things that are named together, such as "two red cats"."""

    name: str
    colour: str | None
    count: int


class Facts:
    """The facts of a scene.  What depends on an order is in that of the alphabet, so that a picture has
    one right answer."""

    counts: dict[str, int]  # of each class, in the order of the alphabet
    shades: dict[str, Counter[str]]  # the colours of each class whose things were all painted
    groups: list[Group]  # with colours, where a class is in `shades`
    in_order: list[Group]  # the same in the order of the scene's things
    pairs: list[Pair]  # things that are the only ones of their classes
    together: Pair | None  # the first name first, where there is nothing else

    def __init__(self, scene: Scene) -> None:
        things = scene.things
        self.number = len(things)
        self.counts = dict(sorted(Counter(thing.name for thing in things).items()))
        self.shades = {}
        for name in self.counts:
            colours = [thing.colour for thing in things if thing.name == name]
            if None not in colours:
                self.shades[name] = Counter(sorted(colour for colour in colours if colour))
        self.groups = []
        for name, count in self.counts.items():
            shades = self.shades.get(name, {None: count})
            self.groups += [Group(name, colour, n) for colour, n in shades.items()]
        group_of = {(group.name, group.colour): group for group in self.groups}
        shown = dict.fromkeys((t.name, t.colour if t.name in self.shades else None) for t in things)
        self.in_order = [group_of[one] for one in shown]
        single = [thing for thing in things if self.counts[thing.name] == 1]
        self.pairs = [
            (one.name, between, other.name)
            for one in single
            for other in single
            if one is not other and (between := relation(one.box, other.box)) is not None
        ]
        self.together = min(self.pairs) if self.pairs and len(things) == 2 else None

    @property
    def uniform(self) -> dict[str, str]:
        """Classes whose things are all painted in the same colour."""
        return {name: next(iter(shades)) for name, shades in self.shades.items() if len(shades) == 1}

    @property
    def told_by_colour(self) -> list[tuple[str, str]]:
        """Colours that a single thing has, with its name, where all things are painted."""
        if len(self.shades) < len(self.counts):
            return []
        shades = Counter(colour for of in self.shades.values() for colour in of.elements())
        return [(colour, name) for name, of in self.shades.items() for colour in of if shades[colour] == 1]

    def absent(self, rng: np.random.Generator) -> str:
        """A class that is not there."""
        return pick([name for name in NAMES if name not in self.counts], rng)

    def other_colour(self, name: str, rng: np.random.Generator) -> str:
        """A colour that no thing of the painted class `name` has; half the time that of another thing."""
        mine = self.shades[name]
        near = [colour for of in self.shades.values() for colour in of if colour not in mine]
        return pick(near if near and rng.random() < 0.5 else [c for c in COLOURS if c not in mine], rng)

    def other_count(self, name: str, rng: np.random.Generator) -> int:
        """Another number from one to six, mostly near the true one."""
        count = self.counts[name]
        near = [n for n in (count - 1, count + 1) if 1 <= n <= 6]
        return pick(near if rng.random() < 0.7 else [n for n in range(1, 7) if n != count], rng)


def pick(values: Sequence[T], rng: np.random.Generator) -> T:
    return values[int(rng.integers(len(values)))]


def weighted(values: dict[T, float], rng: np.random.Generator) -> T:
    """A key, by weights that sum to 1."""
    return list(values)[rng.choice(len(values), p=list(values.values()))]
