"""The engine: many requests in one batch, each as it would be alone; who leaves, who waits, what fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from PIL import Image

from janus import Drawing, Janus, Question, memory
from janus.core.cache import Cache
from janus.generation import Decoding
from janus.requests import group
from janus.serve.engine import Engine
from janus.serve.limits import Limits
from janus.serve.tickets import ClosingError, DroppedError, Ticket, TooLateError, TooManyError

PHOTO = Image.new("RGB", (40, 30), "teal")
REQUESTS: list[Drawing | Question] = [
    Drawing("a red cup", n=3, seed=5),
    Question("What is in the picture?", [PHOTO], max_tokens=30),
    Drawing("a dog beside a cat and two birds", seed=7, guidance=1.0, temperature=0.8, top_k=40),
    Question("Tell me more.", max_tokens=17, temperature=0.9, top_p=0.9, seed=3),
    Drawing("a cat", n=2, seed=5, guidance=2.5),
    Question([{"role": "user", "content": "How many?", "images": [PHOTO, PHOTO]}], max_tokens=9),
]


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close(20)
    assert not made.alive


def _result(ticket: Ticket) -> str | list[bytes]:
    if isinstance(ticket.request, Question):
        return ticket.words.strip()
    return [picture.tobytes() for picture in ticket.pictures]


def _alone(janus: Janus, request: Drawing | Question) -> str | list[bytes]:
    [made] = janus.batch([request])
    return made if isinstance(made, str) else [picture.tobytes() for picture in made]


class _Gate:
    """Steps of the engine wait until they are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._free, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._open = False
        step = Decoding.step

        def gated(decoding: Decoding, window: int = 1) -> None:
            if threading.current_thread().name != "janus-engine":
                step(decoding, window)
                return
            if not self._open:
                self._arrived.release()
                assert self._free.acquire(timeout=20)
            step(decoding, 1)

        monkeypatch.setattr(Decoding, "step", gated)

    def arrive(self) -> None:
        """Wait until the worker stands before a step."""
        assert self._arrived.acquire(timeout=20)

    def let(self, steps: int = 1) -> None:
        """One after the other, and wait before the next."""
        for _ in range(steps):
            self._free.release()
            self.arrive()

    def open(self) -> None:
        self._open = True
        self._free.release()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Gate]:
    made = _Gate(monkeypatch)
    yield made
    made.open()


def test_each_gets_what_it_gets_alone(engine: Engine, janus: Janus) -> None:
    tickets = [engine.submit(janus, request, previews=True) for request in REQUESTS * 2]
    for ticket in tickets:
        ticket.wait(60)
    for ticket, request in zip(tickets, REQUESTS * 2, strict=True):
        assert _result(ticket) == _alone(janus, request)
    assert (engine.rows, engine.running, engine.waiting) == (0, 0, 0)
    assert engine.counts.done == 12
    assert engine.counts.pictures == 12
    drawn, asked = tickets[0], tickets[1]
    assert [p.info["seed"] for p in drawn.pictures] == [5, 6, 7]
    assert drawn.new_tokens == 3 * janus.config.vq.tokens == 3 * drawn.steps
    assert asked.finish in ("stop", "length")
    assert asked.prompt_tokens == len(asked.job.prompt.ids)


def test_requests_join_a_running_batch_and_leave_it(engine: Engine, janus: Janus, gate: _Gate) -> None:
    first = engine.submit(janus, Drawing("a red cup", seed=1))
    gate.arrive()
    gate.let(4)
    assert (engine.rows, first.steps) == (2, 5)
    asked = engine.submit(janus, Question("What?", [PHOTO], max_tokens=4))
    later = engine.submit(janus, Drawing("a blue house with a green door", n=2, seed=9))
    gate.let(3)
    assert engine.rows == 2 + 1 + 4
    gate.open()
    for ticket in (first, asked, later):
        assert _result(ticket.wait(60)) == _alone(janus, ticket.request)
    assert first.ended < later.ended


def test_the_queue_tells_ones_place(janus: Janus, gate: _Gate) -> None:
    engine = Engine(Limits(waiting=2), rows=2)
    running = engine.submit(janus, Drawing("a cup", seed=1))
    gate.arrive()
    next_one, last = (engine.submit(janus, Drawing("a cup", seed=seed)) for seed in (2, 3))
    assert (running.place, next_one.place, last.place) == (0, 1, 2)
    assert engine.rows == 2  # no more fit
    with pytest.raises(TooManyError, match="come back in") as refused:
        engine.submit(janus, Drawing("a cup"))
    assert refused.value.seconds >= 1
    assert engine.counts.refused == 1
    next_one.drop()
    gate.let()
    assert last.place == 1
    with pytest.raises(DroppedError):
        next_one.wait(5)
    gate.open()
    assert _result(last.wait(60)) == _alone(janus, last.request)
    engine.close(20)


