"""Prompts of unequal length as one batch of embeddings.

Shapes: R rows, T tokens of the longest prompt, D core width, N pictures of one prompt, S their side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from janus.model import JanusModel


@dataclass(frozen=True)
class Prompt:
    """One request's tokens.  Places of `image_id` take the vectors of `pixels`, in order."""

    ids: Sequence[int]
    pixels: Tensor | None = None  # (N, 3, S, S)
    image_id: int = -1


@dataclass
class Rows:
    """Prompts as one left-padded batch."""

    x: Tensor  # (R, T, D) embeddings
    positions: Tensor  # (R, T) long, 0 at each row's first own token
    segments: Tensor | None  # (R, T) long, 0 for padding and 1 for the row's own tokens; None: no padding

    def extend(self, x: Tensor) -> Rows:
        """With more tokens of the rows' own after the prompt: x (R, n, D)."""
        more = torch.arange(1, x.shape[1] + 1, device=x.device)
        segments = self.segments
        if segments is not None:
            segments = torch.cat([segments, segments.new_ones(x.shape[:2])], dim=1)
        return Rows(
            torch.cat([self.x, x], dim=1),
            torch.cat([self.positions, self.positions[:, -1:] + more], dim=1),
            segments,
        )


def check_context(model: JanusModel, prompts: Sequence[Prompt], new_tokens: int) -> None:
    """Raises ValueError where a prompt and so many new tokens exceed the context."""
    longest, limit = max(len(prompt.ids) for prompt in prompts), model.config.core.max_positions
    if longest + new_tokens > limit:
        raise ValueError(
            f"a prompt of {longest} tokens and {new_tokens} new ones exceed the context of {limit}; "
            "shorten the prompt, give fewer pictures or ask for fewer tokens"
        )


def left_padded(model: JanusModel, prompts: Sequence[Prompt]) -> Rows:
    longest = max(len(prompt.ids) for prompt in prompts)
    device = model.device
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    segments = torch.zeros_like(ids)
    slots = torch.zeros_like(ids, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        own = torch.tensor(prompt.ids)
        ids[row, longest - len(own) :] = own
        segments[row, longest - len(own) :] = 1
        if prompt.pixels is not None:
            slots[row, longest - len(own) :] = own == prompt.image_id
    x = model.embed_text(ids.to(device))
    if slots.any():
        # one prompt's pictures at a time, so that memory does not grow with the batch
        vectors = [model.embed_images(p.pixels).flatten(0, 1) for p in prompts if p.pixels is not None]
        x = x.masked_scatter(slots.to(device).unsqueeze(-1), torch.cat(vectors))
    positions = (segments.cumsum(1) - 1).clamp(min=0)
    padded = any(len(prompt.ids) < longest for prompt in prompts)
    return Rows(x, positions.to(device), segments.to(device) if padded else None)
