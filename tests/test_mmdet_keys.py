"""mmdet's checkpoints: what is in them, and what it is in transformers."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from janus.data.subjects import NAMES
from janus.eval.mmdet_keys import Sizes, check_classes, converted, merged, read, relative_positions, rows
from tests.mask2former_cases import META, mmdet_state, tiny_sizes

GOLDEN = Path(__file__).parent / "golden" / "mask2former.json"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return mmdet_state()


def testrelative_positions_are_numbered_as_in_mmdet() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert relative_positions(7)[:, ::7].flatten()[:50].tolist() == golden["index"]


def test_the_table_has_every_tensor_of_the_published_detector() -> None:
    table = list(rows(Sizes()))
    assert len({row.name for row in table}) == len(table) == 649  # of mmdet's model
    names = [name for row in table for name in row.names]
    assert len(set(names)) == len(names)


def testmerged_patches_in_another_order_are_the_same() -> None:
    channels, out = 5, 3
    picture = torch.randn(1, channels, 4, 6, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(out, 4 * channels, generator=torch.Generator().manual_seed(1))
    by_unfold = weight @ nn.functional.unfold(picture, 2, stride=2)[0]
    neighbours = [picture[0, :, row::2, column::2] for column in range(2) for row in range(2)]
    by_slices = merged(weight) @ torch.cat(neighbours).flatten(1)
    torch.testing.assert_close(by_unfold, by_slices)


# -- checkpoints of mmdet's ----------------------------------------------------------------------


def test_all_tensors_that_do_not_fit_are_named(state: State) -> None:
    spoilt = dict(state)
    spoilt["panoptic_head.cls_embed.weigth"] = spoilt.pop("panoptic_head.cls_embed.weight")
    spoilt["backbone.norm0.bias"] = torch.zeros(3)
    spoilt["backbone.norm1.bias"] = spoilt["backbone.norm1.bias"] * float("nan")
    with pytest.raises(ValueError, match="1 unknown") as error:
        converted(spoilt, tiny_sizes(), "spoilt.pth")
    for part in (
        "spoilt.pth is no checkpoint",
        "1 unknown: panoptic_head.cls_embed.weigth",
        "1 missing: panoptic_head.cls_embed.weight",
        "2 misshapen: backbone.norm0.bias is [3] instead of [16], backbone.norm1.bias has numbers",
    ):
        assert part in str(error.value)


def test_the_weights_of_another_size_are_refused(state: State) -> None:
    with pytest.raises(ValueError, match="224 missing: backbone"):
        converted(state, replace(tiny_sizes(), swin_depths=(2, 2, 18, 2)), "swin-t.pth")
    with pytest.raises(ValueError, match=r"cls_embed.weight is \[81, 32\] instead of \[134, 32\]"):
        converted(state, replace(tiny_sizes(), classes=133), "panoptic.pth")


def test_other_numbers_ofrelative_positions_are_refused(state: State) -> None:
    name = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"
    with pytest.raises(ValueError, match="another order"):
        converted(state | {name: state[name].T.contiguous()}, tiny_sizes(), "odd.pth")


@pytest.mark.parametrize("as_zip", [True, False])
def test_what_mmdet_stores_beside_weights_is_read_and_left(tmp_path: Path, as_zip: bool) -> None:
    weights = OrderedDict(a=torch.ones(2, 3))
    weights._metadata = OrderedDict(a={"version": 1})  # type: ignore[attr-defined]
    path = tmp_path / "model.pth"
    torch.save({"meta": META, "state_dict": weights}, path, _use_new_zipfile_serialization=as_zip)
    got, digest = read(path)
    assert list(got) == ["a"]
    assert torch.equal(got["a"], torch.ones(2, 3))
    assert len(digest) == 64


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch hacked",)


def test_a_checkpoint_that_could_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    torch.save({"meta": {"CLASSES": Evil()}, "state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"could run code: .*\bsystem\b"):
        read(path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "no state_dict of tensors"),
        ([1], "no state_dict of tensors"),
        ({"state_dict": {"a": 1}}, "no state_dict of tensors"),
        ({"state_dict": {}, "meta": {"CLASSES": NAMES[:79]}}, "the 79 classes"),
        (
            {"state_dict": {}, "meta": {"CLASSES": NAMES[1::-1] + NAMES[2:]}},
            "wrong are 0: bicycle, 1: person",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "model.pth")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(9)}}, tmp_path / "model.pth")
    data = (tmp_path / "model.pth").read_bytes()
    for part in (data[: len(data) // 2], b"", b"<html>not found</html>"):
        (tmp_path / "model.pth").write_bytes(part)
        with pytest.raises(ValueError, match=r"model\.pth"):
            read(tmp_path / "model.pth")


def test_a_name_must_be_right_about_the_hash(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"a": torch.zeros(9)}}, path)
    _, digest = read(path)
    read(path.rename(tmp_path / f"model-{digest[:8]}.pth"))
    with pytest.raises(ValueError, match=rf"should begin with 743b7d99, .* begins {digest[:8]}"):
        read((tmp_path / f"model-{digest[:8]}.pth").rename(tmp_path / "model-743b7d99.pth"))


def test_classes_may_be_spelt_as_in_pascal_voc() -> None:
    spelt = {"motorcycle": "motorbike", "couch": "sofa", "tv": "tvmonitor", "dining table": "diningtable"}
    check_classes([spelt.get(name, name).replace(" ", "_") for name in NAMES], "here")
    with pytest.raises(ValueError, match="57: settee"):
        check_classes(["settee" if name == "couch" else name for name in NAMES], "here")
