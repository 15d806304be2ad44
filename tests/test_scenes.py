"""Scenes of the eighty classes: they are what their descriptions say, and held-out ones stay out.

The drawings here are stand-ins, so that no test needs the network.
"""

from __future__ import annotations

import copy
import itertools
import pickle
from collections import Counter
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from janus.data.art import Sprite
from janus.data.backgrounds import TIDY_BACKGROUNDS, Background, Pattern, paint_background, some_background
from janus.data.fitting import Drawings
from janus.data.layouts import COVERED, RELATIONS, Shape, relations, scatter
from janus.data.paint import recolour, things_table
from janus.data.scenes import (
    CELLS,
    COLOURS,
    FACTS,
    LOOKS,
    NAMES,
    Box,
    Kind,
    Look,
    Relation,
    Scene,
    SceneMaker,
    Thing,
    block,
    relation,
)
from janus.data.subjects import SHARES, held_out, tidy_subjects

TABLE = things_table()
KINDS = tuple(SHARES)


def stand_ins() -> list[Sprite]:
    """Of each class the drawing to draw, two more to see, and one in the held-out style for the first sixty:
    blots of random outlines and colours."""
    rng = np.random.default_rng(0)
    sprites = []
    for number, (name, entry) in enumerate(TABLE["classes"].items()):
        style, _, drawing = entry["draw"].partition(":")
        styles = [(style, drawing), ("drawn", "a"), ("drawn", "b")]
        styles += [(TABLE["held_out_style"], "a")] if number < 60 else []
        for style, drawing in styles:
            coarse = np.dstack([rng.integers(40, 256, (4, 4, 3)), 255 * (rng.random((4, 4)) < 0.8)])
            coarse[0, 0, 3] = coarse[3, 3, 3] = 255  # so that it fills its corners
            pixels = coarse.astype(np.uint8).repeat(16, axis=0).repeat(int(rng.integers(8, 17)), axis=1)
            sprites.append(Sprite(name, style, drawing, pixels))
    return sprites


@pytest.fixture(scope="module")
def maker() -> SceneMaker:
    return SceneMaker(stand_ins(), 96)


def test_names_and_colours_are_those_of_the_table() -> None:
    assert list(NAMES) == list(TABLE["classes"])
    assert len(NAMES) == 80
    assert list(COLOURS) == list(TABLE["colours"])
    assert len(COLOURS) == 10
    assert sum(SHARES.values()) == pytest.approx(1)


def test_a_scene_depends_on_its_number_alone(maker: SceneMaker) -> None:
    again = SceneMaker(maker.sprites, 96)
    for look in LOOKS:
        scenes = [maker.at(look, 0, i) for i in range(20)]
        assert scenes[::-1] == [again.at(look, 0, i) for i in reversed(range(20))]
        assert len({str(s) for s in scenes}) == 20
        assert scenes[3] != maker.at(look, 1, 3)
    assert maker.at("varied", 0, 0) != maker.at("held-out style", 0, 0)


def test_held_out_art_is_never_in_training(maker: SceneMaker) -> None:
    style = TABLE["held_out_style"]

    def styles(look: Look) -> set[str]:
        scenes = [maker.at(look, 0, i) for i in range(200)]
        return {maker.sprites[t.sprite].style for s in scenes for t in s.things}

    assert styles("held-out style") == {style}
    assert styles("tidy held-out style") == {style}
    assert style not in styles("tidy") | styles("varied")
    for scene in (maker.at("tidy", 0, i) for i in range(50)):
        for thing in scene.things:
            sprite = maker.sprites[thing.sprite]
            assert f"{sprite.style}:{sprite.emoji}" == TABLE["classes"][thing.name]["draw"]


