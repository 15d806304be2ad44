"""Options of `janus eval` that do not fit together, told before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus.cli import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pope", "--workers", "2"], "--workers belongs to --ray"),
        (["pope", "--fixture", "--data", "x"], "give either --data or --fixture"),
        (["pope", "--data", "none.tsv"], "there is no none.tsv"),
        (["pope", "--fixture", "--max-tokens", "0"], "max_tokens must be at least 1, not 0"),
        (["mmvet", "--fixture", "--judge-model", "gpt"], "say with --judge where gpt is to be asked"),
        (["mmvet", "--fixture", "--judge", "http://h/v1"], "say with --judge-model which model"),
        (["mmvet", "--fixture", "--judge", "nowhere", "--judge-model", "m"], "nowhere"),
        (["geneval", "--fixture", "--clip-model", "x"], "belong to --detector mask2former"),
        (["geneval", "--fixture", "--detector", "mask2former"], "needs the weights of Mask2Former"),
        (["score", "a.xlsx"], "say with --as whose answers a.xlsx holds"),
        (["score", "a.xlsx", "--as", "geneval"], "say with --as whose answers a.xlsx holds"),
        (["score", "a.xlsx", "--as", "pope"], "a.xlsx must be a file of VLMEvalKit or lmms-eval"),
        (["compare", "one", "two"], "one is not scored: there is no"),
        (["table", "one"], "one is not scored: there is no"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model = ["--model", "no-such-model"] if arguments[0] not in ("score", "compare", "table") else []
    assert main(["eval", *arguments, *model]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("run.json"))
