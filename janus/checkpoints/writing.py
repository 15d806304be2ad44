"""Writing: safetensors, one tensor at a time, and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from janus.checkpoints.files import DTYPES, Info, Tensors

SHARD_BYTES = 5_000_000_000
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write(folder: Path, tensors: Tensors, shard_bytes: int = SHARD_BYTES) -> None:
    """Write safetensors into an existing folder, in shards with an index if there is more than one.

    Holds one tensor at a time.  Raises OSError as the system does.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for key, info in tensors.infos.items():
        if shards[-1] and size + info.bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += info.bytes
    if len(shards) == 1:
        _write_file(folder / "model.safetensors", tensors, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / name, tensors, keys)
        weight_map |= dict.fromkeys(keys, name)
    total = sum(info.bytes for info in tensors.infos.values())
    write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _write_file(path: Path, tensors: Tensors, keys: list[str]) -> None:
    """The safetensors format: length of the header, header, data; wide types first, so all are aligned."""
    keys = sorted(keys, key=lambda key: (-tensors.infos[key].dtype.itemsize, key))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key in keys:
        info = tensors.infos[key]
        begin, end = end, end + info.bytes
        header[key] = {"dtype": _NAMES[info.dtype], "shape": info.shape, "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for key in keys:
            _write_tensor(file, tensors.read(key), tensors.infos[key])


def _write_tensor(file: BinaryIO, value: Tensor, info: Info) -> None:
    assert (tuple(value.shape), value.dtype) == (info.shape, info.dtype)
    value = value.detach().cpu().contiguous()
    if value.numel():
        file.write(value.flatten().view(torch.uint8).numpy().data)


def write_json(path: Path, values: Mapping[str, object]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends well, and vanishes
    otherwise.

    Raises ValueError if `target` exists with something in it, or the system refuses to write.
    """
    check_free(target)
    partial = target.parent / f".{target.name}.{os.getpid()}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        if target.is_dir():
            target.rmdir()  # empty, as checked above
        partial.rename(target)
    except OSError as error:
        raise ValueError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(target: Path) -> None:
    """Raises ValueError unless `target` is an empty folder or nothing at all."""
    try:
        taken = target.exists() and (not target.is_dir() or any(target.iterdir()))
    except OSError as error:
        raise ValueError(f"cannot write {target}: {error.strerror or error}") from error
    if taken:
        raise ValueError(f"{target} already exists and is not an empty folder; give a new one")
