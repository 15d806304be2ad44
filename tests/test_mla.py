"""Latent attention, YaRN and whole DeepSeek models against `transformers`."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM

from janus.config import CoreConfig, MlaConfig, MoeConfig, YarnConfig
from janus.core.cache import Cache
from janus.core.mla import LatentAttention
from janus.core.published import split_experts, stack_experts
from janus.core.transformer import LanguageModel, init_weights

MLA = MlaConfig(kv_rank=20, nope_dim=12, rope_dim=16, v_dim=10)
# A short original context, so that the test's channels are partly kept, blended and stretched.
YARN = YarnConfig(factor=8, original_positions=512, beta_fast=8, mscale=0.9, mscale_all_dim=0.6)
V2 = MoeConfig(experts=8, active=3, expert_width=24, shared=2, routing="softmax", normalise=False, scale=1.5)
V2_GROUPS = dataclasses.replace(V2, groups=4, active_groups=2)
V3 = MoeConfig(experts=8, active=3, expert_width=24, groups=4, active_groups=2, scale=2.5)


def _core(moe: MoeConfig, q_rank: int | None, yarn: YarnConfig | None) -> CoreConfig:
    return CoreConfig(
        vocab_size=97,
        width=48,
        heads=4,
        attention=("mla",) * 3,
        feed_forward=("dense", "moe", "moe"),
        ffn_width=64,
        mla=dataclasses.replace(MLA, q_rank=q_rank),
        moe=moe,
        yarn=yarn,
        max_positions=512,
    )


def _theirs(core: CoreConfig) -> torch.nn.Module:
    assert core.mla is not None
    assert core.moe is not None
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": core.rope_theta}
    if core.yarn is not None:
        rope |= {
            "rope_type": "yarn",
            "factor": core.yarn.factor,
            "original_max_position_embeddings": core.yarn.original_positions,
            "beta_fast": core.yarn.beta_fast,
            "beta_slow": core.yarn.beta_slow,
            "mscale": core.yarn.mscale,
            "mscale_all_dim": core.yarn.mscale_all_dim,
        }
    fields: dict[str, Any] = dict(
        vocab_size=core.vocab_size,
        hidden_size=core.width,
        intermediate_size=core.ffn_width,
        moe_intermediate_size=core.moe.expert_width,
        num_hidden_layers=core.layers,
        num_attention_heads=core.heads,
        num_key_value_heads=core.heads,
        kv_lora_rank=core.mla.kv_rank,
        q_lora_rank=core.mla.q_rank,
        qk_nope_head_dim=core.mla.nope_dim,
        qk_rope_head_dim=core.mla.rope_dim,
        v_head_dim=core.mla.v_dim,
        n_routed_experts=core.moe.experts,
        n_shared_experts=core.moe.shared,
        num_experts_per_tok=core.moe.active,
        n_group=core.moe.groups,
        topk_group=core.moe.active_groups,
        routed_scaling_factor=core.moe.scale,
        norm_topk_prob=core.moe.normalise,
        first_k_dense_replace=1,
        max_position_embeddings=core.max_positions,
        rope_parameters=rope,
        attn_implementation="eager",
    )
    if core.moe.routing == "softmax":
        fields["topk_method"] = "greedy" if core.moe.groups == 1 else "group_limited_greedy"
        model = DeepseekV2ForCausalLM(DeepseekV2Config(**fields))
    else:
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**fields, num_mtp_layers=0))
    generator = torch.Generator().manual_seed(0)
    init_weights(model, generator, std=0.2)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(0, 0.3, generator=generator)
    return model.eval()


def _ours(core: CoreConfig, theirs: torch.nn.Module) -> LanguageModel:
    """The same weights by way of the published files' form."""
    files = split_experts(theirs.state_dict())
    model = LanguageModel(core).eval()
    model.load_state_dict(stack_experts(files, core))
    return model


def _ids(tokens: int = 40) -> torch.Tensor:
    return torch.randint(97, (2, tokens), generator=torch.Generator().manual_seed(1))


CASES = {
    f"{name}-{'q' if q_rank else 'noq'}-{'yarn' if yarn else 'plain'}": _core(moe, q_rank, yarn)
    for name, moe in (("v2", V2), ("v2groups", V2_GROUPS), ("v3", V3))
    for q_rank in (None, 14)
    for yarn in (None, YARN)
}


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(name: str) -> None:
    core = CASES[name]
    theirs = _theirs(core)
    expected = theirs(_ids()).logits
    got = _ours(core, theirs)(_ids())
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", ["v2groups-q-yarn", "v3-noq-yarn"])
def test_each_published_detail_matters(name: str) -> None:
    """The comparison above would notice: the same weights under another rule give other logits."""
    core = CASES[name]
    theirs = _theirs(core)
    expected = theirs(_ids()).logits
    assert core.moe is not None
    others = [
        dataclasses.replace(core, yarn=None),
        dataclasses.replace(core, yarn=dataclasses.replace(YARN, mscale_all_dim=0.0)),
        dataclasses.replace(core, yarn=dataclasses.replace(YARN, beta_fast=32)),
        dataclasses.replace(core, moe=dataclasses.replace(core.moe, groups=1, active_groups=1)),
        dataclasses.replace(core, moe=dataclasses.replace(core.moe, scale=1.0)),
        dataclasses.replace(core, moe=dataclasses.replace(core.moe, normalise=not core.moe.normalise)),
    ]
    for other in others:
        got = _ours(other, theirs)(_ids())
        assert (got - expected).abs().max() > 1e-3 * expected.abs().max(), other


@torch.no_grad()
@pytest.mark.parametrize("name", ["v2-noq-yarn", "v3-q-yarn"])
def test_absorbed_decoding_equals_transformers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, with the expanded form made to fail once the prompt is read."""
    core = CASES[name]
    theirs = _theirs(core)
    ours = _ours(core, theirs)
    ids = _ids(12)
    expected = theirs(ids).logits
    cache = Cache(core, 2, 12, dtype=torch.float32, device="cpu")
    pieces = [ours(ids[:, :5], cache=cache)]
    monkeypatch.setattr(LatentAttention, "_expanded", None)
    pieces += [ours(ids[:, at : at + 1], cache=cache) for at in range(5, 12)]
    assert (torch.cat(pieces, 1) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_cheaper_form() -> None:
    """Sizes of DeepSeek-V2: absorbing pays below 512 * 256 / (1024 - 256) = 170.7 new tokens."""
    sizes = MlaConfig(kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128)
    with torch.device("meta"):
        attention = LatentAttention(dataclasses.replace(_core(V2, None, None), mla=sizes))
    assert attention._absorbing_is_cheaper(170)
    assert not attention._absorbing_is_cheaper(171)


@pytest.mark.parametrize("q_rank", [None, 14])
def test_values_may_be_wider_than_keys(q_rank: int | None) -> None:
    """No padding of values then; cached and uncached agree and gradients reach every weight."""
    core = dataclasses.replace(
        _core(V2, q_rank, None), mla=MlaConfig(kv_rank=20, nope_dim=4, rope_dim=4, v_dim=24, q_rank=q_rank)
    )
    model = LanguageModel(core).eval()
    init_weights(model, torch.Generator().manual_seed(0), std=0.2)
    full = model(_ids(6))
    full.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if "self_attn" in n)
    cache = Cache(core, 2, 6, dtype=torch.float32, device="cpu")
    with torch.no_grad():
        steps = torch.cat([model(_ids(6)[:, at : at + 1], cache=cache) for at in range(6)], 1)
    torch.testing.assert_close(steps, full.detach(), rtol=1e-4, atol=1e-5)
