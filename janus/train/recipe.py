"""Recipe files: one YAML per training run, read strictly into dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus.config import JanusConfig, dataclass_from_dict


@dataclass(frozen=True)
class WorkRecipe:
    seed: int = 0
    scenes: int = 50000  # rendered once and kept in the work folder


@dataclass(frozen=True)
class TokenizerRecipe:
    """The VQ image tokenizer's training."""

    steps: int
    batch: int = 32  # pictures
    learning_rate: float = 1e-3
    warmup: int = 200  # steps
    average: float = 0.995  # of the weights; what is kept is their moving average
    revive_every: int = 200  # steps between replacing codes that nothing used


@dataclass(frozen=True)
class DecoderRecipe:
    """The image tokenizer's decoder alone, trained longer."""

    steps: int
    batch: int = 32
    learning_rate: float = 7e-4
    warmup: int = 50
    average: float = 0.998


@dataclass(frozen=True)
class VisionRecipe:
    """The vision encoder's training before the model's own."""

    steps: int
    batch: int = 64
    learning_rate: float = 1e-3
    warmup: int = 150


@dataclass(frozen=True)
class ModelRecipe:
    """The training of all but the image tokenizer and the vision encoder, which come trained."""

    steps: int
    tokens: int = 4096  # per step, filled with whole samples
    learning_rate: float = 1.5e-3
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    only_drawing: int = 0  # steps at the start without questions
    drawing_share: float = 0.45  # of the samples after those
    name_weight: float = 8.0  # in the loss, of the codes that only a caption's words can tell, beside others
    look_ahead: float = 0.5  # of the loss that asks every cell for the next thing's first code
    naming: float = 1.0  # of the loss that asks every patch for the words of what it shows
    drop_prompt: float = 0.15  # of the drawing samples: what guidance compares with
    apart_share: float = 0.75  # of the pictures asked about: with questions that don't see one another ...
    apart: int = 8  # ... so many ...
    turns: int = 3  # ... the others with a conversation of so many
    redrawn_share: float = 0.4  # of the questions: about pictures as the model itself draws them
    average: float = 0.995  # of the weights; what is kept is their moving average


@dataclass(frozen=True)
class Recipe:
    config: JanusConfig
    tokenizer: TokenizerRecipe
    decoder: DecoderRecipe
    vision: VisionRecipe
    model: ModelRecipe
    work: WorkRecipe = WorkRecipe()


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file.  Raises ValueError naming any unknown or missing field."""
    import yaml  # only training needs it

    values: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    recipe: Recipe = dataclass_from_dict(Recipe, values, Path(path).name)
    return recipe
