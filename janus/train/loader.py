"""From rows of drafts to batches on this process, made ahead of the step that needs them."""

from __future__ import annotations

import multiprocessing
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import count, islice
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from janus.config import JanusConfig
from janus.data.records import BadRecord, Skipped
from janus.tokenizers.text import TextTokenizer
from janus.train.packing import Packed, Sample, collate
from janus.train.parallel import Parallel
from janus.train.stream import Draft, Stream

AHEAD = 2  # steps
READERS = 4  # threads that read pictures
B = TypeVar("B")
S = TypeVar("S")


class Step(NamedTuple, Generic[B]):
    """One step's batches for this process, one after the other, and the stream's state after it."""

    batches: list[B]
    state: dict[str, Any]


class Loader(ABC, Generic[B]):
    """Shares each step's rows out among the processes and reads the pictures of its own.

    With `workers`, so many further processes make the batches: each has a lane of the stream, and they take
    turns with the steps.  A picture that cannot be read leaves its sample's place empty, so that the
    processes need not agree.
    Raises ValueError where the rows of a step, which the recipe calls `unit`, do not divide evenly, and for
    workers where the system can't fork.
    """

    def __init__(
        self,
        stream: Stream,
        parallel: Parallel,
        rows: int,
        micro_rows: int,
        workers: int = 0,
        unit: str = "rows",
    ) -> None:
        if rows % (parallel.world * micro_rows):
            raise ValueError(
                f"{unit}={rows} of a step do not divide among {parallel.world} processes "
                f"that take micro_{unit}={micro_rows} at once"
            )
        if workers and "fork" not in multiprocessing.get_all_start_methods():
            raise ValueError(f"workers={workers} need a system that can fork processes; set workers: 0")
        self.parallel, self.rows, self.micro_rows = parallel, rows, micro_rows
        self.lanes = [stream]
        if workers:
            # What is skipped is counted apart, and comes back with the batches.
            lanes = range(workers)
            self.lanes = [replace(stream, lane=n, lanes=workers, skipped=Skipped()) for n in lanes]
        self.workers = workers
        self._turn = 0  # of the lane whose batches the next step takes
        self._noted = self.lanes[0].skipped  # by this process
        self._readers = ThreadPoolExecutor(READERS)

    def resume(self, state: dict[str, Any]) -> None:
        """Go on behind a step with this `state`.  Raises ValueError where another stream had it."""
        states = state["lanes"] if self.workers else [state]
        for lane, one in zip(self.lanes, states, strict=True):
            lane.resume(one)
        self._turn = state["turn"] if self.workers else 0

    @property
    def skipped(self) -> Skipped:
        """What was left out so far."""
        return Skipped(
            sum(lane.skipped.records for lane in self.lanes),
            sum((lane.skipped.reasons for lane in self.lanes), Counter()),
            [message for lane in self.lanes for message in lane.skipped.messages],
        )

    def __iter__(self) -> Iterator[Step[B]]:
        """Steps without end, from where the stream is."""
        return self._from_workers() if self.workers else self._from_thread()

    def _from_thread(self) -> Iterator[Step[B]]:
        with ThreadPoolExecutor(1) as ahead:
            coming: deque[Future[Step[B]]] = deque(
                ahead.submit(self._step, self.lanes[0]) for _ in range(AHEAD)
            )
            while True:
                step = coming.popleft().result()
                coming.append(ahead.submit(self._step, self.lanes[0]))
                yield step

    def _from_workers(self) -> Iterator[Step[B]]:
        states = [lane.state() for lane in self.lanes]
        made = DataLoader(
            _Lanes(self, self._turn),
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=AHEAD,
            multiprocessing_context="fork",
            generator=torch.Generator(),
        )
        for number, step in zip(count(self._turn), made, strict=False):
            if isinstance(step, Exception):
                raise step
            lane = number % self.workers
            states[lane], self.lanes[lane].skipped = step.state["stream"], step.state["skipped"]
            yield Step(step.batches, {"lanes": list(states), "turn": (lane + 1) % self.workers})

    def _step(self, stream: Stream) -> Step[B]:
        rows = list(islice(stream.rows(), self.rows))
        state = stream.state()
        world, size = self.parallel.world, self.micro_rows
        starts = range(self.parallel.rank * size, self.rows, world * size)
        return Step([self.collate(rows[start : start + size]) for start in starts], state)

    @abstractmethod
    def collate(self, rows: Sequence[Sequence[Draft]]) -> B:
        """Read the pictures of these rows and make a batch of them."""

    def read(self, rows: Sequence[Sequence[Draft]], load: Callable[[Draft], S]) -> list[list[S]]:
        """What `load` makes of each draft, without those whose pictures cannot be read."""

        def one(draft: Draft) -> S | None:
            try:
                return load(draft)
            except BadRecord as error:
                self._noted.add(error)
                return None

        loaded = iter(list(self._readers.map(one, [draft for row in rows for draft in row])))
        return [[sample for sample in islice(loaded, len(row)) if sample is not None] for row in rows]


class _Lanes(IterableDataset[Any]):
    """What each worker makes: the steps of its lane, or the error that ended it."""

    def __init__(self, loader: Loader[Any], turn: int) -> None:
        self.loader, self.turn = loader, turn

    def __iter__(self) -> Iterator[Step[Any] | Exception]:
        loader, told = self.loader, torch.utils.data.get_worker_info()
        assert told is not None
        # The threads of the process that this one is a copy of are not here.
        loader._readers = ThreadPoolExecutor(1)
        stream = loader.lanes[(told.id + self.turn) % loader.workers]
        loader._noted = stream.skipped
        try:
            while True:
                step = loader._step(stream)
                yield Step(step.batches, {"stream": step.state, "skipped": stream.skipped})
        except ValueError as error:
            yield error


class PackedLoader(Loader[Packed]):
    """Batches of packed rows for a model with this config."""

    def __init__(
        self,
        stream: Stream,
        config: JanusConfig,
        tokenizer: TextTokenizer,
        parallel: Parallel,
        rows: int,
        micro_rows: int,
        workers: int = 0,
    ) -> None:
        super().__init__(stream, parallel, rows, micro_rows, workers)
        self.config, self.tokenizer, self.row = config, tokenizer, stream.row

    def collate(self, rows: Sequence[Sequence[Draft]]) -> Packed:
        """Read the pictures of these rows and pack them."""

        def load(draft: Draft) -> Sample:
            return draft.load(self.config)

        return collate(self.read(rows, load), self.row, self.tokenizer, self.config.vq.tokens)
