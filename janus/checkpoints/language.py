"""`CoreConfig` and the published settings of Llama, DeepSeek-V2 and DeepSeek-V3 language models.

A field that a Llama config leaves out has transformers' default, which is how the published Janus
checkpoints leave out what they share with Llama-7B.
"""

from __future__ import annotations

from typing import Any, Literal

from janus.checkpoints.fields import Fields
from janus.config import CoreConfig, MlaConfig, MoeConfig, YarnConfig

GQA: Literal["gqa"] = "gqa"
MLA: Literal["mla"] = "mla"
DENSE: Literal["dense"] = "dense"
MOE: Literal["moe"] = "moe"
_ROUTING = {"deepseek_v2": "softmax", "deepseek_v3": "sigmoid"}


def read_core(fields: Fields) -> CoreConfig:
    """Raises ValueError for a missing field or one that this core has no counterpart for."""
    kind = fields.take("model_type", str, "llama")
    fields.expect("hidden_act", "silu")
    fields.expect("tie_word_embeddings", False)
    fields.expect("attention_bias", False)
    fields.expect("mlp_bias", False)
    if kind == "llama":
        return _read_llama(fields)
    if kind in _ROUTING:
        return _read_deepseek(fields, kind)
    raise ValueError(f"{fields.where}: model_type is {kind!r}; known are llama, deepseek_v2 and deepseek_v3")


def _read_llama(fields: Fields) -> CoreConfig:
    width = fields.take("hidden_size", int, 4096)
    heads = fields.take("num_attention_heads", int, 32)
    layers = fields.take("num_hidden_layers", int, 32)
    kv_heads = fields.take("num_key_value_heads", int, heads)
    head_dim = fields.take("head_dim", int, width // heads)
    theta, yarn = _read_rope(fields)
    if yarn is not None:
        raise ValueError(f"{fields.where}: yarn is supported in DeepSeek cores, not in Llama ones")
    return CoreConfig(
        vocab_size=fields.take("vocab_size", int, 32000),
        width=width,
        heads=heads,
        attention=(GQA,) * layers,
        feed_forward=(DENSE,) * layers,
        ffn_width=fields.take("intermediate_size", int, 11008),
        kv_heads=None if kv_heads == heads else kv_heads,
        head_dim=None if head_dim * heads == width else head_dim,
        norm_eps=fields.take("rms_norm_eps", float, 1e-6),
        rope_theta=theta,
        max_positions=fields.take("max_position_embeddings", int, 2048),
    )


def _read_deepseek(fields: Fields, kind: str) -> CoreConfig:
    heads = fields.take("num_attention_heads", int)
    layers = fields.take("num_hidden_layers", int)
    fields.expect("num_key_value_heads", heads)
    fields.expect("moe_layer_freq", 1)
    fields.expect("rope_interleave", True)
    theta, yarn = _read_rope(fields)
    dense = fields.take("first_k_dense_replace", int, 0, least=0) if "n_routed_experts" in fields else layers
    return CoreConfig(
        vocab_size=fields.take("vocab_size", int),
        width=fields.take("hidden_size", int),
        heads=heads,
        attention=(MLA,) * layers,
        feed_forward=(DENSE,) * min(dense, layers) + (MOE,) * (layers - dense),
        ffn_width=fields.take("intermediate_size", int),
        norm_eps=fields.take("rms_norm_eps", float, 1e-6),
        rope_theta=theta,
        max_positions=fields.take("max_position_embeddings", int),
        yarn=yarn,
        mla=MlaConfig(
            kv_rank=fields.take("kv_lora_rank", int),
            nope_dim=fields.take("qk_nope_head_dim", int),
            rope_dim=fields.take("qk_rope_head_dim", int),
            v_dim=fields.take("v_head_dim", int),
            q_rank=fields.optional("q_lora_rank", int),
        ),
        moe=_read_moe(fields, kind) if "n_routed_experts" in fields else None,
    )


def _read_moe(fields: Fields, kind: str) -> MoeConfig:
    default = MoeConfig(experts=1, active=1, expert_width=1)
    v2 = kind == "deepseek_v2"
    fields.expect("scoring_func", _ROUTING[kind])
    if v2:
        fields.expect("topk_method", "greedy", "group_limited_greedy")
    else:
        fields.expect("topk_method", "noaux_tc")
    # "greedy" chooses among all experts, whatever groups are named
    grouped = fields.take("topk_method", str, "greedy" if v2 else "noaux_tc") != "greedy"
    groups = fields.take("n_group", int, 1) if grouped else 1
    return MoeConfig(
        experts=fields.take("n_routed_experts", int),
        active=fields.take("num_experts_per_tok", int),
        expert_width=fields.take("moe_intermediate_size", int),
        shared=fields.take("n_shared_experts", int, 0, least=0),
        routing="softmax" if v2 else "sigmoid",
        groups=groups,
        active_groups=fields.take("topk_group", int, groups) if grouped else 1,
        normalise=fields.take("norm_topk_prob", bool, not v2),
        scale=fields.take("routed_scaling_factor", float, 1.0),
        bias_speed=fields.take("bias_update_speed", float, default.bias_speed),
        balance_loss=fields.take("aux_loss_alpha", float, default.balance_loss),
    )


def _read_rope(fields: Fields) -> tuple[float, YarnConfig | None]:
    """Theta and YaRN: `rope_scaling` beside `rope_theta`, or all in `rope_parameters` (transformers 5)."""
    fields.expect("partial_rotary_factor", 1.0)
    name = "rope_parameters" if "rope_parameters" in fields else "rope_scaling"
    theta = fields.take("rope_theta", float, 10000.0)
    if name not in fields:
        return theta, None
    scaling = fields.inner(name)
    theta = scaling.take("rope_theta", float, theta)
    kind = scaling.take("rope_type", str, scaling.take("type", str, "default"))
    scaling.expect("partial_rotary_factor", 1.0)
    if kind == "default":
        return theta, None
    if kind != "yarn":
        raise ValueError(f"{scaling.where}: the rope type {kind!r} is not supported; supported is 'yarn'")
    scaling.expect("truncate", True)
    yarn = YarnConfig(
        factor=scaling.take("factor", float),
        original_positions=scaling.take("original_max_position_embeddings", int),
        beta_fast=scaling.take("beta_fast", float, 32.0),
        beta_slow=scaling.take("beta_slow", float, 1.0),
        mscale=scaling.take("mscale", float, 1.0),
        mscale_all_dim=scaling.take("mscale_all_dim", float, 0.0),
    )
    scaling.done()
    return theta, yarn


def write_core(core: CoreConfig) -> dict[str, Any]:
    """The inverse of `read_core`.  Raises ValueError for a core that none of the published forms can hold."""
    dense = core.feed_forward.count("dense")
    if core.feed_forward != (DENSE,) * dense + (MOE,) * (core.layers - dense):
        raise ValueError("checkpoints hold dense layers first and moe layers after them, in no other order")
    kinds = set(core.attention)
    if kinds == {MLA}:
        return _write_deepseek(core, dense)
    if kinds != {GQA} or MOE in core.feed_forward or core.yarn is not None:
        raise ValueError(
            "checkpoints hold cores of gqa and dense layers without yarn, or of mla layers; "
            f"not attention {sorted(kinds)} with feed-forwards {sorted(set(core.feed_forward))} "
            f"and yarn={core.yarn}"
        )
    values = _common(core, "llama") | {"num_key_value_heads": core.num_kv_heads}
    return values if core.head_dim is None else values | {"head_dim": core.head_dim}


def _common(core: CoreConfig, kind: str) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": core.vocab_size,
        "hidden_size": core.width,
        "intermediate_size": core.ffn_width,
        "num_hidden_layers": core.layers,
        "num_attention_heads": core.heads,
        "max_position_embeddings": core.max_positions,
        "rms_norm_eps": core.norm_eps,
        "rope_theta": core.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
    }


