"""Training the VQ image tokenizer, on pictures alone.

A picture is given back through its codes; errors of pixels and edges, the distance of a network's features
and a discriminator say how well, and two more losses hold codes and encoder together (VQGAN, arXiv
2012.09841; LlamaGen, arXiv 2406.06525, section 2.2).  Codes that a while of training never chose are moved
onto vectors that the encoder just made.

Shapes: N pictures, S their side, K codes of one.
"""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from janus.gallery import contact_sheet
from janus.tokenizers.image import VqTokenizer
from janus.train import results
from janus.train.discriminator import Discriminator
from janus.train.loader import Step
from janus.train.parallel import Parallel
from janus.train.run import PICTURES, Run
from janus.train.state import Average, State
from janus.train.tones import even, tie, unused
from janus.train.vq_data import PictureLoader, Pictures, open_pictures, picture_stream
from janus.train.vq_files import begin, target, write_result
from janus.train.vq_losses import PLAYED, SQUARED, Objective, decibels, new_places, use
from janus.train.vq_recipe import TokenizerRecipe, VqPart, VqValidation

CODEBOOK = "quantize.embedding.weight"
# By the beginnings of parameter names.
PARTS: dict[VqPart, tuple[str, ...]] = {
    "encoder": ("encoder.", "quant_conv."),
    "codebook": (CODEBOOK,),
    "decoder": ("decoder.", "post_quant_conv."),
}
SHEET = 16  # pictures of the validation
_FREE = {"out", "steps", "micro_pictures", "keep_every", "validation", "layout"}
_EARLY = (10, 50)  # more steps that move unused codes: at first most are
_SETTLED = 0.8  # of all steps; later no code is moved any more, so that each is learnt


def train_tokenizer(recipe: TokenizerRecipe, device: str | None = None) -> Path:
    """Run a recipe to its end, going on from the last state in its folder; returns the folder it wrote.

    With `torchrun`, every process holds the whole tokenizer and shares the pictures of a step.  Raises
    ValueError for data that cannot be used, for a folder with another run in it, for a tokenizer that does
    not fit the state there, and where a loss needs a package that is missing.
    """
    parallel = Parallel(device)
    try:
        return _TokenizerRun(recipe, parallel).go()
    finally:
        parallel.end()


class _Trained(nn.Module):
    """What a state keeps: the tokenizer, its adversary, and how often each code was chosen of late."""

    used: Tensor

    def __init__(self, tokenizer: VqTokenizer, discriminator: Discriminator | None) -> None:
        super().__init__()
        self.tokenizer, self.discriminator = tokenizer, discriminator
        self.register_buffer("used", torch.zeros(tokenizer.config.codes, dtype=torch.long))


