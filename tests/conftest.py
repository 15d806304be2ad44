"""Small random models for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from janus import Janus, checkpoints
from janus.config import PRESETS, PromptConfig
from janus.model import JanusModel
from janus.tokenizers.text import train_bpe


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Fill weights so that activations stay near one and no output is trivial."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            value = noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
        else:
            value = noise / parameter[0].numel() ** 0.5
        parameter.data.copy_(value)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], JanusModel]:
    """A random model by preset name, in float32 and evaluation mode, made once."""
    made: dict[str, JanusModel] = {}

    def get(name: str) -> JanusModel:
        if name not in made:
            made[name] = JanusModel(PRESETS[name]).eval()
            randomise(made[name])
        return made[name]

    return get


@pytest.fixture(scope="session")
def folder(tiny: Callable[[str], JanusModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mla+moe model with a tokenizer, saved in the official layout."""
    base = tmp_path_factory.mktemp("api")
    train_bpe(
        ["a photo of a red apple", "What is in the picture? 图片里有什么"], 400, PromptConfig(), base / "text"
    )
    checkpoints.save(tiny("tiny-v3"), base / "model", layout="official", source=base / "text")
    return base / "model"


@pytest.fixture(scope="session")
def janus(folder: Path) -> Janus:
    return Janus.from_pretrained(folder, device="cpu", dtype="float32")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As under torchrun: more threads round sums in another order now and then."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
