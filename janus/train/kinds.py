"""What `janus train` runs: the field `kind` of a recipe says what it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from janus.config import dataclass_from_dict
from janus.train.loop import train as train_model
from janus.train.patches import VISION, VisionRecipe, train_vision
from janus.train.plan import MODEL, TrainRecipe, read_recipe
from janus.train.vq import train_tokenizer
from janus.train.vq_recipe import TOKENIZER, TokenizerRecipe


def train(path: str | Path, changes: Sequence[str] = (), device: str | None = None) -> Path:
    """Run the recipe in a YAML file, with `changes` such as "steps=50", and return the folder it wrote.

    Raises ValueError for an unknown kind, for any unknown, missing or wrong field, and as the run does.
    """
    kind, values = read_recipe(path, changes)
    where = Path(path).name
    if kind == MODEL:
        return train_model(dataclass_from_dict(TrainRecipe, values, where), device)
    if kind == TOKENIZER:
        return train_tokenizer(dataclass_from_dict(TokenizerRecipe, values, where), device)
    if kind == VISION:
        return train_vision(dataclass_from_dict(VisionRecipe, values, where), device)
    raise ValueError(f"{where}.kind must be one of {[MODEL, TOKENIZER, VISION]}, not {kind!r}")
