"""The training loop: text, understanding and drawing at once, on one device or many."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from janus import checkpoints
from janus.api import Janus
from janus.checkpoints.files import read_json
from janus.checkpoints.writing import write_json
from janus.data.records import Kind
from janus.data.sources import Source, open_source
from janus.gallery import check_folder, contact_sheet
from janus.model import Losses
from janus.tokenizers.text import TextTokenizer
from janus.train import results
from janus.train.loader import Loader, Step
from janus.train.logs import Log
from janus.train.optimizer import LeanAdamW
from janus.train.packing import Packed
from janus.train.parallel import Parallel, Trained
from janus.train.parts import choose, groups
from janus.train.plan import DataRecipe, TrainRecipe, ValidationRecipe
from janus.train.state import Average, State
from janus.train.stream import Stream, Writer, mix

LOG_EVERY = 10  # steps
EMBEDDED = "embedded"  # the recipe's word for the model that ships with the package
_RECIPE = "recipe.json"  # in a run's folder
# What may change between the parts of a run without making it another one.
_FREE = {"out", "steps", "micro_rows", "keep_every", "validation", "layout"}


def train(recipe: TrainRecipe, device: str | None = None) -> Path:
    """Run a recipe to its end, going on from the last state in its folder; returns the folder it wrote.

    Start it once per device with `torchrun` to use several.  Raises ValueError for data that cannot be
    used, for a folder with another run in it, and for a model that does not fit the state there.
    """
    parallel = Parallel(device)
    try:
        return _Run(recipe, parallel).go()
    finally:
        parallel.end()


class _Run:
    """Everything of one run, set up by the recipe and taken from its last state."""

    def __init__(self, recipe: TrainRecipe, parallel: Parallel) -> None:
        self.recipe, self.parallel = recipe, parallel
        self.folder = Path(recipe.out)
        _check(self.folder, recipe, parallel)
        self.sources = _open(recipe.data)
        for one, (source, _) in zip(recipe.data, self.sources, strict=True):
            self._tell(f"{one.path}: {len(source):,} records")
            if source.unusable.reasons:
                self._tell("\n".join([str(source.unusable), *source.unusable.messages]))
        parts = mix(self.sources, recipe.mixture.shares())
        origin = checkpoints.EMBEDDED if recipe.model == EMBEDDED else recipe.model
        self.model, self.origin = checkpoints.load(origin)
        self.dtype = self.model.dtype
        self.tokenizer = TextTokenizer.from_folder(self.origin, self.model.config.prompt)
        kinds: set[Kind] = {part.kind for part in parts}
        learning = choose(self.model, recipe, kinds)
        self._tell(f"{sum(p.numel() for p in learning):,} of {_size(self.model):,} parameters learn")
        self.trained = Trained(self.model.to(parallel.device), parallel)
        parallel.shard(self.trained, recipe.precision == "bfloat16")
        self.optimizer = self._optimizer()
        self.average = None if recipe.average is None else Average(self.trained, recipe.average)
        self.state = State(self.folder, self.trained, self.optimizer, self.average, parallel)
        write = Writer(self.model.config, self.tokenizer, recipe.drop_captions)
        self.stream = Stream(parts, write, recipe.row, recipe.seed)
        self.loader = self._loader(self.stream)
        self.step, self.seen = 0, {"tokens": 0, "tokens learnt": 0}
        if (last := self.state.latest()) is not None:
            counts = self.state.resume(last)
            self.step, self.seen = counts["step"], counts["seen"]
            self.stream.resume(counts["stream"])
            self._tell(f"going on after step {self.step} of {recipe.steps}")
        core = self.model.config.core
        learnt = recipe.lora is None and "core" in recipe.train
        # The layers whose experts are kept in balance: a frozen router needs no steering.
        self.balanced = [i for i, kind in enumerate(core.feed_forward) if kind == "moe" and learnt]
        self.validation = None if recipe.validation is None else self._validation(recipe.validation)

    def _tell(self, text: str) -> None:
        if self.parallel.first:
            print(text, flush=True)

    def _optimizer(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        beta1, beta2 = recipe.betas
        found = groups(self.trained, recipe)
        if recipe.weights == "bfloat16":
            generator = torch.Generator(self.parallel.device).manual_seed(recipe.seed + self.parallel.rank)
            return LeanAdamW(found, generator, betas=(beta1, beta2))
        return torch.optim.AdamW(found, lr=0.0, betas=(beta1, beta2), foreach=True)

    def _loader(self, stream: Stream) -> Loader:
        rows, micro_rows = self.recipe.rows, self.recipe.micro_rows
        return Loader(stream, self.model.config, self.tokenizer, self.parallel, rows, micro_rows)

    def _validation(self, settings: ValidationRecipe) -> list[Packed]:
        """This process's share of the rows that are looked at, always the same ones."""
        sources = _open(settings.data)
        shares = {kind: 1.0 for source, _ in sources for kind in source.kinds}
        write = Writer(self.model.config, self.tokenizer, drop=0.0)
        rows = list(islice(Stream(mix(sources, shares), write, self.recipe.row, 0).rows(), settings.rows))
        own = rows[self.parallel.rank :: self.parallel.world]
        return [self.loader.collate([row]) for row in own]

    def go(self) -> Path:
        recipe, target = self.recipe, results.target(self.recipe)
        if self.step >= recipe.steps and (target / results.CARD).exists():  # the card is written last
            self._tell(f"finished already: {target}")
            return target
        if self.parallel.first:
            write_json(self.folder / _RECIPE, dataclasses.asdict(recipe))
        log = Log(self.folder, self._columns(), recipe.steps, self.step) if self.parallel.first else None
        sums, since, first = self._nothing(), time.monotonic(), self.step
        scores: dict[str, float] = {}
        for step in islice(self.loader, recipe.steps - self.step):
            self.step += 1
            losses, gradient, load = self._learn(step)
            sums += losses
            if self.step % LOG_EVERY == 0 or self.step == recipe.steps:
                seconds = (time.monotonic() - since) / (self.step - first)
                values = self._values(sums, gradient, load, seconds)
                if not math.isfinite(values["loss"]):
                    raise ValueError(
                        f"the loss is {values['loss']} at step {self.step}; begin again in another folder "
                        "with a lower learning rate"
                    )
                if log is not None:
                    log.write(self.step, values)
                sums, since, first = self._nothing(), time.monotonic(), self.step
            settings = recipe.validation
            if settings is not None and (self.step % settings.every == 0 or self.step == recipe.steps):
                scores = self._look(settings)
                if log is not None:
                    log.write(self.step, scores)
            if self.step % recipe.keep_every == 0 or self.step == recipe.steps:
                self.state.keep(self.step, {"step": self.step, "seen": self.seen, "stream": step.state})
        if log is not None:
            log.close()
        return self._finish(scores)

    def _nothing(self) -> Tensor:
        return torch.zeros(4, dtype=torch.float64, device=self.parallel.device)

    def _learn(self, step: Step) -> tuple[Tensor, float, Tensor]:
        """One step: sums of losses and their counts (4,), the gradient's norm, (layers, experts) tokens."""
        recipe, parallel = self.recipe, self.parallel
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(recipe, self.step) * group["share"]
        asked = torch.tensor(float(sum(packed.tokens for packed in step.batches)), device=parallel.device)
        asked = parallel.sum(asked).clamp(min=1)
        sums = self._nothing()
        load = torch.zeros(0, device=parallel.device)
        self.trained.train()
        self.optimizer.zero_grad()
        for packed in step.batches:
            losses = self._losses(packed)
            # Tokens count alike wherever they are.  Processes' gradients are averaged, hence the factor.
            loss = (losses.text_sum + losses.image_sum) * (parallel.world / asked)
            (loss + losses.balance / len(step.batches)).backward()
            sums += _sums(losses)
            if self.balanced:
                counts = self.model.core.expert_counts()
                load = counts if not len(load) else load + counts
        for parameter in self.trained.parameters():
            # A part that this step had no sample for goes on with its momentum, as it does where
            # another process has one.
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = torch.nn.utils.clip_grad_norm_(self.trained.parameters(), recipe.clip)
        self.optimizer.step()
        if self.balanced:
            self.model.core.update_expert_bias(parallel.sum(load))
        if self.average is not None:
            self.average.update(self.trained, self.step)
        self.seen["tokens"] += recipe.rows * recipe.row
        self.seen["tokens learnt"] += round(asked.item())
        return sums, float(norm.full_tensor() if isinstance(norm, DTensor) else norm), load

    def _losses(self, packed: Packed) -> Losses:
        batch = packed.to(self.parallel.device, self.model.gen_vision_model)
        bfloat16 = self.recipe.precision == "bfloat16"
        with torch.autocast(self.parallel.device.type, torch.bfloat16, enabled=bfloat16):
            losses: Losses = self.trained(batch)
        return losses

    def _columns(self) -> list[str]:
        layers = [f"busiest expert, layer {i}" for i in self.balanced]
        rates = ["gradient", "learning rate", "tokens/s"]
        return ["loss", "text", "image", *rates, *layers, "validation text", "validation image"]

    def _values(self, sums: Tensor, gradient: float, load: Tensor, seconds: float) -> dict[str, float]:
        """A row of the log, from the sums of the last steps, the load of the last one, seconds for each."""
        text, image, text_tokens, image_tokens = self.parallel.sum(sums).tolist()
        values = {"loss": (text + image) / max(1, text_tokens + image_tokens)}
        values |= {"text": text / text_tokens} if text_tokens else {}
        values |= {"image": image / image_tokens} if image_tokens else {}
        values["gradient"] = gradient
        values["learning rate"] = self.recipe.learning_rate * schedule(self.recipe, self.step)
        values["tokens/s"] = self.recipe.rows * self.recipe.row / seconds
        busiest = [float(layer.max() / layer.float().mean()) for layer in load]
        return values | {f"busiest expert, layer {i}": b for i, b in zip(self.balanced, busiest, strict=True)}

    def _look(self, settings: ValidationRecipe) -> dict[str, float]:
        """Losses on the validation rows, and a sheet of pictures, with the averaged weights if there are."""
        assert self.validation is not None
        self.trained.eval()
        if self.average is not None:
            self.average.swap(self.trained)
        sums = self._nothing()
        with torch.no_grad():
            for packed in self.validation:
                sums += _sums(self._losses(packed))
        text, image, text_tokens, image_tokens = self.parallel.sum(sums).tolist()
        if settings.prompts and self.parallel.world == 1:
            model = Janus(self.model, self.tokenizer, self.origin)
            drawn = [pictures[0] for pictures in model.generate_images(list(settings.prompts), seed=0)]
            (self.folder / "pictures").mkdir(exist_ok=True)
            contact_sheet(drawn).save(self.folder / "pictures" / f"step-{self.step:08}.png")
        if self.average is not None:
            self.average.swap(self.trained)
        scores = {"validation text": text / text_tokens} if text_tokens else {}
        return scores | ({"validation image": image / image_tokens} if image_tokens else {})

    def _finish(self, scores: dict[str, float]) -> Path:
        """Write the result, with its card."""
        if self.average is not None:
            self.average.swap(self.trained)
        records = [
            (one.path, len(source), one.licence)
            for one, (source, _) in zip(self.recipe.data, self.sources, strict=True)
        ]
        card = results.model_card(self.recipe, records, self.seen, scores)
        target = results.write(self.recipe, self.model, self.dtype, self.origin, self.parallel, card)
        if self.average is not None:
            self.average.swap(self.trained)
        if self.stream.skipped.reasons:
            self._tell("\n".join([str(self.stream.skipped), *self.stream.skipped.messages]))
        self._tell(f"written: {target}")
        return target


