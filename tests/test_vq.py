"""The VQ image tokenizer: official names, transformers' numbers, folding, precisions, training."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import JanusVQVAE, JanusVQVAEConfig

from janus.config import PRESETS, VqConfig
from janus.tokenizers.image import VqTokenizer
from tests.recipe import recipe_weights, uniform

TINY = VqConfig(image_size=32, codes=64, z_channels=16, channels=32, multipliers=(1, 2), res_blocks=1)
DEEP = replace(TINY, multipliers=(1, 1, 2, 2, 4), res_blocks=2, codes=256)
FOLDED = replace(TINY, fold=4)


def tokenizer(config: VqConfig) -> VqTokenizer:
    model = VqTokenizer(config).eval()
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    model.load_state_dict(recipe_weights(shapes))
    return model


def pictures(count: int) -> Tensor:
    return uniform("pictures", (count, 3, 32, 32))


def near(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.detach().abs().max()))


def test_names_and_shapes_are_the_official_ones() -> None:
    with torch.device("meta"):
        model = VqTokenizer(PRESETS["janus-pro-1b"].vq)
    prefix = "gen_vision_model."
    official = json.loads((Path(__file__).parent / "golden" / "official_keys_1b.json").read_text())
    expected = {key.removeprefix(prefix): shape for key, shape in official.items() if key.startswith(prefix)}
    del expected["quantize.codebook_used"]  # nothing reads it
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == expected


def _transformers_key(key: str) -> str:
    """Our name in transformers' words; its decoder has its levels in the same order as ours."""
    key = re.sub(r"(encoder|decoder)\.mid\.(\d)", _middle, key)
    key = key.replace("encoder.conv_blocks", "encoder.down").replace("decoder.conv_blocks", "decoder.up")
    return key.replace(".res.", ".block.")


def _middle(match: re.Match[str]) -> str:
    return f"{match[1]}.mid.{['block_1', 'attn_1', 'block_2'][int(match[2])]}"


def transformers_vq(config: VqConfig, ours: VqTokenizer) -> Any:
    theirs = JanusVQVAE(
        JanusVQVAEConfig(
            embed_dim=config.code_dim,
            num_embeddings=config.codes,
            latent_channels=config.z_channels,
            base_channels=config.channels,
            channel_multiplier=list(config.multipliers),
            num_res_blocks=config.res_blocks,
            num_patches=config.grid,
        )
    )
    state = ours.state_dict()
    theirs.load_state_dict({_transformers_key(key): state[key] for key in state})
    return theirs.eval()


@pytest.mark.parametrize("config", [TINY, DEEP], ids=["tiny", "deep"])
@torch.no_grad()
def test_transformers_agrees(config: VqConfig) -> None:
    ours = tokenizer(config)
    theirs = transformers_vq(config, ours)
    encoded = theirs.encode(pictures(6))
    near(ours.encoder(pictures(6)), encoded.last_hidden_state)
    codes = ours.encode(pictures(6))
    assert torch.equal(codes, encoded.image_tokens.view(6, -1))  # the recipe's codebook has unit rows
    assert len(codes.unique()) > 8
    near(ours.decode(codes), theirs.decode(codes))


@torch.no_grad()
def test_lengths_of_codebook_rows_do_not_matter() -> None:
    model = tokenizer(TINY)
    codes = model.encode(pictures(4))
    pixels = model.decode(codes)
    lengths = 1.5 + uniform("lengths", (TINY.codes, 1))
    model.quantize.embedding.weight.mul_(lengths)
    assert torch.equal(model.encode(pictures(4)), codes)
    near(model.decode(codes), pixels)


@torch.no_grad()
def test_codes_are_the_closest_rows() -> None:
    model = tokenizer(TINY)
    z = model.latents(pictures(3))
    near(z.norm(dim=-1), torch.ones(3, TINY.tokens))
    distances = (z.unsqueeze(2) - model.quantize.rows()).norm(dim=-1)
    assert torch.equal(model.encode(pictures(3)), distances.argmin(-1))
    every = torch.arange(TINY.codes)
    assert torch.equal(model.quantize.nearest(model.quantize(every)), every)


@torch.no_grad()
def test_folding_moves_pixels_into_channels_and_back() -> None:
    model = tokenizer(FOLDED)
    seen: dict[str, Tensor] = {}
    model.encoder.conv_in.register_forward_pre_hook(lambda _, args: seen.update(folded=args[0]))
    model.decoder.conv_out.register_forward_hook(lambda _, args, out: seen.update(unfolded=out))
    codes = model.encode(pictures(2))
    assert codes.shape == (2, FOLDED.tokens) == (2, 16)
    drawn = model.decode(codes)
    for channel, y, x in [(0, 0, 0), (1, 2, 3), (2, 3, 1)]:
        place = channel * 16 + y * 4 + x
        assert torch.equal(seen["folded"][:, place], pictures(2)[:, channel, y::4, x::4])
        assert torch.equal(drawn[:, channel, y::4, x::4], seen["unfolded"][:, place])


