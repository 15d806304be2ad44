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

from PIL import Image

from janus import checkpoints
from janus.bench import open_model
from janus.tokenizers.text import train_bpe

RECIPE = Path(__file__).parent.parent / "recipes" / "finetune.yaml"
CHILD = """
import sys
import torch
from janus.bench import peak_memory
from janus.cli import main

main(sys.argv[1:])
print("peak", peak_memory(torch.device("cpu")))
"""
WAYS = {
    "all weights": ("weights=bfloat16", "learning_rate=2e-5"),
    "LoRA of rank 16": ("lora={rank: 16}", "learning_rate=2e-4"),
}


def random_model(folder: Path) -> None:
    """A checkpoint of random bfloat16 weights in Janus-Pro-1B's official layout."""
    model = open_model("janus-pro-1b", "cpu")
    train_bpe(["a photo of a square"], 400, model.config.prompt, folder / "text")
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
