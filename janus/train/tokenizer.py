"""Trains the VQ image tokenizer to give back the drawings of the embedded world.

Absolute and squared error of pixels, absolute error of their differences to the neighbours (edges),
and the quantiser's two losses.  Codes that a while of training never chose are moved onto vectors
that the encoder just made.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from janus.config import VqConfig
from janus.data.art import load_sprites
from janus.data.pool import pictures
from janus.data.world import World
from janus.tokenizers.image import VqTokenizer
from janus.train.common import Average, Run
from janus.train.recipe import Recipe

CHECKPOINT = "tokenizer.pt"
DECODER = "decoder.pt"  # the same with a decoder that was trained longer, if there is one
COMMITMENT = 0.25


def train_tokenizer(recipe: Recipe, work: Path) -> None:
    """Trains for the recipe's steps, resuming what lies in `work`, and leaves the weights there."""
    settings, config = recipe.tokenizer, recipe.config.vq
    generator = torch.Generator().manual_seed(recipe.work.seed)
    pool = pictures(
        World(load_sprites(work), config.image_size), "drawing", recipe.work.seed, recipe.work.scenes, work
    )
    model = new_tokenizer(config, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=1e-4)
    average = Average(model, settings.average)
    parts = {"model": model, "average": average.model, "optimizer": optimizer}
    run = Run(work / CHECKPOINT, settings, parts, generator)
    used = torch.zeros(config.codes, dtype=torch.long)
    errors: list[float] = []
    for step in run.steps():
        pixels = to_pixels(pool, torch.randint(len(pool), (settings.batch,), generator=generator))
        made, losses, codes = model(pixels)
        loss = reconstruction_loss(made, pixels) + losses.codebook + COMMITMENT * losses.commitment
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step - 1)
        used += torch.bincount(codes.flatten(), minlength=config.codes)
        errors.append(F.mse_loss(made.detach(), pixels).item() / 4)  # pixels span 2
        if step % settings.revive_every == 0 or step in (10, 50):
            alive = int((used > 0).sum())
            if step < 0.8 * settings.steps:
                revive(model, average.model, used, pixels, generator)
            psnr = -10 * math.log10(float(np.mean(errors)))
            print(f"step {step}: {psnr:.2f} dB, {alive} codes in use, {run.pace(step)}", flush=True)
            used.zero_()
            errors.clear()
    contact_sheet(average.model, pool, work / "tokenizer.png")


def new_tokenizer(config: VqConfig, generator: torch.Generator) -> VqTokenizer:
    """An untrained tokenizer whose weights depend on `generator` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        model = VqTokenizer(config)
        torch.nn.init.normal_(model.quantize.embedding.weight)
    return model.to(memory_format=torch.channels_last)


def load_tokenizer(config: VqConfig, work: Path) -> VqTokenizer:
    """The averaged weights that training left, with the decoder that was trained longer if there is one."""
    path = work / DECODER if (work / DECODER).exists() else work / CHECKPOINT
    model = VqTokenizer(config)
    model.load_state_dict(torch.load(path, weights_only=True)["average"])
    return model.eval().requires_grad_(False)


def to_pixels(pool: np.ndarray, rows: Tensor) -> Tensor:
    """Pictures (n, S, S, 3) uint8 to (N, 3, S, S) in [-1, 1]."""
    return torch.from_numpy(pool[rows.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(made: Tensor, pixels: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of the steps to the next pixel down and right."""
    error = made - pixels
    steps = error.diff(dim=-2).abs().mean() + error.diff(dim=-1).abs().mean()
    return error.abs().mean() + error.square().mean() + steps


@torch.no_grad()
def revive(
    model: VqTokenizer, average: VqTokenizer, used: Tensor, pixels: Tensor, generator: torch.Generator
) -> None:
    """Moves every code that `used` counts at nothing onto a vector of these pictures, slightly shaken."""
    dead = (used == 0).nonzero().flatten()
    vectors = model.latents(pixels).flatten(0, 1)
    chosen = vectors[torch.randint(len(vectors), (len(dead),), generator=generator)]
    chosen = F.normalize(chosen + 0.02 * torch.randn(chosen.shape, generator=generator), dim=-1)
    for tokenizer in (model, average):
        tokenizer.quantize.embedding.weight[dead] = chosen


@torch.no_grad()
def contact_sheet(model: VqTokenizer, pool: np.ndarray, path: Path, count: int = 32) -> None:
    """Pictures of the pool, each above what its codes give back."""
    pixels = to_pixels(pool, torch.arange(count))
    made = model.decode(model.encode(pixels))
    rows = [
        torch.cat(list(part), dim=-1)
        for x in zip(pixels.split(16), made.split(16), strict=True)
        for part in x
    ]
    sheet = ((torch.cat(rows, dim=-2).permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).byte()
    Image.fromarray(sheet.numpy()).save(path)
