"""The API against its own description, and against pictures and bodies that were made to hurt."""

from __future__ import annotations

import gc
import json
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from janus import Drawing, Question
from tests.hostile_cases import BODIES, DRAWINGS, GOOD, PICTURES, URLS, Fate, chat, data_url

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from janus import Janus
    from janus.serve.engine import Engine

psutil = pytest.importorskip("psutil")
pytest.importorskip("fastapi")
CHAT, DRAW = "/v1/chat/completions", "/v1/images/generations"
JSON = {"Content-Type": "application/json"}
PATIENCE = 5  # seconds, for any answer


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    from janus.serve.engine import Engine

    engine = Engine()
    yield engine
    engine.close(10)


@pytest.fixture(scope="module")
def app(janus: Janus, engine: Engine) -> FastAPI:
    from janus.serve.app import Options, create_app
    from janus.serve.models import Models

    options = Options(page=False, remote=("pictures.example",))
    return create_app(engine, Models([None], lambda source, follow: janus), options)


@pytest.fixture(scope="module")
def web(app: FastAPI) -> Iterator[TestClient]:
    """After one good request of each kind, so that what is loaded once is loaded."""
    from starlette.testclient import TestClient

    with TestClient(app, raise_server_exceptions=False) as web:
        assert web.post(CHAT, json=chat(data_url(PICTURES["one pixel"][0]()))).status_code == 200
        assert web.post(DRAW, json={"prompt": "a", "seed": 1}).status_code == 200
        yield web


