"""How often a drawing painted in one of the ten colours has that colour by the pixel rule.

    python benchmarks/paint.py [--work DIR] [--sheets DIR]

Every drawing of the eighty classes is painted in every colour, scaled to `--side` pixels, put on a
light background, and judged by `dominant_colour` where it covers the background.  The tables say the
share that is right by colour and by style, and name the drawings that fail.  With `--sheets`, contact
sheets of the drawings to draw are written: in their own colours, and in all ten.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from janus.data.art import Sprite, load_sprites
from janus.data.paint import dominant_colour, recolour, things_table

BACKGROUND = (206, 228, 245)


def fit(pixels: np.ndarray, side: int) -> Image.Image:
    """A drawing (h, w, 4), its longer side at `side` pixels."""
    picture = Image.fromarray(pixels)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def judged(sprite: Sprite, colour: str, side: int) -> str:
    """The colour that a drawing has when painted and seen at this size."""
    paint = things_table()["classes"][sprite.name].get("paint", ())
    drawing = fit(recolour(sprite.pixels, colour, tuple(paint)), side)
    scene = Image.new("RGB", drawing.size, BACKGROUND)
    scene.paste(drawing, (0, 0), drawing)
    return dominant_colour(np.asarray(scene), np.asarray(drawing)[..., 3] > 128)


def table(title: str, answers: list[tuple[Sprite, str, str]], key: Callable[[Sprite, str], str]) -> None:
    right: dict[str, list[bool]] = defaultdict(list)
    for sprite, asked, seen in answers:
        right[key(sprite, asked)].append(asked == seen)
    print(f"\n{title:<18} right   of")
    for name, found in right.items():
        print(f"{name:<18} {np.mean(found):.3f}  {len(found):4d}")


def sheet(rows: list[tuple[str, list[Image.Image]]], side: int) -> Image.Image:
    """Rows of pictures with a label before each."""
    label, gap = 116, 4
    width = label + max(len(pictures) for _, pictures in rows) * (side + gap)
    canvas = Image.new("RGB", (width, len(rows) * (side + gap)), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    for row, (name, pictures) in enumerate(rows):
        top = row * (side + gap) + gap // 2
        pen.text((4, top + side // 2 - 6), name, fill=(0, 0, 0))
        for column, picture in enumerate(pictures):
            left = label + column * (side + gap)
            at = (left + (side - picture.width) // 2, top + (side - picture.height) // 2)
            canvas.paste(picture, at, picture)
    return canvas


def write_sheets(sprites: list[Sprite], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    classes = things_table()["classes"]
    own, ten = [], []
    for name, entry in classes.items():
        sprite = next(s for s in sprites if s.name == name and s.key == entry["draw"])
        own.append((name, [fit(sprite.pixels, side) for side in (72, 48)]))
        paint = tuple(entry.get("paint", ()))
        ten.append(
            (name, [fit(recolour(sprite.pixels, colour, paint), 48) for colour in things_table()["colours"]])
        )
    columns = [own[i::5] for i in range(5)]
    sheets = [sheet(column, 72) for column in columns]
    whole = Image.new("RGB", (sum(s.width for s in sheets), sheets[0].height), BACKGROUND)
    left = 0
    for part in sheets:
        whole.paste(part, (left, 0))
        left += part.width
    whole.save(folder / "own-colours.png")
    halves = [sheet(ten[:40], 48), sheet(ten[40:], 48)]
    both = Image.new("RGB", (halves[0].width + halves[1].width, halves[0].height), BACKGROUND)
    both.paste(halves[0], (0, 0))
    both.paste(halves[1], (halves[0].width, 0))
    both.save(folder / "ten-colours.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "janus" / "train")
    parser.add_argument("--side", type=int, default=48, help="pixels of the longer side (48)")
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    options = parser.parse_args()
    sprites = load_sprites(options.work)
    classes, colours = things_table()["classes"], list(things_table()["colours"])
    if options.sheets:
        write_sheets(sprites, options.sheets)
    answers = [(s, colour, judged(s, colour, options.side)) for s in sprites for colour in colours]
    table("colour", answers, lambda _, colour: colour)
    table("style", answers, lambda sprite, _: sprite.style)
    table("what", answers, lambda s, _: "to draw" if s.key == classes[s.name]["draw"] else "to see only")
    wrong = defaultdict(list)
    for sprite, asked, seen in answers:
        if asked != seen:
            wrong[sprite.name, sprite.key].append(f"{asked} as {seen}")
    print("\nfailures:")
    for (name, key), cases in wrong.items():
        drawn = "  TO DRAW" if key == classes[name]["draw"] else ""
        print(f"{name}, {key}: {', '.join(cases)}{drawn}")
    right = len(answers) - sum(map(len, wrong.values()))
    print(f"\n{len(sprites)} drawings in {len(colours)} colours: {right / len(answers):.4f} right")


if __name__ == "__main__":
    main()
