"""Naming what patches show: the words that are asked for, and the loss."""

from __future__ import annotations

import math

import pytest
import torch

from janus.config import PRESETS
from janus.data.scenes import SceneMaker
from janus.model import Batch, JanusModel
from janus.tokenizers.text import TextTokenizer, train_bpe
from janus.train.naming import SHARPNESS, WORDS, named, naming_loss
from janus.train.packing import Sample, collate
from janus.train.parallel import Parallel, Trained
from tests.test_scenes import stand_ins

TINY = PRESETS["tiny-v3"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return train_bpe(["a red apple", "two cats"], 300, TINY.prompt, tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def model() -> JanusModel:
    torch.manual_seed(0)
    return JanusModel(TINY).train()


def seen(words: TextTokenizer, phrases: list[str] | None) -> Sample:
    ids = [words.bos_id] + [words.image_id] * TINY.vision.tokens
    side = TINY.vision.image_size
    asked = None if phrases is None else named(phrases, words)
    return Sample(ids, [], pixels=torch.zeros(1, 3, side, side), words=asked)


def batch_of(words: TextTokenizer, *samples: Sample) -> Batch:
    return collate([list(samples)], sum(len(s.ids) for s in samples), words, TINY.vq.tokens).batch


def test_words_of_a_patch(words: TextTokenizer) -> None:
    rows = named(["red apple", "", "red apple red apple red apple red apple red apple"], words)
    assert rows.shape == (3, WORDS)
    apple = words.encode(" red apple")
    assert rows[0].tolist() == apple + [-1] * (WORDS - len(apple))
    assert rows[1].tolist() == [words.pad_id] + [-1] * (WORDS - 1)
    assert (rows[2] >= 0).all()


def test_the_loss_is_that_of_the_words_where_they_enter_and_leave(
    words: TextTokenizer, model: JanusModel
) -> None:
    count = TINY.vision.tokens
    batch = batch_of(words, seen(words, None), seen(words, ["red apple"] + [""] * (count - 1)))
    with torch.no_grad():
        entering = model.embed(batch)
        leaving = model.core(entering, batch.positions, batch.segments)
        loss = float(naming_loss(model, entering, leaving, batch))
        table = torch.nn.functional.normalize(model.core.embed_tokens.weight, dim=1)
        expected = 0.0
        first = 1 + count + 1  # the first sample does not say what it shows
        for patch in range(count):
            ids = words.encode(" red apple") if patch == 0 else [words.pad_id]
            enter = torch.nn.functional.normalize(entering[0, first + patch], dim=0) @ table.T * SHARPNESS
            leave = model.text_logits(leaving[0, first + patch])
            for logits in (enter, leave):
                expected -= float(logits.log_softmax(0)[ids].mean()) / count
    assert math.isclose(loss, expected, rel_tol=1e-4)


def test_vectors_like_the_words_cost_little(words: TextTokenizer, model: JanusModel) -> None:
    batch = batch_of(words, seen(words, [""] * TINY.vision.tokens))
    with torch.no_grad():
        entering = model.embed(batch)
        leaving = torch.zeros_like(entering)
        far = float(naming_loss(model, entering, leaving, batch))
        entering[:, 1:] = model.core.embed_tokens.weight[words.pad_id]
        near = float(naming_loss(model, entering, leaving, batch))
    assert near < far - 5


def test_naming_is_a_loss_of_training_alone(words: TextTokenizer, model: JanusModel) -> None:
    batch = batch_of(words, seen(words, ["red apple"] * TINY.vision.tokens))
    trained = Trained(model, Parallel("cpu"), naming=0.5).train()
    with torch.no_grad():
        losses = trained(batch)
        entering = model.embed(batch)
        names = naming_loss(model, entering, model.hidden(batch), batch)
        torch.testing.assert_close(losses.balance, model.core.balance_loss() + 0.5 * names)
        assert float(names) > 0
        assert float(trained.eval()(batch).balance) == 0
    model.train()


def test_nothing_named_costs_nothing(words: TextTokenizer, model: JanusModel) -> None:
    batch = batch_of(words, seen(words, None))
    assert batch.slot_words is None
    hidden = torch.ones(1, batch.ids.shape[1], TINY.core.width)
    assert float(naming_loss(model, hidden, hidden, batch)) == 0


def test_scenes_say_what_their_patches_show() -> None:
    maker = SceneMaker(stand_ins(), 96)
    scene = maker.at("varied", 0, 3)
    things = maker.patches(scene, 12)
    assert len(things) == 64
    assert {thing for thing in things if thing is not None} <= set(scene.things)
    owners = maker.owners(scene)
    for place, thing in enumerate(things):
        y, x = (12 * at for at in divmod(place, 8))
        shown = owners[y : y + 12, x : x + 12]
        if thing is None:
            assert ((shown >= 0).mean() < 1 / 3) or len(scene.things) > 1
        else:
            assert (shown == scene.things.index(thing)).mean() >= 1 / 3
