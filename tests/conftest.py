"""Small random models for all tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from janus.config import PRESETS
from janus.model import JanusModel


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
