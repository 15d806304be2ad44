"""Raw answers that are text: questions about pictures, always answered greedily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from janus import memory
from janus.api import Janus
from janus.encoders.preprocess import load_image
from janus.eval.asking import Made, Request, about
from janus.eval.benchmark import Line, Progress
from janus.tokenizers.chat import Message, understanding_prompt

_Asked = tuple[int, list[Message]]  # place among the requests, conversation


class Answerer:
    """Answers questions.

    template: changes to the checkpoint's `PromptConfig`.  system: the system prompt, None takes the
    template's own.  Raises ValueError for fewer than one token.
    """

    def __init__(
        self, model: Janus, *, max_tokens: int, template: Mapping[str, Any], system: str | None
    ) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
        self.model = model.with_prompt(**template) if template else model
        self.max_tokens, self.system = max_tokens, system

    @property
    def settings(self) -> Line:
        return {**about(self.model), "max_tokens": self.max_tokens, "temperature": 0}

    def check(self, prompts: Sequence[str], batch_size: int) -> None:
        """Nothing: a question that the context does not hold has an error as its answer."""

    def ask(self, requests: Sequence[Request], on_progress: Progress | None = None) -> list[Made]:
        """Answer what can be answered; a damaged picture or too long a question is an error of its own."""
        errors: dict[int, str] = {}
        together: list[_Asked] = []
        alone: list[_Asked] = []  # would cut short the answers of others
        for place, request in enumerate(requests):
            try:
                conversation, room = self._conversation(request)
            except ValueError as error:
                errors[place] = str(error)
                continue
            (together if room >= self.max_tokens else alone).append((place, conversation))
        answers: dict[int, str] = {}

        def work(some: Sequence[_Asked], before: int) -> list[str]:
            told = self.model.chat_batch([one for _, one in some], max_tokens=self.max_tokens)
            answers.update(zip([place for place, _ in some], told, strict=True))
            if on_progress is not None:
                on_progress(len(answers), len(requests))
            return told

        for some in (together, *([one] for one in alone)):
            memory.in_batches(some, max(1, len(some)), work, self.model.model.device)
        return [
            Made(
                {"item": request.item.key, "id": request.sample["id"], "prompt": request.prompt}
                | ({"error": errors[place]} if place in errors else {"answer": answers[place]})
            )
            for place, request in enumerate(requests)
        ]

    def _conversation(self, request: Request) -> tuple[list[Message], int]:
        """The conversation, and for how many tokens the context has room after it.

        Raises ValueError for a picture that cannot be read, or what the context does not hold.
        """
        pictures = [load_image(data) for data in request.pictures]
        conversation: list[Message] = [{"role": "user", "content": request.prompt, "images": pictures}]
        if self.system is not None:
            conversation.insert(0, {"role": "system", "content": self.system})
        config = self.model.config
        ids = understanding_prompt(conversation, self.model.tokenizer, config.prompt, config.vision.tokens)
        if len(ids) >= config.core.max_positions:
            raise ValueError(
                f"the question takes {len(ids)} tokens, the context holds {config.core.max_positions}"
            )
        return conversation, config.core.max_positions - len(ids)
