"""The processes that answer together: one by itself, or those that `torchrun` started, one for each GPU.

Answers do not depend on how many there are: batches are cut the same, and each process takes its share.
The first one claims the folder, cuts the work, and gathers what all have written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from janus.eval.asking import asker_for
from janus.eval.benchmark import Benchmark, Item, Progress, Samples
from janus.eval.folder import Run, claimed
from janus.eval.runner import Asking, answer, batches, begin, chosen, make_answers, manner_of

if TYPE_CHECKING:
    from janus.api import Janus

_WAIT = timedelta(days=7)  # for the slowest process


@dataclass(frozen=True)
class Workers:
    """This process among all."""

    rank: int
    count: int

    @property
    def first(self) -> bool:
        return self.rank == 0

    @classmethod
    @contextmanager
    def here(cls) -> Iterator[Workers]:
        """As `torchrun` set them up in the environment; without it this process is the only one."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            yield cls(0, 1)
            return
        import torch
        from torch import distributed

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("gloo", timeout=_WAIT)
        try:
            yield cls(distributed.get_rank(), count)
        finally:
            distributed.destroy_process_group()

    def answer(
        self,
        benchmark: Benchmark,
        samples: Samples | None,
        model: Janus,
        asking: Asking,
        out: str | Path,
        on_progress: Progress | None = None,
    ) -> int:
        """Like `runner.answer`, with all processes; returns how many answers all of them gave.

        samples: only the first one needs them.  on_progress follows its share.  Where it raises, the others
        end quietly.
        """
        assert samples is not None or not self.first
        if samples is not None and self.count == 1:
            return answer(benchmark, samples, model, asking, out, on_progress)
        from torch import distributed

        asker = asker_for(manner_of(benchmark, asking), model)
        told: list[list[list[Item]] | None] = [None]
        with ExitStack() as stack:
            if samples is not None:
                try:
                    lines = chosen(benchmark, samples, asking)
                    asker.check([benchmark.prompt(line) for line in lines], asking.batch_size)
                    folder = stack.enter_context(claimed(out))
                    run = begin(benchmark, samples, lines, asking, asker.settings, folder)
                    run.gather()
                    told = [batches(run, asking.batch_size)]
                finally:
                    distributed.broadcast_object_list(told)
            else:
                distributed.broadcast_object_list(told)
                if told[0] is None:
                    raise SystemExit(1)
                run = Run.open(Path(out))
            left = told[0]
            assert left is not None
            show = on_progress if self.first else None
            own = left[self.rank :: self.count]
            make_answers(run, own, benchmark.prompt, asker, asking.seed, show, self.rank)
            distributed.barrier()
            if self.first:
                run.gather()
        return sum(map(len, left))
