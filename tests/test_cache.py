"""Decoding with a cache equals the whole forward, whatever the rows and the steps."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest
import torch
from torch import Tensor

from janus.config import PRESETS, CoreConfig
from janus.core.attention import visibility
from janus.core.cache import Cache
from janus.core.transformer import LanguageModel, init_weights

GQA = PRESETS["tiny"].core
V2 = PRESETS["tiny-v2"].core
V3 = PRESETS["tiny-v3"].core
MIXED = dataclasses.replace(V3, attention=("gqa", "mla", "gqa"), kv_heads=2)
CORES = {"gqa": GQA, "v2": V2, "v3": V3, "mixed": MIXED}
TOKENS = 14


def _model(core: CoreConfig) -> LanguageModel:
    model = LanguageModel(core).eval()
    init_weights(model, torch.Generator().manual_seed(0), std=0.1)
    return model


def _ids(rows: int = 3, tokens: int = TOKENS) -> Tensor:
    return torch.randint(1024, (rows, tokens), generator=torch.Generator().manual_seed(1))


def _cache(
    core: CoreConfig, rows: int = 3, capacity: int = TOKENS, dtype: torch.dtype = torch.float32
) -> Cache:
    return Cache(core, rows, capacity, dtype=dtype, device="cpu")


def _close(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * 14, [6] + [1] * 8, [3, 4, 1, 6], [2, 12]], ids=str)
@pytest.mark.parametrize("name", CORES)
def test_cached_equals_uncached_at_every_step(name: str, sizes: list[int]) -> None:
    """Chunks of several tokens, too; the last one is long enough for MLA to expand its latents."""
    core = CORES[name]
    model, ids, cache = _model(core), _ids(), _cache(core)
    for piece in ids.split(sizes, dim=1):
        got = model(piece, cache=cache)
        whole = model(ids[:, : cache.length])
        _close(got, whole[:, -piece.shape[1] :])
    assert cache.length == TOKENS


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_rows_go_on_from_rows_of_another_cache(name: str) -> None:
    core = CORES[name]
    model, ids = _model(core), _ids()
    prompt, rows = _cache(core, capacity=6), [2, 0, 2, 1]
    segments = torch.ones(3, 6, dtype=torch.long)
    segments[1, :2] = 0
    positions = (segments.cumsum(1) - 1).clamp(min=0)
    model(ids[:, :6], positions, segments, prompt)
    own = torch.randint(1024, (4, 5), generator=torch.Generator().manual_seed(2))
    cache = _cache(core, 4, 11)
    cache.use(0)
    cache.adopt(prompt, rows)
    got = model(own, positions[rows, -1:] + torch.arange(1, 6), cache=cache)
    for place, row in enumerate(rows):
        first = 2 if row == 1 else 0
        whole = model(torch.cat([ids[row, first:6], own[place]])[None])
        _close(got[place], whole[0, -5:])
    assert (prompt.length, cache.length) == (6, 11)


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_left_padded_rows_equal_each_row_alone(name: str) -> None:
    """Prefill of unequal prompts, one chunk of several tokens, then single steps."""
    core = CORES[name]
    model, ids, cache = _model(core), _ids(), _cache(core)
    pads = [4, 0, 2]
    segments = torch.ones(3, TOKENS, dtype=torch.long)
    for row, pad in enumerate(pads):
        segments[row, :pad] = 0
    positions = (segments.cumsum(1) - 1).clamp(min=0)
    at, pieces = 0, []
    for size in [6, 3, 1, 1, 1, 1, 1]:
        new = slice(at, at + size)
        pieces.append(model(ids[:, new], positions[:, new], segments[:, new], cache))
        at += size
    got = torch.cat(pieces, 1)
    assert got.isfinite().all()
    for row, pad in enumerate(pads):
        _close(got[row, pad:], model(ids[row : row + 1, pad:])[0])


@torch.no_grad()
def test_steps_without_segments_continue_a_padded_prompt() -> None:
    """After a prompt whose samples are numbered 0 and 1, None means 1 and padding stays unseen."""
    model, ids, cache = _model(GQA), _ids(2, 8), _cache(GQA, 2, 8)
    segments = torch.ones(2, 6, dtype=torch.long)
    segments[0, :3] = 0
    model(ids[:, :6], segments=segments, cache=cache)
    got = torch.cat([model(ids[:, at : at + 1], cache=cache) for at in (6, 7)], 1)
    _close(got[0], model(ids[:1, 3:])[0, -2:])
    _close(got[1], model(ids[1:])[0, -2:])


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_a_reset_cache_is_as_good_as_new(name: str) -> None:
    core = CORES[name]
    model, ids, cache = _model(core), _ids(), _cache(core)
    model(ids.flip(1), segments=torch.ones_like(ids).index_fill(1, torch.tensor([0]), 0), cache=cache)
    cache.reset()
    got = [model(ids[:, :5], cache=cache), model(ids[:, 5:6], cache=cache)]
    _close(torch.cat(got, 1), model(ids[:, :6]))
    assert visibility(torch.zeros(3, 1, 64), None, cache).mask is None  # the padding is forgotten, too


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CORES)
def test_low_precision_cache_beside_fp32_weights(name: str, dtype: torch.dtype) -> None:
    """With and without autocast.  A first call uses its own keys and is not rounded by the cache."""
    kind: Literal["dense"] = "dense"
    core = dataclasses.replace(CORES[name], feed_forward=(kind,) * CORES[name].layers)
    model, ids = _model(core), _ids()
    whole = model(ids)
    for autocast in (False, True):
        cache = _cache(core, dtype=dtype)
        with torch.autocast("cpu", dtype, enabled=autocast):
            first, then = model(ids[:, :-1], cache=cache), model(ids[:, -1:], cache=cache)
        _close(first, whole[:, :-1], 5e-2 if autocast else 1e-5)
        _close(then, whole[:, -1:], 5e-2)


def test_overflow_is_refused_and_changes_nothing() -> None:
    model, cache = _model(V3), _cache(V3, capacity=5)
    model(_ids(3, 4), cache=cache)
    with pytest.raises(ValueError, match=r"4 \+ 2 tokens do not fit into a cache of capacity 5"):
        model(_ids(3, 2), cache=cache)
    assert cache.length == 4
    model(_ids(3, 1), cache=cache)
    assert cache.length == 5


def test_wrong_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 3, not of 2"):
        _model(GQA)(_ids(2, 4), cache=_cache(GQA))
    with pytest.raises(ValueError, match="batch=0"):
        _cache(GQA, rows=0)


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_those_of_the_tensors(name: str, dtype: torch.dtype) -> None:
    cache = _cache(CORES[name], 2, 10, dtype)
    held = sum(t.numel() * t.element_size() for pair in cache.layers for t in pair)
    assert cache.bytes == held + 2 * 10 * 8
    assert Cache.bytes_needed(CORES[name], 2, 10, dtype) == cache.bytes


def test_latent_layers_hold_latents_only() -> None:
    assert V3.mla is not None
    for latent, rope in _cache(V3, 2, 10).layers:
        assert latent.shape == (2, 10, V3.mla.kv_rank)
        assert rope.shape == (2, 10, V3.mla.rope_dim)
    for keys, values in _cache(GQA, 2, 10).layers:
        assert keys.shape == values.shape == (2, GQA.num_kv_heads, 10, GQA.gqa_head_dim)


def test_single_steps_without_padding_need_no_mask() -> None:
    cache = _cache(GQA)
    model = _model(GQA)
    model(_ids(3, 4), cache=cache)
    assert visibility(torch.zeros(3, 1, 64), None, cache).mask is None
    assert visibility(torch.zeros(3, 2, 64), None, cache).mask is not None


def test_a_cache_made_in_inference_mode_works_outside() -> None:
    with torch.inference_mode():
        cache = _cache(V3)
    model = _model(V3)
    assert model(_ids(3, 4), cache=cache).requires_grad  # of its own tokens; the cache is not differentiated
    assert not any(t.requires_grad for pair in cache.layers for t in pair)
    with torch.inference_mode():
        model(_ids(3, 4), cache=cache)
    assert cache.length == 8
