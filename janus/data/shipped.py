"""The drawings that ship with the package: of every class the one that tidy scenes show.

With them tidy scenes are made without a network, the same as those that the embedded model learnt from.

    python -m janus.data.shipped [--work DIR]     writes them anew, from the art in DIR
"""

from __future__ import annotations

import argparse
import io
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from janus.data.art import WORK, Sprite, load_sprites
from janus.data.paint import things_table

FILE = "drawings.zip"  # of PNG files, named after the classes
_DATE = (2026, 1, 1, 0, 0, 0)  # of every file in it, so that the same drawings make the same archive


def shipped_sprites() -> list[Sprite]:
    """One drawing of each of the eighty classes."""
    sprites = []
    with resources.files("janus.data").joinpath(FILE).open("rb") as stream, zipfile.ZipFile(stream) as files:
        for name, entry in things_table()["classes"].items():
            style, emoji = entry["draw"].split(":", 1)
            picture = Image.open(io.BytesIO(files.read(f"{name}.png")))
            sprites.append(Sprite(name, style, emoji, np.asarray(picture)))
    return sprites


def write(sprites: list[Sprite], path: Path) -> int:
    """Keep those of the drawings that ship; returns how many they are."""
    drawn = {name: entry["draw"] for name, entry in things_table()["classes"].items()}
    chosen = [sprite for sprite in sprites if sprite.key == drawn[sprite.name]]
    with zipfile.ZipFile(path, "w") as files:
        for sprite in chosen:
            stream = io.BytesIO()
            Image.fromarray(sprite.pixels).save(stream, "PNG", optimize=True)
            files.writestr(zipfile.ZipInfo(f"{sprite.name}.png", _DATE), stream.getvalue())
    return len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m janus.data.shipped", description=__doc__)
    parser.add_argument("--work", type=Path, default=WORK)
    sprites = load_sprites(parser.parse_args().work)
    path = Path(__file__).with_name(FILE)
    print(f"{write(sprites, path)} drawings, {path.stat().st_size:,} bytes in {path}")


if __name__ == "__main__":
    main()
