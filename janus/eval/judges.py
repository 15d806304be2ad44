"""Models that judge: a question is asked once, its reply kept in the run's folder and looked up ever after.

judge-<title>-<hash>.jsonl     one line for each reply, on the disk as soon as it has come

The hash tells apart judges of one title; a line's key is a hash of everything that the reply depends on.  So
scoring a second time asks nothing, and a judge that fails or becomes too dear leaves what it has said.
`janus.eval.endpoint` has judges behind an address, `ModelJudge` is a Janus model.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from janus.eval.benchmark import Line, Progress
from janus.eval.folder import Journal

if TYPE_CHECKING:
    from janus.api import Janus
    from janus.tokenizers.chat import Message


@dataclass(frozen=True)
class Request:
    """One question to a judge."""

    prompt: str
    system: str | None = None
    pictures: tuple[bytes, ...] = ()  # files, PNG or JPEG
    temperature: float = 0.0
    max_tokens: int = 512
    number: int = 0  # of several that are otherwise the same, each with a reply of its own
    about: str = ""  # what it is about, for people; the reply does not depend on it


@dataclass(frozen=True)
class Spent:
    """What replies have cost."""

    requests: int = 0  # sent, those in vain too
    read: int = 0  # tokens of questions
    written: int = 0  # tokens of replies

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.requests + other.requests, self.read + other.read, self.written + other.written)


@dataclass(frozen=True)
class Limit:
    """What a run may spend on a judge, over all scorings; None is no limit.

    money needs prices, of a million tokens read and of a million written, in whatever currency.
    """

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None
    prices: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        limits = {"requests": self.requests, "tokens": self.tokens, "money": self.money}
        prices = dict(enumerate(self.prices or ()))
        for name, value in [*limits.items(), *((f"prices[{i}]", price) for i, price in prices.items())]:
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be 0 or more, not {value}")
        if self.money is not None and self.prices is None:
            raise ValueError(f"a limit of {self.money} in money needs the prices of a million tokens")

    def cost(self, spent: Spent) -> float | None:
        """In money; None without prices."""
        if self.prices is None:
            return None
        return (spent.read * self.prices[0] + spent.written * self.prices[1]) / 1e6

    def exceeded(self, spent: Spent) -> str:
        """Which limit is; empty if none."""
        if self.requests is not None and spent.requests > self.requests:
            return f"{self.requests} requests"
        if self.tokens is not None and spent.read + spent.written > self.tokens:
            return f"{self.tokens} tokens"
        cost = self.cost(spent)
        if self.money is not None and cost is not None and cost > self.money:
            return f"{self.money:g} in money"
        return ""


@dataclass(frozen=True)
class Reply:
    """What came of a request: text, or the reason why there is none."""

    text: str | None
    error: str = ""
    model: str = ""  # as the judge calls itself
    spent: Spent = Spent()


class Judge(Protocol):
    """Who is asked."""

    title: str  # as results call it
    chats: bool  # whether it follows instructions; one that does not is asked the bare question

    @property
    def identity(self) -> Line:
        """What its replies depend on besides the request."""

    def check(self) -> None:
        """Raise ValueError where it cannot be asked, for what can be known without asking."""

    def ask(self, requests: Sequence[Request], spent: Spent) -> Iterator[tuple[int, Reply]]:
        """The replies in whatever order they come, each with the place of its request.

        spent: in this run so far.  Raises ValueError where it is no use to go on.
        """


class Consultation:
    """Everything that one judge is asked about one run."""

    def __init__(self, judge: Judge, folder: Path) -> None:
        self.judge = judge
        self._about = json.dumps([judge.title, judge.identity], sort_keys=True)
        slug = re.sub(r"[^a-z0-9]+", "-", judge.title.lower()).strip("-")[:40]
        name = f"judge-{slug}-{hashlib.sha256(self._about.encode()).hexdigest()[:8]}.jsonl"
        self._journal = Journal(folder / name)
        self._known: dict[str, Reply] = {}
        self._spent = Spent()
        self._failures: Counter[str] = Counter()
        self._models: Counter[str] = Counter()
        self._asked = 0
        for line in self._journal.read():
            reply = _reply(line)
            self._spent += reply.spent
            if reply.text is not None:
                self._known[line["key"]] = reply

    def ask(self, requests: Sequence[Request], on_progress: Progress | None = None) -> list[Reply]:
        """The reply to each; only what has none yet is asked, and what is there twice is asked once.

        on_progress: replies that have come, of those that were missing.
        """
        keys = [self.key(request) for request in requests]
        todo = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
        failed: dict[str, Reply] = {}
        if todo:
            waiting = list(todo.items())
            replies = self.judge.ask([request for _, request in waiting], self._spent)
            for done, (place, reply) in enumerate(replies, 1):
                key, request = waiting[place]
                if reply.text is not None or reply.spent != Spent():
                    self._journal.add([{"key": key, "about": request.about, **_line(reply)}])
                self._spent += reply.spent
                (failed if reply.text is None else self._known)[key] = reply
                if on_progress is not None:
                    on_progress(done, len(waiting))
        found = [self._known[key] if key in self._known else failed[key] for key in keys]
        self._asked += len(found)
        self._models.update(reply.model for reply in found if reply.model)
        self._failures.update(reply.error for reply in found if reply.text is None)
        return found

    def key(self, request: Request) -> str:
        """Of all that the reply depends on."""
        pictures = [_digest(picture) for picture in request.pictures]
        words = [request.system, request.prompt, pictures]
        manner = [request.temperature, request.max_tokens, request.number]
        return hashlib.sha256(json.dumps([self._about, words, manner]).encode()).hexdigest()[:32]

    @property
    def models(self) -> list[str]:
        """What the judge calls itself, in the replies that this scoring used."""
        return sorted(self._models)

    @property
    def details(self) -> Line:
        """Who judged, what was asked for this score, what it has cost in the whole run, what failed."""
        cost = getattr(self.judge, "limit", Limit()).cost(self._spent)
        return {
            "title": self.judge.title,
            **self.judge.identity,
            "answered_as": self.models,
            "asked": self._asked,
            "failures": dict(self._failures.most_common()),
            "spent": vars(self._spent),
            **({} if cost is None else {"cost": cost}),
        }

    @property
    def notes(self) -> list[str]:
        """Sentences about what failed."""
        who = self.judge.title
        return [f"{n} questions to {who} have no reply: {why}." for why, n in self._failures.most_common()]


class ModelJudge:
    """A Janus model that judges.

    name: what results call it.  Up to `batch_size` requests are put together.
    """

    chats = True

    def __init__(self, model: Janus, name: str, batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.model, self.title, self.batch_size = model, name, batch_size

    @cached_property
    def identity(self) -> Line:
        from janus.eval.asking import about

        found = about(self.model)
        return {"weights": found["weights"], "dtype": found["dtype"]}

    def check(self) -> None:
        """It is there."""

    def ask(self, requests: Sequence[Request], spent: Spent) -> Iterator[tuple[int, Reply]]:
        """Requests of one manner go together; one that fits no context fails alone."""
        manners: dict[tuple[float, int, int], list[int]] = {}
        for place, request in enumerate(requests):
            manner = request.temperature, request.max_tokens, request.number
            manners.setdefault(manner, []).append(place)
        for places in manners.values():
            for start in range(0, len(places), self.batch_size):
                some = places[start : start + self.batch_size]
                yield from zip(some, self._replies([requests[place] for place in some]), strict=True)

    def _replies(self, requests: Sequence[Request]) -> list[Reply]:
        """To requests of one manner, put together."""
        first, one = requests[0], Spent(requests=1)
        try:
            texts = self.model.chat_batch(
                [_conversation(request) for request in requests],
                max_tokens=first.max_tokens,
                temperature=first.temperature,
                seed=first.number,
            )
        except ValueError as error:  # too long, or no picture
            if len(requests) > 1:
                return [reply for request in requests for reply in self._replies([request])]
            return [Reply(None, f"refused: {error}", spent=one)]
        return [Reply(text, spent=one) if text else Reply(None, "empty reply", spent=one) for text in texts]


def _conversation(request: Request) -> list[Message]:
    turn: Message = {"role": "user", "content": request.prompt, "images": list(request.pictures)}
    return [turn] if request.system is None else [{"role": "system", "content": request.system}, turn]


@lru_cache(64)
def _digest(picture: bytes) -> str:
    """Many questions are about one picture."""
    return hashlib.sha256(picture).hexdigest()


def _line(reply: Reply) -> Line:
    found = {"reply": reply.text} if reply.text is not None else {"error": reply.error}
    spent = [reply.spent.requests, reply.spent.read, reply.spent.written]
    return {**found, "model": reply.model, "spent": spent}


def _reply(line: Line) -> Reply:
    return Reply(line.get("reply"), line.get("error", ""), line["model"], Spent(*line["spent"]))
