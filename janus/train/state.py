"""Checkpoints of a run: everything that it needs to go on, written by all processes at once.

Tensors are safetensors through torch's distributed checkpoints, so that a run may go on with another
number of processes; counts are JSON.  A folder appears whole or not at all, and the one before it goes
only afterwards: whenever a run is killed, its last whole state is there.  Frozen weights are not part
of it; they come from where the run began.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from janus.checkpoints.files import read_json, some
from janus.train.parallel import Parallel

_NAME = re.compile(r"step-\d{8}")
_COUNTS = "counts.json"
_FILE = 1 << 30  # bytes of a file, which is put together in memory before it is written


class Average:
    """The exponential moving average of the trained weights; each process keeps that of its own share."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After step 1, 2, ...; the memory is short at first."""
        decay = min(self.decay, step / (step + 9))
        for name, parameter in model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with their averages; a second call takes it back."""
        for name, parameter in model.named_parameters():
            if name in self.weights:
                now = parameter.detach().clone()
                parameter.copy_(self.weights[name])
                self.weights[name].copy_(now)


class State:
    """What changes during a run, and the run's folder that it is kept in."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None,
        parallel: Parallel,
    ) -> None:
        self.folder, self.model, self.optimizer = folder, model, optimizer
        self.average, self.parallel = average, parallel
        self._start_optimizer()

    def latest(self) -> Path | None:
        """The last whole state, if there is one."""
        return max((p for p in self.folder.glob("step-*") if _NAME.fullmatch(p.name)), default=None)

    def keep(self, step: int, counts: dict[str, Any]) -> None:
        """Write everything after `step`, with `counts`, in place of the state before."""
        target = self.folder / f"step-{step:08}"
        beside = target.with_suffix(".part")
        if self.parallel.first:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        self.parallel.wait()
        tensors = self._tensors()
        with _quietly():
            save(
                tensors,
                storage_writer=HuggingFaceStorageWriter(
                    str(beside), fqn_to_index_mapping=_files(tensors), save_distributed=True
                ),
                no_dist=self.parallel.world == 1,
            )
        self.parallel.wait()
        if self.parallel.first:
            (beside / _COUNTS).write_text(json.dumps(counts) + "\n", encoding="utf-8")
            beside.rename(target)
            for path in self.folder.glob("step-*"):
                if path != target:
                    shutil.rmtree(path)

    def resume(self, path: Path) -> dict[str, Any]:
        """Read what `keep` wrote, in place; returns its counts.

        Raises ValueError listing the tensors that differ: those of another model or of other trained parts.
        """
        tensors = self._tensors()
        reader = HuggingFaceStorageReader(str(path))
        metadata = reader.read_metadata().state_dict_metadata.items()
        there = {key: info.size for key, info in metadata if isinstance(info, TensorStorageMetadata)}
        wrong = [f"{key} is unknown" for key in sorted(there.keys() - tensors.keys())]
        wrong += [f"{key} is not in it" for key in sorted(tensors.keys() - there.keys())]
        wrong += [
            f"{key} is {list(there[key])} instead of {list(value.shape)}"
            for key, value in tensors.items()
            if key in there and there[key] != value.shape
        ]
        if wrong:
            raise ValueError(
                f"{path} is the state of another model or of other trained parts: {some(wrong)}.  Resume "
                "with the recipe that began the run, or give this one a folder of its own with `out`"
            )
        with _quietly():
            load(tensors, storage_reader=reader, no_dist=self.parallel.world == 1)
        return read_json(path / _COUNTS)

    def _tensors(self) -> dict[str, Tensor]:
        """Trained weights, buffers, averages and the optimizer's moments, sharing memory with them."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        found = {f"model.{name}": p.detach() for name, p in trained.items()}
        found |= {f"model.{name}": buffer for name, buffer in self.model.named_buffers()}
        if self.average is not None:
            found |= {f"average.{name}": value for name, value in self.average.weights.items()}
        for name, parameter in trained.items():
            moments = self.optimizer.state.get(parameter, {})
            found |= {f"optimizer.{name}.{key}": value for key, value in moments.items()}
        return found

    def _start_optimizer(self) -> None:
        """Let the optimizer make all its moments now, by a step that changes nothing."""
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for moments in self.optimizer.state.values():
            moments["step"].zero_()


def _files(tensors: dict[str, Tensor]) -> dict[str, int]:
    """The number of the file, from 1 on, that each tensor goes into."""
    numbers, number, used = {}, 1, 0
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        if used and used + size > _FILE:
            number, used = number + 1, 0
        numbers[name] = number
        used += size
    return numbers


def _quietly() -> warnings.catch_warnings[None]:
    """Without torch's remark that there is only one process."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
