"""DPG-Bench's rules and the defects of the official ones."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus.eval.benchmark import Line
from janus.eval.dpg_rules import (
    Judged,
    Question,
    ancestors,
    broad,
    by_broad,
    exactly,
    fixed,
    gathered,
    leniently,
    means,
    official,
    official_questions,
    summary,
)
from tests.dpg_cases import answers, as_csv, rows

GOLDEN = json.loads((Path(__file__).parent / "golden" / "dpg.json").read_text())


# -- the official script's verdicts ---------------------------------------------------------------


def cases(count: int, pictures: int = 4) -> dict[str, Judged]:
    """What the official rules make of so many prompts of the cases."""
    lines = rows(count)
    said = answers(len(lines))
    prompts: dict[str, list[Question]] = {}
    for place, line in enumerate(lines):
        parents = tuple(int(parent) for parent in line["dependency"].split(","))
        question = Question(place, int(line["proposition_id"]), parents, line["tuple"], "-")
        prompts.setdefault(line["item_id"], []).append(question)
    return {
        name: official(
            name, of, [{one.row: said[one.row][picture] for one in of} for picture in range(pictures)]
        )
        for name, of in prompts.items()
    }


def agrees(found: Line, expected: Line) -> None:
    """In every digest: shares here, percent there."""
    assert found["overall"] * 100 == pytest.approx(expected["overall"], abs=1e-10)
    for kind in ("l1", "l2"):
        shares = {name: 100 * share for name, share in found[kind].items()}
        assert shares == pytest.approx(expected[kind], abs=1e-10)


def test_the_official_script_agrees_on_every_prompt() -> None:
    lines = rows(GOLDEN["prompts"])
    assert len(lines) == GOLDEN["questions"] > 12_000
    inputs = as_csv(lines) + json.dumps(answers(len(lines)))
    assert hashlib.sha256(inputs.encode()).hexdigest() == GOLDEN["inputs"]
    judged = cases(GOLDEN["prompts"])
    assert [one.score for one in judged.values()] == GOLDEN["scores"]
    assert sum(one.score is None for one in judged.values()) == 64
    agrees(summary(list(judged.values())), GOLDEN)


def test_the_official_script_agrees_on_single_pictures() -> None:
    expected = GOLDEN["one_picture"]
    judged = list(cases(expected["prompts"], pictures=1).values())
    assert sum(one.score is None for one in judged) == expected["dropped"]
    agrees(summary(judged), expected)


def test_officially_several_processes_mix_up_categories() -> None:
    """The defect, as four processes of the official script showed it; each had another order of the set."""
    expected = GOLDEN["ranks"]
    judged = list(cases(expected["prompts"]).values())
    count = len(expected["orders"])
    edges = [round(rank * len(judged) / count) for rank in range(count + 1)]
    ranks: list[dict[str, list[float]]] = []
    for start, end in pairwise(edges):
        found: dict[str, list[float]] = {}
        for one in judged[start:end]:
            for category, score in one.categories:
                found.setdefault(category, []).append(score)
        ranks.append(found)
    mixed = gathered(ranks, expected["orders"])
    plain = summary(judged)
    agrees({"overall": plain["overall"], "l1": means(by_broad(mixed)), "l2": means(mixed)}, expected)
    assert means(mixed) != pytest.approx(plain["l2"], abs=0.01)
    same = gathered(ranks, [expected["orders"][0]] * count)
    assert means(same) == pytest.approx(plain["l2"])


# -- the rules, one by one ------------------------------------------------------------------------


def ask(
    *questions: tuple[int, tuple[int, ...]], first: int = 1, about: str = "entity - whole (x)"
) -> list[Question]:
    """Numbers with their parents, in rows from `first`."""
    return [Question(first + i, number, parents, about, "?") for i, (number, parents) in enumerate(questions)]


def say(text: str, first: int = 1) -> dict[int, str]:
    """yes for y, no for n, in rows from `first`."""
    return {first + i: {"y": "yes", "n": "no"}.get(letter, letter) for i, letter in enumerate(text)}


CHAIN = ask((1, (0,)), (2, (1,)), (3, (2,)))


def test_children_of_what_does_not_hold_count_nothing() -> None:
    for judge in (official, fixed):
        assert judge("a", CHAIN, [say("yyy")]).score == 1
        assert judge("a", CHAIN, [say("nyy")]).score == 0
        assert judge("a", CHAIN, [say("yny")]).score == pytest.approx(1 / 3)
        assert judge("a", CHAIN, [say("yyn")]).score == pytest.approx(2 / 3)
        assert judge("a", ask((1, (0,)), (2, (0,)), (3, (2, 1))), [say("nyy")]).score == pytest.approx(1 / 3)
        assert judge("a", CHAIN, [say("yyy"), say("nyy")]).score == 0.5


def test_categories_come_from_before_zeros_are_handed_down() -> None:
    for judge in (official, fixed):
        assert [score for _, score in judge("a", CHAIN, [say("nyy")]).categories] == [0, 1, 1]


def test_officially_the_first_row_is_passed_over() -> None:
    """ELLA #61: the header is gone already, so that the first question is lost, and with it its prompt."""
    first = ask((1, (0,)), (2, (0,)), first=0)
    assert official("a", first, [say("ny", 0)]).score == 1
    assert fixed("a", first, [say("ny", 0)]).score == 0.5
    child = ask((1, (0,)), (2, (1,)), first=0)
    lost = official("a", child, [say("yy", 0)])
    assert (lost.score, lost.dropped) == (None, "question 2 depends on 1, which is not there")
    assert fixed("a", child, [say("yy", 0)]).score == 1
    alone = official("a", ask((1, (0,)), first=0), [say("y", 0)])
    assert (alone.score, alone.dropped) == (None, "there are no questions about it")


