"""How good the scene judge is, and how strict.

    python -m janus.train.detector_check [--judge FOLDER] [--pictures 200] [--through MODEL]

Precision and recall on scenes that the judge never saw, also in the art style that nothing was trained
on; and with GenEval's own rules, how often true tidy scenes of each task pass, and how often those that
differ from their description in exactly one fact.  With `--through` the pictures are what the image
tokenizer of a model makes of the codes that it should draw with: its best drawings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from janus.data.art import load_sprites
from janus.data.blocks import Blocks
from janus.data.scenes import FACTS, Fact, Kind, Look, Scene, SceneMaker, relation
from janus.eval.benchmark import Line
from janus.eval.detect import Detection
from janus.eval.finder import shared
from janus.eval.geneval_rules import RULES, Rules, counted, verdict
from janus.eval.judge import Certainty, SceneJudge
from janus.eval.seen import look as look_at
from janus.train.damage import damaged

SEED = 3000  # of what is reported
SAME = 0.5  # IoU of a box that is found right, at least
SETS: tuple[Look, ...] = ("tidy", "varied", "held-out style")
Show = Callable[[Sequence[Scene]], list[Image.Image]]  # pictures of tidy scenes
Truth = Sequence[tuple[str, tuple[float, float, float, float]]]  # class and box of each thing


def chosen(found: Sequence[Sequence[Detection]], truths: Sequence[Truth]) -> Certainty:
    """The two thresholds, from what was found in pictures that serve for nothing else, with plain scores.

    `least` finds best, by the harmonic mean of precision and recall; `sure`, which is above it, counts
    best: in as many pictures as possible exactly the right things are found.  In ties, the middle one.
    """
    levels = np.round(np.arange(0.1, 0.951, 0.01), 2)
    finds, counts = [], []
    for level in levels:
        tallies = [tally(f, truth, float(level)) for f, truth in zip(found, truths, strict=True)]
        right, told, there = np.sum(tallies, axis=0)
        finds.append(2 * right / max(1, told + there))
        counts.append(np.mean([r == t == n for r, t, n in tallies]))
    least = _middle(levels[:-5], np.array(finds[:-5]))
    above = levels >= least + 0.05
    return Certainty(least, _middle(levels[above], np.array(counts)[above]))


def _middle(levels: np.ndarray, values: np.ndarray) -> float:
    best = levels[values >= values.max() - 1e-9]
    return float(best[len(best) // 2])


def tally(found: Sequence[Detection], truth: Truth, least: float) -> tuple[int, int, int]:
    """Of one picture: things found right, things told, things there.

    Right is a thing of the class whose box shares at least `SAME` with that of one that no more certain thing
    was found to be.
    """
    told = sorted((f for f in found if f.score > least), key=lambda f: -f.score)
    left, right = list(truth), 0
    for thing in told:
        same = [there for there in left if there[0] == thing.name]
        if not same:
            continue
        shares = shared(torch.tensor([thing.box]), torch.tensor([box for _, box in same]).float())[0]
        if float(shares.max()) >= SAME:
            left.remove(same[int(shares.argmax())])
            right += 1
    return right, len(told), len(truth)


def sample_of(scene: Scene) -> Line:
    """GenEval's line of metadata that a tidy scene was made for, but for the prompt.

    Raises ValueError for a scene that was made for none of its tasks.
    """
    things, tag = scene.things, scene.kind
    if tag is None:
        raise ValueError("only tidy scenes are made for a task of GenEval")
    clauses: list[dict[str, Any]] = [{"class": thing.name, "count": 1} for thing in things]
    if tag == "counting":
        name, count = things[0].name, len(things)
        include, exclude = {"class": name, "count": count}, {"class": name, "count": count + 1}
        return {"tag": tag, "include": [include], "exclude": [exclude]}
    if tag in ("colors", "color_attr"):
        for clause, thing in zip(clauses, things, strict=True):
            clause["color"] = thing.colour
    if tag == "position":
        where = relation(things[0].box, things[1].box)
        clauses = [clauses[1], clauses[0] | {"position": [where, 0]}]
    return {"tag": tag, "include": clauses}


def passes(judge: SceneJudge, scenes: Sequence[tuple[Line, Scene]], show: Show, rules: Rules) -> float:
    """The share of pictures of scenes that pass for the sample beside each."""
    pictures = show([scene for _, scene in scenes])
    samples = [sample for sample, _ in scenes]
    seen = look_at(judge, pictures, samples)
    right = [
        verdict(sample, counted(found, sample["tag"], rules), rules).correct
        for found, sample in zip(seen, samples, strict=True)
    ]
    return sum(right) / len(right)


def strictness(
    judge: SceneJudge,
    maker: SceneMaker,
    count: int,
    show: Show | None = None,
    seed: int = SEED,
) -> Iterator[tuple[Kind, Fact | None, float]]:
    """Of each task the share of `count` true scenes that pass, and of as many with one fact changed.

    The fact is None for true scenes.  Without `show` pictures are rendered as the scenes say.
    """
    show = show or (lambda scenes: [Image.fromarray(maker.render(scene)) for scene in scenes])
    rules = RULES["official"]
    for kind, facts in FACTS.items():
        scenes = [maker.at("tidy", seed, i, kind) for i in range(count)]
        samples = [sample_of(scene) for scene in scenes]
        yield kind, None, passes(judge, list(zip(samples, scenes, strict=True)), show, rules)
        for fact in facts:
            others = [
                maker.changed(scene, fact, np.random.default_rng((seed, i))) for i, scene in enumerate(scenes)
            ]
            yield kind, fact, passes(judge, list(zip(samples, others, strict=True)), show, rules)


def accuracy(
    judge: SceneJudge, maker: SceneMaker, look: Look, count: int, harm: bool, seed: int = SEED
) -> tuple[float, float]:
    """Precision and recall at GenEval's threshold on scenes of a look, with `harm` damaged as in training."""
    scenes = [maker.at(look, seed, i) for i in range(count)]
    pictures = [maker.render(scene) for scene in scenes]
    if harm:
        pictures = [damaged(p, np.random.default_rng((seed, i))) for i, p in enumerate(pictures)]
    found = judge.detect([Image.fromarray(picture) for picture in pictures])
    truths = [[(thing.name, thing.box) for thing in scene.things] for scene in scenes]
    right, told, there = np.sum([tally(f, t, 0.3) for f, t in zip(found, truths, strict=True)], axis=0)
    return right / max(1, told), right / max(1, there)


