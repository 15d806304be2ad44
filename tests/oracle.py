"""What tests of multiple choice share: answers as in a run, a picture, a judge that says what it is told."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image

from janus.eval.benchmark import Answers, Item, Line
from janus.eval.judges import Reply, Request, Spent


def answered(lines: Sequence[Line], said: Sequence[str | None], folder: Path = Path("-")) -> Answers:
    """What there is to score; None: the answer could not be given."""
    raw: dict[str, Line] = {}
    for place, text in enumerate(said):
        key = Item(place, 0).key
        raw[key] = {"item": key, "error": "too long"} if text is None else {"item": key, "answer": text}
    return Answers(folder, lines, "made-up questions", False, 1, raw)


def picture(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


class Oracle:
    """A judge that says what it is told to; `replies` by the number of the try, None: it fails."""

    title, chats = "an oracle", True
    identity: ClassVar[Line] = {}

    def __init__(self, *replies: str | None) -> None:
        self.replies = replies
        self.asked: list[Request] = []

    def check(self) -> None:
        """It is there."""

    def ask(self, requests: Sequence[Request], spent: Spent) -> Iterator[tuple[int, Reply]]:
        for place, request in enumerate(requests):
            self.asked.append(request)
            text = self.replies[min(request.number, len(self.replies) - 1)]
            yield place, Reply(text, "" if text else "no connection", spent=Spent(requests=1))
