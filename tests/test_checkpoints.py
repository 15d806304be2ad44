"""Reading and writing weights: what comes back, what is refused, what is left behind, memory."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import runpy
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from janus import checkpoints
from janus.checkpoints import writing
from janus.checkpoints.layouts import CODEBOOK_USED, UNUSED, official_shapes
from janus.config import PRESETS
from janus.model import JanusModel
from tests.test_settings import edit

Tiny = Callable[[str], JanusModel]


def assert_same_weights(left: torch.nn.Module, right: torch.nn.Module) -> None:
    a, b = left.state_dict(), right.state_dict()
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


# -- weights ------------------------------------------------------------------------------------


@pytest.fixture
def saved(tiny: Tiny, tmp_path: Path) -> Path:
    checkpoints.save(tiny("tiny-v3"), tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(
    folder: Path, alter: Callable[[dict[str, torch.Tensor]], object], kind: str = "safetensors"
) -> None:
    """Alter the tensors of a folder, and store them as safetensors, or as torch does."""
    state = load_file(folder / "model.safetensors")
    alter(state)
    (folder / "model.safetensors").unlink()
    if kind == "safetensors":
        save_file(state, folder / "model.safetensors")
    else:
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=kind == "bin")


@pytest.mark.parametrize("preset", ["tiny", "tiny-v2", "tiny-v3"])
def test_a_model_comes_back_whole(tiny: Tiny, preset: str, tmp_path: Path) -> None:
    checkpoints.save(tiny(preset), tmp_path / "new" / "model")
    model, folder = checkpoints.load(tmp_path / "new" / "model")
    assert folder == tmp_path / "new" / "model"
    assert model.config == tiny(preset).config
    assert_same_weights(model, tiny(preset))
    stored = load_file(folder / "model.safetensors")
    assert {key: tuple(value.shape) for key, value in stored.items()} == official_shapes(tiny(preset))
    assert not stored[CODEBOOK_USED].any()
    assert os.listdir(tmp_path / "new") == ["model"]


@pytest.mark.parametrize("kind", ["bin", "old bin"])
def test_torch_files(saved: Path, tiny: Tiny, kind: str) -> None:
    rewrite(saved, lambda state: None, kind)
    assert_same_weights(checkpoints.load(saved)[0], tiny("tiny-v3"))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("index", [True, False])
def test_shards(tiny: Tiny, kind: str, index: bool, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    checkpoints.save(tiny("tiny-v3"), folder, shard_bytes=400_000)
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    assert len(shards) > 2
    stem = "model"
    if kind == "bin":
        stem = "pytorch_model"
        for path in shards:
            torch.save(load_file(path), folder / f"pytorch_{path.stem}.bin")
            path.unlink()
        shards = sorted(folder.glob("*.bin"))
        old = folder / "model.safetensors.index.json"
        text = old.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        old.unlink()
    file = folder / f"{stem}.{kind}.index.json"
    if index:
        total = json.loads(file.read_text())["metadata"]["total_size"]
        assert total == sum(v.nbytes for v in load_any(shards).values())
    else:
        file.unlink()
    assert_same_weights(checkpoints.load(folder)[0], tiny("tiny-v3"))
    shards[1].unlink()
    with pytest.raises(ValueError, match=shards[1].name if index else "not a whole set of shards"):
        checkpoints.load(folder)


def load_any(paths: list[Path]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for path in paths:
        state |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return state


def test_safetensors_are_preferred(saved: Path, tiny: Tiny) -> None:
    (saved / "pytorch_model.bin").write_bytes(b"not even torch")
    assert_same_weights(checkpoints.load(saved)[0], tiny("tiny-v3"))


def test_an_index_cannot_leave_its_folder(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved.parent / "outside.safetensors")
    index = {"weight_map": {"gen_embed.weight": "../outside.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"outside its folder: \.\./outside"):
        checkpoints.load(saved)


def test_an_index_must_be_right(tiny: Tiny, tmp_path: Path) -> None:
    checkpoints.save(tiny("tiny"), tmp_path / "m", shard_bytes=400_000)
    path = tmp_path / "m" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first, *_, last = sorted(set(index["weight_map"].values()))
    index["weight_map"]["gen_embed.weight"] = (
        first if index["weight_map"]["gen_embed.weight"] == last else last
    )
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"not where it says: gen_embed\.weight"):
        checkpoints.load(tmp_path / "m")


def test_only_what_is_never_read_may_be_missing(saved: Path, tiny: Tiny) -> None:
    rewrite(saved, lambda state: [state.pop(key) for key in UNUSED])
    model, _ = checkpoints.load(saved)
    state = model.state_dict()
    for key, value in tiny("tiny-v3").state_dict().items():
        assert torch.equal(state[key], torch.zeros_like(value) if key in UNUSED else value), key


def test_every_wrong_tensor_is_named(saved: Path) -> None:
    expert = "language_model.model.layers.1.mlp.experts.5.up_proj.weight"

    def spoil(state: dict[str, torch.Tensor]) -> None:
        state["extra.weight"] = torch.zeros(1)
        del state[expert], state["language_model.lm_head.weight"]
        state["gen_embed.weight"] = torch.zeros(3, 8)

    rewrite(saved, spoil)
    with pytest.raises(ValueError, match="do not fit") as error:
        checkpoints.load(saved)
    for words in (
        "1 unknown: extra.weight",
        f"2 missing: language_model.lm_head.weight, {expert}",
        "1 misshapen: gen_embed.weight is [3, 8] instead of [64, 8]",
    ):
        assert words in str(error.value)


def test_integers_are_no_weights(saved: Path) -> None:
    rewrite(saved, lambda state: state.update({"gen_embed.weight": torch.zeros(64, 8, dtype=torch.int8)}))
    with pytest.raises(ValueError, match=r"gen_embed\.weight holds torch\.int8"):
        checkpoints.load(saved)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("size", [0, 5, 1000, -10])
def test_damaged_files(saved: Path, name: str, size: int) -> None:
    if name.endswith("bin"):
        rewrite(saved, lambda state: None, "bin")
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[:size])
    with pytest.raises(ValueError, match=f"{name} is (damaged|not)"):
        checkpoints.load(saved)


def test_a_folder_without_weights_or_settings(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        checkpoints.load(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not readable JSON"):
        checkpoints.load(saved)
    (saved / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config.json"):
        checkpoints.load(saved)


class Attack:
    """A pickle that creates a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(saved: Path, zipped: bool) -> None:
    (saved / "model.safetensors").unlink()
    trace = saved / "was-here"
    torch.save(
        {"gen_embed.weight": Attack(trace)},
        saved / "pytorch_model.bin",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is not a file of tensors alone"):
        checkpoints.load(saved)
    assert not trace.exists()
    torch.load(saved / "pytorch_model.bin", weights_only=False)  # the attack does work
    assert trace.exists()


def test_a_torch_file_must_hold_tensors_by_name(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    torch.save({"model": {"gen_embed.weight": torch.zeros(1)}}, saved / "pytorch_model.bin")
    with pytest.raises(ValueError, match="dictionary of tensors by name"):
        checkpoints.load(saved)


def test_types(saved: Path, tiny: Tiny) -> None:
    def kinds(**options: Any) -> set[torch.dtype]:
        return {value.dtype for value in checkpoints.load(saved, **options)[0].parameters()}

    assert kinds() == {torch.float32}
    assert kinds(dtype=torch.float16) == {torch.float16}
    edit(saved / "config.json", torch_dtype="bfloat16")
    assert kinds() == {torch.bfloat16}
    edit(saved / "config.json", torch_dtype=None, language_config__torch_dtype=None)
    assert kinds() == {torch.float32}
    model, _ = checkpoints.load(saved, dtype=torch.bfloat16)
    bias = "language_model.model.layers.1.mlp.gate.e_score_correction_bias"
    assert model.state_dict()[bias].dtype == torch.float32
    half = {
        k: v.bfloat16() if v.dtype != torch.float32 or k != bias else v
        for k, v in tiny("tiny-v3").state_dict().items()
    }
    for key, value in model.state_dict().items():
        assert torch.equal(value, half[key]), key


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_loaded_weights_can_be_trained_and_leave_the_file_alone(saved: Path, kind: str) -> None:
    rewrite(saved, lambda state: None, kind)
    path = next(path for path in saved.iterdir() if path.suffix in (".safetensors", ".bin"))
    before = path.read_bytes()
    model, _ = checkpoints.load(saved)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert path.read_bytes() == before


def test_inspect_says_where_tensors_are(tiny: Tiny, tmp_path: Path) -> None:
    checkpoints.save(tiny("tiny"), tmp_path / "m", shard_bytes=400_000)
    summary = checkpoints.inspect(tmp_path / "m")
    assert (summary.layout, summary.config) == ("official", tiny("tiny").config)
    assert (
        summary.files
        == json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())["weight_map"]
    )


# -- writing ------------------------------------------------------------------------------------


def test_an_existing_folder_is_left_alone(saved: Path, tiny: Tiny) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in saved.iterdir()}
    with pytest.raises(ValueError, match=f"{saved} already exists"):
        checkpoints.save(tiny("tiny"), saved)
    assert {path.name: path.stat().st_mtime_ns for path in saved.iterdir()} == before
    empty = saved.parent / "empty"
    empty.mkdir()
    checkpoints.save(tiny("tiny"), empty)
    assert (empty / "config.json").is_file()


