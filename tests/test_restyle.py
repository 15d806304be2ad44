"""Pictures in styles of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from janus.data.restyle import restyled, warped


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_style_keeps_mean_contrast_and_the_generators_word() -> None:
    pixels = 96 + 64 * torch.rand(6, 3, 32, 32, generator=seeded(0))
    changed = restyled(pixels, seeded(1))
    assert torch.equal(changed, restyled(pixels, seeded(1)))
    assert ((changed - pixels).abs().mean((1, 2, 3)) > 0.5).sum() >= 4
    torch.testing.assert_close(changed.mean((1, 2, 3)), pixels.mean((1, 2, 3)), atol=1, rtol=0)
    assert (changed.std((1, 2, 3)) < 1.1 * pixels.std((1, 2, 3))).all()


def middles(pixels: Tensor) -> Tensor:
    """Where the light of pictures (N, 1, S, S) is, columns and rows: (N, 2)."""
    places = torch.arange(pixels.shape[-1]) + 0.5
    light = pixels[:, 0] / pixels.sum((1, 2, 3))[:, None, None]
    return torch.stack([(light * places).sum((1, 2)), (light * places[:, None]).sum((1, 2))], 1)


def test_bending_changes_outlines_but_no_colours_and_hardly_places() -> None:
    pixels = torch.zeros(50, 1, 96, 96)
    pixels[:, :, 20:44, 52:76] = 255
    bent = warped(pixels, seeded(1))
    assert torch.equal(bent, warped(pixels, seeded(1)))
    assert bent.min() >= 0
    assert bent.max() < 255.01
    assert ((bent - pixels).abs().mean((1, 2, 3)) > 1).sum() > 40
    assert not torch.equal(bent[0] > 127, bent[1] > 127)
    assert (middles(bent) - torch.tensor([64.0, 32.0])).abs().max() < 12
    plain = torch.full((2, 3, 32, 32), 90.0)
    torch.testing.assert_close(warped(plain, seeded(0)), plain)
