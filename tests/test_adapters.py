"""LoRA adapters: injected, merged, saved and read again give the same model; what does not fit is refused."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from torch import Tensor

from janus import Janus, checkpoints
from janus.checkpoints import adapters
from janus.cli import main
from janus.core.cache import Cache
from janus.model import Batch, JanusModel
from janus.train.lora import LoraRecipe, adapter_state, inject, merged, save_adapter

RECIPE = LoraRecipe(rank=4, alpha=6)
Q = "language_model.model.layers.0.self_attn.q_proj"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(params=["tiny", "tiny-v3"])
def plain(request: pytest.FixtureRequest, tiny: Callable[[str], JanusModel]) -> JanusModel:
    """A gqa+dense and an mla+moe model, to be changed freely."""
    return copy.deepcopy(tiny(request.param))


@pytest.fixture
def injected(plain: JanusModel) -> JanusModel:
    """`plain` with adapters that change it."""
    return _train(copy.deepcopy(plain))


@pytest.fixture
def base(plain: JanusModel, folder: Path, tmp_path: Path) -> Path:
    """`plain` as a checkpoint."""
    checkpoints.save(plain, tmp_path / "base", source=folder)
    return tmp_path / "base"


def _train(model: JanusModel, recipe: LoraRecipe = RECIPE) -> JanusModel:
    """As if: random adapters."""
    inject(model, recipe)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise / parameter.shape[1] ** 0.5)
    return model


def _ids() -> Tensor:
    return torch.randint(1024, (2, 11), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def _logits(model: JanusModel) -> Tensor:
    """Of both heads, side by side."""
    hidden = model.hidden(Batch(_ids()))
    return torch.cat((model.text_logits(hidden), model.image_logits(hidden)), dim=-1)


def _close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def _differ(got: Tensor, expected: Tensor) -> None:
    assert (got - expected).abs().max() > 1e-2 * expected.abs().max()


# -- training -----------------------------------------------------------------------------------


def test_untrained_adapters_change_nothing(plain: JanusModel) -> None:
    before = _logits(plain)
    inject(plain, RECIPE)
    assert torch.equal(_logits(plain), before)
    assert torch.equal(_logits(merged(plain)), before)


def test_only_adapters_are_trained(plain: JanusModel) -> None:
    inject(plain.train(), LoraRecipe(rank=4, dropout=0.1))
    plain(Batch(_ids(), learn=torch.arange(11).expand(2, -1) > 0)).total.backward()
    for name, parameter in plain.named_parameters():
        assert parameter.requires_grad == (".lora_" in name)
        assert (parameter.grad is not None) == (".lora_" in name)


def test_default_targets_are_all_linear_layers_of_the_core_but_one(plain: JanusModel) -> None:
    linear = {
        name
        for name, module in plain.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("language_model.model.")
    }
    inject(plain, RECIPE)
    adapted = {key.rpartition(".lora_")[0] for key in adapter_state(plain)}
    assert adapted == {name for name in linear if not name.endswith("kv_b_proj")}


def test_targets_may_be_chosen(plain: JanusModel) -> None:
    inject(plain, LoraRecipe(targets=("o_proj", "down_proj")))
    assert {key.split(".")[-3] for key in adapter_state(plain)} == {"o_proj", "down_proj"}


def test_adapters_of_low_precision_models_are_float32(plain: JanusModel) -> None:
    inject(plain.to(torch.bfloat16), RECIPE)
    assert {value.dtype for value in adapter_state(plain).values()} == {torch.float32}
    assert plain.hidden(Batch(_ids())).dtype == torch.bfloat16


def test_dropout_follows_the_mode(plain: JanusModel) -> None:
    _train(plain, LoraRecipe(rank=4, dropout=0.5))
    assert torch.equal(_logits(plain), _logits(plain))
    _differ(_logits(plain.train()), _logits(plain))


@torch.no_grad()
def test_cached_equals_uncached_with_adapters(injected: JanusModel) -> None:
    _close(_cached(injected), injected.hidden(Batch(_ids())))


@torch.no_grad()
def test_why_kv_b_proj_is_refused(tiny: Callable[[str], JanusModel]) -> None:
    """If this fails, cached decoding has learned to heed an adapter there; then the refusal can go."""
    model = copy.deepcopy(tiny("tiny-v3"))
    config = peft.LoraConfig(target_modules=["kv_b_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    _differ(_cached(model), model.hidden(Batch(_ids())))
    _close(_cached(merged(model)), model.hidden(Batch(_ids())))


def _cached(model: JanusModel) -> Tensor:
    """Hidden states of a prompt of 4 tokens, then token by token."""
    cache = Cache(model.config.core, 2, 11, dtype=torch.float32, device="cpu")
    pieces = model.embed_text(_ids()).split([4] + [1] * 7, dim=1)
    return torch.cat([model.core(piece, cache=cache) for piece in pieces], dim=1)


# -- merging, writing and reading ---------------------------------------------------------------


def test_merged_equals_injected(plain: JanusModel, injected: JanusModel) -> None:
    _differ(_logits(injected), _logits(plain))
    model = merged(injected)
    _close(_logits(model), _logits(injected))
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    assert not model.training
    assert model.gen_embed.weight.data_ptr() == injected.gen_embed.weight.data_ptr()
    assert adapter_state(injected)  # still there


def test_saved_equals_injected(injected: JanusModel, base: Path, tmp_path: Path) -> None:
    save_adapter(injected, base, tmp_path / "lora")
    before = (base / "model.safetensors").read_bytes()
    expected = merged(injected).state_dict()
    given = Janus.from_pretrained(base, adapter=tmp_path / "lora", device="cpu", dtype="float32")
    alone = Janus.from_pretrained(tmp_path / "lora", device="cpu", dtype="float32")
    for janus in (given, alone):
        _close(_logits(janus.model), _logits(injected))
        assert all(torch.equal(value, expected[key]) for key, value in janus.model.state_dict().items())
        assert janus.folder == base
    assert (base / "model.safetensors").read_bytes() == before  # its tensors were mapped, not copied


def test_merged_is_saved_as_a_checkpoint(injected: JanusModel, base: Path, tmp_path: Path) -> None:
    checkpoints.save(merged(injected), tmp_path / "merged", source=base)
    _close(_logits(checkpoints.load(tmp_path / "merged")[0]), _logits(injected))


def test_sums_are_rounded_once(plain: JanusModel, tmp_path: Path) -> None:
    plain.to(torch.bfloat16)
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(shape, generator=generator) for shape in ((4, 64), (1024, 4)))
    state = {"language_model.lm_head.lora_A.weight": a, "language_model.lm_head.lora_B.weight": b}
    adapters.save(tmp_path / "lora", state, base="some/model", rank=4, alpha=6, dropout=0.0)
    _change(tmp_path / "lora", use_rslora=True)
    old = plain.language_model.lm_head.weight.detach().double()
    adapters.merge(plain, tmp_path / "lora")
    expected = (old + 6 / 4**0.5 * (b.double() @ a.double())).to(torch.bfloat16)
    same = plain.language_model.lm_head.weight == expected
    assert same.float().mean() > 0.999  # float32 may fall to the other side of a tie


def test_peft_reads_what_is_saved(
    plain: JanusModel, injected: JanusModel, base: Path, tmp_path: Path
) -> None:
    save_adapter(injected, base, tmp_path / "lora")
    fresh = copy.deepcopy(plain)
    inject(fresh, RECIPE)
    state = safetensors.torch.load_file(tmp_path / "lora" / WEIGHTS)
    result: Any = peft.set_peft_model_state_dict(
        fresh, {key.removeprefix("base_model.model."): value for key, value in state.items()}
    )
    assert not result.unexpected_keys
    assert torch.equal(_logits(fresh), _logits(injected))
    whole: Any = peft.PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path / "lora"))
    assert torch.equal(_logits(whole.base_model.model), _logits(injected))


def test_what_peft_saves_is_read(plain: JanusModel, injected: JanusModel, base: Path, tmp_path: Path) -> None:
    """With all of its version's options in the settings."""
    save_adapter(injected, base, tmp_path / "lora")
    whole: Any = peft.PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path / "lora"))
    whole.save_pretrained(str(tmp_path / "again"))
    adapters.merge(plain, tmp_path / "again")
    _close(_logits(plain), _logits(injected))
    assert adapters.base_of(tmp_path / "again") == str(base)


