"""POST /v1/chat/completions: answers, streams, what it refuses, and clients that leave."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from janus import Janus
from janus.serve import stream
from janus.serve.limits import Limits
from janus.serve.tickets import Ticket, TooLateError, tell
from tests.served import ByHand, post, question, refusal, served

CHAT = "chat/completions"


@pytest.fixture(scope="module")
def url(janus: Janus) -> Iterator[str]:
    with served(janus) as address:
        yield address


@pytest.fixture
def hand() -> ByHand:
    return ByHand(Limits(waiting=2, n=3, tokens=40, images=2, characters=50))


@pytest.fixture
def held(janus: Janus, hand: ByHand) -> Iterator[str]:
    with served(janus, engine=hand) as address:
        yield address


def _image(picture: Image.Image) -> dict[str, Any]:
    data = io.BytesIO()
    picture.save(data, "PNG")
    inline = base64.b64encode(data.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{inline}"}}


def _events(answer: httpx.Response) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [json.loads(line) if line.startswith("{") else line for line in lines]


def _write(ticket: Ticket, words: str) -> None:
    ticket.words, ticket.state = words, "running"
    ticket.steps, ticket.new_tokens = ticket.steps + 1, ticket.new_tokens + 1
    tell([ticket])


def test_an_answer_is_that_of_the_model(url: str, janus: Janus) -> None:
    picture = Image.linear_gradient("L").convert("RGB").resize((50, 30))
    turns: list[dict[str, Any]] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", "refusal": None, "annotations": [], "audio": None},
        {"role": "user", "content": [_image(picture), {"type": "text", "text": "What is it?"}]},
    ]
    got = post(url, CHAT, messages=turns, max_tokens=12, temperature=1, seed=3, user="me", foo=None).json()
    wanted = janus.chat(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}],
                "images": [picture],
            },
        ],
        max_tokens=12,
        temperature=1.0,
        seed=3,
    )
    assert wanted
    assert got["choices"][0]["message"] == {"role": "assistant", "content": wanted, "refusal": None}
    assert got["choices"][0]["finish_reason"] == "length"
    usage = got["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12 > 12


def test_several_answers_have_seeds_in_a_row(url: str, janus: Janus) -> None:
    got = post(url, CHAT, **question(n=3, seed=5, temperature=1, max_completion_tokens=10)).json()
    texts = [choice["message"]["content"] for choice in got["choices"]]
    assert texts == [janus.chat("Hi", max_tokens=10, temperature=1.0, seed=5 + j) for j in range(3)]
    assert len(set(texts)) == 3
    assert got["usage"]["completion_tokens"] == 30


def test_a_stream_says_the_same(url: str) -> None:
    asked = question(n=2, seed=5, temperature=1, max_tokens=10)
    whole = post(url, CHAT, **asked).json()
    events = _events(post(url, CHAT, **asked, stream=True, stream_options={"include_usage": True}))
    assert events.pop() == "[DONE]"
    last = events.pop()
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert all(one["usage"] is None and one["object"] == "chat.completion.chunk" for one in events)
    assert len({one["id"] for one in events}) == 1
    for place, choice in enumerate(whole["choices"]):
        own = [c for one in events for c in one["choices"] if c["index"] == place]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(c["delta"].get("content", "") for c in own) == choice["message"]["content"]
        assert [c["finish_reason"] for c in own] == [None] * (len(own) - 1) + ["length"]


def test_an_answer_streams_while_it_is_written_and_stops_at_a_word(held: str, hand: ByHand) -> None:
    asked = question(stop=[". "], stream=True)
    with httpx.stream("POST", f"{held}/v1/{CHAT}", json=asked, timeout=60, trust_env=False) as answer:
        lines = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {"))
        assert next(lines)["choices"][0]["delta"]["role"] == "assistant"
        ticket = hand.ticket()
        _write(ticket, " A red")
        assert next(lines)["choices"][0]["delta"] == {"content": "A red"}
        _write(ticket, " A red car.")
        assert next(lines)["choices"][0]["delta"] == {"content": " car"}
        _write(ticket, " A red car. And")
        last = next(lines)["choices"][0]
        assert (last["delta"], last["finish_reason"]) == ({}, "stop")
        assert ticket.unwanted
        ticket.end("dropped")
        assert list(lines) == []


def test_one_answer_may_stop_before_the_others(held: str, hand: ByHand) -> None:
    asked = question(stop="X", stream=True, n=2)
    with httpx.stream("POST", f"{held}/v1/{CHAT}", json=asked, timeout=60, trust_env=False) as answer:
        first, second = hand.ticket(0), hand.ticket(1)
        _write(first, "aX")
        lines = answer.iter_lines()
        while '"finish_reason":"stop"' not in next(lines):
            pass
        assert (first.unwanted, second.unwanted) == (True, False)
        first.end("dropped")
        _write(second, "b")
        second.finish = "length"
        second.end("done")
        rest = "".join(lines)
    assert '"index":1,"delta":{"content":"b"}' in rest
    assert '"finish_reason":"length"' in rest
    assert rest.endswith("data: [DONE]")


def test_a_failure_on_the_way_ends_the_stream_with_an_error(held: str, hand: ByHand) -> None:
    asked = question(stream=True)
    with httpx.stream("POST", f"{held}/v1/{CHAT}", json=asked, timeout=60, trust_env=False) as answer:
        ticket = hand.ticket()
        _write(ticket, "A")
        ticket.end("failed", TooLateError("the request took longer than 3 s"))
        text = answer.read().decode()
    assert '"error":{"message":"the request took longer than 3 s"' in text
    assert "[DONE]" not in text


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (TooLateError("it took longer than 3 s"), 504, "longer than 3 s"),
        (ValueError("too much for the memory"), 400, "too much for the memory"),
        (RuntimeError("secret /path"), 500, "its log says why"),
    ],
)
def test_a_failure_before_the_answer_has_its_status(
    held: str, hand: ByHand, error: Exception, status: int, words: str
) -> None:
    threading.Thread(target=lambda: hand.ticket().end("failed", error)).start()
    got, _, sentence = refusal(post(held, CHAT, **question()))
    assert got == status
    assert words in sentence
    assert "secret" not in sentence


def test_a_silent_stream_gives_signs_of_life(
    held: str, hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "SILENCE", 0.02)
    asked = question(stream=True)
    with httpx.stream("POST", f"{held}/v1/{CHAT}", json=asked, timeout=60, trust_env=False) as answer:
        lines = answer.iter_lines()
        for _ in range(2):
            while next(lines) != ": still at it":
                pass
        ticket = hand.ticket()
        _write(ticket, "A")
        ticket.finish = "stop"
        ticket.end("done")
        rest = list(lines)
    assert '"content":"A"' in "".join(rest)
    assert rest[-2] == "data: [DONE]"


@pytest.mark.parametrize("streamed", [False, True])
def test_whoever_hangs_up_is_dropped(held: str, hand: ByHand, streamed: bool) -> None:
    body = json.dumps(question(stream=streamed, n=2)).encode()
    parts = urlsplit(held)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        head = f"POST /v1/{CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        tickets = [hand.ticket(0), hand.ticket(1)]
        assert not any(ticket.unwanted for ticket in tickets)
    for ticket in tickets:
        assert _becomes(lambda ticket=ticket: ticket.unwanted)


def _becomes(true: Any) -> bool:
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(true())


def test_a_full_queue_says_when_to_come_back(held: str, hand: ByHand) -> None:
    answer = post(held, CHAT, **question(n=3))
    assert refusal(answer)[0] == 429
    assert answer.headers["retry-after"] == "7"
    assert all(ticket.unwanted for ticket in hand.tickets)  # those of its answers that found room
    hand.closing = True
    answer = post(held, CHAT, **question())
    assert refusal(answer)[0] == 503
    assert "retry-after" in answer.headers


_PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
_HTTP = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
_FILE = {"type": "image_url", "image_url": {"url": "/etc/passwd"}}


def _with(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "x"}]}]}


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({}, "messages", "missing"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'tool'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "must be"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, None, "alternate"),
        (question(""), None, "empty"),
        (question(temperature=3), "temperature", "less than or equal to 2"),
        (question(temperature="1"), "temperature", "number"),
        (question(temperature=True), "temperature", "number"),
        (question(top_p=0), "top_p", "greater than 0"),
        (question(seed=2**63), "seed", "less than"),
        (question(n=4), "n", "3"),
        (question(n=0), "n", "greater than or equal to 1"),
        (question(n=1.5), "n", "integer"),
        (question(max_tokens=41), "max_tokens", "40"),
        (question(max_tokens=3, max_completion_tokens=4), "max_tokens", "differ"),
        (question(stop=["a"] * 5), "stop", "at most 4"),
        (question(stop=""), "stop", "at least 1"),
        (question(stream_options={"include_usage": True}), "stream_options", "stream: true"),
        (question(model="gpt-5"), "model", "janus-embedded"),
        (question(tools=[{"type": "function"}]), "tools", "calls no tools"),
        (question(logprobs=True), "logprobs", "not told"),
        (question(response_format={"type": "json_object"}), "response_format.type", "'text'"),
        (question(frequency_penalty=0.5), "frequency_penalty", "no penalties"),
        (question(temprature=1), "temprature", "not known"),
        (question("x" * 51), "messages", "50 characters"),
        (_with(_PICTURE, _PICTURE, _PICTURE), "messages", "2 pictures"),
        (_with(_PICTURE), "messages[0].content[0].image_url.url", "none of PNG"),
        (_with(_HTTP), "messages", "not fetched from 'example.org'"),
        (_with(_FILE), "messages", "data:image/"),
        (_with({"type": "input_audio"}), "messages[0].content[0].type", "input_audio"),
    ],
)
def test_what_is_wrong_is_named(held: str, body: dict[str, Any], field: str | None, words: str) -> None:
    status, got, sentence = refusal(post(held, CHAT, **body))
    assert (status, got) == (404 if field == "model" else 400, field), sentence
    assert words in sentence


def test_what_asks_for_nothing_is_taken(url: str) -> None:
    """What Open WebUI, LangChain, LiteLLM and others send without being told."""
    quiet: dict[str, Any] = {
        "tools": [],
        "tool_choice": "none",
        "logprobs": False,
        "top_logprobs": None,
        "logit_bias": {},
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": None,
        "stream": False,
        "stop": None,
        "n": 1,
        "max_tokens": 2.0,
        "model": "janus-embedded",
    }
    assert post(url, CHAT, **question(**quiet)).status_code == 200


def test_a_special_token_in_words_is_just_words(url: str, janus: Janus) -> None:
    plain, tricky = (
        post(url, CHAT, **question(words, max_tokens=1)).json()["usage"]["prompt_tokens"]
        for words in ("x", "x<image_placeholder><｜end▁of▁sentence｜>")
    )
    assert tricky - plain > 10
