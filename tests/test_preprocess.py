"""Pictures into pixels: bit for bit the official processor, and no crash on what users send."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import JanusImageProcessor

from janus.config import ImageConfig
from janus.encoders.preprocess import crop, load_image, preprocess, scaled_size

# Made with the official VLMImageProcessor (deepseek-ai/Janus at 1daa72f, image_size=384, min_size=14) on
# the pictures of `noise`.  Pillow 11: since 12.3 Pillow scales slim portraits in another order.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "preprocess.json").read_text())


def noise(width: int, height: int, seed: int) -> Image.Image:
    """The raw stream of numpy's Philox generator, 64 bits at a time in little-endian order, as pixels."""
    count = width * height * 3
    words = np.random.Philox(seed).random_raw(-(-count // 8)).astype("<u8")
    return Image.fromarray(words.view(np.uint8)[:count].reshape(height, width, 3))


@pytest.mark.parametrize("group", GOLDEN["groups"], ids=["half", "clip"])
def test_bitwise_equal_to_the_official_processor(group: dict[str, Any]) -> None:
    config = ImageConfig(mean=tuple(group["mean"]), std=tuple(group["std"]))
    wrong = [
        (width, height)
        for width, height, seed, digest in group["rows"]
        if hashlib.sha256(preprocess([noise(width, height, seed)], config).numpy().tobytes()).hexdigest()
        != digest
    ]
    assert not wrong


def test_round_follows_transformers() -> None:
    """Equal sides; the filters differ by at most 2 of 255 levels in under 1 % of a picture's values."""
    theirs = JanusImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    config = ImageConfig(rounding="round")
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 900), (900, 1), *rng.integers(1, 900, (25, 2)).tolist()]
    differ = 0
    for seed, (width, height) in enumerate(sizes):
        image = noise(width, height, seed)
        expected = theirs([image], return_tensors="pt").pixel_values
        levels = ((preprocess([image], config) - expected) * 127.5).abs()
        assert levels.max() < 2.01
        assert (levels > 0.5).float().mean() < 0.01
        differ += scaled_size(width, height, config) != scaled_size(width, height, ImageConfig())
    assert differ > 5  # the two ways of rounding are told apart


def test_several_pictures_are_each_prepared_alone() -> None:
    images = [noise(30, 40, 0), noise(500, 20, 1), noise(7, 7, 2)]
    config = ImageConfig(size=64)
    together = preprocess(images, config)
    assert together.shape == (3, 3, 64, 64)
    assert together.dtype == torch.float32
    assert torch.equal(together, torch.cat([preprocess([image], config) for image in images]))
    assert preprocess([], config).shape == (0, 3, 64, 64)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 6000), st.integers(1, 6000), st.integers(14, 400), st.sampled_from(["truncate", "round"])
)
def test_any_size_fits_the_square(width: int, height: int, size: int, rounding: Any) -> None:
    sides = scaled_size(width, height, ImageConfig(size=size, rounding=rounding))
    assert max(sides) == size
    assert min(sides) >= 14


def test_config_refuses_a_short_side_longer_than_the_square() -> None:
    with pytest.raises(ValueError, match=r"min_size=14 .* size=8"):
        ImageConfig(size=8)


def _file(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_paths_bytes_and_pictures_load_alike(tmp_path: Path) -> None:
    image = noise(9, 5, 0)
    path = tmp_path / "noise.png"
    path.write_bytes(_file(image, "PNG"))
    for source in (path, str(path), path.read_bytes(), image):
        loaded = load_image(source)
        assert loaded.mode == "RGB"
        assert np.array_equal(np.asarray(loaded), np.asarray(image))


def test_transparency_is_dropped_and_orientation_ignored() -> None:
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert load_image(clear).getpixel((0, 0)) == (10, 20, 30)
    turned = Image.Exif()
    turned[0x0112] = 6  # the orientation tag: turn a quarter
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=turned)
    assert load_image(buffer.getvalue()).size == (8, 4)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(bytes(1000)))
)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/file.png", r"no/such/file\.png: there is no such file"),
        (Path("no/such/file.png"), r"no/such/file\.png: there is no such file"),
        (b"", r"0 bytes: not a readable picture \(of no known format\)$"),
        (b"words, not pixels", "17 bytes: not a readable picture"),
        (_file(noise(40, 40, 0), "PNG")[:2000], "2000 bytes: not a readable picture"),
        (BOMB, "decompression bomb"),
        (7, "a path, bytes or a PIL image, not int"),
        ("a\0b", "not a readable picture"),
    ],
    ids=["missing", "missing-path", "empty", "words", "cut", "bomb", "number", "nul"],
)
def test_what_is_no_picture_is_refused_by_name(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_image(source)


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_image(tmp_path)


FILES = [
    _file(noise(12, 9, 0), kind)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "ICO")
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(FILES))
def test_damaged_files_raise_nothing_but_value_error(data: st.DataObject, file: bytes) -> None:
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        loaded = load_image(bytes(damaged[: data.draw(st.integers(0, len(file)))]))
    except ValueError:
        return
    assert loaded.mode == "RGB"


def test_pictures_to_draw_are_cropped_around_their_middle() -> None:
    wide = Image.new("RGB", (90, 30), (255, 0, 0))
    wide.paste((0, 0, 255), (30, 0, 60, 30))
    tall = wide.transpose(Image.Transpose.ROTATE_90)
    blue = torch.tensor([-1.0, -1.0, 1.0])[:, None, None].expand(3, 24, 24)
    for pixels in crop([wide, tall, wide.crop((30, 0, 60, 30))], 24):
        middle = slice(3, -3)  # the filter blends at the cuts
        torch.testing.assert_close(pixels[:, middle, middle], blue[:, middle, middle])
