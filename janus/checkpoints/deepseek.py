"""Published DeepSeek-V2 and DeepSeek-V3 language models (and Llama ones) as this package's core.

V3's files add multi-token-prediction layers after the last one, which are left out by name, and store
most matrices in fp8, with one scale for each block of 128 by 128 numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from janus.checkpoints import hub
from janus.checkpoints.configs import stated_dtype
from janus.checkpoints.fields import Fields
from janus.checkpoints.files import Info, WeightFiles, check, read_json
from janus.checkpoints.language import read_core
from janus.checkpoints.layouts import on_meta
from janus.checkpoints.loading import fill
from janus.config import CoreConfig
from janus.core.published import split_experts
from janus.core.transformer import LanguageModel

BLOCK = 128
_SCALE = "_scale_inv"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def load_language_model(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    offline: bool = False,
) -> tuple[LanguageModel, CoreConfig]:
    """A language model in the published layout, from a folder or a hub id.

    `dtype` defaults to what `config.json` asks for.  Raises ValueError as `load` does.
    """
    folder = hub.locate(source, revision=revision, offline=offline)
    fields = Fields(read_json(folder / "config.json"), str(folder / "config.json"))
    core = read_core(fields)
    if "quantization_config" in fields:
        _check_quantisation(fields.inner("quantization_config"))
    kind = dtype or stated_dtype(fields) or torch.bfloat16
    model = on_meta(lambda: LanguageModel(core))
    tensors = PublishedWeights(
        WeightFiles(folder), core.layers, fields.take("num_nextn_predict_layers", int, 0, least=0), kind
    )
    expected = {key: tuple(value.shape) for key, value in split_experts(model.state_dict()).items()}
    check(tensors.infos, expected, folder)
    fill(model, tensors, core, torch.device(device), kind)
    return model, core


def _check_quantisation(fields: Fields) -> None:
    fields.expect("quant_method", "fp8")
    fields.expect("fmt", "e4m3")
    fields.expect("weight_block_size", [BLOCK, BLOCK])


class PublishedWeights:
    """The weights of the layers below `layers`, fp8 ones dequantised when read.

    Raises ValueError where an fp8 matrix lacks its scales, or scales lack their matrix or have another
    shape than its blocks.
    """

    def __init__(self, weights: WeightFiles, layers: int, mtp_layers: int, dtype: torch.dtype) -> None:
        self._weights = weights
        self._dtype = dtype
        self.infos: dict[str, Info] = {}
        extra = range(layers, layers + mtp_layers)
        for key, info in weights.infos.items():
            layer = _LAYER.match(key)
            if layer and int(layer[1]) in extra:
                continue
            if key.endswith(_SCALE):
                self._check_scale(key, weights.infos)
            elif info.dtype == torch.float8_e4m3fn:
                if key + _SCALE not in weights.infos:
                    raise ValueError(f"{key} is fp8 and has no {key}{_SCALE}")
                self.infos[key] = Info(info.shape, dtype)
            else:
                self.infos[key] = info

    @staticmethod
    def _check_scale(key: str, infos: Mapping[str, Info]) -> None:
        matrix = infos.get(key.removesuffix(_SCALE))
        if matrix is None or matrix.dtype != torch.float8_e4m3fn:
            raise ValueError(f"{key} has no fp8 matrix {key.removesuffix(_SCALE)}")
        blocks = tuple(-(-size // BLOCK) for size in matrix.shape)
        if infos[key].shape != blocks:
            raise ValueError(f"{key} is {list(infos[key].shape)} instead of {list(blocks)}")

    def read(self, key: str) -> Tensor:
        value = self._weights.read(key)
        if value.dtype != torch.float8_e4m3fn:
            return value
        return dequantise(value, self._weights.read(key + _SCALE)).to(self._dtype)


def dequantise(matrix: Tensor, scales: Tensor) -> Tensor:
    """An fp8 matrix (R, C) times its scales, one for each block of 128 rows and columns, in float32."""
    rows, columns = matrix.shape
    wide = scales.float().repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return matrix.float() * wide
