"""Two replicas of the API behind one address on this machine."""

from __future__ import annotations

import base64
import io
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("ray.serve", reason="ray[serve] is not installed")
openai = pytest.importorskip("openai")
KEY = "a-key"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray import serve

    from janus.serve.deployment import build

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["JANUS_API_KEYS"] = KEY
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build({"replicas": "2", "cpus": "0.5", "dtype": "float32", "time_limit": "20"}))
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        del os.environ["JANUS_API_KEYS"]
        serve.shutdown()
        ray.shutdown()


def test_two_replicas_behind_one_address(address: str) -> None:
    from janus.serve.deployment import REPLICA

    client = openai.OpenAI(base_url=address, api_key=KEY)
    drawn: dict[str, str] = {}
    for _ in range(50):
        told = client.images.with_raw_response.generate(prompt="a photo of a cat", extra_body={"seed": 1})
        drawn[told.headers[REPLICA]] = told.parse().data[0].b64_json
        if len(drawn) == 2:
            break
    assert len(drawn) == 2  # both have answered
    first, second = (Image.open(io.BytesIO(base64.b64decode(one))) for one in drawn.values())
    assert first.tobytes() == second.tobytes()  # and with the same picture

    url = f"data:image/png;base64,{next(iter(drawn.values()))}"
    content: Any = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    asked: dict[str, Any] = {"model": "janus-embedded", "messages": [{"role": "user", "content": content}]}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [
        piece.choices[0].delta.content or "" for piece in client.chat.completions.create(**asked, stream=True)
    ]
    assert "cat" in whole
    assert "".join(pieces) == whole

    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=address, api_key="another", max_retries=0).models.list()
    with pytest.raises(openai.BadRequestError):
        client.images.generate(prompt="a", n=1000)


def test_a_client_that_hangs_up_is_dropped(address: str) -> None:
    import httpx

    from janus.serve.deployment import REPLICA

    headers = {"Authorization": f"Bearer {KEY}"}
    body = {"prompt": "a photo of a cat", "n": 16, "stream": True, "partial_images": 3}
    with httpx.stream("POST", f"{address}/images/generations", json=body, headers=headers) as response:
        assert response.status_code == 200
        replica = response.headers[REPLICA]
        next(response.iter_bytes())
    end = time.monotonic() + 20
    while True:
        told = httpx.get(address.replace("/v1", "/metrics"), headers=headers)
        if told.headers[REPLICA] == replica and "janus_engine_dropped_total 0" not in told.text:
            break
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("wrong", [{"replicas": "0"}, {"dtype": "float8"}, {"speed": "1"}])
def test_wrong_arguments(wrong: dict[str, str]) -> None:
    from janus.serve.deployment import build

    with pytest.raises(ValueError, match=next(iter(wrong))):
        build(wrong)


def test_a_dead_worker_is_told() -> None:
    from types import SimpleNamespace

    from janus.serve.deployment import Replica

    replica = Replica()
    engine = SimpleNamespace(alive=True)
    replica.app = SimpleNamespace(state=SimpleNamespace(engine=engine))
    replica.check_health()
    engine.alive = False
    with pytest.raises(RuntimeError, match="dead"):
        replica.check_health()
