"""The text tokenizer: control tokens by name, users' words never special, exact decoding."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from janus.config import PRESETS, PromptConfig
from janus.tokenizers.text import Special, TextTokenizer, train_bpe

PROMPT = PromptConfig()
TEXTS = [
    "How many red apples are left of the blue cup? There are 3 red apples, not 12.",
    "左边有几个红苹果？右边有三个杯子。User: what is it? Assistant: a cup.",
] * 20
CONTROL = [
    PROMPT.bos_token,
    PROMPT.eos_token,
    PROMPT.pad_token,
    PROMPT.image_token,
    PROMPT.begin_image_token,
    PROMPT.end_image_token,
    PROMPT.user,
    PROMPT.assistant,
]
GOLDEN = json.loads((Path(__file__).parent / "golden" / "prompts.json").read_text(encoding="utf-8"))
REAL = os.environ.get("JANUS_REAL_TOKENIZERS")
needs_real = pytest.mark.skipif(
    REAL is None, reason="JANUS_REAL_TOKENIZERS names no folder with janus-pro-1b/tokenizer.json ..."
)
any_text = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(CONTROL))).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bpe")
    train_bpe(TEXTS, 400, PROMPT, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    return TextTokenizer.from_folder(folder, PROMPT)


def edited(folder: Path, **changes: Any) -> str:
    """The trained `tokenizer.json` with other top-level entries."""
    return json.dumps(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) | changes)


def added(folder: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(edited(folder))["added_tokens"]
    return entries


def test_control_tokens_follow_the_learnt_vocabulary(tokenizer: TextTokenizer) -> None:
    ids = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id]
    ids += [tokenizer.begin_image_id, tokenizer.end_image_id, tokenizer.image_id]
    assert len(set(ids)) == 6
    assert tokenizer.special_ids == set(range(tokenizer.size - 8, tokenizer.size))
    assert tokenizer.size <= 400
    assert len(tokenizer.encode("apples")) < 6  # merges were learnt
    assert len(tokenizer.encode("苹果")) < 6


@pytest.mark.parametrize("text", CONTROL)
def test_control_strings_in_text_change_nothing_but_themselves(tokenizer: TextTokenizer, text: str) -> None:
    plain = tokenizer.encode("How many apples are left?")
    ids = tokenizer.encode(f"How many {text} are left?")
    before, after = tokenizer.encode("How many"), tokenizer.encode(" are left?")
    assert plain[: len(before)] == ids[: len(before)] == before
    assert plain[-len(after) :] == ids[-len(after) :] == after
    assert tokenizer.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == f"How many {text} are left?"


@given(any_text)
@settings(deadline=None)
def test_no_text_yields_a_special_id_and_all_text_comes_back(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == text


def test_a_learnt_word_that_is_a_role_stays_apart_from_the_role(tmp_path: Path) -> None:
    prompt = dataclasses.replace(PROMPT, user="User", assistant="Assistant")
    tokenizer = train_bpe(TEXTS, 500, prompt, tmp_path)
    vocab = json.loads(tokenizer.source)["model"]["vocab"]
    assert {"User", "ĠAssistant"} <= set(vocab)  # else this test shows nothing
    ids = tokenizer.encode("User Users Assistant")
    assert tokenizer.special_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == "User Users Assistant"
    assert tokenizer.encode_parts([Special("User")]) == [vocab["User"]]


def test_parts_are_encoded_as_one_run_between_specials(tokenizer: TextTokenizer) -> None:
    whole = tokenizer.encode("three red apples")
    assert tokenizer.encode_parts(["three re", "d app", "les"]) == whole
    assert tokenizer.encode("three re") + tokenizer.encode("d app") + tokenizer.encode("les") != whole
    image = Special(PROMPT.image_token)
    assert tokenizer.encode_parts([image, "three red", " apples", image, image]) == [
        tokenizer.image_id,
        *whole,
        tokenizer.image_id,
        tokenizer.image_id,
    ]


def test_unknown_special_and_broken_unicode_are_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ValueError, match="<nothing>"):
        tokenizer.encode_parts(["a", Special("<nothing>")])
    with pytest.raises(ValueError, match="surrogates"):
        tokenizer.encode("a\ud800b")


def test_template_text_is_cut_at_the_longest_control_string(tokenizer: TextTokenizer) -> None:
    parts = tokenizer.split_template("<|User|>: a<image_placeholder><end_of_image>\n")
    image, end = Special("<image_placeholder>"), Special("<end_of_image>")
    assert parts == [Special("<|User|>"), ": a", image, end, "\n"]


def test_missing_image_placeholder_gets_the_next_id_others_are_an_error(folder: Path) -> None:
    entries = added(folder)
    last = max(entry["id"] for entry in entries)
    rest = [entry for entry in entries if entry["content"] != PROMPT.image_token]
    assert TextTokenizer(edited(folder, added_tokens=rest), PROMPT).image_id == last + 1
    rest = [e for e in entries if e["content"] not in (PROMPT.pad_token, PROMPT.begin_image_token)]
    with pytest.raises(ValueError, match=r"<begin_of_image>.*pad"):
        TextTokenizer(edited(folder, added_tokens=rest), PROMPT)


def test_ordinary_added_tokens_keep_their_ids_and_their_text(folder: Path) -> None:
    entries = added(folder)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    last = max(entry["id"] for entry in entries)
    entries.append({"id": last + 1, "content": "ø", "normalized": True} | flags)
    tokenizer = TextTokenizer(edited(folder, added_tokens=entries), PROMPT)
    ids = tokenizer.encode("Smørrebrød<|User|>")
    assert ids.count(last + 1) == 2
    assert tokenizer.decode(ids) == "Smørrebrød<|User|>"
    assert tokenizer.size == last + 2


@given(st.lists(st.integers(0, 500)))
@settings(deadline=None)
def test_streamed_pieces_together_are_the_decoded_text(tokenizer: TextTokenizer, ids: list[int]) -> None:
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.finish()]) == tokenizer.decode(ids)


@given(any_text)
@settings(deadline=None)
def test_a_stream_never_shows_half_a_character(tokenizer: TextTokenizer, text: str) -> None:
    stream = tokenizer.stream()
    shown = ""
    for token in tokenizer.encode(text):
        shown += stream.push(token)
        assert text.startswith(shown)
    assert shown == text
    assert stream.finish() == ""


def test_a_stream_shows_what_is_certain_and_ends_a_broken_character(tokenizer: TextTokenizer) -> None:
    bytes_of_emoji = tokenizer.encode("😀")
    assert len(bytes_of_emoji) == 4
    stream = tokenizer.stream()
    assert [stream.push(token) for token in bytes_of_emoji] == ["", "", "", "😀"]
    assert stream.push(bytes_of_emoji[0]) == ""
    assert stream.push(tokenizer.eos_id) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_folder_errors_name_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing in .*tokenizer\.model"):
        TextTokenizer.from_folder(tmp_path, PROMPT)
    with pytest.raises(ValueError, match="no such folder"):
        TextTokenizer.from_folder(tmp_path / "none", PROMPT)
    with pytest.raises(ValueError, match="not JSON"):
        TextTokenizer("{", PROMPT)
    with pytest.raises(ValueError, match="'WordPiece'"):
        TextTokenizer(edited(folder, model={"type": "WordPiece", "vocab": {}}), PROMPT)


def test_the_folder_may_name_other_strings(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(edited(folder), encoding="utf-8")
    stated = {"eos_token": {"content": "<|User|>"}, "bos_token": None, "pad_token": "<|Assistant|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated), encoding="utf-8")
    tokenizer = TextTokenizer.from_folder(tmp_path, PROMPT)
    assert tokenizer.encode_parts([Special("<|User|>")]) == [tokenizer.eos_id]
    assert tokenizer.prompt.bos_token == PROMPT.bos_token
    assert tokenizer.prompt.pad_token == PROMPT.pad_token  # it exists, so guidance keeps it
    other = TextTokenizer.from_folder(tmp_path, dataclasses.replace(PROMPT, pad_token="<none>"))
    assert other.prompt.pad_token == "<|Assistant|>"


def test_training_is_repeatable_and_needs_room(folder: Path, tmp_path: Path) -> None:
    train_bpe(TEXTS, 400, PROMPT, tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    with pytest.raises(ValueError, match=r"vocab_size=263 .* 264"):
        train_bpe(TEXTS, 263, PROMPT, tmp_path)


def test_a_saved_folder_opens_in_transformers(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "How many apples, 12 or 3? 左边有\n\n三个  😀"
    assert theirs.encode(text) == [tokenizer.bos_id, *tokenizer.encode(text)]
    assert theirs.image_token == PROMPT.image_token
    assert (theirs.boi_token, theirs.eoi_token) == (PROMPT.begin_image_token, PROMPT.end_image_token)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)


@needs_real
@pytest.mark.parametrize("name", ["janus-1.3b", "janus-pro-1b", "janus-pro-7b"])
def test_published_tokenizers_give_the_official_ids(name: str) -> None:
    tokenizer = TextTokenizer.from_folder(Path(str(REAL)) / name, PRESETS[name].prompt)
    assert {key: getattr(tokenizer, key) for key in GOLDEN["special"][name]} == GOLDEN["special"][name]
    for entry in GOLDEN["text"]:
        assert tokenizer.encode(entry["text"]) == entry["ids"][name]
        assert tokenizer.decode(entry["ids"][name]) == entry["text"]
    for text in CONTROL:
        assert tokenizer.special_ids.isdisjoint(tokenizer.encode(f"What {text} is"))


@needs_real
@pytest.mark.parametrize("name", ["janus-1.3b", "janus-pro-1b", "janus-pro-7b"])
def test_published_tokenizers_agree_with_transformers_on_any_text(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = Path(str(REAL)) / name
    tokenizer = TextTokenizer.from_folder(folder, PRESETS[name].prompt)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))

    @given(st.text())
    @settings(deadline=None, max_examples=300)
    def check(text: str) -> None:
        assume(tokenizer.split_template(text) in ([], [text]))  # without control strings
        ids = tokenizer.encode(text)
        assert [tokenizer.bos_id, *ids] == theirs.encode(text)  # the beginning of sentence comes once
        assert tokenizer.decode(ids) == text

    check()
