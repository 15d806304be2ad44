"""The pictures that the embedded world is made of: openly licensed emoji art, fetched from npm.

`load_sprites` downloads the pinned packages once (`npm pack`, checksum verified), renders every
drawing that `art.json` names, and keeps the result as one file in the work folder.  Drawings come
with transparency, so that scenes can put them on any background.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 128  # pixels of a rendered drawing
_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


@dataclass(frozen=True)
class Sprite:
    """One drawing of one kind of thing."""

    name: str  # GenEval's class name
    style: str  # the art set, a key of art.json's packages
    emoji: str
    pixels: np.ndarray  # (h, w, 4) uint8, cropped to what is drawn, at most SIDE on a side


def art_table() -> dict[str, Any]:
    """The parsed `art.json`: `packages` by style, and the emoji of each class."""
    return json.loads(resources.files("janus.data").joinpath("art.json").read_text(encoding="utf-8"))


def load_sprites(work: Path) -> list[Sprite]:
    """Every drawing of every class in every style, from `work/sprites.npz` or made anew.

    Raises ValueError when a downloaded package is not the pinned one.
    """
    table = art_table()
    key = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:12]
    path = work / f"sprites-{key}.npz"
    if not path.exists():
        sprites = [sprite for style in table["packages"] for sprite in _render_style(style, table, work)]
        names = np.array([[s.name, s.style, s.emoji] for s in sprites])
        arrays = {f"pixels_{i}": s.pixels for i, s in enumerate(sprites)}
        beside = path.with_suffix(".tmp.npz")
        np.savez_compressed(beside, allow_pickle=False, names=names, **arrays)
        beside.rename(path)
    with np.load(path) as stored:
        return [
            Sprite(str(name), str(style), str(emoji), stored[f"pixels_{i}"])
            for i, (name, style, emoji) in enumerate(stored["names"])
        ]


def fetch_package(package: dict[str, str], folder: Path) -> Path:
    """The package's archive in `folder`, downloaded through npm unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package["file"]
    if not path.exists():
        subprocess.run(["npm", "pack", "--silent", package["npm"]], cwd=folder, check=True)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package["sha256"]:
        raise ValueError(f"{path} has sha256 {found}, the pinned {package['npm']} has {package['sha256']}")
    return path


def _render_style(style: str, table: dict[str, Any], work: Path) -> list[Sprite]:
    archive = fetch_package(table["packages"][style], work / "npm")
    wanted = [(name, emoji) for name, emojis in table["classes"].items() for emoji in emojis]
    with tarfile.open(archive) as files:
        if "package/icons.json" in files.getnames():
            found = _from_icons(_member(files, "package/icons.json"), _emoji_names(work, table), wanted)
        else:
            found = _from_webp(files, wanted)
    return [Sprite(name, style, emoji, _crop(picture)) for name, emoji, picture in found]


def _emoji_names(work: Path, table: dict[str, Any]) -> dict[str, str]:
    """Code points to icon names.  The sets agree on the names, and not all carry the table."""
    with tarfile.open(fetch_package(table["packages"]["noto"], work / "npm")) as files:
        return json.loads(_member(files, "package/chars.json"))


def _from_icons(
    text: bytes, names: dict[str, str], wanted: list[tuple[str, str]]
) -> list[tuple[str, str, Image.Image]]:
    import resvg_py  # only needed to make training data

    icons = json.loads(text)
    found: list[tuple[str, str, Image.Image]] = []
    for name, emoji in wanted:
        icon = icons["icons"].get(names[f"{ord(emoji):x}"])
        if icon is None:
            continue
        width = icon.get("width", icons.get("width", 16))
        height = icon.get("height", icons.get("height", 16))
        svg = f'<svg {_NAMESPACES} viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)
        found.append((name, emoji, Image.open(io.BytesIO(bytes(png)))))
    return found


def _from_webp(files: tarfile.TarFile, wanted: list[tuple[str, str]]) -> list[tuple[str, str, Image.Image]]:
    present = set(files.getnames())
    found: list[tuple[str, str, Image.Image]] = []
    for name, emoji in wanted:
        for ending in ("", "-fe0f"):
            path = f"package/assets/{ord(emoji):x}{ending}.webp"
            if path in present:
                found.append((name, emoji, Image.open(io.BytesIO(_member(files, path)))))
                break
    return found


def _member(files: tarfile.TarFile, path: str) -> bytes:
    stream = files.extractfile(path)
    assert stream is not None, path
    return stream.read()


def _crop(picture: Image.Image) -> np.ndarray:
    """Without transparent borders, the longer side at SIDE pixels."""
    picture = picture.convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    picture = picture.crop(box)
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
