"""How many pictures are drawn at once, and what happens where memory holds fewer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

from janus import Drawing, Janus, Question, memory, requests
from janus import api as api_module
from janus.generation import decode
from janus.parties import Group

CPU = torch.device("cpu")


def _same(some: Sequence[Image.Image], others: Sequence[Image.Image]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(some, others, strict=True))


def _tight(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """A memory that holds so many rows; gives the sizes of the batches that were tried."""
    tried: list[int] = []

    def limited(model: Any, group: Group, **options: Any) -> Iterator[torch.Tensor]:
        tried.append(len(group.prompts))
        for step, codes in enumerate(decode(model, group, **options)):
            if step == 3 and len(group.prompts) > most:
                raise torch.OutOfMemoryError("out of memory")
            yield codes

    monkeypatch.setattr(api_module, "decode", limited)
    return tried


def test_what_is_too_much_at_once_is_drawn_in_smaller_batches(
    janus: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = janus.generate_images(["a cup", "an apple"], n=5, seed=2)
    tried = _tight(monkeypatch, most=2)
    seen: list[tuple[int, int]] = []
    drawn = janus.generate_images(
        ["a cup", "an apple"], n=5, seed=2, batch_size=10, on_step=lambda *step: seen.append(step)
    )
    assert tried == [10, 5, 2, 2, 2, 2, 2]
    assert all(_same(*pair) for pair in zip(drawn, wanted, strict=True))
    assert [p.info["seed"] for p in drawn[0]] == [2, 3, 4, 5, 6]
    assert seen[-1] == (10 * janus.config.vq.tokens,) * 2


def test_not_even_one(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _tight(monkeypatch, most=0)
    with pytest.raises(ValueError, match=r"one picture is too much for the cpu's memory, of which .* GB are"):
        janus.generate_images("a cup", n=2)
    assert tried == [2, 1]


def test_other_errors_are_not_taken_for_it(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Iterator[torch.Tensor]:
        raise RuntimeError("shapes differ")
        yield

    monkeypatch.setattr(api_module, "decode", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        janus.generate_images("a cup")


def test_as_many_as_fit(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    config = janus.config
    needed = [memory.drawing_bytes(config, n, 20, True, torch.float32) for n in range(66)]
    assert needed[1] > needed[0] == 0
    assert needed[3] == 3 * needed[1]
    for free, most in ((10**15, 64), (needed[7] / 0.8 + 1, 7), (needed[8] / 0.8 - 1, 7), (0, 1), (None, 64)):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        assert memory.fitting(config, 20, True, torch.float32, CPU) == most
    plain = memory.drawing_bytes(config, 2, 20, False, torch.float32)
    assert plain == needed[1]  # without guidance a picture is one row, not two


def test_free_memory_is_what_the_system_says() -> None:
    free = memory.free_bytes(CPU)
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.1)


def test_allocators_are_told_apart_from_other_errors() -> None:
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    assert memory.is_out_of_memory(found.value)
    assert not memory.is_out_of_memory(RuntimeError("shapes differ"))


def test_as_many_requests_at_once_as_memory_holds(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Question | Drawing] = [
        Drawing("a cup", seed=1),
        Question("Hi", max_tokens=8),
        Drawing("an apple"),
    ]
    wanted = janus.batch(asked[:2])
    sizes: list[int] = []
    real = requests.tokens_of

    def counted(model: Any, jobs: Sequence[Any], on_step: Any = None) -> Any:
        sizes.append(len(jobs))
        return real(model, jobs, on_step)

    monkeypatch.setattr(api_module, "tokens_of", counted)
    janus.batch(asked)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1)
    picture, answer, _ = janus.batch(asked)
    assert sizes == [3, 1, 1, 1]
    assert answer == wanted[1]
    assert isinstance(picture, list)
    assert isinstance(wanted[0], list)
    assert _same(picture, wanted[0])
