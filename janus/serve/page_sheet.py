"""A labelled sheet: pictures of one prompt side by side, what differs written below each."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _SOFT, _EMPTY = "#ffffff", "#1e293b", "#64748b", "#e2e8f0"
_GAP, _SIDE, _LINE = 14, 208, 30


def values_of(text: str, most: int, *, whole: bool) -> list[float]:
    """Of "1, 3, 5" or, where `whole`, "0-7".  Raises ValueError for anything else, none, or over `most`."""
    found: list[float] = []
    for part in re.split(r"[,;\s]+", text.strip().replace("–", "-")):
        span = re.fullmatch(r"(\d{1,19})-(\d{1,19})", part) if whole else None
        number = re.fullmatch(r"\d{1,19}" if whole else r"\d{1,4}(\.\d{1,4})?", part)
        if span:
            first, last = int(span[1]), int(span[2])
            if not first <= last < first + 1000:
                raise ValueError(f"{part} is not a range of seeds; write 0-7, for example")
            found += range(first, last + 1)
        elif number:
            found.append(int(part) if whole else float(part))
        elif part:
            kind = "whole numbers and ranges such as 0-7" if whole else "numbers such as 1, 3, 5"
            raise ValueError(f"{part[:40]!r} is not a value to compare; write {kind}")
    found = [*dict.fromkeys(found)]
    if not found:
        raise ValueError("write the values to compare, with commas between")
    if len(found) > most:
        raise ValueError(f"that is {len(found)} pictures; at most {most} are compared at once")
    return found


def sheet(title: str, labels: Sequence[str], pictures: Sequence[Image.Image | None]) -> Image.Image:
    """RGB; places of pictures that are not there yet are grey."""
    across = _across(len(labels))
    down = math.ceil(len(labels) / across)
    side = max([_SIDE, *(picture.width for picture in pictures if picture)])
    large, small = ImageFont.load_default(20), ImageFont.load_default(16)
    width = _GAP + across * (side + _GAP)
    lines = _wrapped(title, large, width - 2 * _GAP) if title.isascii() else []  # its letters are Latin
    top = _GAP + (len(lines) * 27 + 8 if lines else 0)
    paper = Image.new("RGB", (width, top + down * (side + _LINE) + 6), _PAPER)
    pen = ImageDraw.Draw(paper)
    for row, line in enumerate(lines):
        pen.text((_GAP, _GAP + row * 27), line, fill=_INK, font=large)
    for place, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
        x = _GAP + place % across * (side + _GAP)
        y = top + place // across * (side + _LINE)
        if picture is None:
            pen.rectangle((x, y, x + side - 1, y + side - 1), fill=_EMPTY)
        else:
            paper.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (x, y))
        pen.text((x + side / 2, y + side + _LINE / 2 - 1), label, fill=_SOFT, font=small, anchor="mm")
    return paper


def _across(count: int) -> int:
    """Up to five in one row, more in even rows of at most four."""
    if count <= 4:
        return count
    return min((3, 4, 5), key=lambda across: (-count % across, abs(across - 4)))


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """At most three lines."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines if len(lines) <= 3 else [*lines[:2], lines[2] + " ..."]
