"""Decoding steps on a GPU as CUDA graphs: one launch in place of hundreds.

A graph repeats what was once done, with the same memory and sizes.  So here a step writes its keys and
values at slots that a tensor tells, and looks at the whole buckets of slots that hold what it may see, behind
a mask; there is one graph for each number of rows, of tokens and of buckets.

B batch, T new tokens, S slots, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from janus.core.attention import Visibility
from janus.core.cache import Cache
from janus.core.steps import hooked, places, watched, weights

BUCKET = 128  # slots; a cache that is a multiple of it has no odd last one
_MOST = 8  # tokens of a row in a step; more are a prompt
Through = Callable[[Tensor, Tensor, Visibility, Any], Tensor]  # x, positions, what is seen, cache: to the end


def usable(device: torch.device) -> bool:
    return device.type == "cuda"


def record(run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """What repeats `run`, and where its result will be each time."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what libraries set up at their first call can't be recorded
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may use the GPU meanwhile
        out = run()
    return graph.replay, out


class Graphs:
    """The steps of one cache, by all `layers` and the norm."""

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module, cache: Cache) -> None:
        self._modules, self._watched = (layers, norm), watched(layers)
        self._held = weights(layers, norm)  # so that nobody else gets their memory
        self._at = places(layers, norm)
        self._memory, self._segments = cache.layers, cache.segments  # of all its rows
        for pair in self._memory:
            for memory in pair:
                memory.zero_()  # a mask hides no NaN
        self._made: dict[tuple[int, int, int], _Graph] = {}
        self._works = True

    def valid(self) -> bool:
        """Whether the modules are the same, and their weights where they were."""
        return self._at == places(*self._modules)

    def __call__(self, through: Through, x: Tensor, positions: Tensor, length: int) -> Tensor | None:
        """Embeddings (B, T, D) of slots `length` on to hidden states (B, T, D); positions (B or 1, T).

        `through` is what is recorded where nothing was yet; it is not kept, as its model may keep this.
        None where the step has to be taken in another way.
        """
        batch, tokens = x.shape[:2]
        if not self._works or tokens > _MOST or hooked(self._watched):
            return None
        seen = min(-(-(length + tokens) // BUCKET) * BUCKET, self._segments.shape[1])
        if (batch, tokens, seen) not in self._made:
            try:
                self._made[batch, tokens, seen] = _Graph(self, through, x, positions, length, seen)
            except RuntimeError as error:
                self._works = False
                warnings.warn(f"decoding goes on without CUDA graphs: {error}", stacklevel=2)
                return None
        return self._made[batch, tokens, seen](x, positions, length)


class _Graph:
    def __init__(
        self, owner: Graphs, through: Through, x: Tensor, positions: Tensor, length: int, seen: int
    ) -> None:
        batch, tokens, _ = x.shape
        self._x, self._positions = torch.empty_like(x), positions.new_empty(batch, tokens)
        self._slots = torch.empty(tokens, dtype=torch.long, device=x.device)
        self._along = torch.arange(tokens, device=x.device)
        memory = [tuple(one[:batch] for one in pair) for pair in owner._memory]
        cache, segments = _Bucket(memory, self._slots, seen), owner._segments[:batch]
        slots = torch.arange(seen, device=x.device)

        def run() -> Tensor:
            own = segments.index_select(1, self._slots)  # (B, T)
            mask = slots <= self._slots[:, None]  # (T, S)
            mask = mask & (own[:, :, None] == segments[:, None, :seen])
            return through(self._x, self._positions, Visibility(mask[:, None]), cache)

        self._set(x, positions, length)
        wanted = run()
        self._replay, self._out = record(run)
        self._replay()
        if not torch.allclose(self._out, wanted, rtol=1e-2, atol=1e-2 * float(wanted.abs().max())):
            raise RuntimeError("a recorded step and the same step by itself disagree")

    def __call__(self, x: Tensor, positions: Tensor, length: int) -> Tensor:
        self._set(x, positions, length)
        self._replay()
        return self._out.clone()

    def _set(self, x: Tensor, positions: Tensor, length: int) -> None:
        self._x.copy_(x)
        self._positions.copy_(positions.expand_as(self._positions))
        torch.add(self._along, length, out=self._slots)


class Shelf:
    """The cache of the last request, for the next one; copies of a model begin without."""

    cache: Cache | None = None

    def __reduce__(self) -> tuple[type[Shelf], tuple[()]]:
        return Shelf, ()


class _Bucket:
    """A cache as attention sees it in a step: its first `seen` slots; new tokens go to `slots`."""

    length = 1  # not the prompt

    def __init__(self, memory: list[tuple[Tensor, ...]], slots: Tensor, seen: int) -> None:
        self._memory, self._slots, self._seen = memory, slots, seen

    def write(self, layer: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        one, other = self._memory[layer]
        for memory, new in ((one, first), (other, second)):
            memory.index_copy_(memory.ndim - 2, self._slots, new.to(memory.dtype))
        return one[..., : self._seen, :], other[..., : self._seen, :]
