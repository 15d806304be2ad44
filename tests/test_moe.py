"""The mixture of experts against one token at a time, on both ways of computing the experts."""

from __future__ import annotations

import copy
import dataclasses
import io

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from janus.config import CoreConfig, MoeConfig
from janus.core.moe import Experts, MoE, Samples, balance_loss, number_samples

WIDTH = 16
V2 = MoeConfig(experts=8, active=3, expert_width=8, shared=2, routing="softmax", normalise=False, scale=1.5)
V3 = MoeConfig(experts=8, active=3, expert_width=8, groups=4, active_groups=2, scale=2.5)
CONFIGS = {
    "v2": V2,
    "v2-normalised": dataclasses.replace(V2, normalise=True),
    "v2-groups": dataclasses.replace(V2, groups=4, active_groups=2, shared=0),
    "v2-one": dataclasses.replace(V2, active=1, normalise=True),
    "v3": V3,
    "v3-flat": dataclasses.replace(V3, groups=1, active_groups=1, normalise=False),
    "v3-groups-of-one": dataclasses.replace(V3, groups=8, active_groups=4),
    "v3-one": dataclasses.replace(V3, active=1),
}


def _moe(config: MoeConfig, seed: int = 0) -> MoE:
    core = CoreConfig(
        vocab_size=8,
        width=WIDTH,
        heads=2,
        attention=("gqa",),
        feed_forward=("moe",),
        ffn_width=8,
        moe=config,
    )
    moe = MoE(core)
    generator = torch.Generator().manual_seed(seed)
    for parameter in moe.parameters():
        parameter.data.normal_(0, 0.4, generator=generator)
    if config.routing == "sigmoid":
        moe.gate.e_score_correction_bias.normal_(0, 0.5, generator=generator)
    return moe


def _x(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))


def _naive_weights(moe: MoE, token: Tensor) -> dict[int, Tensor]:
    """Expert -> weight for one token (D,), in plain Python from the reports' formulas."""
    config = moe.moe
    logits = [token @ row for row in moe.gate.weight]
    if config.routing == "softmax":
        total = sum(logit.exp() for logit in logits)
        scores = [logit.exp() / total for logit in logits]
        preference = [score.item() for score in scores]
    else:
        scores = [1 / (1 + (-logit).exp()) for logit in logits]
        bias = moe.gate.e_score_correction_bias
        preference = [(score + b).item() for score, b in zip(scores, bias, strict=True)]
    size = config.experts // config.groups
    groups = [range(g * size, (g + 1) * size) for g in range(config.groups)]
    best = 1 if config.routing == "softmax" else 2
    groups.sort(key=lambda group: -sum(sorted((preference[e] for e in group), reverse=True)[:best]))
    allowed = [e for group in groups[: config.active_groups] for e in group]
    chosen = sorted(allowed, key=lambda e: -preference[e])[: config.active]
    total = sum(scores[e] for e in chosen) if config.normalise and config.active > 1 else 1.0
    return {e: scores[e] / total * config.scale for e in chosen}


def _naive(moe: MoE, x: Tensor) -> Tensor:
    """(N, D) -> (N, D), token by token and expert by expert."""
    rows = []
    for token in x:
        out = torch.zeros(WIDTH) if moe.shared_experts is None else moe.shared_experts(token)
        for expert, weight in _naive_weights(moe, token).items():
            gate, up = (moe.experts.gate_up_proj[expert] @ token).chunk(2)
            out = out + weight * (moe.experts.down_proj[expert] @ (F.silu(gate) * up))
        rows.append(out)
    return torch.stack(rows)


