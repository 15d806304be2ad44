"""The embedded world: scenes are what their descriptions say, and so is everything said about them.

The drawings here are stand-ins, so that no test needs the network.
"""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus.data import art
from janus.data.language import Answer, article, caption, describe, plural, question
from janus.data.pool import pictures, scene_at
from janus.data.world import CELLS, Relation, Scene, World, main_colour, recolour, world_table


def stand_ins() -> list[art.Sprite]:
    """For every drawing named in the tables a pattern of its own, in its own two colours."""
    table = art.art_table()
    rng = np.random.default_rng(0)
    sprites = []
    for style in table["packages"]:
        for name, emojis in table["classes"].items():
            for emoji in emojis:
                coarse = np.dstack([rng.integers(40, 256, (4, 4, 3)), 255 * (rng.random((4, 4)) < 0.8)])
                coarse[0, 0, 3] = coarse[3, 3, 3] = 255
                pixels = coarse.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
                sprites.append(art.Sprite(name, style, emoji, pixels))
    return sprites


@pytest.fixture(scope="module")
def world() -> World:
    return World(stand_ins(), 64)


def test_tables_agree() -> None:
    table, classes = art.art_table(), world_table()["classes"]
    assert list(classes) == list(table["classes"])
    for name, entry in classes.items():
        assert set(entry["draw"]) <= set(table["classes"][name]), name
    styles = world_table()["drawing_styles"]
    assert set(styles) <= set(table["packages"])
    assert sum(styles.values()) == pytest.approx(1)
    assert world_table()["held_out_style"] not in styles


def test_a_scene_depends_on_its_number_alone(world: World) -> None:
    for look in ("drawing", "seeing", "held-out"):
        again = World(world.sprites, 64)
        scenes = [scene_at(world, look, 0, i) for i in range(20)]
        assert scenes == [scene_at(again, look, 0, i) for i in range(20)]
        assert len({str(s) for s in scenes}) == 20
        assert scenes[3] != scene_at(world, look, 1, 3)


def test_held_out_art_is_never_in_training(world: World) -> None:
    held_out = world_table()["held_out_style"]

    def styles(look: str) -> set[str]:
        scenes = [scene_at(world, look, 0, i) for i in range(300)]  # type: ignore[arg-type]
        return {world.sprites[t.sprite].style for s in scenes for t in s.things}

    assert styles("held-out") == {held_out}
    assert styles("drawing") == set(world_table()["drawing_styles"])
    assert styles("seeing") == set(art.art_table()["packages"]) - {held_out}


