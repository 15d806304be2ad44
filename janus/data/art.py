"""The pictures that the embedded world is made of: openly licensed emoji and icons, fetched from npm.

    python -m janus.data.art [--work DIR]

`load_sprites` downloads the pinned packages once (`npm pack`, checksum verified), renders every
drawing that `art.json` names, and keeps one file per art set in the work folder, so that an interrupted
run goes on where it stopped.  Drawings come with transparency: scenes can put them on any background.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from janus.data.paint import colour_icon

WORK = Path.home() / ".cache" / "janus" / "world"  # where the art is kept, unless told otherwise
SIDE = 128  # pixels of a rendered drawing
Table = dict[str, Any]
_MADE = 4  # counted up when the code below draws differently, so that kept files are made anew
_NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


@dataclass(frozen=True)
class Sprite:
    """One drawing of one kind of thing."""

    name: str  # GenEval's class name
    style: str  # the art set, a key of art.json's packages
    emoji: str  # the emoji, or the icon's name in its set
    pixels: np.ndarray  # (h, w, 4) uint8, cropped to what is drawn, at most SIDE on a side

    @property
    def key(self) -> str:
        """What the tables call this drawing, such as "noto:🍎" or "mdi:fridge"."""
        return f"{self.style}:{self.emoji}"


def art_table() -> Table:
    """The parsed `art.json`.

    `packages` by style; the drawings of each class in `classes`, an emoji in every emoji style or
    "style:drawing" in one; `left_out`, where an emoji shows something else than elsewhere; `drawings`,
    how some are cut or coloured, see `_cut` and `paint.colour_icon`; `icon_colours` by class.
    """
    table: Table = json.loads(resources.files("janus.data").joinpath("art.json").read_text(encoding="utf-8"))
    return table


def load_sprites(work: Path = WORK, table: Table | None = None) -> list[Sprite]:
    """Every drawing of every class in every style, from files in `work` or made anew with a progress bar.

    `table` is as `art_table` gives it, which is the one that counts if it is left out.
    Raises ValueError when a downloaded package is not the pinned one or lacks a drawing, and OSError when
    npm is missing or can't download.
    """
    from tqdm import tqdm

    table = art_table() if table is None else table
    wanted = {style: list(_wanted(style, table)) for style in table["packages"]}
    paths = {style: work / "sprites" / f"{style}-{_digest(style, wanted, table)}.npz" for style in wanted}
    missing = [style for style, path in paths.items() if not path.exists()]
    with tqdm(missing, unit="set", disable=not missing) as bar:
        for style in bar:
            bar.set_description(f"art: {style}")
            _keep(paths[style], _render_style(style, wanted[style], table, work / "npm"))
    return [sprite for style in wanted for sprite in _read(paths[style], style)]


def fetch_package(package: dict[str, str], folder: Path) -> Path:
    """The package's archive in `folder`, downloaded through npm unless it is there already.

    Raises ValueError when its checksum is not the pinned one, and OSError when it can't be downloaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package["file"]
    if path.exists():
        _check(path, package)
        return path
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        command = ["npm", "pack", "--loglevel=error", package["npm"]]
        try:
            subprocess.run(command, cwd=beside, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            message = f"npm is not installed, and {package['npm']} can't be fetched without it"
            raise OSError(f"{message}; install Node.js, or put {package['file']} into {folder}") from error
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout or "no reason given").strip()[:300]
            raise OSError(f"npm could not fetch {package['npm']} (is there a network?): {said}") from error
        fetched = Path(beside) / package["file"]
        _check(fetched, package)
        fetched.rename(path)
    return path


def _check(path: Path, package: dict[str, str]) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != package["sha256"]:
        raise ValueError(
            f"{path} has sha256 {found}, the pinned {package['npm']} has {package['sha256']}; "
            "if the file was damaged, delete it and try again"
        )


def _wanted(style: str, table: Table) -> Iterator[tuple[str, str]]:
    """Class and drawing, of what is wanted from a style."""
    icons = table["packages"][style].get("kind") == "icons"
    for name, drawings in table["classes"].items():
        for drawing in drawings:
            own, _, rest = drawing.rpartition(":")
            if own == style or (not own and not icons and f"{style}:{rest}" not in table.get("left_out", ())):
                yield name, rest


def _options(style: str, drawing: str, table: Table) -> dict[str, Any]:
    """How a drawing is cut and coloured: what is said of it in this style, or else in all."""
    options = table.get("drawings", {})
    found: dict[str, Any] = options.get(f"{style}:{drawing}", options.get(drawing, {}))
    return found


