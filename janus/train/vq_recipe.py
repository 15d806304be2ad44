"""Recipes that train the image tokenizer: `kind: tokenizer`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from janus.config import VqConfig
from janus.train.plan import DataRecipe

TOKENIZER = "tokenizer"  # the kind of recipe here
VqPart = Literal["encoder", "codebook", "decoder"]


@dataclass(frozen=True)
class VqWeights:
    """How much each loss counts.  One of weight 0 is not computed, and needs nothing.

    Pixels reach from -1 to 1.
    """

    absolute: float = 1.0  # error of a pixel
    squared: float = 1.0  # error of a pixel
    edges: float = 1.0  # absolute error of the steps to the next pixel, down and right
    perceptual: float = 0.0  # distance of features (see `janus.train.perceptual`)
    adversarial: float = 0.0  # of this times what the losses above pull (see `janus.train.discriminator`)
    codebook: float = 1.0  # pulls the codes towards the encoder's vectors
    commitment: float = 0.25  # pulls the encoder's vectors towards the codes
    tones: float = 0.0  # lets the tone of a code be the colour, and its shape the rest (`janus.train.tones`)

    def __post_init__(self) -> None:
        wrong = {name: value for name, value in asdict(self).items() if value < 0}
        if wrong:
            raise ValueError(f"weights of losses must not be negative: {wrong}")


@dataclass(frozen=True)
class DiscriminatorRecipe:
    """The adversary, which is there where `losses.adversarial` is above 0."""

    begins: int = 1  # the first step that trains and asks it; the tokenizer should be fairly good by then
    channels: int = 64  # of its first layer
    layers: int = 3  # that halve the side
    rate: float = 1.0  # its learning rate, of the recipe's


@dataclass(frozen=True)
class VqValidation:
    """What is looked at every `every` steps: how well pictures of its own are given back."""

    data: tuple[DataRecipe, ...]
    every: int = 500
    pictures: int = 64  # of which the first 16 are on a sheet


@dataclass(frozen=True)
class TokenizerRecipe:
    """A run.  A step takes `pictures` from all devices together."""

    out: str  # folder of the run: its state, logs, pictures and, at the end, the tokenizer or model
    data: tuple[DataRecipe, ...]
    steps: int
    model: str | None = None  # whose tokenizer it begins with: "embedded", a folder or a hub id ...
    new: VqConfig | None = None  # ... or an untrained one; with both, only its codebook is untrained
    train: tuple[VqPart, ...] = ("encoder", "codebook", "decoder")
    pictures: int = 32
    micro_pictures: int = 8  # that one device takes at once
    losses: VqWeights = field(default_factory=VqWeights)
    discriminator: DiscriminatorRecipe = field(default_factory=DiscriminatorRecipe)
    codes_every: int = 100  # steps over which codes are counted; unused ones are then moved to new places
    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0  # steps
    betas: tuple[float, ...] = (0.9, 0.95)
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of the tokenizer's gradient, and of the discriminator's
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation; weights are float32
    average: float | None = None  # decay of a moving average of the weights, which is then what is written
    keep_every: int = 200  # steps between states to go on from
    workers: int = 0  # further processes that make the batches; which data a step has depends on it
    validation: VqValidation | None = None
    layout: Literal["official", "transformers"] = "official"  # of the model, where it began as one
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "pictures", "micro_pictures", "codes_every", "keep_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 0, not {self.workers}")
        if self.model is None and self.new is None:
            raise ValueError("a recipe has a model whose tokenizer it trains, a new one, or both")
        if not self.data:
            raise ValueError("data is empty; name at least one folder, JSON lines file or set of shards")
        if len(self.betas) != 2:
            raise ValueError(f"betas must be two numbers, not {list(self.betas)}")
        if not self.train:
            raise ValueError("train is empty; name at least one of encoder, codebook, decoder")
        if self.losses.adversarial and "decoder" not in self.train:
            raise ValueError("losses.adversarial is measured at the decoder's last layer; train that too")
        if self.losses.tones != 0 and not any(one.scenes and one.scenes.repainted for one in self.data):
            raise ValueError(
                "losses.tones needs pictures in other colours too; give scenes with repainted: true"
            )
        if self.losses.tones == 0 and any(one.scenes and one.scenes.repainted for one in self.data):
            raise ValueError("repainted scenes teach nothing without losses.tones; give it a weight")
        if not self.teaching:
            raise ValueError(f"no loss of {self.losses} teaches {list(self.train)} anything")

    @property
    def teaching(self) -> list[str]:
        """The losses that have a weight and something to move."""
        weights = asdict(self.losses)
        moved: dict[str, set[VqPart]] = {name: {"encoder", "decoder"} for name in weights}
        moved |= {"codebook": {"codebook"}, "commitment": {"encoder"}, "tones": {"encoder", "codebook"}}
        return [name for name, weight in weights.items() if weight and moved[name] & {*self.train}]
