"""One step of fine-tuning at the full shape of Janus-Pro-1B, all weights and LoRA: memory and time.

    python benchmarks/finetune_1b.py [--row 1024]

The weights are random (4 GB on the disk, removed at the end), the data a caption and a question about
one picture.  Each step runs in a process of its own, whose peak of resident memory is told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from janus import checkpoints
from janus.checkpoints.layouts import on_meta
from janus.config import PRESETS
from janus.model import JanusModel
from janus.tokenizers.text import train_bpe

RECIPE = Path(__file__).parent.parent / "recipes" / "finetune.yaml"
# getrusage would count what the parent process held when it started this one
CHILD = """
import re, sys
from pathlib import Path
from janus.cli import main

main(sys.argv[1:])
print("peak", 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]))
"""
WAYS = {
    "all weights": ("weights=bfloat16", "learning_rate=2e-5"),
    "LoRA of rank 16": ("lora={rank: 16}", "learning_rate=2e-4"),
}


def random_model(folder: Path) -> None:
    """A checkpoint of random bfloat16 weights in Janus-Pro-1B's official layout."""
    config = PRESETS["janus-pro-1b"]
    train_bpe(["a photo of a square"], 400, config.prompt, folder / "text")
    model = on_meta(lambda: JanusModel(config)).to(torch.bfloat16).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    checkpoints.save(model, folder / "model", source=folder / "text")


def data(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (400, 300), "red").save(folder / "a.png")
    lines = [
        {"image": "a.png", "caption": "a photo of a square"},
        {"image": "a.png", "question": "What is this?", "answer": "a square"},
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", type=int, default=1024, help="tokens of the step")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_model(folder)
        data(folder / "data")
        for way, settings in WAYS.items():
            changes = [
                f"model={folder / 'model'}",
                f"out={folder / way.replace(' ', '-')}",
                f"data=[{{path: {folder / 'data'}}}]",
                f"row={options.row}",
                *("rows=1", "steps=1", "precision=bfloat16", "warmup=0", *settings),
            ]
            command = [sys.executable, "-c", CHILD, "train", str(RECIPE)]
            command += [part for change in changes for part in ("--set", change)]
            started = time.monotonic()
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            seconds = time.monotonic() - started
            peak = int(told.split()[-1]) / 1e9
            print(f"{way}: {peak:.1f} GB of memory, {seconds:.0f} s with reading and writing", flush=True)


if __name__ == "__main__":
    main()
