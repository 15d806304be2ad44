"""What a detector sees in a run's pictures: asked once, kept in the run's folder, looked up ever after.

detections-<title>-<hash>.jsonl     one line for each picture; the hash tells detectors of one title apart
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from janus.data.subjects import COLOURS
from janus.eval.benchmark import Answers, Line, Progress
from janus.eval.detect import Detection, Detector, figures
from janus.eval.folder import Journal, picture_bytes
from janus.eval.geneval_rules import Rules, Seen

BATCH = 16  # pictures shown to the detector at once


def see(answers: Answers, detector: Detector, on_progress: Progress | None = None) -> dict[str, list[Seen]]:
    """What is in each picture, by the key of its item; missing and unreadable pictures are left out.

    Only what may count is kept, and colours are asked of the classes that have one in the sample.
    on_progress: pictures that the detector has looked at, of those it has to.
    """
    journal = Journal(answers.folder / _name(detector))
    known = {line["item"]: line for line in journal.read()}
    todo, seen = [], {}
    for item in answers.items:
        raw = answers.raw.get(item.key)
        data = None if raw is None else picture_bytes(raw, answers.folder)
        if raw is None or data is None:
            continue
        line = known.get(item.key)
        if line is not None and line["picture"] == raw["sha256"]:
            seen[item.key] = [_seen(thing) for thing in line["found"]]
        else:
            todo.append(item)
    for start in range(0, len(todo), BATCH):
        some = todo[start : start + BATCH]
        raws = [answers.raw[item.key] for item in some]
        pictures = [_open(answers.folder / raw["file"]) for raw in raws]
        samples = [answers.samples[item.sample] for item in some]
        lines = []
        for raw, found in zip(raws, look(detector, pictures, samples), strict=True):
            seen[raw["item"]] = found
            things = [_line(thing) for thing in found]
            lines.append({"item": raw["item"], "picture": raw["sha256"], "found": things})
        journal.add(lines)
        if on_progress is not None:
            on_progress(start + len(some), len(todo))
    return seen


def look(detector: Detector, pictures: Sequence[Image.Image], samples: Sequence[Line]) -> list[list[Seen]]:
    looked = []
    for picture, sample, found in zip(pictures, samples, detector.detect(pictures), strict=True):
        found = [thing for thing in found if thing.score > Rules.threshold]
        wanted = {clause["class"] for clause in sample["include"] if "color" in clause}
        asked = [thing for thing in found if thing.name in wanted]
        shades = list(detector.colours(picture, asked)) if asked else []
        if len(shades) != len(asked) or not set(shades) <= set(COLOURS):
            raise ValueError(f"{detector.title} named the colours {shades} of {len(asked)} things")
        of = dict(zip(map(id, asked), shades, strict=True))
        looked.append([_coloured(thing, of.get(id(thing))) for thing in found])
    return looked


def _coloured(thing: Detection, colour: str | None) -> Seen:
    """In plain numbers, which detectors need not give."""
    left, top, right, bottom = map(float, thing.box)
    return Seen(thing.name, float(thing.score), (left, top, right, bottom), colour)


def _open(path: Path) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes()))).convert("RGB")


def _name(detector: Detector) -> str:
    about = json.dumps([detector.title, figures(detector)], sort_keys=True, default=str)
    slug = re.sub(r"[^a-z0-9]+", "-", detector.title.lower()).strip("-")[:40]
    return f"detections-{slug}-{hashlib.sha256(about.encode()).hexdigest()[:8]}.jsonl"


def _line(thing: Seen) -> dict[str, Any]:
    line: dict[str, Any] = {"name": thing.name, "score": thing.score, "box": list(thing.box)}
    return line if thing.colour is None else line | {"colour": thing.colour}


def _seen(line: dict[str, Any]) -> Seen:
    left, top, right, bottom = line["box"]
    return Seen(line["name"], line["score"], (left, top, right, bottom), line.get("colour"))