def figures_of(
    judge: SceneJudge, maker: SceneMaker, count: int, show: Show | None = None
) -> dict[str, float]:
    """What is printed beside every score: all shares from 0 to 1, to three places."""
    figures: dict[str, float] = {}
    if show is None:
        for look in SETS:
            for harm in (False, True):
                name = f"{look}, damaged" if harm else look
                figures[f"precision {name}"], figures[f"recall {name}"] = accuracy(
                    judge, maker, look, count, harm
                )
    for kind, fact, share in strictness(judge, maker, count, show):
        figures[f"{kind}: true" if fact is None else f"{kind}: another {fact}"] = share
    return {name: round(float(value), 3) for name, value in figures.items()}


def card(figures: dict[str, float]) -> str:
    """The figures as Markdown."""
    rows = [f"| {name} | {value} |" for name, value in figures.items()]
    return "\n".join(["# The scene judge", "", "| | share |", "|---|---|", *rows, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m janus.train.detector_check", description="Measure the judge."
    )
    parser.add_argument("--judge", type=Path, help="a folder; default: the judge of the package")
    parser.add_argument("--pictures", type=int, default=200, help="of each kind")
    parser.add_argument(
        "--through", metavar="MODEL", help="'embedded' or a folder: whose image tokenizer draws"
    )
    options = parser.parse_args()
    judge = SceneJudge.from_pretrained(options.judge)
    maker = SceneMaker(load_sprites(), judge.finder.config.size)
    show = None if options.through is None else as_drawn(options.through, maker)
    print(card(figures_of(judge, maker, options.pictures, show)), end="")


def as_drawn(model: str, maker: SceneMaker) -> Show:
    """Scenes as a model draws them when all its codes are right."""
    from janus import Janus

    janus = Janus.from_pretrained(None if model == "embedded" else model, dtype="float32")
    blocks = Blocks(maker, janus.model.gen_vision_model)

    def show(scenes: Sequence[Scene]) -> list[Image.Image]:
        codes = torch.from_numpy(np.stack([blocks.codes(scene) for scene in scenes]))
        return [picture for some in codes.split(32) for picture in janus.decode_images(some)]

    return show


if __name__ == "__main__":
    main()
