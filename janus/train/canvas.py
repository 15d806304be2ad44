"""Scenes drawn in batches where a vision encoder is trained, so that no processor has to keep up with it.

`Canvas` makes the "varied" and "tidy" scenes of `SceneMaker`, by the same rules and from the same drawings,
with PyTorch alone, a batch at a time.  What is shown is drawn by lot for all pictures at once; candidates
that show something held out, where a thing finds no place, or where one does not stand out, are dropped
whole, as the maker does it.  Things are then sampled from an atlas of the drawings, which the maker's own
functions painted, at twice the pictures' resolution.

Where it differs from the maker: drawings have 64 pixels on their longer side, so that large ones are a
little less sharp, and are scaled bicubically; the box of a turned drawing is worked out from its outline,
right to about half a pixel of the drawing; whether a thing stands out is judged by 24 of its pixels.

Shapes: N pictures, T the most things of one, P patches of one, S its side, D drawings, C candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from janus.data.backgrounds import TIDY_BACKGROUNDS
from janus.data.fitting import SEEN
from janus.data.layouts import BORDER, CELLS, COVERED, QUADRANTS, SIZES, TRIES
from janus.data.lots import Lots, constant
from janus.data.scenes import APART, COLOURS, NAMES, STANDS_OUT, WRITTEN_ON, Look, SceneMaker
from janus.data.subjects import COUNTED, HOW_MANY, SHARES, UNPAINTED, held_out
from janus.train.backdrops import PATTERNS, backgrounds, mixed

SIDE = 64  # pixels of a drawing in the atlas, along its longer side
MOST = len(HOW_MANY)  # things in a picture
FINER = 2  # times the pictures' resolution, at which things are sampled
TURN = 5  # degrees: all angles are multiples
NOTHING = -100  # the label of a patch that a loss leaves out
_SAMPLE = 24  # pixels that say whether a drawing stands out
_BACKGROUNDS = 8  # tried for each scene
_ROUNDS = 6  # of drawing a tidy scene's things anew where they are held out
_SPREAD = 0.1  # pixels by which turning a drawing widens it on each side


@dataclass(frozen=True)
class Plan:
    """What pictures show, before it is drawn; things beyond a picture's number have the kind -1."""

    kinds: Tensor  # (N, T) of `NAMES`
    colours: Tensor  # (N, T) 0 for the drawing's own, 1 + the number in `COLOURS` where it is painted
    sprites: Tensor  # (N, T) row of the atlas
    turns: Tensor  # (N, T) of `TURN` degrees, counter-clockwise
    mirrored: Tensor  # (N, T)
    boxes: Tensor  # (N, T, 4) left, top, right, bottom in pixels
    patterns: Tensor  # (N,) of the backgrounds
    behind: Tensor  # (N, 2, 3) their two colours

    def __len__(self) -> int:
        return len(self.kinds)

    def at(self, rows: Tensor | slice) -> Plan:
        """These of the pictures."""
        return Plan(*(getattr(self, field.name)[rows] for field in fields(self)))


