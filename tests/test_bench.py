"""Figures of speed: what is counted, not how fast it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from janus import bench
from janus.bench import open_model, step_bytes, table
from janus.cli import main
from janus.config import PRESETS
from janus.core.cache import Cache
from janus.model import JanusModel


def test_a_preset_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_READ", 2**20)
    out = tmp_path / "bench.json"
    model = ["--model", "tiny-v3", "--dtype", "float32", "--device", "cpu"]
    assert main(["bench", *model, "-n", "2", "--steps", "3", "--json", str(out)]) == 0
    figures = json.loads(out.read_text(encoding="utf-8"))
    assert capsys.readouterr().out == table(figures) + "\n"
    median, fastest, slowest = figures["image_ms_per_step"]
    assert 0 < fastest <= median <= slowest
    assert figures["image_ms_per_token"] == pytest.approx(median / 2)
    assert figures["images_per_second"] == pytest.approx(2e3 / (median * PRESETS["tiny-v3"].vq.tokens))
    assert figures["bandwidth"] == pytest.approx(figures["image_bytes_per_step"] / median * 1e3)
    assert figures["bandwidth_share"] == pytest.approx(figures["bandwidth"] / figures["bandwidth_limit"])
    assert figures["peak_memory_bytes"] > 2**20


def test_a_step_reads_what_it_needs() -> None:
    model = JanusModel(PRESETS["tiny-v3"])
    core = model.config.core
    assert core.moe is not None
    one, all_rows = step_bytes(model, "text", 1, 5), step_bytes(model, "text", 100, 5)
    expert = 3 * core.width * core.moe.expert_width * 4
    idle = (core.moe.experts - core.moe.active) * expert * core.feed_forward.count("moe")
    caches = [Cache.bytes_needed(core, rows, 5, torch.float32) for rows in (1, 100)]
    assert all_rows - caches[1] - (one - caches[0]) == idle
    stored = [*model.core.parameters(), *model.core.buffers()]
    core_bytes = sum(value.nbytes for value in stored) - model.core.embed_tokens.weight.nbytes
    assert all_rows == core_bytes + model.language_model.lm_head.weight.nbytes + caches[1]


def test_a_step_of_integers_reads_a_quarter_of_float32() -> None:
    whole, eight = (open_model("tiny", "cpu", "float32", kind) for kind in (None, "int8"))
    matrices = sum(p.nbytes for name, p in whole.core.layers.named_parameters() if "_proj" in name)
    scales = sum(p.nbytes for name, p in eight.core.layers.named_parameters() if "scale" in name)
    saved = step_bytes(whole, "image", 1, 5) - step_bytes(eight, "image", 1, 5)
    assert saved == matrices * 3 // 4 - scales


def test_random_weights_are_the_same_again() -> None:
    one, other = (open_model("tiny-v3", "cpu", "float32").state_dict() for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert next(iter(open_model("tiny-v3", "cpu").parameters())).dtype == torch.bfloat16


@pytest.mark.parametrize(("images", "steps"), [(0, 1), (1, 0), (1, 100)])
def test_numbers_that_make_no_sense(images: int, steps: int) -> None:
    with pytest.raises(ValueError, match=f"half a picture; not {images}, {steps}"):
        bench.bench(JanusModel(PRESETS["tiny-v3"]), images, steps)
