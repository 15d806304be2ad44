"""Peak memory of drawing, beside transformers' Janus: the same weights, read from the same folder.

    python benchmarks/drawing_memory.py                                 the Janus-Pro-1B shape in bfloat16
    python benchmarks/drawing_memory.py --preset tiny --dtype float32   seconds

Each side is a process of its own that loads the weights and draws the first codes of a picture with guidance;
all read the transformers layout, but for one, which reads the official one.  Told is the most of its memory
that was resident (Linux: VmHWM), pages of the weights' files that it read among it, and how much of that the
imports took.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from janus import bench, checkpoints
from janus.config import PromptConfig
from janus.core.quantized import Quantization
from janus.generation import decode
from janus.parties import Group
from janus.prompts import Prompt
from janus.sampling import Sampling
from janus.tokenizers.text import train_bpe

GUIDANCE = 5.0
PROMPT = [1] * 24
PEER, OFFICIAL = "transformers", "janus, official layout"
SIDES: dict[str, Quantization | None] = {
    PEER: None,
    "janus": None,
    OFFICIAL: None,
    "int8": "int8",
    "int4": "int4",
}


def ours(folder: Path, steps: int) -> None:
    model = checkpoints.load(folder)[0]
    tokens = decode(
        model,
        Group(
            [Prompt(PROMPT)],
            kind="image",
            new_tokens=model.config.vq.tokens,
            sampling=Sampling(),
            generators=[torch.Generator().manual_seed(0)],
            unconditional=[Prompt(PROMPT)],
            guidance=GUIDANCE,
        ),
    )
    for _, _ in zip(range(steps), tokens, strict=False):
        pass


def theirs(folder: Path, steps: int, classes: Any) -> None:
    model = classes.JanusForConditionalGeneration.from_pretrained(folder, dtype="auto").eval()
    model.model.vision_model.config.num_image_tokens = steps  # the loop's length, nothing else
    ids = torch.tensor([PROMPT])
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_mode="image",
        guidance_scale=GUIDANCE,
        do_sample=True,
    )


def measure(side: str, folder: Path, steps: int) -> None:
    """In a process of its own: prints the bytes before and after."""
    if side == PEER:
        import transformers

        transformers.logging.set_verbosity_error()
        _ = transformers.JanusForConditionalGeneration  # imports come when asked for
    before = bench.peak_memory(torch.device("cpu"))
    if side == PEER:
        theirs(folder, steps, transformers)
    else:
        ours(folder, steps)
    print(before, bench.peak_memory(torch.device("cpu")))


def write(preset: str, dtype: str, folder: Path) -> None:
    """Random weights for every side."""
    train_bpe(["a"], 300, PromptConfig(), folder / "text")
    for side, quantize in SIDES.items():
        if side != PEER:
            model = bench.open_model(preset, "cpu", dtype, quantize)
            layout: checkpoints.Layout = "official" if side == OFFICIAL else "transformers"
            checkpoints.save(model, folder / side, layout=layout, source=folder / "text")
    (folder / PEER).symlink_to(folder / "janus")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="janus-pro-1b", choices=["tiny", "janus-pro-1b", "janus-pro-7b"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--steps", type=int, default=8, help="codes that are drawn")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)  # the process of one side
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options.side, options.folder, options.steps)
        return
    with tempfile.TemporaryDirectory() as name:
        write(options.preset, options.dtype, Path(name))
        print(f"| {options.preset}, {options.dtype} | peak, GB | of it imports |")
        print("|---|---|---|")
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--folder", str(Path(name) / side)]
            command += ["--steps", str(options.steps)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            before, peak = (int(number) for number in done.stdout.split())
            print(f"| {side} | {peak / 1e9:.2f} | {before / 1e9:.2f} |", flush=True)


if __name__ == "__main__":
    main()
