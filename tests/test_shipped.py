"""The drawings in the package: complete, and enough to make the scenes that the embedded model draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from janus.data import shipped
from janus.data.paint import dominant_colour, things_table
from janus.data.scenes import COLOURS, NAMES, Scene, SceneMaker
from janus.data.shipped import shipped_sprites, write
from janus.data.subjects import UNPAINTED


@pytest.fixture(scope="module")
def maker() -> SceneMaker:
    return SceneMaker(shipped_sprites(), 96)


def test_every_class_has_its_drawing(maker: SceneMaker) -> None:
    assert [sprite.name for sprite in maker.sprites] == list(NAMES)
    for sprite in maker.sprites:
        assert sprite.key == things_table()["classes"][sprite.name]["draw"]
        assert sprite.pixels.shape[2] == 4
        assert max(sprite.pixels.shape) == 128
        assert 0.05 < (sprite.pixels[..., 3] > 128).mean() <= 1


def test_scenes_are_made_of_them(maker: SceneMaker) -> None:
    shown = {thing.name for index in range(300) for thing in maker.at("tidy", 5, index).things}
    assert len(shown) > 70
    scene = maker.at("tidy", 5, 0)
    blank = maker.render(Scene((), scene.background, None))
    for thing in scene.things:
        left, top, right, bottom = thing.box
        assert (maker.render(scene) != blank)[top:bottom, left:right].any(-1).mean() > 0.05


def test_painted_things_have_their_colours(maker: SceneMaker) -> None:
    for number, sprite in enumerate(maker.sprites):
        if sprite.name in UNPAINTED:
            continue
        colour = COLOURS[number % len(COLOURS)]
        thing = maker.placed(sprite.name, number, colour, 1, 1, 6)
        scene = replace(maker.at("tidy", 5, 0), things=(thing,))
        assert dominant_colour(maker.render(scene), maker.owners(scene) == 0) == colour, (sprite.name, colour)


def test_written_again_they_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shipped_sprites()
    assert write(before, tmp_path / shipped.FILE) == len(NAMES)
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    for sprite, again in zip(before, shipped_sprites(), strict=True):
        assert sprite.key == again.key
        assert (sprite.pixels == again.pixels).all()
