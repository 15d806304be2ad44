"""Trains the image tokenizer's decoder further: on the encoder's own codes, and on those to draw with.

The pictures of the embedded world are few enough that the decoder can learn, from the codes around, what
a single code does not say.  Encoder and codebook stay as they are.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from janus.data.art import load_sprites
from janus.data.pool import pictures
from janus.data.world import World
from janus.train.common import Average, Run
from janus.train.recipe import Recipe
from janus.train.tokenizer import DECODER, contact_sheet, load_tokenizer, reconstruction_loss, to_pixels


def train_decoder(recipe: Recipe, work: Path, codes: np.ndarray) -> None:
    """Trains for the recipe's steps, resuming what lies in `work`.

    `codes` are those that the model draws the pool with, (scenes, K); see `janus.train.codes`.
    """
    settings, config, seed = recipe.decoder, recipe.config.vq, recipe.work.seed
    world = World(load_sprites(work), config.image_size)
    pool = pictures(world, "drawing", seed, recipe.work.scenes, work)
    generator = torch.Generator().manual_seed(seed + 1)
    model = load_tokenizer(config, work).to(memory_format=torch.channels_last)
    trained = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.99), weight_decay=1e-4)
    average = Average(model, settings.average)
    parts = {"model": model, "average": average.model, "optimizer": optimizer}
    run = Run(work / DECODER, settings, parts, generator)
    errors: list[float] = []
    for step in run.steps():
        rows = torch.randint(len(pool), (settings.batch,), generator=generator)
        pixels = to_pixels(pool, rows)
        given = torch.from_numpy(codes[rows.numpy()].astype(np.int64))
        own = settings.batch // 4
        with torch.no_grad():
            given[:own] = model.encode(pixels[:own])
        made = model.decode(given)
        loss = reconstruction_loss(made, pixels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(model, step - 1)
        errors.append(F.mse_loss(made.detach(), pixels).item() / 4)  # pixels span 2
        if step % 200 == 0:
            psnr = -10 * math.log10(float(np.mean(errors)))
            print(f"step {step}: {psnr:.2f} dB, {run.pace(step)}", flush=True)
            errors.clear()
    contact_sheet(average.model, pool, work / "decoder.png")
