"""How near pictures come back from the image tokenizer's codes, and how many of its codes they use.

    python benchmarks/codebook.py [MODEL] [--scenes 20000] [--work DIR]

Tidy scenes, those that the embedded model draws, from a seed that no training has.  PSNR is that of the mean
squared error of all of them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from janus import Janus
from janus.data.art import WORK, load_sprites
from janus.data.scenes import SceneMaker

SEED = 1000  # recipes train on smaller ones


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: the one that ships with the package")
    parser.add_argument("--scenes", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--work", type=Path, default=WORK, help="where the art is kept")
    arguments = parser.parse_args()
    tokenizer = Janus.from_pretrained(arguments.model, dtype="float32").model.gen_vision_model
    maker = SceneMaker(load_sprites(arguments.work), tokenizer.config.image_size)
    used = torch.zeros(tokenizer.config.codes, dtype=torch.long)
    errors = []
    for start in tqdm(range(0, arguments.scenes, arguments.batch), unit="batch"):
        numbers = range(start, min(start + arguments.batch, arguments.scenes))
        pictures = np.stack([maker.render(maker.at("tidy", SEED, number)) for number in numbers])
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
        codes = tokenizer.encode(pixels)
        used += codes.flatten().bincount(minlength=len(used))
        errors += (tokenizer.decode(codes) - pixels).square().mean((1, 2, 3)).tolist()
    shares = used[used > 0] / used.sum()
    print(f"PSNR {10 * math.log10(4 / np.mean(errors)):.2f} dB")
    print(f"codes used {len(shares) / len(used):.1%} of {len(used):,}")
    print(f"perplexity {float(torch.exp(-(shares * shares.log()).sum())):.0f}")


if __name__ == "__main__":
    main()
