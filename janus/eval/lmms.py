"""This package's models in lmms-eval (github.com/EvolvingLMMs-Lab/lmms-eval, from 0.6 on).

    pip install lmms-eval janus-pro
    python -m lmms_eval --model janus_pro --model_args pretrained=deepseek-ai/Janus-Pro-1B,dtype=bfloat16 \
        --tasks pope,mme --batch_size 16

lmms-eval finds `manifest` through the entry-point group `lmms_eval.models`, and takes one of the two classes
that it names: `JanusPro` for tasks in the form of messages, `JanusProSimple` (`--force_simple`) for those in
the form of a context with pictures, which alone can have multiple choice by likelihood.  Their base class is
lmms-eval's, so they are made when they are asked for: nothing imports lmms-eval but lmms-eval itself.

The task words its questions; `profile` is what surrounds them (`janus.eval.profiles`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from tqdm import tqdm

from janus.eval.lmms_requests import Asked, Settings, asked, conversation_of, question_of
from janus.eval.profiles import profile_of

if TYPE_CHECKING:
    from janus.api import Janus
    from janus.core.quantized import Quantization
    from janus.tokenizers.chat import Message

T = TypeVar("T")
NAME = "janus_pro"
_AUTO = 64  # requests at once where memory decides


def manifest() -> Any:
    """What lmms-eval's registry wants to know (lmms_eval/models/registry_v2.py)."""
    chat, simple = (f"{__name__}.{name}" for name in _KINDS)
    registry = import_module("lmms_eval.models.registry_v2")
    return registry.ModelManifest(NAME, simple_class_path=simple, chat_class_path=chat)