def test_more_pictures_than_rows_are_drawn_one_after_the_other(janus: Janus) -> None:
    engine = Engine(rows=4)
    ticket = engine.submit(janus, Drawing("a cup", n=5, seed=1))
    beside = engine.submit(janus, Question("What?", max_tokens=5))
    assert _result(ticket.wait(60)) == _alone(janus, ticket.request)
    assert _result(beside.wait(60)) == _alone(janus, beside.request)
    engine.close(20)


def test_who_is_dropped_leaves_before_the_next_step(engine: Engine, janus: Janus, gate: _Gate) -> None:
    gone = engine.submit(janus, Drawing("a cup", n=4, seed=1))
    stays = engine.submit(janus, Drawing("a dog", seed=2))
    gate.arrive()
    gate.let(3)
    assert engine.rows == 10
    gone.drop()
    gate.let()
    assert engine.rows == 2
    assert gone.state == "dropped"
    gate.open()
    assert _result(stays.wait(60)) == _alone(janus, stays.request)
    assert engine.counts.dropped == 1


def test_a_time_limit(janus: Janus, gate: _Gate) -> None:
    engine = Engine(Limits(seconds=30), rows=2)
    running, waiting, later = (engine.submit(janus, Drawing("a cup", seed=seed)) for seed in range(3))
    gate.arrive()
    running.queued -= 31
    waiting.queued -= 31
    gate.open()
    for late in (running, waiting):
        with pytest.raises(TooLateError, match="longer than 30 seconds"):
            late.wait(20)
    assert later.wait(60).pictures
    assert (engine.rows, engine.counts.failed) == (0, 2)
    engine.close(20)


def test_closing_finishes_what_was_accepted(janus: Janus, gate: _Gate) -> None:
    engine = Engine(rows=2)
    tickets = [engine.submit(janus, Drawing("a cup", seed=seed)) for seed in range(3)]
    gate.arrive()
    engine.stop_taking()
    assert engine.closing
    with pytest.raises(ClosingError):
        engine.submit(janus, Drawing("a cup"))
    gate.open()
    engine.close(60)
    assert [ticket.state for ticket in tickets] == ["done"] * 3
    assert not engine.alive