def test_the_embedded_model_is_found_by_its_word(tmp_path: Path) -> None:
    model = Janus.from_pretrained(device="cpu").model
    inject(model, LoraRecipe(rank=1, targets=("o_proj",)))
    save_adapter(model, checkpoints.EMBEDDED, tmp_path / "lora")
    assert json.loads((tmp_path / "lora" / CONFIG).read_text())["base_model_name_or_path"] == "embedded"
    assert Janus.from_pretrained(tmp_path / "lora", device="cpu").folder == checkpoints.EMBEDDED


def test_the_command_takes_adapters(
    janus: Janus, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _train(copy.deepcopy(janus.model))
    save_adapter(model, folder, tmp_path / "lora")
    expected = Janus(merged(model), janus.tokenizer, folder).chat("Hi", max_tokens=8)
    assert expected != janus.chat("Hi", max_tokens=8)
    options = ["--max-tokens", "8", "--device", "cpu", "--dtype", "float32"]
    lora = str(tmp_path / "lora")
    for given in (["--model", str(folder), "--adapter", lora], ["--model", lora]):
        assert main(["chat", "Hi", *given, *options]) == 0
        assert capsys.readouterr().out.strip() == expected


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"rank": 0}, "rank must be at least 1, not 0"),
        ({"alpha": 0.0}, "alpha must be above 0, not 0.0"),
        ({"dropout": 1.0}, r"dropout must be at least 0 and below 1, not 1\.0"),
        ({"targets": ()}, "targets must name a layer"),
    ],
)
def test_impossible_recipes(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        LoraRecipe(**settings)


def test_impossible_injections(
    tiny: Callable[[str], JanusModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = copy.deepcopy(tiny("tiny-v3"))
    there = "it has .*'kv_a_proj_with_mqa', 'o_proj', 'q_a_proj', 'q_b_proj', 'up_proj'"
    with pytest.raises(ValueError, match=rf"no linear layers called \['fc1', 'q_proj'\]; {there}"):
        inject(model, LoraRecipe(targets=("q_proj", "o_proj", "fc1")))
    with pytest.raises(ValueError, match="kv_b_proj cannot be adapted: cached decoding"):
        inject(model, LoraRecipe(targets=("kv_b_proj",)))
    for attempt in (adapter_state, merged, lambda m: save_adapter(m, "some/model", tmp_path / "lora")):
        with pytest.raises(ValueError, match="has no adapters"):
            attempt(model)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "peft", None)
        with pytest.raises(ValueError, match=r"pip install 'janus-pro\[train\]'"):
            inject(model, RECIPE)
    inject(model, RECIPE)
    with pytest.raises(ValueError, match="has adapters already"):
        inject(model, RECIPE)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """An adapter of one layer of the model "tiny"."""
    state = {f"{Q}.lora_A.weight": torch.ones(4, 64), f"{Q}.lora_B.weight": torch.ones(64, 4)}
    adapters.save(tmp_path / "lora", state, base="some/model", rank=4, alpha=6, dropout=0.0)
    return tmp_path / "lora"


def _change(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | fields))


def _refused(tiny: Callable[[str], JanusModel], folder: Path, complaint: str) -> None:
    """Merging raises, and changes nothing."""
    model = copy.deepcopy(tiny("tiny"))
    with pytest.raises(ValueError, match=complaint):
        adapters.merge(model, folder)
    assert all(torch.equal(v, tiny("tiny").state_dict()[key]) for key, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', which is not supported; supported is 'LORA'"),
        ({"peft_type": None}, "lacks 'peft_type'"),
        ({"r": 0}, "r must be at least 1, not 0"),
        ({"lora_alpha": "6"}, "lora_alpha must be float, not '6'"),
        ({"bias": "all"}, "bias='all' is not supported"),
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\] is not supported"),
        ({"rank_pattern": {"q_proj": 8}}, r"rank_pattern=\{'q_proj': 8\} is not supported"),
        ({"alpha_pattern": {"q_proj": 8}}, r"alpha_pattern=\{'q_proj': 8\} is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is not supported"),
        ({"of_next_year": 1}, "of_next_year=1 is not supported"),
        ({"use_dora": True, "r": 8}, r"use_dora=True is not supported; tensors misshapen: .* \[8, 64\]"),
    ],
    ids=str,
)
def test_unsupported_settings(
    fields: dict[str, Any], complaint: str, tiny: Callable[[str], JanusModel], lora: Path
) -> None:
    _change(lora, **fields)
    _refused(tiny, lora, complaint)


