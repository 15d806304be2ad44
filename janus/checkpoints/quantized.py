"""`quantization_config` of `config.json`: weights in 8 or 4 bits in the compressed-tensors format.

That format (its package's `QuantizationConfig`) names the layers by patterns and says how their matrices are
stored.  Read is what is written here; other schemes of it would need code that does not exist here.
"""

from __future__ import annotations

from typing import Any

from janus.checkpoints.fields import Fields
from janus.checkpoints.layouts import Layout
from janus.core.quantized import GROUP, Quantization

_FIELD = "quantization_config"
_FORMATS: dict[Quantization, str] = {
    "int8": "int-quantized",
    "int4": "pack-quantized",
    "fp8": "float-quantized",
}
_WEIGHTS: dict[Quantization, dict[str, Any]] = {
    "int8": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
    "int4": {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "dynamic": False}
    | {"group_size": GROUP},
    "fp8": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "dynamic": False},
}
_CORE: dict[Layout, str] = {"official": "language_model.model", "transformers": "model.language_model"}


def write_quantization(kind: Quantization | None, layout: Layout) -> dict[str, Any]:
    """The field, by its name; nothing for weights as they were trained."""
    if kind is None:
        return {}
    targets = rf"re:.*{_CORE[layout].replace('.', '[.]')}[.]layers[.].*(?<!kv_b)_proj$"
    group = {"targets": [targets], "weights": _WEIGHTS[kind], "format": _FORMATS[kind]}
    return {
        _FIELD: {
            "quant_method": "compressed-tensors",
            "format": _FORMATS[kind],
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": [],
        }
    }


def read_quantization(fields: Fields) -> Quantization | None:
    """What `write_quantization` wrote among the settings `fields`.  Raises ValueError for anything else."""
    if _FIELD not in fields:
        return None
    own = fields.inner(_FIELD)
    own.expect("quant_method", "compressed-tensors")
    form = own.take("format", str)
    kind = next((kind for kind, name in _FORMATS.items() if name == form), None)
    if kind is None:
        raise ValueError(f"{own.where}: format is {form!r}, not one of {list(_FORMATS.values())}")
    own.expect("kv_cache_scheme", None)
    groups = own.inner("config_groups")
    group = groups.inner("group_0")
    weights = group.inner("weights")
    for name, value in _WEIGHTS[kind].items():
        weights.expect(name, value)
    group.done(ignored=("targets", "format"))  # activations stay as they are
    groups.done()
    return kind
