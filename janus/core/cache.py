"""The preallocated memory of decoding.

B batch, S slots, H key-value heads, C channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from janus.config import CoreConfig

if TYPE_CHECKING:
    from janus.core.graphs import Graphs


class Cache:
    """What attention remembers of the tokens it has seen, layer by layer.

    A `gqa` layer holds keys and values (B, H, S, C); an `mla` layer only the latent (B, S, kv_rank)
    and the shared rotary key (B, S, rope_dim).  Every slot knows its sample (`segments`, 0 is padding).
    All rows fill the same slots, so a shorter prompt is padded on its left.  Of the `rows` there is memory
    for, the first `batch` are in use: rows may come (`adopt`) and go (`drop`) between steps.  Nothing here
    is differentiated.
    """

    def __init__(
        self, config: CoreConfig, batch: int, capacity: int, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        if batch < 1 or capacity < 1:
            raise ValueError(f"a cache needs at least one row and one slot, not {batch=}, {capacity=}")
        self._config = config
        self.rows = batch
        self.capacity = capacity
        self.length = 0  # slots in use
        self.padded = False  # whether any written slot could belong to anything but sample 1
        self.graphs: Graphs | None = None  # of steps with this memory
        # Slots that were never written are never read.  Tensors made in inference mode could never be written
        # outside it.
        with torch.inference_mode(False):
            self._memory = [
                tuple(torch.empty(shape, dtype=dtype, device=device) for shape in shapes)
                for shapes in _shapes(config, batch, capacity)
            ]
            self._segments = torch.zeros(batch, capacity, dtype=torch.long, device=device)
        self.use(batch)

    @staticmethod
    def bytes_needed(config: CoreConfig, batch: int, capacity: int, dtype: torch.dtype) -> int:
        """What `Cache(config, batch, capacity, dtype=dtype, ...)` would occupy."""
        slots = sum(torch.Size(shape).numel() for pair in _shapes(config, batch, capacity) for shape in pair)
        return slots * dtype.itemsize + batch * capacity * torch.long.itemsize

    @property
    def bytes(self) -> int:
        return self._segments.nbytes + sum(tensor.nbytes for pair in self._memory for tensor in pair)

    def reset(self) -> None:
        """Forget everything; the memory stays."""
        self.length = 0
        self.padded = False

    def use(self, batch: int) -> None:
        """Let the first `batch` rows alone be in use."""
        assert 0 <= batch <= self.rows
        self.batch = batch
        self.layers = [tuple(tensor[:batch] for tensor in pair) for pair in self._memory]
        self.segments = self._segments[:batch]

    def adopt(self, source: Cache, rows: Sequence[int]) -> None:
        """Let these rows of another cache go on here, behind those in use.

        All end at the same slot; those that are shorter get padding on their left.
        """
        if source.length > self.length:
            self.shift(source.length - self.length)
        first, start = self.batch, self.length - source.length
        self.padded = self.padded or source.padded or start > 0
        self.use(first + len(rows))
        index = torch.tensor(rows, device=self.segments.device)
        for mine, theirs in zip(self.layers, source.layers, strict=True):
            for memory, old in zip(mine, theirs, strict=True):
                memory[first:] = 0  # a mask hides no NaN
                memory[first:, ..., start : self.length, :] = old[..., : source.length, :].index_select(
                    0, index
                )
        self.segments[first:, :start] = 0
        self.segments[first:, start : self.length] = source.segments[:, : source.length].index_select(
            0, index
        )

    def drop(self, rows: Sequence[int]) -> list[int]:
        """Forget these rows.  The last ones take their places: which row each one was that is left."""
        left = [*range(self.batch)]
        for row in sorted(rows, reverse=True):
            last = left.pop()
            if row < len(left):
                left[row] = last
        moved = [(new, old) for new, old in enumerate(left) if new != old]
        if moved:
            new, old = (torch.tensor(side, device=self.segments.device) for side in zip(*moved, strict=True))
            for pair in self.layers:
                for memory in pair:
                    seen = memory[..., : self.length, :]
                    seen[new] = seen[old]
            self.segments[new] = self.segments[old]
        self.use(len(left))
        return left

    def shift(self, slots: int) -> None:
        """Move all that is known by so many slots: to the right behind new padding, or to the left over
        padding that no row needs."""
        kept, end = self.length + min(slots, 0), self.length + slots
        assert 0 <= end <= self.capacity
        for tensor in (self.segments.unsqueeze(-1), *(tensor for pair in self.layers for tensor in pair)):
            tensor[..., end - kept : end, :] = tensor[..., self.length - kept : self.length, :].clone()
            tensor[..., : end - kept, :] = 0
        self.padded = self.padded or (slots > 0 and self.length > 0)
        self.length = end

    def begin(self, batch: int, tokens: int, segments: Tensor | None) -> None:
        """Record the samples of the next `tokens` slots; None means sample 1.

        Raises ValueError if the rows do not match or the slots do not suffice.
        """
        if batch != self.batch:
            raise ValueError(f"the cache was made for a batch of {self.batch}, not of {batch}")
        if self.length + tokens > self.capacity:
            raise ValueError(
                f"{self.length} + {tokens} tokens do not fit into a cache of capacity {self.capacity}"
            )
        self.segments[:, self.length : self.length + tokens] = 1 if segments is None else segments
        self.padded = self.padded or segments is not None

    def write(self, layer: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Put one layer's new tokens after `length`; return views of all its tokens, in the cache's dtype.

        Slots are the last dimension but one.  `length` moves in `advance`, once for all layers.
        """
        end = self.length + first.shape[-2]
        stored = self.layers[layer]
        for memory, new in zip(stored, (first, second), strict=True):
            memory[..., self.length : end, :] = new.detach()
        return stored[0][..., :end, :], stored[1][..., :end, :]

    def advance(self, tokens: int) -> None:
        self.length += tokens

    def back_to(self, length: int) -> None:
        """Forget what came after the first `length` tokens."""
        assert length <= self.length
        self.length = length


def _shapes(config: CoreConfig, batch: int, capacity: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for kind in config.attention:
        if kind == "mla":
            assert config.mla is not None
            shapes.append(((batch, capacity, config.mla.kv_rank), (batch, capacity, config.mla.rope_dim)))
        else:
            shape = (batch, config.num_kv_heads, capacity, config.gqa_head_dim)
            shapes.append((shape, shape))
    return shapes
