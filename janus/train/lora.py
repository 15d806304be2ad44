"""Low-rank adapters of the core's linear layers, through the `peft` library.

Trained beside the frozen model, written by `save_adapter`, used without peft by
`Janus.from_pretrained(adapter=...)`.  Source: LoRA (arXiv 2106.09685).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from janus.checkpoints import adapters
from janus.checkpoints.layouts import on_meta
from janus.model import JanusModel

_CORE = "language_model.model."
_SETTINGS = "peft_config"  # the attribute that peft gives a model with adapters
_ABSORBED = "kv_b_proj"  # MLA's cached decoding multiplies by its weight directly, past an adapter on it


@dataclass(frozen=True)
class LoraRecipe:
    """What is trained: matrices A (rank, inputs) and B (outputs, rank); alpha / rank * B @ A is added.

    `targets` are names of linear layers, such as "q_proj"; None is all that the core has but kv_b_proj.
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"alpha must be above 0, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.targets == ():
            raise ValueError("targets must name a layer, or be None for all")


def inject(model: JanusModel, recipe: LoraRecipe) -> None:
    """Put adapters on the core's linear layers and freeze all else.

    They are float32 at least, and change nothing until trained: B is zero, A comes from torch's own
    generator.  Attention, dense feed-forwards and shared experts are adapted.  Routed experts are 3-D
    parameters, not linear layers, and stay as they are.  So does their balancing bias, unless the
    caller goes on updating it, which no adapter would hold.

    Raises ValueError for targets that the core does not have or that cannot be adapted, for a model that
    has adapters already, and if peft is not installed.
    """
    if _SETTINGS in vars(model):
        raise ValueError("the model has adapters already; go on with those, or with a fresh model")
    peft = _peft()
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=_paths(model, recipe.targets),
    )
    peft.inject_adapter_in_model(config, model)
    peft.functional.cast_adapter_dtype(model, "default")
    model.train(model.training)  # new dropouts are in training mode, whatever the model is in


def adapter_state(model: JanusModel) -> dict[str, Tensor]:
    """The adapters alone: `<path>.lora_A.weight` (rank, inputs), `<path>.lora_B.weight` (outputs, rank).

    Raises ValueError for a model without adapters.
    """
    _config(model)
    state: dict[str, Tensor] = _peft().get_peft_model_state_dict(model)
    return state


def save_adapter(model: JanusModel, base: str | Path, folder: str | Path) -> None:
    """Write the adapters to a new folder; `base` and errors as in `adapters.save`, and `adapter_state`."""
    config = _config(model)
    adapters.save(
        folder,
        adapter_state(model),
        base=base,
        rank=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
    )


def merged(model: JanusModel) -> JanusModel:
    """A plain model with the adapters added to its weights.

    Weights that are not adapted are the same memory as in `model`, which keeps its adapters.  Raises
    ValueError for a model without adapters.
    """
    config = _config(model)
    state = {key.replace(".base_layer.", "."): value for key, value in model.state_dict().items()}
    plain = on_meta(lambda: JanusModel(model.config))
    plain.load_state_dict({key: v for key, v in state.items() if ".lora_" not in key}, assign=True)
    adapters.add(plain, adapter_state(model), config.lora_alpha / config.r)
    return plain.train(model.training)


def _paths(model: JanusModel, targets: tuple[str, ...] | None) -> list[str]:
    """The core's linear layers of those names, by their path in the model."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for path, module in model.named_modules():
        if path.startswith(_CORE) and isinstance(module, nn.Linear):
            by_name[path.rpartition(".")[2]].append(path)
    possible = sorted(by_name.keys() - {_ABSORBED})
    names = possible if targets is None else targets
    if _ABSORBED in names:
        raise ValueError(
            f"{_ABSORBED} cannot be adapted: cached decoding multiplies by its weight directly and would "
            f"pass the adapter over; the core also has {possible}"
        )
    unknown = sorted(set(names) - by_name.keys())
    if unknown:
        raise ValueError(f"the core has no linear layers called {unknown}; it has {possible}")
    return [path for name in names for path in by_name[name]]


def _config(model: JanusModel) -> Any:
    """peft's settings of the adapters in a model."""
    if _SETTINGS not in vars(model):
        raise ValueError("the model has no adapters; `inject` puts them in")
    return vars(model)[_SETTINGS]["default"]


def _peft() -> ModuleType:
    try:
        import peft
        import peft.functional
    except ImportError as error:
        raise ValueError("LoRA needs the library peft: pip install 'janus-pro[train]'") from error
    return peft
