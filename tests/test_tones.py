"""Codebooks of shapes and tones: tied rows, parts chosen by themselves, and what makes a tone a colour."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from janus.checkpoints.configs import read, write_official
from janus.config import PRESETS, VqConfig
from janus.data import scene_source
from janus.data.blocks import ANY, EMPTY, Blocks
from janus.data.scene_source import SceneSource, ScenesRecipe
from janus.data.scenes import CELLS, COLOURS, Scene, SceneMaker, Thing
from janus.data.subjects import held_out
from janus.tokenizers.image import VqTokenizer
from janus.train import kinds
from janus.train.plan import DataRecipe, Mixture, TrainRecipe
from janus.train.tones import TONE, Factored, even, give_back, tie, tied, unused
from janus.train.vq_files import load_tokenizer, new_tokenizer
from janus.train.vq_recipe import TokenizerRecipe, VqWeights
from tests.test_scene_source import SIZE, stand_ins

pytestmark = pytest.mark.usefixtures("one_thread")  # another rounding may choose another code
SIZES = VqConfig(
    image_size=SIZE,
    codes=16 * 12,
    code_dim=8,
    z_channels=32,
    channels=32,
    multipliers=(1,),
    res_blocks=1,
    fold=SIZE // CELLS,
    tones=12,
    tone_dim=3,
)


@pytest.fixture(scope="module")
def maker() -> SceneMaker:
    return SceneMaker(stand_ins(), SIZE)


@pytest.fixture
def tokenizer() -> VqTokenizer:
    made = new_tokenizer(SIZES, 0).eval()
    tie(made)
    return made


def parts(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (codes, E) as shapes (shapes, tones, E - 3) and tones (shapes, tones, 3)."""
    grid = rows.unflatten(0, (-1, SIZES.tones))
    return grid[..., :-3], grid[..., -3:]


def test_rows_are_a_shape_and_a_tone(tokenizer: VqTokenizer) -> None:
    rows = tokenizer.quantize.rows().detach()
    shape, tone = parts(rows)
    assert torch.allclose(shape, shape[:, :1].expand_as(shape))
    assert torch.allclose(tone, tone[:1].expand_as(tone))
    assert torch.allclose(tone.square().sum(-1), torch.full(tone.shape[:2], TONE))
    assert torch.allclose(rows.norm(dim=-1), torch.ones(len(rows)))
    assert len(torch.unique(shape[:, 0], dim=0)) == 16
    assert torch.equal(tied(rows, SIZES), rows) or torch.allclose(tied(rows, SIZES), rows, atol=1e-6)


