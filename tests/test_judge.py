"""The scene judge: targets and decoding, training, strictness, colours, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from janus.data.art import Sprite
from janus.data.scenes import SceneMaker, relation
from janus.data.shipped import shipped_sprites
from janus.data.subjects import COLOURS, NAMES
from janus.eval.detect import Detection
from janus.eval.finder import Finder, FinderConfig, Maps, boxes_of, things_in
from janus.eval.geneval_rules import RULES, Seen, counted, verdict
from janus.eval.judge import ABOUT, WEIGHTS, Certainty, SceneJudge, thing_mask
from janus.train.damage import blotched, damaged, spoiled
from janus.train.detector import DetectorRecipe, Scenes, Targets, losses, targets, train_detector
from janus.train.detector_check import chosen, sample_of, strictness, tally

TINY = FinderConfig(3, 48, (8, 16, 24, 32), (1, 1, 1), 24)
DRAWN = {"apple": "noto:🍎", "banana": "noto:🍌", "cup": "noto:☕"}  # what things.json draws of each


def sprites() -> list[Sprite]:
    """A disc, a square and a ring, in two styles."""
    made = []
    for style in ("noto", "fluent-flat"):
        for number, (name, key) in enumerate(DRAWN.items()):
            picture = Image.new("RGBA", (64, 64))
            draw = ImageDraw.Draw(picture)
            colour = [(210, 30, 40, 255), (240, 210, 40, 255), (40, 90, 220, 255)][number]
            if number == 1:
                draw.rectangle((2, 2, 61, 61), colour)
            else:
                draw.ellipse((1, 1, 62, 62), colour if number == 0 else None, colour, 14)
            made.append(Sprite(name, style, key.partition(":")[2], np.array(picture)))
    return made


def perfect(wanted: Targets, classes: int) -> Maps:
    """What a network without fault says: logits for the targets of one picture."""
    kind = torch.nn.functional.one_hot(wanted.kind, classes).permute(2, 0, 1) * 30.0
    return Maps(wanted.middle.logit(1e-6)[None], kind[None], wanted.place[None], wanted.extent[None])


def found(boxes: list[tuple[int, int, int, int]], kinds: list[int]) -> list[tuple[int, list[float]]]:
    """Class and box of what is read from perfect maps, in the order of the boxes."""
    maps = perfect(targets(np.array(boxes).reshape(-1, 4), np.array(kinds, np.int64), 96), 80)
    (things,) = things_in(maps, 0.3)
    return sorted(zip(things.kinds.tolist(), things.boxes.tolist(), strict=True), key=lambda t: t[1])


def test_things_come_back_exactly() -> None:
    boxes, kinds = [(0, 0, 20, 31), (30, 5, 33, 60), (40, 40, 95, 96), (61, 3, 90, 33)], [7, 79, 0, 7]
    things = found(boxes, kinds)
    assert [kind for kind, _ in things] == kinds
    assert np.allclose([box for _, box in things], boxes, atol=1e-3)
    assert found([], []) == []


@pytest.mark.parametrize(
    "boxes",
    [
        [(10, 10, 30, 30), (30, 10, 50, 30)],
        [(10, 10, 22, 22), (20, 12, 32, 24)],
        [(0, 0, 9, 9), (9, 0, 18, 9)],
    ],
)
def test_two_of_a_kind_side_by_side_are_two(boxes: list[tuple[int, int, int, int]]) -> None:
    assert [box for _, box in found(boxes, [5, 5])] == [pytest.approx(box, abs=1e-3) for box in boxes]


def test_one_box_is_one_thing_whatever_it_looks_like() -> None:
    maps = perfect(targets(np.array([(8, 8, 40, 40)]), np.array([3]), 96), 80)
    maps.middle[0, 3, 3] = 2.0  # a second middle, a little less certain, that speaks of nearly the same box
    maps.middle[0, 2:5, 2:5][torch.ones(3, 3).bool() & (torch.arange(9).reshape(3, 3) != 4)] = -5.0
    maps.kind[0, 9, 3, 3] = 99.0
    maps.place[0, :, 3, 3] = 2.4
    maps.extent[0, :, 3, 3] = np.log(8)
    assert things_in(maps, 0.3)[0].kinds.tolist() == [3]


def test_every_cell_near_a_middle_speaks_of_the_whole_box() -> None:
    wanted = targets(np.array([(10, 20, 60, 50)]), np.array([1]), 96)
    boxes = boxes_of(perfect(wanted, 80))[0]
    near = wanted.weight > 0
    assert near.sum() > 5
    assert torch.allclose(boxes[:, near], torch.tensor([10.0, 20, 60, 50])[:, None], atol=1e-3)
    assert wanted.middle.max() == 1
    assert (wanted.middle == 1).sum() == 1


def test_losses_vanish_for_the_truth_and_not_otherwise() -> None:
    wanted = targets(np.array([(10, 20, 60, 50), (60, 60, 90, 90)]), np.array([1, 2]), 96)
    one = Targets(*(part[None] for part in wanted))
    good = losses(perfect(wanted, 3), one)
    assert good[1:].max() < 1e-5
    other = targets(np.array([(50, 20, 90, 40)]), np.array([0]), 96)
    assert (losses(perfect(other, 3), one) > good + 0.1).all()
    empty = Targets(*(part[None] for part in targets(np.zeros((0, 4)), np.zeros(0, np.int64), 96)))
    assert torch.isfinite(losses(perfect(other, 3), empty)).all()


def test_a_small_network_learns_four_scenes() -> None:
    pictures, truths = [], []
    for i, boxes in enumerate([[(4, 4, 24, 24)], [(2, 20, 20, 38), (22, 20, 40, 38)], [(20, 6, 44, 30)], []]):
        picture = Image.new("RGB", (48, 48), (230, 240, 225))
        for box in boxes:
            left, top, right, bottom = box
            edges = (left, top, right - 1, bottom - 1)
            draw = ImageDraw.Draw(picture)
            draw.ellipse(edges, "red") if i == 1 else draw.rectangle(edges, ("blue", "", "green")[i])
        pictures.append(picture)
        truths.append([(NAMES[i % 3], box) for box in boxes])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        finder = Finder(TINY)
    wanted = [
        targets(np.array([b for _, b in t]).reshape(-1, 4), np.array([NAMES.index(n) for n, _ in t]), 48)
        for t in truths
    ]
    batch = Targets(*(torch.stack(parts) for parts in zip(*wanted, strict=True)))
    pixels = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 127.5 - 1 for p in pictures])
    optimizer = torch.optim.AdamW(finder.parameters(), 3e-3)
    for _ in range(80):
        loss = losses(finder(pixels), batch).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    judge = SceneJudge(finder, Certainty(0.3, 0.9), NAMES[:3])
    seen = judge.detect([picture.resize((96, 48)) for picture in pictures])  # boxes are told in its pixels
    for things, truth in zip(seen, truths, strict=True):
        wide = [(name, (2 * l, t, 2 * r, b)) for name, (l, t, r, b) in truth]
        assert tally(things, wide, 0.3) == (len(truth), len(truth), len(truth))


def test_certainty_moves_both_thresholds_and_keeps_the_order() -> None:
    told = Certainty(0.42, 0.6).told(torch.tensor([0.0, 0.1, 0.42, 0.5, 0.6, 0.9, 1.0]))
    assert told[2].item() == pytest.approx(0.3)
    assert told[4].item() == pytest.approx(0.9)
    assert (told.diff() > 0).all()
    with pytest.raises(ValueError, match=r"least 0\.6 and sure 0\.6"):
        Certainty(0.6, 0.6)


def test_thresholds_are_chosen_between_wrong_and_right() -> None:
    truth = [("apple", (0.0, 0.0, 9.0, 9.0))]
    told = [Detection("apple", 0.7, (0, 0, 9, 9)), Detection("cup", 0.4, (0, 0, 9, 9))]
    picked = chosen([told] * 3, [truth] * 3)
    assert 0.4 <= picked.least < picked.sure < 0.7


def test_tally_wants_the_class_and_the_place_once() -> None:
    truth = [("apple", (0.0, 0.0, 20.0, 20.0)), ("cup", (40.0, 40.0, 60.0, 60.0))]
    told = [
        Detection("apple", 0.9, (1, 0, 20, 20)),
        Detection("apple", 0.8, (0, 0, 20, 21)),  # the same one again
        Detection("cup", 0.7, (0, 0, 20, 20)),  # elsewhere
        Detection("cup", 0.2, (40, 40, 60, 60)),  # not certain enough
    ]
    assert tally(told, truth, 0.3) == (1, 3, 2)


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_are_those_of_the_thing_not_of_what_is_behind(colour: str) -> None:
    shades = {
        "red": (222, 40, 44),
        "orange": (245, 135, 31),
        "yellow": (250, 211, 42),
        "green": (62, 166, 68),
    }
    shades |= {
        "blue": (38, 108, 220),
        "purple": (136, 58, 178),
        "pink": (248, 140, 190),
        "brown": (128, 78, 44),
    }
    shades |= {"black": (42, 42, 46), "white": (246, 246, 246)}
    picture = Image.new("RGB", (96, 96), (206, 228, 245))
    draw = ImageDraw.Draw(picture)
    draw.line((20, 20, 60, 60), shades[colour], 5)  # most of its box shows the background
    draw.rectangle((70, 5, 90, 25), "green")
    judge = SceneJudge(Finder(TINY), Certainty(0.3, 0.9), NAMES[:3])
    assert judge.colours(picture, [Detection("apple", 1.0, (18, 18, 62, 62))]) == [colour]
    _, mask = thing_mask(np.array(picture), (18, 18, 62, 62))
    assert 0.04 < mask.mean() < 0.2


def test_masks_of_odd_boxes() -> None:
    pixels = np.full((40, 60, 3), 90, np.uint8)
    for box in [(0, 0, 60, 40), (-5, -5, 99, 99), (59.7, 39.9, 70, 70), (10.2, 10.2, 10.3, 10.3)]:
        (left, top, right, bottom), mask = thing_mask(pixels, box)
        assert 0 <= left < right <= 60
        assert 0 <= top < bottom <= 40
        assert mask.shape == (bottom - top, right - left)
        assert mask.any()


def test_a_judge_comes_back_from_its_folder(tmp_path: Path) -> None:
    judge = SceneJudge(Finder(TINY), Certainty(0.35, 0.8), NAMES[:3], {"precision": 0.9})
    judge.save(tmp_path / "judge")
    again = SceneJudge.from_pretrained(tmp_path / "judge")
    assert (again.certainty, again.names, again.finder.config) == (judge.certainty, NAMES[:3], TINY)
    assert again.figures["precision"] == 0.9
    assert len(again.figures["weights"]) == 16
    for name, value in judge.finder.state_dict().items():
        assert torch.equal(again.finder.state_dict()[name], value.half().to(value.dtype))
    assert again.detect([Image.new("L", (10, 10))]) is not None  # of any mode and size


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"no {WEIGHTS} and no {ABOUT}"):
        SceneJudge.from_pretrained(tmp_path)
    SceneJudge(Finder(TINY), Certainty(0.35, 0.8), NAMES[:3]).save(tmp_path)
    about = json.loads((tmp_path / ABOUT).read_text())
    for change, message in [
        ({"names": ["apple"]}, "knows 3 classes, and there are 1 names"),
        ({"finder": about["finder"] | {"depth": 3}}, "unknown fields"),
        ({"certainty": {"least": 0.9, "sure": 0.1}}, "least 0.9 and sure 0.1"),
    ]:
        (tmp_path / ABOUT).write_text(json.dumps(about | change))
        with pytest.raises(ValueError, match=message):
            SceneJudge.from_pretrained(tmp_path)
    (tmp_path / ABOUT).write_text(json.dumps(about))
    weights = load_file(tmp_path / WEIGHTS)
    weights["out.weight"] = weights["out.weight"][:5].contiguous()
    weights["more"] = weights.pop("out.bias")
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"more is unknown.*out\.bias is not in it.*out\.weight is \[5"):
        SceneJudge.from_pretrained(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot read"):
        SceneJudge.from_pretrained(tmp_path)


def test_impossible_networks_and_recipes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16 pixels, not 100"):
        FinderConfig(size=100)
    with pytest.raises(ValueError, match="four widths"):
        FinderConfig(widths=(8, 8))
    with pytest.raises(ValueError, match="not seed 1"):
        DetectorRecipe("out", 5, seed=1)
    with pytest.raises(ValueError, match="held-out style"):
        DetectorRecipe("out", 5, looks=("held-out style",))


def test_training_pictures_are_the_same_again_and_spoiled_things_are_none() -> None:
    maker = SceneMaker(sprites(), 96)
    recipe = DetectorRecipe("out", 4, damage=0.5, spoil=0.5, held_out=0.0)
    scenes, again = Scenes(recipe, maker), Scenes(recipe, SceneMaker(sprites(), 96))
    assert torch.equal(scenes[3][0], again[3][0])
    whole = Scenes(DetectorRecipe("out", 4, damage=0.0, spoil=0.0, empty=0.0, held_out=0.0), maker)
    fewer = 0
    for i in range(40):
        picture, things = scenes.picture(i)
        assert picture.shape == (96, 96, 3)
        assert picture.dtype == np.uint8
        _, all_things = whole.picture(i)
        assert set(things) <= set(all_things)
        fewer += len(all_things) - len(things)
    assert 5 < fewer < 40


def test_harm_is_done_where_it_should_be() -> None:
    rng = np.random.default_rng(0)
    picture = np.full((96, 96, 3), (206, 228, 245), np.uint8)
    picture[30:60, 20:70] = rng.integers(0, 256, (30, 50, 3))
    harm: list[float] = []
    for _ in range(20):
        made = spoiled(picture, (20, 30, 70, 60), rng).astype(int)
        apart = np.abs(made - picture).max(-1) > 20
        assert apart[30:60, 20:70].mean() > 0.3
        apart[30:60, 20:70] = False
        assert not apart.any()
        hurt = damaged(picture, rng).astype(int)
        harm.append(np.abs(hurt - picture)[70:].mean())
    assert 0 < np.mean(harm) < 20
    assert (blotched(picture, rng) != picture).any()


def test_what_a_scene_was_made_for_passes_and_what_was_changed_does_not() -> None:
    """The samples of scenes, judged from the scenes themselves."""
    maker, rng = SceneMaker(sprites(), 96), np.random.default_rng(5)
    changes = {"two_object": ["thing"], "position": ["place", "thing"], "counting": ["number", "thing"]}
    changes |= {"color_attr": ["colour"], "colors": ["colour"], "single_object": ["thing"]}
    for kind, facts in changes.items():
        for _ in range(10):
            scene = maker.make("tidy", rng, kind)  # type: ignore[arg-type]
            sample = sample_of(scene)
            for made, passes in [(scene, True), *((maker.changed(scene, f, rng), False) for f in facts)]:  # type: ignore[arg-type]
                seen = [Seen(t.name, 1.0, t.box, t.colour) for t in made.things]
                rules = RULES["official"]
                assert verdict(sample, counted(seen, kind, rules), rules).correct == passes, (
                    kind,
                    scene,
                    made,
                )
    two = maker.make("tidy", rng, "position")
    assert sample_of(two)["include"][1]["position"][0] == relation(two.things[0].box, two.things[1].box)


def test_a_run_ends_with_a_judge(tmp_path: Path) -> None:
    recipe = DetectorRecipe(
        str(tmp_path / "run"),
        2,
        config=FinderConfig(80, 48, (4, 8, 8, 8), (1, 1, 1), 8),
        batch=2,
        checked=2,
        workers=0,
        held_out=0.0,
    )
    folder = train_detector(recipe, sprites() + held_out_sprites())
    judge = SceneJudge.from_pretrained(folder)
    assert {"precision tidy", "recall held-out style", "counting: true", "counting: another number"} <= set(
        judge.figures
    )
    assert all(0 <= v <= 1 for v in judge.figures.values() if isinstance(v, float))
    before = (folder / WEIGHTS).read_bytes()
    assert train_detector(recipe, sprites() + held_out_sprites()) == folder  # there is nothing left to do
    assert (folder / WEIGHTS).read_bytes() == before


def held_out_sprites() -> list[Sprite]:
    return [Sprite(s.name, "twemoji", s.emoji, s.pixels) for s in sprites()[:3]]


def test_the_judge_that_ships_passes_what_is_true_and_nothing_else() -> None:
    maker = SceneMaker(shipped_sprites(), 96)
    for kind, fact, share in strictness(SceneJudge.from_pretrained(), maker, count=30):
        assert share >= 0.95 if fact is None else share <= 0.05, (kind, fact, share)
