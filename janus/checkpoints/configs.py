"""`config.json` of both layouts, to and from `JanusConfig`.

The official layout has names for the published sizes only.  For others it carries more fields in the
same places: the vision tower's and the VQ tokenizer's sizes in their `params`.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from janus.checkpoints.fields import Fields
from janus.checkpoints.files import read_json
from janus.checkpoints.language import read_core, write_core
from janus.checkpoints.layouts import Layout
from janus.checkpoints.processors import read_processor
from janus.checkpoints.quantized import read_quantization, write_quantization
from janus.config import DrawingConfig, JanusConfig, VisionConfig, VqConfig

_MODEL_TYPES: dict[str, Layout] = {"multi_modality": "official", "janus": "transformers"}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PARTS = (
    "vision_config",
    "aligner_config",
    "gen_vision_config",
    "gen_aligner_config",
    "gen_head_config",
    "language_config",
)
_TOWERS = {"siglip_large_patch16_384": VisionConfig()}
# our fields and the official params that carry them where the published sizes do not apply
_VISION_EXTRAS = {"patch_size": "patch_size", "width": "width", "depth": "layers", "heads": "heads"} | {
    "ffn_width": "mlp_width"
}
_VQ_EXTRAS = ("image_size", "z_channels", "channels", "res_blocks", "fold")
_TONES = ("tones", "tone_dim")  # of a codebook that has some


class Settings(NamedTuple):
    """What a checkpoint's settings files say."""

    layout: Layout
    config: JanusConfig
    dtype: torch.dtype | None  # what the weights should be used in
    tied: bool  # the text head may be missing, being the embedding (transformers layout)


def read(folder: Path) -> Settings:
    """All settings of a checkpoint folder.

    Raises ValueError for an unknown model type, a missing field, or a value that would need code that
    does not exist here.
    """
    fields = Fields(read_json(folder / "config.json"), str(folder / "config.json"))
    kind = fields.take("model_type", str)
    if kind not in _MODEL_TYPES:
        raise ValueError(
            f"{fields.where}: model_type is {kind!r}; a Janus checkpoint has one of {list(_MODEL_TYPES)}"
        )
    layout = _MODEL_TYPES[kind]
    parts = _read_official(fields) if layout == "official" else _read_transformers(fields)
    parts["core"] = dataclasses.replace(parts["core"], quantization=read_quantization(fields))
    image, prompt = read_processor(folder, layout, parts["vision"])
    config = JanusConfig(**parts, image=image, prompt=prompt)
    tied = layout == "transformers" and fields.take("tie_word_embeddings", bool, False)
    text = "language_config" if layout == "official" else "text_config"
    return Settings(layout, config, stated_dtype(fields) or stated_dtype(fields.inner(text)), tied)


def stated_dtype(fields: Fields) -> torch.dtype | None:
    name = "dtype" if "dtype" in fields else "torch_dtype"
    fields.expect(name, *_DTYPES)
    return None if name not in fields else _DTYPES[fields.take(name, str)]


# -- official -----------------------------------------------------------------------------------


def _read_official(fields: Fields) -> dict[str, Any]:
    missing = [part for part in _PARTS if part not in fields]
    if missing:
        raise ValueError(
            f"{fields.where} lacks the parts {missing}: not a Janus or Janus-Pro checkpoint "
            "(JanusFlow and DeepSeek-VL have the same model_type)"
        )
    fields.expect("tie_word_embeddings", False)
    core = read_core(fields.inner("language_config"))
    vision = _read_vision(_params(fields, "vision_config", "CLIPVisionTower"))
    vq = _read_vq(_params(fields, "gen_vision_config", r"VQ-\d+"))
    head = _params(fields, "gen_head_config", "vision_head")
    hidden = head.take("image_token_embed", int)
    head.expect("n_embed", core.width)
    head.expect("image_token_size", vq.codes)
    head.done()
    return {
        "core": core,
        "vision": vision,
        "vq": vq,
        "und_adaptor_depth": _adaptor_depth(fields, "aligner_config", vision.width, core.width),
        "gen_adaptor_depth": _adaptor_depth(fields, "gen_aligner_config", vq.code_dim, core.width),
        "gen_head_width": None if hidden == core.width else hidden,
        "drawing": _read_drawing(fields),
    }


def _read_drawing(fields: Fields) -> DrawingConfig:
    if "drawing_config" not in fields:
        return DrawingConfig()
    drawing = fields.inner("drawing_config")
    settings = DrawingConfig(drawing.take("guidance", float), drawing.take("temperature", float))
    drawing.done()
    return settings


