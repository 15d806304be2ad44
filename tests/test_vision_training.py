"""Training a vision encoder patch by patch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from janus.config import PRESETS
from janus.data.scenes import COLOURS, NAMES, SceneMaker
from janus.encoders.siglip import SiglipTower
from janus.model import JanusModel
from janus.train import patches
from janus.train.canvas import NOTHING
from janus.train.fresh import NewModel, new_model
from janus.train.kinds import train
from janus.train.patches import PatchReader, labels
from janus.train.perceptual import NAME, Perceptual
from tests.test_scene_source import SIZE, stand_ins


@pytest.fixture(autouse=True)
def art(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "load_sprites", lambda *_: stand_ins())


def recipe(folder: Path, **changes: object) -> Path:
    config = dataclasses.replace(PRESETS["tiny-v3"].vision, image_size=SIZE, patch_size=16)
    values = {
        "kind": "vision",
        "out": str(folder / "run"),
        "config": dataclasses.asdict(config),
        "looks": ["varied", "tidy"],
        "steps": 4,
        "batch": 4,
        "keep_every": 2,
        "warmup": 1,
        "workers": 0,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values | changes), encoding="utf-8")
    return path


def test_patches_are_labelled_with_what_covers_most_of_them() -> None:
    maker = SceneMaker(stand_ins(), SIZE)
    for index in range(20):
        scene = maker.at("varied", 0, index)
        kinds, colours = labels(maker, scene, 16)
        owners = maker.owners(scene)
        for place, (kind, colour) in enumerate(zip(kinds.tolist(), colours.tolist(), strict=True)):
            y, x = divmod(place, SIZE // 16)
            cell = owners[16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
            shares = [float((cell == number).mean()) for number in range(len(scene.things))]
            if max(shares) < 1 / 3:
                assert (kind, colour) == (0, NOTHING)
                continue
            thing = scene.things[shares.index(max(shares))]
            assert NAMES[kind - 1] == thing.name
            assert (COLOURS[colour - 1] if colour else None) == thing.colour


def test_the_result_is_a_part_of_a_new_model(tmp_path: Path) -> None:
    written = train(recipe(tmp_path))
    vision = dataclasses.replace(PRESETS["tiny-v3"].vision, image_size=SIZE, patch_size=16)
    tiny = PRESETS["tiny-v3"]
    config = dataclasses.replace(tiny, vision=vision, image=dataclasses.replace(tiny.image, size=SIZE))
    model = new_model(NewModel(config, (str(written / "model.safetensors"),)))
    fresh = JanusModel(config).vision_model.state_dict()
    assert any(not torch.equal(v, fresh[k]) for k, v in model.vision_model.state_dict().items())
    assert "varied scenes" in (written / "README.md").read_text(encoding="utf-8")


def test_a_run_begins_where_another_left(tmp_path: Path) -> None:
    first = train(recipe(tmp_path))
    again = train(recipe(tmp_path, out=str(tmp_path / "again"), model=str(first), steps=1, learning_rate=0.0))
    before, after = (load_file(folder / "model.safetensors") for folder in (first, again))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    narrow = dataclasses.replace(PRESETS["tiny-v3"].vision, image_size=SIZE, patch_size=32)
    with pytest.raises(ValueError, match=r"2 misshapen: vision_model\.vision_tower\.pos_embed is"):
        train(
            recipe(tmp_path, out=str(tmp_path / "other"), model=str(first), config=dataclasses.asdict(narrow))
        )
    with pytest.raises(ValueError, match="nowhere"):
        train(recipe(tmp_path, out=str(tmp_path / "none"), model=str(tmp_path / "nowhere")))


def test_distilling_asks_for_the_teachers_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def teacher(depths: tuple[int, ...]) -> Perceptual:
        torch.manual_seed(1)
        return Perceptual(timm.create_model(NAME).state_dict(), depths)

    monkeypatch.setattr(patches, "pretrained", teacher)
    config = dataclasses.replace(PRESETS["tiny-v3"].vision, image_size=SIZE, patch_size=16)
    torch.manual_seed(0)
    reader = PatchReader(SiglipTower(config), distil=0.5)
    pixels, grid = torch.rand(8, 3, SIZE, SIZE) * 2 - 1, SIZE // 16
    wanted = reader.teach(pixels[:2])  # a quarter of the pictures
    assert wanted.shape == (2, grid**2, 432)
    torch.testing.assert_close(wanted[..., :112].square().sum(-1), torch.ones(2, grid**2))
    labelled = torch.zeros(8, grid**2, dtype=torch.long), torch.full((8, grid**2), NOTHING)
    labelled[1][0, 0] = 0
    with torch.no_grad():
        loss = reader(pixels, *labelled)[0]
        reader.taught.bias.copy_(wanted[0, 0])
        missed = (reader.taught.bias - wanted).square().sum(-1).mean()
        before = wanted.square().sum(-1).mean()
        torch.testing.assert_close(reader(pixels, *labelled)[0] - loss, 0.5 * (missed - before))
    written = train(recipe(tmp_path, distil=0.5))
    names = load_file(written / "model.safetensors").keys()
    assert {name.partition(".")[0] for name in names} == {"vision_model"}


def test_a_run_goes_on_to_the_same_encoder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train(recipe(tmp_path / "a"))
    train(recipe(tmp_path / "b", steps=2, schedule="constant"))
    with pytest.raises(ValueError, match="another recipe; it differs in schedule"):
        train(recipe(tmp_path / "b"))
    with pytest.raises(ValueError, match=r"differs in looks\[1\] \('tidy', now 'varied'\).  Give this run"):
        train(recipe(tmp_path / "a", looks=["varied", "varied"]))
    train(recipe(tmp_path / "a", steps=4))  # finished already
    (tmp_path / "c").mkdir()
    constant = train(recipe(tmp_path / "c", schedule="constant"))
    part = train(recipe(tmp_path / "b", schedule="constant"))
    name = "model.safetensors"
    assert (part / name).read_bytes() == (constant / name).read_bytes()
    assert (whole / name).read_bytes() != (constant / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"looks": []}, "looks is empty"),
        ({"distil": -1.0}, "distil must be at least 0, not -1"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"looks": ["wild"]}, "must be one of"),
        ({"speed": 1}, r"unknown fields \['speed'\]"),
    ],
)
def test_wrong_recipes(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(recipe(tmp_path, **changes))
