"""Every benchmark from its data to its report, by the command, with the model that ships with the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from janus.cli import main
from janus.eval.fixtures import WHOLE, fixture_scenes
from janus.eval.folder import ANSWERS, SAMPLES, Journal

# What is expected, in the unit of each scorer; raw answers; the least overall score of the embedded model.
FIXTURES = {
    "geneval": ("picture", 48, 48, 0.9),
    "dpg": ("prompt", 5, 24, 0.9),  # the official script drops one
    "mmbench": ("question", 6, 21, 0.8),
    "pope": ("question", 36, 24, 0.9),
    "mme": ("question", 48, 48, 1300),
    "seed": ("question", 12, 12, 0.8),
    "mmmu": ("question", 10, 10, 0.7),
    "mmvet": ("question", 34, 34, 0.8),
    "gqa": ("question", 32, 32, 0.2),  # its wording is none that the embedded model knows
}


def run(out: Path, name: str, *more: str) -> dict[str, Any]:
    short = () if name in ("geneval", "dpg") else ("--max-tokens", "24")
    assert main(["eval", name, "--dtype", "float32", "--out", str(out), *short, *more]) == 0
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.mark.parametrize("name", FIXTURES)
def test_fixture(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit, expected, raw, least = FIXTURES[name]
    results = run(tmp_path, name, "--fixture")
    assert results["benchmark"] == name
    assert results["unit"] == unit
    assert results["complete"] is True
    assert [results[key] for key in ("expected", "answered", "scored")] == [expected] * 3
    assert results["parsed"] <= expected
    assert len(Journal(tmp_path / ANSWERS).read()) == raw
    assert results["scores"]["overall"] >= least
    assert results["caveat"]
    assert results["errors"] == []
    told = capsys.readouterr().out
    assert f"**{results['caveat']}**" in told
    verdicts = Journal(tmp_path / "verdicts.jsonl").read()
    assert len(verdicts) == expected
    assert len({line["id"] for line in verdicts}) == expected
    for line in verdicts:
        assert line.keys() >= {"item", "id", "tags", "prompt", "pictures", "score", "reason"}
        assert 0 <= line["score"] <= 1
        assert bool(line["reason"]) == (line["score"] < 1)
        for file in line["pictures"]:
            assert (tmp_path / file).is_file()
    written = (tmp_path / "results.json").read_bytes()
    assert main(["eval", "score", str(tmp_path)]) == 0
    assert (tmp_path / "results.json").read_bytes() == written
    assert main(["eval", "score", str(tmp_path), "--mode", "fixed"]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["mode"] == "fixed"


def test_limits_take_what_is_scored_together(tmp_path: Path) -> None:
    pairs = run(tmp_path / "mme", "mme", "--fixture", "--limit", "1")
    assert (pairs["expected"], pairs["scored"]) == (2, 2)
    assert len({tuple(line["pictures"]) for line in Journal(tmp_path / "mme" / SAMPLES).read()}) == 1
    turned = run(tmp_path / "mmbench", "mmbench", "--fixture", "--limit", "2")
    rows = Journal(tmp_path / "mmbench" / SAMPLES).read()
    assert turned["expected"] == turned["scored"] == len({line["group"] for line in rows}) <= 2
    assert len(rows) == sum(len(line["options"]) for line in rows if line["index"] == line["group"])


def test_runs_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = str(tmp_path / "pro"), str(tmp_path / "plain")
    run(Path(one), "gqa", "--fixture", "--limit", "16")
    run(Path(other), "gqa", "--fixture", "--limit", "16", "--prompts", "plain")
    capsys.readouterr()
    assert main(["eval", "compare", one, other]) == 0
    assert "16 items in common" in capsys.readouterr().out
    assert main(["eval", "table", one, other]) == 0
    told = capsys.readouterr().out
    assert "| the embedded model, plain prompts |" in told
    assert "| Janus-Pro-7B (report) | 62.0 |" in told


def test_scenes_of_fixtures_stay_the_same() -> None:
    few = fixture_scenes()
    assert [one.png for one in fixture_scenes(3)] == [one.png for one in few[:3]]
    assert len({one.png for one in few}) == len(few) == 12
    assert WHOLE > 100
