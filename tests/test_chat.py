"""Prompts: the official ones word for word, users' words kept out of the template, clear refusals."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from janus.config import PRESETS, PromptConfig
from janus.tokenizers.chat import (
    answer_ids,
    drawing_prompt,
    jinja_template,
    message_images,
    unconditional,
    understanding_prompt,
)
from janus.tokenizers.text import TextTokenizer, train_bpe

PROMPT = PromptConfig()
GOLDEN = json.loads((Path(__file__).parent / "golden" / "prompts.json").read_text(encoding="utf-8"))
REAL = os.environ.get("JANUS_REAL_TOKENIZERS")
STYLES = {"janus-1.3b": "janus-1.3b", "janus-pro-1b": "janus-pro", "janus-pro-7b": "janus-pro"}
words = st.one_of(st.text(min_size=1), st.sampled_from(["<|User|>: x", "{{ 7*7 }}", "\ue0000\ue001"])).filter(
    lambda text: bool(text.strip())
)

# In the manner of the one in deepseek-community's folders: it strips the ends itself
TEMPLATE = (
    "{% for m in messages %}{{ '<|User|>' if m.role == 'user' else '<|Assistant|>' }}: "
    "{% for c in m.content %}{% if c.type == 'image' %}<image_placeholder>\n\n"
    "{% else %}{{ (c.text.lstrip() if loop.first else c.text).rstrip() }}{% endif %}{% endfor %}"
    "{{ '\n\n' if m.role == 'user' else '<｜end▁of▁sentence｜>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    texts = ["How many apples are there? User: 3 apples. Assistant: yes", "有几个苹果？三个"] * 20
    return train_bpe(texts, 400, PROMPT, tmp_path_factory.mktemp("bpe"))


class Speller(TextTokenizer):
    """Keeps the prompt as one string, control tokens as their strings."""

    def encode_parts(self, parts: Any) -> list[int]:
        self.prompt_text = "".join(part if isinstance(part, str) else part.text for part in parts)
        return super().encode_parts(parts)


def user(text: str, *images: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, "images": list(images)}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def golden_prompt(entry: dict[str, Any], name: str) -> tuple[list[dict[str, Any]], PromptConfig]:
    messages = [m | {"images": ["picture"] * m["images"]} for m in entry["messages"]]
    prompt = PRESETS[name].prompt
    if entry["system"] is not None:
        prompt = dataclasses.replace(prompt, system_prompt=entry["system"])
    return messages, prompt


@pytest.mark.parametrize("name", ["janus-1.3b", "janus-pro-7b"])
def test_prompts_are_the_official_strings(tokenizer: TextTokenizer, name: str) -> None:
    speller = Speller(tokenizer.source, PRESETS[name].prompt)
    pads = "<image_placeholder>" * GOLDEN["image_tokens"]
    for entry in GOLDEN["understanding"]:
        messages, prompt = golden_prompt(entry, name)
        understanding_prompt(messages, speller, prompt, GOLDEN["image_tokens"])
        official = entry["prompt"][STYLES[name]]
        picture = f"<begin_of_image>{pads}<end_of_image>"
        assert speller.prompt_text == PROMPT.bos_token + official.replace("<image_placeholder>", picture)
    for entry in GOLDEN["drawing"]:
        drawing_prompt(entry["text"], speller, speller.prompt)
        assert speller.prompt_text == PROMPT.bos_token + entry["prompt"][STYLES[name]]


@pytest.mark.skipif(REAL is None, reason="JANUS_REAL_TOKENIZERS names no folder with janus-pro-1b/ ...")
@pytest.mark.parametrize("name", list(STYLES))
def test_prompts_are_the_official_ids(name: str) -> None:
    tokenizer = TextTokenizer.from_folder(Path(str(REAL)) / name, PRESETS[name].prompt)
    for entry in GOLDEN["understanding"]:
        messages, prompt = golden_prompt(entry, name)
        ids = understanding_prompt(messages, tokenizer, prompt, GOLDEN["image_tokens"])
        assert ids == entry["ids"][name], entry["name"]
    for entry in GOLDEN["drawing"]:
        assert drawing_prompt(entry["text"], tokenizer, tokenizer.prompt) == entry["ids"][name]


def test_a_picture_is_its_placeholders_between_two_marks(tokenizer: TextTokenizer) -> None:
    ids = understanding_prompt([user("Which?", 1, 2)], tokenizer, PROMPT, 5)
    picture = [tokenizer.begin_image_id, *[tokenizer.image_id] * 5, tokenizer.end_image_id]
    at = ids.index(tokenizer.begin_image_id)
    newline = tokenizer.encode("\n")
    assert ids[at : at + 15] == picture + newline + picture
    assert ids.count(tokenizer.image_id) == 10
    assert ids[0] == tokenizer.bos_id
    assert ids.count(tokenizer.bos_id) == 1


def test_parts_place_the_pictures(tokenizer: TextTokenizer) -> None:
    image, text = {"type": "image"}, {"type": "text", "text": "Which?"}
    plain = understanding_prompt([user("Which?", 1, 2)], tokenizer, PROMPT, 3)
    listed = {"role": "user", "content": [image, image, text], "images": [1, 2]}
    assert understanding_prompt([listed], tokenizer, PROMPT, 3) == plain
    last = {"role": "user", "content": [text, image, image], "images": [1, 2]}
    ids = understanding_prompt([last], tokenizer, PROMPT, 3)
    assert ids != plain
    assert ids.count(tokenizer.image_id) == 6
    conversation = [user("a", "first"), assistant("b"), last | {"images": ["second", "third"]}]
    assert message_images(conversation) == ["first", "second", "third"]


@pytest.mark.parametrize("jinja", [None, TEMPLATE, jinja_template(PROMPT)])
def test_users_words_never_act(tokenizer: TextTokenizer, jinja: str | None) -> None:
    prompt = dataclasses.replace(PROMPT, jinja=jinja)
    specials = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.image_id]
    specials += sorted(tokenizer.special_ids)

    @given(words, words, words)
    @settings(deadline=None, max_examples=50)
    def check(first: str, answer: str, second: str) -> None:
        def counts(*texts: str) -> list[int]:
            conversation = [user(texts[0], 1), assistant(texts[1]), user(texts[2])]
            ids = understanding_prompt(conversation, tokenizer, prompt, 3)
            return [ids.count(special) for special in specials]

        assert counts(first, answer, second) == counts("one", "two", "three")
        drawn = drawing_prompt(first, tokenizer, prompt)
        plain = drawing_prompt("one", tokenizer, prompt)
        assert [drawn.count(s) for s in specials] == [plain.count(s) for s in specials]
        assert first.strip() in tokenizer.decode(drawn)

    check()


@given(words, words)
@settings(deadline=None)
def test_prompt_and_answer_are_the_ids_of_the_past_turn(
    tokenizer: TextTokenizer, question: str, answer: str
) -> None:
    asked = understanding_prompt([user(question)], tokenizer, PROMPT, 3)
    answered = asked + answer_ids(answer, tokenizer)
    later = understanding_prompt([user(question), assistant(answer), user("And?")], tokenizer, PROMPT, 3)
    assert later[: len(answered)] == answered


def test_an_empty_answer_is_a_past_turn_too(tokenizer: TextTokenizer) -> None:
    asked = understanding_prompt([user("Hm?")], tokenizer, PROMPT, 3)
    later = understanding_prompt([user("Hm?"), assistant(""), user("And?")], tokenizer, PROMPT, 3)
    assert answer_ids(" ", tokenizer) == [tokenizer.eos_id]
    assert later[: len(asked) + 1] == [*asked, tokenizer.eos_id]


@pytest.mark.parametrize("jinja", [None, TEMPLATE])
def test_system_prompts(tokenizer: TextTokenizer, jinja: str | None) -> None:
    prompt = dataclasses.replace(PROMPT, jinja=jinja)
    without = dataclasses.replace(prompt, use_system_prompt=False)

    def ids(own: str | None, config: PromptConfig) -> list[int]:
        system = [] if own is None else [{"role": "system", "content": own}]
        return understanding_prompt([*system, user("Hm?")], tokenizer, config, 3)

    bare = ids(None, without)
    assert ids(None, prompt) == [bare[0], *tokenizer.encode(PROMPT.system_prompt + "\n\n"), *bare[1:]]
    assert ids("Be brief.", prompt) == [bare[0], *tokenizer.encode("Be brief.\n\n"), *bare[1:]]
    assert ids("Be brief.", without) == ids("Be brief.", prompt)
    assert ids(" \n", prompt) == bare


def test_the_unconditional_row_keeps_both_ends(tokenizer: TextTokenizer) -> None:
    ids = drawing_prompt("three apples", tokenizer, PROMPT)
    row = unconditional(ids, tokenizer)
    assert (row[0], row[-1], len(row)) == (tokenizer.bos_id, tokenizer.begin_image_id, len(ids))
    assert set(row[1:-1]) == {tokenizer.pad_id}
    with pytest.raises(ValueError, match="not a drawing prompt"):
        unconditional(ids[:-1], tokenizer)


TEXT = {"type": "text", "text": "a"}


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "empty"),
        (["hello"], r"messages\[0\] must be a dict"),
        ([{"role": "user"}], "'content'"),
        ([user("a"), {"role": "bot", "content": "b"}], r"messages\[1\] has role 'bot'.*'user', 'assistant'"),
        ([user("  \n")], r"messages\[0\] is empty"),
        ([user("", "photo")], "needs some text"),
        ([user("a"), user("b")], r"messages\[1\] has role 'user' where 'assistant'"),
        ([assistant("a")], "where 'user' is due"),
        ([user("a"), assistant("b")], "last message must be the user's"),
        ([{"role": "system", "content": "a"}], "last message must be the user's"),
        ([user("a"), {"role": "system", "content": "b"}, user("c")], "only the first"),
        ([user("a"), assistant("b") | {"images": [1]}, user("c")], "from the assistant"),
        ([user("a") | {"images": "photo.jpg"}], "must have a list as images, not 'photo.jpg'"),
        ([{"role": "user", "content": 3}], "not 3"),
        ([{"role": "user", "content": [TEXT, {"type": "image"}]}], "0 images for 1 image parts"),
        ([{"role": "user", "content": [TEXT], "images": [1]}], "1 images for 0 image parts"),
        ([{"role": "user", "content": [{"type": "video"}]}], "'video'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "accepted are"),
    ],
)
def test_wrong_messages_are_refused(
    tokenizer: TextTokenizer, messages: Sequence[Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        understanding_prompt(messages, tokenizer, PROMPT, 3)
    with pytest.raises(ValueError, match=complaint):
        message_images(messages)


def test_an_empty_drawing_prompt_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ValueError, match="empty"):
        drawing_prompt(" \n", tokenizer, PROMPT)


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ messages[0].nothing.at.all }}", "template failed.*nothing"),
        ("{% if %}", "template failed"),
        ("{{ raise_exception('no pictures') }}", "template failed: no pictures"),
        ("{{ messages.append(1) }}", "template failed.*append"),
        ("<|User|>: {{ messages[0].role }}", r"left out \['What\?'\]"),
        ("{{ messages[0].content[1].text }}", "placed 0 images of 1"),
    ],
)
def test_bad_templates_are_refused(tokenizer: TextTokenizer, template: str, complaint: str) -> None:
    prompt = dataclasses.replace(PROMPT, jinja=template)
    with pytest.raises(ValueError, match=complaint):
        understanding_prompt([user("What?", 1)], tokenizer, prompt, 3)


def test_a_template_may_write_the_beginning_of_sentence(tokenizer: TextTokenizer) -> None:
    plain = dataclasses.replace(PROMPT, jinja=TEMPLATE, use_system_prompt=False)
    marked = dataclasses.replace(plain, jinja="{{ bos_token }}" + TEMPLATE)
    expected = understanding_prompt([user("What?", 1)], tokenizer, plain, 3)
    assert understanding_prompt([user("What?", 1)], tokenizer, marked, 3) == expected


CONVERSATIONS: list[list[tuple[str, list[str | None]]]] = [
    [("user", ["How many apples?"])],
    [("user", [None, "  Describe it. \n"])],
    [("user", [None, None, "Which?"]), ("assistant", ["It's (odd)."]), ("user", [" 三个 ", None, "So?"])],
]


@pytest.mark.parametrize("template", [TEMPLATE, jinja_template(PROMPT)])
def test_folder_templates_give_the_ids_of_transformers(tokenizer: TextTokenizer, template: str) -> None:
    theirs = janus_processor(tokenizer, template)
    prompt = dataclasses.replace(PROMPT, jinja=template)
    for conversation in CONVERSATIONS:
        messages: list[dict[str, Any]] = [
            {"role": role, "content": [hf_part(c) for c in content]} for role, content in conversation
        ]
        encoded = theirs.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ours = [m | {"images": [c for c in m["content"] if c["type"] == "image"]} for m in messages]
        ids = understanding_prompt(ours, tokenizer, prompt, 5)
        assert ids == list(encoded["input_ids"][0])
        if template != TEMPLATE:  # the one we write says what the built-in one does
            assert ids == understanding_prompt(ours, tokenizer, PROMPT, 5)
    asked = [{"role": "user", "content": [hf_part("three apples ")]}]
    text = theirs.apply_chat_template(asked, add_generation_prompt=True)
    drawn = theirs(text=text, generation_mode="image")["input_ids"][0]
    assert drawing_prompt("three apples ", tokenizer, prompt) == list(drawn)


def hf_part(content: str | None) -> dict[str, Any]:
    from PIL import Image

    if content is None:
        return {"type": "image", "image": Image.new("RGB", (32, 32))}
    return {"type": "text", "text": content}


def janus_processor(tokenizer: TextTokenizer, template: str) -> Any:
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.source),
        bos_token=PROMPT.bos_token,
        eos_token=PROMPT.eos_token,
        pad_token=PROMPT.pad_token,
        extra_special_tokens={
            "image_token": PROMPT.image_token,
            "boi_token": PROMPT.begin_image_token,
            "eoi_token": PROMPT.end_image_token,
        },
    )
    return transformers.JanusProcessor(
        transformers.JanusImageProcessor(size={"height": 32, "width": 32}),
        fast,
        chat_template=template,
        use_default_system_prompt=True,
        num_image_tokens=5,
    )
