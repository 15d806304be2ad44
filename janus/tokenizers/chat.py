"""Messages to prompts: the chat template of a checkpoint around the users' words.

A message is `{"role": "user" | "assistant" | "system", "content": ..., "images": [...]}`.  Content is a
string, before which the message's images are placed, or a list of parts that says where they go:
`{"type": "text", "text": ...}` and `{"type": "image"}`.  Users' words are always plain text: an
`<image_placeholder>` written in them is these nineteen characters, never a picture.

The built-in template is that of the official code (`janus/utils/conversation.py`, style DeepSeek); a
folder's own one (`PromptConfig.jinja`) is rendered as transformers does it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from janus.config import PromptConfig
from janus.tokenizers.text import Part, Special, TextTokenizer

ROLES = ("user", "assistant", "system")
Message = Mapping[str, Any]

# What stands for users' words while a folder's template is rendered: private-use characters
_HELD = re.compile("\ue000([0-9]+)\ue001")


@dataclass(frozen=True)
class _Turn:
    """One checked message: its texts in order, `None` in the place of a picture, and the pictures."""

    role: str
    content: list[str | None]
    images: list[Any]


def understanding_prompt(
    messages: Sequence[Message], tokenizer: TextTokenizer, prompt: PromptConfig, image_tokens: int
) -> list[int]:
    """Ids of a conversation up to where the answer begins.

    Each picture becomes begin-of-image, `image_tokens` image placeholders, end-of-image.  A system
    message replaces the checkpoint's system prompt; an empty one removes it.  Turns alternate and the
    last is the user's.  Raises ValueError saying which message is wrong and what would be right.
    """
    system, turns = _checked(messages)
    if system is None:
        system = prompt.system_prompt if prompt.use_system_prompt else ""
    head = f"{system.lstrip()}\n\n" if system.strip() else ""
    parts = [head, *_conversation(turns, tokenizer, prompt)]
    image = Special(prompt.image_token)
    wanted = sum(len(turn.images) for turn in turns)
    if parts.count(image) != wanted:
        raise ValueError(f"the chat template placed {parts.count(image)} images of {wanted}")
    picture = [Special(prompt.begin_image_token), *[image] * image_tokens, Special(prompt.end_image_token)]
    expanded = [p for part in parts for p in (picture if part == image else [part])]
    return _with_bos(expanded, tokenizer, prompt)


def drawing_prompt(text: str, tokenizer: TextTokenizer, prompt: PromptConfig) -> list[int]:
    """Ids of a text-to-image prompt, up to begin-of-image: one user turn, no system prompt.

    Raises ValueError for an empty prompt.
    """
    _, turns = _checked([{"role": "user", "content": text}])
    parts = [*_conversation(turns, tokenizer, prompt), Special(prompt.begin_image_token)]
    return _with_bos(parts, tokenizer, prompt)


def unconditional(ids: Sequence[int], tokenizer: TextTokenizer) -> list[int]:
    """The row of guidance without a prompt: all between the first and the last token becomes padding
    (official `generation_inference.py`).  `ids` come from `drawing_prompt`."""
    if len(ids) < 2 or ids[0] != tokenizer.bos_id or ids[-1] != tokenizer.begin_image_id:
        raise ValueError("not a drawing prompt: it must run from beginning-of-sentence to begin-of-image")
    return [ids[0], *[tokenizer.pad_id] * (len(ids) - 2), ids[-1]]


def answer_ids(text: str, tokenizer: TextTokenizer) -> list[int]:
    """What a model should say after `understanding_prompt`: the answer, then end-of-sentence.

    Prompt and answer together are the ids of the same conversation with the answer as a past turn.
    """
    text = text.strip()
    return [*tokenizer.encode(f" {text}" if text else ""), tokenizer.eos_id]


def jinja_template(prompt: PromptConfig) -> str:
    """The built-in template as a `chat_template` for transformers' processor, which takes content as a
    list of parts.  transformers writes the default system prompt itself."""
    names = (prompt.user, prompt.assistant, prompt.image_token, prompt.eos_token)
    user, assistant, image, eos = (json.dumps(name, ensure_ascii=False) for name in names)
    return (
        "{% for message in messages %}"
        "{% set role = message['role'] %}"
        "{% if role != 'system' %}"
        f"{{{{ {user} if role == 'user' else {assistant} }}}}:{{{{ ' ' }}}}"
        "{% endif %}"
        "{% for part in message['content'] %}"
        f"{{% set text = {image} if part['type'] == 'image' else part['text'] %}}"
        "{% set text = text.lstrip() if loop.first else '\\n' + text %}"
        "{{ text.rstrip() if loop.last else text }}"
        "{% endfor %}"
        f"{{{{ {eos} if role == 'assistant' else '\\n\\n' }}}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {assistant} }}}}:{{% endif %}}"
    )


def message_images(messages: Sequence[Message]) -> list[Any]:
    """All pictures of a conversation in the order of their places in `understanding_prompt`."""
    return [image for turn in _checked(messages)[1] for image in turn.images]


def _checked(messages: Sequence[Message]) -> tuple[str | None, list[_Turn]]:
    """The system message, if there is one, and the turns.  Raises ValueError for anything amiss."""
    if not messages:
        raise ValueError("messages is empty; it needs at least one user message")
    system: str | None = None
    turns: list[_Turn] = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise ValueError(f"messages[{i}] must be a dict with 'role' and 'content', not {message!r}")
        role = message["role"]
        if role not in ROLES:
            raise ValueError(f"messages[{i}] has role {role!r}; accepted are {list(ROLES)}")
        turn = _turn(message, f"messages[{i}]")
        if role == "system":
            if i > 0:
                raise ValueError(f"messages[{i}] is a system message; only the first message can be one")
            system = "\n".join(text for text in turn.content if text is not None)
            continue
        expected = "assistant" if len(turns) % 2 else "user"
        if role != expected:
            raise ValueError(
                f"messages[{i}] has role {role!r} where {expected!r} is due: user and assistant alternate, "
                "beginning with the user"
            )
        turns.append(turn)
    if not turns or turns[-1].role != "user":
        raise ValueError("the last message must be the user's, the one to answer")
    return system, turns


def _turn(message: Message, where: str) -> _Turn:
    """The parts of one message: blank texts dropped, the outer edges stripped as the official code does."""
    role, content = message["role"], message["content"]
    images = message.get("images") or []
    if not isinstance(images, list | tuple):
        raise ValueError(f"{where} must have a list as images, not {images!r}")
    if isinstance(content, str):
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": content}]
    if not isinstance(content, Sequence):
        raise ValueError(f"{where} must have a string or a list of parts as content, not {content!r}")
    parts = [_part(item, where) for item in content]
    places = parts.count(None)
    if places != len(images):
        raise ValueError(f"{where} has {len(images)} images for {places} image parts")
    if images and role != "user":
        raise ValueError(f"{where} is from the {role} and has images; only user messages can have them")
    parts = [part for part in parts if part is None or part.strip()]
    if role == "user" and not any(parts):
        raise ValueError(f"{where} is empty: the user's message needs some text")
    if parts and parts[0] is not None:
        parts[0] = parts[0].lstrip()
    if parts and parts[-1] is not None:
        parts[-1] = parts[-1].rstrip()
    return _Turn(role, parts, list(images))


def _part(item: Any, where: str) -> str | None:
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind == "image":
        return None
    if kind == "text" and isinstance(item.get("text"), str):
        text: str = item["text"]
        return text
    raise ValueError(
        f"{where} has the part {item!r}; accepted are {{'type': 'text', 'text': str}} and {{'type': 'image'}}"
    )


def _conversation(turns: list[_Turn], tokenizer: TextTokenizer, prompt: PromptConfig) -> list[Part]:
    if prompt.jinja is None:
        return _official(turns, tokenizer, prompt)
    return _rendered(prompt.jinja, turns, tokenizer, prompt)


def _official(turns: list[_Turn], tokenizer: TextTokenizer, prompt: PromptConfig) -> list[Part]:
    """`role: content`, a blank line after a user's turn, end-of-sentence after the assistant's."""
    parts: list[Part] = []
    for turn in turns:
        role = prompt.user if turn.role == "user" else prompt.assistant
        parts += tokenizer.split_template(f"{role}: " if turn.content else f"{role}:")
        for i, text in enumerate(turn.content):
            parts += ["\n"] if i else []
            parts.append(Special(prompt.image_token) if text is None else text)
        parts.append("\n\n" if turn.role == "user" else Special(prompt.eos_token))
    return parts + tokenizer.split_template(f"{prompt.assistant}:")


def _rendered(
    template: str, turns: list[_Turn], tokenizer: TextTokenizer, prompt: PromptConfig
) -> list[Part]:
    """A folder's own template.  It is trusted to place control tokens, the users' words are not, so it
    is given place holders; white space at the ends of a text stays outside for it to strip."""
    held: list[str] = []

    def hold(text: str) -> str:
        core = text.strip()
        if not core:
            return text
        held.append(core)
        return text.replace(core, f"\ue000{len(held) - 1}\ue001")

    conversation = [
        {
            "role": turn.role,
            "content": [
                {"type": "image"} if text is None else {"type": "text", "text": hold(text)}
                for text in turn.content or [""]
            ],
        }
        for turn in turns
    ]
    names = ("bos_token", "eos_token", "pad_token", "image_token")
    try:
        rendered = (
            _environment()
            .from_string(template)
            .render(
                messages=conversation,
                add_generation_prompt=True,
                raise_exception=_refuse,
                **{name: getattr(prompt, name) for name in names},
            )
        )
    except (TemplateError, TypeError) as error:
        raise ValueError(f"the checkpoint's chat template failed: {error}") from error
    pieces = _HELD.split(rendered)  # template, number, template, number, ..., template
    lost = set(range(len(held))) - {int(number) for number in pieces[1::2]}
    if lost:
        raise ValueError(f"the checkpoint's chat template left out {[held[i] for i in sorted(lost)]}")
    parts: list[Part] = []
    for i, piece in enumerate(pieces):
        parts += [held[int(piece)]] if i % 2 else tokenizer.split_template(piece)
    return parts


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment


def _refuse(message: str) -> NoReturn:
    """What templates call to reject a conversation."""
    raise TemplateError(message)


def _with_bos(parts: list[Part], tokenizer: TextTokenizer, prompt: PromptConfig) -> list[int]:
    """One beginning-of-sentence token at the very start, whether or not the template wrote it."""
    bos = Special(prompt.bos_token)
    parts = [part for part in parts if part != ""]
    return tokenizer.encode_parts(parts if parts[:1] == [bos] else [bos, *parts])