def _combinations(scene: Scene) -> list[list[tuple[str, str | None]]]:
    """The smallest sets of things that a scene might have to leave out, apart from each other."""
    counts = Counter(t.name for t in scene.things)
    pairs = [[(a, None), (b, None)] for a, b in itertools.permutations(counts, 2)]
    colours: list[Any] = [[(t.name, t.colour)] for t in scene.things if t.colour]
    return pairs + colours + [[(name, None)] * n for name, n in counts.items() if n > 1]


def test_held_out_combinations_are_never_in_training(maker: SceneMaker) -> None:
    for look, index in itertools.product(("tidy", "varied"), range(1000)):
        scene = maker.at(look, 0, index)  # type: ignore[arg-type]
        assert not any(held_out(c) for c in _combinations(scene)), scene


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "single_object"])
def test_scenes_for_scoring_show_held_out_combinations(maker: SceneMaker, kind: Kind) -> None:
    seen = set()
    for index in range(30):
        scene = maker.at("tidy", 0, index, kind, held_out=True)
        assert scene.kind == kind
        assert any(held_out(c) for c in _combinations(scene)), scene
        seen.add(str(scene.things))
    assert len(seen) > 8
    assert maker.at("tidy", 0, 0, held_out=True).kind != "single_object"


def test_about_one_combination_in_twenty_is_held_out() -> None:
    pairs = [held_out([(a, None), (b, None)]) for a, b in itertools.combinations(NAMES, 2)]
    colours = [held_out([(name, colour)]) for name in NAMES for colour in COLOURS]
    counts = [held_out([(name, None)] * n) for name in NAMES for n in (2, 3, 4)]
    for found in (pairs, colours, counts):
        assert 0.03 < np.mean(found) < 0.07
    assert not any(held_out([(name, None)]) for name in NAMES)
    # The set must never change, or models trained before would be scored on what they saw.
    assert [n for n in NAMES if held_out([("cat", None), (n, None)])] == CAT_PAIRS
    assert [(c, n) for n in NAMES[:20] for c in COLOURS if held_out([(n, c)])] == COLOUR_PAIRS


CAT_PAIRS = ["pizza", "potted plant", "toilet", "computer mouse"]
COLOUR_PAIRS = [
    ("yellow", "bird"),
    ("brown", "bird"),
    ("black", "bird"),
    ("red", "cat"),
    ("purple", "horse"),
    ("red", "cow"),
]


def test_kinds_show_what_their_tasks_ask_for(maker: SceneMaker) -> None:
    counts, found = Counter[int](), Counter[str]()
    for index in range(600):
        scene = maker.at("tidy", 0, index)
        names = [t.name for t in scene.things]
        colours = [t.colour for t in scene.things]
        assert scene.kind is not None
        found[scene.kind] += 1
        assert scene.background in TIDY_BACKGROUNDS
        assert all(t.angle == 0 and not t.mirrored for t in scene.things)
        if scene.kind == "counting":
            counts[len(names)] += 1
            assert len(set(names)) == 1
        else:
            assert len(names) == len(set(names)) == (1 if scene.kind in ("single_object", "colors") else 2)
        if scene.kind in ("colors", "color_attr"):
            assert None not in colours
            assert "person" not in names
            assert len(set(colours)) == len(colours)
        else:
            assert set(colours) == {None}
    assert set(counts) == {2, 3, 4}
    for kind, share in SHARES.items():
        assert abs(found[kind] / 600 - share) < 0.06


def test_things_to_draw_stand_on_the_grid(maker: SceneMaker) -> None:
    cell = 96 // CELLS
    seen = set()
    for index in range(300):
        taken = np.zeros((CELLS, CELLS), int)
        things = maker.at("tidy", 0, index).things
        for thing in things:
            x, y, edge = block(thing, 96)
            assert edge == 4
            left, top, right, bottom = thing.box
            assert left >= x * cell + 2
            assert top >= y * cell + 2
            assert right <= (x + edge) * cell - 2
            assert bottom <= (y + edge) * cell - 2
            assert max(right - left, bottom - top) == edge * cell - 4
            taken[y : y + edge, x : x + edge] += 1
            again = maker.placed(thing.name, thing.sprite, thing.colour, x, y, edge)
            assert again == thing
            seen.add((len(things) if len(things) < 3 else 3, x, y))
        assert taken.max() == 1
    assert len([s for s in seen if s[0] == 1]) == 1  # the middle
    assert len([s for s in seen if s[0] == 2]) == 4  # two along each axis
    assert len([s for s in seen if s[0] == 3]) == 4