def test_options_that_are_off_pass(tiny: Callable[[str], JanusModel], lora: Path) -> None:
    _change(lora, use_dora=False, rank_pattern={}, modules_to_save=None, of_next_year=False)
    adapters.merge(copy.deepcopy(tiny("tiny")), lora)


def test_misfitting_tensors_are_all_named(tiny: Callable[[str], JanusModel], lora: Path) -> None:
    state = safetensors.torch.load_file(lora / WEIGHTS)
    prefix = "base_model.model.language_model.model.layers"
    state[f"{prefix}.9.self_attn.q_proj.lora_A.weight"] = torch.ones(4, 64)
    state[f"{prefix}.1.input_layernorm.lora_A.weight"] = torch.ones(4, 64)
    state[f"{prefix}.1.mlp.up_proj.lora_A.weight"] = torch.ones(4, 64)
    state[f"{prefix}.1.mlp.down_proj.lora_A.weight"] = torch.ones(4, 64)
    state[f"{prefix}.1.mlp.down_proj.lora_B.weight"] = torch.ones(64, 4, dtype=torch.int8)
    state[f"{Q}.lora_A.weight"] = torch.ones(4, 64)  # without peft's prefix
    safetensors.torch.save_file(state, lora / WEIGHTS)
    unknown = rf"{prefix}\.1\.input_layernorm\.lora_A\.weight, {prefix}\.9\.\S*, {Q}\.lora_A\.weight"
    down = rf"{prefix}\.1\.mlp\.down_proj"
    complaints = (
        f"tensors for no linear layer of the model: {unknown}",
        rf"tensors missing: {prefix}\.1\.mlp\.up_proj\.lora_B\.weight",
        rf"tensors misshapen: {down}\.lora_A\.weight is \[4, 64\] instead of \[4, 128\]",
        rf"tensors not of floating-point numbers: {down}\.lora_B\.weight",
    )
    _refused(tiny, lora, "; ".join(complaints))


