"""Image tokenizers on disk: what such a run begins with, and what it leaves.

A run that began with the tokenizer of a whole model leaves that model with the new one, in a folder that
`Janus.from_pretrained` takes.  Any other leaves a folder with `config.json`, which holds the sizes as
`{"vq": ...}`, and `model.safetensors`, the weights under their names in a whole model: what `new.config`
and `new.weights` of a model's recipe take.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import torch
from torch import Tensor

from janus import checkpoints
from janus.checkpoints.files import InMemory, load_part, read_json, some
from janus.checkpoints.writing import new_folder, write, write_json
from janus.config import VqConfig, dataclass_from_dict
from janus.tokenizers.image import VqTokenizer
from janus.train.plan import EMBEDDED
from janus.train.results import CARD, MODEL
from janus.train.vq_recipe import TOKENIZER, TokenizerRecipe

_SIZES = "config.json"
_PREFIX = "gen_vision_model."


def new_tokenizer(config: VqConfig, seed: int) -> VqTokenizer:
    """Untrained, in float32; the weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VqTokenizer(config)
        torch.nn.init.normal_(model.quantize.embedding.weight)  # directions, all alike
    return model


def load_tokenizer(where: str) -> VqTokenizer:
    """The image tokenizer, in float32, of "embedded", of a folder or hub id, or of a run without a model.

    Raises ValueError for what cannot be read, and for unknown, missing or misshapen tensors.
    """
    if (config := _sizes(where)) is None:
        return checkpoints.load(_origin(where))[0].gen_vision_model.float()
    model = new_tokenizer(config, 0)
    load_part(model, where, _PREFIX)
    return model


def begin(recipe: TokenizerRecipe) -> VqTokenizer:
    """The tokenizer before the first step, in float32: the recipe's model's, or a new one.

    Where the recipe has both, the new one begins with the other's encoder and decoder, and its codebook is
    untrained.  Raises ValueError as `load_tokenizer` does, and where the two have other layers.
    """
    if recipe.new is None:
        assert recipe.model is not None
        return load_tokenizer(recipe.model)
    tokenizer = new_tokenizer(recipe.new, recipe.seed)
    if recipe.model is not None:
        given, own = load_tokenizer(recipe.model).state_dict(), tokenizer.state_dict()
        given |= {name: value for name, value in own.items() if name.startswith("quantize.")}
        wrong = sorted(given.keys() ^ own.keys())
        wrong += [name for name, value in own.items() if name in given and given[name].shape != value.shape]
        if wrong:
            raise ValueError(
                f"the layers of {recipe.model} are not those that the recipe's `new` describes: {some(wrong)}"
            )
        tokenizer.load_state_dict(given)
    return tokenizer


def _sizes(where: str) -> VqConfig | None:
    """Those of a tokenizer without a model, if there is one."""
    path = Path(where) / _SIZES
    values = read_json(path) if path.is_file() else {}
    if values.keys() != {"vq"}:
        return None
    config: VqConfig = dataclass_from_dict(VqConfig, values["vq"], f"{path}: vq")
    return config


def target(recipe: TokenizerRecipe) -> Path:
    """Where the run's result goes."""
    whole = recipe.new is None and recipe.model is not None and _sizes(recipe.model) is None
    return Path(recipe.out) / (MODEL if whole else TOKENIZER)


def write_result(recipe: TokenizerRecipe, tokenizer: VqTokenizer, card: str) -> Path:
    """Write the tokenizer, or the model that it belongs to, in place of an earlier result."""
    folder = target(recipe)
    state = {name: value.detach().cpu() for name, value in tokenizer.state_dict().items()}
    if folder.exists():
        shutil.rmtree(folder)
    if folder.name == MODEL:
        assert recipe.model is not None
        model, origin = checkpoints.load(_origin(recipe.model))
        given = {name: value.to(model.dtype) for name, value in state.items()}
        model.gen_vision_model.load_state_dict(given, assign=True)
        checkpoints.save(model, folder, layout=recipe.layout, source=origin)
        (folder / CARD).write_text(card, encoding="utf-8")
        return folder
    named: dict[str, Tensor] = {f"{_PREFIX}{name}": value for name, value in state.items()}
    with new_folder(folder) as partial:
        write(partial, InMemory(named))
        write_json(partial / _SIZES, {"vq": dataclasses.asdict(tokenizer.config)})
        (partial / CARD).write_text(card, encoding="utf-8")
    return folder


def _origin(where: str) -> str | Path:
    return checkpoints.EMBEDDED if where == EMBEDDED else where