def test_each_part_is_chosen_by_itself(tokenizer: VqTokenizer) -> None:
    z = torch.nn.functional.normalize(torch.randn(500, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    codes = tokenizer.quantize.nearest(z)
    shape, tone = parts(tokenizer.quantize.rows())
    assert torch.equal(codes // SIZES.tones, (z[:, :-3] @ shape[:, 0].T).argmax(-1))
    assert torch.equal(codes % SIZES.tones, (z[:, -3:] @ tone[0].T).argmax(-1))


def test_rows_stay_tied_while_they_learn(tokenizer: VqTokenizer) -> None:
    weight = tokenizer.quantize.embedding.weight
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
    before = weight.detach().clone()
    for seed in range(5):
        pull = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        (weight * pull * (torch.arange(len(weight)) % 7 == 0)[:, None]).sum().backward()  # some rows alone
        optimizer.step()
        weight.data.copy_(even(weight.data, SIZES))
    assert not torch.allclose(weight, before, atol=0.1)
    assert torch.allclose(tied(weight.detach(), SIZES), weight, atol=1e-5)


def test_logits_of_a_factored_head_are_a_shapes_and_a_tones() -> None:
    head = torch.nn.Linear(5, 12)
    generator = torch.Generator().manual_seed(0)
    before = torch.cat([head.weight.detach(), head.bias.detach()[:, None]], 1)
    parts = Factored(head, 3)
    after = torch.cat([head.weight.detach(), head.bias.detach()[:, None]], 1)
    left = (before - after).unflatten(0, (4, 3))  # at right angles to all such heads
    torch.testing.assert_close(left.sum(0), torch.zeros(3, 6))
    torch.testing.assert_close(left.sum(1), torch.zeros(4, 6))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    x, wanted = torch.randn(4, 5, generator=generator), torch.tensor([0, 4, 8, 9])
    for _ in range(200):  # the tone of each shape's one code; no other is ever right
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(x), wanted).backward()
        optimizer.step()
        parts.step()
        logits = head(x).detach().unflatten(1, (4, 3))
        differences = logits - logits[:, :1]  # of a shape to the first, whatever the tone
        torch.testing.assert_close(differences, differences[:, :, :1].expand_as(differences))
    assert torch.equal(head(x).argmax(1), wanted)


def test_a_shape_is_unused_when_none_of_its_codes_was_chosen() -> None:
    counts = torch.zeros(SIZES.codes, dtype=torch.long)
    counts[3 * SIZES.tones + 5] = 2
    dead = unused(counts, SIZES)
    assert dead.sum() == SIZES.codes - SIZES.tones
    assert not dead[3 * SIZES.tones : 4 * SIZES.tones].any()
    assert torch.equal(unused(counts, dataclasses.replace(SIZES, tones=1, tone_dim=0)), counts == 0)


def test_a_picture_is_given_back_from_shapes_of_the_other(tokenizer: VqTokenizer) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels, other = (torch.rand(2, 3, SIZE, SIZE, generator=generator) * 2 - 1 for _ in range(2))
    wanted = torch.full((2, SIZES.tokens), ANY)
    wanted[0, :8] = torch.arange(8)
    made, losses, codes = give_back(tokenizer, pixels, other, wanted)
    shapes, tones = (tokenizer.encode(one) for one in (other, pixels))
    assert torch.equal(codes // SIZES.tones, shapes // SIZES.tones)
    assert torch.equal(codes[0, :8] % SIZES.tones, torch.arange(8))
    assert torch.equal(codes[1] % SIZES.tones, tones[1] % SIZES.tones)
    assert torch.allclose(made, tokenizer.decode(codes), atol=1e-4)
    same = give_back(tokenizer, pixels, pixels, torch.full_like(wanted, ANY))[1]
    assert same["tones"].item() < 1e-6 < losses["tones"].item()


def test_a_painted_thing_has_the_same_shapes_in_every_colour(
    maker: SceneMaker, tokenizer: VqTokenizer
) -> None:
    blocks = Blocks(maker, tokenizer)
    scene = next(s for s in (maker.at("tidy", 0, i, "colors") for i in range(50)))
    thing = scene.things[0]
    assert thing.colour is not None
    own = blocks.alone(thing)
    for colour in COLOURS:
        other = blocks.alone(dataclasses.replace(thing, colour=colour))
        assert ((other == EMPTY) == (own == EMPTY)).all()
        drawn = other[other != EMPTY]
        assert (drawn // SIZES.tones == own[own != EMPTY] // SIZES.tones).all()
        assert (drawn % SIZES.tones == COLOURS.index(colour)).all()
    tones = blocks.tones(scene)
    codes = blocks.codes(scene)
    assert set(tones[tones != ANY]) == {COLOURS.index(thing.colour)}
    assert (tones != ANY).sum() == (own != EMPTY).sum()
    assert (codes[tones != ANY] % SIZES.tones == tones[tones != ANY]).all()
    assert (blocks.tones(maker.at("tidy", 0, 0, "single_object")) == ANY).all()


def test_repainted_scenes_differ_in_colours_alone(maker: SceneMaker) -> None:
    def without(things: tuple[Thing, ...]) -> list[Thing]:
        return [dataclasses.replace(thing, colour=None) for thing in things]

    for index in range(100):
        scene = maker.at("tidy", 0, index)
        other: Scene = maker.repainted(scene, np.random.default_rng(index))
        assert without(other.things) == without(scene.things)
        for before, after in zip(scene.things, other.things, strict=True):
            assert (before.colour is None) == (after.colour is None)
            assert before.colour is None or before.colour != after.colour
            assert not held_out([(after.name, after.colour)])


def _grey(pixels: np.ndarray) -> np.ndarray:
    """The pattern in greys and without holes, so that painting paints all of it."""
    shade = pixels[..., :1].repeat(3, -1)
    return np.dstack([shade, np.full_like(pixels[..., 3], 255)])


def test_training_makes_tones_of_colours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Colours of things in other scenes are read off the codes; before, about one in twelve were."""
    grey = [dataclasses.replace(one, pixels=_grey(one.pixels)) for one in stand_ins()]
    monkeypatch.setattr(scene_source, "load_sprites", lambda *_: grey)
    scenes: dict[str, Any] = {
        "teach": "drawing",
        "look": "tidy",
        "repainted": True,
        "tasks": ["colors", "color_attr"],
    }
    recipe = tmp_path / "tones.yaml"
    values = {
        "kind": "tokenizer",
        "out": str(tmp_path / "run"),
        "data": [{"scenes": scenes}],
        "new": dataclasses.asdict(SIZES),
        "steps": 150,
        "pictures": 8,
        "micro_pictures": 8,
        "losses": {"tones": 1.0},
        "learning_rate": 5e-3,
        "codes_every": 20,
        "average": 0.5,
        "precision": "float32",
    }
    recipe.write_text(json.dumps(values), encoding="utf-8")
    trained = load_tokenizer(str(kinds.train(recipe))).eval()
    rows = trained.quantize.rows().detach()
    assert torch.allclose(tied(rows, SIZES), rows, atol=1e-2)
    source = SceneSource(ScenesRecipe(**(scenes | {"seed": 1})), trained, work=tmp_path)
    right = {"before": 0.0, "after": 0.0}
    for when, one in (("before", new_tokenizer(SIZES, 0).eval()), ("after", trained)):
        found, wanted = [], []
        for index in range(20):
            record = source[index]
            assert record.repainted is not None
            pixels = np.asarray(record.images[0].load())
            z = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
            found.append(one.encode(z)[0].numpy() % SIZES.tones)
            wanted.append(record.repainted.tones)
        told = np.stack(wanted) != ANY
        right[when] = float((np.stack(found) == np.stack(wanted))[told].mean())
    assert right["before"] < 0.3
    assert right["after"] > 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"codes": 64, "tones": 12, "tone_dim": 2}, "codes=64 is not a multiple of tones=12"),
        ({"tones": 0}, r"tones=0 \(1 or more\)"),
        ({"codes": 64, "tones": 4}, "tone_dim=0 of code_dim=8 does not fit tones=4"),
        ({"codes": 64, "tones": 4, "tone_dim": 8}, "tone_dim=8 of code_dim=8 does not fit tones=4"),
        ({"codes": 64, "tone_dim": 2}, "without them tone_dim is 0"),
    ],
)
def test_codebooks_that_make_no_sense(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VqConfig(**values)  # type: ignore[arg-type]


def test_a_checkpoint_keeps_its_tones(tmp_path: Path) -> None:
    tiny = PRESETS["tiny-v3"]
    config = dataclasses.replace(tiny, vq=dataclasses.replace(tiny.vq, codes=64, tones=4, tone_dim=3))
    (tmp_path / "config.json").write_text(json.dumps(write_official(config, torch.float32)), encoding="utf-8")
    assert read(tmp_path).config.vq == config.vq


def test_a_loss_of_tones_needs_some(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scene_source, "load_sprites", lambda *_: stand_ins())
    recipe = tmp_path / "none.yaml"
    values = {
        "kind": "tokenizer",
        "out": str(tmp_path / "run"),
        "data": [{"scenes": {"teach": "drawing", "look": "tidy", "repainted": True}}],
        "new": dataclasses.asdict(dataclasses.replace(SIZES, tones=1, tone_dim=0)),
        "steps": 1,
        "losses": {"tones": 1.0},
    }
    recipe.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match="this image tokenizer has none"):
        kinds.train(recipe)


@pytest.mark.parametrize(
    ("weight", "repainted", "message"),
    [
        (1.0, False, "give scenes with repainted: true"),
        (0.0, True, "teach nothing without losses.tones"),
    ],
)
def test_tones_need_both_the_loss_and_the_scenes(weight: float, repainted: bool, message: str) -> None:
    scenes = ScenesRecipe("drawing", "tidy", repainted=repainted)
    with pytest.raises(ValueError, match=message):
        TokenizerRecipe("out", (DataRecipe(scenes=scenes),), 1, new=SIZES, losses=VqWeights(tones=weight))


def test_a_model_is_not_taught_by_repainted_scenes() -> None:
    scenes = ScenesRecipe("drawing", "tidy", repainted=True)
    with pytest.raises(ValueError, match="teach an image tokenizer"):
        TrainRecipe("out", (DataRecipe(scenes=scenes),), Mixture(1, 0, 1), 1, model="embedded")


def test_every_colour_needs_a_tone(maker: SceneMaker) -> None:
    few = dataclasses.replace(SIZES, codes=64, tones=4)
    with pytest.raises(ValueError, match="10 colours need a tone each; the image tokenizer has 4"):
        Blocks(maker, new_tokenizer(few, 0))
