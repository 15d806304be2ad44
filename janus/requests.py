"""What can be asked of a model, and the tokens of many requests in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from janus.encoders.preprocess import ImageSource
from janus.generation import decode_together
from janus.model import JanusModel
from janus.parties import Group, Kind
from janus.prompts import Prompt
from janus.sampling import Sampling
from janus.tokenizers.chat import Message


@dataclass(frozen=True)
class Question:
    """A question or conversation, as in `Janus.chat`."""

    prompt: str | Sequence[Message]
    images: Sequence[ImageSource] | None = None
    max_tokens: int = 512
    temperature: float = 0.0  # greedy
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Drawing:
    """`n` pictures of a prompt, as in `Janus.generate_images`."""

    prompt: str
    n: int = 1
    seed: int | None = None
    guidance: float | None = None
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Way:
    """How tokens are to be drawn; jobs that share it make one group."""

    kind: Kind
    new_tokens: int
    sampling: Sampling
    guidance: float | None = None
    stop_id: int | None = None


@dataclass(frozen=True)
class Job:
    """A request that was checked: for each of its seeds the tokens that follow `prompt`."""

    way: Way
    prompt: Prompt
    seeds: Sequence[int]
    unconditional: Prompt | None = None  # with guidance


def group(jobs: Sequence[Job]) -> Group:
    """Of jobs that share their way, one row for each seed."""
    way = jobs[0].way
    assert all(job.way == way for job in jobs)
    return Group(
        [job.prompt for job in jobs for _ in job.seeds],
        kind=way.kind,
        new_tokens=way.new_tokens,
        sampling=way.sampling,
        generators=[torch.Generator().manual_seed(seed) for job in jobs for seed in job.seeds],
        unconditional=[job.unconditional for job in jobs if job.unconditional for _ in job.seeds],
        guidance=way.guidance,
        stop_id=way.stop_id,
    )


def tokens_of(
    model: JanusModel, jobs: Sequence[Job], on_step: Callable[[int, int], None] | None = None
) -> list[Tensor]:
    """Each job's tokens, (its seeds, n) long, all jobs together; `on_step(steps, most)` follows."""
    by_way: dict[Way, list[int]] = {}
    for place, job in enumerate(jobs):
        by_way.setdefault(job.way, []).append(place)
    columns: list[list[Tensor]] = [[] for _ in by_way]
    most = max(way.new_tokens for way in by_way)
    groups = [group([jobs[place] for place in places]) for places in by_way.values()]
    for step, told in enumerate(decode_together(model, groups), 1):
        for own, tokens in zip(columns, told, strict=True):
            if tokens is not None:
                own.append(tokens)
        if on_step is not None:
            on_step(step, most)
    found: dict[int, Tensor] = {}
    for places, own in zip(by_way.values(), columns, strict=True):
        rows = torch.stack(own, dim=1).split([len(jobs[place].seeds) for place in places])
        found.update(zip(places, rows, strict=True))
    return [found[place] for place in range(len(jobs))]
