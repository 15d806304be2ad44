"""Training on one's own data: the stream of samples, the loop, its states, one process and two."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing import event_accumulator

from janus import Janus, checkpoints
from janus.config import PRESETS
from janus.data.sources import open_source
from janus.model import JanusModel
from janus.tokenizers.text import train_bpe
from janus.train import state
from janus.train.loop import train
from janus.train.optimizer import LeanAdamW, round_at_random
from janus.train.plan import TrainRecipe, load_plan
from janus.train.run import schedule
from janus.train.stream import Draft, Stream, Writer, mix
from tests.conftest import randomise

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200), "grey": (90, 90, 90)}
RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of four colours: captions, questions and a few texts."""
    folder = tmp_path_factory.mktemp("data")
    lines: list[dict[str, object]] = []
    for i, (name, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (40 + 8 * i, 40), colour).save(folder / f"{name}.png")
        lines.append({"image": f"{name}.png", "caption": f"a {name} square"})
        lines.append({"image": f"{name}.png", "question": "Which colour?", "answer": name})
        lines.append({"text": f"{name} is a colour"})
    (folder / "data.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return folder


def _base(folder: Path, preset: str) -> Path:
    """A checkpoint with random weights."""
    text = folder / "text"
    text.mkdir()
    train_bpe(
        ["a red green blue grey square", "Which colour? is a colour"], 300, PRESETS[preset].prompt, text
    )
    model = JanusModel(PRESETS[preset])
    randomise(model)
    checkpoints.save(model, folder / "base", source=text)
    return folder / "base"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _base(tmp_path_factory.mktemp("v3"), "tiny-v3")


def recipe(base: Path, data: Path, out: Path, **changes: object) -> TrainRecipe:
    values: dict[str, object] = {
        "model": str(base),
        "out": str(out),
        "data": [{"path": str(data)}],
        "mixture": {"understanding": 1, "text": 1, "generation": 1},
        "steps": 6,
        "row": 320,
        "rows": 2,
        "learning_rate": 1e-3,
        "precision": "float32",
        "keep_every": 2,
    }
    path = out.parent / f"{out.name}.yaml"
    path.write_text(json.dumps(values | changes), encoding="utf-8")
    return load_plan(path)


def losses(out: Path) -> list[float]:
    with (out / "log.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(folder, dtype=torch.float32)[0].state_dict()


def stream(data: Path, seed: int = 0, row: int = 320) -> Stream:
    config = PRESETS["tiny-v3"]
    tokenizer = Janus.from_pretrained().tokenizer
    mixture = {"understanding": 1.0, "text": 1.0, "generation": 2.0}
    return Stream(mix([(open_source(data), 1.0)], mixture), Writer(config, tokenizer, 0.1), row, seed)  # type: ignore[arg-type]


def names(rows: Sequence[Sequence[Draft]]) -> list[list[str]]:
    return [[draft.name for draft in row] for row in rows]


def test_a_stream_goes_on_where_it_stopped(data: Path) -> None:
    whole = stream(data)
    rows = list(islice(whole.rows(), 12))
    first = stream(data)
    list(islice(first.rows(), 5))
    second = stream(data)
    second.resume(json.loads(json.dumps(first.state())))
    again = list(islice(second.rows(), 7))
    assert [[d.ids for d in row] for row in again] == [[d.ids for d in row] for row in rows[5:]]
    assert second.state() == whole.state()
    assert names(rows) != names(list(islice(stream(data, seed=1).rows(), 12)))


def test_rows_are_full_and_every_record_has_its_turn(data: Path) -> None:
    drawn = stream(data)
    rows = list(islice(drawn.rows(), 30))
    filled = [sum(len(draft.ids) for draft in row) for row in rows]
    assert max(filled) <= 320
    assert np.mean(filled) > 0.9 * 320
    kinds = [draft.drawing is not None for row in rows for draft in row]
    assert 0.4 < np.mean(kinds) < 0.6  # the mixture asks for half
    # Of each kind there are four; after 4n records of it, each was seen n times.
    counts = drawn.state()["places"]
    for kind, count in zip(range(3), counts, strict=True):
        assert count > 8, kind
    seen = [draft.name for row in rows for draft in row]
    assert len(set(seen)) == 12


def test_lanes_share_the_records_out(data: Path) -> None:
    """Together they take each source's records as often as one stream does."""
    lanes = [dataclasses.replace(stream(data), lane=lane, lanes=2) for lane in range(2)]
    for lane in lanes:
        list(islice(lane.rows(), 12))
        state = lane.state()
        assert state["next"] % 2 == lane.lane
        assert all(place % 2 == lane.lane for place in state["places"])
    first, second = (names(list(islice(lane.rows(), 4))) for lane in lanes)
    assert first != second
    again = dataclasses.replace(stream(data), lane=1, lanes=2)
    again.resume(json.loads(json.dumps(lanes[1].state())))
    assert names(list(islice(again.rows(), 3))) == names(list(islice(lanes[1].rows(), 3)))


def test_what_does_not_fit_into_a_row_is_named(data: Path) -> None:
    with pytest.raises(ValueError, match=r"1000 records in a row were unusable.*longer than a row"):
        next(stream(data, row=4).rows())


def test_a_mixture_needs_its_kinds(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "only words"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="asks for generation, but no source has"):
        mix([(open_source(tmp_path), 1.0)], {"generation": 1.0, "text": 1.0})
    with pytest.raises(ValueError, match="asks for nothing"):
        mix([(open_source(data), 1.0)], {"generation": 0.0})


def test_learns_and_writes_a_model_that_loads(base: Path, data: Path, tmp_path: Path) -> None:
    plan = recipe(base, data, tmp_path / "run", steps=60, average=0.9, learning_rate=3e-3)
    written = train(plan)
    seen = losses(tmp_path / "run")
    assert len(seen) == 6
    assert seen[-1] < 0.5 * seen[0]
    model = Janus.from_pretrained(written)
    assert model.generate_images("a red square", seed=0)[0].size == (32, 32)
    before, after = weights(base), weights(written)
    for name, value in after.items():
        frozen = name.startswith("gen_vision_model.") or "attn_pool" in name
        assert torch.equal(value, before[name]) == frozen, name
    card = (written / "README.md").read_text(encoding="utf-8")
    assert str(data) in card
    assert "| 12 | not stated |" in card
    assert train(plan) == written  # finished: nothing is done again
    with (tmp_path / "run" / "log.csv").open(encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    assert {f"busiest expert, layer {i}" for i in (1, 2)} < set(last)
    assert 1 <= float(last["busiest expert, layer 1"]) <= 8


def test_resumes_to_the_same_weights(base: Path, data: Path, tmp_path: Path) -> None:
    train(recipe(base, data, tmp_path / "whole", average=0.9, steps=20))
    train(recipe(base, data, tmp_path / "parts", average=0.9, steps=10))
    train(recipe(base, data, tmp_path / "parts", average=0.9, steps=20))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, parts = weights(tmp_path / "whole" / "model"), weights(tmp_path / "parts" / "model")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_state_of_several_files_is_gone_on_from(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe(base, data, tmp_path / "whole", steps=4))
    monkeypatch.setattr(state, "_FILE", 100_000)
    train(recipe(base, data, tmp_path / "parts", steps=2))
    files = [load_file(path) for path in (tmp_path / "parts" / "step-00000002").glob("*.safetensors")]
    assert len(files) > 5
    assert all(len(file) == 1 or sum(t.nbytes for t in file.values()) <= 100_000 for file in files)
    train(recipe(base, data, tmp_path / "parts", steps=4))
    whole, parts = weights(tmp_path / "whole" / "model"), weights(tmp_path / "parts" / "model")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_workers_make_the_batches(base: Path, data: Path, tmp_path: Path) -> None:
    """A run with them stops and goes on with the same batches, in a lane's middle too."""
    shutil.copytree(data, tmp_path / "data")
    with (tmp_path / "data" / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"image": "lost.png", "caption": "a lost square"}\n')
    plan = recipe(base, tmp_path / "data", tmp_path / "whole", workers=2, steps=7, keep_every=1)
    train(plan, "cpu")
    stopped = dataclasses.replace(plan, out=str(tmp_path / "stopped"), steps=3)
    train(stopped, "cpu")
    train(dataclasses.replace(stopped, steps=7), "cpu")
    whole, again = weights(tmp_path / "whole" / "model"), weights(tmp_path / "stopped" / "model")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_workers_tell_what_they_left_out(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(data / "red.png", tmp_path / "data")
    lines = [{"image": f"{name}.png", "caption": f"a {name} square"} for name in ("red", "lost")]
    lines_of_text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "data" / "data.jsonl").write_text(lines_of_text, encoding="utf-8")
    drawing = {"generation": 1}
    train(recipe(base, tmp_path / "data", tmp_path / "run", workers=2, mixture=drawing), "cpu")
    told = capsys.readouterr().out
    assert "missing picture" in told
    assert "lost.png" in told
    # An error that ends the stream ends the run as it does without workers.
    hopeless = recipe(base, data, tmp_path / "short", workers=2, row=4)
    with pytest.raises(ValueError, match=r"^1000 records in a row were unusable.*longer than a row"):
        train(hopeless, "cpu")
    with pytest.raises(ValueError, match="workers must be at least 0, not -1"):
        recipe(base, data, tmp_path / "less", workers=-1)


def test_accumulated_rows_are_rows_at_once(base: Path, data: Path, tmp_path: Path) -> None:
    train(recipe(base, data, tmp_path / "one", rows=4, micro_rows=1, steps=20))
    train(recipe(base, data, tmp_path / "four", rows=4, micro_rows=4, steps=20))
    # The balance loss is a mean over each micro-batch's samples, so that only nearly the same is learnt.
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "four"), rtol=1e-4)


def _launched(plan: TrainRecipe, processes: int, yaml: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    run = subprocess.run(
        [*command, "-m", "janus", "train", str(yaml), "--device", "cpu"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("lora", [False, True])
def test_two_processes_lose_what_one_does(base: Path, data: Path, tmp_path: Path, lora: bool) -> None:
    changes = {"rows": 4, "steps": 20, "keep_every": 10, "lora": {"rank": 4} if lora else None}
    train(recipe(base, data, tmp_path / "one", **changes))
    _launched(recipe(base, data, tmp_path / "two", **changes), 2, tmp_path / "two.yaml")
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    # What two processes left, one can go on from.
    longer = changes | {"steps": 30}
    train(recipe(base, data, tmp_path / "two", **longer))
    train(recipe(base, data, tmp_path / "one", **longer))
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_kills_lose_only_the_steps_since_the_last_state(base: Path, data: Path, tmp_path: Path) -> None:
    plan = recipe(base, data, tmp_path / "run", steps=12, keep_every=3)
    rng = np.random.default_rng(0)
    train(recipe(base, data, tmp_path / "whole", steps=12, keep_every=3))
    program = "import sys; from janus.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "train", str(tmp_path / "run.yaml")]
    for _ in range(3):
        run = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        begun = time.monotonic()
        while not list((tmp_path / "run").glob("step-*")) and time.monotonic() - begun < 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        run.send_signal(signal.SIGKILL)
        run.wait()
    train(plan)
    whole, parts = weights(tmp_path / "whole" / "model"), weights(tmp_path / "run" / "model")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_adapters_are_trained_alone(base: Path, data: Path, tmp_path: Path) -> None:
    plan = recipe(base, data, tmp_path / "run", steps=30, lora={"rank": 4}, learning_rate=1e-2)
    written = train(plan)
    seen = losses(tmp_path / "run")
    assert seen[-1] < seen[0]
    ours = Janus.from_pretrained(written, dtype="float32").model.state_dict()
    before = weights(base)
    changed = {name for name, value in ours.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("language_model.model.layers.") for name in changed)


def test_parts_that_no_sample_reaches_stay(base: Path, data: Path, tmp_path: Path) -> None:
    plan = recipe(base, data, tmp_path / "run", mixture={"generation": 1}, weight_decay=0.5, steps=2)
    after, before = weights(train(plan)), weights(base)
    idle = ("vision_model.", "aligner.", "language_model.lm_head.", "gen_vision_model.")
    for name in before:
        if name.startswith(idle):
            assert torch.equal(after[name], before[name]), name
    assert not torch.equal(after["gen_head.vision_head.weight"], before["gen_head.vision_head.weight"])


def test_validation_is_logged_and_drawn(base: Path, data: Path, tmp_path: Path) -> None:
    validation = {"data": [{"path": str(data)}], "every": 2, "rows": 3, "prompts": ["a red square"] * 4}
    train(recipe(base, data, tmp_path / "run", validation=validation, steps=4))
    with (tmp_path / "run" / "log.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["validation image"]]
    assert [row["step"] for row in rows] == ["2", "4"]
    assert all(row["validation text"] for row in rows)
    board = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("validation image")] == [2, 4]
    sheets = sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir())
    assert sheets == ["step-00000002.png", "step-00000004.png"]


def test_what_cannot_be_read_is_left_out_and_named(
    base: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    (mine / "red.png").write_bytes(b"no picture")
    with (mine / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write("\nnot json\n")
    train(recipe(base, mine, tmp_path / "run", steps=8))
    told = capsys.readouterr().out
    assert "unreadable picture" in told
    assert "data.jsonl:1:" in told
    assert "data.jsonl:13: not JSON" in told


def test_another_recipe_or_model_is_not_resumed(base: Path, data: Path, tmp_path: Path) -> None:
    train(recipe(base, data, tmp_path / "run", steps=2))
    with pytest.raises(ValueError, match="it differs in seed"):
        train(recipe(base, data, tmp_path / "run", steps=2, seed=1))
    other = tmp_path / "other"
    other.mkdir()
    mine = _base(other, "tiny")
    plan = recipe(mine, data, tmp_path / "run", steps=4)
    record = json.loads((tmp_path / "run" / "recipe.json").read_text(encoding="utf-8"))
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(record | {"model": str(mine)}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"state of another model.*is unknown"):
        train(plan)


def test_a_run_that_could_not_begin_claims_nothing(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a folder nor a hub id"):
        train(recipe(tmp_path / "missing", data, tmp_path / "run"))
    assert not list((tmp_path / "run").iterdir())
    train(recipe(base, data, tmp_path / "run", steps=1))


def test_a_result_without_its_card_is_written_again(base: Path, data: Path, tmp_path: Path) -> None:
    plan = recipe(base, data, tmp_path / "run", steps=1)
    card = train(plan) / "README.md"
    card.unlink()
    train(plan)
    assert card.exists()


def test_folders_of_others_are_left_alone(base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(ValueError, match="something else in it"):
        train(recipe(base, data, tmp_path / "mine"))
    with pytest.raises(ValueError, match="do not divide among 1 processes that take micro_rows=4"):
        train(recipe(base, data, tmp_path / "new", rows=6, micro_rows=4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed": 3}, "has unknown fields"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": "many"}, "steps must be int"),
        ({"data": []}, "data is empty"),
        ({"train": ["everything"]}, "must be one of"),
        ({"mixture": {"drawing": 1}}, r"unknown fields \['drawing'\]; known are"),
        ({"mixture": {"text:1": None}}, r"unknown fields \['text:1'\]; a space must follow the colon; known"),
    ],
)
def test_wrong_recipes_are_refused(
    base: Path, data: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    plan = recipe(base, data, tmp_path / "run")
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(dataclasses.asdict(plan) | changes), encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        load_plan(path)


def test_fields_are_set_from_outside(base: Path, data: Path, tmp_path: Path) -> None:
    recipe(base, data, tmp_path / "run")
    plan = load_plan(tmp_path / "run.yaml", ["steps=9", "lora.rank=3", "mixture.text=0"])
    assert plan.steps == 9
    assert plan.lora is not None
    assert plan.lora.rank == 3
    assert plan.mixture.text == 0
    with pytest.raises(ValueError, match="cannot set 'steps'"):
        load_plan(tmp_path / "run.yaml", ["steps"])


def test_schedule() -> None:
    plan = load_plan(RECIPES / "finetune.yaml")
    plan = dataclasses.replace(plan, steps=100, warmup=10, schedule="cosine")
    rates = [schedule(plan, step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] < 0.001
    flat = dataclasses.replace(plan, schedule="constant")
    assert [schedule(flat, step) for step in (5, 10, 100)] == [0.5, 1, 1]


@pytest.mark.parametrize(
    "path",
    sorted(p for p in RECIPES.glob("*.yaml") if p.stem not in ("judge", "tokenizer")),
    ids=lambda p: p.stem,
)
def test_shipped_recipes_are_read(path: Path) -> None:
    load_plan(path)


def test_rounding_at_random_is_right_on_average() -> None:
    value = torch.full((100_000,), 1 + 2**-9)  # a quarter of the way between two bfloat16 numbers
    store = torch.empty(100_000, dtype=torch.bfloat16)
    round_at_random(store, value, torch.Generator().manual_seed(0))
    assert set(store.tolist()) == {1.0, 1 + 2**-7}
    assert store.float().mean().item() == pytest.approx(1 + 2**-9, abs=1e-4)
    exact = torch.randn(100).bfloat16()
    round_at_random(store[:100], exact.float(), torch.Generator())
    assert torch.equal(store[:100], exact)


def test_lean_adamw_is_adamw() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(30, 20, generator=generator)
    gradients = [torch.randn(30, 20, generator=generator) for _ in range(20)]
    ends = {}
    for kind in ("torch", "float32", "bfloat16"):
        dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
        parameter = torch.nn.Parameter(start.to(dtype, copy=True))
        group = {"params": [parameter], "lr": 1e-2, "weight_decay": 0.1}
        optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW([group], betas=(0.9, 0.95))
            if kind == "torch"
            else LeanAdamW([group], torch.Generator().manual_seed(1))
        )
        for gradient in gradients:
            parameter.grad = gradient.to(dtype)
            optimizer.step()
        ends[kind] = parameter.detach().float()
    torch.testing.assert_close(ends["float32"], ends["torch"], rtol=1e-5, atol=1e-6)
    moved = ends["torch"] - start
    error = ends["bfloat16"] - ends["torch"]
    assert float(error.mean().abs()) < 0.002
    assert float(error.std()) < 0.2 * float(moved.std())


def test_bfloat16_weights_learn(base: Path, data: Path, tmp_path: Path) -> None:
    plan = recipe(
        base, data, tmp_path / "run", steps=40, weights="bfloat16", precision="bfloat16", learning_rate=3e-3
    )
    train(plan)
    seen = losses(tmp_path / "run")
    assert seen[-1] < 0.7 * seen[0]


def test_slow_bfloat16_is_told(
    base: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capable = {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable, raising=False)
    train(recipe(base, data, tmp_path / "slow", steps=1, precision="bfloat16"))
    assert "--set precision=float32" in capsys.readouterr().out
    train(recipe(base, data, tmp_path / "exact", steps=1, precision="float32"))
    capable["avx512_bf16"] = True
    train(recipe(base, data, tmp_path / "fast", steps=1, precision="bfloat16"))
    assert "--set precision" not in capsys.readouterr().out
