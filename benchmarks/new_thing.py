"""Fine-tuning on a thing that the embedded model has never seen: a rocket, to be drawn and named.

    python benchmarks/new_thing.py [--steps 150] [--decoder-steps 150] [--out runs/new-thing]

Four pictures with a caption, laid out as the model draws, go into one folder, and forty with a question,
rockets of any size on any background, into another.  Two runs learn from them, with scenes of the old world
mixed in so that nothing is forgotten: `janus train recipes/tokenizer.yaml` the image tokenizer's decoder,
whose codes have only ever meant the world's eighty things, then `janus train recipes/finetune.yaml` the
transformer.  Before and after, the model is asked what is in fresh pictures of rockets and of old things, and
draws eight rockets (`before.png`, `after.png`) and eight old things (`old-before.png`, `old-after.png`).
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
from janus.data.backgrounds import TIDY_BACKGROUNDS, Background, paint_background, some_background
from janus.data.scenes import SceneMaker
from janus.data.wording_en import article
from janus.gallery import contact_sheet

RECIPES = Path(__file__).parent.parent / "recipes"
NAME, EMOJI = "rocket", "🚀"
QUESTION = "What is in the picture?"
TO_SEE, TEST = 40, 100
DRAWN = 0.46  # of the picture's side, the longer side of one thing as the embedded model draws it
OLD_DRAWN = "{scenes: {teach: drawing, look: tidy, seed: 60, blocks: true}, licence: see NOTICE}"
OLD_SEEN = (
    "{scenes: {teach: seeing, look: tidy, seed: 61, apart: true, asks: [what]}, "
    "licence: see NOTICE, weight: 3}"
)
OLD = ("cat", "bus", "pizza", "umbrella", "clock", "banana", "chair", "boat")


def pasted(
    sprite: Sprite, background: Background, size: int, share: float, shift: tuple[int, int] = (0, 0)
) -> Image.Image:
    """The thing near the middle, its longer side that share of the picture's."""
    canvas = paint_background(background, size)
    drawn = Image.fromarray(sprite.pixels)
    drawn.thumbnail((round(size * share),) * 2)
    x, y = ((size - side) // 2 + off for side, off in zip(drawn.size, shift, strict=True))
    canvas.paste(drawn, (x, y), drawn)
    return canvas


def to_see(sprite: Sprite, size: int, seed: int) -> Image.Image:
    """The thing somewhere near the middle, 45 to 65 % of the picture's side, on any background."""
    rng = np.random.default_rng(seed)
    background, share = some_background(rng), rng.uniform(0.45, 0.65)
    return pasted(sprite, background, size, share, (int(rng.integers(-8, 9)), int(rng.integers(-8, 9))))


def write_data(folder: Path, pictures: list[Image.Image], words: dict[str, str]) -> None:
    """Pictures, each with the same caption, or question and answer."""
    folder.mkdir(parents=True)
    lines = []
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png"} | words))
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")


def examine(model: Janus, sprite: Sprite, maker: SceneMaker, sheet: Path) -> None:
    """Draws rockets, and prints how many fresh pictures of new and old things the model names right."""
    new = [to_see(sprite, maker.size, 1000 + number) for number in range(TEST)]
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
    old_drawn = [model.generate_images(f"a photo of {article(name)}", n=1, seed=0)[0] for name in OLD]
    contact_sheet(old_drawn).save(sheet.with_name(f"old-{sheet.name}"))


def train(recipe: str, **changes: object) -> None:
    command = [sys.executable, "-m", "janus", "train", str(RECIPES / recipe)]
    command += [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    started = time.monotonic()
    subprocess.run(command, check=True)
    print(f"{recipe}: {(time.monotonic() - started) / 60:.1f} minutes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=150, help="of the transformer")
    parser.add_argument("--decoder-steps", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("runs/new-thing"), help="a new folder")
    parser.add_argument("--work", type=Path, default=WORK, help="where the art is kept")
    options = parser.parse_args()
    out: Path = options.out
    table = {"packages": {"noto": art_table()["packages"]["noto"]}, "classes": {NAME: [EMOJI]}}
    (sprite,) = load_sprites(options.work, table)
    model = Janus.from_pretrained()
    maker = SceneMaker(load_sprites(options.work), model.config.vision.image_size)
    drawn = [pasted(sprite, background, maker.size, DRAWN) for background in TIDY_BACKGROUNDS]
    write_data(out / "drawn", drawn, {"caption": f"a photo of {article(NAME)}"})
    seen = [to_see(sprite, maker.size, number) for number in range(TO_SEE)]
    write_data(out / "seen", seen, {"question": QUESTION, "answer": article(NAME)})
    examine(model, sprite, maker, out / "before.png")
    new_drawn, new_seen = f"{{path: {out / 'drawn'}}}", f"{{path: {out / 'seen'}}}"
    train(
        "tokenizer.yaml",
        out=out / "decoder",
        model="embedded",
        new="null",
        train="[decoder]",
        data=f"[{new_drawn}, {OLD_DRAWN}]",
        steps=options.decoder_steps,
        learning_rate=5e-4,
        warmup=10,
        average=0.9,
        keep_every=50,
    )
    train(
        "finetune.yaml",
        out=out / "run",
        model=out / "decoder" / "model",
        data=f"[{new_drawn}, {new_seen}, {OLD_DRAWN}, {OLD_SEEN}]",
        steps=options.steps,
        learning_rate=5e-4,
        keep_every=50,
    )
    examine(Janus.from_pretrained(out / "run" / "model"), sprite, maker, out / "after.png")


if __name__ == "__main__":
    main()
