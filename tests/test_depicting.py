"""The loss that asks a caption's names for the codes of what they name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from janus.config import PRESETS
from janus.data.records import Record
from janus.data.scenes import Background, Scene, SceneMaker, Thing
from janus.data.shipped import shipped_sprites
from janus.data.wording import caption, mentions
from janus.model import JanusModel
from janus.tokenizers.text import TextTokenizer, train_bpe
from janus.train.packing import Sample, collate
from janus.train.parallel import Parallel, Trained
from janus.train.stream import Writer

TINY = PRESETS["tiny-v3"]


@pytest.fixture
def words(tmp_path: Path) -> TextTokenizer:
    return train_bpe(["a photo of a red car and a cup"] * 9, 400, TINY.prompt, tmp_path)


def test_every_caption_mentions_every_thing() -> None:
    maker = SceneMaker(shipped_sprites(), 96)
    for number in range(300):
        scene = maker.at("tidy", 3, number)
        text = caption(scene, np.random.default_rng(number))
        found = mentions(text, scene)
        assert {thing.words for _, thing in found} == {thing.words for thing in scene.things}, text
        assert [end for end, _ in found] == sorted({end for end, _ in found})


@pytest.mark.parametrize(
    ("text", "things", "ends"),
    [
        ("a bear left of a teddy bear", ["bear", "teddy bear"], ["a bear", "a bear left of a teddy bear"]),
        ("a teddy bear above a bear.", ["bear", "teddy bear"], ["a teddy bear", "a teddy bear above a bear"]),
        (
            "an orange and an orange cup",
            ["orange", "orange/cup"],
            ["an orange", "an orange and an orange cup"],
        ),
        ("A car that is red", ["red/car"], ["A car that is red"]),
        ("three knifes", ["knife", "knife", "knife"], ["three knifes"]),
        ("一辆红色的汽车和一只猫", ["red/car", "cat"], ["一辆红色的汽车", "一辆红色的汽车和一只猫"]),
    ],
)
def test_where_things_are_mentioned(text: str, things: list[str], ends: list[str]) -> None:
    made = []
    for words in things:
        colour, _, name = words.rpartition("/")
        made.append(Thing(name, colour or None, 0, (0, 0, 1, 1)))
    scene = Scene(tuple(made), Background(((0, 0, 0),)), None)
    assert [text[:end] for end, _ in mentions(text, scene)] == ends


def test_mentions_are_found_in_the_prompt(words: TextTokenizer) -> None:
    text, codes = "a photo of a red car and a cup", np.arange(TINY.vq.tokens)
    given = ((20, np.array([5, 6, 7])), (30, np.array([8])), (18, np.array([9])))  # the last cuts "car"
    record = Record("one", "generation", text, codes=codes, mentions=given)
    draft = Writer(TINY, words, drop=0.0)(record, np.random.default_rng(0))
    ends = [(words.decode(draft.ids[: place + 1]), own.tolist()) for place, own in draft.mentions]
    assert [(begun[-len(text) :].split(" a ")[-1], own) for begun, own in ends] == [
        ("red car", [5, 6, 7]),
        ("cup", [8]),
    ]
    assert not Writer(TINY, words, drop=0.999)(record, np.random.default_rng(0)).mentions


def test_names_are_asked_for_codes_halfway_up(words: TextTokenizer) -> None:
    model, count = JanusModel(TINY), TINY.vq.tokens
    ids = [words.bos_id, 9, 10, 11, words.begin_image_id] + [words.image_id] * count
    codes = torch.arange(count)
    two = Sample(ids, [], codes=codes, mentions=[(1, torch.tensor([3, 4, 5])), (3, torch.tensor([6]))])
    batch = collate([[Sample(ids, [], codes=codes), two]], 2 * len(ids), words, count).batch
    trained = Trained(model, Parallel("cpu"), depicting=0.5)
    assert trained.depict is not None
    kept: list[torch.Tensor] = []
    model.core.layers[(len(model.core.layers) - 1) // 2].register_forward_hook(
        lambda _layer, _given, out: kept.append(out)
    )
    with torch.no_grad():
        losses = trained.train()(batch)
        places = [len(ids) + 1, len(ids) + 3]
        vectors = torch.nn.functional.rms_norm(kept[0][0, places], kept[0].shape[-1:])
        chances = model.image_logits(trained.depict.turn(vectors)).log_softmax(-1)
        first = -(chances[0, 3] + chances[0, [3, 4, 5]].mean()) / 2
        second = -chances[1, 6]
        expected = model.core.balance_loss() + 0.5 * (first + second) / 2
        torch.testing.assert_close(losses.balance, expected)
        assert float(trained.eval()(batch).balance) == 0
        nothing = collate([[Sample(ids, [], codes=codes)]], len(ids), words, count).batch
        trained.train()(nothing)
        assert float(trained.told["depicting"]) == 0
