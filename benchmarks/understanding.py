"""How many questions about scenes that training never had a model answers right, by kind of question.

    python benchmarks/understanding.py [MODEL] [--scenes 2000] [--look varied] [--work DIR] [--json FILE]

Each scene is asked one question, and the answer counts only word for word.  "what" asks for everything that
is there, up to six kinds of things; "what, one" are those of its answers that name a single kind.  "where"
asks for places and for what is in a place; "where, place" are those of its answers that name no thing.
Looks: `varied` has the art styles of training, in any size, place, pose and background; `held-out style` is
the same in a style that no training picture has; `tidy` is what the embedded model draws, `tidy held-out
style` is laid out like it, in that style.  Intervals are Wilson's, of 95 %.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from janus import Janus
from janus.data.art import WORK, load_sprites
from janus.data.scenes import LOOKS, Look, SceneMaker
from janus.data.wording import mentions, questions
from janus.eval.intervals import wilson

SEED = 1000  # recipes train on smaller ones
ANSWER = 40  # tokens at most
_PARTS = {("what", 1): "what, one", ("where", 0): "where, place"}  # by kind and how many things are named


def verdicts(model: Janus, maker: SceneMaker, look: Look, count: int, batch: int) -> dict[str, list[bool]]:
    """For each kind of question, which answers were right."""
    right: dict[str, list[bool]] = defaultdict(list)
    for start in tqdm(range(0, count, batch), desc=look, unit="batch"):
        numbers = range(start, min(start + batch, count))
        scenes = [maker.at(look, SEED, number) for number in numbers]
        asked = [
            questions(scene, np.random.default_rng((SEED, number)), 1)[0]
            for scene, number in zip(scenes, numbers, strict=True)
        ]
        pictures = [[Image.fromarray(maker.render(scene))] for scene in scenes]
        answers = model.chat_batch([one.question for one in asked], pictures, max_tokens=ANSWER)
        for scene, one, answer in zip(scenes, asked, answers, strict=True):
            right[one.kind].append(answer == one.answer)
            named = len(mentions(one.answer, scene))
            if part := _PARTS.get((one.kind, named)):
                right[part].append(answer == one.answer)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: the one that ships with the package")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--look", choices=LOOKS, action="append", help="may be repeated; default: all")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--work", type=Path, default=WORK, help="where the art is kept")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    model = Janus.from_pretrained(arguments.model, dtype="float32")
    size = model.config.vision.image_size
    maker = SceneMaker(load_sprites(arguments.work), size)
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for look in arguments.look or LOOKS:
        right = verdicts(model, maker, look, arguments.scenes, arguments.batch)
        whole = [kind for kind in right if kind not in _PARTS.values()]
        right["all"] = [value for kind in whole for value in right[kind]]
        figures[look] = {}
        print(f"\n{look:<19} right   95 %            of")
        for kind, values in right.items():
            low, high = wilson(sum(values), len(values))
            figures[look][kind] = {"right": float(np.mean(values)), "of": len(values)}
            print(f"{kind:<19} {np.mean(values):.3f}   {low:.3f} to {high:.3f}  {len(values):5d}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
