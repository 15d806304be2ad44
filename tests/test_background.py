"""The image tokenizer beside the next pictures' codes: the same pictures, and what goes wrong is told."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from janus import Janus, background
from janus.background import Background

CPU = torch.device("cpu")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "pays", lambda device: True)


def test_on_the_cpu_work_is_done_at_once() -> None:
    with Background(CPU) as one:
        wait = one.start(lambda given: (int(given), threading.get_ident()), torch.tensor(3))
    assert wait() == (3, threading.get_ident())


@pytest.mark.usefixtures("beside")
def test_work_goes_on_beside_what_comes_next() -> None:
    may = threading.Event()

    def work(given: Tensor) -> int:
        assert may.wait(10)
        return int(given) + 1

    with Background(CPU) as one:
        waits = [one.start(work, torch.tensor(number)) for number in range(3)]
        may.set()  # only now: `start` did not wait
        assert [wait() for wait in waits] == [1, 2, 3]


@pytest.mark.usefixtures("beside")
def test_too_little_memory_for_both_is_enough_for_one_after_the_other() -> None:
    main = threading.get_ident()

    def work(given: Tensor) -> int:
        if threading.get_ident() != main:
            raise torch.OutOfMemoryError("out of memory")
        return int(given)

    def wrong(given: Tensor) -> int:
        raise RuntimeError("another thing")

    with Background(CPU) as one:
        assert one.start(work, torch.tensor(7))() == 7
        with pytest.raises(RuntimeError, match="another thing"):
            one.start(wrong, torch.tensor(7))()


@pytest.mark.usefixtures("beside")
def test_pictures_are_the_same(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    where: set[int] = set()
    decode_images = janus.decode_images

    def told(codes: Tensor) -> object:
        where.add(threading.get_ident())
        return decode_images(codes)

    monkeypatch.setattr(janus, "decode_images", told)
    got = janus.generate_images("a cup", n=5, seed=3, batch_size=2)
    assert len(where) == 1
    assert threading.get_ident() not in where
    monkeypatch.undo()
    wanted = janus.generate_images("a cup", n=5, seed=3, batch_size=2)
    assert [p.info for p in got] == [p.info for p in wanted]
    assert [p.tobytes() for p in got] == [p.tobytes() for p in wanted]
