"""DeepSeek-V2 and V3 language models in their published layout, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from janus import checkpoints
from janus.checkpoints.deepseek import dequantise
from tests.conftest import randomise

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
V3 = {"q_lora_rank": 24, "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "rope_parameters": YARN}
V2 = {"q_lora_rank": None, "n_shared_experts": 2, "n_group": 4, "topk_group": 2, "norm_topk_prob": False}
MODELS = {
    "v3": lambda: transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**SIZES, **V3)),
    "v2": lambda: transformers.DeepseekV2ForCausalLM(
        transformers.DeepseekV2Config(**SIZES, **V2, topk_method="group_limited_greedy")
    ),
    "v2 greedy": lambda: transformers.DeepseekV2ForCausalLM(
        transformers.DeepseekV2Config(**SIZES, **V2, topk_method="greedy")
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
        )
    ),
}


def published(name: str, folder: Path) -> transformers.PreTrainedModel:
    """A random model, saved by transformers."""
    model = MODELS[name]().eval()
    randomise(model, seed=3)
    for key, value in model.named_buffers():
        if key.endswith("e_score_correction_bias"):
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    model.save_pretrained(folder)
    return model


def rewrite(folder: Path, changes: dict[str, Tensor | None], **settings: Any) -> None:
    state: dict[str, Any] = load_file(folder / "model.safetensors") | changes
    save_file({k: v for k, v in state.items() if v is not None}, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("name", list(MODELS))
def test_the_same_logits_as_transformers(name: str, tmp_path: Path) -> None:
    theirs = published(name, tmp_path)
    ours, core = checkpoints.load_language_model(tmp_path)
    assert core.layers == theirs.config.num_hidden_layers
    ids = torch.randint(0, 96, (2, 70), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(input_ids=ids).logits, rtol=1e-3, atol=1e-3)


def test_the_form_of_the_published_settings(tmp_path: Path) -> None:
    """`rope_scaling` beside `rope_theta`, as the hub's files have it, means what `rope_parameters` does."""
    published("v3", tmp_path)
    _, core = checkpoints.load_language_model(tmp_path)
    scaling = {("type" if key == "rope_type" else key): v for key, v in YARN.items() if key != "rope_theta"}
    rewrite(tmp_path, {}, rope_parameters=None, rope_scaling=scaling, rope_theta=10000)
    assert checkpoints.load_language_model(tmp_path)[1] == core
    assert core.yarn is not None
    assert core.yarn.factor == 4


def test_prediction_layers_are_left_out_by_name(tmp_path: Path) -> None:
    published("v3", tmp_path)
    expected = checkpoints.load_language_model(tmp_path)[0].state_dict()
    extra = {f"model.layers.3.{name}.weight": torch.zeros(2) for name in ("eh_proj", "mlp.experts.0.up_proj")}
    rewrite(tmp_path, dict(extra), num_nextn_predict_layers=1)
    loaded = checkpoints.load_language_model(tmp_path)[0].state_dict()
    assert loaded.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(loaded[key], value), key
    rewrite(tmp_path, {"model.layers.4.eh_proj.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"1 unknown: model\.layers\.4\.eh_proj\.weight"):
        checkpoints.load_language_model(tmp_path)


KEY = "model.layers.0.mlp.gate_proj.weight"
QUANTISED = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}


def test_fp8_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "intermediate_size", 300)
    monkeypatch.setitem(SIZES, "hidden_size", 160)
    published("v3", tmp_path)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(300, 160, generator=generator).to(torch.float8_e4m3fn)
    scales = torch.rand(3, 2, generator=generator) + 0.5
    rewrite(tmp_path, {KEY: matrix, f"{KEY}_scale_inv": scales}, quantization_config=QUANTISED)
    value = checkpoints.load_language_model(tmp_path)[0].state_dict()[KEY]
    assert value.dtype == torch.float32
    for row, column in ((0, 0), (127, 127), (128, 127), (127, 128), (255, 159), (256, 0), (299, 159)):
        expected = matrix[row, column].float() * scales[row // 128, column // 128]
        assert value[row, column] == expected
    half = checkpoints.load_language_model(tmp_path, dtype=torch.bfloat16)[0].state_dict()[KEY]
    assert torch.equal(half, value.bfloat16())
    assert torch.equal(dequantise(matrix, torch.ones(3, 2)), matrix.float())


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({f"{KEY}_scale_inv": None}, {}, "is fp8 and has no"),
        ({f"{KEY}_scale_inv": torch.ones(2, 2)}, {}, r"scale_inv is \[2, 2\] instead of \[1, 1\]"),
        ({KEY: torch.zeros(96, 64)}, {}, "has no fp8 matrix"),
        ({}, {"quantization_config": {"quant_method": "awq"}}, "quant_method is 'awq'"),
        ({}, {"quantization_config": {"weight_block_size": [64, 64]}}, "weight_block_size"),
    ],
)
def test_fp8_that_does_not_fit(
    changes: dict[str, Tensor | None], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    published("v3", tmp_path)
    matrix = torch.zeros(96, 64, dtype=torch.float8_e4m3fn)
    rewrite(tmp_path, {KEY: matrix, f"{KEY}_scale_inv": torch.ones(1, 1)}, quantization_config=QUANTISED)
    assert not checkpoints.load_language_model(tmp_path)[0].state_dict()[KEY].any()
    rewrite(tmp_path, changes, **settings)
    with pytest.raises(ValueError, match=words):
        checkpoints.load_language_model(tmp_path)
