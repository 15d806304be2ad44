"""AdamW whose weights and moments may be bfloat16, for models that fill the memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

_PIECE = 1 << 24  # numbers updated at once, so that the float32 copies stay small


class LeanAdamW(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) computed in float32 on weights and moments of a lower precision.

    What is stored is rounded up or down at random, in proportion to the distance, from `generator`: rounded
    to the nearest, most of an update would be lost.  Two bytes a number instead of four for the weight and
    for either moment.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        generator: torch.Generator,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.generator = generator

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                stored = (parameter, parameter.grad.contiguous(), state["exp_avg"], state["exp_avg_sq"])
                for piece in zip(*(_local(t).view(-1).split(_PIECE) for t in stored), strict=True):
                    self._update(group, state["step"].item(), *piece)

    def _update(self, group: dict[str, Any], step: float, weight: Tensor, *others: Tensor) -> None:
        """One piece: weight, gradient, first and second moment."""
        gradient, first, second = others
        beta1, beta2 = group["betas"]
        g = gradient.float()
        m = first.float().lerp_(g, 1 - beta1)
        v = second.float().mul_(beta2).addcmul_(g, g, value=1 - beta2)
        w = weight.float().mul_(1 - group["lr"] * group["weight_decay"])
        scale = (v / (1 - beta2**step)).sqrt_().add_(group["eps"])
        w.addcdiv_(m, scale, value=-group["lr"] / (1 - beta1**step))
        for store, value in ((first, m), (second, v), (weight, w)):
            round_at_random(store, value, self.generator)


def round_at_random(store: Tensor, value: Tensor, generator: torch.Generator) -> None:
    """Write float32 `value` into bfloat16 `store`; the expected result is the value itself."""
    if store.dtype != torch.bfloat16:
        store.copy_(value)
        return
    # bfloat16 is float32 without its last 16 bits: add up to all of them, then cut them off.
    noise = torch.empty_like(value, dtype=torch.int32).random_(0, 1 << 16, generator=generator)
    bits = value.contiguous().view(torch.int32).add_(noise).bitwise_and_(-65536)
    store.copy_(bits.view(torch.float32))


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
