"""Data sets by path and by their id on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from janus.eval.hub import found


def test_paths_come_before_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lmms-lab" / "POPE").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert found("lmms-lab/POPE", ["*.parquet"]) == Path("lmms-lab/POPE")
    with pytest.raises(ValueError, match="there is no none; --data takes a path, or a data set's id"):
        found("none", [])


def test_ids_are_downloaded_with_what_belongs_to_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def download(*arguments: Any, **more: Any) -> str:
        asked.append((arguments, more))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert found("lmms-lab/POPE", ["test-*.parquet"]) == tmp_path
    patterns = ["*test-*.parquet", "*.jpg", "*.jpeg", "*.png"]
    assert asked == [(("lmms-lab/POPE",), {"repo_type": "dataset", "allow_patterns": patterns})]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalEntryNotFoundError("offline"), "there is no path a/b, and the hub cannot be reached: offline"),
        (
            RepositoryNotFoundError(
                "404", response=httpx.Response(404, request=httpx.Request("GET", "h://x"))
            ),
            "there is no path a/b, and no data set of that name on the hub",
        ),
    ],
)
def test_what_is_not_there_is_told(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        found("a/b", [])
