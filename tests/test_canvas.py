"""Scenes drawn in batches show what the maker's show, and never what is held out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from janus.config import PRESETS
from janus.data.art import Sprite
from janus.data.backgrounds import SHARES as PATTERN_SHARES
from janus.data.backgrounds import Background, Pattern, paint_background
from janus.data.layouts import COVERED
from janus.data.lots import Lots
from janus.data.paint import things_table
from janus.data.scenes import COLOURS, NAMES, Look, Scene, SceneMaker, Thing, block
from janus.data.shipped import shipped_sprites
from janus.data.subjects import SHARES, held_out
from janus.train import patches
from janus.train.backdrops import PATTERNS
from janus.train.canvas import MOST, NOTHING, TURN, Canvas, Plan
from janus.train.kinds import train
from janus.train.patches import VisionRecipe, drawn, labels
from tests.test_scenes import stand_ins
from tests.test_vision_training import recipe

VISION = PRESETS["tiny-v3"].vision
CPU = torch.device("cpu")
PATCH = 12
LOOKS: tuple[Look, ...] = ("varied", "tidy")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def maker() -> SceneMaker:
    """With several drawings of a class, and with some in the held-out style."""
    return SceneMaker(stand_ins(), 96)


@pytest.fixture(scope="module")
def canvas(maker: SceneMaker) -> Canvas:
    return Canvas(maker, CPU, PATCH)


@pytest.fixture(scope="module")
def real_maker() -> SceneMaker:
    return SceneMaker(shipped_sprites(), 96)


@pytest.fixture(scope="module")
def real(real_maker: SceneMaker) -> Canvas:
    return Canvas(real_maker, CPU, PATCH)


def scenes(canvas: Canvas, plan: Plan) -> list[Scene]:
    """The plan as the maker has it, on plain backgrounds."""
    made = []
    for row in range(len(plan)):
        things = tuple(
            Thing(
                NAMES[int(plan.kinds[row, i])],
                (None, *COLOURS)[int(plan.colours[row, i])],
                canvas.baked[int(plan.sprites[row, i])],
                tuple(plan.boxes[row, i].tolist()),
                float(TURN * plan.turns[row, i]),
                bool(plan.mirrored[row, i]),
            )
            for i in range(int((plan.kinds[row] >= 0).sum()))
        )
        red, green, blue = (int(v) for v in plan.behind[row, 0])
        made.append(Scene(things, Background(((red, green, blue),)), None))
    return made


def plain(plan: Plan) -> Plan:
    return dataclasses.replace(plan, patterns=torch.zeros_like(plan.patterns))


@pytest.mark.parametrize("look", LOOKS)
def test_a_generator_gives_the_same_pictures(canvas: Canvas, look: Look) -> None:
    first, again, other = (canvas.draw(5, seeded(seed), look) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    pixels, kinds, colours = first
    assert pixels.shape == (5, 3, 96, 96)
    assert kinds.shape == colours.shape == (5, 64)
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    assert torch.equal(pixels, pixels.round())
    assert torch.equal(kinds > 0, colours != NOTHING)


@pytest.mark.parametrize("look", LOOKS)
def test_nothing_held_out_is_shown(canvas: Canvas, maker: SceneMaker, look: Look) -> None:
    plan = canvas.plan(3000, seeded(0), look)
    shown = scenes(canvas, plan)
    for scene in shown:
        assert scene.things
        assert not held_out([(thing.name, thing.colour) for thing in scene.things])
        for thing in scene.things:
            assert maker.sprites[thing.sprite].name == thing.name
            assert maker.sprites[thing.sprite].style != things_table()["held_out_style"]
            assert thing.colour is None or thing.name != "person"
            assert not (thing.mirrored and thing.name in ("stop sign", "clock"))
    assert {thing.name for scene in shown for thing in scene.things} == set(NAMES)


def test_what_is_held_out_is_told_as_the_table_tells_it(canvas: Canvas) -> None:
    lots = Lots(seeded(0))
    kinds = lots.below(80, 2000, 3).gather(1, lots.below(3, 2000, MOST))
    colours = lots.below(11, 2000, MOST)
    kinds[torch.arange(MOST) > lots.below(MOST, 2000, 1)] = -1
    told = canvas._held_out(kinds, colours).tolist()
    for row, out in enumerate(told):
        pairs = zip(kinds[row].tolist(), colours[row].tolist(), strict=True)
        assert out == held_out([(NAMES[k], (None, *COLOURS)[c]) for k, c in pairs if k >= 0])
    assert 0 < sum(told) < len(told)


def told(shown: list[Scene], size: int) -> np.ndarray:
    """What is compared of scenes: how many things, and of them which share is ..., (scenes, 7)."""
    rows = []
    for scene in shown:
        things = scene.things
        longer = [max(t.box[2] - t.box[0], t.box[3] - t.box[1]) / size for t in things]
        rows.append(
            [
                len(things),
                len({t.name for t in things}),
                np.mean([t.colour is not None for t in things]),
                np.mean([t.angle != 0 for t in things]),
                np.mean([t.mirrored for t in things]),
                np.mean(longer),
                np.mean([t.box[0] + t.box[2] for t in things]) / size,
            ]
        )
    return np.array(rows)


@pytest.mark.parametrize("look", LOOKS)
def test_scenes_are_distributed_as_the_makers(canvas: Canvas, maker: SceneMaker, look: Look) -> None:
    ours = told(scenes(canvas, canvas.plan(3000, seeded(3), look)), 96)
    theirs = told([maker.at(look, 3, i) for i in range(600)], 96)
    error = np.sqrt(ours.var(0) / len(ours) + theirs.var(0) / len(theirs))
    assert (np.abs(ours.mean(0) - theirs.mean(0)) <= 4 * error + 1e-9).all()
    for number in range(1, 7):  # of things
        share = (theirs[:, 0] == number).mean()
        assert (ours[:, 0] == number).mean() == pytest.approx(share, abs=0.08)


def test_things_to_draw_stand_on_the_grid(canvas: Canvas, maker: SceneMaker) -> None:
    for scene in scenes(canvas, canvas.plan(500, seeded(0), "tidy")):
        places = [block(thing, 96) for thing in scene.things]
        assert len(set(places)) == len(places) <= 4
        for thing, place in zip(scene.things, places, strict=True):
            assert thing == maker.placed(thing.name, maker.to_draw[thing.name][0], thing.colour, *place)
        if len(places) != 2:
            assert places == sorted(places, key=lambda place: (place[1], place[0]))


def test_things_are_hardly_covered(canvas: Canvas, maker: SceneMaker) -> None:
    for scene in scenes(canvas, canvas.plan(500, seeded(0), "varied")):
        for i, thing in enumerate(scene.things):
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= 96
            assert 0 <= top < bottom <= 96
            area = (right - left) * (bottom - top)
            solid = maker.drawings.shape(thing.sprite, thing.angle, thing.mirrored).solid
            hidden = 0
            for other in scene.things[i + 1 :]:
                width = min(right, other.box[2]) - max(left, other.box[0])
                height = min(bottom, other.box[3]) - max(top, other.box[1])
                hidden += max(0, width) * max(0, height)
            assert hidden <= 1.1 * COVERED * solid * area


@pytest.mark.parametrize(("look", "bound"), [("varied", 1.3), ("tidy", 0.6)])
def test_pictures_are_the_makers(real: Canvas, real_maker: SceneMaker, look: Look, bound: float) -> None:
    """Of 255 and over whole pictures, turned, mirrored and covered things among them."""
    plan = plain(real.plan(60, seeded(0), look))
    pixels, *read = real.paint(plan, seeded(0))
    errors, right = [], []
    for row, scene in enumerate(scenes(real, plan)):
        errors.append((pixels[row] - picture(real_maker, scene)).abs().mean())
        wanted = labels(real_maker, scene, PATCH)
        right.append([(a[row] == b).float().mean() for a, b in zip(read, wanted, strict=True)])
    assert torch.tensor(errors).mean() < bound
    assert torch.tensor(errors).max() < 8
    assert (torch.tensor(right).mean(0) > 0.98).all()


def picture(maker: SceneMaker, scene: Scene) -> Tensor:
    return torch.tensor(maker.render(scene)).permute(2, 0, 1).float()


def test_an_upright_thing_is_drawn_in_its_box(real: Canvas, real_maker: SceneMaker) -> None:
    plan = plain(real.plan(200, seeded(0), "tidy"))
    plan = plan.at(((plan.kinds >= 0).sum(1) == 1).nonzero()[:, 0])
    assert len(plan) > 20
    pixels, kinds, colours = real.paint(plan, seeded(0))
    for row, scene in enumerate(scenes(real, plan)):
        (thing,) = scene.things
        assert (pixels[row] - picture(real_maker, scene)).abs().mean() < 1
        left, top, right, bottom = thing.box
        shown = kinds[row].view(8, 8).nonzero() * PATCH
        assert (shown[:, 0] < bottom).all()
        assert (shown[:, 0] + PATCH > top).all()
        assert (shown[:, 1] < right).all()
        assert (shown[:, 1] + PATCH > left).all()
        assert set(kinds[row].tolist()) <= {0, 1 + NAMES.index(thing.name)}
        colour = 0 if thing.colour is None else 1 + COLOURS.index(thing.colour)
        assert set(colours[row].tolist()) <= {NOTHING, colour}
        outside = pixels[row].clone()
        outside[:, top - 1 : bottom + 1, left - 1 : right + 1] = plan.behind[row, 0, :, None, None]
        assert (outside == plan.behind[row, 0, :, None, None]).all()


def test_what_is_painted_red_is_red(real: Canvas) -> None:
    pixels, _, colours = real.draw(300, seeded(0), "tidy")
    cells = pixels.unflatten(3, (8, PATCH)).unflatten(2, (8, PATCH)).mean((3, 5)).flatten(2)
    for name, channel in (("red", 0), ("blue", 2)):
        found = cells.transpose(1, 2)[colours == 1 + COLOURS.index(name)]
        assert len(found) > 50
        assert (found.argmax(1) == channel).float().mean() > 0.8


@pytest.mark.parametrize("pattern", PATTERNS)
def test_backgrounds_are_the_makers(canvas: Canvas, pattern: Pattern) -> None:
    count = 300
    plan = canvas.plan(count, seeded(0), "varied")
    plan = dataclasses.replace(
        plan,
        kinds=torch.full_like(plan.kinds, -1),
        patterns=torch.full_like(plan.patterns, PATTERNS.index(pattern)),
        behind=torch.tensor([[0.0] * 3, [200.0] * 3]).expand(count, -1, -1),
    )
    pixels, kinds, _ = canvas.paint(plan, seeded(0))
    assert not kinds.any()
    ours = pixels[:, 0].numpy()
    pairs = ((0, 0, 0), (200, 200, 200))
    theirs = np.stack(
        [np.asarray(paint_background(Background(pairs, pattern, i), 96))[..., 0] for i in range(count)]
    ).astype(np.float32)
    for measure in (
        lambda p: p.mean((1, 2)),
        lambda p: p.std((1, 2)),
        lambda p: np.abs(np.diff(p, axis=1)).mean((1, 2)),
        lambda p: np.abs(np.diff(p, axis=2)).mean((1, 2)),
    ):
        a, b = measure(ours), measure(theirs)
        assert abs(a.mean() - b.mean()) <= 4 * np.sqrt((a.var() + b.var()) / count) + 1e-3


def test_the_backgrounds_of_varied_scenes_take_their_shares(canvas: Canvas) -> None:
    plan = canvas.plan(4000, seeded(0), "varied")
    shares = torch.bincount(plan.patterns, minlength=len(PATTERNS)) / len(plan)
    torch.testing.assert_close(shares, torch.tensor(list(PATTERN_SHARES.values())), atol=0.03, rtol=0)


def test_tasks_take_their_shares(canvas: Canvas) -> None:
    plan = canvas.plan(4000, seeded(0), "tidy")
    counts = (plan.kinds >= 0).sum(1)
    counted = (counts > 1) & (plan.kinds[:, 0] == plan.kinds[:, 1])
    assert counted.float().mean() == pytest.approx(SHARES["counting"], abs=0.03)
    single = (counts == 1) & (plan.colours[:, 0] == 0)
    assert single.float().mean() == pytest.approx(SHARES["single_object"], abs=0.03)
    both = (plan.colours[:, :2] > 0).all(1)
    assert both.float().mean() == pytest.approx(SHARES["color_attr"], abs=0.03)
    assert (plan.colours[both, 0] != plan.colours[both, 1]).all()


def some_recipe(canvas: Canvas, **changes: object) -> VisionRecipe:
    config = dataclasses.replace(VISION, image_size=canvas.size, patch_size=canvas.patch)
    values = {"out": "", "config": config, "looks": ("varied", "varied", "tidy"), "steps": 4, "batch": 8}
    return VisionRecipe(**(values | {"on_device": True} | changes))  # type: ignore[arg-type]


def test_looks_take_turns(canvas: Canvas) -> None:
    behind = {tuple(colour) for colour in canvas._tidy_behind.tolist()}
    for step in (0, 1):
        pixels, kinds, colours = drawn(canvas, some_recipe(canvas, looks=("tidy", "varied"), batch=30), step)
        assert kinds.shape == colours.shape == (30, 64)
        on_tidy = [tuple(picture[:, 0, 0].tolist()) in behind for picture in pixels]
        assert all(on_tidy[::2])
        assert sum(on_tidy[1::2]) < 8
    odd = some_recipe(canvas, looks=("tidy", "varied", "varied"), batch=1)
    assert [tuple(drawn(canvas, odd, step)[0][0, :, 0, 0].tolist()) in behind for step in (0, 3)] == [
        True,
        True,
    ]


def test_restyled_pictures_teach_no_colours(canvas: Canvas) -> None:
    plain, some, every = (drawn(canvas, some_recipe(canvas, restyled=r), 1) for r in (0.0, 0.5, 1.0))
    assert torch.equal(plain[1], some[1])
    same = (plain[0] == some[0]).flatten(1).all(1)
    assert 0 < same.sum() < 8
    assert torch.equal(plain[2][same], some[2][same])
    assert (some[2][~same] == NOTHING).all()
    assert (every[2] == NOTHING).all()


def few_stand_ins(*_: object) -> list[Sprite]:
    names = NAMES[:12]
    return [sprite for sprite in stand_ins() if sprite.name in names]


def test_a_run_that_draws_for_itself_goes_on_to_the_same_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "load_sprites", few_stand_ins)
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    steady = {"on_device": True, "restyled": 0.25, "schedule": "constant"}
    whole = train(recipe(folders[0], **steady))
    train(recipe(folders[1], steps=2, **steady))
    part = train(recipe(folders[1], **steady))
    coloured = train(recipe(folders[2], **steady | {"restyled": 1.0}))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (whole, part, coloured)]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restyled": 0.5}, "restyled is 0.5, which needs on_device"),
        ({"restyled": -0.5, "on_device": True}, "share from 0 to 1, not -0.5"),
        ({"restyled": 1.5, "on_device": True}, "share from 0 to 1, not 1.5"),
        ({"looks": ["held-out style"], "on_device": True}, "tidy and varied scenes, not held-out style"),
    ],
)
def test_wrong_recipes(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(recipe(tmp_path, **changes))


def test_wrong_looks_and_drawings(canvas: Canvas) -> None:
    with pytest.raises(ValueError, match="must be varied or tidy, not 'held-out style'"):
        canvas.draw(1, seeded(0), "held-out style")
    with pytest.raises(ValueError, match="varied scenes need drawings of two classes at least, not 1"):
        Canvas(SceneMaker(stand_ins()[:3]), CPU, PATCH)
