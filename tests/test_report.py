"""What people read: nothing that a model says may act on the page, and what is missing is said."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from janus.eval.benchmark import Counts, Line, Scored, Table
from janus.eval.report import markdown, page, report, summary

HOSTILE = '<script>alert("x")</script><img src=x onerror=y> | \\ & "'


def results(**more: Any) -> Line:
    counts = {"unit": "question", "expected": 3, "answered": 2, "parsed": 1, "scored": 2}
    return {
        "benchmark": "toy",
        "mode": "fixed",
        "complete": False,
        **counts,
        "errors": [{"item": "00002/00000", "error": HOSTILE}],
        "caveat": f"not official {HOSTILE}",
        "samples": {"title": HOSTILE, "count": 9, "used": 3},
        "settings": {"model": HOSTILE, "seed": None, "profile": "pro"},
        **more,
    }


def scored() -> Scored:
    verdict = {
        "item": "00000/00000",
        "id": "1",
        "tags": {"kind": HOSTILE},
        "prompt": HOSTILE,
        "pictures": ['pictures/a".png'],
        "answer": HOSTILE,
        "read": None,
        "expected": HOSTILE,
        "score": 0.5,
        "reason": HOSTILE,
    }
    table = Table("T", ["a", HOSTILE], [["1\n2", HOSTILE]])
    counts = Counts("question", 3, 2, 1, 2)
    return Scored({"overall": None}, counts, [verdict], {}, "", [table], [HOSTILE])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href"):
                self.outside.append(value or "")


def test_a_page_holds_nothing_but_its_own_tags_and_needs_no_network() -> None:
    parser = Tags()
    parser.feed(page(results(), scored()))
    assert parser.tags.count("script") == 1
    assert parser.tags.count("img") == 1
    assert set(parser.outside) == {'pictures/a".png'}


def test_what_is_missing_or_unread_is_said() -> None:
    for told in (summary(results(), scored()), report(results(), scored())):
        assert "toy by the fixed rules, 3 of the 9 samples of" in told
        assert (
            "INCOMPLETE: of 3 questions expected, 2 were answered, 1 could be read and 2 are scored" in told
        )
        assert "1 could not be answered: 00002/00000: <script>" in told
        assert "1 of 2 answers could not be read." in told
        assert "seed" not in told
    whole = results(complete=True, answered=3, parsed=3, caveat="")
    assert "INCOMPLETE" not in summary(whole, scored())


def test_cells_cannot_break_a_table() -> None:
    lines = markdown(Table("T", ["a", "b"], [["1\n2", "x | y \\"]])).splitlines()
    assert lines[-1] == "| 1 2 | x \\| y \\\\ |"
    assert lines[-2] == "|---|---|"
