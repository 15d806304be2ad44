"""What a run leaves: a model folder that `Janus.from_pretrained` takes, or an adapter, with a model card."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from janus import checkpoints
from janus.checkpoints import adapters
from janus.checkpoints.layouts import on_meta
from janus.model import JanusModel
from janus.train.lora import adapter_state
from janus.train.parallel import Parallel
from janus.train.plan import TrainRecipe

MODEL, ADAPTER = "model", "adapter"  # in the run's folder
CARD = "README.md"  # in either of them


class Recipe(Protocol):
    """What the card reads of any kind of recipe."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def out(self) -> str: ...
    @property
    def model(self) -> str | None: ...


def target(recipe: TrainRecipe) -> Path:
    """Where the run's result goes."""
    return Path(recipe.out) / (MODEL if recipe.lora is None else ADAPTER)


def write(
    recipe: TrainRecipe, model: JanusModel, dtype: torch.dtype, source: Path, parallel: Parallel, card: str
) -> Path:
    """Gather the weights from all processes and write them, as `dtype`, in place of an earlier result."""
    folder = target(recipe)
    state = _gathered(model.state_dict() if recipe.lora is None else adapter_state(model), parallel)
    if parallel.first:
        if folder.exists():
            shutil.rmtree(folder)
        if recipe.lora is None:
            whole = on_meta(lambda: JanusModel(model.config))
            whole.load_state_dict(state, assign=True)
            checkpoints.save(whole.to(dtype), folder, layout=recipe.layout, source=source)
        else:
            lora = recipe.lora
            adapters.save(
                folder, state, base=str(recipe.model), rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout
            )
        (folder / CARD).write_text(card, encoding="utf-8")
    parallel.wait()
    return folder


def _gathered(state: dict[str, Tensor], parallel: Parallel) -> dict[str, Tensor]:
    """Whole tensors on the CPU of the first process; every process has to call this."""
    whole = {}
    for name, value in state.items():
        value = value.full_tensor() if isinstance(value, DTensor) else value
        if parallel.first:
            whole[name] = value.detach().cpu()
    return whole


def model_card(
    recipe: Recipe,
    records: Sequence[tuple[str, int, str]],
    seen: dict[str, int],
    scores: dict[str, float],
) -> str:
    """Markdown: what the model began as, the data with its licences, tokens seen, scores, the recipe.

    records: path, number of records and licence of each source.  seen: tokens and samples of the run.
    """
    lines = [
        f"# {Path(recipe.out).name}",
        "",
        "Trained " + ("from nothing" if recipe.model is None else f"from `{recipe.model}`") + " with janus.",
        "",
        "| data | records | licence |",
        "|---|---|---|",
        *(f"| `{path}` | {count:,} | {licence} |" for path, count, licence in records),
        "",
        "Seen in training: " + ", ".join(f"{count:,} {name}" for name, count in seen.items()) + ".",
        "",
    ]
    if scores:
        lines += ["On the validation data: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()) + ".", ""]
    recipe_json = json.dumps(dataclasses.asdict(recipe), indent=1, ensure_ascii=False)
    return "\n".join([*lines, "The recipe:", "", "```json", recipe_json, "```", ""])
