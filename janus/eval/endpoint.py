"""A judge behind an address: any server that speaks OpenAI's chat completions.

The key is read from the environment when it is needed and goes nowhere but into the requests' header: not
into files, results or error messages, even where the server repeats it.
"""

from __future__ import annotations

import base64
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from janus.eval.benchmark import Line
from janus.eval.judges import Limit, Reply, Request, Spent

if TYPE_CHECKING:
    import httpx

_PATH = "/chat/completions"
_LONGEST = 120.0  # seconds to wait before a request is sent again; who asks for more is given up
_AGAIN = {408, 409, 429}  # and all from 500
_USELESS = {401: "does not accept the key", 403: "forbids it", 404: "does not know the address or the model"}
_SHORTEST_KEY = 8  # what is shorter is no secret
_PICTURE_TOKENS = 1500  # more than a picture costs at the sizes that are shown here


class Endpoint:
    """A model behind an address.

    url: up to "/v1".  key_variable: name of the environment variable that holds the key; None where the
    server wants none.  workers: requests at once.  attempts: how often one is sent before it is given up.
    options: more of the requests' body; None takes a field out, as in {"max_tokens": None,
    "max_completion_tokens": 3}.  sleep: for tests.
    """

    chats = True

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = "OPENAI_API_KEY",
        limit: Limit | None = None,
        workers: int = 8,
        timeout: float = 120.0,
        attempts: int = 6,
        options: Mapping[str, Any] | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"a judge's address is like https://api.openai.com/v1, not {_plain(url)!r}")
        if parts.username or parts.password or parts.query:
            raise ValueError("a judge's address must not hold a key; name the variable that holds it")
        if not model.strip():
            raise ValueError(f"the judge needs the name of a model, not {model!r}")
        for name, value in {"workers": workers, "attempts": attempts, "timeout": timeout}.items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        self.url = url.rstrip("/").removesuffix(_PATH)
        self.model, self.key_variable, self.limit = model, key_variable, limit or Limit()
        self.workers, self.timeout, self.attempts = workers, timeout, attempts
        self.options, self.sleep = dict(options or {}), sleep
        self.title = f"{model} at {parts.netloc}"

    @property
    def identity(self) -> Line:
        return {"url": self.url, "model": self.model, "options": self.options}

    def check(self) -> None:
        """Raises ValueError where the key is missing."""
        self._key()

    def ask(self, requests: Sequence[Request], spent: Spent) -> Iterator[tuple[int, Reply]]:
        """Several at once.  Raises ValueError where the server wants another key, address or model."""
        import httpx

        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        client = httpx.Client(headers=headers, timeout=self.timeout)
        work = _Work(self, client, key, spent, requests)
        for _ in range(min(self.workers, len(requests))):  # those of an interrupted process end with it
            threading.Thread(target=work.go, daemon=True).start()
        try:
            for _ in requests:
                yield work.result()
        finally:
            work.stop.set()
        client.close()
        if work.useless:
            raise ValueError(f"{self.title} {work.useless}")

    def _key(self) -> str:
        if self.key_variable is None:
            return ""
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise ValueError(
                f"the judge {self.title} needs a key in the environment variable {self.key_variable}"
            )
        if not key.isascii() or not key.isprintable():
            raise ValueError(f"the key in {self.key_variable} has characters that no key has")
        return key