def test_routed_experts_have_no_adapters(tiny: Callable[[str], JanusModel], lora: Path) -> None:
    path = "base_model.model.language_model.model.layers.1.mlp.experts.3.gate_proj"
    state = {f"{path}.lora_A.weight": torch.ones(4, 64), f"{path}.lora_B.weight": torch.ones(32, 4)}
    safetensors.torch.save_file(state, lora / WEIGHTS)
    with pytest.raises(ValueError, match="tensors for no linear layer of the model"):
        adapters.merge(tiny("tiny-v3"), lora)


def test_damaged_folders(tiny: Callable[[str], JanusModel], lora: Path) -> None:
    safetensors.torch.save_file({}, lora / WEIGHTS)
    _refused(tiny, lora, "holds no tensors")
    (lora / WEIGHTS).write_bytes(b"nothing")
    _refused(tiny, lora, "is damaged or not a safetensors file")
    (lora / WEIGHTS).unlink()
    _refused(tiny, lora, f"has no {WEIGHTS}")
    (lora / CONFIG).unlink()
    _refused(tiny, lora, f"has no {CONFIG}")


def test_bases_that_cannot_be_told(lora: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="is an adapter, too"):
        Janus.from_pretrained(lora, adapter=lora)
    _change(lora, revision="v2")
    with pytest.raises(ValueError, match="belongs to some/model at the revision 'v2'"):
        Janus.from_pretrained(lora)
    _change(lora, base_model_name_or_path=None, revision=None)
    with pytest.raises(ValueError, match="lacks 'base_model_name_or_path'"):
        Janus.from_pretrained(lora)
    assert not adapters.is_adapter(folder)
    assert not adapters.is_adapter("some/model")


def test_nothing_is_overwritten_or_half_written(lora: Path, tmp_path: Path) -> None:
    state = {f"{Q}.lora_A.weight": torch.ones(4, 64)}
    with pytest.raises(ValueError, match="already exists"):
        adapters.save(lora, state, base="some/model", rank=4, alpha=6, dropout=0.0)
    with pytest.raises(TypeError):
        adapters.save(tmp_path / "new", state, base="some/model", rank=4, alpha=1j, dropout=0.0)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()