def test_three_things_leave_the_last_quarter_free(maker: SceneMaker) -> None:
    three = [s for i in range(60) if len((s := maker.at("tidy", 3, i, "counting")).things) == 3]
    assert len(three) > 10
    for scene in three:
        assert [block(thing, maker.size) for thing in scene.things] == [(0, 0, 4), (4, 0, 4), (0, 4, 4)]


def test_blocks_of_things_off_the_grid_are_refused(maker: SceneMaker) -> None:
    thing = maker.at("tidy", 0, 0).things[0]
    left, top, right, bottom = thing.box
    with pytest.raises(ValueError, match="is the scene tidy"):
        block(replace(thing, box=(left + 5, top, right + 5, bottom)), 96)
    with pytest.raises(ValueError, match="neither turned nor mirrored"):
        block(replace(thing, angle=5.0), 96)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 40, 40), (50, 0, 90, 40), ("left of",)),
        ((50, 0, 90, 40), (0, 0, 40, 40), ("right of",)),
        ((0, 0, 40, 40), (5, 50, 45, 90), ("above",)),
        ((5, 50, 45, 90), (0, 0, 40, 40), ("below",)),
        ((0, 0, 10, 10), (0, 0, 10, 10), ()),
        ((0, 0, 100, 100), (40, 0, 140, 100), ()),  # (40 - 20) / 40 is not beyond 0.5
        ((0, 0, 100, 100), (41, 0, 141, 100), ("left of",)),
        ((0, 0, 100, 100), (15, 0, 115, 100), ()),  # within the margin
        ((0, 0, 10, 10), (80, 80, 90, 90), ("left of", "above")),  # a diagonal
        ((0, 0, 10, 10), (80, 30, 90, 40), ("left of",)),
    ],
)
def test_relations_follow_geneval(a: Box, b: Box, expected: tuple[Relation, ...]) -> None:
    assert relations(a, b) == expected
    assert relation(a, b) == (expected[0] if len(expected) == 1 else None)


def test_two_things_to_draw_stand_in_one_of_four_relations(maker: SceneMaker) -> None:
    seen: dict[str, Counter[Relation]] = {
        "two_object": Counter(),
        "position": Counter(),
        "color_attr": Counter(),
    }
    for kind, index in itertools.product(seen, range(80)):
        first, second = maker.at("tidy", 0, index, kind).things  # type: ignore[arg-type]
        between = relation(first.box, second.box)
        assert between is not None
        (x, y), (u, v) = [[sum(t.box[i::2]) / 2 for i in (0, 1)] for t in (first, second)]
        assert {"left of": u - x, "right of": x - u, "above": v - y, "below": y - v}[between] > 40
        seen[kind][between] += 1
    assert set(seen["position"]) == set(RELATIONS)
    assert min(seen["position"].values()) > 12
    for kind in ("two_object", "color_attr"):  # the first to be named is the first to be drawn
        assert set(seen[kind]) == {"left of", "above"}
        assert min(seen[kind].values()) > 30


def test_boxes_are_tight_around_what_is_drawn(maker: SceneMaker) -> None:
    plain = [Background((colour,)) for colour in ((255, 255, 255), (0, 0, 0))]
    turned = 0
    for look, index in itertools.product(LOOKS, range(40)):
        for thing in maker.at(look, 0, index).things:
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= 96
            assert 0 <= top < bottom <= 96
            turned += thing.angle != 0
            seen = [maker.render(Scene((thing,), b, None)) != b.colours[0] for b in plain]
            rows, columns = np.nonzero(np.any(seen, axis=(0, -1)))
            assert left <= columns.min() <= left + 1
            assert top <= rows.min() <= top + 1
            assert right - 2 <= columns.max() < right
            assert bottom - 2 <= rows.max() < bottom
    assert turned > 40