def _params(fields: Fields, part: str, cls: str) -> Fields:
    outer = fields.inner(part)
    name = outer.take("cls", str)
    if not re.fullmatch(cls, name):
        raise ValueError(f"{outer.where}: cls is {name!r}, which is not supported; supported is {cls!r}")
    return outer.inner("params")


def _adaptor_depth(fields: Fields, part: str, width_in: int, width: int) -> int:
    params = _params(fields, part, "MlpProjector")
    params.expect("projector_type", "mlp_gelu")
    params.expect("input_dim", width_in)
    params.expect("n_embed", width)
    depth = params.take("depth", int)
    params.done()
    return depth


def _read_vision(params: Fields) -> VisionConfig:
    name = params.take("model_name", str)
    params.expect("select_feature", "same", "patch")  # SigLIP always gives all tokens, whatever it says
    params.expect("select_layer", -1)
    known = _TOWERS.get(name)
    sizes: dict[str, int] = {}
    for ours, theirs in _VISION_EXTRAS.items():
        if known is None or theirs in params:
            sizes[ours] = params.take(theirs, int)
    size = params.take("image_size", int, 384)
    params.done()
    return dataclasses.replace(known or VisionConfig(), image_size=size, **sizes)


def _read_vq(params: Fields) -> VqConfig:
    sizes: dict[str, Any] = {name: params.take(name, int) for name in _VQ_EXTRAS + _TONES if name in params}
    if "multipliers" in params:
        sizes["multipliers"] = params.several("multipliers", int)
    codes, code_dim = params.take("image_token_size", int), params.take("n_embed", int)
    params.done()
    return VqConfig(codes=codes, code_dim=code_dim, **sizes)


