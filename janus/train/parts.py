"""Which parts of a model learn, in what precision, and at what rate."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from torch import nn

from janus.data.records import Kind
from janus.model import JanusModel
from janus.train.lora import inject
from janus.train.plan import Part, TrainRecipe

# By the beginnings of parameter names.  The image tokenizer (`gen_vision_model`) is frozen in every
# stage of the Janus-Pro report.
PARTS: dict[Part, tuple[str, ...]] = {
    "vision": ("vision_model.",),
    "aligner": ("aligner.",),
    "gen_aligner": ("gen_aligner.", "gen_embed."),
    "gen_head": ("gen_head.",),
    "core": ("language_model.",),
}
_UNUSED = "attn_pool"  # SigLIP's pooling head, which Janus never runs
# What a kind of sample needs besides the core; what no sample uses would only decay.
_USES: dict[str, tuple[Kind, ...]] = {
    "vision_model.": ("understanding",),
    "aligner.": ("understanding",),
    "gen_aligner.": ("generation",),
    "gen_embed.": ("generation",),
    "gen_head.": ("generation",),
    "language_model.lm_head.": ("understanding", "text"),
}


def choose(model: JanusModel, recipe: TrainRecipe, kinds: Set[Kind]) -> list[nn.Parameter]:
    """Freeze all but what the recipe trains and samples of these `kinds` reach; returns what learns.

    What learns takes the recipe's type of weights.  What is frozen keeps its own, or becomes float32 if
    the computation is.
    """
    if recipe.precision == "float32":
        model.float()
    if recipe.lora is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)  # peft draws from torch's own generator
            inject(model, recipe.lora)
    else:
        prefixes = tuple(prefix for part in recipe.train for prefix in PARTS[part])
        idle = tuple(prefix for prefix, users in _USES.items() if not kinds & set(users))
        for name, parameter in model.named_parameters():
            learns = name.startswith(prefixes) and not name.startswith(idle) and _UNUSED not in name
            parameter.requires_grad_(learns)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.data = parameter.data.to(getattr(torch, recipe.weights))
    return learning


def groups(model: nn.Module, recipe: TrainRecipe) -> list[dict[str, Any]]:
    """The optimizer's groups: matrices decay, vectors and embeddings do not; `share` scales the rate."""
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and "embed" not in name
            found.setdefault((decays, "vision_model." in name), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "share": recipe.vision_rate if vision else 1.0,
        }
        for (decays, vision), parameters in found.items()
    ]