def schedule(recipe: TrainRecipe, step: int) -> float:
    """The share of the learning rate at step 1, 2, ...: a linear warm-up, then constant or a cosine to 0."""
    rise = min(1.0, step / recipe.warmup) if recipe.warmup else 1.0
    if recipe.schedule == "constant":
        return rise
    done = (step - 1 - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _sums(losses: Losses) -> Tensor:
    values = (losses.text_sum, losses.image_sum, losses.text_tokens, losses.image_tokens)
    return torch.stack([value.detach().double() for value in values])


def _open(data: Sequence[DataRecipe]) -> list[tuple[Source, float]]:
    return [(open_source(one.path), one.weight) for one in data]


def _check(folder: Path, recipe: TrainRecipe, parallel: Parallel) -> None:
    """Make sure that the folder can be written, and is new or this recipe's; it is claimed by the first step.

    Raises ValueError for a folder with something else in it, or with another run, naming what differs.
    """
    path, now = folder / _RECIPE, json.loads(json.dumps(dataclasses.asdict(recipe)))
    if path.is_file():
        before = read_json(path)
        differs = [name for name in now if name not in _FREE and now[name] != before.get(name)]
        if differs:
            raise ValueError(
                f"{folder} holds a run with another recipe; it differs in "
                + ", ".join(f"{name} ({before.get(name)!r}, now {now[name]!r})" for name in differs)
                + ".  Give this run a folder of its own with `out`"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} has something else in it; give the run a new folder with `out`")
    check_folder(folder)
    parallel.wait()
