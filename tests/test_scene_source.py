"""Scenes as training data: to draw, to see, to read; codes made thing by thing."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from janus.config import PRESETS
from janus.data import scene_source
from janus.data.art import Sprite
from janus.data.blocks import EMPTY, Blocks
from janus.data.paint import things_table
from janus.data.scene_source import SceneSource, ScenesRecipe, placed
from janus.data.scenes import CELLS, SceneMaker, block
from janus.tokenizers.image import VqTokenizer
from janus.tokenizers.text import train_bpe
from janus.train.stream import Writer

SIZE = 64


def stand_ins() -> list[Sprite]:
    """For every class a pattern to draw and another to see."""
    rng = np.random.default_rng(0)
    sprites = []
    for name, entry in things_table()["classes"].items():
        drawn = tuple(entry["draw"].split(":", 1))
        for style, emoji in (drawn, ("other", "x")):
            coarse = np.dstack([rng.integers(40, 256, (4, 4, 3)), 255 * (rng.random((4, 4)) < 0.8)])
            coarse[0, 0, 3] = coarse[3, 3, 3] = 255
            sprites.append(Sprite(name, style, emoji, coarse.astype(np.uint8).repeat(8, 0).repeat(8, 1)))
    return sprites


@pytest.fixture(scope="module")
def tokenizer() -> VqTokenizer:
    """An untrained one with a code for each cell."""
    config = dataclasses.replace(
        PRESETS["tiny-v3"].vq, image_size=SIZE, multipliers=(1,), fold=SIZE // CELLS, codes=64
    )
    torch.manual_seed(0)
    return VqTokenizer(config).eval()


@pytest.fixture(scope="module")
def maker() -> SceneMaker:
    return SceneMaker(stand_ins(), SIZE)


@pytest.fixture
def open_scenes(tokenizer: VqTokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(scene_source, "load_sprites", lambda *_: stand_ins())
    return lambda **values: SceneSource(ScenesRecipe(**values), tokenizer, work=tmp_path)


def test_a_thing_has_the_same_codes_wherever_it_stands(maker: SceneMaker, tokenizer: VqTokenizer) -> None:
    blocks = Blocks(maker, tokenizer)
    seen: dict[tuple[int, str | None, int], np.ndarray] = {}
    again = 0
    for index in range(300):
        scene = maker.at("tidy", 0, index)
        grid = blocks.codes(scene).reshape(CELLS, CELLS)
        rest = np.ones((CELLS, CELLS), bool)
        for thing in scene.things:
            x, y, edge = block(thing, SIZE)
            part = grid[y : y + edge, x : x + edge]
            drawn = blocks.alone(thing) != EMPTY
            key = (thing.sprite, thing.colour, edge)
            if key in seen:
                assert (part[drawn] == seen[key]).all()
                again += 1
            seen[key] = part[drawn]
            rest[y : y + edge, x : x + edge] &= ~drawn
        assert len(np.unique(grid[rest])) <= 1  # four things leave nothing
    assert again > 10


def test_the_cell_that_a_name_decides_counts_more(maker: SceneMaker, tokenizer: VqTokenizer) -> None:
    blocks = Blocks(maker, tokenizer)
    scene = next(s for s in (maker.at("tidy", 0, i) for i in range(50)) if len(s.things) == 2)
    weights = blocks.weights(scene, 4.0).reshape(CELLS, CELLS)
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    heavy = np.argwhere(weights > 2 * weights.min())
    assert len(heavy) == 2
    assert weights.max() / weights.min() == pytest.approx(4)
    for thing in scene.things:
        x, y, edge = block(thing, SIZE)
        inside = [(down, along) for down, along in heavy if y <= down < y + edge and x <= along < x + edge]
        assert len(inside) == 1


def test_another_grid_is_refused(maker: SceneMaker) -> None:
    with pytest.raises(
        ValueError, match=r"stand on 8 × 8 cells of pictures with 64 pixels; the image tokenizer"
    ):
        Blocks(maker, VqTokenizer(PRESETS["tiny-v3"].vq))


def test_scenes_to_draw(open_scenes, maker: SceneMaker) -> None:  # type: ignore[no-untyped-def]
    plain = open_scenes(teach="drawing", look="tidy", seed=3)
    coded = open_scenes(teach="drawing", look="tidy", seed=3, blocks=True, name_weight=4.0)
    assert plain.kinds == {"generation"}
    for index in (0, 7):
        a, b = plain[index], coded[index]
        assert a.caption == b.caption
        assert (np.asarray(a.images[0].load()) == maker.render(maker.at("tidy", 3, index))).all()
        assert a.codes is None
        assert b.codes is not None
        assert b.weights is not None
        assert b.codes.shape == b.weights.shape == (CELLS * CELLS,)
    assert plain[0].caption != plain[1].caption


def test_scenes_of_some_tasks_alone(open_scenes) -> None:  # type: ignore[no-untyped-def]
    source = open_scenes(teach="drawing", look="tidy", blocks=True, tasks=("single_object", "color_attr"))
    kinds = [source.recipe.task(number) for number in range(200)]
    assert set(kinds) == {"single_object", "color_attr"}
    assert kinds.count("color_attr") > kinds.count("single_object")  # as their shares say
    for number in range(20):
        assert len(source[number].mentions) == (1 if kinds[number] == "single_object" else 2)


def test_scenes_to_see_and_to_read(open_scenes) -> None:  # type: ignore[no-untyped-def]
    seeing = open_scenes(teach="seeing", look="varied", questions=2)
    record = seeing[5]
    assert record.kind == "understanding"
    assert [m["role"] for m in record.messages] == ["user", "assistant"] * 2
    assert [len(m.get("images", ())) for m in record.messages] == [1, 0, 0, 0]
    assert seeing[5].messages[1]["content"] == record.messages[1]["content"]
    assert len(seeing.of_kind("understanding")) == len(seeing) == 1_000_000
    asked = open_scenes(teach="seeing", look="varied", questions=3, asks=("count",))[5]
    assert all(re.search("How many|几", m["content"]) for m in asked.messages[::2])
    words = open_scenes(teach="words", look="varied", questions=2)[5]
    assert words.kind == "text"
    assert words.text is not None
    assert words.text.count("\n") == 2
    with pytest.raises(IndexError, match="scenes are 0 to 999999"):
        seeing[1_000_000]


def test_scenes_say_what_each_patch_shows(maker: SceneMaker, tokenizer: VqTokenizer, open_scenes) -> None:  # type: ignore[no-untyped-def]
    source = open_scenes(teach="seeing", look="varied", questions=4, apart=True)
    assert source[3].shown == ()
    source.patch = 16
    record, scene = source[3], maker.at("varied", 0, 3)
    assert record.apart
    assert len(record.shown) == (SIZE // 16) ** 2
    names = {f"{t.colour} {t.name}" if t.colour else t.name for t in scene.things}
    assert set(record.shown) - {""} <= names
    assert set(record.shown) & names


def test_patches_in_a_third_at_an_edge_are_told_where_they_are(open_scenes) -> None:  # type: ignore[no-untyped-def]
    everywhere = placed(("cup",) * 9)
    assert everywhere[0::2] == ("cup left top", "cup right top", "cup", "cup left bottom", "cup right bottom")
    assert everywhere[1::2] == ("cup top", "cup left", "cup right", "cup bottom")
    assert placed(("", "red cup", "", "")) == ("", "red cup right top", "", "")
    plain, told = (open_scenes(teach="seeing", look="varied", placed=one) for one in (False, True))
    plain.patch = told.patch = 16
    assert placed(plain[3].shown) == told[3].shown != plain[3].shown


def test_letters_are_asked_for_without_a_picture(tmp_path: Path, open_scenes) -> None:  # type: ignore[no-untyped-def]
    source = open_scenes(teach="letters", look="varied", questions=5)
    assert source.kinds == {"text"}
    record = source[4]
    assert [m["role"] for m in record.messages] == ["user", "assistant"] * 5
    config = PRESETS["tiny-v3"]
    words = train_bpe([m["content"] for m in record.messages], 400, config.prompt, tmp_path)
    draft = Writer(config, words, 0.0)(record, np.random.default_rng(0))
    assert words.image_id not in draft.ids
    assert len(draft.learn) == 5
    sample = draft.load(config)
    assert sample.pixels is None


def test_questions_apart_become_branches_of_one_sample(tmp_path: Path, open_scenes) -> None:  # type: ignore[no-untyped-def]
    config = PRESETS["tiny-v3"]
    source = open_scenes(teach="seeing", look="varied", questions=4, apart=True)
    source.patch = 16
    record = source[3]
    words = train_bpe([m["content"] for m in record.messages], 400, config.prompt, tmp_path)
    draft = Writer(config, words, 0.0)(record, np.random.default_rng(0))
    assert len(draft.branches) == len(draft.learn) == len(record.messages) // 2 > 1
    assert draft.branches[-1][1] == len(draft.ids)
    assert list(draft.ids).count(words.image_id) == config.vision.tokens  # one picture for all
    for (start, end), (first, last), answer in zip(
        draft.branches, draft.learn, record.messages[1::2], strict=True
    ):
        assert start < first < last == end
        assert words.decode(draft.ids[first : last - 1]) == f" {answer['content']}"
    assert draft.words is not None
    assert len(draft.words) == len(record.shown)


def test_redrawn_pictures_are_what_their_codes_give_back(open_scenes, tokenizer: VqTokenizer) -> None:  # type: ignore[no-untyped-def]
    source = open_scenes(teach="seeing", look="tidy", redrawn=3)
    coded = open_scenes(teach="drawing", look="tidy", blocks=True)
    codes = torch.from_numpy(coded[1].codes)[None]
    made = ((tokenizer.decode(codes)[0] + 1) * 127.5).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    shown = np.asarray(source[1].images[0].load())
    assert np.abs(shown.astype(int) - made).max() <= 1
    assert (shown == np.asarray(source[4].images[0].load())).all()  # three pictures in turn
    assert source[1].messages != source[4].messages  # asked about anew


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"teach": "drawing", "look": "varied"}, "only tidy scenes can be drawn; the look is 'varied'"),
        ({"teach": "words", "look": "tidy", "redrawn": 5}, "set teach: seeing, not words"),
        ({"teach": "drawing", "look": "tidy", "name_weight": 2.0}, "set blocks: true"),
        ({"teach": "words", "look": "tidy", "apart": True}, "only questions can be asked apart"),
        ({"teach": "seeing", "look": "varied", "tasks": ("colors",)}, "only tidy scenes are made for tasks"),
        (
            {"teach": "drawing", "look": "tidy", "tasks": ("cats",)},
            r"unknown tasks \['cats'\]; there are single_",
        ),
        (
            {"teach": "seeing", "look": "tidy", "asks": ("why",)},
            r"unknown kinds of question \['why'\]; there are",
        ),
        (
            {"teach": "drawing", "look": "tidy", "asks": ("what",)},
            "drawing asks no such questions, leave out asks",
        ),
        ({"teach": "letters", "look": "tidy", "asks": ("what",)}, "letters asks no such questions"),
        ({"teach": "words", "look": "tidy", "placed": True}, "set teach: seeing, not words"),
        ({"teach": "seeing", "look": "tidy", "restyled": 2.0}, "a share from 0 to 1, not 2.0"),
        ({"teach": "words", "look": "tidy", "restyled": 0.5}, "set teach: seeing, redrawn: 0"),
        ({"teach": "seeing", "look": "tidy", "restyled": 0.5, "redrawn": 5}, "redrawn: 0"),
        ({"teach": "seeing", "look": "tidy", "count": 0}, "count and questions must be at least 1"),
    ],
)
def test_recipes_of_scenes_that_make_no_sense(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScenesRecipe(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("teach", ["seeing", "letters"])
def test_where_to_look_is_told_if_asked_for(
    tokenizer: VqTokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, teach: str
) -> None:
    monkeypatch.setattr(scene_source, "load_sprites", lambda *_: stand_ins())
    recipe = ScenesRecipe(teach, "varied", asks=("what",) if teach == "seeing" else ())  # type: ignore[arg-type]
    for pointing in (False, True):
        source = SceneSource(recipe, tokenizer, SIZE // CELLS, tmp_path, pointing)
        assert bool(source[0].pointers) == pointing


def test_restyled_pictures_keep_painted_things_colours(open_scenes) -> None:  # type: ignore[no-untyped-def]
    values = {"teach": "seeing", "look": "tidy", "asks": ("what",)}

    def shown(index: int, task: str, share: float) -> np.ndarray:
        return np.asarray(open_scenes(**values, tasks=(task,), restyled=share)[index].images[0].load(), float)

    for task, keeps in (("color_attr", True), ("two_object", False)):
        plain, other = (np.stack([shown(i, task, share) for i in range(6)]) for share in (0.0, 1.0))
        assert (other == np.stack([shown(i, task, 1.0) for i in range(6)])).all()
        assert (np.abs(other - plain).mean((1, 2, 3)) > 0.1).all()
        # bent or not, a tidy picture's corners show its background
        moved = np.abs(other - plain)[:, :2, :2].max((1, 2, 3))
        assert (moved == 0).all() if keeps else (moved > 3).sum() >= 4
    source = open_scenes(**values, restyled=0.3)
    assert 30 < sum(source[i].images[0].style is not None for i in range(200)) < 90
