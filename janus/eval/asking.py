"""Asking a model: requests go in, raw answers come out; nothing here knows of folders or benchmarks.

So the same askers work in this process, under `torchrun` and on a cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from janus.eval.benchmark import Item, Line, Progress

if TYPE_CHECKING:
    from janus.api import Janus


@dataclass(frozen=True)
class Request:
    """What an answer is made from."""

    item: Item
    prompt: str
    seed: int
    sample: Line
    pictures: tuple[bytes, ...] = ()  # files of those that the question is about


@dataclass(frozen=True)
class Made:
    """A raw answer: its line, with the key `item`, and the files that it speaks of, by their place in the
    run's folder.  A line with `error` instead of an answer says why there is none."""

    line: Line
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Manner:
    """How answers are made, for any model; can be sent to another process."""

    kind: Literal["answer", "picture"]
    guidance: float | None = None  # None: the checkpoint's own
    temperature: float | None = None  # None: the checkpoint's own
    max_tokens: int = 512
    template: Mapping[str, Any] = field(default_factory=dict)  # changes to the checkpoint's `PromptConfig`
    system: str | None = None  # None: the template's own


class Asker(Protocol):
    """Makes raw answers of one kind."""

    @property
    def settings(self) -> Line:
        """What the answers depend on besides the requests."""

    def check(self, prompts: Sequence[str], batch_size: int) -> None:
        """Raise ValueError for what will not fit, before anything is asked."""

    def ask(self, requests: Sequence[Request], on_progress: Progress | None = None) -> list[Made]:
        """The raw answers to some requests, in their order."""


def asker_for(manner: Manner, model: Janus) -> Asker:
    """Raises ValueError for settings out of range."""
    if manner.kind == "picture":
        from janus.eval.drawing import Drawer

        return Drawer(model, guidance=manner.guidance, temperature=manner.temperature)
    from janus.eval.answering import Answerer

    return Answerer(model, max_tokens=manner.max_tokens, template=manner.template, system=manner.system)


def about(model: Janus) -> Line:
    """What tells a model from others, for the settings of an asker."""
    return {
        "weights": fingerprint(model),
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "device": model.model.device.type,
    }


def fingerprint(model: Janus) -> str:
    """Tells weights from others: a hash of every tensor's name, shape and 64 values spread over it."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, len(flat) // 64)][:64].float().cpu().numpy()
        found.update(f"{name} {list(tensor.shape)}".encode() + some.tobytes())
    return found.hexdigest()[:16]
