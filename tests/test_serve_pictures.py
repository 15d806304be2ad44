"""Pictures in requests: kinds, depths and sizes, and what is none."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from janus.config import PRESETS
from janus.encoders.preprocess import load_image, preprocess, square
from janus.serve import pictures
from janus.serve.limits import Limits

CONFIG = PRESETS["tiny-v3"].image
LIMITS = Limits(pixels=10_000)


def _file(picture: Image.Image, kind: str, **more: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **more)
    return data.getvalue()


def _gradient(mode: str = "RGB") -> Image.Image:
    return Image.linear_gradient("L").resize((60, 40)).convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_each_kind_is_what_the_model_would_see(kind: str) -> None:
    data = _file(_gradient(), kind)
    got = pictures.read(data, CONFIG, LIMITS)
    assert got.size == (CONFIG.size, CONFIG.size)
    assert np.array_equal(preprocess([got], CONFIG), preprocess([load_image(data)], CONFIG))


@pytest.mark.parametrize("size", [(1, 9000), (9000, 1), (100, 100), (7, 13), (1, 1)])
def test_a_square_stays_as_it_is(size: tuple[int, int]) -> None:
    once = square(_gradient().resize(size), CONFIG)
    assert once.tobytes() == square(once, CONFIG).tobytes()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA"])
def test_each_mode_becomes_rgb(mode: str) -> None:
    got = pictures.read(_file(_gradient(mode), "PNG"), CONFIG, LIMITS)
    assert got.mode == "RGB"
    assert got.tobytes() == square(_gradient(mode).convert("RGB"), CONFIG).tobytes()


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_is_taken_quietly() -> None:
    palette = _gradient("P")
    data = _file(palette, "PNG", transparency=bytes(range(256)))
    assert pictures.read(data, CONFIG, LIMITS).tobytes() == square(palette.convert("RGB"), CONFIG).tobytes()


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    levels = np.linspace(0, 65535, 60 * 40).reshape(40, 60).astype(np.uint16)
    got = pictures.read(_file(Image.fromarray(levels), "PNG"), CONFIG, LIMITS)
    wanted = square(Image.fromarray((levels >> 8).astype(np.uint8)).convert("RGB"), CONFIG)
    assert got.tobytes() == wanted.tobytes()
    assert 20 < np.asarray(got).std() < 90


def test_cmyk_keeps_its_colours() -> None:
    red = Image.new("RGB", (40, 40), (200, 30, 30))
    got = pictures.read(_file(red.convert("CMYK"), "JPEG"), CONFIG, LIMITS)
    assert np.abs(np.asarray(got, int)[8:-8, 8:-8] - (200, 30, 30)).max() < 12


def test_the_first_picture_of_an_animation() -> None:
    first, second = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    for kind in ("GIF", "WEBP", "PNG"):
        data = _file(first, kind, save_all=True, append_images=[second])
        got = np.asarray(pictures.read(data, CONFIG, LIMITS), int)
        assert got[CONFIG.size // 2, CONFIG.size // 2, 0] > 200, kind


def test_an_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = _file(_gradient(), "JPEG", exif=exif)
    assert pictures.read(data, CONFIG, LIMITS).tobytes() == square(load_image(data), CONFIG).tobytes()


def _png_of(width: int, height: int) -> bytes:
    """Whose header says so; there is little behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_file(Image.new("RGB", (101, 100)), "PNG"), "10,100"),
        (_png_of(20_000, 20_000), "10,000 pixels"),
        (_png_of(2**31 - 1, 2**31 - 1), "10,000 pixels"),
        (_png_of(0, 0), "damaged"),
        (_png_of(50, 50), "damaged"),
        (_file(_gradient(), "PNG")[:-60], "damaged"),
        (_file(_gradient(), "JPEG")[:400], "damaged"),
        (_file(_gradient(), "WEBP")[:60], "damaged"),
        (_file(_gradient(), "GIF")[:200], "damaged"),
        (_file(_gradient(), "TIFF"), "none of PNG"),
        (_file(_gradient(), "ICO"), "none of PNG"),
        (_file(_gradient(), "PDF"), "none of PNG"),
        (_file(_gradient(), "EPS"), "none of PNG"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>', "none of PNG"),
        (b"", "none of PNG"),
        (b"/etc/passwd", "none of PNG"),
    ],
)
def test_what_is_no_picture_is_told(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pictures.read(data, CONFIG, LIMITS)


def test_a_bomb_takes_no_memory() -> None:
    code = """
import resource, sys
from janus.config import PRESETS
from janus.serve import pictures
from janus.serve.limits import Limits
from PIL import Image
import io
Image.MAX_IMAGE_PIXELS = None
kinds = [("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {})]
files = []
for kind, more in kinds:
    data = io.BytesIO(); Image.new("L" if kind != "WEBP" else "RGB", (9000, 9000)).save(data, kind, **more)
    files.append(data.getvalue())
sys.stdout.buffer.write(repr(files).encode())
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    code = """
import ast, resource, sys
from janus.config import PRESETS
from janus.serve import pictures
from janus.serve.limits import Limits
files = ast.literal_eval(sys.stdin.read())
small = pictures.FORMATS
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in files:
    try:
        pictures.read(data, PRESETS["tiny-v3"].image, Limits())
    except ValueError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], input=made, capture_output=True, check=True)
    *sentences, grown = done.stdout.decode().splitlines()
    assert len(sentences) == 3
    assert all("9000x9000" in sentence for sentence in sentences)
    assert int(grown) < 20  # MiB; unpacked they have hundreds


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,%%%",
        "data:image/png;base64,AAA",
        "data:image/png;base64,AAAA\nAAAA",
        "data:image/png;base64,ÄÄÄÄ",
        "data:image/png,AAAA",
        "data:text/html;base64,AAAA",
        "data:;base64,AAAA",
        "data:image/png;base64",
        "iVBORw0KGgo",
        "/etc/passwd",
    ],
)
def test_what_is_no_picture_in_base64_is_told(url: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        pictures.inline(url)


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:image/jpeg;base64,", "data:image/x;a=b;base64,"]
)
def test_a_picture_in_base64_is_unpacked(head: str) -> None:
    assert pictures.inline(head + base64.b64encode(b"picture").decode()) == b"picture"
