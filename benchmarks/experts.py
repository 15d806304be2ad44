"""A step of a core with latent attention and experts beside one of a dense core with as many active weights.

    python benchmarks/experts.py                   layers of DeepSeek-V2-Lite's shape in bfloat16
    python benchmarks/experts.py --quantize int8

Both have random weights and take turns, round by round.  "Reads" is what a step has to read at most: with
guidance a picture is two rows, whose experts differ.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from typing import Any, get_args

import torch

from janus import bench
from janus.checkpoints.layouts import on_meta
from janus.config import PRESETS, CoreConfig, JanusConfig, MlaConfig, MoeConfig
from janus.core.quantized import Quantization
from janus.model import JanusModel

LAYERS = 8  # of 27; the first is dense


def sparse_core() -> CoreConfig:
    kinds: dict[str, Any] = dict(
        attention=("mla",) * LAYERS, feed_forward=("dense", *("moe",) * (LAYERS - 1))
    )
    return CoreConfig(
        **kinds,
        vocab_size=102400,
        width=2048,
        heads=16,
        ffn_width=10944,
        mla=MlaConfig(kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128),
        moe=MoeConfig(experts=64, active=6, expert_width=1408, shared=2, routing="softmax", normalise=False),
    )


def active(config: CoreConfig) -> int:
    """Parameters of the layers that one token meets."""
    layers = on_meta(lambda: JanusModel(JanusConfig(core=config))).core.layers
    each = {name: value.numel() for name, value in layers.named_parameters()}
    routed = sum(count for name, count in each.items() if ".experts." in name)
    share = config.moe.active / config.moe.experts if config.moe else 0
    return sum(each.values()) - round((1 - share) * routed)


def dense_core(sparse: CoreConfig) -> CoreConfig:
    """Grouped queries, and a feed-forward as wide as makes up for the rest."""
    kinds: dict[str, Any] = dict(attention=("gqa",) * LAYERS, feed_forward=("dense",) * LAYERS, moe=None)
    config = replace(sparse, **kinds, ffn_width=64)
    more = (active(sparse) - active(config)) / (3 * LAYERS * config.width)
    return replace(config, ffn_width=64 + round(more / 64) * 64)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quantize", choices=get_args(Quantization))
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--steps", type=int, default=24, help="timed steps of each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    core = sparse_core()
    configs = {"experts": core, "dense": dense_core(core)}
    models = {}
    for name, own in configs.items():
        PRESETS[name] = JanusConfig(core=own)
        models[name] = bench.open_model(name, "cpu", options.dtype, options.quantize)
        print(f"{name}: {active(own) / 1e6:.0f} million active parameters in {LAYERS} layers")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    for _ in range(options.rounds):
        for name, model in models.items():
            found[name].append(bench.bench(model, 1, options.steps))
    print("| | reads, experts | reads, dense | ms, experts | ms, dense | ratio |")
    print("|---|---|---|---|---|---|")
    for what, key in (("writing, 1 row", "text"), ("drawing, 2 rows", "image")):
        times = {n: [f[f"{key}_ms_per_step"][0] for f in found[n]] for n in models}
        reads = " | ".join(f"{found[n][0][f'{key}_bytes_per_step'] / 1e9:.2f} GB" for n in models)
        shown = " | ".join(
            f"{statistics.median(t):.1f} ({min(t):.1f} to {max(t):.1f})" for t in times.values()
        )
        ratio = statistics.median(times["experts"]) / statistics.median(times["dense"])
        print(f"| {what} | {reads} | {shown} | {ratio:.2f} |")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
