"""POST /v1/images/generations: pictures with their settings, streams, and what it refuses."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from janus import Janus
from janus.serve.limits import Limits
from janus.serve.tickets import tell
from tests.served import ByHand, post, refusal, served

DRAW = "images/generations"


@pytest.fixture(scope="module")
def url(janus: Janus) -> Iterator[str]:
    with served(janus) as address:
        yield address


@pytest.fixture
def hand() -> ByHand:
    return ByHand(Limits(n=3, characters=50))


@pytest.fixture
def held(janus: Janus, hand: ByHand) -> Iterator[str]:
    with served(janus, engine=hand) as address:
        yield address


def _picture(file: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(file)))


def _grey(level: int) -> Image.Image:
    return Image.new("RGB", (32, 32), (level, level, level))


def test_pictures_are_those_of_the_model_and_remember(url: str, janus: Janus) -> None:
    got = post(url, DRAW, prompt="a red apple", n=2, seed=5, guidance=2, size="32x32").json()
    wanted = janus.generate_images("a red apple", n=2, seed=5, guidance=2.0)
    assert [one["seed"] for one in got["data"]] == [5, 6]
    for one, picture in zip(got["data"], wanted, strict=True):
        drawn = _picture(one["b64_json"])
        assert (drawn.format, drawn.tobytes()) == ("PNG", picture.tobytes())
        settings = json.loads(drawn.info["janus"])
        assert (settings["prompt"], settings["seed"], settings["guidance"]) == (
            "a red apple",
            one["seed"],
            2.0,
        )
    usage, tokens = got["usage"], janus.config.vq.tokens
    assert usage["output_tokens"] == 2 * tokens
    assert usage["total_tokens"] == usage["input_tokens"] + 2 * tokens
    assert got["size"] == "32x32"


def test_partial_pictures_come_while_it_is_drawn(held: str, hand: ByHand) -> None:
    asked = {"prompt": "a cup", "n": 2, "seed": 8, "stream": True, "partial_images": 2}
    with httpx.stream("POST", f"{held}/v1/{DRAW}", json=asked, timeout=60, trust_env=False) as answer:
        ticket = hand.ticket()
        assert ticket.wants_previews
        lines = answer.iter_lines()

        def events(count: int) -> list[dict[str, Any]]:
            data = (line[6:] for line in lines if line.startswith("data: "))
            return [json.loads(next(data)) for _ in range(count)]

        ticket.state, ticket.steps = "running", 1
        ticket.previews, ticket.shown = [_grey(1), _grey(2)], 1
        tell([ticket])
        first = events(2)
        ticket.previews, ticket.shown = [_grey(3), _grey(4)], 2  # too early for the second
        tell([ticket])
        ticket.steps = ticket.most // 2
        ticket.previews, ticket.shown = [_grey(5), _grey(6)], 3
        tell([ticket])
        second = events(2)
        ticket.previews, ticket.shown = [_grey(7), _grey(8)], 4  # one more than was asked for
        tell([ticket])
        ticket.new_tokens, ticket.pictures = 2 * ticket.most, [_grey(9), _grey(10)]
        ticket.end("done")
        last = events(2)
        assert list(lines) == [""]
    for told, kind, index, levels in (
        (first, "partial_image", 0, (1, 2)),
        (second, "partial_image", 1, (3, 4)),
        (last, "completed", None, (9, 10)),
    ):
        assert [one["type"] for one in told] == [f"image_generation.{kind}"] * 2
        assert [one.get("partial_image_index") for one in told] == [index] * 2
        assert [one["image_index"] for one in told] == [0, 1]
        shades = [_picture(one["b64_json"]).getpixel((0, 0)) for one in told]
        if told is not second:
            assert shades == [(level,) * 3 for level in levels]
    assert last[0]["usage"]["output_tokens"] == 2 * ticket.most


def test_a_stream_without_partial_pictures(url: str) -> None:
    answer = post(url, DRAW, prompt="a cup", seed=1, stream=True)
    names = [line for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names == ["event: image_generation.completed"]
    data = json.loads(answer.text.split("data: ")[1])
    whole = post(url, DRAW, prompt="a cup", seed=1).json()
    assert data["b64_json"] == whole["data"][0]["b64_json"]
    assert data["usage"] == whole["usage"]


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "prompt", "missing"),
        ({"prompt": " \n"}, "prompt", "empty"),
        ({"prompt": 3}, "prompt", "string"),
        ({"prompt": "x" * 51}, "prompt", "50 characters"),
        ({"prompt": "x", "n": 4}, "n", "3"),
        ({"prompt": "x", "size": "512x512"}, "size", "32x32"),
        ({"prompt": "x", "size": "large"}, "size", "auto"),
        ({"prompt": "x", "response_format": "url"}, "response_format", "b64_json"),
        ({"prompt": "x", "quality": "hd"}, "quality", "auto"),
        ({"prompt": "x", "style": "natural"}, "style", "prompt"),
        ({"prompt": "x", "background": "transparent"}, "background", "opaque"),
        ({"prompt": "x", "output_format": "webp"}, "output_format", "png"),
        ({"prompt": "x", "output_compression": 50}, "output_compression", "png"),
        ({"prompt": "x", "partial_images": 1}, "partial_images", "stream: true"),
        ({"prompt": "x", "partial_images": 4, "stream": True}, "partial_images", "less than or equal to 3"),
        ({"prompt": "x", "guidance": -1}, "guidance", "greater than"),
        ({"prompt": "x", "top_k": -1}, "top_k", "greater than"),
        ({"prompt": "x", "seed": -1}, "seed", "greater than"),
        ({"prompt": "x", "steps": 30}, "steps", "not known"),
        ({"prompt": "x", "model": "dall-e-3"}, "model", "janus"),
    ],
)
def test_what_is_wrong_is_named(held: str, body: dict[str, Any], field: str, words: str) -> None:
    status, got, sentence = refusal(post(held, DRAW, **body))
    assert (status, got) == (404 if field == "model" else 400, field), sentence
    assert words in sentence


def test_what_asks_for_nothing_is_taken(url: str) -> None:
    quiet = {
        "quality": "auto",
        "style": None,
        "background": "auto",
        "moderation": "low",
        "output_format": "png",
        "output_compression": 100,
        "response_format": "b64_json",
        "user": "me",
        "size": "auto",
        "n": None,
    }
    assert post(url, DRAW, prompt="a cup", **quiet).status_code == 200


@pytest.mark.parametrize("temperature", [1e-40, 1e-6, 2])
def test_no_temperature_breaks_it(url: str, temperature: float) -> None:
    assert post(url, DRAW, prompt="a cup", temperature=temperature, guidance=100).status_code == 200


def test_many_at_once_are_not_mixed_up(url: str) -> None:
    """Each of a crowd gets the picture of its own seed."""
    found: dict[int, Any] = {}

    def draw(seed: int) -> None:
        found[seed] = post(url, "images/generations", prompt="a cup", seed=seed).json()["data"][0]

    threads = [threading.Thread(target=draw, args=[seed]) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    alone = {seed: post(url, "images/generations", prompt="a cup", seed=seed).json() for seed in (0, 11)}
    assert {seed: one["seed"] for seed, one in found.items()} == {seed: seed for seed in range(12)}
    assert len({json.dumps(one) for one in found.values()}) == 12
    for seed, one in alone.items():
        assert found[seed] == one["data"][0]
