"""Trains the model on drawing, then on drawing and answering at once; both image encoders are frozen."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus import checkpoints
from janus.config import JanusConfig
from janus.core.transformer import init_weights
from janus.data.art import load_sprites
from janus.data.language import caption, question
from janus.data.pool import pictures, scene_at
from janus.data.world import World
from janus.encoders.siglip import SiglipTower
from janus.model import Batch, JanusModel
from janus.tokenizers.image import VqTokenizer
from janus.tokenizers.text import TextTokenizer, train_bpe
from janus.train.batches import Samples, batches
from janus.train.codes import drawing_codes, name_weights
from janus.train.common import Average, Run
from janus.train.decoder import train_decoder
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
    history: list[tuple[float, float, float]] = []
    for step in run.steps():
        batch = next(stream)
        hidden = model.hidden(batch)
        losses = model.losses(hidden, batch)
        ahead = looker(model, hidden, batch)
        optimizer.zero_grad()
        # Each kind's mean counts the same: an answer has a few tokens, a picture 64 codes.
        (losses.text + losses.image + settings.look_ahead * ahead + losses.balance).backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimizer.step()
        core = model.language_model.model
        core.update_expert_bias(core.expert_counts())
        average.update(model, step - 1)
        history.append((losses.text.item(), losses.image.item(), ahead.item()))
        if step % 200 == 0:
            text, image, ahead_mean = np.mean(history, axis=0)
            load = core.expert_counts().max(dim=1).values.sum() / core.expert_counts().sum()
            print(
                f"step {step}: text {text:.3f}, image {image:.3f}, ahead {ahead_mean:.3f}, "
                f"busiest expert {load:.2f}, {run.pace(step)}",
                flush=True,
            )
            history.clear()
    average.model.gen_vision_model.load_state_dict(load_tokenizer(config.vq, work).state_dict())
    write_model(average.model, work)


class LookAhead(nn.Module):
    """From every cell of a drawing, asks for the first code of the next thing: what its name decides.

    Which code that is, the image loss asks once for each thing; here all the empty cells before it ask too,
    through a matrix of their own, which is not kept.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.turn = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.turn.weight)

    def forward(self, model: JanusModel, hidden: Tensor, batch: Batch) -> Tensor:
        """The mean loss over the cells that have a thing before them; `hidden` is the batch's, (B, T, D)."""
        if batch.codes is None or batch.code_weights is None or batch.code_slots is None:
            return hidden.new_zeros(())
        wanted = things_ahead(batch.codes, batch.code_weights).flatten()
        vectors = hidden[:, :-1][batch.code_slots[:, 1:]][wanted >= 0]
        return F.cross_entropy(model.image_logits(self.turn(vectors)), wanted[wanted >= 0])


def things_ahead(codes: Tensor, weights: Tensor) -> Tensor:
    """For each code, itself or the next one that names decide, (N, K); -1 behind the last of them."""
    heavy = weights > weights.amin(dim=1, keepdim=True)
    found = torch.full_like(codes, -1)
    after = torch.full_like(codes[:, 0], -1)
    for cell in range(codes.shape[1] - 1, -1, -1):
        after = torch.where(heavy[:, cell], codes[:, cell], after)
        found[:, cell] = after
    return found


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
    with torch.no_grad():
        rows = image_tokenizer.quantize.rows()
        model.gen_embed.weight.copy_(rows)
        # Codes that look alike begin with logits that are alike.
        head = model.gen_head.vision_head.weight
        mixed = rows @ torch.randn(
            rows.shape[1], head.shape[1], generator=torch.Generator().manual_seed(seed)
        )
        head.copy_(mixed * (3 * head.std() / mixed.std()))
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
