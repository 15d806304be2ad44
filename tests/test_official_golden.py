"""Every stage against outputs of the official repository; `recipe.py` says how they were made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from janus.generation import decode
from janus.model import Batch, JanusModel
from janus.parties import Group
from janus.prompts import Prompt
from janus.sampling import Sampling, guide
from janus.scoring import score
from tests.recipe import golden_inputs, recipe_weights, tiny_official

FILE = Path(__file__).parent / "golden" / "official.safetensors"
INPUTS = golden_inputs()
GREEDY = Sampling(temperature=0)
ONE = [torch.Generator()]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with safe_open(FILE, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)


@pytest.fixture(scope="module")
def model() -> JanusModel:
    model = JanusModel(tiny_official()).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    model.load_state_dict(recipe_weights(shapes))
    return model


def assert_near(stage: str, ours: Tensor, theirs: Tensor) -> None:
    """At most 1e-4 of the largest value apart.  `pytest -rP` shows by how much."""
    assert ours.shape == theirs.shape
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"{stage}: {apart:.1e}")
    assert apart <= 1e-4


def question() -> Batch:
    ids = torch.tensor([INPUTS.question])
    return Batch(ids=ids, pixels=INPUTS.pictures, image_slots=ids == INPUTS.image_id)


def request() -> tuple[Prompt, Prompt]:
    """The drawing prompt and its unconditional counterpart."""
    first, *between, last = INPUTS.request
    return Prompt(INPUTS.request), Prompt([first, *[INPUTS.pad_id] * len(between), last])


def test_the_state_dict_is_the_official_one(model: JanusModel) -> None:
    with safe_open(FILE, "pt") as file:
        official = json.loads(file.metadata()["shapes"])
    del official["gen_vision_model.quantize.codebook_used"]  # nothing reads it
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == official


@torch.inference_mode()
def test_understanding_encoder_and_adaptor(model: JanusModel, golden: dict[str, Tensor]) -> None:
    assert_near("SigLIP features", model.vision_model(INPUTS.pictures), golden["vision"])
    assert_near("understanding adaptor", model.embed_images(INPUTS.pictures), golden["aligner"])


@torch.inference_mode()
def test_text_logits_after_two_pictures(model: JanusModel, golden: dict[str, Tensor]) -> None:
    hidden = model.hidden(question())
    assert_near("hidden states", hidden, golden["hidden"])
    assert_near("text logits", model.text_logits(hidden), golden["text_logits"])


def test_greedy_answer(model: JanusModel, golden: dict[str, Tensor]) -> None:
    expected = golden["text_tokens"][0].tolist()
    prompt = Prompt(INPUTS.question, INPUTS.pictures, INPUTS.image_id)
    tokens = decode(
        model,
        Group(
            [prompt],
            kind="text",
            new_tokens=len(expected),
            sampling=GREEDY,
            generators=ONE,
        ),
    )
    assert [int(token) for token in tokens] == expected


@torch.inference_mode()
def test_drawing_logits_when_the_golden_tokens_are_given(
    model: JanusModel, golden: dict[str, Tensor]
) -> None:
    codes = golden["drawing_tokens"].long()
    prompts = torch.tensor([list(prompt.ids) for prompt in request()])
    drawn = model.embed_codes(codes)
    assert_near("generation adaptor", drawn, golden["gen_aligner"])
    x = torch.cat([model.embed_text(prompts), drawn[:, :-1].expand(2, -1, -1)], dim=1)
    logits = model.image_logits(model.core(x)[:, prompts.shape[1] - 1 :])
    assert_near("image logits", logits, golden["drawing_logits"])
    assert torch.equal(guide(logits[:1], logits[1:], 5.0).argmax(-1), codes)


def test_greedy_guided_picture(model: JanusModel, golden: dict[str, Tensor]) -> None:
    expected = golden["drawing_tokens"][0].tolist()
    wanted, plain = request()
    tokens = decode(
        model,
        Group(
            [wanted],
            kind="image",
            new_tokens=len(expected),
            sampling=GREEDY,
            generators=ONE,
            unconditional=[plain],
            guidance=5.0,
        ),
    )
    assert [int(token) for token in tokens] == expected


def test_scored_picture(model: JanusModel, golden: dict[str, Tensor]) -> None:
    """`score` gives the guided log-probabilities that follow from the official logits."""
    codes = golden["drawing_tokens"].long()
    wanted, plain = request()
    [ours] = score(model, [wanted], codes.tolist(), kind="image", unconditional=[plain], guidance=5.0)
    logits = golden["drawing_logits"].float()
    log_probs = guide(logits[:1], logits[1:], 5.0).log_softmax(-1)
    assert_near("guided log-probabilities", ours, log_probs.gather(-1, codes.unsqueeze(-1))[0, :, 0])


@torch.inference_mode()
def test_image_tokenizer(model: JanusModel, golden: dict[str, Tensor]) -> None:
    tokenizer = model.gen_vision_model
    assert_near("VQ decode", tokenizer.decode(golden["drawing_tokens"].long()), golden["decoded"])
    codes = tokenizer.encode(INPUTS.pictures)
    assert torch.equal(codes, golden["codes"].long())
    assert_near("VQ reconstruction", tokenizer.decode(codes), golden["reconstructed"])