class Canvas:
    """Draws the scenes of `maker` on `device`, with labels for square patches of `patch` pixels.

    The drawings are painted once, which takes seconds; those of the held-out style are not among them.
    Raises ValueError where a look has drawings of fewer than two classes.
    """

    def __init__(self, maker: SceneMaker, device: torch.device, patch: int) -> None:
        self.size, self.patch, self.device = maker.size, patch, device
        tables = {"varied": maker.to_see, "tidy": maker.to_draw}
        for look, table in tables.items():
            if len(table) < 2:
                raise ValueError(f"{look} scenes need drawings of two classes at least, not {len(table)}")
        # the maker's numbers of the drawings in the atlas
        self.baked = sorted({i for table in tables.values() for some in table.values() for i in some})
        row = {sprite: i for i, sprite in enumerate(self.baked)}
        self._rows: dict[str, Tensor] = {}  # (80, most) rows of the atlas, by class
        self._number: dict[str, Tensor] = {}  # (80,) of a class's drawings
        for look, table in tables.items():
            drawings = [[row[i] for i in table.get(name, [])] for name in NAMES]
            most = max(map(len, drawings))
            self._rows[look] = self._tensor([some + [0] * (most - len(some)) for some in drawings])
            self._number[look] = self._tensor([len(some) for some in drawings])
        self._classes = len(maker.to_see)
        self._bake(maker)
        self._paintable = self._tensor([name not in UNPAINTED for name in NAMES])
        self._may_mirror = self._tensor([name not in WRITTEN_ON for name in NAMES])
        pairs = [[a != b and held_out([(a, None), (b, None)]) for b in NAMES] for a in NAMES]
        numbers = [[held_out([(name, None)] * n) for n in range(MOST + 1)] for name in NAMES]
        paints = [[held_out([(name, colour)]) for colour in (None, *COLOURS)] for name in NAMES]
        self._pairs_out, self._numbers_out = self._tensor(pairs), self._tensor(numbers)
        self._paints_out = self._tensor(paints)
        self._tidy_behind = self._tensor([b.colours[0] for b in TIDY_BACKGROUNDS]).float()

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, device=self.device)

    def _bake(self, maker: SceneMaker) -> None:
        """Paint the atlas, (D, 11, 4, SIDE, SIDE) uint8, and measure the drawings."""
        count, paints = len(self.baked), (None, *COLOURS)
        atlas = np.zeros((count, len(paints), SIDE, SIDE, 4), np.uint8)
        sample = np.zeros((count, len(paints), _SAMPLE, 3), np.float32)
        bounds = np.zeros((count, 360 // TURN, 4), np.float32)
        solid = np.zeros(count, np.float32)
        fit = np.zeros((count, 2, 2), np.float32)  # scale and offset, from a drawing's place to the atlas
        for row, sprite in enumerate(tqdm(self.baked, "drawings", leave=False, disable=None)):
            alpha = maker.sprites[sprite].pixels[..., 3]
            longer = max(alpha.shape)
            for column, colour in enumerate(paints):
                pixels = _fitted(maker.drawings.painted(sprite, colour, half=longer >= 2 * SIDE))
                height, width = pixels.shape[:2]
                top, left = (SIDE - height) // 2, (SIDE - width) // 2
                atlas[row, column, top : top + height, left : left + width] = pixels
                shown = pixels[pixels[..., 3] > 127][:, :3]
                if not len(shown):
                    raise ValueError(f"nothing is drawn on {maker.sprites[sprite].key}; leave it out")
                sample[row, column] = shown[(np.arange(_SAMPLE) + 0.5).astype(int) * len(shown) // _SAMPLE]
            share = (alpha.shape[1] / longer, alpha.shape[0] / longer)
            fit[row, 0] = 2 / SIDE * width / share[0], 2 / SIDE * height / share[1]
            fit[row, 1] = (2 * left + width) / SIDE - 1, (2 * top + height) / SIDE - 1
            bounds[row] = _bounds(alpha)
            solid[row] = (alpha > 127).sum() / longer**2
        self._atlas = torch.tensor(atlas, device=self.device).permute(0, 1, 4, 2, 3).contiguous()
        self._sample, self._bounds = self._tensor(sample), self._tensor(bounds)
        self._solid, self._fit = self._tensor(solid), self._tensor(fit)

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator, look: Look) -> tuple[Tensor, Tensor, Tensor]:
        """New pictures (N, 3, S, S), from 0 to 255, with the kinds and colours of their patches (N, P).

        The labels are those of `janus.train.patches.labels`.  Raises ValueError as `plan` does.
        """
        return self.paint(self.plan(count, generator, look), generator)

    @torch.no_grad()
    def plan(self, count: int, generator: torch.Generator, look: Look) -> Plan:
        """What new pictures show.

        Raises ValueError for a look that is neither varied nor tidy, and where almost no scene works out.
        """
        if look not in self._rows:
            raise ValueError(f"the look must be varied or tidy, not {look!r}")
        lots = Lots(generator)
        kept: list[Plan] = []
        for _ in range(100):
            if look == "varied":
                some, fine = self._varied(2 * count + 32, lots)
            else:
                some, fine = self._tidy(count + 8, lots)
            kept.append(some.at(fine.nonzero()[:, 0]))
            if sum(map(len, kept)) >= count:
                whole = (torch.cat([getattr(p, field.name) for p in kept]) for field in fields(Plan))
                return Plan(*whole).at(slice(count))
        raise ValueError(f"in few of {100 * count:,} {look} scenes was room for all things and all stood out")

    def _held_out(self, kinds: Tensor, colours: Tensor) -> Tensor:
        """Which of the scenes, (C, T) both, show a combination that is held out: (C,)."""
        shown = kinds >= 0
        kinds = kinds.clamp(min=0)
        both = shown[:, :, None] & shown[:, None]
        pairs = (self._pairs_out[kinds[:, :, None], kinds[:, None]] & both).flatten(1).any(1)
        alike = ((kinds[:, :, None] == kinds[:, None]) & both).sum(2)
        return pairs | ((self._paints_out[kinds, colours] | self._numbers_out[kinds, alike]) & shown).any(1)

    def _varied(self, count: int, lots: Lots) -> tuple[Plan, Tensor]:
        """Candidates, and which may be shown; the rules are those of `varied_subjects` and `SceneMaker`."""
        shape = (count, MOST)
        allowed, classes = self._number["varied"] > 0, self._classes
        slot = torch.arange(MOST, device=self.device)
        number = 1 + lots.weighted(HOW_MANY, count)
        way = lots.unit(count)
        same, differ = (number == 1) | (way < 0.3), (way < 0.6) | (number == 2)
        mixed = 2 + lots.below((number - 2).clamp(min=1), count)
        distinct = torch.where(same, 1, torch.where(differ, number, mixed)).clamp(max=classes)
        number = torch.where(differ & ~same, number.clamp(max=classes), number)
        of = torch.where(slot < distinct[:, None], slot, lots.below(distinct[:, None], *shape))
        kinds = lots.different(allowed.expand(count, -1), MOST).gather(1, of)

        def some_colour() -> Tensor:
            painted = lots.unit(*shape) < 0.5
            return torch.where(painted, 1 + lots.below(len(COLOURS), *shape), 0)

        alike = (lots.unit(*shape) < 0.75).gather(1, of)
        colours = torch.where(alike, some_colour().gather(1, of), some_colour()) * self._paintable[kinds]
        drawings = self._number["varied"][kinds]
        first = lots.unit(*shape).gather(1, of)  # of all drawings of a class, the same share for each thing
        drawn = torch.where(lots.unit(*shape) < 0.5, first, lots.unit(*shape))
        sprites = self._rows["varied"][kinds, (drawn * drawings).long()]
        turns = _turns(lots, *shape)
        mirrored = (lots.unit(*shape) < 0.5) & self._may_mirror[kinds]
        shown = slot < number[:, None]
        kinds, colours = torch.where(shown, kinds, -1), torch.where(shown, colours, 0)
        boxes, placed = self._scattered(sprites, turns, mirrored, number, lots)
        patterns, behind = backgrounds(lots, self._tidy_behind, count, _BACKGROUNDS)
        sample = self._sample[sprites, colours][:, None, :, :, None]  # (C, 1, T, _SAMPLE, 1, 3)
        apart = (sample - behind[:, :, None, None]).abs().amax(-1)
        clear = (apart.amin(-1) >= APART).float().mean(-1) >= STANDS_OUT  # (C, tries, T)
        clear = (clear | (kinds < 0)[:, None]).all(2)
        row, chosen = torch.arange(count, device=self.device), clear.int().argmax(1)
        plan = Plan(
            kinds, colours, sprites, turns, mirrored, boxes, patterns[row, chosen], behind[row, chosen]
        )
        return plan, placed & clear.any(1) & ~self._held_out(kinds, colours)

    def _tidy(self, count: int, lots: Lots) -> tuple[Plan, Tensor]:
        """Candidates, and which may be shown; the rules are those of `tidy_subjects` and `tidy_places`.

        As there, a task keeps its share: what is held out is drawn anew for the same task, `_ROUNDS` times.
        """
        names, slot = tuple(SHARES), torch.arange(MOST, device=self.device)
        kind = lots.weighted(tuple(SHARES.values()), count)
        counting = kind == names.index("counting")
        painted = (kind == names.index("colors")) | (kind == names.index("color_attr"))
        two = (kind == names.index("two_object")) | (kind == names.index("position"))
        number = torch.where(two | (kind == names.index("color_attr")), 2, 1)
        number = torch.where(
            counting, constant(COUNTED, self.device)[lots.below(len(COUNTED), count)], number
        )
        shown = slot < number[:, None]
        allowed = (self._number["tidy"] > 0) & (self._paintable | ~painted[:, None])
        any_colour = torch.ones(count, len(COLOURS), dtype=torch.bool, device=self.device)
        for turn in range(_ROUNDS):
            new_kinds = lots.different(allowed, MOST)
            new_kinds = torch.where(counting[:, None], new_kinds[:, :1], new_kinds)
            new_kinds = torch.where(shown, new_kinds, -1)
            new_colours = torch.where(painted[:, None] & shown, 1 + lots.different(any_colour, MOST), 0)
            if not turn:
                kinds, colours = new_kinds, new_colours
                continue
            anew = self._held_out(kinds, colours)[:, None]
            kinds, colours = torch.where(anew, new_kinds, kinds), torch.where(anew, new_colours, colours)
        sprites = self._rows["tidy"][kinds.clamp(min=0), 0]
        turns = torch.zeros_like(sprites)
        boxes = self._in_place(_tidy_corners(number, lots), sprites, turns)
        behind = self._tidy_behind[lots.below(len(TIDY_BACKGROUNDS), count)][:, None].expand(-1, 2, -1)
        patterns = torch.full((count,), PATTERNS.index("plain"), device=self.device)
        plan = Plan(kinds, colours, sprites, turns, turns > 0, boxes * shown[..., None], patterns, behind)
        there = allowed.gather(1, kinds.clamp(min=0)) | ~shown  # few drawings may not do for some tasks
        return plan, there.all(1) & ~self._held_out(kinds, colours)

    def bounds(self, sprites: Tensor, turns: Tensor, mirrored: Tensor) -> Tensor:
        """The tight boxes of mirrored and turned drawings around their middles, longer sides 1: (..., 4)."""
        turned = self._bounds[sprites, torch.where(mirrored, -turns % (360 // TURN), turns)]
        left, top, right, bottom = turned.unbind(-1)
        return torch.stack(
            [torch.where(mirrored, -right, left), top, torch.where(mirrored, -left, right), bottom], -1
        )

    def _in_place(self, corners: Tensor, sprites: Tensor, turns: Tensor) -> Tensor:
        """Boxes of upright drawings in the middle of their blocks, (..., T, 2) columns and rows."""
        cell = self.size // CELLS
        bounds = self.bounds(sprites, turns, turns > 0)
        sides = bounds[..., 2:] - bounds[..., :2]
        scale = (4 * cell - 2 * BORDER) / sides.amax(-1, keepdim=True)
        sides = (sides * scale).round().clamp(min=1).long()
        start = corners * cell + (4 * cell - sides) // 2
        return torch.cat([start, start + sides], -1)

    def _scattered(
        self, sprites: Tensor, turns: Tensor, mirrored: Tensor, number: Tensor, lots: Lots
    ) -> tuple[Tensor, Tensor]:
        """Boxes (C, T, 4) by the rules of `scatter`, and whether all things of a scene have found places."""
        bounds = self.bounds(sprites, turns, mirrored)
        exact = bounds[..., 2:] - bounds[..., :2]
        low, high = constant(SIZES, self.device)[number - 1, None].unbind(-1)
        edge = 2 * (self.size * (low + (high - low) * lots.unit(*sprites.shape)) / 2).round()
        sides = (exact * (edge[..., None] / exact.amax(-1, keepdim=True))).round().clamp(min=1)
        solid = self._solid[sprites] / exact.prod(-1)
        sides = sides * (torch.arange(MOST, device=self.device) < number[:, None])[..., None]
        boxes = torch.zeros(*sprites.shape, 4, device=self.device)
        spare = COVERED * solid * sides.prod(-1)
        placed = torch.ones_like(number, dtype=torch.bool)
        row = torch.arange(len(number), device=self.device)
        for i in range(MOST):
            free = (self.size - sides[:, i] + 1).long()[:, None]
            corners = lots.below(free, len(number), TRIES, 2).float()
            tried = torch.cat([corners, corners + sides[:, i, None]], -1)
            if i:
                before = boxes[:, None, :i]
                inner = torch.minimum(tried[:, :, None, 2:], before[..., 2:])
                inner = inner - torch.maximum(tried[:, :, None, :2], before[..., :2])
                covered = inner.clamp(min=0).prod(-1)  # (C, tries, things so far)
                fits = (covered <= spare[:, None, :i]).all(-1)
                first = fits.int().argmax(1)
                placed = placed & fits.any(1)
                spare[:, :i] -= covered[row, first]
                boxes[:, i] = tried[row, first]
            else:
                boxes[:, i] = tried[:, 0]
        return boxes.long(), placed

    @torch.no_grad()
    def paint(self, plan: Plan, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (N, 3, S, S), from 0 to 255, and their patches' kinds and colours, (N, P)."""
        number = (plan.kinds >= 0).sum(1)
        order = number.argsort(descending=True, stable=True)  # so that those with a next thing come first
        plan, number = plan.at(order), number[order]
        pixels = self._behind(plan, Lots(generator))
        owners = torch.full_like(plan.kinds[:, :1, None], -1).repeat(1, self.size, self.size)
        slots = torch.arange(MOST, device=self.device)
        for slot, count in enumerate((number[:, None] > slots).sum(0).tolist()):
            if count:
                colour, alpha = self._thing(plan.at(slice(count)), slot)
                pixels[:count] = pixels[:count] * (1 - alpha) + colour
                owners[:count] = torch.where(alpha[:, 0] > 127.5 / 255, slot, owners[:count])
        cells = (owners[:, None] == slots[:, None, None]).float()
        shares, most = F.avg_pool2d(cells, self.patch).flatten(2).max(1)  # (N, P), the first of equals
        shown = shares > 1 / 3 - 0.5 / self.patch**2
        kinds = torch.where(shown, 1 + plan.kinds.gather(1, most), 0)
        colours = torch.where(shown, plan.colours.gather(1, most), NOTHING)
        back = order.argsort()
        return pixels.round().clamp(0, 255)[back], kinds[back], colours[back]

    def _thing(self, plan: Plan, slot: int) -> tuple[Tensor, Tensor]:
        """One thing of each picture: its colour times its alpha, (N, 3, S, S), and alpha, (N, 1, S, S)."""
        sprites, turns, mirrored = plan.sprites[:, slot], plan.turns[:, slot], plan.mirrored[:, slot]
        left, top, right, bottom = self.bounds(sprites, turns, mirrored).unbind(-1)
        box = plan.boxes[:, slot].float().unbind(-1)
        half = self.size / 2
        across, down = (right - left) / (box[2] - box[0]), (bottom - top) / (box[3] - box[1])
        start_x, start_y = left + across * (half - box[0]), top + down * (half - box[1])
        angle = turns * math.radians(TURN)
        cos, sin, flip = angle.cos(), angle.sin(), 1 - 2 * mirrored.float()
        across, down = half * across, half * down  # from here on for a picture from -1 to 1
        x = torch.stack([across * cos, -down * sin, start_x * cos - start_y * sin], -1) * flip[:, None]
        y = torch.stack([across * sin, down * cos, start_x * sin + start_y * cos], -1)
        scale, offset = self._fit[sprites].unbind(1)
        to_atlas = torch.stack([x, y], 1) * scale[..., None]
        to_atlas[..., 2] += offset
        fine = FINER * self.size
        grid = F.affine_grid(to_atlas, [len(sprites), 1, fine, fine], align_corners=False)
        drawing = self._atlas[sprites, plan.colours[:, slot]].float()
        drawing[:, :3] *= drawing[:, 3:] / 255
        sampled = F.avg_pool2d(F.grid_sample(drawing, grid, "bicubic", align_corners=False), FINER)
        sampled = sampled.clamp(0, 255)  # bicubic goes beyond
        return sampled[:, :3], sampled[:, 3:] / 255

    def _behind(self, plan: Plan, lots: Lots) -> Tensor:
        """The backgrounds, (N, 3, S, S), as `paint_background` makes them."""
        share = mixed(plan.patterns, self.size, lots)
        first, second = plan.behind[..., None, None].unbind(1)
        return (first + (second - first) * ((255 * share).floor() / 255)[:, None]).floor()


def _fitted(pixels: np.ndarray) -> np.ndarray:
    """A drawing with its longer side at SIDE pixels."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    if scale == 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _bounds(alpha: np.ndarray) -> np.ndarray:
    """The tight boxes of a drawing (h, w) around its middle, at every angle: (360 / TURN, 4), longer side 1.

    Upright it is the whole drawing; turned, what is drawn on and the rim that turning adds to it.
    """
    height, width = alpha.shape
    drawn = alpha >= SEEN
    rows = np.flatnonzero(drawn.any(1))
    ends = np.concatenate([drawn[rows].argmax(1), width - 1 - drawn[rows, ::-1].argmax(1)])
    x, y = ends + 0.5 - width / 2, np.tile(rows, 2) + 0.5 - height / 2
    angle = np.radians(TURN * np.arange(360 // TURN))[:, None]
    across, down = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    boxes = np.stack([across.min(1), down.min(1), across.max(1), down.max(1)], 1)
    boxes += np.array([-1, -1, 1, 1]) * (0.5 + _SPREAD)
    boxes[0] = -width / 2, -height / 2, width / 2, height / 2
    return boxes / max(height, width)


def _turns(lots: Lots, *shape: int) -> Tensor:
    """Angles as `SceneMaker` draws them, in steps of TURN degrees, from 0 on."""
    way = lots.unit(*shape)
    little = lots.below(8, *shape)
    little = torch.where(little < 4, little - 4, little - 3)  # up to 20 degrees, but not none
    any_way = 15 // TURN * (2 + lots.below(21, *shape))
    return torch.where(way < 0.5, 0, torch.where(way < 0.85, little, any_way)) % (360 // TURN)


def _tidy_corners(number: Tensor, lots: Lots) -> Tensor:
    """Columns and rows of the blocks of 1 to 4 tidy things, (C, T, 2), as `tidy_places` draws them."""
    count, device = len(number), number.device
    slot = torch.arange(MOST, device=device).expand(count, -1)
    corners = constant(QUADRANTS, device)[slot.clamp(max=len(QUADRANTS) - 1)]
    along = 4 * ((slot + lots.below(2, count)[:, None]) % 2)
    beside = torch.stack([along, torch.full_like(along, 2)], -1)
    beside = torch.where((lots.unit(count) < 0.5)[:, None, None], beside, beside.flip(-1))
    few = number[:, None, None]
    return torch.where(few == 1, 2, torch.where(few == 2, beside, corners))
