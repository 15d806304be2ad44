"""The decoding loop: against the uncached model, alone against in a batch, and its sampling."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from janus.generation import Decoding, decode, decode_together
from janus.model import Batch, JanusModel
from janus.parties import Group, Kind, Party
from janus.prompts import Prompt
from janus.sampling import Dice, Noise, Sampling, guide, keep_likely
from janus.scoring import score

PRESETS = ["tiny", "tiny-v2", "tiny-v3"]
IMAGE_ID = 7
Tiny = Callable[[str], JanusModel]


def _prompts(model: JanusModel, lengths: Sequence[int], images: Sequence[int] = ()) -> list[Prompt]:
    """Random prompts of these lengths; those in `images` hold a picture of their own."""
    prompts = []
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(row)
        ids = torch.randint(8, 1000, (length,), generator=generator).tolist()
        pixels = None
        if row in images:
            ids = [*ids[:2], *[IMAGE_ID] * model.config.vision.tokens, *ids[2:]]
            size = model.config.image.size
            pixels = torch.randn(1, 3, size, size, generator=generator)
        prompts.append(Prompt(ids, pixels, IMAGE_ID))
    return prompts


def _generate(
    model: JanusModel,
    prompts: Sequence[Prompt],
    kind: Kind,
    steps: int,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    seeds: Sequence[int] = (),
    guidance: float | None = None,
    window: int = 1,
) -> torch.Tensor:
    tokens = decode(
        model,
        Group(
            prompts,
            kind=kind,
            new_tokens=steps,
            sampling=sampling,
            generators=[torch.Generator().manual_seed(s) for s in seeds or range(len(prompts))],
            unconditional=[] if guidance is None else _plain(prompts),
            guidance=guidance,
        ),
        window=window,
    )
    return torch.stack(list(tokens), dim=1)


def _plain(prompts: Sequence[Prompt]) -> list[Prompt]:
    return [Prompt([p.ids[0], *[1] * (len(p.ids) - 2), p.ids[-1]]) for p in prompts]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", ["text", "image"])
def test_greedy_equals_the_uncached_model(tiny: Tiny, preset: str, kind: Kind) -> None:
    model = tiny(preset)
    prompt = _prompts(model, [6])[0]
    tokens = _generate(model, [prompt], kind, 12, sampling=Sampling(temperature=0))[0]
    x = model.embed_text(torch.tensor([prompt.ids]))
    for step in range(12):
        hidden = model.core(x)[:, -1]
        logits = model.text_logits(hidden) if kind == "text" else model.image_logits(hidden)
        assert tokens[step] == logits.argmax()
        embed = model.embed_text if kind == "text" else model.embed_codes
        x = torch.cat([x, embed(tokens[None, step : step + 1])], dim=1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("kind", "guidance"), [("text", None), ("image", None), ("image", 5.0)])
def test_a_batch_gives_what_each_prompt_gives_alone(
    tiny: Tiny, preset: str, kind: Kind, guidance: float | None
) -> None:
    model = tiny(preset)
    prompts = _prompts(model, [4, 19, 9], images=[2] if kind == "text" else [])
    seeds = [11, 12, 13]
    together = _generate(model, prompts, kind, 16, seeds=seeds, guidance=guidance)
    for row, prompt in enumerate(prompts):
        alone = _generate(model, [prompt], kind, 16, seeds=[seeds[row]], guidance=guidance)
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("kind", "guidance"), [("text", None), ("image", 5.0)])
def test_a_repeated_prompt_is_read_once_and_gives_what_it_gives_alone(
    tiny: Tiny, preset: str, kind: Kind, guidance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(preset)
    one, other, same = _prompts(model, [9, 4, 9], images=[0, 2] if kind == "text" else [])
    same = dataclasses.replace(same, ids=one.ids)  # the same words about another picture
    prompts, seeds = [one, other, one, same, other], [11, 12, 13, 14, 15]
    monkeypatch.setattr(model.core, "forward", counted := _Counted(model.core.forward))
    together = _generate(model, prompts, kind, 12, seeds=seeds, guidance=guidance)
    different = 3 if kind == "text" else 2
    assert counted.rows == [
        different if guidance is None else 2 * different,
        *[5 if guidance is None else 10] * 11,
    ]
    for row, prompt in enumerate(prompts):
        alone = _generate(model, [prompt], kind, 12, seeds=[seeds[row]], guidance=guidance)
        assert torch.equal(together[row], alone[0])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("guidance", [None, 5.0])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.0), Sampling(0.3, 50, 0.9)], ids=str)
def test_guessed_codes_are_those_of_one_after_the_other(
    tiny: Tiny, preset: str, guidance: float | None, sampling: Sampling
) -> None:
    model = tiny(preset)
    prompts = _prompts(model, [4, 19, 9])
    count = model.config.vq.tokens
    plain = _generate(model, prompts, "image", count, sampling=sampling, guidance=guidance)
    for window in (2, 5, 2 * count):
        quick = _generate(model, prompts, "image", count, sampling=sampling, guidance=guidance, window=window)
        assert torch.equal(quick, plain)


def test_right_guesses_save_passes(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that does not look at what it drew: what came out behind a wrong guess is right after all."""
    model = copy.deepcopy(tiny("tiny"))
    with torch.no_grad():
        last = model.gen_aligner.layers[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight.zero_()
    monkeypatch.setattr(model.core, "forward", counted := _Counted(model.core.forward))
    _generate(model, _prompts(model, [6]), "image", 16, window=8)
    passes = [tokens for _, tokens in counted.shapes]
    assert sum(passes[1:]) >= 15
    assert len(passes) <= 9  # of 16


def _mixed(model: JanusModel, stop: int | None = None) -> list[Group]:
    """Pictures with and without guidance, and answers about a picture and without one, of unequal length."""
    first, second, third = (_prompts(model, lengths) for lengths in ([4, 9], [12], [7]))
    asked = _prompts(model, [19, 5, 8], images=[2])
    ways: list[tuple[list[Prompt], Kind, int, Sampling, float | None]] = [
        (first, "image", 16, Sampling(), 5.0),
        (asked, "text", 24, Sampling(temperature=0), None),
        (second, "image", 16, Sampling(0.7, 50), None),
        (third, "text", 6, Sampling(0.9, top_p=0.8), None),
    ]
    return [
        Group(
            prompts,
            kind=kind,
            new_tokens=count,
            sampling=sampling,
            generators=[torch.Generator().manual_seed(40 + row) for row in range(len(prompts))],
            unconditional=[] if guidance is None else _plain(prompts),
            guidance=guidance,
            stop_id=stop if kind == "text" and count == 24 else None,
        )
        for prompts, kind, count, sampling, guidance in ways
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_groups_of_all_kinds_give_together_what_each_gives_alone(
    tiny: Tiny, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(preset)
    greedy = torch.stack(list(decode(model, _mixed(model)[1])), dim=1)
    stop = int(greedy[0, 3])  # where one answer ends early, and maybe others
    alone = [torch.stack(list(decode(model, group)), dim=1) for group in _mixed(model, stop)]
    _spoil_unwritten_memory(monkeypatch)
    told = list(decode_together(model, _mixed(model, stop)))
    for place, wanted in enumerate(alone):
        got = [step[place] for step in told]
        assert all(tokens is None for tokens in got[wanted.shape[1] :])
        kept = [tokens for tokens in got[: wanted.shape[1]] if tokens is not None]
        assert torch.equal(torch.stack(kept, dim=1), wanted)
    assert len(told) == max(wanted.shape[1] for wanted in alone)


def come_and_go(
    model: JanusModel, groups: Sequence[Group], seed: int, window: int = 1, rows: int = 0
) -> list[torch.Tensor]:
    """The tokens of each, who join at random moments; some are dropped, with what they have by then."""
    rng = random.Random(seed)
    decoding, later = Decoding(model), [*enumerate(groups)]
    rng.shuffle(later)
    parties: dict[int, Party] = {}
    while later or decoding.rows:
        if later and (not decoding.rows or rng.random() < 0.3):
            some = [later.pop() for _ in range(min(rng.randint(1, 3), len(later)))]
            joined = decoding.join([group for _, group in some], rows=rows, slots=rng.choice([0, 40]))
            parties.update(zip((place for place, _ in some), joined, strict=True))
        going = decoding.parties
        if going and rng.random() < 0.04 * len(going):
            decoding.drop(rng.choice(going))
        if decoding.rows:
            decoding.step(window)
    return [parties[place].tokens for place in range(len(groups))]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_who_comes_and_goes_gets_what_it_gets_alone(
    tiny: Tiny, preset: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny(preset)
    stop = int(torch.stack(list(decode(model, _mixed(model)[1])), dim=1)[0, 3])

    def groups() -> list[Group]:
        return [group for _ in range(3) for group in _mixed(model, stop)]

    wanted = [torch.stack(list(decode(model, group)), dim=1) for group in groups()]
    _spoil_unwritten_memory(monkeypatch)
    monkeypatch.setattr("janus.generation._WASTE", 5)
    got = come_and_go(model, groups(), seed, window=4)
    for own, whole in zip(got, wanted, strict=True):
        assert torch.equal(own, whole[:, : own.shape[1]])
    assert sum(own.shape == whole.shape for own, whole in zip(got, wanted, strict=True)) > 4
    assert len({own.shape == whole.shape for own, whole in zip(got, wanted, strict=True)}) == 2


def _spoil_unwritten_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty

    def spoilt(*sizes: Any, **options: Any) -> torch.Tensor:
        made = real(*sizes, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr("janus.core.cache.torch.empty", spoilt)


def test_who_has_ended_leaves_the_core(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole groups at once, and each request that stopped."""
    model = tiny("tiny")
    greedy = torch.stack(list(decode(model, _mixed(model)[1])), dim=1)
    stop = int(greedy[0, 3])
    monkeypatch.setattr(model.core, "forward", counted := _Counted(model.core.forward))
    list(decode_together(model, _mixed(model, stop)))
    answers = torch.stack(list(decode(model, _mixed(model, stop)[1])), dim=1)
    expected = []
    for step in range(1, 24):  # with so many tokens told
        asked = int((answers[:, :step] != stop).all(1).sum()) if step <= answers.shape[1] else 0
        expected.append(asked + (4 + 1 if step < 16 else 0) + (1 if step < 6 else 0))
    expected = [rows for rows in expected if rows]
    steps = [rows for rows, tokens in counted.shapes if tokens == 1]
    assert steps[: len(expected)] == expected


class _Counted:
    """Rows and tokens of every pass."""

    def __init__(self, forward: Callable[..., torch.Tensor]) -> None:
        self._forward = forward
        self.shapes: list[tuple[int, int]] = []

    @property
    def rows(self) -> list[int]:
        return [rows for rows, _ in self.shapes]

    def __call__(self, x: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
        self.shapes.append((len(x), x.shape[1]))
        return self._forward(x, *arguments, **more)


def test_guesses_wait_until_pictures_are_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("tiny")
    wanted = [step[0] for step in decode_together(model, _mixed(model)[2:])]
    monkeypatch.setattr(model.core, "forward", counted := _Counted(model.core.forward))
    got = [step[0] for step in decode_together(model, _mixed(model)[2:], window=4)]
    assert got == wanted
    assert len(got) == 16
    _, *steps = counted.shapes
    assert steps[:5] == [(2, 1)] * 5  # beside six tokens of text
    assert all(rows == 1 and tokens > 1 for rows, tokens in steps[5:-1])


def test_prompts_that_are_about_as_long_are_read_together(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("tiny")
    groups = [
        Group(
            _prompts(model, [length]),
            kind="text",
            new_tokens=4,
            sampling=Sampling(temperature=0),
            generators=[torch.Generator()],
        )
        for length in (100, 9, 120, 12, 300)
    ]
    alone = [torch.stack(list(decode(model, group)), dim=1) for group in groups]
    monkeypatch.setattr(model.core, "forward", counted := _Counted(model.core.forward))
    told = list(decode_together(model, groups))
    for place, wanted in enumerate(alone):
        own = [tokens for tokens in (step[place] for step in told) if tokens is not None]
        assert torch.equal(torch.stack(own, dim=1), wanted)
    assert counted.shapes[:3] == [(2, 12), (2, 120), (1, 300)]


def test_seeds_matter(tiny: Tiny) -> None:
    model = tiny("tiny")
    prompts = _prompts(model, [5])
    assert not torch.equal(
        _generate(model, prompts, "image", 16, seeds=[1]), _generate(model, prompts, "image", 16, seeds=[2])
    )


def test_the_picture_matters(tiny: Tiny) -> None:
    model = tiny("tiny")
    first = _prompts(model, [5], images=[0])[0]
    assert first.pixels is not None
    second = Prompt(first.ids, -first.pixels, IMAGE_ID)
    assert not torch.equal(
        _generate(model, [first], "text", 16, seeds=[1]), _generate(model, [second], "text", 16, seeds=[1])
    )


def test_pictures_without_places_are_refused(tiny: Tiny) -> None:
    model = tiny("tiny")
    with pytest.raises(ValueError, match="marks 0 places, but there are 16 vectors"):
        model(Batch(torch.ones(1, 4, dtype=torch.long), pixels=torch.zeros(1, 3, 32, 32)))


def test_too_long_for_the_context(tiny: Tiny) -> None:
    model = tiny("tiny")
    with pytest.raises(ValueError, match="1000 tokens and 25 new ones exceed the context of 1024"):
        _generate(model, _prompts(model, [1000]), "text", 25)


def test_a_stopped_row_repeats_its_stop_while_others_go_on(tiny: Tiny) -> None:
    model = tiny("tiny")
    prompts = _prompts(model, [5, 6])
    greedy = _generate(model, prompts, "text", 12, sampling=Sampling(temperature=0))
    stop = int(greedy[0, 3])
    stopped = list(
        decode(
            model,
            Group(
                prompts,
                kind="text",
                new_tokens=12,
                sampling=Sampling(temperature=0),
                generators=[torch.Generator(), torch.Generator()],
                stop_id=stop,
            ),
        )
    )
    first = greedy[0].tolist().index(stop)
    rows = torch.stack(stopped, dim=1)
    assert rows[0, : first + 1].tolist() == greedy[0, : first + 1].tolist()
    assert set(rows[0, first:].tolist()) == {stop}
    assert rows[1].tolist() == greedy[1, : rows.shape[1]].tolist()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("guidance", [None, 3.0])
def test_scores_are_those_of_the_steps(tiny: Tiny, preset: str, guidance: float | None) -> None:
    """Teacher-forced log-probabilities equal the ones that decoding would have sampled from."""
    model = tiny(preset)
    prompts = _prompts(model, [4, 9])
    codes = _generate(model, prompts, "image", 8, guidance=guidance)
    plain = [] if guidance is None else _plain(prompts)
    rows = [codes[0].tolist(), codes[1, :5].tolist()]
    scores = score(model, prompts, rows, kind="image", unconditional=plain, guidance=guidance)
    for row, own in enumerate(rows):
        pair = [prompts[row]] if guidance is None else [prompts[row], plain[row]]
        for step, code in enumerate(own):
            logits = []
            for prompt in pair:
                x = model.embed_text(torch.tensor([prompt.ids]))
                x = torch.cat([x, model.embed_codes(torch.tensor([own[:step]], dtype=torch.long))], dim=1)
                logits.append(model.image_logits(model.core(x)[:, -1]))
            guided = logits[0] if guidance is None else guide(logits[0], logits[-1], guidance)
            expected = guided.log_softmax(-1)[0, code]
            torch.testing.assert_close(scores[row][step], expected, rtol=1e-4, atol=1e-4)


def test_guidance_extrapolates_from_the_unconditional_row() -> None:
    logits = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    assert guide(logits[0], logits[1], 5.0).tolist() == [5.0, -6.0]
    assert guide(logits[0], logits[1], 1.0).tolist() == [1.0, 2.0]


def test_sampling_draws_from_the_softmax() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(4000, 1)
    generator = torch.Generator().manual_seed(0)
    dice = Dice([Sampling(temperature=0.7)] * 4000, [Noise(generator) for _ in range(4000)])
    drawn = dice.throw(logits[:, None], [0] * 4000)[:, 0]
    share = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(share, (logits[0] / 0.7).softmax(-1), rtol=0, atol=0.03)


def test_top_k_and_top_p() -> None:
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.06, 0.04], [0.04, 0.06, 0.1, 0.3, 0.5]]).log()
    kept = keep_likely(logits, Sampling(top_k=1)).isfinite()
    assert kept.tolist() == [[True, False, False, False, False], [False, False, False, False, True]]
    kept = keep_likely(logits, Sampling(top_p=0.75)).isfinite()
    assert kept.tolist() == [[True, True, True, False, False], [False, False, False, True, True]]
    assert keep_likely(logits, Sampling(top_p=1e-9)).isfinite().sum() == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0"),
    ],
)
def test_sampling_out_of_range(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(**settings)  # type: ignore[arg-type]
