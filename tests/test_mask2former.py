"""The published detector: mmdet's Mask2Former, read from its checkpoint and run by transformers."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from torch import Tensor, nn

from janus.data.subjects import NAMES
from janus.eval.benchmark import Answers, Item
from janus.eval.clip_colours import OPENAI_SHA256, ClipColours
from janus.eval.detect import Detection, Mask, caveat, load_detector, nothing_found
from janus.eval.geneval_rules import Seen
from janus.eval.instances import prepared, resized, things_in
from janus.eval.mask2former import Mask2Former, segmenter_of
from janus.eval.mmdet_keys import OFFICIAL_SHA256
from janus.eval.seen import see
from tests.mask2former_cases import (
    META,
    mmdet_state,
    noise,
    pictures,
    some_classes,
    some_pixels,
    sums,
    tiny_sizes,
)
from tests.stand_ins import LINES, Numbers, numbers

GOLDEN = Path(__file__).parent / "golden" / "mask2former.json"
State = dict[str, Tensor]
COLOURLESS = ClipColours(nn.Linear(1, 1), lambda texts: torch.zeros(len(texts), 1, dtype=torch.long))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GOLDEN.read_text())
    return content


@pytest.fixture(scope="module")
def state() -> State:
    return mmdet_state()


@pytest.fixture(scope="module")
def segmenter(state: State) -> nn.Module:
    return segmenter_of(state, tiny_sizes(), "memory")


# -- side by side with mmdet ---------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_mmdet_sees_the_same_things(golden: dict[str, Any], segmenter: nn.Module) -> None:
    for picture, expected in zip(pictures(), golden["pictures"], strict=True):
        pixels, inner = prepared(picture)
        assert list(pixels.shape) == expected["shape"]
        assert sums(pixels) == pytest.approx(expected["sums"], abs=2e-5)
        with torch.inference_mode():
            classes, masks = segmenter(pixels[None])
        for ours, official in ((some_classes(classes[0]), "classes"), (some_pixels(masks[0]), "masks")):
            torch.testing.assert_close(ours.flatten(), torch.tensor(expected[official]), atol=0.01, rtol=0)
        padded = (pixels.shape[1], pixels.shape[2])
        things = things_in(classes[0], masks[0], padded, inner, picture.size[::-1])
        assert len(things.kinds) == 100
        order = things.scores.argsort(descending=True)[:50]
        for index, (kind, score, *box, area) in zip(order.tolist(), expected["things"], strict=True):
            assert things.kinds[index] == kind
            assert float(things.scores[index]) == pytest.approx(score, abs=1e-3)
            assert things.boxes[index].tolist() == pytest.approx(box, abs=1)
            assert float(things.masks[index].sum()) == pytest.approx(area, abs=2 + 0.002 * area)


def test_opencv_resizes_to_the_same_bits(golden: dict[str, Any]) -> None:
    for height, width, new_height, new_width, crc in golden["resized"]:
        ours = resized(noise(height, width), (new_height, new_width))
        assert ours.shape == (new_height, new_width, 3)
        assert zlib.crc32(ours.tobytes()) == crc, (height, width, new_height, new_width)


# -- checkpoints of transformers' ----------------------------------------------------------------


def saved(segmenter: Any, folder: Path, labels: tuple[str, ...] = META["CLASSES"]) -> Path:  # type: ignore[assignment]
    """As the hub has them, with the tensors that nothing needs."""
    from safetensors.torch import load_file, save_file

    segmenter.config.id2label = dict(enumerate(labels))
    segmenter.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.pixel_level_module.encoder.swin.layernorm.weight"]
    table = next(name for name in weights if name.endswith("relative_position_bias_table"))
    weights[table.replace("bias_table", "index")] = torch.zeros(2, 2, dtype=torch.long)
    weights["criterion.empty_weight"] = torch.ones(81)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClipColours, "from_pretrained", lambda *_: COLOURLESS)


@pytest.mark.usefixtures("no_clip", "one_thread")
def test_both_kinds_of_checkpoints_give_the_same_detector(
    tmp_path: Path, state: State, segmenter: nn.Module
) -> None:
    path = tmp_path / "tiny.pth"
    torch.save({"meta": META, "state_dict": state}, path)
    theirs = Mask2Former.from_pretrained(path, "clip", "cpu", sizes=tiny_sizes())
    ours = Mask2Former.from_pretrained(saved(segmenter, tmp_path / "hub"), "clip", "cpu")
    picture = pictures()[2]
    found = theirs.detect([picture])[0]
    assert found == ours.detect([picture])[0]
    assert found
    assert [thing.mask for thing in found] == [thing.mask for thing in ours.detect([picture])[0]]
    assert theirs.figures["detector"] == "an mmdet checkpoint"
    assert ours.figures["detector"] == "a transformers checkpoint"
    assert theirs.figures["detector_weights"] != ours.figures["detector_weights"]


@pytest.mark.usefixtures("no_clip")
def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path, segmenter: nn.Module) -> None:
    folder = saved(segmenter, tmp_path, ("person",) * 80)
    with pytest.raises(ValueError, match="not COCO's eighty"):
        Mask2Former.from_pretrained(folder, "clip")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = dict(enumerate(NAMES))
    (folder / "config.json").write_text(json.dumps(config | {"num_queries": 13, "dim_feedforward": 64}))
    with pytest.raises(ValueError, match=r"2 misshapen: .*_embedder.weight is \[12, 32\] instead of \[13"):
        Mask2Former.from_pretrained(folder, "clip")
    (folder / "config.json").write_text(json.dumps(config | {"decoder_layers": 6}))
    with pytest.raises(ValueError, match=r"missing: model.transformer_module.decoder.layers.4"):
        Mask2Former.from_pretrained(folder, "clip")
    (folder / "config.json").write_text(json.dumps({"model_type": "detr"}))
    with pytest.raises(ValueError, match="not mask2former with swin"):
        Mask2Former.from_pretrained(folder, "clip")


@pytest.mark.usefixtures("no_clip")
def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="needs the weights of Mask2Former"):
        load_detector("mask2former")
    with pytest.raises(ValueError, match="needs the weights of CLIP"):
        load_detector("mask2former", source="m.pth")
    with pytest.raises(ValueError, match="nowhere/at/all is neither"):
        load_detector("mask2former", source="nowhere/at/all", clip="c")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'pip install "janus-pro\[eval\]"'):
        load_detector("mask2former", source="some/id", clip="c")


# -- things --------------------------------------------------------------------------------------


def logits(*queries: dict[int, float]) -> Tensor:
    """Class logits of queries, by class; 80 is the background."""
    made = torch.full((len(queries), 81), -20.0)
    for row, values in zip(made, queries, strict=True):
        for index, value in values.items():
            row[index] = value
    return made


def squares(*boxes: tuple[int, int, int, int]) -> Tensor:
    """Mask logits of 16 by 16, large within a box and a little less below 0 outside."""
    made = torch.full((len(boxes), 16, 16), -29.0)
    for mask, (left, top, right, bottom) in zip(made, boxes, strict=True):
        mask[top:bottom, left:right] = 30
    return made


def test_one_query_can_be_several_classes_and_none_is_the_background() -> None:
    classes = logits({15: 2.0, 16: 2.0, 80: 2.0}, {80: 9.0, 1: 0.0})
    things = things_in(classes, squares((2, 3, 9, 12), (0, 0, 4, 4)), (16, 16), (16, 16), (16, 16), 0.01)
    assert sorted(things.kinds.tolist()) == [15, 16]
    assert things.scores.tolist() == pytest.approx([1 / 3, 1 / 3], abs=1e-4)
    assert things.boxes.tolist() == [[2, 3, 9, 12]] * 2
    assert [int(mask.sum()) for mask in things.masks] == [63, 63]


def test_a_thing_without_a_pixel_scores_nothing() -> None:
    things = things_in(logits({15: 9.0}), squares((0, 0, 0, 0)), (16, 16), (16, 16), (16, 16))
    assert things.scores.max() == 0
    assert things.boxes.unique().tolist() == [0]


def test_a_score_is_the_class_times_the_mean_within_the_mask() -> None:
    mask = torch.full((1, 16, 16), -1.0)
    mask[0, :8, :8] = 1.0
    things = things_in(logits({3: 1.0, 80: 1.0}), mask, (16, 16), (16, 16), (16, 16), 0.1)
    assert things.scores.tolist() == pytest.approx([0.5 * 0.7310586], abs=1e-5)


def test_padding_is_cut_off_before_masks_get_the_size_of_the_picture() -> None:
    things = things_in(logits({3: 9.0}), squares((8, 8, 16, 16)), (64, 64), (48, 40), (96, 80), 0.5)
    (left, top, right, bottom) = things.boxes[0].tolist()
    assert (right, bottom) == (80, 96)
    assert (left, top) == (64, 64)


def test_a_picture_has_at_most_a_hundred_things() -> None:
    classes = torch.zeros(3, 81)
    assert len(things_in(classes, squares(*[(0, 0, 4, 4)] * 3), (16, 16), (16, 16), (16, 16)).kinds) == 100


@given(
    arrays(np.float32, (4, 81), elements=st.floats(-9, 9, width=32)),
    arrays(np.float32, (4, 6, 5), elements=st.floats(-9, 9, width=32)),
    st.floats(0, 1),
)
def test_leaving_out_the_doubtful_changes_nothing_else(classes: Any, masks: Any, least: float) -> None:
    args = (torch.from_numpy(classes), torch.from_numpy(masks), (24, 20), (22, 20), (11, 10))
    everything, some = things_in(*args), things_in(*args, least)

    def rows_of(things: Any, lowest: float) -> list[tuple[Any, ...]]:
        given = things.kinds, things.boxes, things.masks.flatten(1), things.scores
        lines = zip(*(column.tolist() for column in given), strict=True)
        return sorted(line for line in lines if line[3] > lowest + 1e-5)

    told, expected = rows_of(some, least), rows_of(everything, least)
    assert [line[:3] for line in told] == [line[:3] for line in expected]
    assert [line[3] for line in told] == pytest.approx([line[3] for line in expected], abs=1e-5)
    assert not (some.scores < least).any()


# -- the detector --------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Says the same about every picture."""

    def __init__(self, classes: Tensor, masks: Tensor) -> None:
        super().__init__()
        self.classes, self.masks = nn.Parameter(classes), masks

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.classes[None], self.masks[None]


