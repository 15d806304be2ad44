"""Trains the model on drawing, then on drawing and answering at once; both image encoders are frozen."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from janus import checkpoints
from janus.config import JanusConfig
from janus.core.transformer import init_weights
from janus.data.art import load_sprites
from janus.data.language import caption, question
from janus.data.pool import pictures, scene_at
from janus.data.world import World
from janus.encoders.siglip import SiglipTower
from janus.model import JanusModel
from janus.tokenizers.image import VqTokenizer
from janus.tokenizers.text import TextTokenizer, train_bpe
from janus.train.ahead import LookAhead
from janus.train.batches import Samples, batches
from janus.train.codes import drawing_codes, name_weights
from janus.train.common import Average, Run
from janus.train.decoder import train_decoder
from janus.train.fresh import begin_at_codes
from janus.train.naming import naming_loss
from janus.train.recipe import ModelRecipe, Recipe
from janus.train.tokenizer import load_tokenizer
from janus.train.vision import load_tower

CHECKPOINT = "model.pt"
WORDS = "words"  # in the work folder: the text tokenizer
FOLDER = "model"  # in the work folder: the trained model, as `Janus.from_pretrained` takes it


def train_model(recipe: Recipe, work: Path) -> None:
    """Trains for the recipe's steps, resuming what lies in `work`; writes `work/model`."""
    settings, config, seed = recipe.model, recipe.config, recipe.work.seed
    world = World(load_sprites(work), config.vision.image_size)
    tokenizer = text_tokenizer(recipe, world, work / WORDS)
    image_tokenizer = load_tokenizer(config.vq, work)
    seeing = pictures(world, "seeing", seed, recipe.work.scenes, work)
    codes = drawing_codes(recipe, world, image_tokenizer, work)
    redrawn = redrawn_pictures(codes, image_tokenizer, work)
    scenes = [scene_at(world, "drawing", seed, i) for i in range(len(codes))]
    weights = name_weights(codes, scenes, world, settings.name_weight)
    samples = Samples(config, settings, tokenizer, world, seed, codes, weights, seeing, redrawn)

    model = new_model(config, image_tokenizer, load_tower(config.vision, work), seed)
    looker = LookAhead(config.core.width)
    groups = [*_groups(model, settings), {"params": list(looker.parameters()), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))
    average = Average(model, settings.average)
    parts = {"model": model, "looker": looker, "average": average.model, "optimizer": optimizer}
    run = Run(work / CHECKPOINT, settings, parts)
    stream = batches(samples, np.random.default_rng((seed, run.step)), run.step)

    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    history: list[tuple[float, float, float, float]] = []
    for step in run.steps():
        batch = next(stream)
        entering = model.embed(batch)
        hidden = model.hidden(batch, entering)
        losses = model.losses(hidden, batch)
        ahead = looker(model, hidden, batch)
        names = naming_loss(model, entering, hidden, batch)
        optimizer.zero_grad()
        # Each kind's mean counts the same: an answer has a few tokens, a picture 64 codes.
        told = losses.text + losses.image + settings.look_ahead * ahead + settings.naming * names
        (told + losses.balance).backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimizer.step()
        core = model.language_model.model
        core.update_expert_bias(core.expert_counts())
        average.update(model, step - 1)
        history.append((losses.text.item(), losses.image.item(), ahead.item(), names.item()))
        if step % 200 == 0:
            text, image, coming, naming = np.mean(history, axis=0)
            load = core.expert_counts().max(dim=1).values.sum() / core.expert_counts().sum()
            print(
                f"step {step}: text {text:.3f}, image {image:.3f}, ahead {coming:.3f}, names {naming:.3f}, "
                f"busiest expert {load:.2f}, {run.pace(step)}",
                flush=True,
            )
            history.clear()
    average.model.gen_vision_model.load_state_dict(load_tokenizer(config.vq, work).state_dict())
    write_model(average.model, work)


def write_model(model: JanusModel, work: Path) -> None:
    """The trained model in bfloat16, as `Janus.from_pretrained` takes it, in place of an older one."""
    folder = work / FOLDER
    if folder.exists():
        shutil.rmtree(folder)
    checkpoints.save(copy.deepcopy(model).to(torch.bfloat16), folder, source=work / WORDS)


def text_tokenizer(recipe: Recipe, world: World, folder: Path) -> TextTokenizer:
    """The tokenizer in `folder`, or one trained on captions, questions and answers."""
    prompt = recipe.config.prompt
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(recipe.work.seed)
        texts = [f"{prompt.user}: {prompt.assistant}:", "\n\n"]
        for index in range(6000):
            scene = scene_at(world, "seeing", recipe.work.seed, index)
            asked = question(scene, rng)
            texts += [f" {caption(scene, rng)}", f" {asked.question}", f" {asked.answer}"]
        train_bpe(texts, recipe.config.core.vocab_size, prompt, folder)
    return TextTokenizer.from_folder(folder, prompt)


def longer_decoder(recipe: Recipe, work: Path) -> None:
    """Trains the image tokenizer's decoder further; a finished model takes it when written again."""
    config = recipe.config
    world = World(load_sprites(work), config.vision.image_size)
    train_decoder(recipe, work, drawing_codes(recipe, world, load_tokenizer(config.vq, work), work))


@torch.inference_mode()
def redrawn_pictures(codes: np.ndarray, tokenizer: VqTokenizer, work: Path, count: int = 4000) -> np.ndarray:
    """What the codes of the first drawings give back, (count, S, S, 3) uint8, kept in `work`."""
    path = work / "redrawn.npy"
    if not path.exists() or path.stat().st_mtime < (work / "codes.npy").stat().st_mtime:
        rows = torch.from_numpy(codes[:count].astype(np.int64)).split(64)
        parts = [((tokenizer.decode(part) + 1) * 127.5).clamp(0, 255).byte() for part in rows]
        np.save(path, torch.cat(parts).permute(0, 2, 3, 1).contiguous().numpy())
    return np.asarray(np.load(path))


def new_model(config: JanusConfig, image_tokenizer: VqTokenizer, tower: SiglipTower, seed: int) -> JanusModel:
    """An untrained model around trained encoders; the codebook starts the code embedding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = JanusModel(config)
    init_weights(model.language_model, torch.Generator().manual_seed(seed))
    model.gen_vision_model.load_state_dict(image_tokenizer.state_dict())
    model.vision_model.load_state_dict(tower.state_dict())
    for part in (model.gen_vision_model, model.vision_model):
        part.requires_grad_(False)
    begin_at_codes(model, seed)
    return model


def _groups(model: JanusModel, settings: ModelRecipe) -> list[dict[str, Any]]:
    """Matrices decay, vectors and embeddings do not."""
    learns = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decays = [p for name, p in learns if p.ndim >= 2 and "embed" not in name]
    others = [p for name, p in learns if p.ndim < 2 or "embed" in name]
    return [
        {"params": decays, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
