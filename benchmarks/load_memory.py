"""Peak memory of loading a checkpoint, against the size of its weights.

    python benchmarks/load_memory.py                              (Janus-Pro-1B's shape: 4.2 GB, minutes)
    python benchmarks/load_memory.py --layout transformers
    python benchmarks/load_memory.py --kind bin

Random bf16 weights are written to a temporary folder; a fresh process loads them to the CPU and reads
every number.  The peak is that process's resident memory (Linux: VmHWM), less what the imports took.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from janus.checkpoints import configs, writing
from janus.checkpoints.files import Info, Tensors
from janus.checkpoints.layouts import Relaid, official_shapes, on_meta, recipes
from janus.config import PRESETS, JanusConfig
from janus.model import JanusModel

# getrusage would count what the parent process held when it started this one
LOADER = """
import re, sys
from pathlib import Path
from janus import checkpoints

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
model, _ = checkpoints.load(sys.argv[1])
for parameter in model.parameters():
    parameter.amax()
print(peak() - before)
"""


class RandomWeights:
    """Normal bf16 numbers, made when asked for."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.infos = {key: Info(shape, torch.bfloat16) for key, shape in shapes.items()}
        self._generator = torch.Generator().manual_seed(0)

    def read(self, key: str) -> Tensor:
        values = torch.empty(self.infos[key].shape, dtype=torch.bfloat16)
        return values.normal_(generator=self._generator)


def write_checkpoint(config: JanusConfig, folder: Path, layout: str, kind: str) -> int:
    """A checkpoint of random weights, without ever holding it; returns the bytes of its tensors."""
    folder.mkdir(parents=True)
    shapes = official_shapes(on_meta(lambda: JanusModel(config)))
    weights = RandomWeights(dict(shapes))
    if layout == "transformers":
        settings = configs.write_transformers(config, torch.bfloat16, image_id=0)
        tensors: Tensors = Relaid(weights, recipes(shapes, "official", "transformers", shapes))
    else:
        settings, tensors = configs.write_official(config, torch.bfloat16), weights
    writing.write_json(folder / "config.json", settings)
    writing.write(folder, tensors)
    if kind == "bin":
        for path in folder.glob("*.safetensors"):
            torch.save(
                load_file(path),
                folder / path.name.replace("model", "pytorch_model").replace("safetensors", "bin"),
            )
            path.unlink()
    return sum(info.bytes for info in tensors.infos.values())


def measure(
    config: JanusConfig, folder: Path, layout: str = "official", kind: str = "safetensors"
) -> tuple[int, int]:
    """Bytes of the weights, and bytes of memory that loading and reading them took."""
    size = write_checkpoint(config, folder, layout, kind)
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(folder)], capture_output=True, text=True, check=True
    )
    return size, int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="janus-pro-1b", choices=list(PRESETS))
    parser.add_argument("--layout", default="official", choices=["official", "transformers"])
    parser.add_argument("--kind", default="safetensors", choices=["safetensors", "bin"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size, peak = measure(PRESETS[options.preset], Path(folder) / "model", options.layout, options.kind)
    print(f"weights {size / 1e9:.2f} GB, peak while loading {peak / 1e9:.2f} GB: {peak / size:.2f} times")


if __name__ == "__main__":
    main()
