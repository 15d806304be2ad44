"""Integer weights: what they stand for, the CPU's own products, and whole models of them."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from janus import Janus, checkpoints
from janus.checkpoints import EMBEDDED, adapters
from janus.cli import main
from janus.config import PRESETS
from janus.core.cache import Cache
from janus.core.published import split_experts, stack_experts
from janus.core.quantized import GROUP, Int4Linear, Int8Linear, Quantization
from janus.model import JanusModel
from janus.train.loop import train
from janus.train.plan import DataRecipe, Mixture, TrainRecipe
from tests.conftest import randomise

LAYERS = pytest.mark.parametrize("layer", [Int8Linear, Int4Linear])


def _matrix(outputs: int = 64, inputs: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(outputs, inputs, generator=generator) * torch.linspace(0.01, 2, outputs)[:, None]


def test_eight_bits_are_within_half_a_step_of_each_output() -> None:
    weight = _matrix()
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((Int8Linear(weight).dense(torch.float32) - weight).abs() <= step * 0.5001).all()


def test_four_bits_are_within_a_step_of_each_group() -> None:
    weight = _matrix()
    groups = weight.unflatten(1, (-1, GROUP))
    step = (groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)) / 15
    off = (Int4Linear(weight).dense(torch.float32) - weight).abs().unflatten(1, (-1, GROUP))
    assert (off <= step[..., None] * 1.0001).all()  # half from the number, half from the zero point
    assert float((off / step[..., None]).mean()) < 0.3


@LAYERS
@pytest.mark.parametrize("sign", [1, -1])
def test_groups_of_one_sign_and_of_zeros(layer: type[Int8Linear] | type[Int4Linear], sign: int) -> None:
    weight = sign * _matrix().abs()
    weight[3] = 0
    dense = layer(weight).dense(torch.float32)
    assert (dense[3] == 0).all()
    assert (dense * sign >= 0).all()
    assert float((dense - weight).norm() / weight.norm()) < 0.05


@LAYERS
@pytest.mark.parametrize("rows", [(1,), (2, 3), (40,)])
def test_products_are_those_of_the_dense_matrix(
    layer: type[Int8Linear] | type[Int4Linear], rows: tuple[int, ...]
) -> None:
    made = layer(_matrix().bfloat16())
    x = torch.randn(*rows, 96, generator=torch.Generator().manual_seed(1))
    for dtype, bound in ((torch.bfloat16, 1.5e-2), (torch.float32, 1e-6)):
        wanted = x @ made.dense(torch.float32).T
        got = made(x.to(dtype))
        assert (got.dtype, got.shape) == (dtype, wanted.shape)
        assert float((got.float() - wanted).norm() / wanted.norm()) < bound


@pytest.fixture(params=["tiny", "tiny-v3"])
def model(request: pytest.FixtureRequest) -> JanusModel:
    """Its matrices are whole groups."""
    config = PRESETS[request.param]
    mla = config.core.mla and dataclasses.replace(config.core.mla, q_rank=32)
    model = JanusModel(dataclasses.replace(config, core=dataclasses.replace(config.core, mla=mla))).eval()
    randomise(model)
    return model


def _logits(model: JanusModel) -> Tensor:
    with torch.inference_mode():
        ids = torch.arange(24).view(2, 12) % model.config.core.vocab_size
        return model.image_logits(model.core(model.embed_text(ids))).float()


KINDS = pytest.mark.parametrize("kind", ["int8", "int4"])


@KINDS
def test_a_quantised_core_is_the_one_of_its_dense_matrices(model: JanusModel, kind: Quantization) -> None:
    before = _logits(model)
    dense = copy.deepcopy(model)
    model.quantize(kind)
    assert model.config.core.quantization == model.core.config.quantization == kind
    state = split_experts(dense.state_dict())
    exact = {
        f"{name}.weight": layer.dense(torch.float32)
        for name, layer in model.named_modules()
        if isinstance(layer, Int8Linear | Int4Linear)
    }
    replaced = state | exact
    assert replaced.keys() == state.keys()
    dense.load_state_dict(stack_experts(replaced, dense.config.core))
    after = _logits(model)
    torch.testing.assert_close(after, _logits(dense), rtol=1e-4, atol=1e-4)
    off = float((after - before).norm() / before.norm())
    assert 1e-4 < off < (0.03 if kind == "int8" else 0.4)


@KINDS
def test_a_quantised_core_decodes_as_it_reads_a_whole_row(model: JanusModel, kind: Quantization) -> None:
    model.quantize(kind)
    with torch.inference_mode():
        x = model.embed_text(torch.arange(12)[None])
        cache = Cache(model.config.core, 1, 12, dtype=torch.float32, device="cpu")
        steps = [model.core(x[:, i : i + 1], cache=cache) for i in range(12)]
        torch.testing.assert_close(torch.cat(steps, 1), model.core(x), rtol=1e-4, atol=1e-4)


@KINDS
def test_saved_and_loaded_without_a_change(
    model: JanusModel, kind: Quantization, folder: Path, tmp_path: Path
) -> None:
    model.quantize(kind)
    checkpoints.save(model, tmp_path / "made", source=folder)
    loaded, _ = checkpoints.load(tmp_path / "made")
    assert loaded.config.core == model.config.core
    assert torch.equal(_logits(loaded), _logits(model))
    again = checkpoints.convert(tmp_path / "made", tmp_path / "again", "official")
    assert not again.dropped
    assert torch.equal(_logits(checkpoints.load(tmp_path / "again")[0]), _logits(model))
    with pytest.raises(ValueError, match=f"the weights are {kind} already; make int8 of the original ones"):
        loaded.quantize("int8")


@KINDS
def test_the_format_is_that_of_compressed_tensors(
    tiny: Callable[[str], JanusModel], kind: Quantization, folder: Path, tmp_path: Path
) -> None:
    """Its own package turns what was saved back into the matrices that it stands for."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from compressed_tensors.utils import match_named_modules

    model = copy.deepcopy(tiny("tiny"))
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    original = copy.deepcopy(model)
    model.quantize(kind)
    checkpoints.save(model, tmp_path / "made", source=folder)
    settings = json.loads((tmp_path / "made/config.json").read_text(encoding="utf-8"))["quantization_config"]
    config = QuantizationConfig.model_validate(settings)
    (scheme,) = config.config_groups.values()
    matched = {name for name, _ in match_named_modules(original, scheme.targets, config.ignore)}
    made = {name: m for name, m in model.named_modules() if isinstance(m, Int8Linear | Int4Linear)}
    assert made.keys() == matched
    assert made.keys() < linear
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    weights = load_file(tmp_path / "made/model.safetensors")
    for name, layer in made.items():
        own = {key.removeprefix(f"{name}."): v for key, v in weights.items() if key.startswith(f"{name}.")}
        theirs = compressor.decompress(own, scheme)["weight"]
        assert torch.equal(theirs, layer.dense(theirs.dtype))