def test_little_of_a_thing_is_covered(maker: SceneMaker) -> None:
    covered = 0
    for index in range(150):
        scene = maker.at("varied", 0, index)
        owners = maker.owners(scene)
        for number, thing in enumerate(scene.things):
            alone = (maker.owners(replace(scene, things=(thing,))) == 0).sum()
            shown = (owners == number).sum()
            assert shown >= (1 - COVERED) * alone - 4  # rounding of a few pixels
            covered += shown < alone
    assert covered > 5


def test_scatter_bounds_what_all_later_things_cover() -> None:
    rng = np.random.default_rng(0)
    shapes = [Shape(100, 60, 0.7), Shape(50, 100, 0.9)] * 3
    several = 0
    for boxes in (scatter(shapes, 96, rng) for _ in range(1000)):
        for i, (left, top, right, bottom) in enumerate(boxes or ()):
            shared = [
                max(0, min(right, r) - max(left, x)) * max(0, min(bottom, b) - max(top, y))
                for x, y, r, b in (boxes or ())[i + 1 :]
            ]
            area = (right - left) * (bottom - top)
            assert sum(shared) <= COVERED * shapes[i].solid * area
            several += sum(s > 0 for s in shared) > 1
    assert several > 20


def test_scatter_reports_what_does_not_fit() -> None:
    shapes = [Shape(100, 100, 1.0)] * 2
    rng = np.random.default_rng(0)
    assert any(scatter(shapes * 3, 96, rng) is None for _ in range(200))
    found = [scatter(shapes[:1], 96, rng) for _ in range(200)]
    edges = [box[0][2] - box[0][0] for box in found if box is not None]
    assert len(edges) == 200
    assert 0.4 * 96 < min(edges) < 0.55 * 96
    assert 0.85 * 96 < max(edges) <= 0.96 * 96


def test_varied_scenes_are_varied(maker: SceneMaker) -> None:
    scenes = [maker.at("varied", 0, i) for i in range(400)]
    things = [t for s in scenes for t in s.things]
    assert {len(s.things) for s in scenes} == {1, 2, 3, 4, 5, 6}
    assert {t.name for t in things} == set(NAMES)
    assert {t.colour for t in things} == {None, *COLOURS}
    assert {s.background.pattern for s in scenes} == set(get_args(Pattern))
    assert all(s.kind is None for s in scenes)
    assert 0.4 < np.mean([t.mirrored for t in things]) < 0.6
    assert not any(t.mirrored for t in things if t.name in ("stop sign", "clock"))
    assert 0.3 < np.mean([t.angle != 0 for t in things]) < 0.7
    assert any(60 < t.angle < 300 for t in things)
    most = [max(Counter(t.name for t in s.things).values()) for s in scenes if len(s.things) > 2]
    kinds = [len({t.name for t in s.things}) for s in scenes if len(s.things) > 2]
    assert {1, 2, 3} <= set(kinds)
    assert {1, 2, 3, 4} <= set(most)
    assert all(t.colour is None for t in things if t.name == "person")


def test_things_stand_out_from_what_is_behind_them(maker: SceneMaker) -> None:
    for index in range(60):
        scene = maker.at("varied", 0, index)
        picture, empty = maker.render(scene), maker.render(replace(scene, things=()))
        apart = np.abs(picture.astype(int) - empty).max(-1)
        owners = maker.owners(scene)
        for number in range(len(scene.things)):
            assert (apart[owners == number] > 40).mean() > 0.4, scene


