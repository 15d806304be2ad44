"""Pictures that come in requests, read with care, and pictures that are sent back."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from janus.config import ImageConfig
from janus.encoders.preprocess import load_image, square
from janus.gallery import to_png
from janus.serve.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def is_inline(url: str) -> bool:
    return url[:5].lower() == "data:"


def inline(url: str) -> bytes:
    """The bytes in a data: URL.  Raises ValueError where it is not a picture in base64."""
    head, comma, content = url.partition(",")
    kind, *options = head[:200].lower().split(";")
    if not comma or not kind.startswith("data:image/") or options[-1:] != ["base64"]:
        raise ValueError("a picture must be sent as data:image/png;base64,... (or jpeg, webp, gif, bmp)")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the picture after data:...;base64, is not base64") from error


def read(data: bytes, config: ImageConfig, limits: Limits) -> Image.Image:
    """A picture file as the square that the model looks at; of an animation, the first picture.

    It is scaled here, so that many large ones are never in memory together.  Its size is checked before it
    is unpacked.  Raises ValueError where it is of another format, too large or damaged.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"a picture may have {limits.pixels:,} pixels; this one has more") from error
    except Exception as error:
        known = ", ".join(FORMATS)
        raise ValueError(f"a picture of {len(data)} bytes is none of {known}, or damaged") from error
    with image:
        pixels = image.width * image.height
        if pixels > limits.pixels:
            raise ValueError(
                f"a picture may have {limits.pixels:,} pixels; this one has {pixels:,} "
                f"({image.width}x{image.height})"
            )
        if pixels < 1:
            raise ValueError(f"a picture of {image.width}x{image.height} pixels shows nothing")
        try:
            return square(load_image(_eight_bits(image)), config)
        except Exception as error:  # decoders raise whatever they like on damaged files
            raise ValueError(f"a {image.format} picture of {len(data)} bytes is damaged") from error


def encoded(picture: Image.Image) -> str:
    """A PNG with the picture's settings, in base64."""
    return base64.b64encode(to_png(picture)).decode()


def all_encoded(pictures: Sequence[Image.Image]) -> list[str]:
    return [encoded(picture) for picture in pictures]


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow clips 16 bits where it should scale them; and it warns of palettes with transparency."""
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray((values >> 8).astype(np.uint8))