class _Work:
    """One round of requests, shared by the threads that send them."""

    def __init__(
        self, endpoint: Endpoint, client: httpx.Client, key: str, spent: Spent, requests: Sequence[Request]
    ) -> None:
        self.endpoint, self.client, self._secret = endpoint, client, key
        self._todo: SimpleQueue[tuple[int, Request]] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, Reply] | Exception] = SimpleQueue()
        for place, request in enumerate(requests):
            self._todo.put((place, request))
        self.stop = threading.Event()
        self.useless = ""  # why it is no use to ask this server
        self._lock = threading.Lock()
        self._spent = spent  # and what requests on their way may cost
        self._in_a_row = 0  # requests that were given up, without one that was answered in between
        self._over = ""  # why nothing more is asked

    def go(self) -> None:
        """Send until nothing is left to send."""
        while True:
            try:
                place, request = self._todo.get_nowait()
            except Empty:
                return
            try:
                self._done.put((place, self.reply(request)))
            except Exception as error:  # a mistake of ours must not leave others waiting
                self._done.put(error)

    def result(self) -> tuple[int, Reply]:
        """The next that has come."""
        found = self._done.get()
        if isinstance(found, Exception):
            raise found
        return found

    def reply(self, request: Request) -> Reply:
        """Send until it is answered, or given up."""
        sent, problem = Spent(), ""
        for attempt in range(self.endpoint.attempts):
            if refusal := self._refusal(request):
                return Reply(None, refusal, spent=sent)
            reply, wait = self._send(request)
            self._settle(request, reply)
            sent += reply.spent
            if wait is None:
                return replace(reply, spent=sent)
            problem, pause = reply.error, max(wait, min(2.0**attempt, 60.0))
            if pause > _LONGEST:
                problem += f", and wants {pause:.0f} seconds of peace"
                break
            if attempt + 1 < self.endpoint.attempts:
                (self.endpoint.sleep or self.stop.wait)(pause)
        with self._lock:
            self._in_a_row += 1
            if self._in_a_row >= max(4, self.endpoint.workers):
                self._over = self._over or f"not asked: {self._in_a_row} requests in a row failed ({problem})"
        return Reply(None, problem, spent=sent)

    def _send(self, request: Request) -> tuple[Reply, float | None]:
        """The reply or what went wrong, and how long to wait before it is sent again; None: it is not."""
        import httpx

        try:
            response = self.client.post(self.endpoint.url + _PATH, json=_body(self.endpoint, request))
        except httpx.TimeoutException:
            return _failed("no answer in time"), 0.0
        except httpx.HTTPError as error:
            return _failed(f"no connection ({type(error).__name__})"), 0.0
        status = response.status_code
        if status in _AGAIN or status >= 500:
            what = "too many requests" if status == 429 else "server error"
            return _failed(f"{what} ({status})"), _retry_after(response.headers.get("Retry-After", ""))
        if status != 200:
            message = self._clean(_message(response))
            if status in _USELESS:
                self.useless = f"{_USELESS[status]} ({status}): {message}"
                self.stop.set()
            return _failed(f"refused ({status}): {message}"), None
        try:
            return self._read(response.json(), request), None
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            return _failed("the reply was not a chat completion"), 0.0

    def _read(self, data: Any, request: Request) -> Reply:
        choice = data["choices"][0]
        text, usage = choice["message"].get("content"), data.get("usage") or {}
        if text is not None and not isinstance(text, str):
            raise TypeError(f"content is no text but {type(text).__name__}")
        guess = _most(request)
        read, written = usage.get("prompt_tokens", guess.read), usage.get("completion_tokens", guess.written)
        model = self._clean(str(data.get("model") or ""))
        spent = Spent(1, int(read or 0), int(written or 0))
        if not text:
            return Reply(None, f"empty reply (finish_reason {choice.get('finish_reason')!r})", model, spent)
        return Reply(self._clean(text), "", model, spent)

    def _refusal(self, request: Request) -> str:
        """Why a request is not sent; empty if it is, and then what it may cost is counted in."""
        if self.stop.is_set():
            return "not asked: stopped"
        with self._lock:
            then = self._spent + _most(request)
            if not self._over and (limit := self.endpoint.limit.exceeded(then)):
                self._over = f"not asked: the limit of {limit} is reached"
            if not self._over:
                self._spent = then
            return self._over

    def _settle(self, request: Request, reply: Reply) -> None:
        """Count what it has cost instead of what it might have."""
        most = _most(request)
        with self._lock:
            self._spent += Spent(-most.requests, -most.read, -most.written) + reply.spent
            if reply.text is not None:
                self._in_a_row = 0

    def _clean(self, text: str) -> str:
        """Without the key; what local servers take for one may be a part of any word."""
        return text.replace(self._secret, "***") if len(self._secret) >= _SHORTEST_KEY else text


def _failed(problem: str) -> Reply:
    return Reply(None, problem, spent=Spent(requests=1))


def _body(endpoint: Endpoint, request: Request) -> Line:
    content: Any = request.prompt
    if request.pictures:
        content = [
            *({"type": "image_url", "image_url": {"url": _url(picture)}} for picture in request.pictures),
            {"type": "text", "text": request.prompt},
        ]
    system = [{"role": "system", "content": request.system}] if request.system is not None else []
    body = {
        "model": endpoint.model,
        "messages": [*system, {"role": "user", "content": content}],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        **endpoint.options,
    }
    return {name: value for name, value in body.items() if value is not None}


def _url(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _most(request: Request) -> Spent:
    """What a request may cost at most, near enough: a token has more than two bytes for the most part."""
    words = len(request.prompt.encode()) + len((request.system or "").encode())
    return Spent(1, words // 2 + 16 + _PICTURE_TOKENS * len(request.pictures), request.max_tokens)


def _retry_after(value: str) -> float:
    """Seconds, from seconds or a date; 0 where it says neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, TypeError):
            return 0.0
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _message(response: httpx.Response) -> str:
    """What the server says, in short."""
    try:
        error = response.json()["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError, RecursionError):
        text = response.text
    return " ".join(str(text).split())[:200]


def _plain(url: str) -> str:
    """Without what may be a key."""
    return url.partition("?")[0].rpartition("@")[2]
