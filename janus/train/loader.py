"""From rows of drafts to batches on this process, read ahead of the step that needs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from janus.config import JanusConfig
from janus.data.records import BadRecord
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

    A picture that cannot be read leaves its sample's place empty, so that the processes need not agree.
    Raises ValueError where the rows of a step, which the recipe calls `unit`, do not divide evenly.
    """

    def __init__(
        self, stream: Stream, parallel: Parallel, rows: int, micro_rows: int, unit: str = "rows"
    ) -> None:
        if rows % (parallel.world * micro_rows):
            raise ValueError(
                f"{unit}={rows} of a step do not divide among {parallel.world} processes "
                f"that take micro_{unit}={micro_rows} at once"
            )
        self.stream, self.parallel = stream, parallel
        self.rows, self.micro_rows = rows, micro_rows
        self._readers = ThreadPoolExecutor(READERS)

    def __iter__(self) -> Iterator[Step[B]]:
        """Steps without end, from where the stream is."""
        with ThreadPoolExecutor(1) as ahead:
            coming: deque[Future[Step[B]]] = deque(ahead.submit(self._step) for _ in range(AHEAD))
            while True:
                step = coming.popleft().result()
                coming.append(ahead.submit(self._step))
                yield step

    def _step(self) -> Step[B]:
        rows = list(islice(self.stream.rows(), self.rows))
        state = self.stream.state()
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
                self.stream.skipped.add(error)
                return None

        loaded = iter(list(self._readers.map(one, [draft for row in rows for draft in row])))
        return [[sample for sample in islice(loaded, len(row)) if sample is not None] for row in rows]


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
    ) -> None:
        super().__init__(stream, parallel, rows, micro_rows)
        self.config, self.tokenizer = config, tokenizer

    def collate(self, rows: Sequence[Sequence[Draft]]) -> Packed:
        """Read the pictures of these rows and pack them."""

        def load(draft: Draft) -> Sample:
            return draft.load(self.config)

        return collate(self.read(rows, load), self.stream.row, self.tokenizer, self.config.vq.tokens)
