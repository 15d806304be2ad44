"""One record of users' data: a picture to draw, one to talk about, or a text.

A line of JSON is one of

    {"image": "a.jpg", "caption": "a red apple"}                              a picture to draw
    {"image": "a.jpg", "question": "What is it?", "answer": "An apple."}      a picture to talk about
    {"images": [...], "messages": [{"role": "user", "content": "What are they?"}, ...]}
    {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}    as LLaVA's
    {"text": "An apple is a fruit."}                                          text to continue

The second to fourth may do without pictures.  Messages are those of `janus.tokenizers.chat`, the last one
the assistant's; pictures that no turn names belong to the first user turn.  Paths start at the file's folder.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from PIL import Image

from janus.encoders.preprocess import load_image
from janus.tokenizers.chat import Message, message_images

Kind = Literal["generation", "understanding", "text"]
KINDS: tuple[Kind, ...] = ("generation", "understanding", "text")

_FORMS = ({"caption"}, {"text"}, {"question", "answer"}, {"messages"}, {"conversations"})
_PASSED_OVER = {"id", "model"}  # LLaVA's own, no use here
_RIGHT = "besides image or images a line has caption, text, question and answer, messages or conversations"


class BadRecord(ValueError):  # noqa: N818 (it is met by the thousand, and skipped)
    """A record that cannot be used; `reason` is what other records may have wrong too."""

    def __init__(self, name: str, reason: str, detail: str) -> None:
        super().__init__(name, reason, detail)
        self.name, self.reason, self.detail = name, reason, detail

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}: {self.detail[:500]}"  # it may quote a line of megabytes


class Picture(Protocol):
    """A picture not yet read."""

    def load(self) -> Image.Image:
        """The picture in RGB.  Raises BadRecord if it cannot be had."""


@dataclass(frozen=True)
class StoredPicture:
    """A file, or a part of one."""

    record: str  # the name of the record that it belongs to
    name: str  # its own
    path: Path
    offset: int = 0
    size: int = -1  # up to the end

    def load(self) -> Image.Image:
        """Raises BadRecord if it is missing, damaged, too large or no picture."""
        try:
            return load_image(read_bytes(self.path, self.offset, self.size))
        except FileNotFoundError as error:
            raise BadRecord(self.record, "missing picture", f"there is no {self.path}") from error
        except (OSError, ValueError) as error:
            raise BadRecord(self.record, "unreadable picture", f"{self.name}: {error}") from error


@dataclass(frozen=True)
class Repainted:
    """The same picture in other colours, for an image tokenizer that tells shape from tone."""

    picture: Picture
    tones: np.ndarray  # (K,) of the codes of the first picture, -1 where any may be


Level = Literal["first", "second", "third"]


@dataclass(frozen=True)
class Pointer:
    """A place in a conversation that should look at others, and where in the core (`janus.train.looking`).

    Of a user's message it is the token that ends before character `at`, of an answer the token before the
    one that has this character, which is to say it, and likewise for the `characters` from there on.  It
    looks at patches of the picture, or at the tokens that end before a character of a message; where there
    are neither, at nothing.
    """

    level: Level
    message: int
    at: int
    patches: tuple[int, ...] = ()
    words: tuple[tuple[int, int], ...] = ()  # messages, and characters of them
    characters: int = 1


@dataclass(frozen=True)
class Carried:
    """A word that tokens, told as a `Pointer`'s are, should carry along from one level of the core on."""

    message: int
    at: int
    word: str
    level: Level = "first"
    characters: int = 1


@dataclass(frozen=True)
class Record:
    """One record of a source, its pictures not yet read."""

    name: str  # where it is: "pictures/data.jsonl:17", "shard-000.tar:000123.json"
    kind: Kind
    caption: str | None = None  # what to draw
    messages: tuple[Message, ...] = ()  # a conversation, the last turn the assistant's
    apart: bool = False  # its questions are asked each by itself, all about the pictures of the first
    text: str | None = None  # to continue
    images: tuple[Picture, ...] = ()  # of the messages in their order, or the one to draw ...
    codes: np.ndarray | None = None  # ... or its codes (K,), already made
    shown: tuple[str, ...] = ()  # what each patch of the pictures shows, in words, "" for nothing
    weights: np.ndarray | None = None  # (K,) float32: how much each code counts in the loss, 1 on average
    mentions: tuple[tuple[int, np.ndarray], ...] = ()  # where the caption has named a thing, and its codes
    repainted: Repainted | None = None  # of the picture to draw
    pointers: tuple[Pointer, ...] = ()  # where the messages' words should look
    carried: tuple[Carried, ...] = ()