def test_owners_say_which_pixels_show_a_thing(maker: SceneMaker) -> None:
    scene = maker.at("varied", 0, 4)
    owners = maker.owners(scene)
    changed = (maker.render(scene) != maker.render(replace(scene, things=()))).any(-1)
    assert changed[owners >= 0].mean() > 0.9
    outside = np.ones((96, 96), bool)
    for left, top, right, bottom in (t.box for t in scene.things):
        outside[top:bottom, left:right] = False
    assert (owners[outside] == -1).all()
    assert not changed[outside].any()


def _satisfies(scene: Scene, old: Scene) -> bool:
    """Whether a scene still is what GenEval's prompt for the old one asks for."""
    counts, of = Counter(t.name for t in scene.things), {t.name: t for t in scene.things}
    wanted = Counter(t.name for t in old.things)
    if any(counts[name] < n for name, n in wanted.items()):
        return False
    if old.kind == "counting":
        return counts[old.things[0].name] == len(old.things)
    if any(t.colour is not None and of[t.name].colour != t.colour for t in old.things):
        return False
    if old.kind == "position":
        first, second = old.things
        return relation(of[first.name].box, of[second.name].box) == relation(first.box, second.box)
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_scene_is_no_longer_what_it_was(maker: SceneMaker, kind: Kind) -> None:
    rng = np.random.default_rng(0)
    for fact, index in itertools.product(FACTS[kind], range(25)):
        old = maker.at("tidy", 0, index, kind)
        new = maker.changed(old, fact, rng)
        assert _satisfies(old, old)
        assert not _satisfies(new, old), (fact, old, new)
        assert (new.kind, new.background) == (old.kind, old.background)
        if fact in ("thing", "colour"):
            assert [block(t, 96) for t in new.things] == [block(t, 96) for t in old.things]
        if fact != "thing":
            assert {t.name for t in new.things} == {t.name for t in old.things}
        if fact != "colour":
            assert {t.colour for t in new.things} == {t.colour for t in old.things}
        if fact == "thing" and kind == "counting":
            assert len({t.name for t in new.things}) == 1
            assert len(new.things) == len(old.things)
        elif fact in ("thing", "colour"):
            different = [a for a, b in zip(new.things, old.things, strict=True) if a != b]
            assert len(different) == 1
        assert (maker.render(new) != maker.render(old)).any()


def test_facts_that_a_scene_does_not_state_cannot_be_changed(maker: SceneMaker) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="can't change the place of a scene for colors, but: thing, colour"):
        maker.changed(maker.at("tidy", 0, 0, "colors"), "place", rng)
    with pytest.raises(ValueError, match="but: none"):
        maker.changed(maker.at("varied", 0, 0), "thing", rng)


