"""The network that tells true pictures from given back ones, patch by patch, and the losses around it.

pix2pix's patch discriminator (arXiv 1611.07004, appendix 6.1.2) with the hinge loss, as VQGAN trains its
tokenizer with (arXiv 2012.09841, section 3.1).  It normalises by groups of channels instead of batches, so
that a picture's score does not depend on what else a device has at once.

Shapes: N pictures, S their side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUPS = 32
_LARGEST = 1e4  # of the balance below, as in VQGAN's code


class Discriminator(nn.Module):
    """Pictures (N, 3, S, S) in [-1, 1] to scores (N, 1, H, W) of overlapping patches: above 0 is true.

    `layers` convolutions halve the side; with three, a score sees 70 × 70 pixels.  The weights depend on
    `generator` alone.  Raises ValueError for channels that the groups do not divide.
    """

    def __init__(self, channels: int, layers: int, generator: torch.Generator) -> None:
        if channels < _GROUPS or channels % _GROUPS:
            raise ValueError(f"discriminator.channels must be a multiple of {_GROUPS}, not {channels}")
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # the layers draw weights, to be thrown away
            self.body = self._layers(channels, layers)
        for parameter in self.body.parameters():
            if parameter.ndim == 4:
                nn.init.normal_(parameter, std=0.02, generator=generator)
        for layer in self.body:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @staticmethod
    def _layers(channels: int, layers: int) -> nn.Sequential:
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for layer in range(1, layers + 1):
            before, width = width, channels * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            parts += [
                nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(_GROUPS, width),
                nn.LeakyReLU(0.2),
            ]
        parts.append(nn.Conv2d(width, 1, 4, padding=1))
        return nn.Sequential(*parts)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.body(pixels)

    def fooled(self, made: Tensor) -> Tensor:
        """What the tokenizer should lower: the less so, the truer `made` (N, 3, S, S) looks."""
        return -self(made).float().mean()

    def mistakes(self, made: Tensor, pixels: Tensor) -> Tensor:
        """The discriminator's own loss, 1 where it knows nothing; its gradient does not reach `made`."""
        given, true = self(torch.cat([made.detach(), pixels])).float().chunk(2)
        return 0.5 * (F.relu(1 - true).mean() + F.relu(1 + given).mean())


def balance(wanted: Tensor, other: Tensor) -> Tensor:
    """By how much to multiply a loss with the gradient `other` so that it pulls like one with `wanted`."""
    return (wanted.norm() / (other.norm() + 1e-4)).clamp(max=_LARGEST).detach()