@pytest.mark.parametrize("config", [TINY, FOLDED], ids=["tiny", "folded"])
@torch.no_grad()
def test_batch_equals_single(config: VqConfig) -> None:
    model = tokenizer(config)
    codes = model.encode(pictures(3))
    assert torch.equal(codes, torch.cat([model.encode(picture[None]) for picture in pictures(3)]))
    near(model.decode(codes), torch.cat([model.decode(row[None]) for row in codes]))


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.08), (torch.float16, 0.01)])
@torch.no_grad()
def test_half_precision(dtype: torch.dtype, error: float) -> None:
    exact, half = tokenizer(DEEP), tokenizer(DEEP).to(dtype)
    codes = exact.encode(pictures(8))
    drawn = half.decode(codes)
    assert drawn.dtype == dtype
    expected = exact.decode(codes)
    assert (drawn - expected).abs().mean() < error * expected.abs().mean()
    assert (half.encode(pictures(8)) == codes).float().mean() > 0.8


def test_the_code_search_stays_in_float32_under_autocast() -> None:
    model = tokenizer(DEEP)
    z = F.normalize(uniform("z", (2000, 8)), dim=-1)
    expected = model.quantize.nearest(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.quantize.nearest(z), expected)
        assert not torch.equal((z @ model.quantize.rows().T).argmax(-1), expected)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 16, 32), (1, 1, 32, 32), (1, 3, 64, 64)])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{shape}; this tokenizer takes (N, 3, 32, 32)")):
        tokenizer(TINY).encode(torch.zeros(shape))


def test_codes_that_cannot_be_are_refused() -> None:
    model = tokenizer(TINY)
    codes = torch.zeros(1, TINY.tokens, dtype=torch.long)
    with pytest.raises(ValueError, match=r"shape \(1, 255\); a picture here is \(N, 256\)"):
        model.decode(codes[:, 1:])
    with pytest.raises(ValueError, match=r"shape \(256,\)"):
        model.decode(codes[0])
    with pytest.raises(ValueError, match="codes from 0 to 64; they must be 0 to 63"):
        model.decode(codes.index_fill(1, torch.tensor([7]), 64))
    with pytest.raises(ValueError, match="codes from -1 to 0"):
        model.decode(codes.index_fill(1, torch.tensor([7]), -1))


def test_channels_that_the_norms_cannot_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="48 channels; every level needs a multiple of 32"):
        VqTokenizer(replace(TINY, channels=48))


def test_training_forward() -> None:
    model = tokenizer(FOLDED)
    drawn, losses, codes = model(pictures(4))
    assert torch.equal(codes, model.encode(pictures(4)))
    near(drawn, model.decode(codes))
    z, rows = model.latents(pictures(4)), model.quantize.rows()
    distance = (z - rows[codes]).square().mean()
    near(losses.codebook, distance)
    near(losses.commitment, distance)

    def touched(loss: Tensor) -> set[str]:
        model.zero_grad()
        loss.backward(retain_graph=True)
        found = {
            name
            for name, p in model.named_parameters()
            if p.grad is not None and bool(p.grad.abs().sum() > 0)
        }
        return {name.split(".")[0] for name in found}

    assert touched(losses.codebook) == {"quantize"}
    assert touched(losses.commitment) == {"encoder", "quant_conv"}
    through = touched(drawn.square().mean())
    assert through == {"encoder", "quant_conv", "post_quant_conv", "decoder"}


def test_gradient_passes_the_choice_of_codes_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tokenizer(TINY)
    seen: dict[str, Tensor] = {}

    def keep(name: str, tensor: Tensor) -> Tensor:
        tensor.retain_grad()
        seen[name] = tensor
        return tensor

    latents, pixels = model.latents, model.pixels
    monkeypatch.setattr(model, "latents", lambda x: keep("latents", latents(x)))
    monkeypatch.setattr(model, "pixels", lambda x: pixels(keep("vectors", x)))
    model(pictures(1))[0].square().mean().backward()
    assert seen["latents"].grad is not None
    assert seen["vectors"].grad is not None
    assert torch.equal(seen["latents"].grad, seen["vectors"].grad)


def test_training_learns_a_picture() -> None:
    model = tokenizer(FOLDED).train()
    target = F.interpolate(uniform("coarse", (2, 3, 4, 4)), scale_factor=8.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    errors = []
    for _ in range(25):
        drawn, losses, _ = model(target)
        error = F.mse_loss(drawn, target)
        optimizer.zero_grad()
        (error + losses.codebook + 0.25 * losses.commitment).backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.3 * errors[0]
