"""The settings files of checkpoints: they come back, mean what the published ones mean, and never crash."""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from janus.checkpoints import configs, saving
from janus.checkpoints.layouts import official_shapes, on_meta
from janus.config import PRESETS, DrawingConfig, ImageConfig, JanusConfig, PromptConfig
from janus.model import JanusModel

FILES = ["config.json", "preprocessor_config.json", "processor_config.json"]
GOLDEN = Path(__file__).parent / "golden"


def change(config: JanusConfig, part: str, **values: Any) -> JanusConfig:
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **values)})


def edit(path: Path, **values: Any) -> None:
    """Set fields of a JSON file, `a__b=1` meaning {"a": {"b": 1}}; None removes."""
    document = json.loads(path.read_text())
    for name, value in values.items():
        *outer, last = name.split("__")
        inner = document
        for part in outer:
            inner = inner[part]
        if value is None:
            inner.pop(last)
        else:
            inner[last] = value
    path.write_text(json.dumps(document))


def test_the_1b_model_has_every_published_tensor() -> None:
    published = json.loads((GOLDEN / "official_keys_1b.json").read_text())
    shapes = official_shapes(on_meta(lambda: JanusModel(PRESETS["janus-pro-1b"])))
    assert {key: list(shape) for key, shape in shapes.items()} == published


def variants() -> Iterator[tuple[str, JanusConfig]]:
    yield from PRESETS.items()
    tiny, deep = PRESETS["tiny"], PRESETS["tiny-v3"]
    yield "no queries in common", change(tiny, "core", kv_heads=None, head_dim=32, rope_theta=5e5)
    yield "only dense", change(deep, "core", feed_forward=("dense",) * 3, moe=None)
    yield "only experts", change(deep, "core", feed_forward=("moe",) * 3)
    assert deep.core.moe is not None
    moe = dataclasses.replace(deep.core.moe, shared=0, normalise=False, bias_speed=0.5, balance_loss=0.25)
    yield "other experts", change(deep, "core", moe=moe)
    yield "other head", dataclasses.replace(tiny, gen_head_width=48, und_adaptor_depth=1, gen_adaptor_depth=3)
    image = ImageConfig(32, 5, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "round")
    prompt = PromptConfig("A", "B", "Be kind.", False, "{{ messages }}\n", "<s>", "</s>", "p", "i", "j", "k")
    yield "other processing", dataclasses.replace(tiny, image=image, prompt=prompt)
    pro = PRESETS["janus-pro-1b"]
    yield "other codes", change(change(pro, "vq", codes=5, image_size=256), "vision", ffn_width=4304)


@pytest.mark.parametrize(("name", "config"), list(variants()), ids=[name for name, _ in variants()])
def test_settings_come_back(name: str, config: JanusConfig, tmp_path: Path) -> None:
    saving.write_settings(tmp_path, config, torch.float16, "official", None)
    found = configs.read(tmp_path)
    assert found.config == config
    assert (found.layout, found.dtype, found.tied) == ("official", torch.float16, False)


def published(width: int, language: dict[str, Any]) -> dict[str, Any]:
    """`config.json` as deepseek-ai publishes it."""
    adaptor = {"depth": 2, "n_embed": width, "projector_type": "mlp_gelu"}
    head = {"image_token_embed": width, "image_token_size": 16384, "n_embed": width}
    tower = {"image_size": 384, "model_name": "siglip_large_patch16_384", "select_layer": -1}
    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.33.1",
        "vision_config": {"cls": "CLIPVisionTower", "params": tower | {"select_feature": "same"}},
        "aligner_config": {"cls": "MlpProjector", "params": adaptor | {"input_dim": 1024}},
        "gen_vision_config": {"cls": "VQ-16", "params": {"image_token_size": 16384, "n_embed": 8}},
        "gen_aligner_config": {"cls": "MlpProjector", "params": adaptor | {"input_dim": 8}},
        "gen_head_config": {"cls": "vision_head", "params": head},
        "language_config": {
            "model_type": "llama",
            "max_position_embeddings": 16384,
            "torch_dtype": "bfloat16",
            "vocab_size": 102400,
            "_attn_implementation": "flash_attention_2",
        }
        | language,
    }


SMALL = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
}


