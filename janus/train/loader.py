"""From rows of drafts to batches on this process, read ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

from janus.config import JanusConfig
from janus.data.records import BadRecord
from janus.tokenizers.text import TextTokenizer
from janus.train.packing import Packed, Sample, collate
from janus.train.parallel import Parallel
from janus.train.stream import Draft, Stream

AHEAD = 2  # steps
READERS = 4  # threads that read pictures


class Step(NamedTuple):
    """One step's batches for this process, one after the other, and the stream's state after it."""

    batches: list[Packed]
    state: dict[str, Any]


class Loader:
    """Shares each step's rows out among the processes and reads the pictures of its own.

    A picture that cannot be read leaves its sample's place empty, so that the processes need not agree.
    Raises ValueError where the rows of a step do not divide evenly.
    """

    def __init__(
        self,
        stream: Stream,
        config: JanusConfig,
        tokenizer: TextTokenizer,
        parallel: Parallel,
        rows: int,
        micro_rows: int,
    ) -> None:
        if rows % (parallel.world * micro_rows):
            raise ValueError(
                f"rows={rows} of a step do not divide among {parallel.world} processes "
                f"that take micro_rows={micro_rows} at once"
            )
        self.stream, self.config, self.tokenizer = stream, config, tokenizer
        self.parallel, self.rows, self.micro_rows = parallel, rows, micro_rows
        self._readers = ThreadPoolExecutor(READERS)

    def __iter__(self) -> Iterator[Step]:
        """Steps without end, from where the stream is."""
        with ThreadPoolExecutor(1) as ahead:
            coming: deque[Future[Step]] = deque(ahead.submit(self._step) for _ in range(AHEAD))
            while True:
                step = coming.popleft().result()
                coming.append(ahead.submit(self._step))
                yield step

    def _step(self) -> Step:
        rows = list(islice(self.stream.rows(), self.rows))
        state = self.stream.state()
        world, size = self.parallel.world, self.micro_rows
        starts = range(self.parallel.rank * size, self.rows, world * size)
        return Step([self.collate(rows[start : start + size]) for start in starts], state)

    def collate(self, rows: Sequence[Sequence[Draft]]) -> Packed:
        """Read the pictures of these rows and pack them."""
        loaded = list(self._readers.map(self._load, [draft for row in rows for draft in row]))
        samples = iter(loaded)
        read = [[sample for sample in islice(samples, len(row)) if sample is not None] for row in rows]
        return collate(read, self.stream.row, self.tokenizer, self.config.vq.tokens)

    def _load(self, draft: Draft) -> Sample | None:
        try:
            return draft.load(self.config)
        except BadRecord as error:
            self.stream.skipped.add(error)
            return None
