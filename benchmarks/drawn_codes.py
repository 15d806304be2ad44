"""How often a model draws what a prompt asks for, read from the codes that it draws with.

    python benchmarks/drawn_codes.py [MODEL] [--each 100] [--guidance G] [--temperature T] [--json FILE]

The embedded world has one drawing of each thing in each colour, and its codes are known
(`janus/data/blocks.py`).  So no judge is needed to say what was drawn: a thing stands where more than 0.6 of
the codes of its block do.  Prompts are GenEval's (`janus.eval.prompts`), of combinations that training shows
and of others that it never does; one picture each, with the seeds 0, 1, ...  A number is right with that many
things and no other, a place by GenEval's rule of positions, the others where all that is named is there.

Quicker than `janus eval geneval` and its judge, and stricter: a picture that only looks right fails.
Intervals are Wilson's, of 95 %.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from janus import Janus
from janus.data.art import WORK, load_sprites
from janus.data.blocks import EMPTY, Blocks
from janus.data.layouts import Place, relations
from janus.data.scenes import COLOURS, NAMES, SceneMaker
from janus.data.subjects import UNPAINTED
from janus.eval.intervals import wilson
from janus.eval.prompts import COUNTS, make_prompts, shows_held_out
from janus.generation import decode
from janus.parties import Group
from janus.prompts import Prompt
from janus.sampling import Sampling
from janus.tokenizers.chat import drawing_prompt, unconditional

SAME = 0.6  # of the codes of a thing that are there
SEED = 7  # of the prompts
_QUARTERS = [(x, y, 4) for x in (0, 4) for y in (0, 4)]
_HALVES = [(0, 2, 4), (4, 2, 4), (2, 0, 4), (2, 4, 4)]
_PLACES: list[Place] = [(2, 2, 4), *_HALVES, *_QUARTERS]  # `janus.data.layouts.tidy_places`


class Reader:
    """Tells from codes which things a picture shows, and where."""

    def __init__(self, blocks: Blocks) -> None:
        self.subjects = [(n, c) for n in NAMES for c in (None, *COLOURS) if not (c and n in UNPAINTED)]
        things = blocks.maker.arranged(self.subjects, _PLACES[:1] * len(self.subjects))
        self.known = np.stack([blocks.alone(thing).flatten() for thing in things])  # (subjects, cells)

    def read(self, codes: np.ndarray) -> list[tuple[str, str | None, Place]]:
        """Of one picture's codes (K,), the things whose blocks do not overlap, the most certain first."""
        side = round(len(codes) ** 0.5)
        grid, found = codes.reshape(side, side), []
        there = self.known != EMPTY
        for place in _PLACES:
            x, y, edge = place
            same = (self.known == grid[y : y + edge, x : x + edge].flatten()) & there
            shares = same.sum(1) / there.sum(1)
            best = int(shares.argmax())
            if shares[best] > SAME:
                found.append((shares[best], *self.subjects[best], place))
        kept: list[tuple[str, str | None, Place]] = []
        for _, name, colour, place in sorted(found, key=lambda one: -one[0]):
            if not any(_overlap(place, other) for _, _, other in kept):
                kept.append((name, colour, place))
        return kept


def _box(place: Place) -> tuple[int, int, int, int]:
    x, y, edge = place
    return x, y, x + edge, y + edge


def _overlap(a: Place, b: Place) -> bool:
    (left, top, right, bottom), (l, t, r, b_) = _box(a), _box(b)
    return left < r and l < right and top < b_ and t < bottom


def shown(line: dict[str, Any]) -> bool:
    return not shows_held_out(line)


def right(line: dict[str, Any], things: list[tuple[str, str | None, Place]]) -> bool:
    """Whether things are what a line of metadata asks for."""
    clauses = line["include"]
    if line["tag"] == "counting":
        wanted = Counter({(clause["class"], None): clause["count"] for clause in clauses})
        return Counter((name, colour) for name, colour, _ in things) == wanted
    groups = [
        [place for name, colour, place in things if (name, colour) == (clause["class"], clause.get("color"))]
        for clause in clauses
    ]
    if line["tag"] == "position":
        where = clauses[1]["position"][0]
        return any(where in relations(_box(a), _box(b)) for a in groups[1] for b in groups[0])
    return all(groups)


@torch.inference_mode()
def draw(
    model: Janus, texts: Sequence[str], seed: int, guidance: float, temperature: float, window: int = 1
) -> np.ndarray:
    """Codes of a picture of each text, (texts, K), with the seeds from `seed` on."""
    rows = [drawing_prompt(text, model.tokenizer, model.config.prompt) for text in texts]
    plain = [Prompt(unconditional(row, model.tokenizer)) for row in rows] if guidance != 1 else []
    steps = decode(
        model.model,
        Group(
            [Prompt(row) for row in rows],
            kind="image",
            new_tokens=model.config.vq.tokens,
            sampling=Sampling(temperature),
            generators=[torch.Generator().manual_seed(seed + i) for i in range(len(rows))],
            unconditional=plain,
            guidance=guidance if plain else None,
        ),
        window=window,
    )
    codes: np.ndarray = torch.stack(list(steps), dim=1).numpy()
    return codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: the one that ships with the package")
    parser.add_argument("--each", type=int, default=100, help="prompts of each task")
    parser.add_argument("--guidance", type=float, help="default: the model's own")
    parser.add_argument("--temperature", type=float, help="default: the model's own")
    parser.add_argument("--work", type=Path, default=WORK, help="where the art is kept")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    model = Janus.from_pretrained(options.model, dtype="float32")
    vq = model.model.gen_vision_model
    maker = SceneMaker(load_sprites(options.work), vq.config.image_size)
    reader = Reader(Blocks(maker, vq))
    own = model.config.drawing
    guidance = own.guidance if options.guidance is None else options.guidance
    temperature = own.temperature if options.temperature is None else options.temperature
    figures: dict[str, dict[str, list[float]]] = {}
    for title, keep in (("trained", shown), ("held out", shows_held_out)):
        counts = {task: min(options.each, most) for task, most in COUNTS.items()}
        if keep is shows_held_out:
            del counts["single_object"]  # of one thing in its own colours nothing is held out
        lines = make_prompts(SEED, counts, keep)
        verdicts: dict[str, list[bool]] = {task: [] for task in counts}
        for start in tqdm(range(0, len(lines), 16), desc=title, unit="batch"):
            some = lines[start : start + 16]
            codes = draw(model, [line["prompt"] for line in some], start, guidance, temperature)
            for line, drawn in zip(some, codes, strict=True):
                verdicts[line["tag"]].append(right(line, reader.read(drawn)))
        figures[title] = {}
        for task, each in verdicts.items():
            low, high = wilson(sum(each), len(each))
            figures[title][task] = [sum(each) / len(each), low, high]
            print(f"{title:9} {task:14} {sum(each) / len(each):6.1%}   ({low:.1%} to {high:.1%})")
        mean = float(np.mean([share for share, _, _ in figures[title].values()]))
        print(f"{title:9} {'mean':14} {mean:6.1%}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
