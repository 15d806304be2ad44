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
from janus.train.common import Average, Clock, learning_rate, save
from janus.train.recipe import Recipe
from janus.train.tokenizer import DECODER, contact_sheet, load_tokenizer, reconstruction_loss, to_pixels


def train_decoder(recipe: Recipe, work: Path, codes: np.ndarray) -> None:
    """Trains for the recipe's minutes, resuming what lies in `work`.

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
    step, clock = 0, Clock(settings.minutes)
    if (work / DECODER).exists():
        state = torch.load(work / DECODER, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        step, clock = state["step"], Clock(settings.minutes, state["spent"])

    def keep() -> None:
        state = {
            "model": model.state_dict(),
            "average": average.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
            "step": step,
            "spent": clock.spent,
        }
        save(work / DECODER, state)
        contact_sheet(average.model, pool, work / "decoder.png")

    errors: list[float] = []
    while clock.done < 1:
        rows = torch.randint(len(pool), (settings.batch,), generator=generator)
        pixels = to_pixels(pool, rows)
        rate = learning_rate(settings.learning_rate, step, settings.warmup, clock.done)
        optimizer.param_groups[0]["lr"] = rate
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
        average.update(model, step)
        errors.append(F.mse_loss(made.detach(), pixels).item() / 4)  # pixels span 2
        step += 1
        if step % 200 == 0:
            psnr = -10 * math.log10(float(np.mean(errors)))
            print(f"step {step}: {psnr:.2f} dB, {clock.left()}", flush=True)
            errors.clear()
        if step % 1000 == 0:
            keep()
    keep()
