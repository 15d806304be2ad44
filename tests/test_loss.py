"""Cross-entropy a few rows at a time, against PyTorch's of all rows at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from janus import loss
from janus.loss import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_value_and_gradient_are_those_of_pytorch(
    smoothing: float, weighted: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(7, 11, generator=generator)).requires_grad_()
    targets = torch.randint(11, (7,), generator=generator)
    weights = torch.rand(7, generator=generator) if weighted else torch.ones(7)
    monkeypatch.setattr(loss, "_AT_ONCE", 11 * rows)
    each = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    expected = each @ weights
    (gradient,) = torch.autograd.grad(3 * expected, logits)
    found = cross_entropy(logits, targets, weights if weighted else None, smoothing)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * found, logits)[0], gradient)
    with torch.no_grad():
        torch.testing.assert_close(cross_entropy(logits, targets, weights, smoothing), expected.detach())


@pytest.mark.parametrize("rows", [2, 100])
def test_smoothing_among_groups(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve classes in groups of three, each target's group shares what is smoothed away."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 12, generator=generator, requires_grad=True)
    targets = torch.tensor([0, 2, 3, 7, 11])
    wanted = 0.8 * F.one_hot(targets, 12).float()
    for row, first in enumerate([0, 0, 3, 6, 9]):
        wanted[row, first : first + 3] += 0.2 / 3
    weights = torch.rand(5, generator=generator)
    monkeypatch.setattr(loss, "_AT_ONCE", 12 * rows)
    expected = F.cross_entropy(logits, wanted, reduction="none") @ weights
    (gradient,) = torch.autograd.grad(expected, logits)
    found = cross_entropy(logits, targets, weights, 0.2, among=3)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], gradient)


def test_half_precision_is_summed_in_float32() -> None:
    logits = torch.randn(500, 64).bfloat16().requires_grad_()
    targets = torch.randint(64, (500,))
    found = cross_entropy(logits, targets)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, F.cross_entropy(logits.float(), targets, reduction="sum"))
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient.dtype is torch.bfloat16
    whole = torch.autograd.grad(F.cross_entropy(logits.float(), targets, reduction="sum"), logits)[0]
    torch.testing.assert_close(gradient, whole)


def test_nothing_asked_is_nothing_lost() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    found = cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    assert found == 0
    assert torch.autograd.grad(found, logits)[0].shape == (0, 5)
