"""GenEval's verdict on one picture, from what a detector found in it.

The rules are those of `evaluation/evaluate_images.py` of github.com/djghosh13/geneval (commit af4902f),
numbers in float32 as there.  `fixed` mends what is wrong with them; docs/evaluation.md says what and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from janus.data.layouts import RELATIONS
from janus.eval.benchmark import Line, Mode
from janus.eval.detect import Detection


@dataclass(frozen=True)
class Seen(Detection):
    """A detection with its colour, where the prompt asks for the colours of its class."""

    colour: str | None = None


@dataclass(frozen=True)
class Rules:
    """Numbers of the rules; the defaults are the official ones."""

    threshold: float = 0.3  # detections count above this confidence ...
    counting_threshold: float = 0.9  # ... and for the counting task above this one
    most: int = 16  # things of a class, the most confident ones
    margin: float = 0.1  # of both sizes together, which a place must be off by
    overlap: float = 1.0  # of boxes that overlap by more (IoU), whatever the class, one counts; 1: all count
    any_colour: bool = False  # whether less confident things of a class may have the wanted colour, too


RULES: dict[Mode, Rules] = {"official": Rules(), "fixed": Rules(overlap=0.9, any_colour=True)}


@dataclass(frozen=True)
class Verdict:
    correct: bool
    reasons: tuple[str, ...]  # one for each clause that failed


def counted(found: Sequence[Seen], tag: str, rules: Rules) -> dict[str, list[Seen]]:
    """What counts of that which was found, by class, the most confident first.  tag: the task."""
    least = np.float32(rules.counting_threshold if tag == "counting" else rules.threshold)
    ranked = sorted(found, key=lambda thing: np.float32(thing.score))[::-1]
    things: dict[str, list[Seen]] = {}
    kept: list[Seen] = []
    for thing in ranked:
        if not np.float32(thing.score) > least:
            break
        if rules.overlap < 1 and any(overlap(thing, other) > rules.overlap for other in kept):
            continue
        kept.append(thing)
        things.setdefault(thing.name, []).append(thing)
    return {name: group[: rules.most] for name, group in things.items()}


def verdict(sample: Line, things: Mapping[str, list[Seen]], rules: Rules) -> Verdict:
    """Judge one picture.  Every clause is judged alone; all must hold.

    sample: a line of the metadata.  things: what `counted` gave; those of classes that have a colour in the
    sample need theirs.
    """
    reasons: list[str] = []
    groups: list[list[Seen]] = []  # of each clause; empty if it failed
    for clause in sample["include"]:
        failed, group = _include(clause, things, groups, rules)
        groups.append([] if failed else group)
        reasons += failed
    for clause in sample.get("exclude", []):
        there = len(things.get(clause["class"], []))
        if there >= clause["count"]:
            reasons.append(f"{clause['class']}: wanted fewer than {clause['count']}, found {there}")
    return Verdict(not reasons, tuple(reasons))


def relations(a: Detection, b: Detection, margin: float) -> set[str]:
    """Where `a` is, seen from `b`: none, one or two of left of, right of, above, below.

    The offset between the centres is shortened along each axis by `margin` times both sizes together, and
    compared with half of its whole length.
    """
    boxes = np.array([a.box, b.box], np.float32).reshape(2, 2, 2)  # (which, corner, axis)
    centres = boxes.mean(axis=1)
    sizes = np.abs(boxes[:, 1] - boxes[:, 0])
    offset = centres[0] - centres[1]
    shortened = np.maximum(np.abs(offset) - margin * (sizes[0] + sizes[1]), 0) * np.sign(offset)
    if np.all(np.abs(shortened) < 1e-3):
        return set()
    across, down = shortened / np.linalg.norm(offset)
    holds = {"left of": across < -0.5, "right of": across > 0.5, "above": down < -0.5, "below": down > 0.5}
    return {relation for relation in RELATIONS if holds[relation]}


def overlap(a: Detection, b: Detection) -> float:
    """Intersection over union of two boxes, as the official script has it: edges are pixels of the boxes."""
    corners = [(max(a.box[i], b.box[i]) if i < 2 else min(a.box[i], b.box[i])) for i in range(4)]
    common = _area(corners)
    union = _area(a.box) + _area(b.box) - common
    return common / union if union else 0.0


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)


def _include(
    clause: Line, things: Mapping[str, list[Seen]], groups: list[list[Seen]], rules: Rules
) -> tuple[list[str], list[Seen]]:
    """Why a clause fails, empty if it holds, and the things that it speaks of."""
    name, count = clause["class"], clause["count"]
    there = things.get(name, [])
    group = there[:count]
    if len(group) < count:
        return [f"{name}: wanted {count}, found {len(group)}"], group
    if "color" in clause:
        looked_at = there if rules.any_colour else group
        right = [thing for thing in looked_at if thing.colour == clause["color"]]
        if len(right) < count:
            colours = ", ".join(str(thing.colour) for thing in looked_at)
            return [f"{name}: wanted {count} {clause['color']}, found {colours}"], group
        if rules.any_colour:
            group = right[:count]
    if "position" in clause:
        return _misplaced(clause, group, groups, rules), group
    return [], group


def _misplaced(clause: Line, group: list[Seen], groups: list[list[Seen]], rules: Rules) -> list[str]:
    """Why the things are not all where they should be, seen from all things of an earlier clause."""
    name, (wanted, earlier) = clause["class"], clause["position"]
    if not groups[earlier]:
        return [f"{name}: nothing there that it could be {wanted}"]
    for thing in group:
        for other in groups[earlier]:
            where = relations(thing, other, rules.margin)
            if wanted not in where:
                found = " and ".join(sorted(where)) or "in no clear place beside"
                return [f"{name}: wanted {wanted} the {other.name}, found {found} it"]
    return []
