"""Recipes of training runs on users' own data: one YAML file each, read strictly into dataclasses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from janus.config import dataclass_from_dict
from janus.data.records import Kind
from janus.data.scene_source import ScenesRecipe
from janus.train.fresh import NewModel
from janus.train.lora import LoraRecipe

EMBEDDED = "embedded"  # a recipe's word for the model that ships with the package
MODEL = "model"  # the kind of recipe here, and of one that does not say its `kind`
Part = Literal["vision", "aligner", "gen_aligner", "gen_head", "core"]


@dataclass(frozen=True)
class DataRecipe:
    """A folder, JSON lines file or set of shards (see `janus.data.sources`), or scenes made on the fly."""

    path: str | None = None
    scenes: ScenesRecipe | None = None
    weight: float = 1.0  # beside other sources of the same kind
    licence: str = "not stated"  # for the model card

    def __post_init__(self) -> None:
        if (self.path is None) == (self.scenes is None):
            raise ValueError("a source of data has either a path or scenes")

    @property
    def title(self) -> str:
        """What logs and the model card call it."""
        return self.path if self.path is not None else str(self.scenes)


@dataclass(frozen=True)
class Mixture:
    """Shares of the samples.  The Janus-Pro report's stages have 1:0:3, 2:3:5 and 5:1:4."""

    understanding: float = 0.0
    text: float = 0.0
    generation: float = 0.0

    def shares(self) -> dict[Kind, float]:
        return {"understanding": self.understanding, "text": self.text, "generation": self.generation}


@dataclass(frozen=True)
class ValidationRecipe:
    """What is looked at every `every` steps: losses on data of its own, and pictures of some prompts."""

    data: tuple[DataRecipe, ...]
    every: int = 500
    rows: int = 16
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainRecipe:
    """A training run.  A step takes `rows` rows of `row` tokens from all devices together."""

    out: str  # folder of the run: its state, logs, pictures and, at the end, the model or adapter
    data: tuple[DataRecipe, ...]
    mixture: Mixture
    steps: int
    model: str | None = None  # where it begins: "embedded", a folder or a hub id ...
    new: NewModel | None = None  # ... or an untrained one
    row: int = 1024
    rows: int = 8
    micro_rows: int = 1  # rows that one device takes at once
    train: tuple[Part, ...] = ("vision", "aligner", "gen_aligner", "gen_head", "core")
    lora: LoraRecipe | None = None  # train low-rank adapters of the core instead of `train`
    learning_rate: float = 4e-5
    vision_rate: float = 1.0  # of that, for the vision encoder
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0  # steps
    betas: tuple[float, ...] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of the gradient
    text_weight: float = 1.0  # of a text token in the loss, beside a code
    look_ahead: float = 0.0  # weight of the loss that asks every cell for the next code that names decide
    naming: float = 0.0  # weight of the loss that asks every patch of a scene for the words of what it shows
    depicting: float = 0.0  # weight of the loss that asks a caption's names for the codes of what they name
    looking: float = 0.0  # weight of the loss that tells words of a conversation about a scene where to look
    smoothing: float = 0.0  # share of what each code should get that goes to all codes alike ...
    smooth_tones: bool = False  # ... or to its shape in all tones
    factor_tones: bool = False  # a code's logit is one for its shape plus one for its tone
    drop_captions: float = 0.1  # of the samples to draw: what guidance compares with
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation
    weights: Literal["float32", "bfloat16"] = "float32"  # of what is trained, and of the optimizer's moments
    average: float | None = None  # decay of a moving average of the weights, which is then what is written
    keep_every: int = 200  # steps between states to go on from
    workers: int = 0  # further processes that make the batches; which data a step has depends on it
    validation: ValidationRecipe | None = None
    layout: Literal["official", "transformers"] = "official"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "row", "rows", "micro_rows", "keep_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, not {self.workers}")
        if (self.model is None) == (self.new is None):
            raise ValueError("a recipe has either a model to begin from or a new one")
        for name in ("look_ahead", "naming", "depicting", "looking"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("naming", "looking"):
            if getattr(self, name) and not any(one.scenes is not None for one in self.data):
                raise ValueError(
                    f"{name} needs to know what each patch shows; only scenes can tell, and data has none"
                )
        if any(one.scenes is not None and one.scenes.repainted for one in self.data):
            raise ValueError("repainted scenes teach an image tokenizer (kind: tokenizer), not a model")
        if self.depicting and not any(one.scenes is not None and one.scenes.blocks for one in self.data):
            raise ValueError(
                "depicting needs to know which codes draw what a caption names; only scenes with "
                "blocks: true can tell, and data has none"
            )
        if self.new is not None and self.lora is not None:
            raise ValueError("an adapter needs a trained model; train a new one whole")
        if not self.data:
            raise ValueError("data is empty; name at least one folder, JSON lines file or set of shards")
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, not {list(self.betas)}")
        if self.smooth_tones and not self.smoothing:
            raise ValueError("smooth_tones says where smoothing goes; set smoothing above 0")
        if self.factor_tones and (self.lora is not None or "gen_head" not in self.train):
            raise ValueError("factor_tones changes the image head; train gen_head, without lora")
        for name in ("drop_captions", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")


def load_plan(path: str | Path, changes: Sequence[str] = ()) -> TrainRecipe:
    """The recipe of a model in a YAML file, with `changes` such as "steps=50" or "lora.rank=8".

    Raises ValueError naming any unknown, missing or wrong field.
    """
    kind, values = read_recipe(path, changes)
    if kind != MODEL:
        raise ValueError(f"{path} is the recipe of a {kind}, not of a {MODEL}")
    recipe: TrainRecipe = dataclass_from_dict(TrainRecipe, values, Path(path).name)
    return recipe


def read_recipe(path: str | Path, changes: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """What kind of thing the recipe in a YAML file trains, and its other fields, with `changes`.

    Raises ValueError where the file cannot be read or is no recipe.
    """
    try:
        import yaml  # only training needs it
    except ImportError as error:
        raise ValueError('training needs more packages: pip install "janus-pro[train]"') from error
    try:
        values = _parsed(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the recipe {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    for change in changes:
        field, equals, value = change.partition("=")
        *outer, name = field.split(".")
        inner = values
        for key in outer:
            inner = inner.setdefault(key, {}) if isinstance(inner, dict) else None
        if not equals or not isinstance(inner, dict):
            raise ValueError(
                f"cannot set {change!r}; give a field of the recipe and its value, as in steps=50"
            )
        inner[name] = _parsed(value)
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a recipe: it has no fields, only {values!r}")
    return values.pop("kind", MODEL), values


def _parsed(text: str) -> Any:
    """What some YAML says, with 2e-4 a number as in YAML 1.2; PyYAML keeps to 1.1, where it is a word."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return yaml.load(text, Loader)