class Records(Protocol):
    """Records by number, in an order that never changes."""

    unusable: Skipped  # what was found wrong when it was opened

    @property
    def kinds(self) -> frozenset[Kind]: ...
    def of_kind(self, kind: Kind) -> np.ndarray:
        """The numbers of the records of this kind, rising."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record:
        """Raises BadRecord for one that cannot be used."""


@dataclass
class Skipped:
    """Records that were left out and why; any thread may add one."""

    records: int = 0  # of all that were asked for, which whoever asks counts
    reasons: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)  # the first 20 different ones
    _lock: ClassVar[Lock] = Lock()

    def add(self, error: BadRecord) -> None:
        with self._lock:
            self.reasons[error.reason] += 1
            if len(self.messages) < 20 and str(error) not in self.messages:
                self.messages.append(str(error))

    def __str__(self) -> str:
        """ "3 of 1,204 records skipped: missing picture (2), not JSON (1)" """
        text = f"{self.reasons.total():,} of {self.records:,} records skipped"
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self.reasons.most_common())
        return f"{text}: {reasons}" if reasons else text


def read_bytes(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def parse(raw: bytes, name: str) -> Any:
    try:
        line = json.loads(raw)
        json.dumps(line, ensure_ascii=False).encode()  # refuses halves of surrogate pairs: no text has them
    except (ValueError, RecursionError) as error:
        raise BadRecord(name, "not JSON", str(error)) from error
    return line


def record_of(line: Any, name: str, find: Callable[[str], Picture], beside: list[str]) -> Record:
    """What a line says; `beside` are the pictures that it means if it names none."""
    if not isinstance(line, dict):
        raise BadRecord(name, "not a JSON object", _RIGHT)
    fields = line.keys() - _PASSED_OVER
    unknown = fields - {"image", "images"}.union(*_FORMS)
    if unknown:
        raise BadRecord(name, "unknown fields", f"{', '.join(sorted(unknown))}; {_RIGHT}")
    if fields - {"image", "images"} not in _FORMS or {"image", "images"} <= fields:
        raise BadRecord(name, "fields that do not go together", f"{', '.join(sorted(fields))}; {_RIGHT}")
    paths = _paths(line.get("image", line.get("images", beside)), name)
    if "caption" in line:
        if len(paths) != 1:
            raise BadRecord(name, "wrong pictures", f"a caption needs one picture, not {len(paths)}")
        return Record(name, "generation", caption=_words(line["caption"], name), images=(find(paths[0]),))
    if "text" in line:
        if paths:
            raise BadRecord(name, "wrong pictures", "a text has none; a picture needs a caption or messages")
        return Record(name, "text", text=_words(line["text"], name))
    if "question" in line:
        turns = [{"role": "user", "content": line["question"]}]
        turns.append({"role": "assistant", "content": line["answer"]})
    elif "conversations" in line:
        turns = _from_llava(line["conversations"], paths, name)
    else:
        turns = line["messages"]
    messages = _messages(turns, paths, name, find)
    try:
        images = message_images([*messages, {"role": "user", "content": "And?"}])  # as it checks prompts
    except ValueError as error:
        raise BadRecord(name, "wrong messages", str(error)) from error
    return Record(name, "understanding" if images else "text", messages=tuple(messages), images=tuple(images))


def _words(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(name, "no words", f"captions, texts and answers must be some text, not {value!r}")
    return value


def _paths(value: Any, name: str) -> list[str]:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise BadRecord(name, "wrong pictures", f"expected a path or a list of paths, not {value!r}")
    return paths


def _messages(
    turns: Any, paths: list[str], name: str, find: Callable[[str], Picture]
) -> list[dict[str, Any]]:
    """Turns with their pictures, of which the first user turn gets those that no turn names."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise BadRecord(name, "wrong messages", f"expected a list of objects, not {turns!r}")
    unknown = {key for turn in turns for key in turn} - {"role", "content", "images"}
    if unknown:
        detail = f"unknown {', '.join(sorted(unknown))}; a turn has role, content and images"
        raise BadRecord(name, "wrong messages", detail)
    if not turns or turns[-1].get("role") != "assistant":
        raise BadRecord(name, "wrong messages", "the last must be the assistant's, the one to learn")
    turns = [turn | {"images": _paths(turn.get("images", []), name)} for turn in turns]
    placed = {path for turn in turns for path in turn["images"]}
    for turn in turns:
        if turn.get("role") == "user":
            turn["images"] = [path for path in paths if path not in placed] + turn["images"]
            break
    for turn in turns:
        turn["images"] = [find(path) for path in turn["images"]]
        if turn.get("role") == "assistant":
            _words(turn.get("content"), name)
    return turns


def _from_llava(turns: Any, paths: list[str], name: str) -> list[dict[str, Any]]:
    """LLaVA's turns as messages: its `<image>` marks become parts, and take the pictures in their order."""
    messages: list[dict[str, Any]] = []
    for turn in turns if isinstance(turns, list) else [turns]:
        match turn:
            case {"from": "gpt", "value": str(value), **rest} if not rest:
                messages.append({"role": "assistant", "content": value})
            case {"from": "human", "value": str(value), **rest} if not rest:
                pieces = [piece.strip() for piece in re.split("(<image>)", value)]
                places = pieces.count("<image>")
                image = {"type": "image"}
                parts = [image if p == "<image>" else {"type": "text", "text": p} for p in pieces if p]
                content = parts if places else value
                messages.append({"role": "user", "content": content, "images": paths[:places]})
                paths = paths[places:]
            case _:
                detail = f"a turn has from, human or gpt, and value, its words; not {turn!r}"
                raise BadRecord(name, "wrong conversations", detail)
    return messages