def _write_deepseek(core: CoreConfig, dense: int) -> dict[str, Any]:
    assert core.mla is not None
    v2 = core.moe is not None and core.moe.routing == "softmax"
    values = _common(core, "deepseek_v2" if v2 else "deepseek_v3") | {
        "num_key_value_heads": core.heads,
        "kv_lora_rank": core.mla.kv_rank,
        "q_lora_rank": core.mla.q_rank,
        "qk_nope_head_dim": core.mla.nope_dim,
        "qk_rope_head_dim": core.mla.rope_dim,
        "v_head_dim": core.mla.v_dim,
        "first_k_dense_replace": dense,
        "num_nextn_predict_layers": 0,
    }
    if core.yarn is not None:
        values["rope_scaling"] = {
            "type": "yarn",
            "factor": core.yarn.factor,
            "original_max_position_embeddings": core.yarn.original_positions,
            "beta_fast": core.yarn.beta_fast,
            "beta_slow": core.yarn.beta_slow,
            "mscale": core.yarn.mscale,
            "mscale_all_dim": core.yarn.mscale_all_dim,
        }
    moe = core.moe
    if moe is None:
        return values | {"n_routed_experts": None}
    return values | {
        "n_routed_experts": moe.experts,
        "num_experts_per_tok": moe.active,
        "moe_intermediate_size": moe.expert_width,
        "n_shared_experts": moe.shared,
        "scoring_func": moe.routing,
        "topk_method": "noaux_tc" if not v2 else "greedy" if moe.groups == 1 else "group_limited_greedy",
        "n_group": moe.groups,
        "topk_group": moe.active_groups,
        "moe_layer_freq": 1,
        "norm_topk_prob": moe.normalise,
        "routed_scaling_factor": moe.scale,
        "aux_loss_alpha": moe.balance_loss,
        "bias_update_speed": moe.bias_speed,
        "seq_aux": True,
    }