def test_transformers_reads_what_is_saved_in_its_layout(
    tiny: Callable[[str], JanusModel], folder: Path, tmp_path: Path
) -> None:
    model = copy.deepcopy(tiny("tiny"))
    model.quantize("int8")
    checkpoints.save(model, tmp_path / "made", layout="transformers", source=folder)
    dense = transformers.CompressedTensorsConfig(dequantize=True)
    theirs = transformers.JanusForConditionalGeneration.from_pretrained(
        tmp_path / "made", quantization_config=dense
    ).eval()
    ids = torch.arange(24).view(2, 12)
    with torch.inference_mode():
        wanted = model.core(model.embed_text(ids))
        got = theirs.model.language_model(input_ids=ids).last_hidden_state
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_what_cannot_be(tiny: Callable[[str], JanusModel], folder: Path, tmp_path: Path) -> None:
    model = copy.deepcopy(tiny("tiny"))
    with pytest.raises(ValueError, match=r"quantize must be one of \['int8', 'int4', 'fp8'\], not 'int3'"):
        model.quantize("int3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not of 48 and 64; int8 takes any"):
        Int4Linear(torch.zeros(64, 48))
    model.quantize("int8")
    checkpoints.save(model, tmp_path / "made", source=folder)
    recipe = TrainRecipe(
        mixture=Mixture(text=1),
        steps=1,
        model=str(tmp_path / "made"),
        out=str(tmp_path / "run"),
        data=(DataRecipe(path="x"),),
    )
    with pytest.raises(ValueError, match="are int8, which cannot learn; train the original"):
        train(recipe, "cpu")
    with pytest.raises(ValueError, match="into int8 weights; take the model as it was before"):
        adapters.merge(model, tmp_path)
    config = tmp_path / "made/config.json"
    for before, after, message in (
        ('"num_bits": 8', '"num_bits": 6', "num_bits is 6, which is not supported"),
        (
            '"int-quantized"',
            '"naive-quantized"',
            "format is 'naive-quantized', not one of",
        ),
        ('"weights": {', '"input_activations": {"num_bits": 8}, "weights": {', r"unknown meaning: \['input_"),
        ('"compressed-tensors"', '"gptq"', "quant_method is 'gptq', which is not supported"),
    ):
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace(before, after), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            checkpoints.load(tmp_path / "made")
        config.write_text(text, encoding="utf-8")
    weights = load_file(tmp_path / "made/model.safetensors")
    key = "language_model.model.layers.0.mlp.up_proj.weight"
    save_file(weights | {key: weights[key].float()}, tmp_path / "made/model.safetensors")
    with pytest.raises(ValueError, match=rf"{key} holds torch.float32, not torch.int8"):
        checkpoints.load(tmp_path / "made")


def test_the_embedded_model_draws_in_eight_bits_what_it_draws(tmp_path: Path) -> None:
    """And `janus convert --quantize` writes the model that `--quantize` makes."""
    options = ["--layout", "official", "--quantize", "int8"]
    assert main(["convert", str(EMBEDDED), str(tmp_path / "made"), *options]) == 0
    made = [
        model.generate_images(["a red car", "two dogs"], seed=1)
        for model in (
            Janus.from_pretrained(dtype="float32"),
            Janus.from_pretrained(dtype="float32", quantize="int8"),
            Janus.from_pretrained(tmp_path / "made", dtype="float32"),
        )
    ]
    wanted, quantised, saved = (
        np.stack([np.asarray(picture, dtype=float) for (picture,) in pictures]) for pictures in made
    )
    assert np.array_equal(quantised, saved)
    assert np.abs(quantised - wanted).mean() < 4  # of 255
