"""Grouped-query attention and rotary positions against the Llama of `transformers`."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from janus.config import CoreConfig, YarnConfig
from janus.core.attention import RMSNorm, Visibility, attend, visibility
from janus.core.rope import rotary, softmax_scale
from janus.core.transformer import LanguageModel, init_weights

CORE = CoreConfig(
    vocab_size=101,
    width=48,
    heads=6,
    kv_heads=2,
    head_dim=10,
    attention=("gqa",) * 3,
    feed_forward=("dense",) * 3,
    ffn_width=80,
    norm_eps=1e-5,
    rope_theta=5000.0,
)


def _pair(dtype: torch.dtype = torch.float32) -> tuple[LlamaForCausalLM, LanguageModel]:
    """The same random weights in both, through a strict state dict."""
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=CORE.vocab_size,
            hidden_size=CORE.width,
            intermediate_size=CORE.ffn_width,
            num_hidden_layers=CORE.layers,
            num_attention_heads=CORE.heads,
            num_key_value_heads=CORE.num_kv_heads,
            head_dim=CORE.gqa_head_dim,
            rms_norm_eps=CORE.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": CORE.rope_theta},
            attn_implementation="eager",
        )
    ).eval()
    init_weights(theirs, torch.Generator().manual_seed(0), std=0.2)
    ours = LanguageModel(CORE).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(dtype), ours.to(dtype)


def _ids(*shape: int) -> torch.Tensor:
    return torch.randint(CORE.vocab_size, shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_equals_llama() -> None:
    theirs, ours = _pair()
    ids = _ids(2, 33)
    expected = theirs(ids).logits
    assert (ours(ids) - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_left_padding_equals_llamas_attention_mask() -> None:
    theirs, ours = _pair()
    ids = _ids(3, 12)
    real = torch.ones_like(ids)
    real[0, :5] = 0
    real[2, :1] = 0
    positions = (real.cumsum(1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=real, position_ids=positions).logits
    got = ours(ids, positions=positions, segments=real)
    keep = real.bool()
    assert (got - expected)[keep].abs().max() <= 1e-5 * expected[keep].abs().max()


def test_gradients_equal_llamas() -> None:
    theirs, ours = _pair()
    ids = _ids(2, 9)
    theirs(ids).logits.square().mean().backward()
    ours(ids).square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-6, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_as_near_to_fp32_as_llama(dtype: torch.dtype) -> None:
    exact = _pair()[0](_ids(2, 9)).logits
    theirs, ours = _pair(dtype)
    got, expected = ours(_ids(2, 9)), theirs(_ids(2, 9)).logits
    assert got.dtype == dtype
    assert (got - exact).abs().mean() <= 1.2 * (expected - exact).abs().mean()


def test_rms_norm_is_computed_in_fp32() -> None:
    x = torch.full((1, 4), 300.0, dtype=torch.float16)  # its square overflows fp16
    assert RMSNorm(4).half()(x).tolist() == [[1.0] * 4]


def test_no_mask_is_made_where_none_is_needed() -> None:
    assert visibility(torch.zeros(1, 5, 8), None, None).mask is None
    assert visibility(torch.zeros(1, 5, 8), None, None).causal
    assert not visibility(torch.zeros(1, 1, 8), None, None).causal


def test_mask_of_packed_and_padded_rows() -> None:
    segments = torch.tensor([[0, 0, 3, 3, 7]])
    mask = visibility(torch.zeros(1, 5, 8), segments, None).mask
    assert mask is not None
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize(("mscale", "all_dim"), [(1.0, 0.0), (0.707, 0.707), (0.5, 0.25), (0.0, 1.0)])
def test_yarn_scales_as_published(mscale: float, all_dim: float) -> None:
    """The published rule also where `transformers` leaves it: only one of the two weights given."""
    yarn = YarnConfig(factor=40, original_positions=4096, mscale=mscale, mscale_all_dim=all_dim)
    cos, sin = rotary(torch.tensor([[0, 5]]), 16, 1e4, yarn, torch.float32)
    ratio = (0.1 * mscale * math.log(40) + 1) / (0.1 * all_dim * math.log(40) + 1)
    torch.testing.assert_close((cos**2 + sin**2).sqrt(), torch.full((1, 1, 2, 8), ratio))
    assert softmax_scale(64, yarn) == pytest.approx(0.125 * (0.1 * all_dim * math.log(40) + 1) ** 2)


def test_yarn_keeps_fast_channels_and_stretches_slow_ones() -> None:
    yarn = YarnConfig(factor=8, original_positions=4096, mscale=0)
    at_one = torch.tensor([[1]])
    plain = torch.atan2(*reversed(rotary(at_one, 64, 1e4, None, torch.float32))).flatten()
    extended = torch.atan2(*reversed(rotary(at_one, 64, 1e4, yarn, torch.float32))).flatten()
    stretch = plain / extended
    torch.testing.assert_close(stretch[:10], torch.ones(10))
    torch.testing.assert_close(stretch[-9:], torch.full((9,), 8.0))
    assert (stretch.diff() > -1e-4).all()


def test_angles_made_in_inference_mode_can_be_trained_with() -> None:
    x = torch.ones(1, 1, 3, 34, requires_grad=True)
    for mode in (True, False):
        with torch.inference_mode(mode):
            cos, _ = rotary(torch.arange(3)[None], 68, 1234.0, None, torch.float32)
    (x * cos).sum().backward()
    assert x.grad is not None


def test_positions_beyond_the_weights_are_refused() -> None:
    model = LanguageModel(CoreConfig(8, 8, 2, ("gqa",), ("dense",), 8, max_positions=4))
    with pytest.raises(ValueError, match="5 tokens exceed the model's context of 4"):
        model(torch.zeros(1, 5, dtype=torch.long))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [2, 6])
def test_few_queries_attend_as_in_the_fused_kernel(groups: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 6, 4, 10, generator=generator)
    k, v = (torch.randn(3, groups, 9, width, generator=generator) for width in (10, 7))
    mask = torch.rand(3, 1, 4, 9, generator=generator) < 0.6 if masked else None
    if mask is not None:
        mask[..., 0] = True  # no row is ever empty
    wide_k, wide_v = (t.repeat_interleave(6 // groups, dim=1) for t in (k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(q, wide_k, wide_v, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(attend(q, k, v, Visibility(mask), 0.3), expected)