CAT = Fixed(logits({15: 9.0}, {16: 2.0, 80: 3.0}, {0: 0.0, 80: 9.0}), squares(*[(0, 0, 8, 8)] * 3))


def test_what_is_told_are_boxes_and_masks_in_pixels_of_the_picture() -> None:
    cat, dog = Mask2Former(CAT, COLOURLESS).detect([Image.new("RGB", (64, 64))])[0]
    assert (cat.name, dog.name) == ("cat", "dog")
    assert cat.score == pytest.approx(1, abs=1e-3)
    assert 0.05 < dog.score < 0.3  # doubtful, but told
    assert cat.box == (0, 0, 32, 32)
    assert cat.mask is not None
    assert cat.mask.pixels((64, 64)).sum() == pytest.approx(32 * 32, abs=4)  # without a corner


def test_numbers_that_are_none_stop_the_detector() -> None:
    broken = Fixed(torch.full((2, 81), float("nan")), squares((0, 0, 4, 4), (0, 0, 4, 4)))
    with pytest.raises(ValueError, match="weights are broken"):
        Mask2Former(broken, COLOURLESS).detect([Image.new("RGB", (64, 64))])


def test_a_picture_of_a_known_thing_tells_right_weights_from_wrong_ones() -> None:
    detector = Mask2Former(CAT, COLOURLESS)
    detector.self_test(Image.new("RGB", (64, 64)), "cat")
    for name, sure in (("dog", "0.27"), ("zebra", "0.00")):
        with pytest.raises(ValueError, match=f"{sure} sure of a {name}"):
            detector.self_test(Image.new("RGB", (64, 64)), name)


