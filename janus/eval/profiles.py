"""Prompt profiles: how a benchmark's question is put to the model.  Wording moves scores by several points,
so that every result names its profile.

pro         the checkpoint's own template and system prompt (README of Janus-Pro), worded as its authors
            worded benchmarks in VLMEvalKit
vlmevalkit  what that adapter does, to the letter: roles "User" and "Assistant" as plain words, no system
            prompt but for MM-Vet (open-compass/VLMEvalKit, vlmeval/vlm/janus.py)
llava       the checkpoint's own template, worded as LLaVA-1.5's evaluation words it (haotian-liu/LLaVA,
            docs/Evaluation.md and its question files)
plain       the checkpoint's own template, and nothing added to a question but its options
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ProfileName = Literal["pro", "vlmevalkit", "llava", "plain"]
Form = Literal["yes-no", "choice", "short", "free"]

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
STEP_BY_STEP = (
    "You are a helpful assistant. Please answer truthfully and write out your thinking step by step to be "
    "sure you get the right answer."
)
_YES_NO = " Please answer yes or no."
# The adapter writes all pictures first, with nothing between them, and strips the whole message.
_ADAPTER = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}User: {% else %}Assistant: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ image_token }}{% else %}"
    "{{ ('\\n' if not loop.first else '') + part['text'] }}{% endif %}"
    "{% endfor %}"
    "{{ '\\n\\n' if message['role'] == 'user' else eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)

Wording = Callable[[str, Form, str, Mapping[str, str], str], str]  # benchmark, form, question, options, hint


def _as_adapter(benchmark: str, form: Form, question: str, options: Mapping[str, str], hint: str) -> str:
    if form == "yes-no":
        question = question.replace(_YES_NO, "") if benchmark == "pope" else question
        return f"{question}\n{SHORT}"
    if form == "choice":
        head = f"Hint: {hint}\n" if hint else ""
        if not options:
            return f"{head}{question}\nAnswer the question directly. "
        return f"{head}{question}\n{_lettered(options)}\n\n{LETTER}"
    return f"{question}\n{SHORT}" if form == "short" else question


def _as_llava(benchmark: str, form: Form, question: str, options: Mapping[str, str], hint: str) -> str:
    question = f"{hint}\n{question}" if hint else question
    if form == "choice" and options:
        return f"{question}\n{_lettered(options)}\n{LETTER}"
    if form == "free":
        return question
    return f"{question.replace(_YES_NO, '')}\n{SHORT}"


def _plain(benchmark: str, form: Form, question: str, options: Mapping[str, str], hint: str) -> str:
    return "\n".join(filter(None, [hint, question, _lettered(options)]))


def _lettered(options: Mapping[str, str]) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


@dataclass(frozen=True)
class Profile:
    """Wording, and what surrounds it."""

    name: ProfileName
    wording: Wording
    max_tokens: int
    template: Mapping[str, Any] = field(default_factory=dict)  # changes to the checkpoint's `PromptConfig`
    systems: Mapping[str, str] = field(default_factory=dict)  # by benchmark

    def text(
        self,
        benchmark: str,
        form: Form,
        question: str,
        options: Mapping[str, str] | None = None,
        hint: str = "",
    ) -> str:
        """What follows the pictures in the user's turn."""
        return self.wording(benchmark, form, question, options or {}, hint).strip()


PROFILES: dict[ProfileName, Profile] = {
    "pro": Profile("pro", _as_adapter, 512),
    "vlmevalkit": Profile(
        "vlmevalkit",
        _as_adapter,
        2048,
        {"user": "User", "assistant": "Assistant", "use_system_prompt": False, "jinja": _ADAPTER},
        {"mmvet": STEP_BY_STEP},
    ),
    "llava": Profile("llava", _as_llava, 512),
    "plain": Profile("plain", _plain, 512),
}


def profile_of(name: str) -> Profile:
    """Raises ValueError for a name that is none of `PROFILES`."""
    for known, profile in PROFILES.items():
        if known == name:
            return profile
    raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {name!r}")
