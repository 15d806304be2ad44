"""A server in a process of its own, and requests to it whose answers are known; for serving.py."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import httpx
import psutil
from PIL import Image

HOST = "127.0.0.1"
PATIENCE = 60  # seconds, for a server to start
GAUGES = ("janus_engine_rows", "janus_engine_running", "janus_engine_waiting")  # zero where nothing is left
CHAT, DRAW = "/v1/chat/completions", "/v1/images/generations"
PROMPTS = [
    "a photo of a red apple",
    "a photo of two dogs",
    "a photo of a clock above a book",
    "a photo of a green bus",
    "a photo of a banana and an umbrella",
    "a photo of a pizza left of a cup",
    "a photo of a train",
    "a photo of four oranges",
]
QUESTIONS = [
    "What is in the picture?",
    "Which colour is it?",
    "How many things are there?",
    "Is there a dog?",
]
WORDS = ["What can you draw?", "Describe a red apple.", "Is a banana yellow?", "Where is the cup?"]


class Server:
    """`janus serve` on a free port; ends with the `with` block.

    Raises SystemExit, with what it said, where it does not answer within a minute.
    """

    def __init__(
        self, *options: str, command: tuple[str, ...] = ("-m", "janus", "serve", "--api-only")
    ) -> None:
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port = free.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        self.command = [sys.executable, *command, "--port", str(self.port), *options]

    def __enter__(self) -> Server:
        self.said = tempfile.TemporaryFile("w+")
        self.started = time.monotonic()
        self.process = subprocess.Popen(self.command, stdout=self.said, stderr=subprocess.STDOUT)
        try:
            self.wait_for("/health")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_for(self, path: str) -> float:
        """Seconds from the command until this answers."""
        while time.monotonic() < self.started + PATIENCE and self.process.poll() is None:
            try:
                if httpx.get(self.url + path, follow_redirects=True, timeout=PATIENCE).is_success:
                    return time.monotonic() - self.started
            except httpx.TransportError:
                time.sleep(0.02)
        raise SystemExit(f"the server does not answer at {path}:\n{self.log()}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.said.close()

    def log(self) -> str:
        self.said.seek(0)
        return self.said.read()[-4000:]

    @cached_property
    def seen(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    @property
    def rss(self) -> float:
        """Its memory, MiB."""
        return self.seen.memory_info().rss / 2**20

    def figures(self) -> dict[str, float]:
        """What /metrics tells, by name; those of one name together are added up."""
        found: dict[str, float] = {}
        text = httpx.get(self.url + "/metrics", timeout=PATIENCE).raise_for_status().text
        for name, number in re.findall(r"^([\w:]+)(?:\{.*\})? (\S+)", text, re.M):
            found[name] = found.get(name, 0.0) + float(number)
        return found

    @property
    def mean_wait(self) -> float:
        """Seconds in the engine's queue, of all requests so far."""
        told = self.figures()
        return told["janus_wait_seconds_sum"] / max(1.0, told["janus_wait_seconds_count"])

    def busy(self) -> dict[str, float]:
        """Rows, requests in work and waiting."""
        told = self.figures()
        return {name: told[name] for name in GAUGES}


@dataclass(frozen=True)
class Request:
    kind: str
    path: str
    body: bytes
    stream: bool = False


@dataclass(frozen=True)
class Reply:
    """`status` 0: no answer; `answer` None: not a whole one.  Moments are of `time.monotonic()`."""

    request: Request
    status: int
    answer: str | None
    began: float
    first: float  # word or picture
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def client() -> httpx.AsyncClient:
    """A new connection for each request, so that none meets a server that just closed an old one."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(limits=limits, timeout=None, verify=False, trust_env=False)


async def send(web: httpx.AsyncClient, url: str, request: Request) -> Reply:
    """Never raises for what the server does."""
    began = time.monotonic()
    first, answer, status = 0.0, None, 0
    headers = {"Content-Type": "application/json"}
    try:
        async with web.stream("POST", url + request.path, content=request.body, headers=headers) as response:
            status = response.status_code
            if request.stream and status == 200:
                words, whole = [], False
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        words.append(_piece(json.loads(line[6:])))
                        first = first or (time.monotonic() if words[-1] else 0.0)
                    whole = whole or line == "data: [DONE]"
                answer = "".join(words) if whole else None
            else:
                body = await response.aread()
                answer = _answer(json.loads(body)) if status == 200 else None
    except (httpx.HTTPError, json.JSONDecodeError):
        answer = None
        status = 0 if status == 200 else status
    ended = time.monotonic()
    return Reply(request, status, answer, began, first or ended, ended)


def _piece(event: dict) -> str:
    choices = event.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


def _answer(body: dict) -> str:
    if "data" in body:
        return " ".join(picture["b64_json"] for picture in body["data"])
    return body["choices"][0]["message"]["content"]


def _chat(kind: str, content: object, stream: bool = False, **more: object) -> Request:
    body = {"messages": [{"role": "user", "content": content}], "stream": stream, "max_tokens": 32, **more}
    return Request(kind, CHAT, json.dumps(body).encode(), stream)


def drawing(number: int, **more: object) -> Request:
    prompt = PROMPTS[number % len(PROMPTS)]
    body = {"prompt": prompt, "seed": number, "response_format": "b64_json", **more}
    return Request("picture", DRAW, json.dumps(body).encode(), bool(more.get("stream")))


def asking(number: int, picture: str, stream: bool = False) -> Request:
    """About a PNG in base64."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}
    content = [image, {"type": "text", "text": QUESTIONS[number % len(QUESTIONS)]}]
    return _chat("question, streamed" if stream else "question", content, stream)


def talking(number: int, stream: bool = False, **more: object) -> Request:
    return _chat("words, streamed" if stream else "words", WORDS[number % len(WORDS)], stream, **more)


async def known(server: Server, pictures: int = 16) -> dict[Request, str]:
    """Requests with their answers, each alone: half drawings, a quarter questions about what was drawn, an
    eighth talk, an eighth of questions and talk streamed.

    Raises SystemExit where one is not answered.
    """
    answers: dict[Request, str] = {}
    async with client() as web:

        async def ask(request: Request) -> str:
            reply = await send(web, server.url, request)
            if reply.answer is None:
                raise SystemExit(f"{request.kind} alone: status {reply.status}\n{server.log()}")
            answers[request] = reply.answer
            return reply.answer

        drawn = [await ask(drawing(number)) for number in range(pictures)]
        for number in range(pictures // 2):
            await ask(asking(number, drawn[number]))
        for number in range(pictures // 4):
            await ask(talking(number))
            await ask(asking(number, drawn[number], True) if number % 2 else talking(number, True))
    return answers


def same(request: Request, one: str, other: str) -> bool:
    """Words by letter, pictures by pixel."""
    if one == other or request.path == CHAT:
        return one == other
    return pixels(one) == pixels(other)


def pixels(pictures: str) -> list[bytes]:
    return [
        Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB").tobytes() for one in pictures.split()
    ]


def half_sent(request: Request, port: int, rng: random.Random) -> bytes:
    """A request as it goes over the wire; one in ten is cut."""
    head = f"POST {request.path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(request.body)}\r\n\r\n"
    data = head.encode() + request.body
    return data[: rng.randrange(len(data))] if rng.random() < 0.1 else data


def app() -> Path:
    return Path(__file__).parent.parent / "app.py"
