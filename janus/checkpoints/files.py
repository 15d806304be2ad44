"""Weight files: found, read lazily, one tensor at a time, and checked.

Tensors are never read by pickle: `.bin` files go through `torch.load(weights_only=True)`, which refuses
anything but tensors.  Both kinds are mapped into memory rather than copied.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

# safetensors' names of the types that checkpoints hold
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.(?:safetensors|bin)$")


class Info(NamedTuple):
    """What is known of a tensor without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Tensors(Protocol):
    """Named tensors, read one at a time."""

    @property
    def infos(self) -> Mapping[str, Info]: ...

    def read(self, key: str) -> Tensor: ...


OnBytes = Callable[[int, int], None]  # told how many bytes are done, and of how many


class Counted:
    """Other `Tensors`, telling `on_bytes` of each that is read."""

    def __init__(self, tensors: Tensors, on_bytes: OnBytes) -> None:
        self.infos = tensors.infos
        self._tensors, self._on_bytes = tensors, on_bytes
        self._done, self._total = 0, sum(info.bytes for info in self.infos.values())

    def read(self, key: str) -> Tensor:
        value = self._tensors.read(key)
        self._done += self.infos[key].bytes
        self._on_bytes(self._done, self._total)
        return value


class InMemory:
    """A state dict as `Tensors`."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.infos = {key: Info(tuple(value.shape), value.dtype) for key, value in state.items()}

    def read(self, key: str) -> Tensor:
        return self.state[key]


class WeightFiles:
    """The weights of a checkpoint folder, single or in shards, safetensors before `.bin`.

    `infos` has every tensor's shape and type, `files` the name of its file.  Raises ValueError where
    a file is missing, truncated, not what its name says, or holds a tensor twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.infos: dict[str, Info] = {}
        self.files: dict[str, str] = {}
        self._open: dict[str, safe_open | dict[str, Tensor]] = {}
        paths, stated = find(folder)
        for path in paths:
            self._add(path)
        wrong = sorted(key for key, name in stated.items() if self.files.get(key) != name)
        if wrong:
            raise ValueError(f"{folder}: the index names tensors that are not where it says: {some(wrong)}")

    def _add(self, path: Path) -> None:
        if path.suffix == ".bin":
            opened = self._open[path.name] = _load_bin(path)
            infos = {key: Info(tuple(value.shape), value.dtype) for key, value in opened.items()}
        else:
            file, infos = _open_safetensors(path)
            self._open[path.name] = file
        for key in infos:
            if key in self.files:
                raise ValueError(f"{path.parent}: {key} is in {self.files[key]} and in {path.name}")
            self.files[key] = path.name
        self.infos |= infos

    def read(self, key: str) -> Tensor:
        """The tensor, mapped from its file where the format allows."""
        opened = self._open[self.files[key]]
        return opened[key] if isinstance(opened, dict) else opened.get_tensor(key)

    def glance(self, key: str) -> Tensor:
        """The tensor, for a moment: where the format allows, its pages leave memory together with it."""
        if isinstance(self._open[self.files[key]], dict):
            return self.read(key)
        return safe_open(self.folder / self.files[key], framework="pt", device="cpu").get_tensor(key)


def find(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files of a folder, and which file each tensor is in if an index says.

    Raises ValueError if there are none, or some of a set of shards are missing.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        single, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
        if single.is_file():
            return [single], {}
        if index.is_file():
            return _indexed(index)
        shards = sorted(path for path in folder.glob(f"{stem}-*.{suffix}") if _SHARD.search(path.name))
        if shards:
            return _complete(shards), {}
    raise ValueError(
        f"{folder} has no weights: neither model.safetensors nor pytorch_model.bin, nor shards of either"
    )


def _indexed(index: Path) -> tuple[list[Path], dict[str, str]]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} has no weight_map")
    names = set(weight_map.values())
    strange = sorted(str(n) for n in names if not isinstance(n, str) or n != Path(n).name)
    if strange:
        raise ValueError(f"{index} names files outside its folder: {some(strange)}")
    suffix = index.name.removesuffix(".index.json").rpartition(".")[2]
    other = sorted(name for name in names if not name.endswith(f".{suffix}"))
    if other:
        raise ValueError(f"{index} names files that are not .{suffix}: {some(other)}")
    missing = sorted(name for name in names if not (index.parent / name).is_file())
    if missing:
        raise ValueError(f"{index.parent} lacks weight files that {index.name} names: {some(missing)}")
    return [index.parent / name for name in sorted(names)], weight_map


def _complete(shards: list[Path]) -> list[Path]:
    """Shards without an index: all of `...-00001-of-00003` and so on."""
    numbers = [match.groups() for path in shards if (match := _SHARD.search(path.name))]
    totals = {int(total) for _, total in numbers}
    have = sorted(int(number) for number, _ in numbers)
    if len(totals) != 1 or have != list(range(1, max(totals) + 1)):
        raise ValueError(f"{shards[0].parent}: not a whole set of shards: {[p.name for p in shards]}")
    return shards


def _open_safetensors(path: Path) -> tuple[safe_open, dict[str, Info]]:
    try:
        file = safe_open(path, framework="pt", device="cpu")
        infos = {}
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            piece = file.get_slice(key)
            name = piece.get_dtype()
            if name not in DTYPES:
                raise ValueError(f"{path}: {key} has the type {name}; known are {list(DTYPES)}")
            infos[key] = Info(tuple(piece.get_shape()), DTYPES[name])
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    return file, infos


def _load_bin(path: Path) -> dict[str, Tensor]:
    try:
        try:
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            state = torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a file of tensors alone and was not loaded: a pickle can run code.  "
            "Ask its author for safetensors."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or not a torch file: {_first_line(error)}") from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ValueError(f"{path} must hold a dictionary of tensors by name")
    return dict(state)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def read_json(path: Path) -> dict[str, object]:
    """A JSON object.  Raises ValueError naming the file if it is missing, unreadable or something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return values


def some(names: list[str], limit: int = 20) -> str:
    """Names for an error message: all, or the first ones and how many more."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def usual_dtype(infos: Mapping[str, Info]) -> torch.dtype:
    """The type that most of the tensors have."""
    return Counter(info.dtype for info in infos.values()).most_common(1)[0][0]


def check(infos: Mapping[str, Info], expected: Mapping[str, tuple[int, ...]], where: object) -> None:
    """Raises ValueError listing unknown, missing and misshapen tensors, if there are any."""
    unknown = sorted(infos.keys() - expected.keys())
    missing = sorted(expected.keys() - infos.keys())
    misshapen = [
        f"{key} is {list(infos[key].shape)} instead of {list(shape)}"
        for key, shape in expected.items()
        if key in infos and infos[key].shape != tuple(shape)
    ]
    complaints = [
        f"{len(names)} {what}: {some(names)}"
        for what, names in (("unknown", unknown), ("missing", missing), ("misshapen", misshapen))
        if names
    ]
    if complaints:
        raise ValueError(f"the tensors in {where} do not fit its config.json; " + "; ".join(complaints))


def load_part(module: nn.Module, where: str, prefix: str) -> None:
    """Give a module the weights in a folder that holds that part of a model alone, its names behind `prefix`.

    Raises ValueError for what cannot be read, and for unknown, missing or misshapen tensors.
    """
    files = WeightFiles(Path(where))
    check(
        files.infos, {prefix + name: tuple(value.shape) for name, value in module.state_dict().items()}, where
    )
    module.load_state_dict({name.removeprefix(prefix): files.read(name) for name in files.infos})