def write_official(config: JanusConfig, dtype: torch.dtype) -> dict[str, Any]:
    """`config.json` in the official layout.  Raises ValueError for a core it cannot hold."""
    core, vq = config.core, config.vq
    drawing = (
        {} if config.drawing == DrawingConfig() else {"drawing_config": dataclasses.asdict(config.drawing)}
    )
    return (
        drawing
        | write_quantization(core.quantization, "official")
        | {
            "architectures": ["MultiModalityCausalLM"],
            "model_type": "multi_modality",
            "torch_dtype": _dtype_name(dtype),
            "vision_config": _part("vision", "CLIPVisionTower", _write_vision(config.vision)),
            "aligner_config": _write_adaptor(
                "aligner", config.und_adaptor_depth, config.vision.width, core.width
            ),
            "gen_vision_config": _part("gen_vision", f"VQ-{vq.downsampling}", _write_vq(vq)),
            "gen_aligner_config": _write_adaptor(
                "gen_aligner", config.gen_adaptor_depth, vq.code_dim, core.width
            ),
            "gen_head_config": _part(
                "gen_head",
                "vision_head",
                {
                    "image_token_embed": config.image_head_width,
                    "image_token_size": vq.codes,
                    "n_embed": core.width,
                },
            ),
            "language_config": write_core(core) | {"torch_dtype": _dtype_name(dtype)},
        }
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _part(kind: str, cls: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"cls": cls, "model_type": kind, "params": params}


def _write_adaptor(kind: str, depth: int, width_in: int, width: int) -> dict[str, Any]:
    params = {"depth": depth, "input_dim": width_in, "n_embed": width, "projector_type": "mlp_gelu"}
    return _part(kind, "MlpProjector", params)


def _write_vision(vision: VisionConfig) -> dict[str, Any]:
    names = [name for name, tower in _TOWERS.items() if dataclasses.replace(vision, image_size=384) == tower]
    values: dict[str, Any] = {
        "model_name": names[0] if names else f"siglip_patch{vision.patch_size}_{vision.image_size}",
        "image_size": vision.image_size,
        "select_feature": "same",
        "select_layer": -1,
    }
    extras = {} if names else {theirs: getattr(vision, ours) for ours, theirs in _VISION_EXTRAS.items()}
    return values | extras


def _write_vq(vq: VqConfig) -> dict[str, Any]:
    values: dict[str, Any] = {"image_token_size": vq.codes, "n_embed": vq.code_dim}
    if vq == VqConfig(codes=vq.codes, code_dim=vq.code_dim):
        return values
    extras = {name: getattr(vq, name) for name in _VQ_EXTRAS + (_TONES if vq.tones > 1 else ())}
    return values | extras | {"multipliers": list(vq.multipliers)}


# -- transformers -------------------------------------------------------------------------------


def _read_transformers(fields: Fields) -> dict[str, Any]:
    text, vision, vq = (fields.inner(name) for name in ("text_config", "vision_config", "vq_config"))
    core = read_core(text)
    for part in (vision, vq):
        part.expect("hidden_act", "gelu")
        part.expect("projection_dim", core.width)
    vision.expect("use_qk_norm", False)
    vision.expect("attention_bias", True)
    vision.expect("num_channels", 3)
    vision.expect("layer_norm_eps", 1e-6)
    vq.expect("double_latent", False)
    vq.expect("in_channels", 3)
    vq.expect("out_channels", 3)
    vq.expect("image_token_embed_dim", core.width)
    width = vision.take("hidden_size", int, 1024)
    ratio = vision.take("mlp_ratio", float, 4.0)
    if width * ratio < 1:
        raise ValueError(f"{vision.where}: mlp_ratio must be above 0, not {ratio}")
    tower = VisionConfig(
        image_size=vision.take("image_size", int, 384),
        patch_size=vision.take("patch_size", int, 16),
        width=width,
        depth=vision.take("num_hidden_layers", int, 24),
        heads=vision.take("num_attention_heads", int, 16),
        ffn_width=int(width * ratio),
    )
    vision.expect("num_image_tokens", tower.tokens)
    multipliers = vq.several("channel_multiplier", int, (1, 1, 2, 2, 4))
    # as in transformers, a drawn picture has as many codes as an understood one has patches
    grid = tower.image_size // tower.patch_size
    tokenizer = VqConfig(
        image_size=grid * 2 ** (len(multipliers) - 1),
        codes=vq.take("num_embeddings", int, 16384),
        code_dim=vq.take("embed_dim", int, 8),
        z_channels=vq.take("latent_channels", int, 256),
        channels=vq.take("base_channels", int, 128),
        multipliers=multipliers,
        res_blocks=vq.take("num_res_blocks", int, 2),
    )
    return {
        "core": core,
        "vision": tower,
        "vq": tokenizer,
        "und_adaptor_depth": vision.take("depth", int, 2),
        "gen_adaptor_depth": vq.take("num_hidden_layers", int, 2),
    }


def write_transformers(config: JanusConfig, dtype: torch.dtype, image_id: int) -> dict[str, Any]:
    """`config.json` in the transformers layout; `image_id` is the id of the image placeholder.

    Raises ValueError for a model that `JanusForConditionalGeneration` cannot be.
    """
    core, vision, vq = config.core, config.vision, config.vq
    text = write_core(core)
    refused = {
        f"core layers other than gqa and dense ({text['model_type']})": text["model_type"] != "llama",
        f"drawing settings other than the official ones ({config.drawing})": (
            config.drawing != DrawingConfig()
        ),
        f"an image tokenizer that folds pixels (fold={vq.fold})": vq.fold != 1,
        f"{vq.tokens} codes per drawn picture beside {vision.tokens} tokens per understood one": vq.tokens
        != vision.tokens,
        f"an image head of another width ({config.image_head_width}) than the core's ({core.width})": (
            config.image_head_width != core.width
        ),
    }
    if any(refused.values()):
        reasons = [reason for reason, holds in refused.items() if holds]
        raise ValueError(f"the transformers layout has no place for {'; '.join(reasons)}")
    ratio = vision.ffn_width / vision.width
    if int(vision.width * ratio) != vision.ffn_width:
        ratio = (vision.ffn_width + 0.5) / vision.width  # transformers truncates the product
    return write_quantization(core.quantization, "transformers") | {
        "architectures": ["JanusForConditionalGeneration"],
        "model_type": "janus",
        "dtype": _dtype_name(dtype),
        "image_token_id": image_id,
        "tie_word_embeddings": False,
        "text_config": text | {"dtype": _dtype_name(dtype)},
        "vision_config": {
            "model_type": "janus_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_size": vision.width,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "mlp_ratio": ratio,
            "num_image_tokens": vision.tokens,
            "depth": config.und_adaptor_depth,
            "projection_dim": core.width,
            "layer_norm_eps": 1e-6,
            "hidden_act": "gelu",
        },
        "vq_config": {
            "model_type": "janus_vqgan",
            "num_embeddings": vq.codes,
            "embed_dim": vq.code_dim,
            "latent_channels": vq.z_channels,
            "base_channels": vq.channels,
            "channel_multiplier": list(vq.multipliers),
            "num_res_blocks": vq.res_blocks,
            "num_patches": vq.grid,
            "num_hidden_layers": config.gen_adaptor_depth,
            "projection_dim": core.width,
            "image_token_embed_dim": core.width,
            "hidden_act": "gelu",
        },
    }
