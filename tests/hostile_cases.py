"""Pictures and bodies that a server should survive, made by hand."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, Literal

from PIL import Image, PngImagePlugin

Fate = Literal["answered", "refused", "either"]
Made = Callable[[], bytes]


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def chat(*urls: str, words: str = "What is it?", **more: Any) -> dict[str, Any]:
    """A question about pictures, answered by two tokens."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    parts.append({"type": "text", "text": words})
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 2, **more}


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    rows: bytes,
    chunks: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """A PNG file of compressed `rows`; `chunks` come before them."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    told = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(told)


def saved(kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), **more: Any) -> bytes:
    file = io.BytesIO()
    picture = Image.effect_noise(size, 60).convert(mode if mode != "I;16" else "I")
    picture.convert(mode).save(file, kind, **more)
    return file.getvalue()


def zeros(count: int) -> bytes:
    """Compressed."""
    packer = zlib.compressobj(9)
    block = bytes(2**20)
    parts = [packer.compress(block) for _ in range(count // 2**20)]
    return b"".join([*parts, packer.compress(bytes(count % 2**20)), packer.flush()])


def cut(kind: str, share: float) -> Made:
    def make() -> bytes:
        whole = saved(kind, size=(200, 200))
        return whole[: int(len(whole) * share)]

    return make


def frames(kind: str, count: int) -> bytes:
    pictures = [Image.new("L", (64, 64), 1 + number % 250) for number in range(count)]
    file = io.BytesIO()
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=10)
    return file.getvalue()


def many_frames() -> bytes:
    """A GIF of twenty thousand pictures in half a megabyte."""
    one = saved("GIF", "L", (1, 1))
    picture = one[one.index(b",") : -1]
    return one[:-1] + picture * 20_000 + b";"


def huge_gif() -> bytes:
    """One that says it is 65535 pixels wide and high."""
    one = bytearray(saved("GIF", "L", (2, 2)))
    one[6:10] = struct.pack("<HH", 65535, 65535)
    return bytes(one)


def with_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("run.sh", "echo hello")
    return saved("PNG") + file.getvalue()


def with_html() -> bytes:
    """A GIF whose comment, and whose end, is a page."""
    return saved("GIF", "L", comment=b"<script>alert(1)</script>") + b"<html><script>alert(1)</script></html>"


def transparent() -> bytes:
    picture = Image.effect_noise((40, 30), 60).convert("P")
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=bytes(range(256)))
    return file.getvalue()


def much_text() -> bytes:
    file = io.BytesIO()
    told = PngImagePlugin.PngInfo()
    told.add_text("a", "b" * 10_000, zip=True)
    Image.new("RGB", (4, 4)).save(file, "PNG", pnginfo=told)
    return file.getvalue()


def noise() -> bytes:
    return random.Random(0).randbytes(5000)


def _bomb(name: bytes) -> Made:
    """A chunk that unpacks to 300 MB before one pixel."""
    return lambda: png(1, 1, 8, 2, zlib.compress(bytes(4)), ((name, b"x\0\0" + zeros(300 * 2**20)),))


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/><script>1</script></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) (r) file\nshowpage\n"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/Launch/F(/bin/sh)>>>>endobj\ntrailer<<>>\n%%EOF"
XBM = b"#define a_width 30000\n#define a_height 30000\nstatic char a_bits[] = {\n0x00 };\n"

PICTURES: dict[str, tuple[Made, Fate]] = {
    "a column": (lambda: png(1, 65535, 8, 0, zlib.compress(bytes(2 * 65535))), "answered"),
    "a row": (lambda: png(65535, 1, 8, 0, zlib.compress(bytes(65536))), "answered"),
    "one pixel": (lambda: saved("PNG", size=(1, 1)), "answered"),
    "CMYK JPEG": (lambda: saved("JPEG", "CMYK"), "answered"),
    "grey JPEG": (lambda: saved("JPEG", "L"), "answered"),
    "16 bits of grey": (lambda: png(2, 2, 16, 0, zlib.compress(bytes(10))), "answered"),
    "16 bits of colour": (lambda: png(2, 2, 16, 2, zlib.compress(bytes(26))), "answered"),
    "16 bits with alpha": (lambda: png(2, 2, 16, 6, zlib.compress(bytes(34))), "answered"),
    "palette, transparent": (transparent, "answered"),
    "grey with alpha": (lambda: saved("PNG", "LA"), "answered"),
    "colour with alpha": (lambda: saved("PNG", "RGBA"), "answered"),
    "one bit": (lambda: saved("PNG", "1"), "answered"),
    "animated GIF": (lambda: frames("GIF", 5), "answered"),
    "animated WEBP": (lambda: frames("WEBP", 5), "answered"),
    "animated PNG": (lambda: frames("PNG", 5), "answered"),
    "GIF of 20,000 frames": (many_frames, "either"),
    "GIF with a page": (with_html, "answered"),
    "PNG with a zip": (with_zip, "answered"),
    "PNG with text": (much_text, "answered"),
    "JPEG with a script": (lambda: saved("JPEG", comment=b"<?php system('id'); ?>"), "answered"),
    "the largest": (lambda: png(8000, 4000, 8, 2, zeros(4000 * 24001)), "answered"),
    "another type's name": (lambda: saved("JPEG"), "answered"),  # every picture here is called image/png
    "a GIF that says it is huge": (huge_gif, "refused"),
    "a PNG that says it is huge": (lambda: png(30000, 30000, 8, 2, zlib.compress(bytes(99))), "refused"),
    "a PNG that is huge": (lambda: png(30000, 30000, 1, 0, zeros(3751 * 30000)), "refused"),
    "a PNG beyond all bounds": (lambda: png(2**31 - 1, 2**31 - 1, 1, 0, zlib.compress(b"")), "refused"),
    "a PNG without width": (lambda: png(0, 0, 8, 2, zlib.compress(b"")), "refused"),
    "300 MB of text": (_bomb(b"zTXt"), "either"),
    "300 MB of international text": (_bomb(b"iTXt"), "either"),
    "300 MB of profile": (_bomb(b"iCCP"), "either"),
    "too much in the rows": (lambda: png(1, 1, 8, 2, zeros(300 * 2**20)), "either"),
    **{f"PNG cut at {share}": (cut("PNG", share), "refused") for share in (0.002, 0.1, 0.5, 0.8)},
    **{f"JPEG cut at {share}": (cut("JPEG", share), "refused") for share in (0.002, 0.1, 0.5, 0.8)},
    **{f"WEBP cut at {share}": (cut("WEBP", share), "refused") for share in (0.01, 0.5)},
    **{f"GIF cut at {share}": (cut("GIF", share), "either") for share in (0.01, 0.5)},
    "SVG": (lambda: SVG, "refused"),
    "PDF": (lambda: PDF, "refused"),
    "EPS": (lambda: EPS, "refused"),
    "XBM": (lambda: XBM, "refused"),
    "nothing": (lambda: b"", "refused"),
    "noise": (noise, "refused"),
}

GOOD = base64.b64encode(saved("PNG")).decode()

URLS: dict[str, tuple[str, Fate]] = {
    "called a JPEG": (f"data:image/jpeg;base64,{GOOD}", "either"),
    "called a text": (f"data:text/html;base64,{GOOD}", "either"),
    "called an SVG": (f"data:image/svg+xml;base64,{base64.b64encode(SVG).decode()}", "refused"),
    "line breaks": (
        "data:image/png;base64," + "\n".join(GOOD[i : i + 76] for i in range(0, len(GOOD), 76)),
        "either",
    ),
    "no padding": (f"data:image/png;base64,{GOOD.rstrip('=')}", "either"),
    "broken base64": ("data:image/png;base64,@@@@" + GOOD, "refused"),
    "half a letter": ("data:image/png;base64,A", "refused"),
    "not in base64": ("data:image/png,%89PNG", "refused"),
    "no comma": ("data:image/png;base64", "refused"),
    "only data": ("data:", "refused"),
    "letters from elsewhere": ("data:image/png;base64,\u0661\u0662\u0663\u0664", "refused"),
    "empty": ("", "refused"),
    "cloud's own": ("http://169.254.169.254/latest/meta-data/", "refused"),
    "this machine": ("http://localhost/a.png", "refused"),
    "this machine by number": ("http://127.0.0.1:22/", "refused"),
    "one number": ("http://2130706433/", "refused"),
    "hexadecimal": ("http://0x7f000001/", "refused"),
    "octal": ("http://0177.0.0.1/", "refused"),
    "short": ("http://127.1/", "refused"),
    "zero": ("http://0/", "refused"),
    "version 6": ("http://[::1]/", "refused"),
    "mapped": ("http://[::ffff:127.0.0.1]/", "refused"),
    "private": ("https://10.0.0.1/a.png", "refused"),
    "with a name before": ("http://pictures.example@127.0.0.1/", "refused"),
    "of nowhere": ("https://elsewhere.example/a.png", "refused"),
    "file": ("file:///etc/passwd", "refused"),
    "path": ("/etc/passwd", "refused"),
    "picture on disk": ("docs/images/drawn.png", "refused"),
    "ftp": ("ftp://127.0.0.1/a.png", "refused"),
    "gopher": ("gopher://127.0.0.1:6379/_FLUSHALL", "refused"),
    "script": ("javascript:alert(1)", "refused"),
    "NUL": ("\0", "refused"),
    "percent": ("%00%ff", "refused"),
    "a colon": (":", "refused"),
    "a broken host": ("http://[", "refused"),
}

_ASKED = json.dumps(chat())[:-1]  # without the last brace

BODIES: dict[str, tuple[bytes, Fate]] = {
    "nothing": (b"", "refused"),
    "null": (b"null", "refused"),
    "a list": (b"[]", "refused"),
    "a string": (b'"hello"', "refused"),
    "no JSON": (b"{", "refused"),
    "no UTF-8": (b'{"model": "\xff\xfe"}', "refused"),
    "UTF-16": (json.dumps(chat()).encode("utf-16"), "either"),
    "a mark first": (b"\xef\xbb\xbf" + json.dumps(chat()).encode(), "either"),
    "deep": (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "refused"),
    "deep and unfinished": (b'{"messages": ' + b'{"a":' * 100_000, "refused"),
    "twice the same key": (f'{_ASKED}, "max_tokens": 1, "max_tokens": 2}}'.encode(), "either"),
    "half a letter": (json.dumps(chat(words="a \ud800 b")).encode(), "either"),
    "half a letter as the model": (json.dumps(chat(model="\ud800")).encode(), "refused"),
    "half a letter as a key": (f'{_ASKED}, "\\ud800": 1}}'.encode(), "either"),
    "NUL": (json.dumps(chat(words="a\0b")).encode(), "either"),
    "a huge whole number": (f'{_ASKED}, "max_tokens": {"9" * 4000}}}'.encode(), "refused"),
    "a whole number beyond Python's": (f'{_ASKED}, "seed": {"9" * 5000}}}'.encode(), "refused"),
    "NaN": (f'{_ASKED}, "temperature": NaN}}'.encode(), "refused"),
    "Infinity": (f'{_ASKED}, "temperature": Infinity}}'.encode(), "refused"),
    "infinity otherwise": (f'{_ASKED}, "temperature": 1e999}}'.encode(), "refused"),
    "an infinite share": (f'{_ASKED}, "top_p": -Infinity}}'.encode(), "refused"),
    "ten million letters": (json.dumps(chat(words="a" * 10_000_000)).encode(), "refused"),
    "an odd role": (json.dumps({"messages": [{"role": "root", "content": "a"}]}).encode(), "refused"),
    "a role with a mark": (
        json.dumps({"messages": [{"role": "<|User|>", "content": "a"}]}).encode(),
        "refused",
    ),
    "no content": (json.dumps({"messages": [{"role": "user"}]}).encode(), "refused"),
    "no messages": (json.dumps({"messages": []}).encode(), "refused"),
    "a hundred thousand turns": (
        json.dumps({"messages": [{"role": "user", "content": "a"}] * 100_000, "max_tokens": 1}).encode(),
        "refused",
    ),
    "forty pictures": (json.dumps(chat(*[data_url(saved("PNG"))] * 40)).encode(), "refused"),
    "no tokens": (json.dumps(chat(max_tokens=0) | {"max_tokens": 0}).encode(), "refused"),
    "a form": (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x--\r\n", "refused"),
    "gzip": (gzip.compress(json.dumps(chat()).encode()), "refused"),
}

DRAWINGS: dict[str, tuple[dict[str, Any], Fate]] = {
    "n below nothing": ({"n": -1}, "refused"),
    "no pictures": ({"n": 0}, "refused"),
    "a billion pictures": ({"n": 10**9}, "refused"),
    "half a picture": ({"n": 0.5}, "refused"),
    "n in words": ({"n": "many"}, "refused"),
    "huge": ({"size": "1000000x1000000"}, "refused"),
    "an odd size": ({"size": "../../etc"}, "refused"),
    "a size below nothing": ({"size": "-1x-1"}, "refused"),
    "a seed too far": ({"seed": 2**64}, "refused"),
    "a seed below nothing": ({"seed": -1}, "refused"),
    "the last seed, and one more": ({"seed": 2**63 - 1, "n": 2}, "either"),
    "much guidance": ({"guidance": 1e308}, "either"),
    "a path for a model": ({"model": "../../etc/passwd"}, "refused"),
    "an address for an answer": ({"response_format": "url"}, "either"),
    "an empty prompt": ({"prompt": ""}, "refused"),
    "a long prompt": ({"prompt": "a " * 40_000}, "refused"),
    "a prompt of marks": ({"prompt": "<end_of_image><｜end▁of▁sentence｜>\n<|Assistant|>:"}, "either"),
    "half a letter": ({"prompt": "\ud800"}, "either"),
    "a tenth of a heat": ({"temperature": -0.1}, "refused"),
}
