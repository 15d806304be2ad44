"""Hub ids: what is downloaded, what comes from the cache without the network, what is refused."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from janus import checkpoints
from janus.checkpoints import hub
from janus.checkpoints.hub import locate
from janus.model import JanusModel

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "someone/Janus-Test"


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach it, each of which fails."""
    attempts: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        attempts.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    return attempts


@pytest.fixture
def cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library's real cache, holding `ID` whole at `main`; returns the folder of the commit."""
    base = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(base))
    repository = base / "models--someone--Janus-Test"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(folder, snapshot)
    for name in ("main", "v1"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
def test_a_full_cache_needs_no_network(
    cache: Path, network: list[Any], offline: bool, revision: str | None
) -> None:
    assert locate(ID, revision=revision, offline=offline) == cache
    assert network == []


def test_loading_and_converting_from_the_cache(
    cache: Path, network: list[Any], tmp_path: Path, tiny: Callable[[str], JanusModel]
) -> None:
    model, folder = checkpoints.load(ID, offline=True)
    assert folder == cache
    assert model.config == tiny("tiny-v3").config
    assert checkpoints.inspect(ID, revision=COMMIT).layout == "official"
    checkpoints.convert(ID, tmp_path / "copy", "official", offline=True)
    assert network == []


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "tokenizer.json"])
def test_half_a_cache_is_not_used_offline(cache: Path, network: list[Any], missing: str) -> None:
    (cache / missing).unlink()
    with pytest.raises(ValueError, match=f"{ID} is not whole in the cache .* without --offline"):
        locate(ID, offline=True)
    assert network == []
    with pytest.raises(
        ValueError, match=f"{ID} could not be downloaded whole.* (lacks {missing}|no weights)"
    ):
        locate(ID)
    assert network != []


def test_the_environment_can_switch_downloads_off(
    cache: Path, network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate(ID) == cache
    with pytest.raises(ValueError, match="no folder other/Model here, other/Model at v2 is not whole"):
        locate("other/Model", revision="v2")
    assert network == []


class Hub:
    """Stands for the library's `snapshot_download`: an empty cache, and a repository of some files."""

    def __init__(self, names: list[str], folder: Path, error: Exception | None = None) -> None:
        self.names, self.folder, self.error = names, folder, error
        self.calls: list[dict[str, Any]] = []

    def __call__(self, source: str, *, local_files_only: bool, **options: Any) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("nothing here")
        self.calls.append({"source": source, **options})
        if self.error:
            raise self.error
        patterns = options["allow_patterns"]
        for name in self.names:
            if "/" not in name and any(Path(name).match(pattern) for pattern in patterns):
                (self.folder / name).write_text("")
        return str(self.folder)


@pytest.mark.parametrize(
    ("repository", "wanted"),
    [
        (["model.safetensors", "pytorch_model.bin"], {"model.safetensors"}),
        (["pytorch_model-00001-of-00001.bin", "onnx/model.bin"], {"pytorch_model-00001-of-00001.bin"}),
    ],
)
def test_what_is_downloaded(
    repository: list[str], wanted: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {"config.json", "tokenizer.json", "chat_template.jinja"}
    fake = Hub([*repository, *others, "README.md", "picture.png"], tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", fake)
    assert locate(ID, revision=COMMIT) == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == wanted | others
    for call in fake.calls:
        assert (call["source"], call["revision"], call["ignore_patterns"]) == (ID, COMMIT, ["*/*"])


def _http(kind: type[Exception], status: int) -> Exception:
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("refused", response=response)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_http(RepositoryNotFoundError, 404), "no folder someone/Janus-Test here and no such repository"),
        (_http(GatedRepoError, 403), "is gated: accept its terms"),
        (_http(RevisionNotFoundError, 404), f"has no branch, tag or commit '{COMMIT}'"),
        (TimeoutError("too slow"), f"cannot download someone/Janus-Test at {COMMIT}: too slow"),
    ],
)
def test_what_goes_wrong_is_said(
    error: Exception, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "snapshot_download", Hub([], tmp_path, error))
    with pytest.raises(ValueError, match=words):
        locate(ID, revision=COMMIT)


def test_folders(folder: Path, network: list[Any]) -> None:
    assert locate(folder) == folder
    assert locate(str(folder)) == folder
    with pytest.raises(ValueError, match="is for hub ids"):
        locate(folder, revision="main")
    assert network == []


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "../b", "/no/such/folder", "", "http://a.b/c d"])
def test_neither_folder_nor_id(source: str, network: list[Any]) -> None:
    if not source:
        source = str(Path(__file__))
    for form in (source, Path(source)):
        with pytest.raises(ValueError, match="is neither a folder nor a hub id"):
            locate(form)
    assert network == []
