"""Fine-tuning on a thing that the embedded model has never seen: a rocket, to be drawn and named.

    python benchmarks/new_thing.py [--steps 300] [--out runs/new-thing]

Forty pictures with a caption and a question each, as a user would have them, go into a folder; `janus train
recipes/finetune.yaml` learns from it, with as many scenes of the old world mixed in so that nothing is
forgotten.  Before and after, the model is asked what is in fresh pictures of rockets and of old things, and
draws eight rockets (`before.png`, `after.png`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from janus import Janus
from janus.data.art import WORK, Sprite, art_table, load_sprites
from janus.data.backgrounds import paint_background, some_background
from janus.data.scenes import SceneMaker
from janus.data.wording_en import article
from janus.gallery import contact_sheet

RECIPE = Path(__file__).parent.parent / "recipes" / "finetune.yaml"
NAME, EMOJI = "rocket", "🚀"
QUESTION = "What is in the picture?"
PICTURES, TEST = 40, 100
OLD = [
    "{scenes: {teach: drawing, look: tidy, seed: 60, blocks: true}, licence: see NOTICE}",
    "{scenes: {teach: seeing, look: tidy, seed: 61, apart: true}, licence: see NOTICE}",
]


def picture(sprite: Sprite, size: int, seed: int) -> Image.Image:
    """The thing somewhere near the middle, 45 to 65 % of the picture's side, on any background."""
    rng = np.random.default_rng(seed)
    canvas = paint_background(some_background(rng), size)
    drawn = Image.fromarray(sprite.pixels)
    drawn.thumbnail((round(size * rng.uniform(0.45, 0.65)),) * 2)
    place = [(size - side) // 2 + int(rng.integers(-8, 9)) for side in drawn.size]
    canvas.paste(drawn, (place[0], place[1]), drawn)
    return canvas


def write_data(folder: Path, sprite: Sprite, size: int) -> None:
    folder.mkdir(parents=True)
    lines = []
    for number in range(PICTURES):
        picture(sprite, size, number).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "caption": f"a photo of {article(NAME)}"})
        lines.append({"image": f"{number}.png", "question": QUESTION, "answer": article(NAME)})
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def examine(model: Janus, sprite: Sprite, maker: SceneMaker, sheet: Path) -> None:
    """Draws rockets, and prints how many fresh pictures of new and old things the model names right."""
    new = [picture(sprite, maker.size, 1000 + number) for number in range(TEST)]
    scenes = [maker.at("tidy", 1000, number, "single_object") for number in range(TEST)]
    old = [Image.fromarray(maker.render(scene)) for scene in scenes]
    wanted = [NAME] * TEST + [scene.things[0].name for scene in scenes]
    answers: list[str] = []
    for start in tqdm(range(0, 2 * TEST, 20), desc=sheet.stem, unit="batch"):
        some = [[one] for one in (new + old)[start : start + 20]]
        answers += model.chat_batch([QUESTION] * len(some), some)
    right = [a == article(name) for a, name in zip(answers, wanted, strict=True)]
    rockets, others = np.mean(right[:TEST]), np.mean(right[TEST:])
    print(f"{sheet.stem}: {rockets:.0%} of rockets named, {others:.0%} of old things")
    contact_sheet(model.generate_images(f"a photo of {article(NAME)}", n=8, seed=0)).save(sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/new-thing"), help="a new folder")
    parser.add_argument("--work", type=Path, default=WORK, help="where the art is kept")
    options = parser.parse_args()
    table = {"packages": {"noto": art_table()["packages"]["noto"]}, "classes": {NAME: [EMOJI]}}
    (sprite,) = load_sprites(options.work, table)
    model = Janus.from_pretrained()
    maker = SceneMaker(load_sprites(options.work), model.config.vision.image_size)
    write_data(options.out / "data", sprite, maker.size)
    examine(model, sprite, maker, options.out / "before.png")
    changes = [
        f"data=[{{path: {options.out / 'data'}, weight: 2}}, {', '.join(OLD)}]",
        f"out={options.out / 'run'}",
        f"steps={options.steps}",
    ]
    command = [sys.executable, "-m", "janus", "train", str(RECIPE)]
    started = time.monotonic()
    subprocess.run(command + [part for change in changes for part in ("--set", change)], check=True)
    print(f"trained in {(time.monotonic() - started) / 60:.1f} minutes")
    examine(Janus.from_pretrained(options.out / "run" / "model"), sprite, maker, options.out / "after.png")


if __name__ == "__main__":
    main()
