"""Which samples a step sees: the mixture of sources, their order, the packing into rows.

All of it follows from the seed and from three counts, so that a run goes on exactly where it stopped,
and any number of processes agree on the rows of a step before they share them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from janus.config import JanusConfig
from janus.data.records import KINDS, BadRecord, Kind, Picture, Record, Records, Repainted, Skipped
from janus.encoders.preprocess import crop, preprocess
from janus.tokenizers.chat import (
    answer_ids,
    drawing_prompt,
    message_images,
    unconditional,
    understanding_prompt,
)
from janus.tokenizers.text import TextTokenizer
from janus.train.looking import located
from janus.train.naming import named
from janus.train.packing import Sample, questions_apart

WAITING = 8  # samples that did not fit into the last row, at most
HOPELESS = 1000  # unusable records one after the other


@dataclass(frozen=True)
class Draft:
    """A sample whose pictures are not read yet."""

    name: str
    ids: list[int]
    learn: list[tuple[int, int]]
    branches: Sequence[tuple[int, int]] = ()
    images: Sequence[Picture] = ()  # to understand
    drawing: Picture | None = None  # to draw ...
    codes: np.ndarray | None = None  # ... or its codes, already made, (K,)
    weights: np.ndarray | None = None  # (K,) of the codes in the loss
    words: torch.Tensor | None = None  # (patches, W) tokens of what each patch of the images shows
    mentions: Sequence[tuple[int, np.ndarray]] = ()  # last tokens of what names a thing to draw, its codes
    looks: Sequence[tuple[int, int, int]] = ()  # level, token, a token that it should look at
    carried: Sequence[tuple[int, int, int]] = ()  # level, token, id of the token that it should carry along
    repainted: Repainted | None = None  # of the picture to draw, for an image tokenizer

    def load(self, config: JanusConfig) -> Sample:
        """Raises BadRecord for a picture that cannot be read."""
        weights = None if self.weights is None else torch.from_numpy(self.weights)
        if self.codes is not None:
            codes = torch.from_numpy(self.codes.astype(np.int64))
            mentions = [(place, torch.from_numpy(own.astype(np.int64))) for place, own in self.mentions]
            return Sample(self.ids, self.learn, codes=codes, weights=weights, mentions=mentions)
        if self.drawing is not None:
            pixels = crop([self.drawing.load()], config.vq.image_size)[0]
            return Sample(self.ids, self.learn, drawing=pixels, weights=weights)
        shown = [picture.load() for picture in self.images]
        return Sample(
            self.ids,
            self.learn,
            self.branches,
            pixels=preprocess(shown, config.image) if shown else None,
            words=self.words,
            looks=self.looks,
            carried=self.carried,
        )


class Writer:
    """Writes records as the model reads them; `drop` is the share of captions left out, for guidance."""

    def __init__(self, config: JanusConfig, tokenizer: TextTokenizer, drop: float) -> None:
        self.config, self.tokenizer, self.drop = config, tokenizer, drop

    def __call__(self, record: Record, rng: np.random.Generator) -> Draft:
        """Raises BadRecord where the chat template refuses the conversation."""
        try:
            if record.kind == "generation":
                return self._drawing(record, rng)
            return self._text(record) if record.text is not None else self._conversation(record)
        except BadRecord:
            raise
        except ValueError as error:
            raise BadRecord(record.name, "not a prompt", str(error)) from error

    def _drawing(self, record: Record, rng: np.random.Generator) -> Draft:
        assert record.caption is not None
        ids = drawing_prompt(record.caption, self.tokenizer, self.config.prompt)
        mentions = []
        if rng.random() < self.drop:
            ids = unconditional(ids, self.tokenizer)
        else:
            mentions = self._mentions(record, ids)
        ids = ids + [self.tokenizer.image_id] * self.config.vq.tokens
        if record.codes is None:
            return Draft(record.name, ids, [], drawing=record.images[0], weights=record.weights)
        return Draft(record.name, ids, [], codes=record.codes, weights=record.weights, mentions=mentions)

    def _mentions(self, record: Record, ids: list[int]) -> list[tuple[int, np.ndarray]]:
        """The last token of each mention in the prompt; those that end within a token are left out."""
        assert record.caption is not None
        found = []
        for end, codes in record.mentions:
            begun = drawing_prompt(record.caption[:end], self.tokenizer, self.config.prompt)
            last = len(begun) - self._behind - 1
            if begun[: last + 1] == ids[: last + 1]:
                found.append((last, codes))
        return found

    @cached_property
    def _behind(self) -> int:
        """How many tokens of a prompt to draw come behind its words."""
        pair = [drawing_prompt(text, self.tokenizer, self.config.prompt)[::-1] for text in ("a", "b")]
        return next(i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b)

    def _text(self, record: Record) -> Draft:
        assert record.text is not None
        ids = [self.tokenizer.bos_id, *self.tokenizer.encode(record.text), self.tokenizer.eos_id]
        return Draft(record.name, ids, [(1, len(ids))])

    def _conversation(self, record: Record) -> Draft:
        """Every answer is learnt, in the place where the model will write it."""
        words = named(record.shown, self.tokenizer) if record.shown else None
        images = message_images(record.messages[:-1])
        if record.apart:
            asked = [(q["content"], a["content"]) for q, a in zip(*[iter(record.messages)] * 2, strict=True)]
            parts = questions_apart(asked, images, self.tokenizer, self.config)
            looks, carried = located(record, parts[0], self.tokenizer)
            return Draft(record.name, *parts, images, words=words, looks=looks, carried=carried)
        ids: list[int] = []
        learn = []
        for end, message in enumerate(record.messages):
            if message["role"] != "assistant":
                continue
            before = record.messages[:end]
            prompt = understanding_prompt(
                before, self.tokenizer, self.config.prompt, self.config.vision.tokens
            )
            answer = answer_ids(message["content"], self.tokenizer)
            if prompt[: len(ids)] != ids:
                raise ValueError("the checkpoint's chat template rewrites earlier turns; train on one answer")
            learn.append((len(prompt), len(prompt) + len(answer)))
            ids = [*prompt, *answer]
        looks, carried = located(record, ids, self.tokenizer)
        return Draft(record.name, ids, learn, images=images, words=words, looks=looks, carried=carried)


@dataclass(frozen=True)
class Part:
    """The records of one kind in one source, and their share of all samples."""

    kind: Kind
    source: Records
    indices: np.ndarray  # of its records of this kind
    share: float


def mix(sources: Sequence[tuple[Records, float]], mixture: Mapping[Kind, float]) -> list[Part]:
    """The parts of weighted sources.  `mixture` is the share of each kind, weights divide it among sources.

    Raises ValueError where the mixture asks for a kind that no source has, or leaves nothing.
    """
    total = sum(mixture.values())
    if total <= 0:
        raise ValueError(f"the mixture {mixture} asks for nothing")
    parts = []
    for kind in KINDS:
        share = mixture.get(kind, 0)
        if not share:
            continue
        having = [(source, indices, w) for source, w in sources if len(indices := source.of_kind(kind))]
        if not having:
            raise ValueError(f"the mixture asks for {kind}, but no source has a record of that kind")
        weights = sum(w for *_, w in having)
        parts += [Part(kind, source, indices, share / total * w / weights) for source, indices, w in having]
    return parts


@dataclass
class Stream:
    """Rows of drafts, without end.  Each source is gone through in a new order every time.

    Of several `lanes`, each a stream of its own, this is the one numbered `lane`: it takes every so-manieth
    sample and record, so that together they give what one would, in another order.
    Raises ValueError when a thousand records in a row are unusable.
    """

    parts: Sequence[Part]
    write: Callable[[Record, np.random.Generator], Draft]
    row: int  # tokens
    seed: int
    lane: int = 0
    lanes: int = 1
    skipped: Skipped = field(default_factory=Skipped)

    def __post_init__(self) -> None:
        self._shares = np.cumsum([part.share for part in self.parts])
        self._next = self.lane  # number of the next sample
        self._places = [self.lane] * len(self.parts)  # of the next record of each part, in its order
        self._waiting: list[tuple[int, int, Draft]] = []  # number and place of samples that wait for a row
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def state(self) -> dict[str, Any]:
        """What `resume` takes, as JSON."""
        waiting = [[number, place] for number, place, _ in self._waiting]
        return {"next": self._next, "places": list(self._places), "waiting": waiting}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from another stream's `state`.  Raises ValueError where that one had other parts."""
        if len(state["places"]) != len(self.parts):
            raise ValueError(
                f"the run was begun with {len(state['places'])} parts of data, not {len(self.parts)}"
            )
        self._next, self._places = state["next"], list(state["places"])
        self._waiting = [(n, place, self._draft(n, place)) for n, place in state["waiting"]]

    def rows(self) -> Iterator[list[Draft]]:
        while True:
            yield self._fill()

    def _fill(self) -> list[Draft]:
        """A row of the samples that waited, as far as they fit, and of new ones until too many wait."""
        row: list[Draft] = []
        room = self.row
        still: list[tuple[int, int, Draft]] = []
        for number, place, draft in self._waiting:
            if len(draft.ids) <= room:
                row.append(draft)
                room -= len(draft.ids)
            else:
                still.append((number, place, draft))
        self._waiting = still
        while len(self._waiting) < WAITING and room > 0:
            number, place, draft = self._draw()
            if len(draft.ids) <= room:
                row.append(draft)
                room -= len(draft.ids)
            else:
                self._waiting.append((number, place, draft))
        return row

    def _draw(self) -> tuple[int, int, Draft]:
        """The next usable sample."""
        for _ in range(HOPELESS):
            number = self._next
            part = self._part(number, np.random.default_rng((self.seed, number)))
            place = self._places[part]
            self._next += self.lanes
            self._places[part] += self.lanes
            self.skipped.records += 1
            try:
                draft = self._draft(number, place)
                if len(draft.ids) > self.row:
                    detail = f"{len(draft.ids)} tokens, a row holds {self.row}"
                    raise BadRecord(draft.name, "longer than a row", detail)
                return number, place, draft
            except BadRecord as error:
                self.skipped.add(error)
        raise ValueError(f"{HOPELESS} records in a row were unusable.  {self.skipped}")

    def _draft(self, number: int, place: int) -> Draft:
        rng = np.random.default_rng((self.seed, number))
        part = self._part(number, rng)
        return self.write(self._record(part, place), rng)

    def _part(self, number: int, rng: np.random.Generator) -> int:
        return min(int(np.searchsorted(self._shares, rng.random(), side="right")), len(self.parts) - 1)

    def _record(self, part: int, place: int) -> Record:
        indices = self.parts[part].indices
        round_, step = divmod(place, len(indices))
        if self._orders.get(part, (-1,))[0] != round_:
            order = np.random.default_rng((self.seed, part, round_, 1)).permutation(len(indices))
            self._orders[part] = (round_, order)
        return self.parts[part].source[int(indices[self._orders[part][1][step]])]
