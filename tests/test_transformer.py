"""The transformer as a whole: packing, padding, training, precision, and the files' form of experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from janus.config import PRESETS, CoreConfig
from janus.core.cache import Cache
from janus.core.moe import MoE
from janus.core.published import split_experts, stack_experts
from janus.core.transformer import LanguageModel, init_weights

GQA = PRESETS["tiny"].core
V2 = PRESETS["tiny-v2"].core
V3 = PRESETS["tiny-v3"].core
MIXED = dataclasses.replace(V3, attention=("gqa", "mla", "gqa"), kv_heads=2)
CORES = {"gqa": GQA, "v2": V2, "v3": V3, "mixed": MIXED}


def _model(core: CoreConfig) -> LanguageModel:
    model = LanguageModel(core).eval()
    init_weights(model, torch.Generator().manual_seed(0), std=0.1)
    return model


def _ids(*shape: int) -> Tensor:
    return torch.randint(1024, shape, generator=torch.Generator().manual_seed(1))


def _close(got: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("restart", [False, True], ids=["running-positions", "own-positions"])
@pytest.mark.parametrize("name", CORES)
def test_packed_segments_equal_separate_samples(name: str, restart: bool) -> None:
    model, ids = _model(CORES[name]), _ids(2, 16)
    segments = torch.tensor([[1] * 5 + [2] * 8 + [3] * 3, [0] * 2 + [1] * 6 + [4] * 7 + [0]])
    spans = [(0, 0, 5), (0, 5, 13), (0, 13, 16), (1, 2, 8), (1, 8, 15)]
    positions = None
    if restart:
        positions = torch.zeros(2, 16, dtype=torch.long)
        for row, start, end in spans:
            positions[row, start:end] = torch.arange(end - start)
    got = model(ids, positions, segments)
    assert got.isfinite().all()
    for row, start, end in spans:
        _close(got[row, start:end], model(ids[row : row + 1, start:end])[0])


@pytest.mark.parametrize("name", CORES)
def test_padding_gives_finite_values_and_gradients(name: str) -> None:
    """A row of padding alone, too, and what stands in padding never reaches the others."""
    model = _model(CORES[name]).train()
    ids = _ids(3, 10)
    segments = torch.tensor([[0] * 10, [0] * 4 + [1] * 6, [1] * 5 + [0] * 5])
    got = model(ids, segments=segments)
    (got.square().mean() + model.model.balance_loss()).backward()
    assert got.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    real = segments > 0
    with torch.no_grad():
        other = model(torch.where(real, ids, 7), segments=segments)
    _close(other[real], got[real])


@pytest.mark.parametrize("name", CORES)
def test_every_weight_learns(name: str) -> None:
    """A few steps on one batch: the loss falls and no parameter is left out."""
    model = _model(CORES[name]).train()
    ids, segments = _ids(2, 24), torch.tensor([[0] * 3 + [1] * 10 + [2] * 11, [1] * 24])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids, segments=segments)
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        (loss + model.model.balance_loss()).backward()
        missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert not missing
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gqa", "dense-mla"])
def test_low_precision_weights(name: str, dtype: torch.dtype) -> None:
    """Without experts: there, rounding may send a token elsewhere."""
    core = GQA if name == "gqa" else dataclasses.replace(V3, feed_forward=("dense",) * 3)
    model = _model(core)
    exact = model(_ids(2, 12))
    got = model.to(dtype)(_ids(2, 12))
    assert got.dtype == dtype
    _close(got.float(), exact, 5e-2)


def test_counts_and_losses_of_training() -> None:
    model = _model(V3).train()
    transformer = model.model
    with pytest.raises(ValueError, match="there was none"):
        transformer.balance_loss()
    with pytest.raises(ValueError, match="there was none"):
        transformer.expert_counts()
    segments = torch.tensor([[0, 0, 1, 1, 1], [2, 2, 3, 3, 0]])
    model(_ids(2, 5), segments=segments)
    counts = transformer.expert_counts()
    assert V3.moe is not None
    assert counts.shape == (2, V3.moe.experts)
    assert counts.sum(1).tolist() == [7 * V3.moe.active] * 2
    losses = [moe.last_balance_loss for moe in transformer.modules() if isinstance(moe, MoE)]
    torch.testing.assert_close(transformer.balance_loss(), sum(loss for loss in losses if loss is not None))
    assert transformer.balance_loss() > 0
    model.eval()(_ids(2, 6))
    assert torch.equal(transformer.expert_counts(), counts)  # evaluation counts nothing


def test_bias_update_reaches_every_layer() -> None:
    model = _model(V3).model
    counts = torch.zeros(2, 8, dtype=torch.long)
    counts[0, 2], counts[1, 5] = 9, 9
    model.update_expert_bias(counts)
    assert V3.moe is not None
    moes = [moe for moe in model.modules() if isinstance(moe, MoE)]
    for moe, loaded in zip(moes, (2, 5), strict=True):
        expected = torch.full((8,), V3.moe.bias_speed)
        expected[loaded] *= -1
        assert torch.equal(moe.gate.e_score_correction_bias, expected)
    with pytest.raises(ValueError, match=r"counts are \(8,\), \(mixture layers, experts\) is \(2, 8\)"):
        model.update_expert_bias(counts[0])


def test_a_dense_model_has_no_balance_to_keep() -> None:
    model = _model(GQA).train()
    model(_ids(1, 4))
    assert model.model.balance_loss().item() == 0
    with pytest.raises(ValueError, match="no mixture-of-experts"):
        model.model.expert_counts()


def test_shapes_that_disagree_are_refused() -> None:
    model = _model(GQA)
    with pytest.raises(ValueError, match=r"positions are \(1, 4\), but there are \(2, 4\)"):
        model(_ids(2, 4), positions=torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"segments are \(2, 5\), but there are \(2, 4\)"):
        model(_ids(2, 4), segments=torch.ones(2, 5, dtype=torch.long))


def test_initial_weights_depend_on_the_generator_alone() -> None:
    first, second = LanguageModel(V3), LanguageModel(V3)
    for model in (first, second):
        init_weights(model, torch.Generator().manual_seed(3))
    state = first.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in second.state_dict().items())
    assert state["model.embed_tokens.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert state["model.layers.1.mlp.experts.down_proj"].std().item() == pytest.approx(0.02, rel=0.02)
    assert (state["model.layers.1.input_layernorm.weight"] == 1).all()
    init_weights(second, torch.Generator().manual_seed(4))
    assert not torch.equal(state["lm_head.weight"], second.lm_head.weight)


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_built_without_memory_then_assigned(name: str) -> None:
    """As checkpoints are loaded: nothing but the state dict is needed."""
    model = _model(CORES[name])
    with torch.device("meta"):
        empty = LanguageModel(CORES[name]).eval()
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty(_ids(1, 5)), model(_ids(1, 5)))
    cache = Cache(CORES[name], 1, 5, dtype=torch.float32, device="cpu")
    _close(empty(_ids(1, 5), cache=cache), model(_ids(1, 5)))


@pytest.mark.parametrize("prefix", ["", "language_model."])
def test_experts_come_back_from_files_unchanged(prefix: str) -> None:
    state = {prefix + key: value for key, value in _model(V3).state_dict().items()}
    files = split_experts(state)
    key = f"{prefix}model.layers.1.mlp.experts."
    stacked = state[key + "gate_up_proj"]
    assert torch.equal(files[key + "3.gate_proj.weight"], stacked[3, :32])
    assert torch.equal(files[key + "3.up_proj.weight"], stacked[3, 32:])
    assert torch.equal(files[key + "7.down_proj.weight"], state[key + "down_proj"][7])
    assert len(files) == len(state) - 2 * 2 + 2 * 3 * 8
    assert all(value.is_contiguous() for value in files.values())
    assert f"{prefix}model.layers.1.mlp.shared_experts.down_proj.weight" in files
    back = stack_experts(dict(reversed(files.items())), V3)
    assert back.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in back.items())
    assert stack_experts(state, V3).keys() == state.keys()  # what is stacked stays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files, key: files.pop(key + "3.up_proj.weight"), r"lacks \[\(3, 'up'\)\]"),
        (lambda files, key: files.update({key + "8.up_proj.weight": torch.zeros(32, 64)}), r"\(8, 'up'\)"),
        (
            lambda files, key: files.update({key + "3.up_proj.weight": torch.zeros(31, 64)}),
            r"\(31, 64\), not",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_incomplete_experts_are_refused(
    change: Callable[[dict[str, Tensor], str], object], message: str
) -> None:
    files = split_experts(_model(V3).state_dict())
    change(files, "model.layers.2.mlp.experts.")
    with pytest.raises(ValueError, match=message):
        stack_experts(files, V3)


def test_experts_without_a_config_are_refused() -> None:
    with pytest.raises(ValueError, match="no mixture of experts"):
        stack_experts(split_experts(_model(V3).state_dict()), GQA)
