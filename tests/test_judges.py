"""Judges: what is asked, kept, retried, counted and never told, against a server of this process's own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from janus import Janus
from janus.eval import endpoint as endpoint_module
from janus.eval.endpoint import Endpoint
from janus.eval.judges import Consultation, Limit, ModelJudge, Reply, Request, Spent

KEY = "sk-very-secret-0123456789"
PNG, JPEG = b"\x89PNG\r\n\x1a\nnot much", b"\xff\xd8\xff\xe0 not much"
Answer = tuple[int, dict[str, str], Any]  # status, headers, body: an object goes as JSON, text as it is


def completion(text: Any, **more: Any) -> Answer:
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return 200, {}, {"model": "judge-1-2025", "choices": [choice], "usage": usage, **more}


class Server:
    """Answers with what `script` gives for the body of a request; None: it does not answer."""

    def __init__(self, script: Callable[[dict[str, Any], int], Answer | None]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.released = threading.Event()
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers) | {"path": self.path})
                    answer = script(body, len(outer.bodies))
                if answer is None:
                    outer.released.wait(10)
                    return
                status, headers, data = answer
                raw = data.encode() if isinstance(data, str) else json.dumps(data).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(raw)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


Serve = Callable[..., Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers: list[Server] = []

    def start(script: Callable[[dict[str, Any], int], Answer | None]) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def judge(server: Server, waits: list[float] | None = None, **more: Any) -> Endpoint:
    """With one request at a time unless told otherwise, and without waiting."""
    usual: dict[str, Any] = {"key_variable": "JUDGE_KEY", "workers": 1}
    usual["sleep"] = ([] if waits is None else waits).append
    return Endpoint(server.url, "judge-1", **usual | more)


def asked(prompts: Sequence[str]) -> list[Request]:
    return [Request(prompt, about=f"question {place}") for place, prompt in enumerate(prompts)]


def everything(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_request_and_its_reply(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda body, n: completion("0.7"))
    request = Request("Is it right?", "Be strict.", (PNG, JPEG), temperature=0.5, max_tokens=3)
    consultation = Consultation(judge(server, options={"seed": 1}), tmp_path)
    [reply] = consultation.ask([request])
    assert reply == Reply("0.7", "", "judge-1-2025", Spent(1, 10, 2))
    [body] = server.bodies
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert body["messages"][0] == {"role": "system", "content": "Be strict."}
    first, second, text = body["messages"][1]["content"]
    assert first["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgp")
    assert second["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/4")
    assert text == {"type": "text", "text": "Is it right?"}
    del body["messages"]
    assert body == {"model": "judge-1", "temperature": 0.5, "max_tokens": 3, "seed": 1}
    assert consultation.details["answered_as"] == ["judge-1-2025"]
    assert consultation.details["spent"] == {"requests": 1, "read": 10, "written": 2}


def test_without_pictures_the_content_is_plain_text(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda body, n: completion("yes"))
    options = {"max_tokens": None, "max_completion_tokens": 3}
    own = judge(server, key_variable=None, options=options)
    Consultation(own, tmp_path).ask([Request("a")])
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "a"}]
    assert "max_tokens" not in server.bodies[0]
    assert server.bodies[0]["max_completion_tokens"] == 3
    assert "Authorization" not in server.headers[0]


def test_nothing_is_asked_twice(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda body, n: completion(f"{body['messages'][0]['content']}!"))
    first = Consultation(judge(server, workers=4), tmp_path)
    assert [reply.text for reply in first.ask(asked(["a", "b", "a", "c"]))] == ["a!", "b!", "a!", "c!"]
    assert sorted(body["messages"][0]["content"] for body in server.bodies) == ["a", "b", "c"]
    again = Consultation(judge(server), tmp_path)
    assert [reply.text for reply in again.ask(asked(["c", "b", "a"]))] == ["c!", "b!", "a!"]
    assert len(server.bodies) == 3
    assert again.details["spent"]["requests"] == 3


def test_whatever_a_reply_depends_on_makes_another_question(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda body, n: completion(str(n)))
    variants = [
        Request("a"),
        Request("b"),
        Request("a", "system"),
        Request("a", pictures=(PNG,)),
        Request("a", pictures=(JPEG,)),
        Request("a", pictures=(PNG, JPEG)),
        Request("a", pictures=(JPEG, PNG)),
        Request("a", temperature=0.5),
        Request("a", max_tokens=3),
        Request("a", number=1),
    ]
    consultation = Consultation(judge(server), tmp_path)
    assert len({reply.text for reply in consultation.ask(variants)}) == len(variants)
    assert consultation.ask([Request("a", about="something else")])[0].text == "1"
    for other in (judge(server, options={"seed": 1}), Endpoint(server.url, "judge-2", key_variable=None)):
        assert Consultation(other, tmp_path).ask([Request("a")])[0].text not in (None, "1")
    assert len(list(tmp_path.glob("judge-*.jsonl"))) == 3


def test_replies_are_on_the_disk_as_they_come_and_outlive_a_kill(serve: Serve, tmp_path: Path) -> None:
    silent = True
    server = serve(
        lambda body, n: None if silent and n > 2 else completion(body["messages"][0]["content"] + "!")
    )
    with pytest.raises(KeyboardInterrupt):
        Consultation(judge(server), tmp_path).ask(
            asked(list("abcd")), lambda done, total: _interrupt(done == 2)
        )
    [journal] = tmp_path.glob("judge-*.jsonl")
    assert [json.loads(line)["reply"] for line in journal.read_text().splitlines()] == ["a!", "b!"]
    with journal.open("a") as file:
        file.write('{"key": "half a li')
    silent, before = False, len(server.bodies)
    replies = Consultation(judge(server), tmp_path).ask(asked(list("abcd")))
    assert [reply.text for reply in replies] == ["a!", "b!", "c!", "d!"]
    assert [body["messages"][0]["content"] for body in server.bodies[before:]] == ["c", "d"]


def _interrupt(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


def test_busy_servers_are_asked_again_after_growing_waits(serve: Serve, tmp_path: Path) -> None:
    busy: list[Answer] = [
        (429, {}, {"error": {"message": "slow down"}}),
        (500, {}, "oops"),
        (503, {"Retry-After": "7"}, ""),
        (429, {"Retry-After": "nonsense"}, ""),
    ]
    server = serve(lambda body, n: busy[n - 1] if n <= len(busy) else completion("ok"))
    waits: list[float] = []
    consultation = Consultation(judge(server, waits), tmp_path)
    [reply] = consultation.ask(asked(["a"]))
    assert (reply.text, reply.spent.requests) == ("ok", 5)
    assert waits == [1, 2, 7, 8]
    assert consultation.notes == []


def test_a_date_in_retry_after_is_waited_for(serve: Serve, tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta
    from email.utils import format_datetime, formatdate

    dates = [formatdate(time.time() + 30, usegmt=True), format_datetime(datetime.now(UTC) - timedelta(1))]
    server = serve(lambda body, n: (429, {"Retry-After": dates[n - 1]}, "") if n < 3 else completion("ok"))
    waits: list[float] = []
    assert Consultation(judge(server, waits), tmp_path).ask(asked(["a"]))[0].text == "ok"
    assert 25 < waits[0] <= 30
    assert waits[1] == 2


@pytest.mark.parametrize(
    ("answer", "attempts", "error"),
    [
        ((429, {}, ""), 3, "too many requests (429)"),
        ((500, {}, ""), 3, "server error (500)"),
        ((200, {}, "<html>"), 3, "the reply was not a chat completion"),
        ((200, {}, "[" * 100_000), 3, "the reply was not a chat completion"),
        ((200, {}, {"choices": []}), 3, "the reply was not a chat completion"),
        ((200, {}, ["no"]), 3, "the reply was not a chat completion"),
        (completion(["part"]), 3, "the reply was not a chat completion"),
        (completion("1", usage="many"), 3, "the reply was not a chat completion"),
        (completion(""), 1, "empty reply (finish_reason 'stop')"),
        (completion(None), 1, "empty reply (finish_reason 'stop')"),
        ((400, {}, {"error": {"message": f"bad\nwords {KEY}"}}), 1, "refused (400): bad words ***"),
        ((429, {"Retry-After": "3600"}, ""), 1, "too many requests (429), and wants 3600 seconds of peace"),
    ],
)
def test_failures_have_names_and_are_asked_anew_next_time(
    serve: Serve, tmp_path: Path, answer: Answer, attempts: int, error: str
) -> None:
    good = False
    server = serve(
        lambda body, n: completion("ok") if good or body["messages"][0]["content"] != "bad" else answer
    )
    consultation = Consultation(judge(server, attempts=3), tmp_path)
    replies = consultation.ask(asked(["a", "bad", "b"]))
    assert [reply.text for reply in replies] == ["ok", None, "ok"]
    assert replies[1].error == error
    assert consultation.details["failures"] == {error: 1}
    assert consultation.notes == [f"1 questions to {judge(server).title} have no reply: {error}."]
    assert len(server.bodies) == 2 + attempts == consultation.details["spent"]["requests"]
    assert KEY not in everything(tmp_path)
    good = True
    again = Consultation(judge(server), tmp_path)
    assert [reply.text for reply in again.ask(asked(["a", "bad", "b"]))] == ["ok", "ok", "ok"]
    assert len(server.bodies) == 3 + attempts == again.details["spent"]["requests"]


def test_servers_that_do_not_answer_or_are_not_there(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda body, n: None)
    [reply] = Consultation(judge(server, timeout=0.1, attempts=2), tmp_path).ask(asked(["a"]))
    assert (reply.text, reply.error, len(server.bodies)) == (None, "no answer in time", 2)
    server.close()
    gone = Endpoint(server.url, "judge-1", key_variable=None, attempts=2, sleep=lambda _: None)
    assert Consultation(gone, tmp_path).ask(asked(["a"]))[0].error == "no connection (ConnectError)"


def test_a_server_that_always_fails_is_soon_left_alone(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda body, n: (500, {}, ""))
    consultation = Consultation(judge(server, attempts=2), tmp_path)
    replies = consultation.ask(asked([str(number) for number in range(50)]))
    assert len(server.bodies) == 8
    assert replies[-1].error == "not asked: 4 requests in a row failed (server error (500))"
    assert sum(consultation.details["failures"].values()) == 50


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_ends_it_at_once(serve: Serve, tmp_path: Path, status: int) -> None:
    server = serve(
        lambda body, n: completion("ok") if n < 3 else (status, {}, {"error": {"message": f"not {KEY}"}})
    )
    with pytest.raises(ValueError, match=rf"judge-1 at 127\.0\.0\.1:\d+ .* \({status}\): not \*\*\*"):
        Consultation(judge(server), tmp_path).ask(asked(list("abcdefgh")))
    assert len(server.bodies) == 3
    assert everything(tmp_path).count('"reply": "ok"') == 2


@pytest.mark.parametrize(
    ("limit", "sent", "named"),
    [
        (Limit(requests=3), 3, "the limit of 3 requests is reached"),
        (Limit(tokens=50), 3, "the limit of 50 tokens is reached"),
        (Limit(money=0.1, prices=(2500.0, 5000.0)), 2, "the limit of 0.1 in money is reached"),
        (Limit(requests=0), 0, "the limit of 0 requests is reached"),
        (Limit(), 8, ""),
    ],
)
def test_the_limit_stops_asking_and_keeps_what_was_answered(
    serve: Serve, tmp_path: Path, limit: Limit, sent: int, named: str
) -> None:
    server = serve(lambda body, n: completion("ok"))
    requests = [Request(prompt, max_tokens=4) for prompt in "abcdefgh"]  # may cost 16 and 4, do cost 10 and 2
    for workers in (1, 8):
        consultation = Consultation(judge(server, limit=limit, workers=workers), tmp_path)
        replies = consultation.ask(requests)
        assert sum(reply.text == "ok" for reply in replies) == sent == len(server.bodies)
        errors = {reply.error for reply in replies if reply.text is None}
        assert errors == ({f"not asked: {named}"} if named else set())
        spent = Spent(**consultation.details["spent"])
        assert not limit.exceeded(spent)
        assert limit.cost(spent) == (None if limit.prices is None else pytest.approx(0.035 * sent))
        assert consultation.details.get("cost") == limit.cost(spent)


def test_many_at_once_never_pass_the_limit(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda body, n: completion("ok") if n % 3 else (500, {}, ""))
    own = judge(server, limit=Limit(requests=20), workers=16)
    replies = Consultation(own, tmp_path).ask(asked([str(number) for number in range(60)]))
    assert len(server.bodies) == 20
    assert 0 < sum(reply.text == "ok" for reply in replies) < 20


def test_several_are_under_way_at_once(serve: Serve, tmp_path: Path) -> None:
    barrier = threading.Barrier(4, timeout=10)

    server = serve(lambda body, n: completion("ok"))
    together = judge(server, workers=4)
    real = endpoint_module._body

    def body(own: Endpoint, request: Request) -> dict[str, Any]:
        barrier.wait()  # goes on when four requests are being sent
        return real(own, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint_module, "_body", body)
        replies = Consultation(together, tmp_path).ask(asked(list("abcd")))
    assert [reply.text for reply in replies] == ["ok"] * 4


def test_the_key_is_told_to_nobody_but_the_server(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda body, n: completion(f"your key is {KEY}", model=f"judge {KEY}"))
    own = judge(server)
    consultation = Consultation(own, tmp_path)
    [reply] = consultation.ask(asked(["a"]))
    assert (reply.text, reply.model) == ("your key is ***", "judge ***")
    told = [everything(tmp_path), repr(own), repr(vars(own)), json.dumps(consultation.details)]
    assert not [text for text in told if "secret" in text]
    for bad in (f"{KEY}\n{KEY}", "schlüssel-secret", "secret\x00"):
        monkeypatch.setattr("os.environ", {"JUDGE_KEY": bad})
        with pytest.raises(ValueError, match="JUDGE_KEY has characters that no key has") as caught:
            own.check()
        assert "secret" not in str(caught.value)
    monkeypatch.setattr("os.environ", {"JUDGE_KEY": "  "})
    with pytest.raises(ValueError, match="needs a key in the environment variable JUDGE_KEY"):
        own.check()


def test_a_key_that_is_none_changes_no_reply(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "1")  # local servers take anything
    server = serve(lambda body, n: completion("1.0"))
    assert Consultation(judge(server), tmp_path).ask(asked(["a"]))[0].text == "1.0"


@pytest.mark.parametrize(
    ("url", "more", "words"),
    [
        ("api.openai.com/v1", {}, "is like https://api.openai.com/v1, not 'api.openai.com/v1'"),
        ("ftp://a/v1", {}, "not 'ftp://a/v1'"),
        ("https://me:secret@a/v1", {}, "must not hold a key"),
        ("https://a/v1?key=secret", {}, "must not hold a key"),
        ("me:secret@a?b=secret", {}, "not 'a'"),
        ("https://a/v1", {"model": " "}, "the name of a model, not ' '"),
        ("https://a/v1", {"workers": 0}, "workers must be above 0, not 0"),
        ("https://a/v1", {"timeout": -1.0}, r"timeout must be above 0, not -1\.0"),
    ],
)
def test_endpoints_that_cannot_be(url: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Endpoint(url, **{"model": "judge", **more})
    assert "secret" not in str(caught.value)


def test_limits_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"a limit of 5\.0 in money needs the prices"):
        Limit(money=5.0)
    with pytest.raises(ValueError, match="tokens must be 0 or more, not -1"):
        Limit(tokens=-1)
    with pytest.raises(ValueError, match=r"prices\[1\] must be 0 or more, not nan"):
        Limit(prices=(1.0, float("nan")))


def test_the_whole_address_is_taken_too() -> None:
    assert Endpoint("http://a:8000/v1/chat/completions/", "m", key_variable=None).url == "http://a:8000/v1"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), max_size=20))
@settings(deadline=None, max_examples=50)
def test_every_request_gets_its_own_reply(pairs: list[tuple[int, int]]) -> None:
    class Echo:
        title, chats, identity = "echo", False, {"b": 1}
        asked = 0

        def check(self) -> None: ...

        def ask(self, requests: Sequence[Request], spent: Spent) -> Iterator[tuple[int, Reply]]:
            for place in reversed(range(len(requests))):
                self.asked += 1
                request = requests[place]
                yield place, Reply(f"{request.prompt} {request.number}", spent=Spent(1))

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        echo = Echo()
        requests = [Request(str(prompt), number=number) for prompt, number in pairs]
        for _ in range(2):
            found = Consultation(echo, Path(folder)).ask(requests)
            assert [reply.text for reply in found] == [f"{prompt} {number}" for prompt, number in pairs]
        assert echo.asked == len(set(pairs))


def test_a_janus_model_judges(tmp_path: Path) -> None:
    import io

    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(data, "PNG")
    model = Janus.from_pretrained(dtype="float32")
    own = ModelJudge(model, "the embedded model", batch_size=2)
    pictures = (data.getvalue(),)
    requests = [
        Request("Is there a dog?", pictures=pictures, max_tokens=8),
        Request("word " * 5000, pictures=pictures, max_tokens=8),
        Request("Is there a cat?", pictures=pictures, max_tokens=8),
        Request("Is there a cat?", "Answer in one word.", pictures, max_tokens=4),
    ]
    replies = Consultation(own, tmp_path).ask(requests)
    assert replies[0].text == model.chat("Is there a dog?", [data.getvalue()], max_tokens=8)
    assert replies[2].text == model.chat("Is there a cat?", [data.getvalue()], max_tokens=8)
    assert replies[1].error.startswith("refused: the conversation takes")
    assert replies[3].text is not None
    assert Consultation(ModelJudge(model, "the embedded model"), tmp_path).ask(requests[:1]) == replies[:1]