def test_only_both_published_checkpoints_need_no_caveat() -> None:
    def said(sha256: str, clip: str, background: str = "#999") -> str:
        colours = ClipColours(nn.Linear(1, 1), COLOURLESS.tokens, background, sha256=clip)
        return caveat(Mask2Former(CAT, colours, sha256=sha256), "otherwise")

    official, openai = OFFICIAL_SHA256 + "0" * 56, next(iter(OPENAI_SHA256))
    assert said(official, openai) == ""
    assert (
        Mask2Former(CAT, COLOURLESS, sha256=official).figures["detector"] == "the published mmdet checkpoint"
    )
    assert said("1" * 64, openai).startswith("things found by other weights than the published detector's")
    assert said(official, "1" * 64).startswith("colours not named by OpenAI's CLIP")
    assert said(official, openai, "original").startswith("colours not named")
    assert "thresholds" in said("", "")
    assert "colours" in said("", "")


def test_pictures_in_which_nothing_is_found_are_told() -> None:
    assert nothing_found({str(n): [] for n in range(7)}) == ""
    assert "nothing in any of 8 pictures" in nothing_found({str(n): [] for n in range(8)})
    assert nothing_found({str(n): [Detection("cat", 1, (0, 0, 1, 1))] * (n == 3) for n in range(8)}) == ""


# -- masks of detections -------------------------------------------------------------------------


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_a_mask_gives_back_its_pixels(pixels: np.ndarray) -> None:
    mask = Mask.of(pixels)
    size = (pixels.shape[1], pixels.shape[0])
    assert np.array_equal(mask.pixels(size), pixels)
    left, top, right, bottom = mask.box
    assert len(mask.bits) == -((left - right) * (bottom - top) // 8)


def test_a_mask_of_a_larger_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="reaches 9, 4"):
        Mask.of(np.ones((4, 9), bool)).pixels((8, 4))


def test_masks_are_neither_stored_nor_compared(tmp_path: Path) -> None:
    thing = Detection("cat", 0.5, (0, 0, 1, 1), mask=Mask.of(np.ones((2, 2), bool)))
    assert thing == Detection("cat", 0.5, (0, 0, 1, 1))
    assert Seen("cat", 0.5, (0, 0, 1, 1), "red").colour == "red"

    class Masked:
        title = "masked"

        def detect(self, pictures: Any) -> list[list[Detection]]:
            return [[thing] for _ in pictures]

        def colours(self, picture: Any, found: Any) -> list[str]:
            assert all(one.mask is thing.mask for one in found)
            return ["red"] * len(found)

    numbers(tmp_path, Numbers())
    raw = {}
    for line in (tmp_path / "answers.jsonl").read_text().splitlines():
        answer = json.loads(line)
        raw[answer["item"]] = answer
    seen = see(Answers(tmp_path, LINES, "twelve prompts", False, 4, raw), Masked())
    assert seen[Item(0, 0).key] == [Seen("cat", 0.5, (0, 0, 1, 1))]
    kept = next(tmp_path.glob("detections-*.jsonl")).read_text()
    assert "mask" not in kept.replace("masked", "")
