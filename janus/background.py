"""Work on a GPU beside other work on it: the image tokenizer, while the next pictures' codes are drawn."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from janus.memory import is_out_of_memory

R = TypeVar("R")


def pays(device: torch.device) -> bool:
    """A step of decoding leaves most of a GPU's arithmetic idle, but nothing of a CPU's cores."""
    return device.type == "cuda"


class Background:
    """Does one piece of work after the other on a thread, and a GPU's stream, of its own.

    Where that does not pay, each at once.  The end of `with` waits for what was begun.
    """

    def __init__(self, device: torch.device) -> None:
        self._thread = ThreadPoolExecutor(1) if pays(device) else None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def start(self, work: Callable[[Tensor], R], given: Tensor) -> Callable[[], R]:
        """Begin `work(given)`; what comes back waits for its result.

        Where memory does not suffice for both it is done again by then, with nothing beside it.
        """
        if self._thread is None:
            done = work(given)
            return lambda: done
        future = self._thread.submit(self._beside, work, given, self._made())

        def result() -> R:
            try:
                return future.result()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            return work(given)

        return result

    def _made(self) -> torch.cuda.Event | None:
        """When all that was asked of the GPU so far is done."""
        return None if self._stream is None else torch.cuda.current_stream(self._stream.device).record_event()

    def _beside(self, work: Callable[[Tensor], R], given: Tensor, made: torch.cuda.Event | None) -> R:
        if self._stream is None or made is None:
            return work(given)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(made)
            given.record_stream(self._stream)  # so that nobody else gets its memory before
            return work(given)
