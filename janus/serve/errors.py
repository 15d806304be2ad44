"""What goes wrong, as the answers in OpenAI's shape that its clients turn into their own exceptions."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from janus.serve.models import UnknownModelError
from janus.serve.tickets import ClosingError, DroppedError, TooLateError, TooManyError

log = logging.getLogger("janus.serve")

_SHOULD = re.compile(r"^\w+ should")  # pydantic's words

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}
_PATTERNS = {"prompt": "is empty; say what to draw", "size": "must be auto or such as 384x384"}
# What OpenAI's servers can and these can't: the field, and why.
CANNOT = {
    "tools": "the model calls no tools",
    "tool_choice": "the model calls no tools",
    "parallel_tool_calls": "the model calls no tools",
    "functions": "the model calls no functions",
    "function_call": "the model calls no functions",
    "tool_calls": "the model calls no tools",
    "logprobs": "log-probabilities are not told",
    "top_logprobs": "log-probabilities are not told",
    "logit_bias": "no token can be made likelier",
    "frequency_penalty": "there are no penalties, only 0",
    "presence_penalty": "there are no penalties, only 0",
    "response_format": "answers are plain text, and pictures come as b64_json",
    "modalities": "answers are text; pictures are drawn by /v1/images/generations",
    "audio": "the model neither hears nor speaks",
    "prediction": "answers can't be predicted from outside",
    "reasoning_effort": "the model does not reason before it answers",
    "verbosity": "say in the prompt how long the answer is to be",
    "web_search_options": "nothing is looked up on the web",
    "moderation": "nothing is moderated",
    "store": "nothing is stored",
    "background": "pictures are opaque",
    "quality": "the model has one quality; say auto",
    "style": "say in the prompt which style it is to be",
    "output_format": "pictures come as png",
    "output_compression": "png is compressed without loss, as far as it goes",
}


class ApiError(Exception):
    """An answer with an error status.  `field` is the part of the request that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        message = message if len(message) <= 500 else f"{message[:500]} ..."  # it may quote the request
        super().__init__(message)
        self.status, self.message, self.field, self.code = status, message, field, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.field, "code": self.code}}

    def response(self) -> Response:
        return Response(
            to_json(self.body()), self.status, media_type="application/json", headers=self.headers
        )


def to_json(content: Any) -> bytes:
    """Also where a text from outside holds what UTF-8 can't."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def as_api_error(error: Exception) -> ApiError:
    """What a client is told; what it must not see of the server goes into the log instead."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UnknownModelError):
        return ApiError(404, str(error), field="model", code="model_not_found")
    if isinstance(error, ValueError):
        return ApiError(400, str(error))
    if isinstance(error, TooManyError):
        headers = {"Retry-After": str(error.seconds)}
        return ApiError(429, str(error), code="rate_limit_exceeded", headers=headers)
    if isinstance(error, ClosingError):
        return ApiError(503, str(error), code="stopping", headers={"Retry-After": "10"})
    if isinstance(error, TooLateError):
        return ApiError(504, str(error), code="timeout")
    if isinstance(error, DroppedError):
        return ApiError(503, "the request was stopped before its end", code="stopped")
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed at this request; its log says why", code="internal_error")


def install(app: FastAPI) -> None:
    """Have all errors of an app's routes answered in OpenAI's shape."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _invalid(error).response()

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        unread = error.status_code == 400  # only FastAPI's own, of a body
        words = "the body is not JSON that can be read" if unread else error.detail
        return ApiError(error.status_code, words, headers=dict(error.headers or {})).response()


def _invalid(error: RequestValidationError) -> ApiError:
    """A mistake in a body, named by its place.  Of a choice between forms, the one that went furthest was
    meant."""
    places = [(_place(one["loc"][1:], error.body), one) for one in error.errors()]
    place, first = max(places, key=lambda pair: (len(pair[0]), not pair[1]["type"].endswith("_type")))
    name = next((one for one in reversed(place) if isinstance(one, str)), None)
    kind, field, told = first["type"], _path(place) or None, first.get("ctx", {})
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {told.get('error', '')}", code="invalid_json")
    if kind == "missing":
        return ApiError(400, f"{field or 'the body'} is missing", field=field, code="missing_field")
    if name in CANNOT:
        return ApiError(400, f"{field}: {CANNOT[name]}; leave it out", field=field, code="unsupported")
    if kind == "none_required":
        return ApiError(400, f"{field} is not known here; leave it out", field=field, code="unknown_field")
    if kind == "union_tag_invalid":
        field = f"{field}.{told['discriminator'].strip(chr(39))}"
        words = f"must be one of {told['expected_tags']}, not {told['tag'][:100]!r}"
    elif kind == "model_attributes_type":
        words = "must be a JSON object"
    elif kind == "string_pattern_mismatch":
        words = _PATTERNS[str(name)]
    else:
        words = _SHOULD.sub("must", first["msg"]).replace(" after validation", "")
    return ApiError(400, f"{field or 'the body'} {words}", field=field, code="invalid_value")


def _place(path: tuple[Any, ...], body: Any) -> list[str | int]:
    """Without the names of forms, which pydantic puts between the names of fields."""
    place: list[str | int] = []
    here = body
    for depth, part in enumerate(path):
        if isinstance(here, dict):
            if part not in here and depth < len(path) - 1:
                continue
            place.append(str(part))
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            place.append(part)
            here = here[part]
    return place


def _path(place: list[str | int]) -> str:
    """As OpenAI writes it: messages[0].content"""
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return words.removeprefix(".")[:200]
