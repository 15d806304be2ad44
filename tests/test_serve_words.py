"""An answer in pieces, and where it ends."""

from __future__ import annotations

import random

import pytest

from janus.serve.words import Words


def _in_pieces(text: str, cuts: list[int], stops: list[str]) -> tuple[list[str], bool]:
    words = Words(stops)
    pieces = [words.push(text[:cut]) for cut in cuts]
    pieces.append(words.push(text, over=True))
    assert "".join(pieces) == words.text
    return pieces, words.hit


@pytest.mark.parametrize(
    ("text", "stops", "wanted", "hit"),
    [
        ("  A red car. \n", [], "A red car.", False),
        ("A red car. And more", [". "], "A red car", True),
        ("one END two", ["END", " tw"], "one", True),
        ("abab abac", ["abac"], "abab", True),
        ("aab", ["aaab"], "aab", False),
        ("the end", ["ending"], "the end", False),
        ("\n\nfirst\nsecond", ["\n"], "first", True),
        ("stop", ["stop"], "", True),
        ("", ["x"], "", False),
    ],
)
def test_however_it_comes_the_answer_is_the_same(text: str, stops: list[str], wanted: str, hit: bool) -> None:
    chance = random.Random(0)
    for _ in range(20):
        cuts = sorted(chance.choices(range(len(text) + 1), k=chance.randrange(6)))
        pieces, was_hit = _in_pieces(text, cuts, stops)
        assert ("".join(pieces), was_hit) == (wanted, hit)


def test_what_may_become_a_stop_word_is_held_back() -> None:
    words = Words(["<end>"])
    assert words.push("so <en") == "so"
    assert words.push("so <enough") == " <enough"
    assert words.push("so <enough <end> more") == ""
    assert words.hit
    assert words.push("so <enough <end> more and more", over=True) == ""
    assert words.text == "so <enough"


def test_spaces_at_the_end_come_with_the_next_word() -> None:
    words = Words()
    assert [words.push(" A "), words.push(" A  b "), words.push(" A  b ", over=True)] == ["A", "  b", ""]