def test_bad_requests_are_refused(maker: SceneMaker) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="'blurred', there are tidy, varied"):
        maker.make("blurred", rng)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only tidy scenes have a task"):
        maker.make("varied", rng, "counting")
    with pytest.raises(ValueError, match="no task 'colours'"):
        maker.make("tidy", rng, "colours")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="single objects are in training"):
        maker.make("tidy", rng, "single_object", held_out=True)
    with pytest.raises(ValueError, match="not 100"):
        SceneMaker(maker.sprites, 100)
    with pytest.raises(ValueError, match="unknown classes: unicorn"):
        SceneMaker([Sprite("unicorn", "noto", "x", maker.sprites[0].pixels)])
    with pytest.raises(ValueError, match="drawings of two classes at least, not 0"):
        SceneMaker([]).make("tidy", rng)
    with pytest.raises(ValueError, match="'waves', there are plain, gradient"):
        paint_background(Background(((0, 0, 0), (9, 9, 9)), "waves"), 32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found no held-out scene for two_object among cat, dog"):
        tidy_subjects("two_object", ["cat", "dog"], rng, for_scoring=True)


@pytest.mark.parametrize("colour", COLOURS)
def test_painting_by_table_equals_painting(maker: SceneMaker, colour: str) -> None:
    drawings = Drawings(maker.sprites)
    for sprite in (1, 30, 77):
        pixels = maker.sprites[sprite].pixels
        height, width = pixels.shape[:2]
        hint = tuple(TABLE["classes"][maker.sprites[sprite].name].get("paint", ()))
        expected = recolour(pixels, colour, hint).astype(int)
        seen = pixels[..., 3] > 0
        got = np.asarray(drawings.fit(sprite, colour, (width, height))).astype(int)
        assert np.abs(got - expected)[seen].max() <= 4


def test_drawings_turn_counter_clockwise_and_keep_their_own_shape(maker: SceneMaker) -> None:
    drawings = maker.drawings
    pixels = maker.sprites[0].pixels
    height, width = pixels.shape[:2]
    turned = np.asarray(drawings.turned(0, None, (height, width), angle=90.0))
    assert drawings.shape(0, 90.0) == Shape(height, width, drawings.shape(0).solid)
    assert np.abs(turned.astype(int) - np.rot90(pixels))[np.rot90(pixels)[..., 3] > 0].max() <= 2
    mirrored = np.asarray(drawings.fit(0, None, (width, height), mirrored=True)).astype(int)
    assert np.abs(mirrored - pixels[:, ::-1])[pixels[:, ::-1, 3] > 0].max() <= 2
    one, other = drawings.shape(0, 20.0, mirrored=True), drawings.shape(0, 340.0)
    assert one == other


def test_kept_drawings_change_nothing_and_are_not_copied(maker: SceneMaker) -> None:
    scenes = [maker.at(look, 0, i) for look in LOOKS for i in range(10)]
    first = [maker.render(s) for s in scenes]
    copies = [copy.deepcopy(maker), pickle.loads(pickle.dumps(maker)), SceneMaker(maker.sprites)]
    for other in [maker, *copies]:
        assert all((a == other.render(s)).all() for a, s in zip(first, scenes, strict=True))
    assert pickle.loads(pickle.dumps(maker)).drawings.fit.cache_info().currsize == 0
    assert maker.drawings.fit.cache_info().currsize > 0


def test_backgrounds_are_the_same_from_the_same_seed() -> None:
    rng = np.random.default_rng(0)
    patterns = set()
    for _ in range(80):
        background = some_background(rng)
        picture = np.asarray(paint_background(background, 64))
        assert picture.shape == (64, 64, 3)
        assert picture.dtype == np.uint8
        assert (np.asarray(paint_background(background, 64)) == picture).all()
        low, high = np.min(background.colours, axis=0), np.max(background.colours, axis=0)
        assert (picture >= low).all()
        assert (picture <= high).all()
        if background.pattern != "plain":
            assert len(np.unique(picture.reshape(-1, 3), axis=0)) >= min(2, len(set(background.colours)))
            other = np.asarray(paint_background(replace(background, seed=background.seed + 1), 64))
            assert (other != picture).any()
        patterns.add(background.pattern)
    assert len(patterns) == 6


def test_a_scene_may_be_empty_or_of_another_size(maker: SceneMaker) -> None:
    empty = maker.render(Scene((), TIDY_BACKGROUNDS[0], None))
    assert (empty == TIDY_BACKGROUNDS[0].colours[0]).all()
    small = SceneMaker(maker.sprites, 64)
    for look in LOOKS:
        for index in range(20):
            scene = small.at(look, 0, index)
            assert small.render(scene).shape == (64, 64, 3)
            assert all(max(t.box) <= 64 for t in scene.things)
            if look == "tidy":
                assert all(block(t, 64)[2] == 4 for t in scene.things)


def test_things_are_told_apart_by_value() -> None:
    thing = Thing("cat", "red", 3, (0, 0, 9, 9))
    assert {thing: 1}[Thing("cat", "red", 3, (0, 0, 9, 9))] == 1
