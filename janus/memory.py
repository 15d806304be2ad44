"""How much memory drawing takes, how much there is, and what to do where it is too little."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from janus.config import JanusConfig
from janus.core.cache import Cache

J = TypeVar("J")
R = TypeVar("R")

_MOST = 64  # pictures at once: by then a GPU computes instead of waiting for its memory
_SHARE = 0.8  # of what is free; the rest is for what nobody counts


def drawing_bytes(config: JanusConfig, pictures: int, prompt: int, guided: bool, dtype: torch.dtype) -> int:
    """What drawing so many pictures at once needs: the cache, with a prompt of `prompt` tokens, and logits.

    The image tokenizer makes pixels of codes one picture at a time, so it needs the same for any number.
    """
    rows = 2 * pictures if guided else pictures
    logits = 3 * rows * config.vq.codes * torch.float32.itemsize  # as they are, guided, and with their noise
    return Cache.bytes_needed(config.core, rows, prompt + config.vq.tokens, dtype) + logits


def fitting(
    config: JanusConfig, prompt: int, guided: bool, dtype: torch.dtype, device: torch.device, kept: int = 0
) -> int:
    """How many pictures can be drawn at once; 1 even where not one may fit, and 64 at most.

    `kept` are bytes that are in use, but will be free by then.
    """

    def needed(pictures: int) -> int:
        return drawing_bytes(config, pictures, prompt, guided, dtype)

    return at_once(_MOST, needed, device, kept)


def at_once(most: int, needed: Callable[[int], int], device: torch.device, kept: int = 0) -> int:
    """The largest number up to `most` for which the bytes `needed` are free, or 1; `kept` as in `fitting`."""
    free = free_bytes(device)
    if free is None:
        return most
    fit = (number for number in range(most, 1, -1) if needed(number) <= _SHARE * (free + kept))
    return next(fit, 1)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can be had now: of a GPU, or of the machine; None where nobody knows."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            told = dict(line.split(":") for line in lines)
        return 1024 * int(told["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return _all_bytes()


def _all_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def in_batches(
    jobs: Sequence[J], most: int, work: Callable[[Sequence[J], int], list[R]], device: torch.device
) -> list[R]:
    """What `work` makes of all jobs, of `most` at once at most; where that was too much, of half, and so on.

    `work(some, before)` is given the next jobs and the number of those that are done.  Raises ValueError
    where memory does not hold even one.
    """
    done: list[R] = []
    while some := jobs[len(done) : len(done) + most]:
        made = _tried(work, some, len(done))
        if made is not None:
            done += made
            continue
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if len(some) == 1:
            free = free_bytes(device)
            left = "" if free is None else f", of which {free / 1e9:.2f} GB are free"
            raise ValueError(f"one picture is too much for the {device.type}'s memory{left}")
        most = len(some) // 2
    return done


def _tried(work: Callable[[Sequence[J], int], list[R]], some: Sequence[J], before: int) -> list[R] | None:
    """None where memory did not suffice; by the time of the return all that was begun is forgotten."""
    try:
        return work(some, before)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch could not have the memory that it asked for."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
