"""Who may come in, how large a request may be, what is where, and what the log holds."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from janus import Janus
from janus.serve.app import Options
from janus.serve.limits import Limits
from tests.served import ByHand, post, question, refusal, served

LOCKED = Options(keys=frozenset({"one", "zwei-ü"}), page=False, hosts=("localhost", "127.0.0.1", "[::1]"))


@pytest.fixture(scope="module")
def url(janus: Janus) -> Iterator[str]:
    with served(janus) as address:
        yield address


@pytest.fixture(scope="module")
def locked(janus: Janus) -> Iterator[str]:
    with served(janus, LOCKED) as address:
        yield address


def _get(url: str, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    return httpx.request(method, f"{url}{path}", headers=headers, timeout=60, trust_env=False)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/janus-embedded", "/metrics", "/v1/nothing"])
@pytest.mark.parametrize(
    "key", ["", "Bearer", "Bearer On", "Bearer onee", "Basic one", "one", "Bearer one, two"]
)
def test_without_a_key_nothing_is_told(locked: str, path: str, key: str) -> None:
    answer = _get(locked, path, Authorization=key)
    assert refusal(answer)[0] == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_with_a_key_all_is_open(locked: str) -> None:
    assert _get(locked, "/v1/models", Authorization="Bearer one").status_code == 200
    assert _get(locked, "/v1/models", Authorization="bearer  one").status_code == 200
    assert _get(locked, "/metrics", Authorization="Bearer one").status_code == 200
    assert _get(locked, "/health").status_code == 200
    described = _get(locked, "/openapi.json").json()
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert "security" not in described["paths"]["/health"]["get"]


def test_a_body_is_not_read_before_the_key_is(locked: str) -> None:
    parts = urlsplit(locked)
    with socket.create_connection((parts.hostname, parts.port), 10) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        connection.sendall(f"{head}\r\n".encode())
        assert b" 401 " in connection.recv(1000)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "127.0.0.1.evil.example", "[::2]"])
def test_another_name_is_refused(locked: str, host: str) -> None:
    """As a page elsewhere would use one that it had led to this machine."""
    assert refusal(_get(locked, "/v1/models", Host=host, Authorization="Bearer one"))[0] == 400
    assert _get(locked, "/openapi.json", Host=host).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:8000"])
def test_its_own_names_are_taken(locked: str, host: str) -> None:
    assert _get(locked, "/health", Host=host).status_code == 200


def test_a_form_of_another_page_is_refused(url: str) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        body = json.dumps({"prompt": "a cup"})
        answer = httpx.post(
            f"{url}/v1/images/generations", content=body, headers={"Content-Type": kind}, trust_env=False
        )
        assert refusal(answer)[0] == 415
    asked = _get(
        url,
        "/v1/images/generations",
        "OPTIONS",
        Origin="https://evil.example",
        **{"Access-Control-Request-Method": "POST"},
    )
    assert asked.status_code == 405
    assert not [name for name in asked.headers if name.startswith("access-control")]


@pytest.mark.parametrize("told", [True, False])
def test_a_large_body_is_refused_before_it_is_all_here(janus: Janus, told: bool) -> None:
    with served(janus, engine=ByHand(Limits(body=20_000))) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), 10) as connection:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            size = "Content-Length: 20001" if told else "Transfer-Encoding: chunked"
            connection.sendall(f"{head}{size}\r\n\r\n".encode())
            if not told:
                connection.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
                connection.sendall(b"2711\r\n" + b" " * 10_001 + b"\r\n")
            assert b" 413 " in connection.recv(1000)
        assert refusal(post(url, "chat/completions", messages=[]))[0] == 400


def test_a_body_of_very_many_parts_is_refused(url: str) -> None:
    body = b'{"messages":[' + b"[]," * 500_000 + b"[]]}"
    answer = httpx.post(
        f"{url}/v1/chat/completions",
        content=body,
        headers={"Content-Type": "application/json"},
        timeout=60,
        trust_env=False,
    )
    assert refusal(answer)[0] == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"prompt":"\\ud800"}',
        b'{"prompt":"x","\\ud800":1}',
        b'{"prompt":"x","guidance":NaN}',
        b'{"prompt":"x","guidance":1e999}',
        b'{"prompt":"x","seed":' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_not_a_request_is_a_mistake_of_the_client(url: str, body: bytes) -> None:
    answer = httpx.post(
        f"{url}/v1/images/generations",
        content=body,
        headers={"Content-Type": "application/json; charset=utf-8"},
        trust_env=False,
    )
    assert refusal(answer)[0] == 400


def test_what_is_not_there(url: str) -> None:
    assert refusal(_get(url, "/v1/nothing"))[0] == 404
    assert refusal(_get(url, "/v1/models/gpt-5"))[0] == 404
    for method, path, allowed in (("PUT", "/v1/models", "GET"), ("GET", "/v1/chat/completions", "POST")):
        answer = _get(url, path, method)
        assert (refusal(answer)[0], answer.headers["allow"]) == (405, allowed)


def test_models_and_health(url: str, janus: Janus) -> None:
    (card,) = _get(url, "/v1/models").json()["data"]
    assert (card["id"], card["object"], card["owned_by"], card["state"]) == (
        "janus-embedded",
        "model",
        "janus",
        "ready",
    )
    assert _get(url, "/v1/models/janus-embedded").json() == card
    assert _get(url, "/health").json() == {"status": "ok"}
    hand = ByHand()
    with served(janus, engine=hand) as other:
        hand.stop_taking()
        answer = _get(other, "/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "stopping"})
        hand.closing, hand.alive = False, False
        assert (_get(other, "/health")).json() == {"status": "broken"}


def test_metrics_count(janus: Janus) -> None:
    with served(janus) as url:
        post(url, "images/generations", prompt="a cup")
        post(url, "images/generations", prompt="")
        post(url, "chat/completions", **question(max_tokens=3))
        figures = _get(url, "/metrics").text.splitlines()
    for line in (
        'janus_requests_total{route="/v1/images/generations",status="200"} 1.0',
        'janus_requests_total{route="/v1/images/generations",status="400"} 1.0',
        'janus_request_seconds_count{kind="image"} 1.0',
        'janus_wait_seconds_count{kind="text"} 1.0',
        "janus_engine_waiting 0.0",
        "janus_engine_rows 0.0",
    ):
        assert line in figures


@pytest.mark.parametrize("wanted", [False, True])
def test_the_log_holds_no_prompts_unless_asked(
    janus: Janus, wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with served(janus, Options(page=False, log_prompts=wanted, keys=frozenset({"hush"}))) as url:
        answer = httpx.post(
            f"{url}/v1/images/generations",
            json={"prompt": "a quiet cup"},
            headers={"Authorization": "Bearer hush"},
            trust_env=False,
            timeout=60,
        )
        assert answer.status_code == 200
    text = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("janus"))
    assert "POST '/v1/images/generations' 200" in text
    assert "tokens" in text
    assert ("a quiet cup" in text) is wanted
    assert "hush" not in caplog.text
