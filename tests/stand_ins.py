"""For tests of evaluation: a model that draws numbers, and a detector that reads them and knows the truth."""

from __future__ import annotations

import io
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from PIL import Image

from janus.eval.asking import Made, Request
from janus.eval.benchmark import Item, Line, Progress
from janus.eval.detect import Detection
from janus.eval.folder import Run, claimed
from janus.eval.prompts import TASKS, make_prompts
from janus.eval.runner import batches, make_answers

LINES = make_prompts(0, dict.fromkeys(TASKS, 2))
PLAN: Line = {
    "benchmark": "geneval",
    "samples": {"title": "twelve prompts", "count": 12, "used": 12, "sha256": "-"},
    "settings": {"model": "numbers", "each": 4, "seed": 0},
    "versions": {"janus": "1"},
}
PLACES = {"left of": (0, 40), "right of": (80, 40), "above": (40, 0), "below": (40, 80)}


class Numbers:
    """An asker whose pictures hold, in their first pixel, the sample and the number that they are of."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @property
    def settings(self) -> Line:
        return {"seed": 0}

    def check(self, prompts: Sequence[str], batch_size: int) -> None:
        pass

    def ask(self, requests: Sequence[Request], on_progress: Progress | None = None) -> list[Made]:
        answers = []
        for item in (request.item for request in requests):
            self.asked.append(item.key)
            data = io.BytesIO()
            Image.new("RGB", (120, 120), (item.sample, item.number, 9)).save(data, "PNG")
            file = f"pictures/{item.key}.png"
            digest = sha256(data.getvalue()).hexdigest()
            answers.append(Made({"item": item.key, "file": file, "sha256": digest}, {file: data.getvalue()}))
        return answers


def numbers(folder: Path, asker: Numbers, plan: Line = PLAN) -> int:
    """Run `asker` on twelve prompts, five pictures at once; returns how many it was asked for."""
    with claimed(folder) as claim:
        run = Run.begin(claim, plan, LINES)
        made = make_answers(run, batches(run, 5), lambda line: str(line["prompt"]), asker)
        run.gather()
    return made


class Truth:
    """Sees in a picture of `Numbers` what its sample asks for, and nothing in the pictures of `wrong`."""

    title = "oracle"

    def __init__(self, samples: Sequence[Line], wrong: Sequence[str] = ()) -> None:
        self.samples, self.wrong = samples, wrong
        self.looked = 0
        self.figures = {"precision": 1.0}

    def detect(self, pictures: Sequence[Image.Image]) -> list[list[Detection]]:
        self.looked += len(pictures)
        return [self._things(picture) for picture in pictures]

    def colours(self, picture: Image.Image, found: Sequence[Detection]) -> list[str]:
        sample = self.samples[self._item(picture).sample]
        colour = {clause["class"]: clause["color"] for clause in sample["include"]}
        return [colour[thing.name] for thing in found]

    def _item(self, picture: Image.Image) -> Item:
        sample, number, _ = picture.getpixel((0, 0))  # type: ignore[misc]
        return Item(sample, number)

    def _things(self, picture: Image.Image) -> list[Detection]:
        item = self._item(picture)
        if item.key in self.wrong:
            return []
        found = []
        for place, clause in enumerate(self.samples[item.sample]["include"]):
            left, top = PLACES[clause["position"][0]] if "position" in clause else (40 + 20 * place, 40)
            for i in range(clause["count"]):
                box = (left + 5 * i, top, left + 5 * i + 20, top + 20)
                found.append(Detection(clause["class"], 0.99 - i / 100, box))
        return found
