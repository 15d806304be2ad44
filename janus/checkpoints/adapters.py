"""LoRA adapters as peft publishes them: a folder with `adapter_config.json` and `adapter_model.safetensors`.

An adapted linear layer has two matrices, `<path>.lora_A.weight` (R, I) and `<path>.lora_B.weight` (O, R);
its weight (O, I) becomes W + scale * B @ A.  R rank, I inputs, O outputs; `<path>` is the layer's in
`JanusModel`, which is its official name.  Source: LoRA (arXiv 2106.09685), section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from janus.checkpoints import EMBEDDED, writing
from janus.checkpoints.fields import Fields
from janus.checkpoints.files import read_json, some
from janus.model import JanusModel

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_EMBEDDED = "embedded"  # as a base: the model that ships with the package
_PREFIX = "base_model.model."  # of peft's keys, before the path

# Fields that change nothing about what is added.  Which layers are meant is told by the tensors.
_IDLE = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
}
_READ = {"peft_type", "r", "lora_alpha", "use_rslora"}
# The other ways to begin (PiSSA, OLoRA, ...) change the base's weights, too, or make another sum.
_ONLY: dict[str, tuple[Any, ...]] = {"bias": ("none",), "init_lora_weights": (True, False, None, "gaussian")}


def is_adapter(folder: str | Path) -> bool:
    return (Path(folder) / _CONFIG).is_file()


def base_of(folder: str | Path) -> str | Path:
    """The checkpoint that an adapter was trained on, as `loading.load` takes it.

    Raises ValueError if the adapter names none, or one revision of it.
    """
    fields = _fields(Path(folder))
    name = fields.take("base_model_name_or_path", str)
    if "revision" in fields:
        revision = fields.take("revision", str)
        raise ValueError(
            f"{folder} belongs to {name} at the revision {revision!r}; load that, and this as its adapter"
        )
    return EMBEDDED if name == _EMBEDDED else name


def merge(model: JanusModel, folder: str | Path) -> None:
    """Add an adapter to the linear layers that it is for.

    Raises ValueError listing all that is wrong, and then changes nothing: options that make another sum
    than W + scale * B @ A, tensors for what is no linear layer here (routed experts are stacked
    parameters), half a pair, other shapes.
    """
    folder = Path(folder)
    if (kind := model.config.core.quantization) is not None:
        raise ValueError(
            f"cannot merge the adapter {folder} into {kind} weights; take the model as it was before"
        )
    fields = _fields(folder)
    fields.take("peft_type", str)
    fields.expect("peft_type", "LORA")
    rank, alpha = fields.take("r", int), fields.take("lora_alpha", float)
    scale = alpha / (math.sqrt(rank) if fields.take("use_rslora", bool, False) else rank)
    state = _read_weights(folder)
    wrong = [*_unsupported(fields.values), *_misfits(model, state, rank)]
    if wrong:
        raise ValueError(f"cannot merge the adapter {folder}: {'; '.join(wrong)}")
    add(model, {key.removeprefix(_PREFIX): value for key, value in state.items()}, scale)


@torch.no_grad()
def add(model: JanusModel, state: Mapping[str, Tensor], scale: float) -> None:
    """Add the pairs of `state`, by their keys without peft's prefix, to the weights.

    Sums are made in float32 and rounded once.  Every weight becomes a new parameter: the old one may be
    mapped from a file, or belong to another model, too.
    """
    for path in sorted({_path(key) for key in state}):
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        old = layer.weight
        a, b = (state[f"{path}.lora_{half}.weight"].to(old.device, torch.float32) for half in "AB")
        new = torch.addmm(old.float(), b, a, alpha=scale).to(old.dtype)
        layer.weight = nn.Parameter(new, old.requires_grad)


def save(
    folder: str | Path,
    state: Mapping[str, Tensor],
    *,
    base: str | Path,
    rank: int,
    alpha: float,
    dropout: float,
) -> None:
    """Write pairs, by their keys without peft's prefix, to a new folder, in full or not at all.

    `base` is the checkpoint that they were trained on: a hub id, a folder, or `checkpoints.EMBEDDED`.
    Raises ValueError if the folder exists with something in it or cannot be written.
    """
    tensors = {f"{_PREFIX}{key}": value.detach().cpu().contiguous() for key, value in state.items()}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": _base_name(base),
        "target_modules": sorted({_path(key) for key in state}),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "bias": "none",
    }
    with writing.new_folder(Path(folder)) as partial:
        (partial / _WEIGHTS).write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
        writing.write_json(partial / _CONFIG, config)


def _base_name(base: str | Path) -> str:
    if Path(base) == EMBEDDED:
        return _EMBEDDED
    return str(Path(base).resolve() if Path(base).is_dir() else base)


def _path(key: str) -> str:
    return key.rpartition(".lora_")[0]


def _fields(folder: Path) -> Fields:
    return Fields(read_json(folder / _CONFIG), str(folder / _CONFIG))


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / _WEIGHTS
    if not path.is_file():
        raise ValueError(f"{folder} has no {_WEIGHTS}")
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    if not state:
        raise ValueError(f"{path} holds no tensors")
    return state


def _unsupported(config: Mapping[str, Any]) -> list[str]:
    """Options that would need code that does not exist here; those that are off pass, known or not."""
    on = {name: value for name, value in config.items() if name not in _IDLE | _READ}
    return [
        f"the option {name}={value!r} is not supported"
        for name, value in sorted(on.items())
        if value not in _ONLY.get(name, (None, False, [], {}))
    ]


def _misfits(model: JanusModel, state: Mapping[str, Tensor], rank: int) -> list[str]:
    """What is wrong with an adapter's tensors, by peft's keys."""
    shapes = {
        f"{_PREFIX}{path}": tuple(module.weight.shape)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    expected: dict[str, tuple[int, int]] = {}
    for path in {_path(key) for key in state} & shapes.keys():
        outputs, inputs = shapes[path]
        expected |= {f"{path}.lora_A.weight": (rank, inputs), f"{path}.lora_B.weight": (outputs, rank)}
    fitting = sorted(state.keys() & expected.keys())
    complaints = {
        "for no linear layer of the model": sorted(state.keys() - expected.keys()),
        "missing": sorted(expected.keys() - state.keys()),
        "misshapen": [
            f"{key} is {list(state[key].shape)} instead of {list(expected[key])}"
            for key in fitting
            if state[key].shape != expected[key]
        ],
        "not of floating-point numbers": [key for key in fitting if not state[key].is_floating_point()],
    }
    return [f"tensors {what}: {some(keys)}" for what, keys in complaints.items() if keys]
