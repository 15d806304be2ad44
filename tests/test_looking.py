"""Where words of a conversation about a scene should look, and the loss that tells the core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from janus.config import PRESETS
from janus.core.attention import Visibility
from janus.core.mla import LatentAttention
from janus.core.rope import rotary
from janus.core.transformer import Layer
from janus.data.pointing import pointers
from janus.data.records import Carried, Pointer, Record
from janus.data.scenes import Background, Scene, Thing
from janus.model import JanusModel
from janus.tokenizers.chat import Message
from janus.tokenizers.text import TextTokenizer, train_bpe
from janus.train.looking import located
from janus.train.packing import Sample, collate
from janus.train.parallel import Parallel, Trained
from janus.train.stream import Writer

TINY = PRESETS["tiny-v3"]
DOG, CAR, RED_CAR = (
    Thing("dog", None, 0, (0, 0, 9, 9)),
    Thing("car", "blue", 0, (0, 0, 9, 9)),
    Thing("car", "red", 0, (0, 0, 9, 9)),
)
SCENE = Scene((DOG, CAR, RED_CAR), Background(((0, 0, 0),)), None)
PATCHES = [DOG, CAR, None, RED_CAR]


@pytest.fixture
def words(tmp_path: Path) -> TextTokenizer:
    texts = ["What is this? A. dog B. cat C. teddy bear D. red Where are the cars? 猫"] * 9
    return train_bpe(texts, 400, TINY.prompt, tmp_path)


def talk(*turns: str) -> list[Message]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]


def looks(*turns: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """Pointers of a conversation about the scene: level, what is said or has been said, what it looks at."""
    found, _ = pointers(SCENE, talk(*turns), PATCHES)
    told: list[tuple[str, str, tuple[int, ...]]] = []
    for one in found:
        text, end = turns[one.message], one.at + one.characters
        told.append((one.level, text[one.at : end] if one.message % 2 else text[: one.at], one.patches))
    return told


def test_names_look_at_the_patches_of_their_things() -> None:
    assert looks("Is the dog left of a red car?") == [
        ("first", "Is the dog", (0,)),
        ("first", "Is the dog left of a red car", (3,)),
    ]
    assert looks("Is there a cat?") == [("first", "Is there a cat", ())]
    assert looks("Is the dog red?") == [("first", "Is the dog", (0,))]
    assert looks("Are there green cars?") == [("first", "Are there green cars", (1, 3))]  # of other colours
    assert looks("Is it orange?") == []
    assert looks("有红色的汽车吗？") == [("first", "有红色的汽车", (3,))]


def test_answers_look_at_what_they_are_about_to_name() -> None:
    assert looks("What is there?", "a dog and two cars.") == [
        ("third", "a dog", (0,)),
        ("first", " ", (0,)),  # the name of the dog has ended before it
        ("third", " and two cars", (1, 3)),
        ("first", ".", (1, 3)),
    ]
    assert looks("What is left of the dog?", "a red car")[1:] == [
        ("third", "a red car", (3,)),
        ("first", "", (3,)),
        ("first", "a red car", (0,)),
    ]
    assert looks("Where?", "on the left") == []


def test_answers_look_at_what_the_question_is_about() -> None:
    for question, patches in (("How many cars are there?", (1, 3)), ("Is there a cat?", ())):
        assert looks(question, "none")[1:] == [("first", "none", patches)]


def test_places_look_at_both_things() -> None:
    asked = "Where is the dog, seen from the red car?"
    assert looks(asked, "above")[2:] == [("first", "above", (0,)), ("second", "above", (3,))]
    assert looks("Where is the dog?", "on the left")[1:] == [
        ("first", "on the left", (0,)),
        ("second", "on the left", (1, 3)),
    ]
    asked = "狗在红色的汽车的上面吗？"
    assert looks(asked, "在")[3:] == [("first", "在", (0,)), ("second", "在", (3,))]
    claimed = Pointer("third", 1, 0, words=((0, asked.index("吗")),))
    assert pointers(SCENE, talk(asked, "在"), PATCHES)[0][2] == claimed
    described = looks("Caption this.", "a dog left of a red car")
    assert described[-2:] == [("first", "left", (0,)), ("second", "left", (3,))]
    assert not any(level == "second" for level, *_ in looks("What is it?", "a dog and no laptop but cars"))
    options = "Where is the dog?\nA. above the red car\nB. below the red car"
    found, _ = pointers(SCENE, talk(options, "B"), PATCHES)
    assert found[-3:] == (
        Pointer("third", 1, 0, words=((0, len(options)),)),
        Pointer("first", 1, 0, patches=(0,)),
        Pointer("second", 1, 0, patches=(3,)),
    )


def test_names_and_places_carry_where_the_thing_is() -> None:
    corner = [DOG if divmod(patch, 4)[0] < 2 > divmod(patch, 4)[1] else None for patch in range(16)]
    carried = pointers(SCENE, talk("Where is the dog?", "on the left", "And the cat?", "no"), corner)[1]
    assert [(one.message, one.at, one.word, one.level, one.characters) for one in carried] == [
        (0, len("Where is the dog"), "top", "second", 1),
        (0, len("Where is the dog"), "left", "second", 1),
        (1, 0, "top", "second", len("on the left")),
        (1, 0, "left", "second", len("on the left")),
    ]
    middle = [DOG if patch in (5, 9) else None for patch in range(16)]  # of the second column
    for question in ("What is it? A dog", "How many dogs are there?"):
        assert [one.word for one in pointers(SCENE, talk(question, "one"), middle)[1]] == ["left"]
    assert not pointers(SCENE, talk("Are there cars?", "yes"), PATCHES)[1]  # two of them


def test_letters_look_at_their_options() -> None:
    asked = "What is it?\nA. teddy bear\nB. dog\nAnswer."
    ends = {"A": asked.index("bear") + 4, "B": asked.index("dog") + 3}
    found, carried = pointers(SCENE, talk(asked, "B"), PATCHES)
    assert found[-2:] == (
        Pointer("third", 1, 0, words=((0, ends["B"]),)),
        Pointer("first", 1, 0, patches=(0,)),
    )
    assert carried == tuple(Carried(0, end, letter) for letter, end in ends.items())
    found, _ = pointers(SCENE, talk("Which colour is the dog?\nA. red\nB. blue", "A"), PATCHES)
    assert found[-1] == Pointer("first", 1, 0, patches=(0,))
    found, _ = pointers(SCENE, talk(f"{asked}\ndog?", "B", "teddy bear?", "A"))
    assert found == (
        Pointer("first", 0, len(asked) + 4, words=((0, ends["B"]),)),
        Pointer("third", 1, 0, words=((0, ends["B"]),)),
        Pointer("first", 1, 0, words=((0, len(asked) + 4),)),
        Pointer("first", 2, len("teddy bear"), words=((0, ends["A"]),)),
        Pointer("third", 3, 0, words=((0, ends["A"]),)),
        Pointer("first", 3, 0, words=((2, len("teddy bear")),)),
    )


@pytest.mark.parametrize("apart", [False, True])
def test_pointers_are_found_among_the_tokens(words: TextTokenizer, apart: bool) -> None:
    asked = "What is 猫 this?\nA. dog\nB. teddy bear"
    messages = talk(asked, "B", "Where are the cars?", "猫 cars")
    image = np.zeros((2, 2, 3), np.uint8)
    messages[0] = {**messages[0], "images": [image]}
    record = Record(
        "one",
        "understanding",
        messages=tuple(messages),
        images=(image,),  # type: ignore[arg-type]  # not read here
        apart=apart,
        pointers=(
            Pointer("first", 0, asked.index(" this"), patches=(0, 2)),
            Pointer("third", 1, 0, words=((0, len(asked)),)),
            Pointer("first", 2, len("Where are the cars")),
            Pointer("second", 3, 0, patches=(1,), characters=3),  # two tokens
        ),
        carried=(
            Carried(0, asked.index("dog") + 3, "A"),
            Carried(3, 0, "B", "second", characters=3),
        ),
    )
    draft = Writer(TINY, words, drop=0.0)(record, np.random.default_rng(0))
    ids = draft.ids
    shown = ids.index(words.image_id)
    told = [(level, words.decode(ids[: place + 1]), at) for level, place, at in draft.looks]
    begun = [told[number][1] for number in (0, 2, 3, 4, -1)]
    ends = ("猫", "B. teddy bear\n\n:", "the cars", "the cars?\n\n:", "猫")
    assert all(one.endswith(end) for one, end in zip(begun, ends, strict=True))
    assert words.decode(ids[: told[2][2] + 1]).endswith("teddy bear")
    assert [(level, at) for level, _, at in told] == [
        (0, shown),
        (0, shown + 2),
        (2, told[2][2]),
        (0, 0),
        (1, shown + 1),
        (1, shown + 1),
    ]
    (level, place, token), *others = draft.carried
    assert words.decode(ids[: place + 1]).endswith("A. dog")
    assert (level, token) == (0, words.encode(" A")[0])
    assert others == [(1, draft.looks[number][1], words.encode(" B")[0]) for number in (4, 5)]
    assert located(Record("none", "text"), ids, words) == ([], [])


@pytest.mark.parametrize("preset", ["tiny-v3", "tiny"])
def test_the_loss_is_the_surprise_at_where_to_look(words: TextTokenizer, preset: str) -> None:
    config = PRESETS[preset]
    model = JanusModel(config)
    one = Sample([words.bos_id, 9, 10, 11, 12, 13], [(3, 4)])
    two = Sample(
        [words.bos_id, 9, 10, 11, 12, 13],
        [(3, 4)],
        looks=[(0, 3, 1), (0, 3, 2), (1, 2, 1), (2, 4, 0), (2, 5, 2)],
        carried=[(0, 2, 17), (1, 3, 18)],
    )
    batch = collate([[one, two]], 12, words, config.vq.tokens).batch
    trained = Trained(model, Parallel("cpu"), looking=0.5)
    depth = len(model.core.layers)
    layers = [int(depth / 3), int(depth / 2), int(2 * depth / 3)]
    kept: dict[int, torch.Tensor] = {}
    for number in layers:
        model.core.layers[number].register_forward_pre_hook(
            lambda _layer, given, number=number: kept.__setitem__(number, given[0])
        )
    with torch.no_grad():
        losses = trained.train()(batch)
        expected = torch.zeros(())
        looks = [{3: [1, 2]}, {2: [1]}, {4: [0], 5: [2]}]
        for level, (number, wanted) in enumerate(zip(layers, looks, strict=True)):
            layer, x = model.core.layers[number], kept[number][:, 6:]
            assert isinstance(layer, Layer)
            heads = max(1, config.core.heads // 4)
            width = config.core.mla.rope_dim if config.core.mla is not None else config.core.gqa_head_dim
            angles = rotary(torch.arange(6)[None], width, config.core.rope_theta, None, torch.float32)
            scores = layer.self_attn.scores(layer.input_layernorm(x), angles, heads)[0]
            scores = scores.masked_fill(~torch.ones(6, 6, dtype=torch.bool).tril(), -torch.inf)
            shares = scores.softmax(-1)
            each = [-shares[:, place, at].sum(-1).log().mean() for place, at in wanted.items()]
            expected = expected + torch.stack(each).mean()
            said = model.text_logits(model.core.norm(x[0])).log_softmax(-1)
            expected = expected - (said[2, 17] if level == 0 else (said[2, 17] + said[3, 18]) / 2)
        torch.testing.assert_close(trained.told["looking"], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses.balance, model.core.balance_loss() + 0.5 * expected)
        assert float(trained.eval()(batch).balance) == 0
        trained.train()(collate([[one]], 12, words, config.vq.tokens).batch)
        assert float(trained.told["looking"]) == 0


@pytest.mark.parametrize("preset", ["tiny-v3", "tiny"])
def test_scores_are_those_of_the_attention(preset: str) -> None:
    config = PRESETS[preset].core
    layer = JanusModel(PRESETS[preset]).core.layers[0]
    assert isinstance(layer, Layer)
    attention = layer.self_attn
    x = torch.randn(2, 5, config.width, generator=torch.Generator().manual_seed(0))
    width = config.mla.rope_dim if config.mla is not None else config.gqa_head_dim
    angles = rotary(torch.arange(5)[None], width, config.rope_theta, None, torch.float32)
    with torch.no_grad():
        scores = attention.scores(x, angles, config.heads)
        shares = scores.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
        if isinstance(attention, LatentAttention):
            values = attention._expand(attention._latents(x, angles)[0])[1]
        else:
            values = attention._split(attention.v_proj(x))
            values = values.repeat_interleave(config.heads // values.shape[1], dim=1)
        expected = attention.o_proj((shares @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(attention(x, angles, Visibility(causal=True), None, 0), expected)
        torch.testing.assert_close(attention.scores(x, angles, 1), scores[:, :1])


def test_looking_wants_one_process() -> None:
    parallel = Parallel("cpu")
    parallel.world = 2
    with pytest.raises(ValueError, match="train with one"):
        Trained(JanusModel(TINY), parallel, looking=1.0)
