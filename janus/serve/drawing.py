"""POST /v1/images/generations: pictures, at the end or also while they are drawn."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import Request

from janus.api import Janus
from janus.requests import Drawing
from janus.serve.desk import Desk
from janus.serve.errors import ApiError
from janus.serve.pictures import all_encoded
from janus.serve.schemas import Images, ImagesRequest, ImagesUsage, InputDetails, Picture
from janus.serve.stream import EventStream, event, unless_gone
from janus.serve.tickets import Ticket


async def draw(desk: Desk, asked: ImagesRequest, request: Request) -> Images | EventStream:
    """Draw what a request asks for; in a stream, if that is asked for, once it is in the queue."""
    run = await unless_gone(request, _begin(desk, asked))
    if asked.stream:
        return EventStream(run.events(request, asked.partial_images or 0), run.drop)
    try:
        return await unless_gone(request, run.whole(request))
    finally:
        run.drop()


async def _begin(desk: Desk, asked: ImagesRequest) -> _Run:
    limits = desk.engine.limits
    if asked.n is not None and asked.n > limits.n:
        raise ApiError(400, f"n may be {limits.n} here, not {asked.n}", field="n")
    if len(asked.prompt) > limits.characters:
        raise ApiError(
            400,
            f"a prompt may have {limits.characters:,} characters, not {len(asked.prompt):,}",
            field="prompt",
        )
    if asked.partial_images and not asked.stream:
        raise ApiError(400, "partial_images belong to stream: true", field="partial_images")
    model = await desk.model(asked.model)
    size = _size(model)
    if asked.size not in (None, "auto", size):
        raise ApiError(
            400, f"this model draws {size} pixels, not {asked.size}; say {size} or auto", field="size"
        )
    wanted = Drawing(
        asked.prompt,
        n=asked.n or 1,
        seed=asked.seed,
        guidance=asked.guidance,
        temperature=asked.temperature,
        top_k=asked.top_k or 0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
    )
    (ticket,) = await desk.submit(
        model, lambda: [wanted], previews=bool(asked.stream and asked.partial_images)
    )
    return _Run(desk, ticket, size)


class _Run:
    """The pictures of one request, while they are drawn."""

    def __init__(self, desk: Desk, ticket: Ticket, size: str) -> None:
        self._desk, self._ticket, self._size, self._created = desk, ticket, size, int(time.time())

    def drop(self) -> None:
        self._ticket.drop()

    async def whole(self, request: Request) -> Images:
        async with aclosing(self._desk.changes([self._ticket], steps=False)) as changes:
            async for _ in changes:
                pass
        files = await self._desk.in_thread(partial(all_encoded, self._ticket.pictures))
        return Images(
            created=self._created,
            size=self._size,
            data=[
                Picture(b64_json=file, seed=seed)
                for file, seed in zip(files, self._ticket.job.seeds, strict=True)
            ],
            usage=self._usage(request),
        )

    async def events(self, request: Request, most: int) -> AsyncGenerator[bytes, None]:
        """At most `most` times all pictures as far as they are, spread over the drawing; then each."""

        def told(kind: str, file: str, place: int, **more: Any) -> bytes:
            content = {
                "type": f"image_generation.{kind}",
                "b64_json": file,
                "created_at": self._created,
                "size": self._size,
                "quality": "auto",
                "background": "opaque",
                "output_format": "png",
                "image_index": place,
                "seed": self._ticket.job.seeds[place],
                **more,
            }
            return event(content, f"image_generation.{kind}")

        ticket, shown, sent = self._ticket, 0, 0
        async with aclosing(self._desk.changes([ticket], steps=most > 0)) as changes:
            async for _ in changes:
                due = sent < most and ticket.steps * most >= sent * ticket.most
                if not due or ticket.shown == shown or ticket.over:
                    continue
                shown = ticket.shown
                files = await self._desk.in_thread(partial(all_encoded, ticket.previews))
                for place, file in enumerate(files):
                    yield told("partial_image", file, place, partial_image_index=sent)
                sent += 1
        usage = self._usage(request).model_dump()
        files = await self._desk.in_thread(partial(all_encoded, ticket.pictures))
        for place, file in enumerate(files):
            yield told("completed", file, place, usage=usage)

    def _usage(self, request: Request) -> ImagesUsage:
        prompt, new = self._ticket.prompt_tokens, self._ticket.new_tokens
        request.state.tokens = (prompt, new)
        return ImagesUsage(
            input_tokens=prompt,
            output_tokens=new,
            total_tokens=prompt + new,
            input_tokens_details=InputDetails(text_tokens=prompt),
        )


def _size(model: Janus) -> str:
    side = model.config.vq.image_size
    return f"{side}x{side}"
