"""The training loop: text, understanding and drawing at once, on one device or many."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from janus import checkpoints
from janus.api import Janus
from janus.data.records import BadRecord, Kind, Records
from janus.data.scene_source import SceneSource
from janus.data.sources import open_source
from janus.gallery import contact_sheet
from janus.model import JanusModel, Losses
from janus.tokenizers.text import TextTokenizer
from janus.train import results
from janus.train.fresh import new_model, text_tokenizer
from janus.train.loader import PackedLoader, Step
from janus.train.optimizer import LeanAdamW
from janus.train.packing import Packed
from janus.train.parallel import Parallel, Trained
from janus.train.parts import choose, groups
from janus.train.plan import EMBEDDED, DataRecipe, TrainRecipe, ValidationRecipe
from janus.train.run import PICTURES, Run
from janus.train.state import Average, State
from janus.train.stream import Stream, Writer, mix
from janus.train.tones import Factored

WORDS = "words"  # in a run's folder: the text tokenizer of a new model
WORDS_FROM = 3000  # records of each source that it learns from
# What may change between the parts of a run without making it another one.
_FREE = {"out", "steps", "micro_rows", "keep_every", "validation", "layout"}


def train(recipe: TrainRecipe, device: str | None = None) -> Path:
    """Run a recipe to its end, going on from the last state in its folder; returns the folder it wrote.

    Start it once per device with `torchrun` to use several.  Raises ValueError for data that cannot be
    used, for a folder with another run in it, and for a model that does not fit the state there.
    """
    parallel = Parallel(device)
    try:
        return _ModelRun(recipe, parallel).go()
    finally:
        parallel.end()


class _ModelRun(Run[Packed]):
    """Everything of one run, set up by the recipe and taken from its last state."""

    loader: PackedLoader

    def __init__(self, recipe: TrainRecipe, parallel: Parallel) -> None:
        super().__init__(recipe, dataclasses.asdict(recipe), _FREE, parallel)
        self.recipe, self.target = recipe, results.target(recipe)
        self.model, self.sources, self.origin = self._begin()
        for one, (source, _) in zip(recipe.data, self.sources, strict=True):
            self.tell(f"{one.title}: {len(source):,} records")
            if source.unusable.reasons:
                self.tell("\n".join([str(source.unusable), *source.unusable.messages]))
        parts = mix(self.sources, recipe.mixture.shares())
        self.dtype = self.model.dtype
        self.tokenizer = TextTokenizer.from_folder(self.origin, self.model.config.prompt)
        kinds: set[Kind] = {part.kind for part in parts}
        learning = choose(self.model, recipe, kinds)
        self.tell(f"{sum(p.numel() for p in learning):,} of {_size(self.model):,} parameters learn")
        self.trained = Trained(
            self.model,
            parallel,
            recipe.look_ahead,
            recipe.naming,
            recipe.depicting,
            recipe.looking,
            recipe.smoothing,
            recipe.smooth_tones,
        ).to(parallel.device)
        self.factored = None
        if recipe.factor_tones:
            self.factored = Factored(self.model.gen_head.vision_head, self.model.config.vq.tones)
        parallel.shard(self.trained, recipe.precision == "bfloat16")
        self.optimizer = self._optimizer()
        self.average = None if recipe.average is None else Average(self.trained, recipe.average)
        self.state = State(self.folder, self.trained, self.optimizer, self.average, parallel)
        write = Writer(self.model.config, self.tokenizer, recipe.drop_captions)
        self.loader = self._loader(Stream(parts, write, recipe.row, recipe.seed))
        self.seen = {"tokens": 0, "tokens learnt": 0}
        if (counts := self.resume()) is not None:
            self.loader.resume(counts["stream"])
        core = self.model.config.core
        learnt = recipe.lora is None and "core" in recipe.train
        # The layers whose experts are kept in balance: a frozen router needs no steering.
        self.balanced = [i for i, kind in enumerate(core.feed_forward) if kind == "moe" and learnt]
        asking = {
            "look ahead": recipe.look_ahead,
            "naming": recipe.naming,
            "depicting": recipe.depicting,
            "looking": recipe.looking,
        }
        self.extra = [name for name, weight in asking.items() if weight]
        self.columns = self._columns()
        self.validation = None if recipe.validation is None else self._validation(recipe.validation)
        self.look_every = None if recipe.validation is None else recipe.validation.every
        self._begin_window()

    def _begin(self) -> tuple[JanusModel, list[tuple[Records, float]], Path]:
        """The model as it is before the first step, the data, and where the tokenizer's files are."""
        recipe = self.recipe
        if recipe.new is None:
            model, origin = checkpoints.load(
                checkpoints.EMBEDDED if recipe.model in (None, EMBEDDED) else recipe.model
            )
            if (kind := model.config.core.quantization) is not None:
                raise ValueError(
                    f"the weights of {recipe.model} are {kind}, which cannot learn; train the original"
                )
            return model, self._open(recipe.data, model), origin
        model = new_model(recipe.new)
        sources = self._open(recipe.data, model)
        if self.parallel.first:
            text_tokenizer(recipe.new, _texts(sources), self.folder / WORDS)
        self.parallel.wait()
        return model, sources, text_tokenizer(recipe.new, (), self.folder / WORDS)

    def _open(self, data: Sequence[DataRecipe], model: JanusModel) -> list[tuple[Records, float]]:
        vision, drawn = model.config.vision, model.config.vq.image_size
        for name in ("smooth_tones", "factor_tones"):
            if getattr(self.recipe, name) and model.config.vq.tones == 1:
                raise ValueError(f"{name} needs an image tokenizer whose codes have tones; this one has none")
        if self.recipe.factor_tones and self.parallel.world > 1:
            raise ValueError("factor_tones needs the whole image head; train with one process")
        patches = self.recipe.naming or self.recipe.looking
        if patches and vision.image_size != drawn:
            raise ValueError(
                "naming and looking need pictures to understand as large as those to draw, not "
                f"{vision.image_size} and {drawn} pixels"
            )
        return open_data(data, model, vision.patch_size if patches else None, self.recipe.looking > 0)

    def _optimizer(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        beta1, beta2 = recipe.betas
        found = groups(self.trained, recipe)
        if recipe.weights == "bfloat16":
            generator = torch.Generator(self.parallel.device).manual_seed(recipe.seed + self.parallel.rank)
            return LeanAdamW(found, generator, betas=(beta1, beta2))
        return torch.optim.AdamW(found, lr=0.0, betas=(beta1, beta2), foreach=True)

    def _loader(self, stream: Stream) -> PackedLoader:
        recipe, config = self.recipe, self.model.config
        sizes = (recipe.rows, recipe.micro_rows, recipe.workers)
        return PackedLoader(stream, config, self.tokenizer, self.parallel, *sizes)

    def _validation(self, settings: ValidationRecipe) -> list[Packed]:
        """This process's share of the rows that are looked at, always the same ones."""
        sources = open_data(settings.data, self.model)
        shares = {kind: 1.0 for source, _ in sources for kind in source.kinds}
        write = Writer(self.model.config, self.tokenizer, drop=0.0)
        rows = list(islice(Stream(mix(sources, shares), write, self.recipe.row, 0).rows(), settings.rows))
        own = rows[self.parallel.rank :: self.parallel.world]
        return [self.loader.collate([row]) for row in own]

    def _begin_window(self) -> None:
        """Begin to sum what the next row of the log tells."""
        self._sums, self._gradient = self._nothing(), 0.0
        self._load = torch.zeros(0, device=self.parallel.device)  # of the last step
        self._extra = torch.zeros(len(self.extra) + 1, device=self.parallel.device)  # and how many passes

    def _nothing(self) -> Tensor:
        return torch.zeros(4, dtype=torch.float64, device=self.parallel.device)

    def learn(self, step: Step[Packed]) -> None:
        recipe, parallel = self.recipe, self.parallel
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["share"]
        asked = torch.tensor(float(sum(packed.tokens for packed in step.batches)), device=parallel.device)
        asked = parallel.sum(asked).clamp(min=1)
        load = torch.zeros(0, device=parallel.device)  # (layers, experts) tokens
        self.trained.train()
        for packed in step.batches:
            losses = self._losses(packed)
            # Tokens count alike wherever they are.  Processes' gradients are averaged, hence the factor.
            loss = (recipe.text_weight * losses.text_sum + losses.image_sum) * (parallel.world / asked)
            (loss + losses.balance / len(step.batches)).backward()
            self._sums += _sums(losses)
            told = [self.trained.told[name] for name in self.extra]
            self._extra += torch.stack([*told, torch.ones((), device=parallel.device)])
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
        self.optimizer.zero_grad()  # their memory is free for what comes between steps
        if self.factored is not None:
            self.factored.step()
        if self.balanced:
            self.model.core.update_expert_bias(parallel.sum(load))
        if self.average is not None:
            self.average.update(self.trained, self.step)
        self.seen["tokens"] += recipe.rows * recipe.row
        self.seen["tokens learnt"] += round(asked.item())
        self._load = load
        self._gradient = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def _losses(self, packed: Packed) -> Losses:
        batch = packed.to(self.parallel.device, self.model.gen_vision_model)
        bfloat16 = self.recipe.precision == "bfloat16"
        with torch.autocast(self.parallel.device.type, torch.bfloat16, enabled=bfloat16):
            losses: Losses = self.trained(batch)
        return losses

    def _columns(self) -> list[str]:
        layers = [f"busiest expert, layer {i}" for i in self.balanced]
        rates = ["gradient", "learning rate", "tokens/s"]
        return ["loss", "text", "image", *self.extra, *rates, *layers, "validation text", "validation image"]

    def report(self, seconds: float) -> dict[str, float]:
        text, image, text_tokens, image_tokens = self.parallel.sum(self._sums).tolist()
        values = {"loss": (text + image) / max(1, text_tokens + image_tokens)}
        values |= {"text": text / text_tokens} if text_tokens else {}
        values |= {"image": image / image_tokens} if image_tokens else {}
        *extra, passes = self.parallel.sum(self._extra).tolist()
        values |= {name: total / passes for name, total in zip(self.extra, extra, strict=True)}
        values["gradient"] = self._gradient
        values["learning rate"] = self.rate
        values["tokens/s"] = self.recipe.rows * self.recipe.row / seconds
        busiest = [float(layer.max() / layer.float().mean()) for layer in self._load]
        self._begin_window()
        return values | {f"busiest expert, layer {i}": b for i, b in zip(self.balanced, busiest, strict=True)}

    def look(self) -> dict[str, float]:
        """Losses on the validation rows, and a sheet of pictures, with the averaged weights if there are."""
        settings = self.recipe.validation
        assert settings is not None
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
            (self.folder / PICTURES).mkdir(exist_ok=True)
            contact_sheet(drawn).save(self.folder / PICTURES / f"step-{self.step:08}.png")
        if self.average is not None:
            self.average.swap(self.trained)
        scores = {"validation text": text / text_tokens} if text_tokens else {}
        return scores | ({"validation image": image / image_tokens} if image_tokens else {})

    def finish(self, scores: dict[str, float]) -> Path:
        if self.average is not None:
            self.average.swap(self.trained)
        records = [
            (one.title, len(source), one.licence)
            for one, (source, _) in zip(self.recipe.data, self.sources, strict=True)
        ]
        card = results.model_card(self.recipe, records, self.seen, scores)
        target = results.write(self.recipe, self.model, self.dtype, self.origin, self.parallel, card)
        if self.average is not None:
            self.average.swap(self.trained)
        if (skipped := self.loader.skipped).reasons:
            self.tell("\n".join([str(skipped), *skipped.messages]))
        self.tell(f"written: {target}")
        return target


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _sums(losses: Losses) -> Tensor:
    values = (losses.text_sum, losses.image_sum, losses.text_tokens, losses.image_tokens)
    return torch.stack([value.detach().double() for value in values])


def open_data(
    data: Sequence[DataRecipe], model: JanusModel, patch: int | None = None, pointing: bool = False
) -> list[tuple[Records, float]]:
    """The sources of a recipe with their weights; scenes to draw are coded by the model's image tokenizer.

    With `patch`, scenes say what each patch of so many pixels shows; with `pointing`, where words look.
    """
    opened: list[tuple[Records, float]] = []
    for one in data:
        if one.scenes is not None:
            source = SceneSource(one.scenes, model.gen_vision_model, patch, pointing=pointing)
            opened.append((source, one.weight))
        else:
            assert one.path is not None
            opened.append((open_source(one.path), one.weight))
    return opened


def _texts(sources: Sequence[tuple[Records, float]]) -> Iterator[str]:
    """What some records of each source say, for a text tokenizer to learn from."""
    for source, _ in sources:
        for index in range(min(WORDS_FROM, len(source))):
            try:
                record = source[index]
            except BadRecord:
                continue
            if record.caption is not None:
                yield f" {record.caption}"
            if record.text is not None:
                yield record.text
            for message in record.messages:
                yield f" {message['content']}"
