"""Training that begins from nothing: new models around trained parts, codes that are already made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from janus import checkpoints
from janus.config import PRESETS
from janus.data.scene_source import ScenesRecipe
from janus.model import JanusModel
from janus.tokenizers.text import TextTokenizer, train_bpe
from janus.train.fresh import NewModel, new_model, text_tokenizer
from janus.train.loop import train
from janus.train.packing import Sample, collate
from janus.train.parallel import Parallel, Trained
from janus.train.plan import DataRecipe, TrainRecipe, load_plan

TINY = PRESETS["tiny-v3"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (40, 40), "red").save(folder / "red.png")
    lines = [
        {"image": "red.png", "caption": "a red square"},
        {"image": "red.png", "question": "Which colour?", "answer": "vermilion vermilion"},
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def recipe(folder: Path, data: Path, **changes: object) -> TrainRecipe:
    values = {
        "out": str(folder / "run"),
        "data": [{"path": str(data)}],
        "mixture": {"understanding": 1, "generation": 1},
        "steps": 2,
        "row": 256,
        "rows": 1,
        "precision": "float32",
        "new": {"config": dataclasses.asdict(TINY)},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values | changes), encoding="utf-8")
    return load_plan(path)


def parts(folder: Path, seed: int = 5) -> tuple[Path, dict[str, torch.Tensor]]:
    """An image tokenizer, as a file of weights."""
    torch.manual_seed(seed)
    vq = JanusModel(TINY).gen_vision_model
    state = {f"gen_vision_model.{name}": value for name, value in vq.state_dict().items()}
    save_file(state, folder / "parts.safetensors")
    return folder / "parts.safetensors", state


def test_a_new_model_is_trained_around_its_parts(tmp_path: Path, data: Path) -> None:
    path, state = parts(tmp_path)
    new = {"config": dataclasses.asdict(TINY), "weights": [str(path)]}
    result = train(recipe(tmp_path, data, new=new))
    model, _ = checkpoints.load(result)
    for name, value in state.items():
        assert torch.equal(model.state_dict()[name], value), name
    words = TextTokenizer.from_folder(result, TINY.prompt)
    assert len(words.encode(" vermilion")) == 1  # learnt from the data
    assert "from nothing" in (result / "README.md").read_text(encoding="utf-8")


def test_new_models_depend_on_their_seed_alone(tmp_path: Path) -> None:
    path, _ = parts(tmp_path)
    new = NewModel(TINY, (str(path),))
    torch.manual_seed(1)
    first = new_model(new)
    torch.manual_seed(2)
    again, other = new_model(new), new_model(dataclasses.replace(new, seed=1))
    for (name, a), b in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(first.core.embed_tokens.weight, other.core.embed_tokens.weight)
    assert torch.equal(first.gen_embed.weight, first.gen_vision_model.quantize.rows())


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save_file(
        {"aligner.speed": torch.zeros(1), "gen_embed.weight": torch.zeros(2, 2)}, tmp_path / "a.safetensors"
    )
    wrong = (
        r"a\.safetensors does not fit.*aligner\.speed is unknown.*gen_embed\.weight is \[2, 2\] instead of"
    )
    with pytest.raises(ValueError, match=wrong):
        new_model(NewModel(TINY, (str(tmp_path / "a.safetensors"),)))
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cannot read the weights .*b\.safetensors"):
        new_model(NewModel(TINY, (str(tmp_path / "b.safetensors"),)))


def test_a_text_tokenizer_too_large_is_refused(tmp_path: Path) -> None:
    train_bpe(["words and words"], 400, TINY.prompt, tmp_path)
    small = dataclasses.replace(TINY, core=dataclasses.replace(TINY.core, vocab_size=270))
    with pytest.raises(ValueError, match="vocab_size is only 270"):
        text_tokenizer(NewModel(small, text_tokenizer=str(tmp_path)), (), tmp_path)


def test_numbers_are_written_as_people_write_them(tmp_path: Path, data: Path) -> None:
    recipe(tmp_path, data)
    path = tmp_path / "recipe.yaml"
    for text, value in (("2e-4", 2e-4), ("1E3", 1000.0), ("-1.5e2", -150.0), (".5e1", 5.0), ("3", 3.0)):
        assert load_plan(path, [f"learning_rate={text}"]).learning_rate == value
    assert load_plan(path, ["out=1e-4x"]).out == "1e-4x"


@pytest.mark.parametrize("changes", [{"model": "embedded"}, {"new": None}])
def test_a_run_begins_from_one_model(tmp_path: Path, data: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="either a model to begin from or a new one"):
        recipe(tmp_path, data, **changes)


def test_given_codes_and_pictures_to_code_share_a_batch(tmp_path: Path) -> None:
    words = train_bpe(["a"], 300, TINY.prompt, tmp_path)
    model = JanusModel(TINY)
    count = TINY.vq.tokens
    ids = [words.bos_id, words.begin_image_id] + [words.image_id] * count
    codes, picture = torch.arange(count), torch.rand(3, 32, 32) * 2 - 1
    weights = torch.rand(count)
    rows = [[Sample(ids, [], drawing=picture), Sample(ids, [], codes=codes, weights=weights)]]
    packed = collate(rows, 2 * len(ids), words, count)
    batch = packed.to(torch.device("cpu"), model.gen_vision_model)
    assert batch.codes is not None
    assert batch.code_weights is not None
    assert torch.equal(batch.codes, torch.stack([model.gen_vision_model.encode(picture[None])[0], codes]))
    assert torch.equal(batch.code_weights, torch.stack([torch.ones(count), weights]))


def test_looking_ahead_is_a_loss_of_training_alone(tmp_path: Path) -> None:
    words = train_bpe(["a"], 300, TINY.prompt, tmp_path)
    model, count = JanusModel(TINY), TINY.vq.tokens
    ids = [words.bos_id, words.begin_image_id] + [words.image_id] * count
    weights = torch.ones(count)
    weights[3] = 5.0
    sample = Sample(ids, [], codes=torch.arange(count), weights=weights)
    batch = collate([[sample]], len(ids), words, count).batch
    trained = Trained(model, Parallel("cpu"), look_ahead=0.5)
    assert trained.ahead is not None
    trained.train()
    with torch.no_grad():
        losses = trained(batch)
        hidden = model.hidden(batch)
        ahead = trained.ahead(model, hidden, batch)
        torch.testing.assert_close(losses.balance, model.core.balance_loss() + 0.5 * ahead)
        assert float(trained.eval()(batch).balance) == 0


def test_smoothing_gives_all_codes_a_share(tmp_path: Path) -> None:
    words = train_bpe(["a"], 300, TINY.prompt, tmp_path)
    model, count = JanusModel(TINY), TINY.vq.tokens
    ids = [words.bos_id, words.begin_image_id] + [words.image_id] * count
    weights = torch.linspace(0.5, 1.5, count)
    sample = Sample(ids, [], codes=torch.arange(count), weights=weights)
    batch = collate([[sample]], len(ids), words, count).batch
    trained = Trained(model, Parallel("cpu"), smoothing=0.1)
    with torch.no_grad():
        chances = model.image_logits(model.hidden(batch)[0, 1:-1]).log_softmax(-1)
        own, every = chances[torch.arange(count), torch.arange(count)], chances.mean(-1)
        smooth = -weights @ (0.9 * own + 0.1 * every)
        torch.testing.assert_close(trained.train()(batch).image_sum, smooth)
        torch.testing.assert_close(trained.eval()(batch).image_sum, -weights @ own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"smoothing": 1.0}, "smoothing must be from 0 to below 1, not 1"),
        ({"smooth_tones": True}, "set smoothing above 0"),
        (
            {"naming": 1.0},
            "naming needs to know what each patch shows; only scenes can tell, and data has none",
        ),
        ({"looking": 1.0}, "looking needs to know what each patch shows; only scenes"),
        ({"factor_tones": True, "train": ("core",)}, "train gen_head, without lora"),
        ({"naming": -1.0}, "naming must be at least 0, not -1"),
        ({"look_ahead": -0.5}, "look_ahead must be at least 0, not -0.5"),
        ({"depicting": -1}, "depicting must be at least 0, not -1"),
        ({"depicting": 1.0}, "only scenes with blocks: true can tell, and data has none"),
    ],
)
def test_losses_that_make_no_sense(
    tmp_path: Path, data: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(tmp_path, data, **changes)


def test_smoothed_tones_are_those_of_the_codes_shape(tmp_path: Path, data: Path) -> None:
    words = train_bpe(["a"], 300, TINY.prompt, tmp_path)
    vq = dataclasses.replace(TINY.vq, tones=2, tone_dim=1)
    model, count = JanusModel(dataclasses.replace(TINY, vq=vq)), TINY.vq.tokens
    ids = [words.bos_id, words.begin_image_id] + [words.image_id] * count
    batch = collate([[Sample(ids, [], codes=torch.arange(count))]], len(ids), words, count).batch
    trained = Trained(model, Parallel("cpu"), smoothing=0.1, smooth_tones=True).train()
    with torch.no_grad():
        chances = model.image_logits(model.hidden(batch)[0, 1:-1]).log_softmax(-1)
        own = torch.arange(count)
        pair = (chances[own, own // 2 * 2] + chances[own, own // 2 * 2 + 1]) / 2
        smooth = -(0.9 * chances[own, own] + 0.1 * pair).sum()
        torch.testing.assert_close(trained(batch).image_sum, smooth)
    with pytest.raises(ValueError, match="codes have tones; this one has none"):
        train(recipe(tmp_path, data, smoothing=0.1, smooth_tones=True))
    with pytest.raises(ValueError, match="factor_tones needs an image tokenizer whose codes have tones"):
        train(recipe(tmp_path, data, factor_tones=True))


def test_naming_needs_pictures_of_one_size(tmp_path: Path, data: Path) -> None:
    plan = recipe(tmp_path, data)
    assert plan.new is not None
    config = plan.new.config
    vision = dataclasses.replace(config.vision, image_size=64)
    image = dataclasses.replace(config.image, size=64)
    larger = dataclasses.replace(config, vision=vision, image=image)
    scenes = DataRecipe(scenes=ScenesRecipe(teach="seeing", look="varied"))
    new = dataclasses.replace(plan.new, config=larger)
    plan = dataclasses.replace(plan, data=(scenes,), new=new, naming=1.0)
    with pytest.raises(ValueError, match="as large as those to draw, not 64 and 32 pixels"):
        train(plan)
