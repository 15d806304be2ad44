"""Clients as their makers ship them talk to a server: OpenAI's own, Together's and the Hugging Face hub's."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import openai
import pytest
from huggingface_hub import InferenceClient
from PIL import Image
from together import Together

from janus import Janus
from janus.serve.app import Options
from janus.serve.limits import Limits
from janus.serve.tickets import tell
from tests.served import ByHand, served

KEY = "a key"
NAME = "janus-embedded"
LOCKED = Options(page=False, keys=frozenset({KEY}))


@pytest.fixture(scope="module")
def url(janus: Janus) -> Iterator[str]:
    with served(janus, LOCKED) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def inline() -> str:
    data = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(data, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _is_picture(file: str | None) -> bool:
    return Image.open(io.BytesIO(base64.b64decode(file or ""))).size == (32, 32)


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "janus"


def test_openai_chats_about_a_picture(client: openai.OpenAI, inline: str) -> None:
    said = client.chat.completions.create(
        model=NAME,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": inline, "detail": "low"}},
                ],
            },
        ],
        max_completion_tokens=9,
    )
    assert said.choices[0].message.content
    assert said.usage is not None
    assert said.usage.completion_tokens == 9
    again = client.chat.completions.create(
        model=NAME,
        messages=[
            {"role": "user", "content": "What?"},
            said.choices[0].message.model_dump(),  # type: ignore[list-item]  # as many programs do
            {"role": "user", "content": "And?"},
        ],
        max_tokens=3,
    )
    assert again.choices[0].finish_reason == "length"


def test_openai_streams(client: openai.OpenAI) -> None:
    asked = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "seed": 1}
    whole = client.chat.completions.create(**asked)  # type: ignore[call-overload]
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        **asked, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(map(bool, pieces)) > 1
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage == whole.usage


def test_openai_draws(client: openai.OpenAI) -> None:
    drawn = client.images.generate(
        model=NAME, prompt="a cup", n=2, size="auto", response_format="b64_json", extra_body={"seed": 3}
    )
    assert [_is_picture(one.b64_json) for one in drawn.data or []] == [True, True]
    assert drawn.usage is not None
    assert drawn.usage.total_tokens == drawn.usage.input_tokens + drawn.usage.output_tokens


def test_openai_streams_pictures(janus: Janus) -> None:
    hand = ByHand()
    with served(janus, engine=hand) as url:
        own = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        stream = own.images.generate(model=NAME, prompt="a cup", n=1, stream=True, partial_images=2)
        ticket = hand.ticket()
        grey = Image.new("RGB", (32, 32))
        ticket.previews, ticket.shown, ticket.state = [grey], 1, "running"
        tell([ticket])
        first = next(stream)
        assert first.type == "image_generation.partial_image"
        assert first.partial_image_index == 0
        assert _is_picture(first.b64_json)
        ticket.pictures = [grey]
        ticket.end("done")
        (last,) = stream
        assert last.type == "image_generation.completed"
        assert _is_picture(last.b64_json)
        assert last.usage.output_tokens == ticket.new_tokens


def test_openai_raises_its_own_errors(client: openai.OpenAI, janus: Janus) -> None:
    with pytest.raises(openai.BadRequestError, match="32x32") as wrong:
        client.images.generate(model=NAME, prompt="x", size="512x512")
    assert (wrong.value.param, wrong.value.type) == ("size", "invalid_request_error")
    with pytest.raises(openai.NotFoundError, match="janus-embedded") as missing:
        client.images.generate(model="dall-e-3", prompt="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    hand = ByHand(Limits(waiting=1))
    with served(janus, engine=hand) as url:
        own = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        stream = own.images.generate(model=NAME, prompt="x", stream=True)
        with pytest.raises(openai.RateLimitError, match="come back in 7 s"):
            own.images.generate(model=NAME, prompt="x")
        hand.ticket().end("failed", ValueError("something went wrong"))
        with pytest.raises(openai.APIError, match="something went wrong"):
            next(stream)


def test_together_chats_streams_and_draws(url: str, inline: str) -> None:
    client = Together(base_url=url, api_key=KEY)
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": inline}},
    ]
    asked = {"model": NAME, "messages": [{"role": "user", "content": parts}], "max_tokens": 9}
    said = client.chat.completions.create(**asked)  # type: ignore[call-overload]
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**asked, stream=True)  # type: ignore[call-overload]
    ]
    assert said.choices[0].message.content == "".join(pieces) != ""
    drawn = client.images.generate(model=NAME, prompt="a cup", n=2, seed=4)
    assert [_is_picture(one.model_dump()["b64_json"]) for one in drawn.data] == [True, True]


def test_the_hub_client_chats_and_streams(url: str, inline: str) -> None:
    client = InferenceClient(base_url=f"{url}/v1", api_key=KEY)
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": inline}},
    ]
    messages = [{"role": "user", "content": parts}]
    said = client.chat_completion(messages, model=NAME, max_tokens=9, temperature=0.0)
    stream = client.chat_completion(messages, model=NAME, max_tokens=9, stream=True)
    assert said.choices[0].message.content == "".join(c.choices[0].delta.content or "" for c in stream) != ""
