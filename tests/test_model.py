"""The training forward: packed samples, both losses, and gradients in every part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from janus.config import PRESETS
from janus.model import Batch, JanusModel
from tests.conftest import randomise

IMAGE, CODE = 7, 0
Tiny = Callable[[str], JanusModel]


def _ids(length: int, seed: int) -> list[int]:
    return torch.randint(8, 1000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def _question(model: JanusModel, seed: int) -> Batch:
    """A picture, a question, and an answer of three tokens that is asked for."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([[1, *[IMAGE] * model.config.vision.tokens, *_ids(7, seed)]])
    learn = torch.zeros_like(ids, dtype=torch.bool)
    learn[:, -3:] = True
    pixels = torch.randn(1, 3, 32, 32, generator=generator)
    return Batch(ids, learn, pixels, ids == IMAGE)


def _drawing(model: JanusModel, seed: int) -> Batch:
    """A caption and the codes of its picture."""
    generator = torch.Generator().manual_seed(seed)
    count = model.config.vq.tokens
    ids = torch.tensor([[1, *_ids(5, seed), *[CODE] * count]])
    slots = torch.zeros_like(ids, dtype=torch.bool)
    slots[:, -count:] = True
    codes = torch.randint(0, model.config.vq.codes, (1, count), generator=generator)
    return Batch(ids, codes=codes, code_slots=slots)


def _pack(question: Batch, drawing: Batch, padding: int) -> Batch:
    """Both samples in one row, with padding behind."""
    lengths = [question.ids.shape[1], drawing.ids.shape[1]]

    def join(first: Tensor | None, second: Tensor | None) -> Tensor:
        parts = [
            torch.zeros(1, n, dtype=torch.bool) if part is None else part
            for part, n in zip((first, second), lengths, strict=True)
        ]
        return torch.nn.functional.pad(torch.cat(parts, dim=1), (0, padding))

    return Batch(
        join(question.ids, drawing.ids),
        join(question.learn, drawing.learn),
        question.pixels,
        join(question.image_slots, None),
        drawing.codes,
        join(None, drawing.code_slots),
        positions=torch.tensor([[*range(lengths[0]), *range(lengths[1]), *[0] * padding]]),
        segments=torch.tensor([[*[1] * lengths[0], *[2] * lengths[1], *[0] * padding]]),
    )


@pytest.mark.parametrize("preset", ["tiny", "tiny-v2", "tiny-v3"])
@torch.no_grad()
def test_packed_samples_lose_what_they_lose_alone(tiny: Tiny, preset: str) -> None:
    model = tiny(preset)
    question, drawing = _question(model, 1), _drawing(model, 2)
    packed = model(_pack(question, drawing, padding=5))
    alone_text, alone_image = model(question), model(drawing)
    torch.testing.assert_close(packed.text_sum, alone_text.text_sum, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(packed.image_sum, alone_image.image_sum, rtol=1e-4, atol=1e-4)
    assert (int(packed.text_tokens), int(packed.image_tokens)) == (3, 16)
    assert (int(alone_text.image_tokens), int(alone_image.text_tokens)) == (0, 0)
    mean = (packed.text_sum + packed.image_sum) / 19
    torch.testing.assert_close(packed.total, mean)  # no balance loss outside training


@torch.no_grad()
def test_losses_are_cross_entropies_of_the_next_token(tiny: Tiny) -> None:
    model = tiny("tiny")
    question, drawing = _question(model, 3), _drawing(model, 4)
    logits = model.text_logits(model.hidden(question))[0, -4:-1]
    expected = -logits.log_softmax(-1).gather(1, question.ids[0, -3:, None]).sum()
    torch.testing.assert_close(model(question).text_sum, expected)
    logits = model.image_logits(model.hidden(drawing))[0, -17:-1]
    assert drawing.codes is not None
    expected = -logits.log_softmax(-1).gather(1, drawing.codes[0, :, None]).mean()
    torch.testing.assert_close(model(drawing).image, expected)


@torch.no_grad()
def test_codes_count_by_their_weights(tiny: Tiny) -> None:
    model = tiny("tiny")
    drawing = _drawing(model, 4)
    assert drawing.codes is not None
    even = model(drawing)
    drawing.code_weights = torch.zeros(1, 16)
    drawing.code_weights[0, 5] = 16.0
    one = model(drawing)
    logits = model.image_logits(model.hidden(drawing))[0, -12]
    expected = -logits.log_softmax(-1)[drawing.codes[0, 5]]
    torch.testing.assert_close(one.image, expected)
    assert int(one.image_tokens) == int(even.image_tokens) == 16


@pytest.mark.parametrize("preset", ["tiny", "tiny-v3"])
def test_gradients_reach_every_part_that_is_trained(preset: str) -> None:
    model = JanusModel(PRESETS[preset]).train()
    randomise(model)
    model(_pack(_question(model, 1), _drawing(model, 2), padding=3)).total.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    apart = ("gen_vision_model.", "vision_model.vision_tower.attn_pool.")  # trained on its own; unused
    experts = (".experts.", ".gate.")  # an expert may be idle in so small a batch
    assert all(name.startswith(apart) for name in without)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not any(part in name for part in experts):
            assert parameter.grad.abs().sum() > 0, name


def test_balance_loss_belongs_to_training() -> None:
    model = JanusModel(PRESETS["tiny-v3"]).train()
    randomise(model)
    batch = _drawing(model, 2)
    losses = model(batch)
    assert losses.balance > 0
    torch.testing.assert_close(losses.total, losses.image_sum / 16 + losses.balance)
    assert model.eval()(batch).balance == 0


def test_a_few_steps_learn_a_sample_by_heart() -> None:
    model = JanusModel(PRESETS["tiny-v3"]).train()
    randomise(model)
    batch = _pack(_question(model, 1), _drawing(model, 2), padding=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        losses = model(batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        model.core.update_expert_bias(model.core.expert_counts())
    assert losses.text < 0.1
    assert losses.image < 0.1 * math.log(model.config.vq.codes)


def test_mistaken_batches_are_refused(tiny: Tiny) -> None:
    model = tiny("tiny")
    drawing = _drawing(model, 1)
    assert drawing.code_slots is not None
    with pytest.raises(ValueError, match="code_slots marks 15 places, but there are 16 vectors"):
        model(replace(drawing, code_slots=drawing.code_slots & (torch.arange(22) != 21)))
    with pytest.raises(ValueError, match="code_slots asks for the first token"):
        model(replace(drawing, code_slots=drawing.code_slots.flip(1)))
