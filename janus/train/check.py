"""Scores an embedded model on fresh scenes:

    python -m janus.train.check FOLDER --work DIR [--count N]

Answers are compared word for word, on scenes in the training styles and in a style that no training
picture has.  Drawings are judged by `janus.train.judge`, which knows every drawing that could be meant
and shares nothing with the model; the first line of them is the ceiling, real scenes passed through
the image tokenizer alone.  Prompts are in GenEval's wording, one group for each of its tasks that
this small world has.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from janus.api import Janus
from janus.data.art import load_sprites
from janus.data.language import article, plural, question
from janus.data.pool import Look, scene_at
from janus.data.world import Scene, World
from janus.train.judge import Judge, agrees

SEED = 1  # training uses 0
GROUPS = ("single", "colours", "two", "position", "colour of each", "counting")


def answer_scores(model: Janus, world: World, look: Look, count: int) -> dict[str, float]:
    """Share of right answers by kind of question, and over all."""
    rng = np.random.default_rng(SEED)
    scenes = [scene_at(world, look, SEED, i) for i in range(count)]
    asked = [question(scene, rng) for scene in scenes]
    pictures = [[Image.fromarray(world.render(scene))] for scene in scenes]
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, count, 50):
        part = slice(start, start + 50)
        answers = model.chat_batch([a.question for a in asked[part]], pictures[part], max_tokens=24)
        for one, answer in zip(asked[part], answers, strict=True):
            right[one.kind].append(answer == one.answer)
    everything = [value for values in right.values() for value in values]
    return {kind: float(np.mean(right[kind])) for kind in sorted(right)} | {"all": float(np.mean(everything))}


def prompts(world: World, count: int) -> dict[str, list[tuple[str, Scene]]]:
    """For each group, `count` prompts with scenes that they describe."""
    groups: dict[str, list[tuple[str, Scene]]] = {name: [] for name in GROUPS}
    index = 0
    while any(len(group) < count for group in groups.values()):
        scene = scene_at(world, "drawing", SEED, index)
        index += 1
        for name in _groups_of(scene):
            if len(groups[name]) < count:
                groups[name].append((_prompt(scene, name), scene))
    return groups


def _groups_of(scene: Scene) -> list[str]:
    coloured = scene.things[0].colour is not None
    if len(scene.things) == 1:
        return ["colours"] if coloured else ["single"]
    if scene.things[0].name == scene.things[1].name:
        return [] if coloured else ["counting"]
    return ["colour of each"] if coloured else ["two", "position"]


def _prompt(scene: Scene, group: str) -> str:
    named = [article(f"{t.colour} {t.name}" if t.colour else t.name) for t in scene.things]
    if group == "counting":
        return f"a photo of two {plural(scene.things[0].name)}"
    if group == "position":
        return f"a photo of {named[0]} {scene.relation} {named[1]}"
    return "a photo of " + " and ".join(named)


def drawing_scores(
    model: Janus,
    world: World,
    count: int,
    guidance: float | None,
    temperature: float | None,
    sheet: Path | None = None,
) -> dict[str, float]:
    """Share of pictures that show what was asked, by group, and their mean; `sheet` keeps the pictures."""
    judge = Judge(world)
    scores: dict[str, float] = {}
    rows = []
    for name, group in prompts(world, count).items():
        drawn = [
            p[0]
            for p in model.generate_images(
                [text for text, _ in group], seed=0, guidance=guidance, temperature=temperature, batch_size=30
            )
        ]
        verdicts = [
            _right(judge, np.asarray(p), scene, name) for p, (_, scene) in zip(drawn, group, strict=True)
        ]
        scores[name] = float(np.mean(verdicts))
        rows.append(
            np.concatenate([_framed(p, ok) for p, ok in zip(drawn[:16], verdicts[:16], strict=True)], axis=1)
        )
    if sheet is not None:
        Image.fromarray(np.concatenate(rows)).save(sheet)
    return scores | {"mean": float(np.mean(list(scores.values())))}


def ceiling(model: Janus, world: World, count: int) -> dict[str, float]:
    """What the judge says of real scenes that only passed through the image tokenizer."""
    judge = Judge(world)
    scores = {}
    for name, group in prompts(world, count).items():
        codes = model.encode_images([Image.fromarray(world.render(scene)) for _, scene in group])
        pictures = model.decode_images(codes)
        scores[name] = float(
            np.mean(
                [_right(judge, np.asarray(p), s, name) for p, (_, s) in zip(pictures, group, strict=True)]
            )
        )
    return scores | {"mean": float(np.mean(list(scores.values())))}


def _right(judge: Judge, picture: np.ndarray, scene: Scene, group: str) -> bool:
    colour = group in ("colours", "colour of each")
    return agrees(judge.judge(picture, coloured=colour), scene, place=group == "position", colour=colour)


def _framed(picture: Image.Image, right: bool) -> np.ndarray:
    """With a green line below it if right, else a red one."""
    line = np.full((4, picture.width, 3), (0, 160, 0) if right else (220, 0, 0), np.uint8)
    return np.concatenate([np.asarray(picture), line])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m janus.train.check", description="Score an embedded model."
    )
    parser.add_argument("folder", nargs="?", help="default: the model that ships with the package")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "janus" / "train")
    parser.add_argument("--count", type=int, default=500, help="questions; a tenth as many prompts per group")
    parser.add_argument("--guidance", type=float, help="default: the model's own")
    parser.add_argument("--temperature", type=float, help="default: the model's own")
    parser.add_argument("--sheet", type=Path, help="a PNG of the pictures, a green line below the right ones")
    parser.add_argument("--json", type=Path, help="where to write the scores")
    arguments = parser.parse_args()
    model = Janus.from_pretrained(arguments.folder, dtype="float32")
    arguments.work.mkdir(parents=True, exist_ok=True)
    world = World(load_sprites(arguments.work), model.config.vq.image_size)
    few = max(1, arguments.count // 10)
    scores = {
        "answers": answer_scores(model, world, "seeing", arguments.count),
        "answers, own style": answer_scores(model, world, "drawing", arguments.count),
        "answers, unseen art": answer_scores(model, world, "held-out", arguments.count),
        "drawings, ceiling": ceiling(model, world, few),
        "drawings": drawing_scores(
            model, world, few, arguments.guidance, arguments.temperature, arguments.sheet
        ),
    }
    for title, values in scores.items():
        print(f"{title}: " + ", ".join(f"{key} {value:.1%}" for key, value in values.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