def test_a_full_disk_leaves_nothing(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = writing._write_tensor, 0

    def until_full(*arguments: Any) -> None:
        nonlocal written
        written += 1
        if written > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments)

    monkeypatch.setattr(writing, "_write_tensor", until_full)
    with pytest.raises(ValueError, match=f"cannot write {tmp_path / 'm'}: No space left on device"):
        checkpoints.save(tiny("tiny"), tmp_path / "m")
    assert written == 21
    assert list(tmp_path.iterdir()) == []


def test_a_really_full_disk_leaves_nothing(tiny: Tiny, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        with pytest.raises(ValueError, match="No space left on device"):
            checkpoints.save(tiny("tiny"), disk / "m")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write anywhere; nobody may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_write_protected_folder(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("tiny")
    protected = tmp_path / "protected"
    protected.mkdir(mode=0o555)
    opened = [
        path for path in tmp_path.parents if os.access(path, os.W_OK) and path.stat().st_mode & 0o77 == 0
    ]
    for path in opened:  # pytest's own folders are closed to others
        path.chmod(0o755)
    with (
        without_privileges(),
        pytest.raises(ValueError, match=f"cannot write {protected / 'm'}: Permission denied"),
    ):
        checkpoints.save(model, protected / "m")
    for path in opened:
        path.chmod(0o700)
    assert list(protected.iterdir()) == []


def test_a_file_in_the_way(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "m"):
        with pytest.raises(ValueError, match=f"{target}"):
            checkpoints.save(tiny("tiny"), target)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_save_refuses(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layout must be one of \['official', 'transformers'\], not 'gguf'"):
        checkpoints.save(tiny("tiny"), tmp_path / "m", layout="gguf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        checkpoints.save(tiny("tiny"), tmp_path / "m", source=tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "kind"), [("official", "safetensors"), ("official", "bin"), ("transformers", "safetensors")]
)
def test_memory_of_loading(layout: str, kind: str, tmp_path: Path) -> None:
    """A bf16 checkpoint of 150 MB, in proportion to Janus-Pro-1B."""
    script = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "load_memory.py"))
    tiny = PRESETS["tiny"]
    core = dataclasses.replace(
        tiny.core, vocab_size=8_000, width=1024, heads=16, kv_heads=None, ffn_width=2816
    )
    vision = dataclasses.replace(tiny.vision, width=512, depth=8, heads=8, ffn_width=2048)
    config = dataclasses.replace(tiny, core=core, vision=vision)
    size, peak = script["measure"](config, tmp_path / "m", layout, kind)
    assert 130e6 < size < 170e6
    assert size < peak < 1.3 * size
