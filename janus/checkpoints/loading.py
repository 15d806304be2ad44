"""From a checkpoint to a model: built without memory on the meta device, then given the file's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor, nn

from janus.checkpoints import configs, hub
from janus.checkpoints.files import Counted, OnBytes, Tensors, WeightFiles, usual_dtype
from janus.checkpoints.layouts import (
    CODEBOOK_USED,
    Layout,
    Relaid,
    check_names,
    official_shapes,
    on_meta,
    recipes,
)
from janus.config import CoreConfig, JanusConfig
from janus.core.published import stack_experts
from janus.model import JanusModel


@dataclass(frozen=True)
class Summary:
    """What a checkpoint is, without its weights in memory."""

    config: JanusConfig
    layout: Layout
    files: Mapping[str, str]  # official tensor name to the file it is in


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    offline: bool = False,
    on_bytes: OnBytes | None = None,
) -> tuple[JanusModel, Path]:
    """A model and the folder it came from; `source` is a folder or a hub id (see `hub.locate`), in
    either layout.  `dtype` defaults to what `config.json` asks for.  `on_bytes(done, total)` follows
    the reading of weights.

    On the CPU, tensors that need no conversion stay mapped from their file: memory is taken as they
    are used.  Raises ValueError for settings that are not supported and for unknown, missing or
    misshapen tensors; only what Janus never reads (`layouts.UNUSED`) may be missing.
    """
    folder = hub.locate(source, revision=revision, offline=offline)
    settings, model, tensors = _open(folder)
    kind = dtype or settings.dtype or usual_dtype(tensors.infos)
    read = tensors if on_bytes is None else Counted(tensors, on_bytes)
    fill(model, read, settings.config.core, torch.device(device), kind, lambda key: key == CODEBOOK_USED)
    return model, folder


def inspect(source: str | Path, *, revision: str | None = None, offline: bool = False) -> Summary:
    """What a checkpoint holds and in which files, checked as `load` does, without reading weights."""
    folder = hub.locate(source, revision=revision, offline=offline)
    settings, _, tensors = _open(folder)
    assert isinstance(tensors.source, WeightFiles)
    files = {
        key: tensors.source.files[recipe.keys[0]] for key, recipe in tensors.recipes.items() if recipe.keys
    }
    return Summary(settings.config, settings.layout, files)


def _open(folder: Path) -> tuple[configs.Settings, JanusModel, Relaid]:
    """Settings, a model on the meta device, and the tensors for it under their official names."""
    settings = configs.read(folder)
    weights = WeightFiles(folder)
    model = on_meta(lambda: JanusModel(settings.config))
    official = official_shapes(model)
    check_names(weights.infos, official, settings.layout, settings.tied, folder)
    tensors = Relaid(weights, recipes(official, settings.layout, "official", weights.infos))
    return settings, model, tensors


def fill(
    model: nn.Module,
    tensors: Tensors,
    core: CoreConfig,
    device: torch.device,
    dtype: torch.dtype,
    skip: Callable[[str], bool] = lambda key: False,
) -> None:
    """Put tensors, one expert each, in the place of a meta model's parameters.

    Parameters become `dtype`, buffers keep their type (the experts' balancing bias is float32).
    """
    kept = {name: buffer.dtype for name, buffer in model.named_buffers()}

    def read(key: str) -> Tensor:
        stored, wanted = tensors.infos[key].dtype, kept.get(key, dtype)
        scaled = not wanted.is_floating_point or wanted.itemsize == 1  # mean nothing without their scales
        if stored != wanted and (scaled or not stored.is_floating_point):
            what = wanted if scaled else "floating-point numbers"
            raise ValueError(f"{key} holds {stored}, not {what}")
        return tensors.read(key).to(device, wanted)

    state: dict[str, Tensor] = {}
    keys = (key for key in tensors.infos if not skip(key))
    for _, layer in groupby(keys, lambda key: key.partition(".mlp.experts.")[0]):
        part = {key: read(key) for key in layer}
        state |= part if core.quantization else stack_experts(part, core)
    model.load_state_dict(state, strict=True, assign=True)
    left = [name for name, value in [*model.named_parameters(), *model.named_buffers()] if value.is_meta]
    assert not left, f"not in the state dict: {left}"