@pytest.fixture(autouse=True)
def reached(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whom the server tried to reach; nobody is."""
    tried: list[Any] = []

    def refuse(*words: Any, **more: Any) -> Any:
        tried.append(words)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


def check(web: TestClient, path: str, fate: Fate, **how: Any) -> Any:
    """In time, as it should be, and if refused then by a sentence."""
    began = time.monotonic()
    response = web.post(path, headers=JSON | how.pop("headers", {}), **how)
    assert time.monotonic() - began < PATIENCE
    statuses = {"answered": {200}, "refused": REFUSED, "either": {200} | REFUSED}
    assert response.status_code in statuses[fate], response.text[:500]
    if response.status_code != 200:
        told = response.json()["error"]
        assert set(told) == {"message", "type", "param", "code"}
        assert len(told["message"]) > 10
        assert len(told["message"]) < 1000
        assert "Traceback" not in told["message"]
        assert "<_io" not in told["message"]
        assert "root:" not in told["message"]
    return response


REFUSED = {400, 404, 413, 415, 422}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(web: TestClient, name: str) -> None:
    make, fate = PICTURES[name]
    check(web, CHAT, fate, json=chat(data_url(make())))


@pytest.mark.parametrize("name", URLS)
def test_addresses(web: TestClient, reached: list[Any], name: str) -> None:
    url, fate = URLS[name]
    check(web, CHAT, fate, json=chat(url))
    assert reached == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "::1", "::ffff:10.0.0.1", "fd00::1", "fe80::1"],
)
def test_an_allowed_name_with_a_private_address(
    web: TestClient, reached: list[Any], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **more: found)
    check(web, CHAT, "refused", json=chat("https://pictures.example/a.png"))
    assert reached == []


@pytest.mark.parametrize("name", BODIES)
def test_bodies(web: TestClient, name: str) -> None:
    body, fate = BODIES[name]
    headers = {"Content-Encoding": "gzip"} if name == "gzip" else {}
    headers |= {"Content-Type": "multipart/form-data; boundary=x"} if name == "a form" else {}
    check(web, CHAT, fate, content=body, headers=headers)


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings(web: TestClient, name: str) -> None:
    more, fate = DRAWINGS[name]
    check(web, DRAW, fate, content=json.dumps({"prompt": "a", **more}))


def test_a_body_of_unknown_length(web: TestClient) -> None:
    sent = []

    def pieces() -> Iterator[bytes]:
        for _ in range(200):
            sent.append(1)
            yield b" " * 2**20

    assert check(web, CHAT, "refused", content=pieces()).status_code == 413


MARKS = [
    "<image_placeholder>",
    "<｜end▁of▁sentence｜>",
    "<｜begin▁of▁sentence｜>",
    "<|User|>",
    "<begin_of_image>",
]


@pytest.mark.parametrize("mark", MARKS)
def test_words_that_look_like_control_tokens(web: TestClient, janus: Janus, mark: str) -> None:
    url = data_url(PICTURES["one pixel"][0]())

    def counted(words: str) -> int:
        told = check(web, CHAT, "answered", json=chat(url, words=words)).json()["usage"]["prompt_tokens"]
        question = Question(words, [PICTURES["one pixel"][0]()])
        ids = janus.prepare(question).prompt.ids
        assert ids.count(janus.tokenizer.image_id) == janus.config.vision.tokens
        assert ids.count(janus.tokenizer.eos_id) == 0
        assert told == len(ids)
        return int(told)

    # as many tokens as its letters, not one, and not those of a picture
    assert 3 < counted(f"What {mark}?") - counted("What ?") < 40
    check(web, DRAW, "answered", json={"prompt": f"a {mark} b", "seed": 1})
    assert janus.prepare(Drawing(f"a {mark} b", seed=1)).prompt.ids.count(janus.tokenizer.image_id) == 0


def test_nothing_is_left(web: TestClient, engine: Engine) -> None:
    """The same again and again: neither memory nor rows stay, and a good request is still answered."""
    made = {name: (make(), fate) for name, (make, fate) in PICTURES.items()}

    def all_of_them() -> float:
        for picture, fate in made.values():
            check(web, CHAT, fate, json=chat(data_url(picture)))
        gc.collect()
        return float(psutil.Process().memory_info().rss / 2**20)

    before = [all_of_them() for _ in range(2)][-1]
    after = [all_of_them() for _ in range(4)][-1]
    assert after - before < 16  # MiB; the larger of the pictures are 100 to 300
    assert (engine.rows, engine.running, engine.waiting) == (0, 0, 0)
    assert engine.alive
    one, other = (web.post(DRAW, json={"prompt": "a", "seed": 1}).json()["data"] for _ in range(2))
    assert one == other
    assert check(web, CHAT, "answered", json=chat(f"data:image/png;base64,{GOOD}")).json()["choices"]


# -- by its own description ---------------------------------------------------------------------

OPERATIONS = [
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("POST", CHAT),
    ("POST", DRAW),
]


@pytest.fixture(scope="module")
def description(app: FastAPI) -> Any:
    schemathesis = pytest.importorskip("schemathesis")

    async def kept(scope: Any, receive: Any, send: Any) -> None:
        """Without the end of its life, which schemathesis brings about after each test."""
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        told = ""
        while told != "lifespan.shutdown":
            told = (await receive())["type"]
            await send({"type": f"{told}.complete"})

    return schemathesis.openapi.from_asgi("/openapi.json", kept)


def test_all_operations_are_tried(description: Any) -> None:
    found = [one.ok() for one in description.get_all_operations()]
    assert sorted((one.method.upper(), one.path) for one in found) == sorted(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "fitting"),
    [(*one, True) for one in OPERATIONS] + [(*one, False) for one in OPERATIONS if one[0] == "POST"],
)
def test_as_described(description: Any, engine: Engine, method: str, path: str, fitting: bool) -> None:
    from hypothesis import HealthCheck, given, settings
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    operation = description[path][method]
    mode = GenerationMode.POSITIVE if fitting else GenerationMode.NEGATIVE
    described = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
        checks.negative_data_rejection,
    ]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=40,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def tried(case: Any) -> None:
        began = time.monotonic()
        case.call_and_validate(checks=described)
        assert time.monotonic() - began < PATIENCE

    tried()
    assert (engine.rows, engine.running, engine.waiting) == (0, 0, 0)
