"""Drawn pictures on disk: PNG files that remember how they were drawn, and a contact sheet."""

from __future__ import annotations

import io
import json
import math
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

from janus import __version__


def check_folder(folder: str | Path) -> Path:
    """Make `folder` and prove that files can be written there, before any work is done.

    Raises ValueError saying why they cannot.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into the folder {path}: {error.strerror or error}") from error
    return path


def save_pictures(pictures: Sequence[Image.Image], folder: str | Path) -> list[Path]:
    """Write each picture as `<words of its prompt>-<seed>.png`, never over an existing file.

    Prompt, seed and settings, as `Janus.generate_images` left them in `info`, go into the PNG's text
    entry `janus`.  Returns the paths.  Raises ValueError where a file cannot be written.
    """
    path = check_folder(folder)
    written = []
    for picture in pictures:
        name = f"{_slug(str(picture.info.get('prompt', 'picture')))}-{picture.info.get('seed', 0)}"
        written.append(_write(to_png(picture), path, name))
    return written


def to_png(picture: Image.Image) -> bytes:
    """A PNG file with what is in the picture's `info` in its text entry `janus`, as JSON."""
    settings = {name: value for name, value in picture.info.items() if isinstance(name, str)}
    entry = PngImagePlugin.PngInfo()
    entry.add_itxt("janus", json.dumps({"version": __version__, **settings}, ensure_ascii=False))
    return _png(picture, entry)


def save_sheet(pictures: Sequence[Image.Image], folder: str | Path) -> Path:
    """Write all `pictures` side by side as one PNG and return its path."""
    return _write(_png(contact_sheet(pictures)), check_folder(folder), "sheet")


def contact_sheet(pictures: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Pictures of one size in a grid that is about as wide as high, `gap` pixels apart."""
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + gap), i // columns * (height + gap)))
    return sheet


def _png(picture: Image.Image, entry: PngImagePlugin.PngInfo | None = None) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=entry)
    return data.getvalue()


def _write(data: bytes, folder: Path, name: str) -> Path:
    """A name of its own, and either the whole file or none."""
    number = 1
    while True:
        path = folder / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            number += 1
            continue
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
        break
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _slug(text: str) -> str:
    words = re.sub(r"[^\w]+", "-", text.lower()).strip("-_")
    return words.encode()[:60].decode(errors="ignore").rstrip("-") or "picture"