class _Model:
    """What both kinds of models share.

    pretrained: a folder or hub id; the embedded model without it.  dtype, quantize, adapter, revision: as in
    `Janus.from_pretrained`.  Sampled answers follow from lmms-eval's `--seed`.

    An answer that cannot be made, since its picture is damaged or the question longer than the context, is
    empty, and standard error says so.
    """

    is_simple: ClassVar[bool]
    task_dict: dict[str, Any]  # documents by task and split; lmms-eval sets it
    _rank: int
    _world_size: int

    def __init__(
        self,
        pretrained: str | None = None,
        dtype: str | None = None,
        profile: str = "pro",
        quantize: Quantization | None = None,
        adapter: str | None = None,
        revision: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self._template = profile_of(profile).template
        self.batch_size = _batch_size(batch_size, max_batch_size)
        self._source: dict[str, Any] = {
            "source": pretrained,
            "dtype": dtype,
            "quantize": quantize,
            "adapter": adapter,
            "revision": revision,
        }
        self.device: Any = device
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # of accelerate or torchrun
            self.accelerator = import_module("accelerate").Accelerator()
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            self.device = self.accelerator.device  # where lmms-eval gathers
        self.device = self.janus.model.device  # loaded now, so that a mistake is told before data is read

    @cached_property
    def janus(self) -> Janus:
        from janus.api import Janus

        model = Janus.from_pretrained(**self._source, device=self.device)
        return model.with_prompt(**self._template) if self._template else model

    def clean(self) -> None:
        """Called when all is answered, since a judge may need the memory."""
        vars(self).pop("janus", None)
        super().clean()  # type: ignore[misc]  # lmms-eval's

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers in the order of the requests, made in batches of those that are written alike."""
        waiting = self._asked(requests)
        groups: dict[Settings, list[int]] = {}
        for place, one in waiting.items():
            groups.setdefault(Settings.of(one.settings), []).append(place)
        answers = [""] * len(requests)
        failures: list[Exception] = []
        with tqdm(total=len(waiting), disable=self._rank != 0, desc=NAME, unit="answer") as bar:
            for settings, places in groups.items():
                for some in _chunks(places, self.batch_size):
                    told = self._answers([waiting[place] for place in some], settings, failures)
                    for place, answer in zip(some, told, strict=True):
                        answers[place] = settings.cut(answer)
                    bar.update(len(some))
        if failures and len(failures) == len(waiting):
            raise failures[-1]
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError(f"{NAME} answers in one round; this task has several")

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """The loss of each option, and whether it is the greedy answer.

        As all of lmms-eval's models return it: the mean of the negative log-probabilities of its tokens and
        the end of the answer.  Multiple choice takes the option with the smallest (lmms_eval/api/task.py).
        """
        if not self.is_simple:
            raise NotImplementedError("options are scored by likelihood in simple tasks only: --force_simple")
        scored = [(0.0, False)] * len(requests)
        waiting = self._asked(requests)
        questions: dict[tuple[object, ...], list[int]] = {}
        for place, one in waiting.items():
            questions.setdefault(one.question, []).append(place)
        with tqdm(total=len(waiting), disable=self._rank != 0, desc=NAME, unit="option") as bar:
            for some in _chunks(list(questions.values()), self.batch_size):
                conversations = [self._conversation(waiting[places[0]]) for places in some]
                losses: dict[int, float] = {}
                longest = 1
                for places, conversation in zip(some, conversations, strict=True):
                    for place in places:
                        told = self.janus.log_probs(conversation, text=self._option(waiting[place]))
                        losses[place], longest = -told.mean().item(), max(longest, len(told))
                        bar.update()
                greedy = self.janus.chat_batch(conversations, max_tokens=longest)
                for places, answer in zip(some, greedy, strict=True):
                    for place in places:
                        same = answer == self._option(waiting[place]).strip()
                        scored[place] = (losses[place], same)
        # From 0.7 on lmms-eval makes text of all but text and its own results (`unwrap_generation_output`).
        kept = getattr(import_module("lmms_eval.api.instance"), "GenerationResult", tuple)
        return [kept(pair) for pair in scored]

    def _answers(self, some: Sequence[Asked], settings: Settings, failures: list[Exception]) -> list[str]:
        """Where one of several cannot be made, each is asked for by itself."""
        from janus.requests import Question

        try:
            questions = [
                Question(
                    self._conversation(one),
                    max_tokens=settings.max_tokens,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    seed=one.seed,
                )
                for one in some
            ]
            return [cast(str, answer) for answer in self.janus.batch(questions)]
        except (ValueError, OSError) as error:
            if len(some) > 1:
                return [answer for one in some for answer in self._answers([one], settings, failures)]
            tqdm.write(f"{some[0].where}: an empty answer, because {error}", file=sys.stderr)
            failures.append(error)
            return [""]

    def _asked(self, requests: Sequence[Any]) -> dict[int, Asked]:
        seed = import_module("torch").initial_seed()  # lmms-eval's own, of --seed
        return asked(requests, self.is_simple, seed)

    def _document(self, one: Asked) -> Any:
        return self.task_dict[one.task][one.split][one.document]

    def _option(self, one: Asked) -> str:
        return str(one.settings(self._document(one)) if callable(one.settings) else one.settings)

    def _conversation(self, one: Asked) -> list[Message]:
        try:
            shown = one.shown(self._document(one)) or []
            return question_of(one.context, shown) if self.is_simple else conversation_of(shown)
        except NotImplementedError as error:
            raise NotImplementedError(f"{one.where}: {error}") from error


class _Chat(_Model):
    is_simple = False


class _Simple(_Model):
    is_simple = True


_KINDS = {"JanusPro": _Chat, "JanusProSimple": _Simple}


def __getattr__(name: str) -> type:
    if name not in _KINDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base = import_module("lmms_eval.api.model").lmms
    return type(name, (_KINDS[name], base), {"__module__": __name__})


def _batch_size(given: int | str, most: int | None) -> int:
    """Raises ValueError unless it is a number from 1 on or "auto"."""
    if str(given).partition(":")[0] == "auto":
        return int(most or _AUTO)
    if not str(given).isdecimal() or int(given) < 1:
        raise ValueError(f"batch_size must be a number from 1 on or 'auto', not {given!r}")
    return int(given)


def _chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
