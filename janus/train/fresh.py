"""Models that begin untrained, around parts that were trained before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from janus.checkpoints.files import some
from janus.config import JanusConfig
from janus.core.transformer import init_weights
from janus.model import JanusModel
from janus.tokenizers.text import TextTokenizer, train_bpe


@dataclass(frozen=True)
class NewModel:
    """Where a run begins if not from a trained model."""

    config: JanusConfig
    weights: tuple[str, ...] = ()  # safetensors of parts that come trained, under the model's own names
    text_tokenizer: str | None = (
        None  # a folder with its tokenizer.json; without one it learns the data's words
    )
    seed: int = 0


def new_model(new: NewModel) -> JanusModel:
    """The model in float32: random weights, and those of the parts that come trained.

    Embedding and logits of codes begin with the geometry of the image tokenizer's codebook.

    Raises ValueError for a file that cannot be read, and for tensors that the model lacks or has in another
    shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(new.seed)
        model = JanusModel(new.config)
    init_weights(model.language_model, torch.Generator().manual_seed(new.seed))
    own = model.state_dict()
    for path in new.weights:
        try:
            given = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"cannot read the weights {path}: {error}") from error
        wrong = [f"{name} is unknown" for name in sorted(given.keys() - own.keys())]
        wrong += [
            f"{name} is {list(value.shape)} instead of {list(own[name].shape)}"
            for name, value in given.items()
            if name in own and own[name].shape != value.shape
        ]
        if wrong:
            raise ValueError(f"{path} does not fit the model in the recipe: {some(wrong)}")
        model.load_state_dict(given, strict=False)
    begin_at_codes(model, new.seed)
    return model


@torch.no_grad()
def begin_at_codes(model: JanusModel, seed: int) -> None:
    """Let codes that look alike begin alike: their embedding is the codebook, and their logits follow it."""
    rows = model.gen_vision_model.quantize.rows()
    model.gen_embed.weight.copy_(rows)
    head = model.gen_head.vision_head.weight
    generator = torch.Generator().manual_seed(seed)
    mixed = rows @ torch.randn(rows.shape[1], head.shape[1], generator=generator)
    head.copy_(mixed * (3 * head.std() / mixed.std()))


def text_tokenizer(new: NewModel, texts: Iterable[str], folder: Path) -> Path:
    """The folder of the model's text tokenizer, which is trained on `texts` into `folder` if need be.

    Raises ValueError where there is none at the place named, or it has more tokens than the model.
    """
    if new.text_tokenizer is not None:
        found = Path(new.text_tokenizer)
    else:
        found = folder
        if not (folder / "tokenizer.json").exists():
            prompt = new.config.prompt
            folder.mkdir(parents=True, exist_ok=True)
            own = [f"{prompt.user}: {prompt.assistant}:", "\n\n"]
            train_bpe([*own, *texts], new.config.core.vocab_size, prompt, folder)
    size = TextTokenizer.from_folder(found, new.config.prompt).size
    if size > new.config.core.vocab_size:
        raise ValueError(
            f"the text tokenizer in {found} has {size} tokens, the model's vocab_size is only "
            f"{new.config.core.vocab_size}"
        )
    return found
