"""Recorded steps, on the CPU, where to record is to do the same once more: against steps by modules."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from janus.config import PRESETS
from janus.core import graphs
from janus.generation import decode
from janus.model import JanusModel
from janus.parties import Group, Kind
from janus.prompts import Prompt
from janus.sampling import Sampling
from tests.conftest import randomise
from tests.test_generation import come_and_go

Records = list[Tensor]  # the results of what was recorded


@pytest.fixture
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> JanusModel:
    config = PRESETS["tiny"]
    if request.param == "mla":
        deep = PRESETS["tiny-v3"]
        dense: dict[str, Any] = dict(feed_forward=("dense",) * deep.core.layers, moe=None)
        config = dataclasses.replace(deep, core=dataclasses.replace(deep.core, **dense))
    made = JanusModel(config).eval()
    randomise(made)
    monkeypatch.setattr(type(made.core), "_steps", lambda *_: None)
    return made


MODELS = pytest.mark.parametrize("model", ["gqa", "mla"], indirect=True)
MODEL = pytest.mark.parametrize("model", ["gqa"], indirect=True)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Records]:
    """From its call on, the CPU passes for a GPU."""

    def begin() -> Records:
        made: Records = []

        def record(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
            out = torch.zeros_like(run())
            made.append(out)

            def replay() -> None:
                out.copy_(run())

            return replay, out

        monkeypatch.setattr(graphs, "usable", lambda device: True)
        monkeypatch.setattr(graphs, "record", record)
        monkeypatch.setattr(graphs, "BUCKET", 8)
        return made

    return begin


def _tokens(model: JanusModel, lengths: Sequence[int], kind: Kind = "image", window: int = 1) -> Tensor:
    prompts = [Prompt([5 + length, *range(8, 7 + length)]) for length in lengths]
    steps = decode(
        model,
        Group(
            prompts,
            kind=kind,
            new_tokens=14,
            sampling=Sampling(),
            generators=[torch.Generator().manual_seed(row) for row in range(len(lengths))],
            unconditional=prompts[::-1] if kind == "image" else (),
            guidance=3.0 if kind == "image" else None,
        ),
        window=window,
    )
    return torch.stack(list(steps), 1)


@MODELS
@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("lengths", [[5], [5, 5], [3, 9, 5]], ids=str)
def test_recorded_steps_draw_the_same_tokens(
    model: JanusModel, kind: Kind, window: int, lengths: list[int], recording: Callable[[], Records]
) -> None:
    wanted = _tokens(model, lengths, kind, window)
    made = recording()
    assert torch.equal(_tokens(model, lengths, kind, window), wanted)
    assert made


@MODEL
def test_what_was_recorded_serves_the_next_request(
    model: JanusModel, recording: Callable[[], Records]
) -> None:
    wanted = [_tokens(model, lengths) for lengths in ([5, 4], [6, 3], [5])]
    made = recording()
    assert torch.equal(_tokens(model, [5, 4]), wanted[0])
    assert len(made) == 3  # from 5 slots to 19, by eights
    assert torch.equal(_tokens(model, [6, 3]), wanted[1])
    assert len(made) == 3
    assert model.core.kept_bytes > 0
    assert torch.equal(_tokens(model, [5]), wanted[2])  # other memory
    assert len(made) == 6


@MODEL
def test_weights_put_in_place_of_others_are_recorded_anew(
    model: JanusModel, recording: Callable[[], Records]
) -> None:
    made = recording()
    before = _tokens(model, [5])
    down = model.core.layers.get_submodule("0.mlp.down_proj")
    assert isinstance(down, torch.nn.Linear)
    down.weight = torch.nn.Parameter(down.weight.detach() * 3)
    assert not torch.equal(_tokens(model, [5]), before)
    assert len(made) == 6
    with torch.no_grad():
        down.weight.div_(3)  # in its place: seen by what is recorded
    assert torch.equal(_tokens(model, [5]), before)
    assert len(made) == 6


@MODEL
def test_hooks_are_called_and_copies_begin_anew(model: JanusModel, recording: Callable[[], Records]) -> None:
    made = recording()
    wanted = _tokens(model, [5])
    twin = copy.deepcopy(model)
    assert twin.core.kept_bytes == 0
    assert torch.equal(_tokens(twin, [5]), wanted)
    seen: list[object] = []
    model.core.layers[1].register_forward_hook(lambda *given: seen.append(given))
    assert torch.equal(_tokens(model, [5]), wanted)
    assert len(seen) == 14
    assert len(made) == 6


@MODEL
@pytest.mark.parametrize("fails", ["raises", "is wrong"])
def test_decoding_goes_on_where_recording_fails(
    model: JanusModel, fails: str, recording: Callable[[], Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = _tokens(model, [5])
    recording()

    def record(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        if fails == "raises":
            raise RuntimeError("not while capturing")
        return lambda: None, torch.zeros_like(run())

    monkeypatch.setattr(graphs, "record", record)
    with pytest.warns(UserWarning, match="goes on without CUDA graphs: (not while capturing|.* disagree)"):
        assert torch.equal(_tokens(model, [5]), wanted)


def test_cores_with_experts_are_not_recorded(recording: Callable[[], Records]) -> None:
    made = recording()
    model = JanusModel(PRESETS["tiny-v3"]).eval()
    randomise(model)
    _tokens(model, [5])
    assert not made
    assert model.core.kept_bytes == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.filterwarnings("error")  # it would say so if it went on without them
@MODELS
@pytest.mark.parametrize("kind", ["text", "image"])
def test_on_a_gpu(model: JanusModel, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    model.cuda()
    with monkeypatch.context() as without:
        without.setattr(graphs, "usable", lambda device: False)
        wanted = _tokens(model, [3, 9, 5], kind)
    for _ in range(2):  # recorded, and from the last request
        assert torch.equal(_tokens(model, [3, 9, 5], kind), wanted)
        assert model.core.kept_bytes > 0


@MODELS
def test_who_comes_and_goes_gets_the_same_tokens(model: JanusModel, recording: Callable[[], Records]) -> None:
    """And steps of few sizes are recorded."""
    asked: list[tuple[Kind, list[int]]] = [
        ("image", [5]),
        ("text", [5]),
        ("text", [3, 9, 5]),
        ("image", [3, 9, 5]),
        ("image", [20]),
    ]

    def groups() -> list[Group]:
        made = []
        for kind, lengths in asked:
            prompts = [Prompt([5 + length, *range(8, 7 + length)]) for length in lengths]
            made.append(
                Group(
                    prompts,
                    kind=kind,
                    new_tokens=9,
                    sampling=Sampling(),
                    generators=[torch.Generator().manual_seed(row) for row in range(len(lengths))],
                    unconditional=prompts[::-1] if kind == "image" else (),
                    guidance=3.0 if kind == "image" else None,
                )
            )
        return made

    wanted = [torch.stack(list(decode(model, group)), 1) for group in groups()]
    recording()
    sizes: set[int] = set()
    real = graphs.Graphs.__call__

    def called(self: graphs.Graphs, through: Any, x: Tensor, *more: Any) -> Tensor | None:
        sizes.add(len(x))
        return real(self, through, x, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs.Graphs, "__call__", called)
        for seed in range(4):
            for own, whole in zip(come_and_go(model, groups(), seed, rows=32), wanted, strict=True):
                assert torch.equal(own, whole[:, : own.shape[1]])
    assert len(sizes) > 2
    assert sizes <= {1, 2, 4, 8, 16, 32}