def _digest(style: str, wanted: dict[str, list[tuple[str, str]]], table: Table) -> str:
    """Names a style's file after all that it depends on."""
    parts = [[*what, _options(style, what[1], table)] for what in wanted[style]]
    told = [_MADE, SIDE, table["packages"][style], parts, table.get("icon_colours")]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _keep(path: Path, sprites: list[Sprite]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as beside:
        arrays = {f"pixels_{i}": sprite.pixels for i, sprite in enumerate(sprites)}
        names = np.array([[sprite.name, sprite.emoji] for sprite in sprites])
        whole = Path(beside) / path.name
        np.savez_compressed(whole, allow_pickle=False, names=names, **arrays)
        whole.rename(path)


def _read(path: Path, style: str) -> Iterator[Sprite]:
    with np.load(path) as stored:
        for i, (name, emoji) in enumerate(stored["names"]):
            yield Sprite(str(name), style, str(emoji), stored[f"pixels_{i}"])


def _render_style(style: str, wanted: list[tuple[str, str]], table: Table, folder: Path) -> list[Sprite]:
    archive = fetch_package(table["packages"][style], folder)
    icons = table["packages"][style].get("kind") == "icons"
    names = {} if icons else _emoji_names(folder, table)
    sprites = []
    with tarfile.open(archive) as files:
        present = set(files.getnames())
        drawn = json.loads(_member(files, "package/icons.json")) if "package/icons.json" in present else None
        for name, drawing in wanted:
            options = _options(style, drawing, table)
            if drawn is None:
                picture = _from_webp(files, present, drawing)
            else:
                picture = _from_icons(drawn, drawing if icons else names[f"{ord(drawing):x}"])
            if picture is None and icons:
                raise ValueError(
                    f"{table['packages'][style]['npm']} has no {drawing!r}, which art.json names"
                )
            if picture is None:
                continue  # not every emoji set has every emoji
            picture = _cut(picture, **{k: v for k, v in options.items() if k != "holes"})
            if icons:
                own = ImageColor.getrgb(table["icon_colours"][name])
                picture = colour_icon(picture, own[:3], options.get("holes", "light"))
            sprites.append(Sprite(name, style, drawing, _crop(picture)))
    return sprites


def _emoji_names(folder: Path, table: Table) -> dict[str, str]:
    """Code points to icon names.  The sets agree on the names, and not all carry the table."""
    with tarfile.open(fetch_package(table["packages"]["noto"], folder)) as files:
        names: dict[str, str] = json.loads(_member(files, "package/chars.json"))
    return names


def _from_icons(drawn: dict[str, Any], name: str) -> Image.Image | None:
    import resvg_py  # only needed to make training data

    icon = drawn["icons"].get(name) or drawn["icons"].get(name.replace("-", ""))  # as fxemoji writes them
    if icon is None:
        return None
    width, height = (icon.get(key, drawn.get(key, 16)) for key in ("width", "height"))
    svg = f'<svg {_NAMESPACES} viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIDE, height=2 * SIDE)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def _from_webp(files: tarfile.TarFile, present: set[str], emoji: str) -> Image.Image | None:
    for ending in ("", "-fe0f"):
        path = f"package/assets/{ord(emoji):x}{ending}.webp"
        if path in present:
            return Image.open(io.BytesIO(_member(files, path))).convert("RGBA")
    return None


def _member(files: tarfile.TarFile, path: str) -> bytes:
    stream = files.extractfile(path)
    assert stream is not None, path
    return stream.read()


def _cut(
    picture: Image.Image, part: tuple[float, float, float, float] | None = None, largest: bool = False
) -> Image.Image:
    """Only a `part` (left, top, right, bottom as shares of the sides), only the `largest` connected piece."""
    if part is not None:
        left, top, right, bottom = part
        width, height = picture.size
        picture = picture.crop(
            (round(left * width), round(top * height), round(right * width), round(bottom * height))
        )
    if largest:
        pieces = picture.getchannel("A").point(lambda a: 255 * (a > 32))
        sizes = {}
        for level in range(1, 250):
            rest = np.argwhere(np.asarray(pieces) == 255)
            if not len(rest):
                break
            ImageDraw.floodfill(pieces, (int(rest[0, 1]), int(rest[0, 0])), level)
            sizes[level] = int((np.asarray(pieces) == level).sum())
        keep = np.asarray(pieces) == max(sizes, key=lambda level: sizes[level])
        picture = Image.fromarray(np.asarray(picture) * keep[..., None].astype(np.uint8))
    return picture


def _crop(picture: Image.Image) -> np.ndarray:
    """Without transparent borders, the longer side at SIDE pixels."""
    box = picture.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    picture = picture.crop(box)
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m janus.data.art", description="Fetch and render the art.")
    parser.add_argument("--work", type=Path, default=WORK, help="where the art is kept")
    work = parser.parse_args().work
    sprites = load_sprites(work)
    print(f"{len(sprites)} drawings of {len({s.name for s in sprites})} classes in {work / 'sprites'}")


if __name__ == "__main__":
    main()
