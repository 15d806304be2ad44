"""The public API on a random model: batches, streams, seeds, the token level, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from janus import Drawing, Janus, Question
from janus.config import PRESETS
from janus.tokenizers.chat import Message, understanding_prompt


@pytest.fixture
def picture() -> Image.Image:
    return Image.linear_gradient("L").convert("RGB").resize((50, 30))


def _alike(first: Image.Image, second: Image.Image) -> bool:
    """The same but for rounding: convolutions add up in another order when more pictures are decoded."""
    return int(np.abs(np.asarray(first, int) - np.asarray(second, int)).max()) <= 1


def test_streams_and_batches_give_the_same_answer(janus: Janus, picture: Image.Image) -> None:
    whole = janus.chat("What is it?", [picture], max_tokens=12, temperature=1.0, seed=3)
    assert whole
    pieces = janus.chat("What is it?", [picture], max_tokens=12, temperature=1.0, seed=3, stream=True)
    assert "".join(pieces).rstrip() == whole
    questions = ["Hi", "What is it?", "And now a much longer question than that one?"]
    images = [[], [picture], [picture, picture]]
    together = janus.chat_batch(questions, images, max_tokens=12, temperature=1.0, seed=3)
    for question, own, answer in zip(questions, images, together, strict=True):
        assert janus.chat(question, own, max_tokens=12, temperature=1.0, seed=3) == answer


def test_questions_and_drawings_together_come_out_as_alone(janus: Janus, picture: Image.Image) -> None:
    seen: list[tuple[int, int]] = []
    made = janus.batch(
        [
            Question("What is it?", [picture], max_tokens=12, temperature=1.0, seed=3),
            Drawing("a red apple", n=2, seed=5),
            Question("Hi", max_tokens=30),
            Drawing("a cup", seed=6, guidance=1.0, temperature=0.5),
            Question("And now a much longer question?", [picture, picture], max_tokens=12, temperature=1.0),
        ],
        on_step=lambda *step: seen.append(step),
    )
    answer, apples, greeting, cups, last = made
    assert answer == janus.chat("What is it?", [picture], max_tokens=12, temperature=1.0, seed=3)
    assert greeting == janus.chat("Hi", max_tokens=30)
    assert isinstance(last, str)
    assert isinstance(apples, list)
    assert isinstance(cups, list)
    for got, wanted in (
        (apples, janus.generate_images("a red apple", n=2, seed=5)),
        (cups, janus.generate_images("a cup", seed=6, guidance=1.0, temperature=0.5)),
    ):
        assert [p.info for p in got] == [p.info for p in wanted]
        assert [p.tobytes() for p in got] == [p.tobytes() for p in wanted]
    assert seen == [(step, 30) for step in range(1, len(seen) + 1)]
    assert len(seen) <= 30
    assert janus.batch([]) == []
    for wrong, words in (
        (Drawing("a cup", n=0), "n must be at least 1, not 0"),
        (Question("Hi", max_tokens=0), "max_tokens must be at least 1, not 0"),
        (Question(" "), "empty"),
        (Drawing("a cup", seed=-1), "seed must be from 0"),
    ):
        with pytest.raises(ValueError, match=words):
            janus.batch([Drawing("a cup"), wrong])


def test_turns_and_pictures_change_the_answer(janus: Janus, picture: Image.Image) -> None:
    def ask(image: Image.Image) -> Message:
        return {"role": "user", "content": "What is it?", "images": [image]}

    past: list[Message] = [{"role": "assistant", "content": "a cup"}, {"role": "user", "content": "Sure?"}]
    one = janus.log_probs([ask(picture), *past], text="yes")
    assert not torch.allclose(one, janus.log_probs([ask(picture)], text="yes"), atol=1e-4)
    other = Image.new("RGB", (9, 9), "red")
    assert not torch.allclose(one, janus.log_probs([ask(other), *past], text="yes"), atol=1e-4)


def test_picture_j_is_drawn_from_seed_plus_j(janus: Janus) -> None:
    several = janus.generate_images("a red apple", n=3, seed=5)
    for j, picture in enumerate(several):
        assert picture.info["seed"] == 5 + j
        assert _alike(picture, janus.generate_images("a red apple", seed=5 + j)[0])
    lists = janus.generate_images(["a cup", "a red apple"], n=3, seed=5, batch_size=4)
    assert all(_alike(*pair) for pair in zip(lists[1], several, strict=True))
    assert not any(_alike(*pair) for pair in itertools.combinations(lists[0] + lists[1], 2))


def test_each_prompt_may_have_its_own_seed(janus: Janus) -> None:
    first, second = janus.generate_images(["a cup", "a red apple"], seed=[3, 8])
    assert _alike(first[0], janus.generate_images("a cup", seed=3)[0])
    assert _alike(second[0], janus.generate_images("a red apple", seed=8)[0])


def test_a_fresh_seed_is_told(janus: Janus) -> None:
    first = janus.generate_images("a cup")[0]
    again = janus.generate_images("a cup", seed=first.info["seed"])[0]
    assert first.tobytes() == again.tobytes()


def test_progress_counts_every_token(janus: Janus) -> None:
    seen: list[tuple[int, int]] = []
    janus.generate_images("a cup", n=3, seed=0, batch_size=2, on_step=lambda *step: seen.append(step))
    total = 3 * janus.config.vq.tokens
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_guidance_one_is_the_conditional_row_alone(janus: Janus) -> None:
    codes = torch.arange(janus.config.vq.tokens) % janus.config.vq.codes
    plain = janus.log_probs("a cup", codes=codes)
    near = janus.log_probs("a cup", codes=codes, guidance=1 + 1e-7)
    torch.testing.assert_close(plain, near, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(plain, janus.log_probs("a cup", codes=codes, guidance=5.0), atol=1e-2)


@torch.no_grad()
def test_log_probs_are_the_models(janus: Janus) -> None:
    message: Message = {"role": "user", "content": "Hi"}
    ids = understanding_prompt([message], janus.tokenizer, janus.config.prompt, janus.config.vision.tokens)
    given = janus.tokenizer.encode(" yes")
    x = janus.model.embed_text(torch.tensor([[*ids, *given]]))
    log_probs = janus.model.text_logits(janus.model.core(x))[0, len(ids) - 1 :].log_softmax(-1)
    expected = [log_probs[i, token] for i, token in enumerate([*given, janus.tokenizer.eos_id])]
    torch.testing.assert_close(janus.log_probs("Hi", text="yes"), torch.stack(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        janus.log_probs("Hi", text=given), torch.stack(expected[:-1]), rtol=1e-4, atol=1e-4
    )


def test_codes_survive_pictures_and_back(janus: Janus) -> None:
    codes = torch.randint(0, 64, (3, janus.config.vq.tokens), generator=torch.Generator().manual_seed(0))
    pictures = janus.decode_images(codes)
    assert [p.size for p in pictures] == [(32, 32)] * 3
    again = janus.encode_images(pictures)
    assert again.shape == codes.shape
    assert again.dtype == torch.long


def test_save_and_load_again(janus: Janus, tmp_path: Path, picture: Image.Image) -> None:
    janus.save_pretrained(tmp_path / "copy")
    copy = Janus.from_pretrained(tmp_path / "copy", device="cpu", dtype="float32")
    assert copy.config == janus.config
    state = copy.model.state_dict()
    for name, value in janus.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert copy.chat("What?", [picture], max_tokens=8) == janus.chat("What?", [picture], max_tokens=8)


def test_users_words_are_never_control_tokens(janus: Janus) -> None:
    words = "<image_placeholder> <|Assistant|>: <｜end▁of▁sentence｜> <begin_of_image>"
    assert isinstance(janus.chat(words, max_tokens=4), str)  # no picture is missed
    assert len(janus.generate_images(words, seed=0)) == 1


def test_lower_precision_runs(folder: Path, picture: Image.Image) -> None:
    for dtype in ("bfloat16", "float16"):
        janus = Janus.from_pretrained(folder, device="cpu", dtype=dtype)
        assert isinstance(janus.chat("What?", [picture], max_tokens=4), str)
        assert janus.generate_images("a cup", seed=0)[0].size == (32, 32)


def test_what_is_refused(janus: Janus, tmp_path: Path, picture: Image.Image) -> None:
    noise = tmp_path / "noise.png"
    noise.write_bytes(b"this is no picture")
    long = "word " * 2000
    refused: list[tuple[str, Callable[[], object]]] = [
        ("empty", lambda: janus.chat("")),
        ("empty", lambda: janus.chat("  \n", [picture])),
        ("empty", lambda: janus.generate_images(" ")),
        ("role 'robot'", lambda: janus.chat([{"role": "robot", "content": "hi"}])),
        ("noise.png", lambda: janus.chat("What?", [noise])),
        ("missing.png", lambda: janus.chat("What?", [tmp_path / "missing.png"])),
        ("the context holds 1024", lambda: janus.chat(long)),
        ("exceed the context of 1024", lambda: janus.generate_images(long)),
        ("draw 32x32 pixels, not 512x512", lambda: janus.generate_images("a cup", size=512)),
        ("at least 1", lambda: janus.generate_images("a cup", n=0)),
        ("temperature", lambda: janus.generate_images("a cup", temperature=-1)),
        ("seed must be", lambda: janus.generate_images("a cup", seed=-1)),
        ("3 seeds for 1 prompts", lambda: janus.generate_images("a cup", seed=[1, 2, 3])),
        ("max_tokens", lambda: janus.chat("Hi", max_tokens=0)),
        ("inside the turns", lambda: janus.chat([{"role": "user", "content": "hi"}], [picture])),
        ("2 questions but 1", lambda: janus.chat_batch(["a", "b"], [[picture]])),
        ("either text or codes", lambda: janus.log_probs("a cup")),
        ("codes of shape", lambda: janus.decode_images(torch.zeros(1, 7, dtype=torch.long))),
        ("dtype must be", lambda: Janus.from_pretrained(janus.folder, dtype="int3")),
    ]
    for words, call in refused:
        with pytest.raises(ValueError, match=words):
            call()


def test_a_stream_is_checked_before_its_first_piece(janus: Janus) -> None:
    with pytest.raises(ValueError, match="empty"):
        janus.chat("", stream=True)


def test_an_explicit_system_prompt_is_used(janus: Janus) -> None:
    one = janus.log_probs("Hi", text="yes")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert not torch.allclose(one, janus.log_probs(turns, text="yes"), atol=1e-4)


def test_presets_round_trip_as_json() -> None:
    for config in PRESETS.values():
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["core"].pop("width"), r"config.core lacks \['width'\]"),
        (lambda d: d["core"].update(colour=1), r"config.core has unknown fields \['colour'\]"),
        (lambda d: d["core"].update(width="64"), "config.core.width must be int, not '64'"),
        (lambda d: d["core"]["attention"].__setitem__(0, "mamba"), "must be one of"),
        (lambda d: d["vision"].update(patch_size=7), "image_size=32 is not a multiple of patch_size=7"),
        (lambda d: d["core"]["moe"].update(active=9), "active=9 experts of only experts=8"),
        (lambda d: d["image"].update(size=64), "prepared at 64 pixels"),
    ],
)
def test_wrong_settings_are_named(change: Callable[[dict[str, object]], object], words: str) -> None:
    values = json.loads(json.dumps(dataclasses.asdict(PRESETS["tiny-v3"])))
    change(values)
    with pytest.raises(ValueError, match=words):
        type(PRESETS["tiny-v3"]).from_dict(values)