def test_closing_in_a_hurry_tells_who_was_not_finished(janus: Janus, gate: _Gate) -> None:
    engine = Engine(rows=2)
    tickets = [engine.submit(janus, Drawing("a cup", seed=seed)) for seed in range(2)]
    gate.arrive()
    closing = threading.Thread(target=engine.close, args=[0.01])
    closing.start()
    while not engine._killed:
        closing.join(0.01)
    gate.open()
    for ticket in tickets:
        with pytest.raises(ClosingError, match="before the request was finished"):
            ticket.wait(20)
    closing.join(20)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Drawing(" "), "empty"),
        (Drawing("a cup", guidance=3.0, temperature=-1.0), "temperature must be 0"),
        (Question("What?", [b"no picture"]), "not a readable picture"),
        (Question("What?" * 2000), "the context holds"),
    ],
)
def test_wrong_requests_are_refused_at_once(
    engine: Engine, janus: Janus, request_: Drawing | Question, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        engine.submit(janus, request_)
    assert engine.waiting == 0


def test_a_failed_batch_fails_its_own_requests_alone(
    engine: Engine, janus: Janus, gate: _Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickets = [engine.submit(janus, Drawing("a cup", seed=seed)) for seed in range(2)]
    gate.arrive()
    broken = threading.Event()
    forward = janus.model.core.forward

    def fail(*given: Any, **more: Any) -> torch.Tensor:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("a kernel failed")
        return forward(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(janus.model.core, "forward", fail)
        later = engine.submit(janus, Drawing("a dog", seed=4))
        gate.open()
        for ticket in tickets:
            with pytest.raises(RuntimeError, match="a kernel failed"):
                ticket.wait(20)
        assert _result(later.wait(60)) == _alone(janus, later.request)


def test_a_prompt_that_cannot_be_read_fails_alone(
    engine: Engine, janus: Janus, gate: _Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others that would have been read with it get what they get alone."""
    asked = Question("What is it?", [Image.new("RGB", (9, 9), "red")], max_tokens=6)
    others = [REQUESTS[3], Question("What is it?", [PHOTO], max_tokens=6), REQUESTS[0]]
    wanted = [_alone(janus, request) for request in others]
    first = engine.submit(janus, Drawing("a cup", seed=1))
    gate.arrive()
    bad = engine.submit(janus, asked)
    tickets = [engine.submit(janus, request) for request in others]
    embed = janus.model.embed_images

    def picky(pixels: torch.Tensor) -> torch.Tensor:
        if bad.job.prompt.pixels is not None and torch.equal(pixels, bad.job.prompt.pixels):
            raise RuntimeError("a broken picture")
        return embed(pixels)

    monkeypatch.setattr(janus.model, "embed_images", picky)
    gate.open()
    with pytest.raises(RuntimeError, match="a broken picture"):
        bad.wait(20)
    assert [_result(ticket.wait(60)) for ticket in tickets] == wanted
    assert first.wait(60).pictures


def _scarce(monkeypatch: pytest.MonkeyPatch, janus: Janus, most: int) -> list[int]:
    """Memory for no more than so many rows of a step; how many were tried."""
    tried: list[int] = []
    forward = janus.model.core.forward

    def scarce(x: torch.Tensor, *given: Any, **more: Any) -> torch.Tensor:
        tried.append(len(x))
        if len(x) > most:
            raise torch.OutOfMemoryError("out of memory")
        return forward(x, *given, **more)

    monkeypatch.setattr(janus.model.core, "forward", scarce)
    return tried


def test_too_little_memory_halves_the_batch_and_begins_again(
    engine: Engine, janus: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [*REQUESTS, Drawing("a cup", n=6, seed=3)]
    wanted = [_alone(janus, request) for request in requests]
    with monkeypatch.context() as patch:
        tried = _scarce(patch, janus, 6)
        tickets = [engine.submit(janus, request) for request in requests]
        assert [_result(ticket.wait(120)) for ticket in tickets] == wanted
        assert max(tried) > 6
    assert engine.counts.failed == 0


def test_what_memory_cannot_hold_at_all_fails_alone(
    engine: Engine, janus: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Question("What?", max_tokens=6)
    wanted = _alone(janus, asked)
    with monkeypatch.context() as patch:
        _scarce(patch, janus, 1)
        drawn, answered = engine.submit(janus, Drawing("a cup", seed=3)), engine.submit(janus, asked)
        with pytest.raises(ValueError, match="more memory than this server has"):
            drawn.wait(60)
        assert _result(answered.wait(60)) == wanted


def test_long_requests_wait_for_memory_and_get_it(
    engine: Engine, janus: Janus, gate: _Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows beside a long one are fewer; where not even those in work would fit, it waits for them."""
    row = Cache.bytes_needed(janus.config.core, 1, 200, torch.float32)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10 * row)
    short = [engine.submit(janus, Drawing("a cup", seed=seed)) for seed in range(2)]
    gate.arrive()
    long = engine.submit(janus, Question("What? " * 60, max_tokens=400))
    gate.let(2)
    assert (engine.rows, long.place) == (4, 1)
    gate.open()
    for ticket in (*short, long):
        assert _result(ticket.wait(60)) == _alone(janus, ticket.request)


def test_another_model_waits_for_the_batch_to_run_out(engine: Engine, janus: Janus, gate: _Gate) -> None:
    other = Janus(janus.model, janus.tokenizer, janus.folder)
    one = engine.submit(janus, Drawing("a cup", seed=1))
    gate.arrive()
    two, three = (
        engine.submit(other, Drawing("a dog", seed=2)),
        engine.submit(janus, Drawing("a cat", seed=3)),
    )
    gate.let(3)
    assert engine.rows == 2
    gate.open()
    for ticket in (one, two, three):
        assert _result(ticket.wait(60)) == _alone(janus, ticket.request)


def test_changes_come_as_they_are_made(engine: Engine, janus: Janus, gate: _Gate) -> None:
    request = Question("What is it?", [PHOTO], max_tokens=12)
    wanted = _alone(janus, request)

    async def follow() -> tuple[list[str], list[int]]:
        ticket = await asyncio.to_thread(engine.submit, janus, request)
        drawn = await asyncio.to_thread(engine.submit, janus, Drawing("a cup", seed=1), previews=True)
        gate.open()
        words = [one.words async for one in ticket.changes()]
        shown = [one.shown async for one in drawn.changes()]
        assert drawn.previews
        assert drawn.previews[0].size == drawn.pictures[0].size
        return words, shown

    words, shown = asyncio.run(follow())
    assert words[-1].strip() == wanted
    assert all(later.startswith(earlier) for earlier, later in pairwise(words))
    assert shown[-1] >= 1


def test_leaving_the_changes_drops_the_request(engine: Engine, janus: Janus, gate: _Gate) -> None:
    async def leave() -> Ticket:
        ticket = await asyncio.to_thread(engine.submit, janus, Drawing("a cup", seed=1))
        changes = ticket.changes()
        async for _ in changes:
            break
        await changes.aclose()  # type: ignore[attr-defined]
        return ticket

    ticket = asyncio.run(leave())
    gate.open()
    with pytest.raises(DroppedError):
        ticket.wait(20)
    assert engine.rows == 0


def test_an_answer_that_ends_leaves_while_others_go_on(
    engine: Engine, janus: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Question("What? " * n, max_tokens=25, temperature=0.7, seed=n) for n in (1, 2, 3, 4)]
    [party] = (decoding := Decoding(janus.model)).join([group([janus.prepare(requests[0])])])
    while party.known < 4:
        decoding.step()
    end = int(party.tokens[0, 3])
    monkeypatch.setattr(janus.tokenizer, "eos_id", end)
    wanted = [_alone(janus, request) for request in requests]
    tickets = [engine.submit(janus, request) for request in requests]
    assert [_result(ticket.wait(30)) for ticket in tickets] == wanted
    assert tickets[0].finish == "stop"
    assert tickets[0].new_tokens <= 4
    assert {ticket.finish for ticket in tickets} == {"stop", "length"}
