"""Requests of lmms-eval, taken apart; `janus.eval.lmms` answers them.

Nothing here needs lmms-eval: what it hands over are dicts, functions and pictures.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from janus.encoders.preprocess import ImageSource
    from janus.tokenizers.chat import Message

_PLACE = "<image>"  # how contexts of simple tasks say where a picture stands
# Settings that Janus does not have, with the values that leave answers as they are.
_LACKING = {"num_beams": (1,), "repetition_penalty": (1,), "top_k": (0, -1)}


@dataclass(frozen=True)
class Settings:
    """How a task wants its answers written."""

    max_tokens: int = 1024  # what most models of lmms-eval take where the task does not say
    temperature: float = 0.0  # greedy
    top_p: float = 1.0
    until: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> Settings:
        """From a task's `generation_kwargs`; what is for other models (`image_aspect_ratio`) is passed over.

        Raises ValueError for a setting that would change answers and is not there, or is out of range.
        """
        from janus.sampling import Sampling  # brings torch

        given = {key: value for key, value in task.items() if value is not None}
        temperature = float(given.get("temperature", 1.0 if given.get("do_sample") else 0.0))
        top_p = float(given.get("top_p", 1.0))
        likeliest = top_p == 0 or given.get("top_k") == 1  # the only token that is left
        if likeliest or not given.get("do_sample", True):
            temperature = 0.0
        for key, neutral in _LACKING.items():
            if given.get(key, neutral[0]) not in neutral and (key != "top_k" or temperature > 0):
                raise ValueError(
                    f"the task asks for {key}={given[key]}, which Janus does not have; "
                    f"--gen_kwargs {key}={neutral[0]} goes without it"
                )
        sampling = Sampling(temperature, top_p=top_p if temperature > 0 else 1.0)
        tokens = int(given.get("max_new_tokens", cls.max_tokens))
        if tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {tokens}")
        until = given.get("until", ())
        words = (until,) if isinstance(until, str) else until
        return cls(tokens, sampling.temperature, sampling.top_p, tuple(word for word in words if word))

    def cut(self, answer: str) -> str:
        """What stands before the first of the words that end an answer."""
        ends = [answer.find(word) for word in self.until]
        return answer[: min((end for end in ends if end >= 0), default=len(answer))]


@dataclass(frozen=True)
class Asked:
    """A request.  Its pictures are not loaded before they are needed."""

    context: str
    settings: Any  # a task's `generation_kwargs`; where options are scored, the option or how to find it
    shown: Any  # function of the document: to messages for a chat task, else to pictures
    document: int
    task: str
    split: str
    seed: int  # its own, so that a sampled answer does not depend on those made beside it

    @property
    def where(self) -> str:
        return f"task {self.task}, document {self.document}"

    @property
    def question(self) -> tuple[object, ...]:
        """The same for all options of a question."""
        return self.task, self.split, self.document, self.context


def asked(requests: Sequence[Any], simple: bool, seed: int) -> dict[int, Asked]:
    """By place, those that want an answer: not what only fills up a rank that has fewer than others.

    Chat tasks have the arguments (context, messages, settings, document, task, split), simple ones (context,
    settings or option, pictures, document, task, split).  A request that is there several times is to be
    answered as often, from other seeds.
    """
    times: Counter[tuple[object, ...]] = Counter()
    found = {}
    for place, request in enumerate(requests):
        if (getattr(request, "metadata", None) or {}).get("__padding_only__"):
            continue
        if len(request.args) != 6:
            raise NotImplementedError(
                f"Janus answers and scores what is asked about documents, not {request.args!r} by itself"
            )
        context, second, third, document, task, split = request.args
        settings, shown = (second, third) if simple else (third, second)
        which = (task, split, document, request.idx)
        own = seed_of(seed, *which, times[which])
        times[which] += 1
        found[place] = Asked(context, settings, shown, document, task, split, own)
    return found


def seed_of(*about: object) -> int:
    """From 0 to 2**32 - 1, the same for the same."""
    return int.from_bytes(hashlib.sha256(repr(about).encode()).digest()[:4], "big")


def picture_of(visual: Any) -> ImageSource:
    """What a task shows, if it is a picture.  Raises NotImplementedError if it is not."""
    from PIL.Image import Image

    if isinstance(visual, Mapping) and (visual.get("bytes") or visual.get("path")):  # undecoded, of datasets
        visual = visual.get("bytes") or visual["path"]
    if isinstance(visual, Image | bytes):
        return visual
    kind = type(visual).__name__
    if isinstance(visual, str | Path):
        kind = (mimetypes.guess_type(visual)[0] or "image/").partition("/")[0]
        if kind == "image":
            return visual
    raise NotImplementedError(f"Janus looks at pictures only; what is shown here is of the kind {kind!r}")


def conversation_of(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Of a chat task's messages (lmms_eval/protocol.py), with pictures where they stand between words."""
    conversation: list[Message] = []
    for message in messages:
        content = message["content"]
        given = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts: list[Mapping[str, Any]] = []
        pictures: list[ImageSource] = []
        for part in given:
            if part["type"] == "text":
                parts.append({"type": "text", "text": part["text"]})
            elif part["type"] == "image":
                parts.append({"type": "image"})
                pictures.append(picture_of(part["url"]))
            else:
                raise NotImplementedError(
                    f"Janus looks at pictures only; what is shown here is of the kind {part['type']!r}"
                )
        conversation.append({"role": message["role"], "content": parts, "images": pictures})
    return conversation


def question_of(context: str, visuals: Sequence[Any]) -> list[Message]:
    """Of a simple task's context and pictures: these stand where it says `<image>` if it does so for each of
    them, and else before it."""
    pictures = [picture_of(visual) for visual in visuals]
    texts = context.split(_PLACE)
    if not pictures or len(texts) - 1 != len(pictures):
        return [{"role": "user", "content": context, "images": pictures}]
    parts: list[Mapping[str, Any]] = [{"type": "text", "text": texts[0]}]
    for text in texts[1:]:
        parts += [{"type": "image"}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts, "images": pictures}]
