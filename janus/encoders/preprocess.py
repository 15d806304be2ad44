"""Pictures as the understanding encoder wants them: read, scaled, padded to a square, normalised.

The arithmetic is the official processor's (janus/models/image_processing_vlm.py), bit for bit, with
the Pillow of its time (11.0); newer Pillows scale some pictures differently, ours stays the same.

Shapes: N pictures, S side of the prepared square.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from janus.config import ImageConfig

ImageSource = str | Path | bytes | Image.Image

# what PIL's decoders raise on damaged files
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, struct.error, zlib.error)


def load_image(source: ImageSource) -> Image.Image:
    """A path, the bytes of a file or a PIL picture as an RGB picture, read to its end.

    As in the official code, transparency is dropped and an EXIF orientation is not applied.  Raises
    ValueError naming the source where it is missing, is not a picture, is damaged, or unpacks to
    more pixels than PIL allows.
    """
    name = _name(source)
    try:
        if isinstance(source, Image.Image):
            return source.convert("RGB")
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise ValueError(f"{name}: there is no such file") from error
    except UnidentifiedImageError as error:  # its own words name an object in memory
        raise ValueError(f"{name}: not a readable picture (of no known format)") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error}") from error
    except _DAMAGED as error:
        raise ValueError(f"{name}: not a readable picture ({error})") from error


def preprocess(images: Sequence[Image.Image], config: ImageConfig) -> Tensor:
    """RGB pictures of any size to (N, 3, S, S) float32.

    The longer side becomes S, the shorter keeps the aspect ratio but not below `config.min_size`;
    the rest of the square is filled with the mean colour.  `config.rounding` says how the scaled
    side becomes a whole number: "truncate" as in the official code; "round" as in transformers,
    whose bicubic filter still differs by up to 2 of 255 in a few of a thousand values.
    """
    pixels = np.empty((len(images), 3, config.size, config.size), dtype=np.float32)
    mean = np.array(config.mean, dtype=np.float32)
    std = np.array(config.std, dtype=np.float32)
    for out, image in zip(pixels, images, strict=True):
        values = np.asarray(square(image, config)) / np.float32(255)
        out[:] = ((values - mean) / std).transpose(2, 0, 1)
    return torch.from_numpy(pixels)


def crop(images: Sequence[Image.Image], size: int) -> Tensor:
    """RGB pictures of any size to (N, 3, size, size) float32 in [-1, 1], for learning to draw them.

    The shorter side becomes `size`, the longer is cropped around its middle (Janus report, section 3.2).
    """
    pixels = np.empty((len(images), 3, size, size), dtype=np.float32)
    for out, image in zip(pixels, images, strict=True):
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        square = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
        out[:] = (np.asarray(square, dtype=np.float32) / 127.5 - 1).transpose(2, 0, 1)
    return torch.from_numpy(pixels)


def scaled_size(width: int, height: int, config: ImageConfig) -> tuple[int, int]:
    """Width and height after scaling, before padding."""
    longer = max(width, height)
    if config.rounding == "truncate":
        sides = [int(side / longer * config.size) for side in (width, height)]
    else:
        sides = [round(side * (config.size / longer)) for side in (width, height)]
    return max(sides[0], config.min_size), max(sides[1], config.min_size)


def square(image: Image.Image, config: ImageConfig) -> Image.Image:
    """An RGB picture as `preprocess` lays it into the square; of such a square, the same again."""
    width, height = scaled_size(*image.size, config)
    # across, then down: left to itself, Pillow since 12.3 may take the other order and round otherwise
    across = image.resize((width, image.height), Image.Resampling.BICUBIC)
    scaled = across.resize((width, height), Image.Resampling.BICUBIC)
    colour = tuple(int(mean * 255) for mean in config.mean)
    square = Image.new("RGB", (config.size, config.size), colour)
    square.paste(scaled, ((config.size - width) // 2, (config.size - height) // 2))
    return square


def _name(source: ImageSource) -> str:
    if isinstance(source, Image.Image):
        return f"a {source.mode} picture of {source.width}x{source.height}"
    if isinstance(source, bytes):
        return f"a picture of {len(source)} bytes"
    if isinstance(source, str | Path):
        return str(source)
    raise ValueError(f"a picture must be a path, bytes or a PIL image, not {type(source).__name__}")