@pytest.fixture(params=["looped", "grouped"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of computing the experts; the other one is made to fail."""
    monkeypatch.setattr(Experts, "_can_group", lambda self, x: request.param == "grouped")
    monkeypatch.setattr(Experts, "looped" if request.param == "grouped" else "grouped", None)
    return str(request.param)


def _check_against_naive(moe: MoE, x: Tensor) -> None:
    """Outputs and all gradients, those of the router and the input among them."""
    mine, naive = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, expected = moe(mine), _naive(moe, naive.flatten(0, -2)).view_as(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    downstream = _x(*x.shape[:-1], seed=2)
    # Experts that nobody chose have no gradient on one side and zeros on the other.
    wanted = torch.autograd.grad((expected * downstream).sum(), [naive, *moe.parameters()])
    grads = torch.autograd.grad((got * downstream).sum(), [mine, *moe.parameters()])
    assert all(grad.any() for grad in wanted)
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shape", [(2, 20), (1, 1)], ids=["many", "single"])
def test_equals_naive(name: str, shape: tuple[int, int], way: str) -> None:
    """More tokens than experts, and a single token, which leaves experts unused."""
    _check_against_naive(_moe(CONFIGS[name]), _x(*shape))


@pytest.mark.parametrize("config", [V2, V3], ids=["v2", "v3"])
def test_an_unused_expert(config: MoeConfig, way: str) -> None:
    """It gets a gradient of exactly zero, wherever it stands among the others."""
    for unused in (0, 3, 7):
        moe = _moe(dataclasses.replace(config, groups=1, active_groups=1))
        x = _x(2, 15).abs()
        moe.gate.weight.data[unused] = -10.0  # every token scores it lowest
        if config.routing == "sigmoid":
            moe.gate.e_score_correction_bias[unused] = -10.0
        _check_against_naive(moe, x)
        moe(x, number_samples(2, 15, None, x.device)).sum().backward()
        assert moe.last_counts is not None
        assert moe.last_counts[unused] == 0
        assert moe.last_counts.sum() == 2 * 15 * config.active
        for grad in (moe.experts.gate_up_proj.grad, moe.experts.down_proj.grad):
            assert grad is not None
            assert not grad[unused].any()
            assert grad.any()


@pytest.mark.parametrize("config", [V2, V3], ids=["v2", "v3"])
def test_all_tokens_on_one_expert(config: MoeConfig, way: str) -> None:
    moe = _moe(dataclasses.replace(config, active=1, groups=1, active_groups=1))
    x = _x(3, 7).abs()
    moe.gate.weight.data[5] = 0.3
    moe.gate.weight.data[:5] = moe.gate.weight.data[6:] = -0.3
    if config.routing == "sigmoid":
        moe.gate.e_score_correction_bias.zero_()
    _check_against_naive(moe, x)
    moe(x, number_samples(3, 7, None, x.device))
    assert moe.last_counts is not None
    assert moe.last_counts.tolist() == [0, 0, 0, 0, 0, 21, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_grouped_equals_looped(dtype: torch.dtype) -> None:
    """On the same rows: outputs and gradients."""
    experts = _moe(V3).experts.to(dtype)
    rows, ends = _x(20).to(dtype), torch.tensor([0, 4, 4, 9, 10, 18, 18, 20])
    downstream = _x(20, seed=2).to(dtype)
    results = []
    for compute in (experts.looped, experts.grouped):
        leaf = rows.clone().requires_grad_()
        out = compute(leaf, ends)
        results.append((out, *torch.autograd.grad(out, [leaf, *experts.parameters()], downstream)))
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[dtype]
    for looped, grouped in zip(*results, strict=True):
        assert looped.dtype == grouped.dtype == dtype
        assert (looped - grouped).abs().max() <= tolerance * looped.abs().max()


@pytest.mark.parametrize("config", [V2, V3], ids=["v2", "v3"])
def test_autocast_computes_experts_in_bfloat16_and_routes_in_fp32(config: MoeConfig, way: str) -> None:
    moe, x = _moe(config), _x(2, 20)
    exact = moe(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = moe(x)
        scores, _, _ = moe.gate(x.flatten(0, 1).bfloat16())
    got.sum().backward()
    assert scores.dtype == torch.float32
    assert got.dtype == torch.float32  # the stream's precision is kept
    assert 0 < (got - exact).abs().max() <= 3e-2 * exact.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in moe.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [V2, V3], ids=["v2", "v3"])
def test_low_precision_weights(config: MoeConfig, dtype: torch.dtype, way: str) -> None:
    """Near the fp32 result of the same rounded weights and input."""
    moe, x = _moe(config).to(dtype), _x(2, 20).to(dtype)
    got = moe(x)
    exact = moe.float()(x.float())
    assert got.dtype == dtype
    assert (got.float() - exact).abs().max() <= 3e-2 * exact.abs().max()


def test_samples_are_numbered_across_rows() -> None:
    segments = torch.tensor([[0, 5, 5, 9], [5, 5, -2, 0]])
    samples = number_samples(2, 4, segments, segments.device)
    assert samples.count == 4
    assert samples.index.tolist() == [0, 1, 1, 2, 4, 4, 3, 0]
    whole = number_samples(2, 3, None, segments.device)
    assert (whole.index.tolist(), whole.count) == ([1, 1, 1, 2, 2, 2], 2)
    for ids in ([4, 6], [-1, 1]):
        unpadded = number_samples(1, 2, torch.tensor([ids]), segments.device)
        assert (unpadded.index.tolist(), unpadded.count) == ([1, 2], 2)
    padding = number_samples(1, 2, torch.tensor([[0, 0]]), segments.device)
    assert (padding.index.tolist(), padding.count) == ([0, 0], 0)


@pytest.mark.parametrize("config", [V2, V3], ids=["v2", "v3"])
def test_balance_loss_equals_the_formula(config: MoeConfig) -> None:
    """Three samples in two rows, padding before and after; the mean over samples of sum f_i P_i."""
    moe = _moe(config)
    segments = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 0, 0, 0]])
    x = _x(2, 8)
    moe(x, number_samples(2, 8, segments, x.device))
    losses = []
    for row, segment in ((0, 1), (0, 2), (1, 1)):
        tokens = x[row, segments[row] == segment]
        share, score = [0.0] * config.experts, torch.zeros(config.experts)
        for token in tokens:
            affinity = moe.gate.weight @ token
            if config.routing == "softmax":
                affinity = affinity.softmax(0)
                chosen = list(_naive_weights(moe, token))
            else:  # the report's equation 18 chooses by the uncorrected score
                affinity = affinity.sigmoid()
                chosen = sorted(range(config.experts), key=lambda e: -affinity[e].item())[: config.active]
                affinity = affinity / affinity.sum()
            for expert in chosen:
                share[expert] += config.experts / (config.active * len(tokens))
            score = score + affinity / len(tokens)
        losses.append(sum(f * p for f, p in zip(share, score, strict=True)))
    expected = config.balance_loss * sum(losses) / 3
    assert moe.last_balance_loss is not None
    torch.testing.assert_close(moe.last_balance_loss, expected)
    (grad,) = torch.autograd.grad(moe.last_balance_loss, moe.gate.weight)
    (want,) = torch.autograd.grad(expected, moe.gate.weight)
    assert want.any()
    torch.testing.assert_close(grad, want)


def test_balance_loss_is_one_when_balanced_and_grows_to_the_expert_count() -> None:
    config = dataclasses.replace(V3, active=1)
    samples = Samples(torch.ones(8, dtype=torch.long), 1)
    even, chosen = torch.eye(8), torch.arange(8)[:, None]
    assert balance_loss(even, chosen, samples, config).item() == pytest.approx(1)
    collapsed = even[:1].expand(8, 8)
    assert balance_loss(collapsed, chosen[:1].expand(8, 1), samples, config).item() == pytest.approx(8)


def test_padding_alone_gives_no_loss() -> None:
    moe, x = _moe(V3), _x(1, 4)
    moe(x, number_samples(1, 4, torch.zeros(1, 4, dtype=torch.long), x.device))
    assert moe.last_balance_loss is not None
    assert moe.last_balance_loss.item() == 0
    assert moe.last_counts is not None
    assert not moe.last_counts.any()


def test_bias_updates_move_the_load_toward_balance() -> None:
    """A router that prefers some experts strongly; only the bias changes."""
    moe = _moe(dataclasses.replace(V3, bias_speed=0.02, groups=1, active_groups=1))
    moe.gate.e_score_correction_bias.zero_()
    x = _x(1, 400) + 1.5  # a common direction, which makes the experts' scores differ on average
    weights = {name: value.clone() for name, value in moe.named_parameters()}

    def imbalance() -> float:
        moe(x, number_samples(1, 400, None, x.device))
        assert moe.last_counts is not None
        return (moe.last_counts.max() / moe.last_counts.float().mean()).item()

    before = imbalance()
    for _ in range(100):
        imbalance()
        assert moe.last_counts is not None
        moe.update_bias(moe.last_counts)
    after = imbalance()
    assert before > 2
    assert after < 1.2
    assert all(torch.equal(value, weights[name]) for name, value in moe.named_parameters())


def test_bias_steps_by_the_sign_and_softmax_routing_has_none() -> None:
    moe = _moe(V3)
    before = moe.gate.e_score_correction_bias.clone()
    moe.update_bias(torch.tensor([5, 1, 3, 3, 3, 3, 5, 1]))
    step = (moe.gate.e_score_correction_bias - before) / V3.bias_speed
    torch.testing.assert_close(step, torch.tensor([-1.0, 1, 0, 0, 0, 0, -1, 1]), atol=1e-3, rtol=0)
    v2 = _moe(V2)
    v2.update_bias(torch.arange(8))
    assert not list(v2.buffers())


def test_bias_stays_in_fp32() -> None:
    moe = _moe(V3)
    bias = moe.gate.e_score_correction_bias.clone()
    moe.to(torch.bfloat16)
    assert moe.gate.weight.dtype == torch.bfloat16
    assert moe.gate.e_score_correction_bias.dtype == torch.float32
    assert torch.equal(moe.gate.e_score_correction_bias, bias)
    assert moe.to("meta").to(torch.float16).gate.e_score_correction_bias.is_meta


def test_a_layer_can_be_copied_and_pickled_after_training() -> None:
    moe, x = _moe(V3), _x(1, 4)
    expected = moe(x, number_samples(1, 4, None, x.device))
    assert moe.last_balance_loss is not None
    assert moe.last_balance_loss.requires_grad
    assert torch.equal(copy.deepcopy(moe)(x), expected)
    file = io.BytesIO()
    torch.save(moe, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)
