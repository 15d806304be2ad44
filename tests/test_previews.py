"""Pictures shown while they are drawn: what they show, and what they may cost."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from janus import Janus
from janus.previews import SHARE, Previews

GRID = 8


def costs(seconds: float, per_code: float = 1.0) -> tuple[int, float, float]:
    """A picture of 64 codes: how many previews there were, and what they and all the codes took."""
    now = shown = spent = 0.0

    def decode(codes: Tensor) -> list[Image.Image]:
        nonlocal now, spent
        now, spent = now + seconds, spent + seconds
        return [Image.new("RGB", (16, 16)) for _ in codes]

    def show(_: list[Image.Image]) -> None:
        nonlocal shown
        shown += 1

    previews = Previews(show, decode, GRID, lambda: now)
    for drawn in range(1, GRID**2 + 1):
        now += per_code
        previews.offer([torch.zeros(2, dtype=torch.long)] * drawn)
    return int(shown), spent, now - spent


def test_previews_take_a_twentieth_of_the_time() -> None:
    assert costs(0.01)[0] == GRID - 1  # one for each row but the last, which is the picture itself
    for seconds in (0.2, 0.5, 1.5):
        shown, spent, drawing = costs(seconds)
        assert 1 < shown < GRID
        assert spent <= SHARE * drawing
    assert costs(30.0)[0] == 1


def test_previews_show_the_rows_that_are_drawn(janus: Janus) -> None:
    seen: list[list[Image.Image]] = []
    drawn = janus.generate_images(["a cup", "a red apple"], seed=3, on_preview=seen.append)
    assert seen
    assert len(seen[0]) == 2
    grid, height = janus.config.vq.grid, drawn[0][0].height
    known = [int(np.ptp(np.asarray(some[0]), axis=(1, 2)).nonzero()[0].max()) + 1 for some in seen]
    assert known == sorted(known)
    assert all(rows % (height // grid) == 0 and 0 < rows < height for rows in known)
    assert drawn[0][0].tobytes() == janus.generate_images("a cup", seed=3)[0].tobytes()
