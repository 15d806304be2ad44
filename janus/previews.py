"""Pictures as far as they are drawn, made while drawing goes on, in a small share of its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

SHARE = 0.05  # of the time that drawing takes, at most, but for the first preview
_UNDRAWN = (127, 127, 127)


class Previews:
    """Shows the pictures of one batch now and then.

    `decode` makes pictures of codes (N, tokens); `show` is given them, in grey what is not drawn yet; `grid`
    is how many codes a row has.  The first comes with the first whole row; how long it took says when the
    next may come.  `clock` tells seconds.
    """

    def __init__(
        self,
        show: Callable[[list[Image.Image]], None],
        decode: Callable[[Tensor], list[Image.Image]],
        grid: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._show, self._decode, self._grid, self._clock = show, decode, grid, clock
        self._begun = clock()
        self._spent = self._last = 0.0  # seconds, on all previews and on the last one
        self._rows = 0  # drawn when the last was made

    def offer(self, codes: Sequence[Tensor]) -> None:
        """All codes so far, place by place, (N,) each; shown where that is worth it and costs little."""
        rows = len(codes) // self._grid
        if not self._rows < rows < self._grid:
            return
        start = self._clock()
        if self._spent + self._last > SHARE * (start - self._begun - self._spent):
            return
        self._show(partial(torch.stack(list(codes), dim=1), self._grid, self._decode))
        self._last = self._clock() - start
        self._spent += self._last
        self._rows = rows


def partial(codes: Tensor, grid: int, decode: Callable[[Tensor], list[Image.Image]]) -> list[Image.Image]:
    """Pictures of the whole rows in `codes` (N, tokens so far), at least one; grey below."""
    rows = codes.shape[1] // grid
    drawn = codes[:, : rows * grid]
    below = drawn[:, -grid:].repeat(1, grid - rows)  # something like what stands above it
    pictures = decode(torch.cat([drawn, below], dim=1))
    for picture in pictures:
        picture.paste(_UNDRAWN, (0, picture.height * rows // grid, picture.width, picture.height))
    return pictures


def undrawn(side: int) -> Image.Image:
    """A picture that was not begun."""
    return Image.new("RGB", (side, side), _UNDRAWN)