class _TokenizerRun(Run[Pictures]):
    """Everything of one run, set up by the recipe and taken from its last state."""

    loader: PictureLoader

    def __init__(self, recipe: TokenizerRecipe, parallel: Parallel) -> None:
        super().__init__(recipe, dataclasses.asdict(recipe), _FREE, parallel)
        self.recipe, self.target = recipe, target(recipe)
        self.tokenizer = self._begin().to(parallel.device)
        self.sources = open_pictures(recipe.data, self.tokenizer)
        for one, (source, _) in zip(recipe.data, self.sources, strict=True):
            self.tell(f"{one.title}: {len(source):,} records")
            if source.unusable.reasons:
                self.tell("\n".join([str(source.unusable), *source.unusable.messages]))
        self.objective = Objective(recipe, self.tokenizer, parallel.device)
        self.trained = _Trained(self.tokenizer, self.objective.adversary).to(parallel.device)
        self.optimizer = self._optimizer()
        self.average = None if recipe.average is None else Average(self.tokenizer, recipe.average)
        self.state = State(self.folder, self.trained, self.optimizer, self.average, parallel)
        stream, config = picture_stream(self.sources, recipe.seed), self.tokenizer.config
        sizes = (recipe.pictures, recipe.micro_pictures, recipe.workers)
        self.loader = PictureLoader(stream, config, parallel, *sizes)
        self.seen = {"pictures": 0}
        if (counts := self.resume()) is not None:
            self.loader.resume(counts["stream"])
        self.columns = self._columns()
        self.validation = None if recipe.validation is None else self._validation(recipe.validation)
        self.look_every = None if recipe.validation is None else recipe.validation.every
        self._begin_window()

    def _begin(self) -> VqTokenizer:
        """The tokenizer before the first step; only the parts that the recipe trains will learn."""
        recipe = self.recipe
        tokenizer = begin(recipe)
        learning = tuple(prefix for part in recipe.train for prefix in PARTS[part])
        for name, parameter in tokenizer.named_parameters():
            parameter.requires_grad_(name.startswith(learning))
        if tokenizer.config.tones > 1 and "codebook" in recipe.train:
            tie(tokenizer)
        sizes = [p.numel() for p in tokenizer.parameters() if p.requires_grad]
        self.tell(f"{sum(sizes):,} of {sum(p.numel() for p in tokenizer.parameters()):,} parameters learn")
        return tokenizer

    def _optimizer(self) -> torch.optim.Optimizer:
        """Matrices decay, vectors and the codebook do not; `share` scales the rate."""
        recipe, found = self.recipe, dict[tuple[bool, bool], list[nn.Parameter]]()
        for name, parameter in self.trained.named_parameters():
            if parameter.requires_grad:
                decays = parameter.ndim >= 2 and "embedding" not in name
                found.setdefault((decays, name.startswith("discriminator.")), []).append(parameter)
        groups: list[dict[str, Any]] = [
            {
                "params": parameters,
                "weight_decay": recipe.weight_decay if decays else 0.0,
                "share": recipe.discriminator.rate if adversary else 1.0,
            }
            for (decays, adversary), parameters in found.items()
        ]
        beta1, beta2 = recipe.betas
        return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), foreach=True)

    def _validation(self, settings: VqValidation) -> list[Pictures]:
        """This process's share of the pictures that are looked at, always the same ones."""
        stream = picture_stream(open_pictures(settings.data, self.tokenizer), 0)
        rows = list(islice(stream.rows(), settings.pictures))[self.parallel.rank :: self.parallel.world]
        size = self.recipe.micro_pictures
        batches = [self.loader.collate(rows[start : start + size]) for start in range(0, len(rows), size)]
        return [batch for batch in batches if len(batch.pixels)]

    def _columns(self) -> list[str]:
        codes = ["codes used", "perplexity"]
        rest = [*codes, "gradient", "learning rate", "pictures/s"]
        seen = [f"validation {name}" for name in ("PSNR", "perceptual", *codes)]
        return ["loss", "PSNR", *(n for n in self.objective.noted if n != SQUARED), *rest, *seen]

    def learn(self, step: Step[Pictures]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["share"]
        batches = [batch.to(self.parallel.device) for batch in step.batches if len(batch.pixels)]
        count = torch.tensor(sum(len(batch.pixels) for batch in batches), device=self.parallel.device)
        pictures = int(self.parallel.sum(count))
        if not pictures:
            raise ValueError(f"no picture of step {self.step} could be read.  {self._skipped()}")
        self.trained.train()
        self.optimizer.zero_grad()
        counts = torch.zeros_like(self.trained.used)
        for batch in batches:
            noted, codes = self.objective.learn(batch, len(batch.pixels) / pictures, self._playing)
            counts += torch.bincount(codes.flatten(), minlength=len(counts))
            for name, value in noted.items():
                self._sums[self.objective.noted.index(name)] += value.detach() * len(codes)
            self._pictures += len(codes)
        self.trained.used += self.parallel.sum(counts)
        self._gradient = self._clipped(self.tokenizer)
        if self._playing:
            assert self.trained.discriminator is not None
            self._clipped(self.trained.discriminator)
        self.optimizer.step()
        self._even()
        if self.average is not None:
            self.average.update(self.tokenizer, self.step)
        self.seen["pictures"] += pictures
        if self.step % self.recipe.codes_every == 0 or self.step in _EARLY:
            self._count_codes(batches)

    def _even(self) -> None:
        """Keep shapes and tones of the codebook apart."""
        config, weight = self.tokenizer.config, self.tokenizer.quantize.embedding.weight
        if config.tones > 1 and weight.requires_grad:
            weight.data.copy_(even(weight.data, config))

    def _clipped(self, module: nn.Module) -> float:
        """Sum the gradients of all processes and clip them; returns their norm before."""
        learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.parallel.sum(parameter.grad)
        return float(torch.nn.utils.clip_grad_norm_(learning, self.recipe.clip))

    @property
    def _playing(self) -> bool:
        """Whether the adversary takes part."""
        return self.trained.discriminator is not None and self.step >= self.recipe.discriminator.begins

    def _count_codes(self, batches: list[Pictures]) -> None:
        """Note how the codes were used since the last time, and move those that were not."""
        counts = self.trained.used
        self._use = use(counts)
        config = self.tokenizer.config
        dead = unused(counts, config).nonzero().flatten()
        if "codebook" in self.recipe.train and self.step <= _SETTLED * self.recipe.steps and len(dead):
            weight = self.tokenizer.quantize.embedding.weight
            places = torch.zeros(len(dead), weight.shape[1], device=weight.device)
            if self.parallel.first and batches:
                seed = self.recipe.seed + self.step
                places = new_places(len(dead) // config.tones, batches[0].pixels, self.tokenizer, seed)
                places = places.repeat_interleave(config.tones, 0)
            if bool(self.parallel.sum(places).any()):
                known = weight.shape[1] - config.tone_dim  # of a new place: a shape's, whatever its tones
                weight.data[dead, :known] = places[:, :known]
                self._even()
                if self.average is not None:
                    self.average.weights[CODEBOOK][dead] = weight.data[dead]
        counts.zero_()

    def _begin_window(self) -> None:
        """Begin to sum what the next row of the log tells."""
        self._sums = torch.zeros(len(self.objective.noted), dtype=torch.float64, device=self.parallel.device)
        self._pictures = 0
        self._gradient = 0.0
        self._use = dict[str, float]()  # if it was counted

    def report(self, seconds: float) -> dict[str, float]:
        pictures = torch.tensor(float(self._pictures), device=self.parallel.device)
        means = self.parallel.sum(self._sums) / self.parallel.sum(pictures).clamp(min=1)
        noted = dict(zip(self.objective.noted, means.tolist(), strict=True))
        values = {"loss": self.objective.total(noted), "PSNR": decibels(noted.pop(SQUARED))}
        values |= {name: value for name, value in noted.items() if self._playing or name not in PLAYED}
        values |= self._use
        values |= {"gradient": self._gradient, "learning rate": self.rate}
        values["pictures/s"] = self.recipe.pictures / seconds
        self._begin_window()
        return values

    @torch.no_grad()
    def look(self) -> dict[str, float]:
        """How well the validation pictures are given back, with the averaged weights if there are."""
        assert self.validation is not None
        self.trained.eval()
        if self.average is not None:
            self.average.swap(self.tokenizer)
        sums = torch.zeros(3, dtype=torch.float64, device=self.parallel.device)
        counts = torch.zeros_like(self.trained.used)
        pairs: list[Tensor] = []
        for batch in self.validation:
            batch = batch.to(self.parallel.device)
            made, codes, far = self.objective.look(batch)
            sums += torch.stack([F.mse_loss(made, batch.pixels), far, made.new_ones(())]) * len(made)
            counts += torch.bincount(codes.flatten(), minlength=len(counts))
            pairs += torch.cat([batch.pixels, made], dim=-2).cpu()
        if self.average is not None:
            self.average.swap(self.tokenizer)
        squared, distance, count = self.parallel.sum(sums).tolist()
        if self.parallel.first and pairs:
            (self.folder / PICTURES).mkdir(exist_ok=True)
            sheet = contact_sheet([_picture(pair) for pair in pairs[:SHEET]])
            sheet.save(self.folder / PICTURES / f"step-{self.step:08}.png")
        scores = {"PSNR": decibels(squared / max(count, 1))}
        scores |= {"perceptual": distance / max(count, 1)} if self.objective.perceptual is not None else {}
        scores |= use(self.parallel.sum(counts))
        return {f"validation {name}": value for name, value in scores.items()}

    def finish(self, scores: dict[str, float]) -> Path:
        if self.average is not None:
            self.average.swap(self.tokenizer)
        if self.parallel.first:
            records = [
                (one.title, len(source), one.licence)
                for one, (source, _) in zip(self.recipe.data, self.sources, strict=True)
            ]
            card = results.model_card(self.recipe, records, self.seen, scores)
            write_result(self.recipe, self.tokenizer, card)
        self.parallel.wait()
        if self.loader.skipped.reasons:
            self.tell(self._skipped())
        self.tell(f"written: {self.target}")
        return self.target

    def _skipped(self) -> str:
        skipped = self.loader.skipped
        return "\n".join([str(skipped), *skipped.messages])


def _picture(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1]."""
    values = ((pixels + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())