def _centre(box: tuple[int, int, int, int]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_relations_are_where_the_things_are(world: World) -> None:
    seen: set[Relation] = set()
    for look, index in itertools.product(("drawing", "seeing", "held-out"), range(150)):
        scene = scene_at(world, look, 0, index)  # type: ignore[arg-type]
        for thing in scene.things:
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= 64
            assert 0 <= top < bottom <= 64
        if scene.relation is None:
            assert len(scene.things) == 1
            continue
        (x, y), (u, v) = (_centre(thing.box) for thing in scene.things)
        true = {"left of": x < u, "right of": x > u, "above": y < v, "below": y > v}
        assert true[scene.relation], scene
        first, second = scene.things
        apart = (
            first.box[2] <= second.box[0]
            or second.box[2] <= first.box[0]
            or first.box[3] <= second.box[1]
            or second.box[3] <= first.box[1]
        )
        assert apart, scene
        seen.add(scene.relation)
    assert len(seen) == 4


def test_things_to_draw_stand_on_the_grid(world: World) -> None:
    cell = 64 // CELLS
    for index in range(50):
        for thing in scene_at(world, "drawing", 0, index).things:
            left, top, right, bottom = thing.box
            assert {(left - 2) % cell, (top - 2) % cell, (right + 2) % cell, (bottom + 2) % cell} == {0}


def test_rendering_paints_inside_the_boxes_only(world: World) -> None:
    for index in range(20):
        scene = scene_at(world, "seeing", 0, index)
        picture = world.render(scene)
        outside = np.ones((64, 64), bool)
        for thing in scene.things:
            left, top, right, bottom = thing.box
            outside[top:bottom, left:right] = False
            assert (picture[top:bottom, left:right] != scene.background).any()
        assert (picture[outside] == scene.background).all()


def _apple() -> np.ndarray:
    """A red square with a shaded half, a green leaf and a black outline."""
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[2:18, 2:10] = (220, 30, 30, 255)
    pixels[2:18, 10:18] = (150, 20, 20, 255)
    pixels[2:6, 14:18] = (30, 160, 40, 255)
    return pixels


@pytest.mark.parametrize("colour", list(world_table()["colours"]))
def test_recolour_replaces_the_main_colour_only(colour: str) -> None:
    before, after = _apple(), recolour(_apple(), colour)
    target = np.array(world_table()["colours"][colour]["rgb"], float)
    assert np.abs(after[10, 5, :3] - target).max() < 25
    assert after[10, 14, :3].sum() < after[10, 5, :3].sum()  # the shaded half is still darker
    assert (after[3, 16] == before[3, 16]).all()
    assert (after[0, 0] == before[0, 0]).all()
    assert (after[..., 3] == before[..., 3]).all()


def test_main_colour_of_grey_drawings_is_their_light_part() -> None:
    pixels = np.full((10, 10, 4), 255, np.uint8)
    pixels[..., :3] = 200
    pixels[4, :, :3] = 10
    mask = main_colour(pixels)
    assert mask[0, 0] == 1
    assert mask[4, 0] == 0
    mixed = _apple()
    mixed[12:18, 2:10, :3] = 230
    assert main_colour(mixed)[15, 5] == 0
    assert main_colour(mixed, "whole")[15, 5] == 1
    assert main_colour(mixed, 120.0)[3, 16] == 0  # too little green to be what was meant


def _wanted(scene: Scene, asked: Answer) -> None:
    """Checks an English answer against the scene, not against the code that made it."""
    names = [t.name for t in scene.things]
    words = asked.question.rstrip("?.").split()
    if asked.kind == "colour":
        candidates = {t.colour for t in scene.things if t.name in asked.question or plural(t.name) in words}
        assert asked.answer in (candidates or {scene.things[0].colour})
    elif asked.kind == "count":
        counted = next((n for n in world_table()["classes"] if f"many {plural(n)} " in asked.question), None)
        count = len(names) if counted is None else names.count(counted)
        assert asked.answer == ("zero", "one", "two")[count]
    elif asked.kind == "yes-no" and asked.question.startswith(("Is there", "Do you", "Are there", "Is this")):
        present = any(n in words or plural(n) in words for n in names)
        assert asked.answer == ("yes" if present else "no"), asked
    elif asked.kind == "yes-no":
        thing = next(t for t in scene.things if t.name == words[2])
        assert asked.answer == ("yes" if words[-1] == thing.colour else "no")
    elif asked.kind == "caption":
        assert asked.answer == describe(scene)
    elif asked.question.startswith("Where"):
        thing = next(t for t in scene.things if t.name in words)
        other = next(t for t in scene.things if t is not thing)
        x, y = np.subtract(_centre(thing.box), _centre(other.box))
        sides = {"on the left": -x, "on the right": x, "at the top": -y, "at the bottom": y}
        assert sides[asked.answer] > 0
    elif asked.kind == "what":
        assert all(n in asked.answer or plural(n) in asked.answer for n in names)


def test_answers_are_true(world: World) -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for index in range(1500):
        scene = scene_at(world, "seeing", 0, index)
        asked = question(scene, rng)
        if asked.question.isascii():
            _wanted(scene, asked)
            kinds.add(asked.kind)
    assert kinds == {"what", "colour", "count", "where", "yes-no", "caption"}


def test_yes_and_no_are_equally_likely(world: World) -> None:
    rng = np.random.default_rng(0)
    asked = [question(scene_at(world, "seeing", 0, i), rng) for i in range(3000)]
    answers = [a.answer for a in asked if a.kind == "yes-no" and a.answer in ("yes", "no")]
    assert 0.45 < answers.count("yes") / len(answers) < 0.55


def test_captions_name_what_is_there(world: World) -> None:
    rng = np.random.default_rng(0)
    chinese = 0
    for index in range(500):
        scene = scene_at(world, "drawing", 0, index)
        text = caption(scene, rng)
        chinese += not text.isascii()
        for thing in scene.things:
            if text.isascii():
                assert thing.name in text or plural(thing.name) in text
                assert thing.colour is None or thing.colour in text
            else:
                assert world_table()["classes"][thing.name]["zh"] in text
        for relation in ("left of", "right of", "above", "below"):
            if relation in text and text.isascii():
                first = min(scene.things, key=lambda t: text.index(f"{t.colour or ''} {t.name}".strip()))
                second = next(t for t in scene.things if t is not first)
                x, y = np.subtract(_centre(first.box), _centre(second.box))
                assert {"left of": -x, "right of": x, "above": -y, "below": y}[relation] > 0, text
    assert 30 < chinese < 100


def test_words() -> None:
    assert article("apple") == "an apple"
    assert article("red apple") == "a red apple"
    assert [plural(n) for n in ("bus", "book", "apple")] == ["buses", "books", "apples"]


def test_pools_are_kept_and_match_their_scenes(world: World, tmp_path: Path) -> None:
    pool = pictures(world, "drawing", 0, 5, tmp_path, workers=1)
    for index in range(5):
        assert (pool[index] == world.render(scene_at(world, "drawing", 0, index))).all()
    kept = next(tmp_path.glob("*.npy"))
    stamp = kept.stat().st_mtime_ns
    assert (pictures(world, "drawing", 0, 5, tmp_path) == pool).all()
    assert kept.stat().st_mtime_ns == stamp
    assert [p.name for p in tmp_path.iterdir()] == [kept.name]


def _archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def test_a_package_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    package = {"npm": "some-art@1.0.0", "file": "some-art-1.0.0.tgz", "sha256": "0" * 64}
    _archive(tmp_path / package["file"], {"package/icons.json": b"{}"})
    with pytest.raises(ValueError, match=r"some-art-1\.0\.0\.tgz has sha256 .* some-art@1\.0\.0"):
        art.fetch_package(package, tmp_path)


def test_sprites_from_both_kinds_of_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    body = '<rect x="16" y="32" width="64" height="32" fill="#ff0000"/>'
    icons = {"width": 128, "height": 128, "icons": {"red-apple": {"body": body}}}
    webp = io.BytesIO()
    Image.new("RGBA", (20, 10), (0, 0, 255, 255)).save(webp, "WEBP", lossless=True)
    (tmp_path / "npm").mkdir()
    _archive(
        tmp_path / "npm" / "vector.tgz",
        {"package/icons.json": json.dumps(icons).encode(), "package/chars.json": b'{"1f34e": "red-apple"}'},
    )
    _archive(tmp_path / "npm" / "pixels.tgz", {"package/assets/1f34e-fe0f.webp": webp.getvalue()})
    table = {
        "packages": {"noto": {"file": "vector.tgz"}, "three": {"file": "pixels.tgz"}},
        "classes": {"apple": ["🍎"]},
    }
    monkeypatch.setattr(art, "art_table", lambda: table)
    monkeypatch.setattr(art, "fetch_package", lambda package, folder: folder / package["file"])
    first = art.load_sprites(tmp_path)
    monkeypatch.delattr(art, "fetch_package")  # the second time nothing is fetched
    for sprites in (first, art.load_sprites(tmp_path)):
        assert [(s.name, s.style, s.pixels.shape) for s in sprites] == [
            ("apple", "noto", (64, 128, 4)),
            ("apple", "three", (64, 128, 4)),
        ]
        assert tuple(sprites[0].pixels[32, 64]) == (255, 0, 0, 255)
        assert tuple(sprites[1].pixels[32, 64]) == (0, 0, 255, 255)