@pytest.mark.parametrize(
    ("preset", "width", "language", "roles"),
    [
        ("janus-pro-1b", 2048, SMALL, ["<|User|>", "<|Assistant|>"]),
        ("janus-pro-7b", 4096, {"num_hidden_layers": 30}, ["<|User|>", "<|Assistant|>"]),
        ("janus-1.3b", 2048, SMALL, []),
    ],
)
def test_published_settings_are_the_presets(
    preset: str, width: int, language: dict[str, Any], roles: list[str], tmp_path: Path
) -> None:
    """The 7B file leaves out what it shares with transformers' default Llama."""
    (tmp_path / "config.json").write_text(json.dumps(published(width, language)))
    added = [{"content": text, "special": True} for text in ["<begin_of_image>", *roles]]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    half = [0.5, 0.5, 0.5]
    pictures = {"image_size": 384, "min_size": 14, "image_mean": half, "image_std": half}
    pictures |= {"background_color": [127] * 3, "do_normalize": True, "rescale_factor": 0.00392156862745098}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pictures))
    words = {"num_image_tokens": 576, "sft_format": "deepseek", "image_tag": "<image_placeholder>"}
    (tmp_path / "processor_config.json").write_text(json.dumps(words | {"mask_prompt": True}))
    assert configs.read(tmp_path).config == PRESETS[preset]


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("config", {"model_type": "llava"}, r"model_type is 'llava'.*multi_modality.*janus"),
        ("config", {"gen_head_config": None, "aligner_config": None}, "aligner_config.*gen_head_config"),
        ("config", {"language_config__tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ("config", {"language_config__hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("config", {"language_config__attention_bias": True}, "attention_bias is True"),
        ("config", {"language_config__model_type": "mamba"}, "model_type is 'mamba'"),
        ("config", {"language_config__rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear'"),
        ("config", {"language_config__rope_scaling": {"type": "yarn", "factor": 2.0}}, "lacks 'original_max"),
        ("config", {"language_config__hidden_size": "64"}, "hidden_size must be int, not '64'"),
        ("config", {"language_config__kv_lora_rank": None}, "lacks 'kv_lora_rank'"),
        ("config", {"language_config__scoring_func": "softmax"}, "scoring_func is 'softmax'"),
        ("config", {"language_config__topk_method": "greedy"}, "topk_method is 'greedy'"),
        (
            "config",
            {"vision_config__params__model_name": "siglip", "vision_config__params__width": None},
            "width",
        ),
        ("config", {"vision_config__params__select_layer": -2}, "select_layer is -2"),
        ("config", {"vision_config__cls": "Sam"}, "cls is 'Sam'"),
        ("config", {"aligner_config__params__projector_type": "linear"}, "projector_type is 'linear'"),
        ("config", {"aligner_config__params__input_dim": 5}, "input_dim is 5"),
        ("config", {"aligner_config__params__colour": "red"}, r"unknown meaning: \['colour'\]"),
        ("config", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("config", {"torch_dtype": "float8"}, "torch_dtype is 'float8'"),
        ("preprocessor_config", {"image_mean": [0.5]}, "three numbers"),
        ("preprocessor_config", {"image_size": 64}, "image_size is 64"),
        ("preprocessor_config", {"rescale_factor": 1.0}, "rescale_factor must be 1/255"),
        ("preprocessor_config", {"background_color": [0, 0, 0]}, "background_color"),
        ("preprocessor_config", {"rounding": "up"}, "rounding must be"),
        ("processor_config", {"num_image_tokens": 576}, "num_image_tokens is 576"),
        ("processor_config", {"sft_format": "plain"}, "sft_format is 'plain'"),
    ],
)
def test_settings_that_are_not_supported(
    file: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    saving.write_settings(tmp_path, PRESETS["tiny-v3"], torch.float32, "official", None)
    edit(tmp_path / f"{file}.json", **changes)
    with pytest.raises(ValueError, match=words) as error:
        configs.read(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_cores_without_a_published_form_are_refused(tmp_path: Path) -> None:
    deep = PRESETS["tiny-v3"]
    mixed = change(deep, "core", attention=("gqa", "mla", "mla"))
    backwards = change(deep, "core", feed_forward=("moe", "dense", "moe"))
    yarn = change(PRESETS["tiny"], "core", yarn=PRESETS["tiny-v2"].core.yarn)
    for config in (mixed, backwards, yarn):
        with pytest.raises(ValueError, match="checkpoints hold"):
            saving.write_settings(tmp_path, config, torch.float32, "official", None)


def paths(document: Any) -> Iterator[tuple[str, ...]]:
    """Where everything is in nested JSON objects."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield (key,)
            yield from ((key, *rest) for rest in paths(value))


ODD = [
    0,
    -1,
    1,
    3,
    64,
    2.5,
    -2.5,
    1e300,
    float("nan"),
    "",
    "x",
    True,
    False,
    None,
    [],
    [1],
    ["a"],
    {},
    {"a": 1},
]


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.sampled_from(["tiny", "tiny-v2", "tiny-v3"]), st.sampled_from(FILES), st.data())
def test_wrong_settings_are_errors_not_crashes(preset: str, name: str, data: st.DataObject) -> None:
    """Any one field set to anything: a model can be built, or a ValueError says why not."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        saving.write_settings(folder, PRESETS[preset], torch.float32, "official", None)
        document = json.loads((folder / name).read_text())
        *outer, last = data.draw(st.sampled_from(list(paths(document))))
        inner = document
        for part in outer:
            inner = inner[part]
        inner[last] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
        (folder / name).write_text(json.dumps(document))
        try:
            config = configs.read(folder).config
            on_meta(lambda: JanusModel(config))
        except ValueError:
            pass


def test_a_checkpoints_own_drawing_settings_are_kept() -> None:
    own = dataclasses.replace(PRESETS["tiny"], drawing=DrawingConfig(guidance=1.5, temperature=0.5))
    written = configs.write_official(own, torch.float32)
    assert written["drawing_config"] == {"guidance": 1.5, "temperature": 0.5}
    assert "drawing_config" not in configs.write_official(PRESETS["tiny"], torch.float32)
    with pytest.raises(ValueError, match="drawing settings other than the official ones"):
        configs.write_transformers(own, torch.float32, 7)
