"""The colours of things by CLIP, beside the official script's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from janus.data.subjects import COLOURS
from janus.eval.clip_colours import ClipColours, transform
from janus.eval.detect import Detection, Mask
from tests.clip_cases import BOXES, LENGTH, OPTIONS, cases, config, tokens, weights

GOLDEN = Path(__file__).parent / "golden" / "clip_colours.json"


def made(**changes: str) -> Any:
    """The small CLIP; changes: of both parts' configurations."""
    from transformers import CLIPModel

    settings = config()
    for name, value in changes.items():
        setattr(settings.text_config, name, value)
        setattr(settings.vision_config, name, value)
    model = CLIPModel(settings)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(weights(shapes))
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return made()


def apart(model: nn.Module, background: str, crop: bool) -> float:
    """How far our logits are from the official ones."""
    golden = json.loads(GOLDEN.read_text())["logits"][f"{background} {int(crop)}"]
    colours = ClipColours(model, tokens, background, crop)
    ours = torch.cat([colours.logits(picture, found) for picture, _, found in cases()])
    official = torch.tensor(golden)
    assert ours.shape == official.shape == (2 * len(BOXES), len(COLOURS))
    if background == "#999":
        named = [name for picture, _, found in cases() for name in colours.named(picture, found)]
        assert named == [COLOURS[index] for index in official.argmax(1)]
    return float((ours - official).abs().max())


@pytest.mark.parametrize(("background", "crop"), OPTIONS)
def test_the_official_script_gives_the_same_logits(model: nn.Module, background: str, crop: bool) -> None:
    assert apart(model, background, crop) < 2e-3


def test_the_usual_gelu_gives_other_logits() -> None:
    assert apart(made(hidden_act="gelu"), "original", True) > 0.05


@pytest.mark.parametrize("size", [(60, 60), (61, 40), (30, 97)])
def test_what_clip_sees_is_the_middle_square(size: tuple[int, int]) -> None:
    """The ends of long thin things are lost."""
    picture = Image.new("RGB", size, "red")
    seen = transform(32)(picture)
    assert seen.shape == (3, 32, 32)
    width, height = size
    if width > height:
        picture.paste("blue", (0, 0, (width - height) // 2 - 3, height))
    elif height > width:
        picture.paste("blue", (0, 0, width, (height - width) // 2 - 3))
    assert torch.equal(transform(32)(picture), seen)


def test_what_surrounds_a_thing_counts_only_where_it_is_asked_for(model: nn.Module) -> None:
    inside = np.zeros((40, 40), bool)
    inside[10:30, 10:30] = np.eye(20, dtype=bool)
    thing = Detection("cat", 1, (5, 5, 35, 35), mask=Mask.of(inside))
    red, blue = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    both = Image.composite(red, blue, Image.fromarray(inside))
    official, original = ClipColours(model, tokens), ClipColours(model, tokens, "original")
    assert torch.equal(official.logits(red, [thing]), official.logits(both, [thing]))
    assert not torch.equal(original.logits(red, [thing]), original.logits(both, [thing]))
    assert official.cut_out(both, [thing])[0].getpixel((0, 0)) == (153, 153, 153)
    whole = ClipColours(model, tokens, crop=False).cut_out(both, [thing])[0]
    assert whole.size == (40, 40)
    assert whole.getpixel((10, 10)) == (255, 0, 0)


def test_edges_between_pixels_are_rounded_to_the_even(model: nn.Module) -> None:
    thing = Detection("cat", 1, (2.5, 3.5, 10.5, 11.5))
    assert ClipColours(model, tokens).cut_out(Image.new("RGB", (20, 20)), [thing])[0].size == (8, 8)
    thing = Detection("cat", 1, (2.5, 3.5, 11.5, 12.5))
    assert ClipColours(model, tokens).cut_out(Image.new("RGB", (20, 20)), [thing])[0].size == (10, 8)


def test_the_sentences_of_a_class_are_read_once(model: nn.Module) -> None:
    said: list[list[str]] = []

    def heard(texts: Any) -> Any:
        said.append(list(texts))
        return tokens(texts)

    colours = ClipColours(model, heard)
    picture, _, found = cases()[1]
    assert colours.named(picture, found) == colours.named(picture, found)
    assert colours.named(picture, []) == []
    assert len(said) == 1
    assert len(said[0]) == 30
    assert said[0][:3] == [
        "a photo of a red computer mouse",
        "a photo of a red-colored computer mouse",
        "a photo of a red object",
    ]
    assert said[0][-1] == "a photo of a white object"


def test_a_background_that_is_no_colour_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="greyish"):
        ClipColours(model, tokens, "greyish")


# -- checkpoints ---------------------------------------------------------------------------------


def saved(model: Any, folder: Path, words: int) -> Path:
    """A checkpoint whose tokenizer spells letter by letter, with so many tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz-"
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary += [f"unused{number}" for number in range(words - len(vocabulary) - 2)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def test_a_saved_checkpoint_gives_the_same_logits(model: nn.Module, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(model, tmp_path, 402)
    old = load_file(folder / "model.safetensors")
    old["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]  # as old versions stored it
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    colours = ClipColours.from_pretrained(folder)
    picture, _, found = cases()[0]
    ours = ClipColours(model, colours.tokens)
    assert torch.equal(colours.logits(picture, found), ours.logits(picture, found))
    assert len(colours.sha256) == 64
    assert not colours.official
    ids = colours.tokens(["a cat"])[0]
    assert ids.shape == (LENGTH,)
    assert ids[0] == 400
    assert ids.argmax() == 5  # the end, after four letters


@pytest.mark.parametrize("part", ["text", "vision"])
def test_another_activation_than_openais_is_refused(model: nn.Module, tmp_path: Path, part: str) -> None:
    folder = saved(model, tmp_path, 402)
    settings = json.loads((folder / "config.json").read_text())
    settings[f"{part}_config"]["hidden_act"] = "gelu"
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"clip_{part}_model .* 'gelu'; OpenAI's weights need 'quick_gelu'"):
        ClipColours.from_pretrained(folder)


def test_checkpoints_that_do_not_fit_are_refused(model: nn.Module, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(model, tmp_path, 410)
    with pytest.raises(ValueError, match=r"does not fit its model of 402 tokens: .* 409$"):
        ClipColours.from_pretrained(folder)
    spoilt = load_file(folder / "model.safetensors")
    spoilt["visual_projection.wieght"] = spoilt.pop("visual_projection.weight")
    spoilt["text_projection.weight"] = torch.zeros(2, 2)
    spoilt["logit_scale"] = torch.tensor(float("inf"))
    save_file(spoilt, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"do not fit its config\.json") as error:
        ClipColours.from_pretrained(folder)
    for part in (
        "1 broken: logit_scale",
        "1 unknown: visual_projection.wieght",
        "1 missing: visual_projection.weight",
        "1 misshapen: text_projection.weight is [2, 2] instead of [48, 64]",
    ):
        assert part in str(error.value)
    (folder / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ValueError, match="a siglip checkpoint"):
        ClipColours.from_pretrained(folder)
