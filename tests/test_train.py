"""Training the embedded model: batches, schedules, resuming, both stages in small, the judge, the result."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from janus import Janus, checkpoints
from janus.config import PRESETS
from janus.data.pool import scene_at
from janus.data.world import CELLS, Scene, Thing, World
from janus.model import JanusModel
from janus.tokenizers.text import TextTokenizer, train_bpe
from janus.train import decoder as decoder_stage
from janus.train import stages, tokenizer, vision
from janus.train.ahead import LookAhead, things_ahead
from janus.train.batches import ROW, Samples, batches
from janus.train.check import GROUPS, prompts
from janus.train.codes import drawing_codes, name_weights
from janus.train.common import Average, Run, learning_rate
from janus.train.judge import Judge, agrees
from janus.train.packing import Sample, collate
from janus.train.recipe import (
    DecoderRecipe,
    ModelRecipe,
    Recipe,
    TokenizerRecipe,
    VisionRecipe,
    WorkRecipe,
    load_recipe,
)
from tests.test_data import stand_ins

SHIPPED = Path(__file__).parent.parent / "recipes" / "embedded.yaml"


@pytest.fixture(scope="module")
def world() -> World:
    return World(stand_ins(), 32)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("words")
    return train_bpe(["a photo of a red apple", "What is this?"], 300, PRESETS["tiny-v3"].prompt, folder)


@pytest.fixture
def samples(world: World, words: TextTokenizer) -> Samples:
    config = PRESETS["tiny-v3"]
    config = dataclasses.replace(config, prompt=dataclasses.replace(config.prompt, use_system_prompt=False))
    codes = np.arange(6 * config.vq.tokens).reshape(6, -1).astype(np.int16) % config.vq.codes
    pool = np.arange(6)[:, None, None, None] + np.zeros((6, 32, 32, 3), np.uint8)
    settings = ModelRecipe(steps=1, tokens=4 * ROW, drop_prompt=0.0, apart_share=0.0)
    pool = pool.astype(np.uint8)
    return Samples(config, settings, words, world, 0, codes, np.ones(codes.shape, np.float32), pool, pool)


def test_the_shipped_recipe_is_the_shipped_model() -> None:
    recipe = load_recipe(SHIPPED)
    shipped = checkpoints.inspect(checkpoints.EMBEDDED).config
    assert recipe.config == dataclasses.replace(shipped, prompt=recipe.config.prompt)


def test_unknown_settings_are_named(tmp_path: Path) -> None:
    values = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    values["model"]["speed"] = 3
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml\.model has unknown fields \['speed'\]"):
        load_recipe(path)


def test_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(1.0, step, 10, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == max(rates[8:12])
    assert all(a > b for a, b in itertools.pairwise(rates[12:]))
    assert rates[100] == pytest.approx(0.02)


def test_average_follows_the_weights() -> None:
    model = torch.nn.Linear(2, 2)
    average = Average(model, 0.9)
    before = average.model.weight.clone()
    with torch.no_grad():
        model.weight += 1
    average.update(model, step=10**6)
    assert torch.allclose(average.model.weight, before + 0.1)


def test_batches_hold_whole_samples_apart(samples: Samples) -> None:
    batch = next(batches(samples, np.random.default_rng(0)))
    assert batch.segments is not None
    assert batch.positions is not None
    assert batch.learn is not None
    assert batch.code_slots is not None
    assert batch.image_slots is not None
    config, words = samples.config, samples.tokenizer
    assert batch.ids.shape == (4, ROW)
    kinds = set()
    for row in range(4):
        for number in range(1, int(batch.segments[row].max()) + 1):
            own = (batch.segments[row] == number).nonzero().flatten()
            assert (own.diff() == 1).all()
            assert batch.positions[row, own].tolist() == list(range(len(own)))
            ids = batch.ids[row, own]
            assert ids[0] == words.bos_id
            codes, seen = int(batch.code_slots[row, own].sum()), int(batch.image_slots[row, own].sum())
            learnt = ids[batch.learn[row, own]]
            if codes:
                assert (codes, seen, len(learnt)) == (config.vq.tokens, 0, 0)
                assert ids[-config.vq.tokens - 1] == words.begin_image_id
            else:
                assert (codes, seen) == (0, config.vision.tokens)
                assert learnt[-1] == words.eos_id
                assert words.decode(learnt[:-1].tolist()).startswith(" ")
            kinds.add(bool(codes))
    assert kinds == {True, False}
    assert not batch.learn[batch.segments == 0].any()


def test_dropped_prompts_are_those_of_guidance(samples: Samples) -> None:
    samples.settings = dataclasses.replace(samples.settings, drop_prompt=1.0)
    sample = samples.draw(np.random.default_rng(0), 1.0)
    words = samples.tokenizer
    prompt = sample.ids[: -samples.config.vq.tokens]
    assert (prompt[0], prompt[-1]) == (words.bos_id, words.begin_image_id)
    assert set(prompt[1:-1]) == {words.pad_id}


def test_pictures_are_asked_about_apart_or_in_conversations(samples: Samples) -> None:
    count = samples.config.vision.tokens
    for share in (1.0, 0.0):
        samples.settings = dataclasses.replace(samples.settings, apart_share=share)
        sample = samples.draw(np.random.default_rng(0), 0.0)
        assert list(sample.ids).count(samples.tokenizer.image_id) == count
        assert bool(sample.branches) == bool(share)
        assert len(sample.learn) > 2
        assert sample.words is not None
        assert len(sample.words) == count
        names = {samples.tokenizer.encode(f" {name}")[-1] for name in samples.world.names}
        assert names & set(sample.words.flatten().tolist())


def test_training_begins_with_drawing_alone(samples: Samples) -> None:
    samples.settings = dataclasses.replace(samples.settings, only_drawing=2)
    for step, questions in ((0, [False, False, True]), (1, [False, True, True])):
        stream = batches(samples, np.random.default_rng(0), step)
        assert [next(stream).pixels is not None for _ in range(3)] == questions


def test_codes_that_names_decide_count_more(world: World) -> None:
    scene = next(
        s for s in (scene_at(world, "drawing", 0, i) for i in range(50)) if s.relation in ("above", "below")
    )
    places = [tuple(v * CELLS // world.size for v in thing.box[:2]) for thing in scene.things]
    grid = np.full((CELLS, CELLS), 9, np.int16)
    for x, y in places:
        grid[y + 1, x : x + 2] = 5  # the things' own blocks begin with an empty row
    weights = name_weights(grid.reshape(1, -1), [scene], world, 4.0).reshape(CELLS, CELLS)
    heavy = {(x, y + 1) for x, y in places}
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    for y, x in itertools.product(range(CELLS), repeat=2):
        assert weights[y, x] / weights.min() == pytest.approx(4 if (x, y) in heavy else 1)


def test_every_cell_asks_for_the_next_code_that_names_decide() -> None:
    codes = torch.tensor([[4, 5, 6, 7, 8], [9, 1, 2, 3, 4]])
    weights = torch.tensor([[1.0, 8, 1, 8, 1], [8.0, 1, 1, 1, 1]])
    assert things_ahead(codes, weights).tolist() == [[5, 5, 7, 7, -1], [9, -1, -1, -1, -1]]


def test_looking_ahead_reads_the_cells_before_a_thing(samples: Samples) -> None:
    model = JanusModel(samples.config).eval()
    samples.weights = samples.weights.copy()
    samples.weights[:, 2] = 5.0  # the third code of each picture
    rng = np.random.default_rng(0)
    rows = [[samples.draw(rng, 1.0)]]
    batch = collate(rows, ROW, samples.tokenizer, samples.config.vq.tokens).batch
    looker = LookAhead(samples.config.core.width)
    with torch.no_grad():
        hidden = model.hidden(batch)
        first = len(rows[0][0].ids) - samples.config.vq.tokens  # of the codes
        logits = model.image_logits(hidden[0, first - 1 : first + 2])
        assert batch.codes is not None
        expected = torch.nn.functional.cross_entropy(logits, batch.codes[0, 2].expand(3))
        torch.testing.assert_close(looker(model, hidden, batch), expected)
        looker.turn.weight.zero_()
        assert looker(model, hidden, batch) != expected


def test_packing_does_not_change_the_losses(samples: Samples) -> None:
    """Samples that share rows give the sum of what each gives alone."""
    model = JanusModel(samples.config).eval()
    rng = np.random.default_rng(0)
    drawn = [samples.draw(rng, 0.5) for _ in range(6)]

    def losses(rows: list[list[Sample]]) -> torch.Tensor:
        with torch.no_grad():
            batch = collate(rows, 2 * ROW, samples.tokenizer, samples.config.vq.tokens).batch
            model.train()  # counts the experts' load, which the loss reads; there is no dropout
            made = model(batch)
        return torch.stack([made.text_sum, made.image_sum])

    alone = torch.stack([losses([[sample]]) for sample in drawn]).sum(0)
    assert (alone > 0).all()
    torch.testing.assert_close(losses([drawn[:3], drawn[3:]]), alone, rtol=1e-4, atol=1e-3)


def test_revive_moves_unused_codes_only() -> None:
    generator = torch.Generator().manual_seed(0)
    model = tokenizer.new_tokenizer(PRESETS["tiny-v3"].vq, generator)
    average = tokenizer.new_tokenizer(PRESETS["tiny-v3"].vq, generator)
    pixels = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    used = torch.ones(64, dtype=torch.long)
    used[[3, 5]] = 0
    before = model.quantize.rows().detach().clone()
    tokenizer.revive(model, average, used, pixels, generator)
    after = model.quantize.rows()
    assert (after == before).all(dim=1).nonzero().flatten().tolist() == [i for i in range(64) if used[i]]
    nearest = (after[[3, 5]] @ model.latents(pixels).flatten(0, 1).T).amax(dim=1)
    assert (nearest > 0.98).all()
    assert torch.equal(average.quantize.embedding.weight[[3, 5]], model.quantize.embedding.weight[[3, 5]])


def test_patches_are_labelled_with_the_thing_in_their_middle(world: World) -> None:
    config = PRESETS["tiny-v3"].vision  # 32 pixels in patches of 8
    boxes = ((0, 0, 16, 16), (18, 10, 30, 29))
    things = (Thing("cat", "red", 0, boxes[0]), Thing("dog", None, 1, boxes[1]))
    kinds, colours = vision.labels(world, [Scene(things, "left of", (0, 0, 0))], config)
    cat, dog = 1 + world.names.index("cat"), 1 + world.names.index("dog")
    red, no = 1 + world.colours.index("red"), vision.NOTHING
    # middles are at 4, 12, 20, 28
    assert kinds.view(4, 4).tolist() == [
        [cat, cat, 0, 0],
        [cat, cat, dog, dog],
        [0, 0, dog, dog],
        [0, 0, dog, dog],
    ]
    assert colours.view(4, 4).tolist() == [
        [red, red, no, no],
        [red, red, 0, 0],
        [no, no, 0, 0],
        [no, no, 0, 0],
    ]


def test_codes_to_draw_with_are_the_same_wherever_a_thing_stands(
    recipe: Recipe, world: World, tmp_path: Path
) -> None:
    image_tokenizer = tokenizer.new_tokenizer(recipe.config.vq, torch.Generator().manual_seed(0)).eval()
    recipe = dataclasses.replace(recipe, work=WorkRecipe(scenes=200))
    codes = drawing_codes(recipe, world, image_tokenizer, tmp_path).reshape(-1, CELLS, CELLS)
    seen: dict[tuple[int, str | None, int], np.ndarray] = {}
    backgrounds: dict[tuple[int, str | None, int], int] = {}
    again = 0
    for index, grid in enumerate(codes):
        scene = scene_at(world, "drawing", 0, index)
        cells = [tuple(v // 4 for v in thing.box) for thing in scene.things]
        outside = np.ones((CELLS, CELLS), bool)
        for left, top, right, bottom in cells:
            outside[top : bottom + 1, left : right + 1] = False
        empty = int(grid[outside][0])
        for thing, (left, top, right, bottom) in zip(scene.things, cells, strict=True):
            block = grid[top : bottom + 1, left : right + 1]
            key = (thing.sprite, thing.colour, right - left)
            if key in seen:
                drawn = (block != empty) & (seen[key] != backgrounds[key])
                assert drawn.any()
                assert (block[drawn] == seen[key][drawn]).all()
                again += 1
            seen[key], backgrounds[key] = block, empty
        assert len(np.unique(grid[outside])) == 1
    assert again > 10


def _train_a_line(path: Path, stop: int | None = None) -> list[float]:
    """Ten steps of fitting a line to noise, or fewer; the losses."""
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(0.5)
        model.bias.fill_(0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    settings = TokenizerRecipe(steps=10, learning_rate=0.1, warmup=2)
    run = Run(path, settings, {"model": model, "optimizer": optimizer}, generator)
    losses = []
    for step in run.steps():
        loss = (model(torch.randn(4, 3, generator=generator)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step == stop:
            run.step = step
            run.keep()
            return losses
    return losses


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = _train_a_line(tmp_path / "whole.pt")
    first = _train_a_line(tmp_path / "part.pt", stop=4)
    assert first + _train_a_line(tmp_path / "part.pt") == whole
    assert _train_a_line(tmp_path / "part.pt") == []  # finished
    assert len(whole) == len(set(whole)) == 10


def test_an_interrupted_write_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _train_a_line(tmp_path / "whole.pt")
    first = _train_a_line(tmp_path / "part.pt", stop=4)

    def half(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(OSError, match="no space"):
            _train_a_line(tmp_path / "part.pt")
    assert first + _train_a_line(tmp_path / "part.pt") == whole


@pytest.fixture
def recipe() -> Recipe:
    config = PRESETS["tiny-v3"]
    vq = dataclasses.replace(config.vq, multipliers=(1,), fold=32 // CELLS)
    config = dataclasses.replace(config, vq=vq)
    return Recipe(
        config=config,
        tokenizer=TokenizerRecipe(steps=12, batch=4, revive_every=5),
        decoder=DecoderRecipe(steps=4, batch=4),
        vision=VisionRecipe(steps=4, batch=4),
        model=ModelRecipe(steps=4, tokens=4 * ROW, warmup=5),
        work=WorkRecipe(scenes=32),
    )


def test_all_stages_end_in_a_model_that_loads(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (tokenizer, decoder_stage, vision, stages):
        monkeypatch.setattr(module, "load_sprites", lambda work: stand_ins())
    tokenizer.train_tokenizer(recipe, tmp_path)
    first = torch.load(tmp_path / tokenizer.CHECKPOINT, weights_only=True)
    assert first["step"] == 12
    longer = dataclasses.replace(recipe, tokenizer=dataclasses.replace(recipe.tokenizer, steps=16))
    tokenizer.train_tokenizer(longer, tmp_path)
    second = torch.load(tmp_path / tokenizer.CHECKPOINT, weights_only=True)
    assert second["step"] == 16
    assert "resumed tokenizer.pt at step 12 of 16" in capsys.readouterr().out

    vision.train_vision(recipe, tmp_path)
    seen = torch.load(tmp_path / vision.CHECKPOINT, weights_only=True)
    tower = JanusModel(recipe.config).vision_model.state_dict()
    assert {f"tower.{name}" for name in tower} < set(seen["reader"])
    stages.train_model(recipe, tmp_path)
    drawn = Janus.from_pretrained(tmp_path / stages.FOLDER).generate_images("a cat", seed=0)
    assert drawn[0].size == (32, 32)
    assert "resumed" not in capsys.readouterr().out

    stages.longer_decoder(recipe, tmp_path)
    stages.train_model(recipe, tmp_path)  # nothing left to train: takes the decoder and writes again
    assert "resumed" in capsys.readouterr().out
    final = Janus.from_pretrained(tmp_path / stages.FOLDER, dtype="float32").model
    decoder = torch.load(tmp_path / tokenizer.DECODER, weights_only=True)["average"]
    for name, value in final.gen_vision_model.state_dict().items():
        torch.testing.assert_close(value, decoder[name].bfloat16().float(), msg=name)
    before = second["average"]
    assert torch.equal(decoder["encoder.conv_in.weight"], before["encoder.conv_in.weight"])
    assert not torch.equal(decoder["decoder.conv_in.weight"], before["decoder.conv_in.weight"])
    assert not list(tmp_path.glob("*.part"))


def test_the_judge_sees_what_is_there(world: World) -> None:
    judge = Judge(world)
    for name, group in prompts(world, 6).items():
        colour = name in ("colours", "colour of each")
        for text, scene in group:
            verdict = judge.judge(world.render(scene), coloured=colour)
            assert agrees(verdict, scene, place=True, colour=colour), text
            others = [scene_at(world, "drawing", 7, i) for i in range(8)]
            wrong = [o for o in others if {t.name for t in o.things} != {t.name for t in scene.things}]
            assert not any(agrees(verdict, other) for other in wrong)


def test_the_judge_sees_nothing_in_noise(world: World) -> None:
    judge = Judge(world)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    empty = np.full((32, 32, 3), judge.backgrounds[0], np.uint8)
    assert judge.judge(noise).names == judge.judge(empty).names == ()


def test_places_count_where_the_prompt_names_them(world: World) -> None:
    judge = Judge(world)
    scene = prompts(world, 1)["position"][0][1]
    first, second = scene.things
    swapped = dataclasses.replace(scene, things=(second, first))
    verdict = judge.judge(world.render(scene))
    assert agrees(verdict, swapped)
    assert not agrees(verdict, swapped, place=True)


def test_prompts_are_in_genevals_words(world: World) -> None:
    groups = prompts(world, 3)
    assert tuple(groups) == GROUPS
    for name, group in groups.items():
        assert len(group) == 3
        assert all(text.startswith("a photo of ") for text, _ in group)
        for text, scene in group:
            assert (len(scene.things) == 1) == (name in ("single", "colours"))
            assert (" and " in text) == (name in ("two", "colour of each"))
            assert (" two " in text) == (name == "counting")


def test_the_embedded_model_draws_and_answers() -> None:
    """What `make demo` promises, on the weights that ship."""
    janus = Janus.from_pretrained(dtype="float32", device="cpu")
    things = ["an apple", "a car", "a banana", "an umbrella"]
    texts = [f"a photo of {thing}" for thing in things]
    drawn = [p[0] for p in janus.generate_images(texts, seed=0)]
    answers = janus.chat_batch(["What is in the picture?"] * 4, [[picture] for picture in drawn])
    assert sum(a == b for a, b in zip(answers, things, strict=True)) >= 3, answers
    config = json.loads((checkpoints.EMBEDDED / "config.json").read_text(encoding="utf-8"))
    assert config["torch_dtype"] == "bfloat16"
