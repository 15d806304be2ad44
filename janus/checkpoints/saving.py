"""From a model to a checkpoint folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import torch

from janus.checkpoints import writing
from janus.checkpoints.configs import write_official, write_transformers
from janus.checkpoints.fields import Fields
from janus.checkpoints.files import InMemory, read_json
from janus.checkpoints.layouts import Layout, Relaid, official_shapes, recipes
from janus.checkpoints.processors import write_official_processor, write_transformers_processor
from janus.checkpoints.writing import SHARD_BYTES, write_json
from janus.config import JanusConfig
from janus.core.published import split_experts
from janus.model import JanusModel
from janus.tokenizers.text import TOKENIZER_FILE, TextTokenizer

_TOKENIZER_SETTINGS = "tokenizer_config.json"
_TOKENIZER_FILES = (TOKENIZER_FILE, _TOKENIZER_SETTINGS, "special_tokens_map.json")
_GUIDANCE = 5  # of drawing, as in the official code


def save(
    model: JanusModel,
    folder: str | Path,
    *,
    layout: Layout = "official",
    source: str | Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model to a new folder, in full or not at all.

    The tokenizer's files are copied from the folder `source`; the transformers layout needs one.
    Raises ValueError if the folder exists with something in it or cannot be written, if `source` has no
    tokenizer, or if the layout cannot hold the model.
    """
    check_layout(layout)
    state = InMemory(split_experts(model.state_dict()))
    tensors = Relaid(state, recipes(official_shapes(model), "official", layout, state.infos))
    with writing.new_folder(Path(folder)) as partial:
        write_settings(partial, model.config, model.dtype, layout, None if source is None else Path(source))
        writing.write(partial, tensors, shard_bytes)


def check_layout(layout: str) -> None:
    """Raises ValueError for an unknown one."""
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {list(get_args(Layout))}, not {layout!r}")


def write_settings(
    folder: Path, config: JanusConfig, dtype: torch.dtype, layout: Layout, source: Path | None
) -> None:
    """Everything but the weights: tokenizer (from `source`), `config.json`, processor files."""
    if source is not None and not (source / TOKENIZER_FILE).is_file():
        raise ValueError(f"{source} has no {TOKENIZER_FILE}")
    if layout == "transformers":
        if source is None:
            raise ValueError(
                "the transformers layout needs a tokenizer: give the folder that has it as source"
            )
        _write_transformers_settings(folder, config, dtype, source)
        return
    if source is not None:
        _copy_tokenizer(source, folder)
    write_json(folder / "config.json", write_official(config, dtype))
    write_official_processor(folder, config.image, config.prompt, config.vision.tokens)


def _write_transformers_settings(folder: Path, config: JanusConfig, dtype: torch.dtype, source: Path) -> None:
    tokenizer = TextTokenizer.from_folder(source, config.prompt)
    write_json(folder / "config.json", write_transformers(config, dtype, tokenizer.image_id))
    generation = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
        "guidance_scale": _GUIDANCE,
        "generation_kwargs": {"boi_token_id": tokenizer.begin_image_id},
    }
    write_json(folder / "generation_config.json", generation)
    if _names_image_token(source):
        _copy_tokenizer(source, folder)
    else:
        tokenizer.save(folder)  # with the names that transformers' processor looks up
    write_transformers_processor(folder, config.image, config.prompt, config.vision.tokens)


def _names_image_token(source: Path) -> bool:
    path = source / _TOKENIZER_SETTINGS
    fields = Fields(read_json(path) if path.is_file() else {}, str(path))
    return "image_token" in fields or (
        isinstance(fields.values.get("extra_special_tokens"), dict)
        and "image_token" in fields.inner("extra_special_tokens")
    )


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
