"""POST /v1/chat/completions: answers, whole or in pieces."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request

from janus.api import Janus
from janus.requests import Question
from janus.serve import pictures, remote
from janus.serve.desk import Desk, drop
from janus.serve.errors import ApiError
from janus.serve.schemas import (
    Answer,
    ChatCompletion,
    ChatRequest,
    Choice,
    ImagePart,
    Message,
    TextPart,
    Usage,
)
from janus.serve.stream import EventStream, event, unless_gone
from janus.serve.tickets import Ticket
from janus.serve.words import Words

LENGTH = 512  # tokens of an answer, where a request does not say


async def complete(desk: Desk, asked: ChatRequest, request: Request) -> ChatCompletion | EventStream:
    """Answer a request; in a stream, if that is asked for, once it is in the queue."""
    run = await unless_gone(request, _begin(desk, asked))
    if asked.stream:
        told = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        return EventStream(run.events(request, told), run.drop)
    try:
        return await unless_gone(request, run.whole(request))
    finally:
        run.drop()


async def _begin(desk: Desk, asked: ChatRequest) -> _Run:
    _check(desk, asked)
    model = await desk.model(asked.model)
    files = await _fetch(desk, asked.messages)
    tickets = await desk.submit(model, lambda: _questions(desk, model, asked, files))
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    return _Run(desk, asked.model or desk.models.default, tickets, stops)


class _Run:
    """The answers to one request, while they are written."""

    def __init__(self, desk: Desk, model: str, tickets: list[Ticket], stops: Sequence[str]) -> None:
        self._desk, self._model, self._tickets = desk, model, tickets
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self._stops, self._words = stops, [Words(stops) for _ in tickets]

    def drop(self) -> None:
        drop(self._tickets)

    async def whole(self, request: Request) -> ChatCompletion:
        async with aclosing(self._pieces(steps=bool(self._stops))) as pieces:
            async for _ in pieces:
                pass
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[
                Choice(index=i, message=Answer(content=words.text), finish_reason=self._finish(i))
                for i, words in enumerate(self._words)
            ],
            usage=self._usage(request),
        )

    async def events(self, request: Request, tell_usage: bool) -> AsyncGenerator[bytes, None]:
        def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
            head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created}
            usage = {"usage": None} if tell_usage else {}
            return event({**head, "model": self._model, "choices": choices, **usage, **more})

        def choice(place: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
            return {"index": place, "delta": delta, "logprobs": None, "finish_reason": finish}

        async with aclosing(self._pieces(steps=True)) as pieces:
            for place in range(len(self._tickets)):
                yield chunk([choice(place, {"role": "assistant", "content": "", "refusal": None})])
            async for place, piece, over in pieces:
                if piece:
                    yield chunk([choice(place, {"content": piece})])
                if over:
                    yield chunk([choice(place, {}, self._finish(place))])
        usage = self._usage(request)
        if tell_usage:
            yield chunk([], usage=usage.model_dump())
        yield b"data: [DONE]\n\n"

    async def _pieces(self, steps: bool) -> AsyncGenerator[tuple[int, str, bool], None]:
        """The place of an answer, what is new in it, and whether that was all."""
        async with aclosing(self._desk.changes(self._tickets, steps=steps)) as changes:
            async for place, ticket in changes:
                words = self._words[place]
                if words.hit:
                    continue
                piece = words.push(ticket.words, ticket.over)
                if words.hit:
                    ticket.drop()
                if piece or words.hit or ticket.over:
                    yield place, piece, words.hit or ticket.over

    def _finish(self, place: int) -> Any:
        return "stop" if self._words[place].hit else self._tickets[place].finish

    def _usage(self, request: Request) -> Usage:
        prompt, new = self._tickets[0].prompt_tokens, sum(ticket.new_tokens for ticket in self._tickets)
        request.state.tokens = (prompt, new)
        return Usage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)


def _check(desk: Desk, asked: ChatRequest) -> None:
    """Raises ApiError where a request goes beyond the limits or contradicts itself."""
    limits = desk.engine.limits
    told = asked.max_completion_tokens or asked.max_tokens
    if asked.max_completion_tokens and asked.max_tokens not in (None, told):
        raise ApiError(400, "max_tokens and max_completion_tokens differ; give one", field="max_tokens")
    for field, value, most in (
        ("max_completion_tokens" if asked.max_completion_tokens else "max_tokens", told, limits.tokens),
        ("n", asked.n, limits.n),
    ):
        if value is not None and value > most:
            raise ApiError(400, f"{field} may be {most} here, not {value}", field=field)
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "stream_options belong to stream: true", field="stream_options")
    characters = sum(len(text) for message in asked.messages for text in _texts(message))
    if characters > limits.characters:
        raise ApiError(
            400, f"a request may have {limits.characters:,} characters, not {characters:,}", field="messages"
        )
    images = sum(1 for _ in _images(asked.messages))
    if images > limits.images:
        raise ApiError(400, f"a request may have {limits.images} pictures, not {images}", field="messages")


async def _fetch(desk: Desk, messages: Sequence[Message]) -> dict[str, bytes]:
    """What lies at the addresses of pictures that are not in the request itself."""
    addresses = {url for url in _images(messages) if not pictures.is_inline(url)}
    hosts, most = desk.options.remote, desk.engine.limits.body
    found: dict[str, bytes] = {}
    for url in addresses:  # one after another: a stranger's request must not open many connections
        try:
            found[url] = await asyncio.to_thread(remote.fetch, url, hosts, most)
        except ValueError as error:
            raise ApiError(400, str(error), field="messages", code="invalid_image") from error
    return found


def _questions(desk: Desk, model: Janus, asked: ChatRequest, files: dict[str, bytes]) -> Iterator[Question]:
    """One for each answer.  Raises ApiError for a picture that can't be read."""
    turns: list[dict[str, Any]] = []
    for i, message in enumerate(asked.messages):
        turn: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
        turn["content"], turn["images"] = message.content, []
        if not isinstance(message.content, str):
            turn["content"] = []
            for j, part in enumerate(message.content):
                if isinstance(part, TextPart):
                    turn["content"].append({"type": "text", "text": part.text})
                    continue
                turn["content"].append({"type": "image"})
                url = part.image_url.url
                try:
                    data = files[url] if url in files else pictures.inline(url)
                    turn["images"].append(pictures.read(data, model.config.image, desk.engine.limits))
                except ValueError as error:
                    field = f"messages[{i}].content[{j}].image_url.url"
                    raise ApiError(400, str(error), field=field, code="invalid_image") from error
        turns.append(turn)
    seed = asked.seed
    for j in range(asked.n or 1):
        yield Question(
            turns,
            max_tokens=asked.max_completion_tokens
            or asked.max_tokens
            or min(LENGTH, desk.engine.limits.tokens),
            temperature=asked.temperature or 0.0,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            seed=None if seed is None else (seed + j) % 2**63,
        )


def _texts(message: Message) -> Iterator[str]:
    if isinstance(message.content, str):
        yield message.content
    else:
        yield from (part.text for part in message.content if isinstance(part, TextPart))


def _images(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        if not isinstance(message.content, str):
            yield from (part.image_url.url for part in message.content if isinstance(part, ImagePart))