def test_officially_categories_come_from_the_last_picture_alone() -> None:
    """ELLA #60."""
    pictures = [say("yy"), say("yy"), say("yy"), say("nn")]
    two = ask((1, (0,)), (2, (0,)))
    assert summary([official("a", two, pictures)])["l1"] == {"entity": 0}
    assert summary([fixed("a", two, pictures)])["l1"] == {"entity": 0.75}
    assert official("a", two, pictures).score == fixed("a", two, pictures).score == 0.75


def test_officially_a_failure_drops_the_prompt_and_the_mean_is_over_the_rest() -> None:
    broken = ask((1, (0,)), (2, (7,)))
    lost = official("a", broken, [say("yn")])
    assert (lost.score, lost.tiles, lost.categories) == (None, (), ())
    assert fixed("a", broken, [say("yn")]).score == 0.5
    whole = official("b", ask((1, (0,))), [say("y")])
    assert summary([lost, whole])["overall"] == 1
    assert summary([lost])["overall"] is None


def test_officially_a_parent_that_is_not_there_matters_only_if_no_other_fails_before() -> None:
    assert official("a", ask((1, (0,)), (2, (1, 7))), [say("ny")]).score == 0
    assert official("a", ask((1, (0,)), (2, (7, 1))), [say("ny")]).score is None
    assert official("a", ask((1, (0,)), (2, (1, 7))), [say("ny"), say("yy")]).score is None


def test_officially_a_child_before_its_parents_does_not_hear_of_theirs() -> None:
    turned = ask((3, (2,)), (2, (1,)), (1, (0,)))
    assert official("a", turned, [say("yyn")]).score == pytest.approx(1 / 3)
    assert fixed("a", turned, [say("yyn")]).score == 0


def test_officially_only_the_last_of_a_prompts_groups_of_rows_is_left() -> None:
    apart = [*ask((1, (0,)), (2, (0,))), *ask((3, (0,)), first=9)]
    assert list(official_questions(apart)) == [3]
    said = say("nn") | say("y", 9)
    assert official("a", apart, [said]).score == 1
    assert fixed("a", apart, [said]).score == pytest.approx(1 / 3)


def test_officially_the_later_of_two_questions_of_one_number_counts() -> None:
    twice = ask((1, (0,)), (2, (1,)), (1, (0,)))
    assert official("a", twice, [say("nyy")]).score == 1
    assert fixed("a", twice, [say("nyy")]).score == pytest.approx(1 / 3)  # and its child fails with either


def test_officially_names_are_cut_at_a_point() -> None:
    assert official("a.b", CHAIN, [say("yyy")]).dropped == "its name is cut at the first point"
    assert fixed("a.b", CHAIN, [say("yyy")]).score == 1


def test_officially_four_pictures_count_and_no_more() -> None:
    pictures = [say("yyy")] * 4 + [say("nnn")]
    assert official("a", CHAIN, pictures).score == 1
    assert fixed("a", CHAIN, pictures).score == 0.8


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("yes", "yes", "yes"),
        ("no", "no", "no"),
        ("Yes", None, "yes"),
        ("yes.", None, "yes"),
        (" yes", None, "yes"),
        ("Yes, there is.", None, "yes"),
        ("No!", None, "no"),
        ("nope", None, None),
        ("yesterday", None, None),
        ("I see no cat", None, None),
        ("", None, None),
    ],
)
def test_only_yes_in_lower_case_is_officially_a_yes(
    text: str, strict: str | None, lenient: str | None
) -> None:
    assert (exactly(text), leniently(text)) == (strict, lenient)
    assert official("a", ask((1, (0,))), [{1: text}]).score == (strict == "yes")
    assert fixed("a", ask((1, (0,))), [{1: text}]).score == (lenient == "yes")


def test_names_of_categories() -> None:
    assert Question(1, 1, (0,), "relation - non-spatial (a, b (c))", "?").category == "relation - non-spatial"
    assert broad("relation - non-spatial") == "relation"
    assert broad("global -") == broad("global") == "global"


Tree = list[tuple[set[int], str]]


@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 12), max_size=3), st.sampled_from("yn")), min_size=1, max_size=10
    )
)
def test_fixed_agrees_where_parents_come_first_and_never_gives_more(tree: Tree) -> None:
    """Parents 1 to 12 of questions 1 to 10: some come later, some are not there."""
    said = [say("".join(letter for _, letter in tree))]
    wild = ask(*((i + 1, tuple(sorted(parents))) for i, (parents, _) in enumerate(tree)))
    tame = ask(*((i + 1, tuple(sorted(p for p in parents if p <= i))) for i, (parents, _) in enumerate(tree)))
    assert fixed("a", tame, said).score == official("a", tame, said).score
    known = ask(
        *((i + 1, tuple(sorted(p for p in parents if p <= len(tree)))) for i, (parents, _) in enumerate(tree))
    )
    theirs, ours = official("a", known, said).score, fixed("a", known, said).score
    assert (ours or 0) <= (theirs or 0)
    assert fixed("a", wild, said).score == ours
    for number, above in ancestors(wild).items():
        assert number not in above <= set(range(1, len(tree) + 1))
