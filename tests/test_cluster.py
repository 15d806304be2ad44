"""Answers from a Ray cluster on this machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from janus.eval.folder import ANSWERS
from janus.eval.runner import Asking, answer
from tests.toy import Toy, data

if TYPE_CHECKING:
    from janus import Janus

psutil = pytest.importorskip("psutil")
pytest.importorskip("ray")


def workers() -> list[Any]:
    """Processes of this machine's cluster that hold a model."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name().startswith("ray::") and "MapBatches" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_killed_worker_costs_its_batch_alone(folder: Path, janus: Janus, tmp_path: Path) -> None:
    from janus.eval.cluster import answer as answer_on_cluster

    path = data(tmp_path)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if not killed:
            victim = workers()[0]
            os.kill(victim.pid, signal.SIGKILL)
            killed.append(victim.pid)

    asking = Asking("tiny", max_tokens=4, batch_size=1)
    answer(Toy(), Toy().samples(path, False), janus, asking, tmp_path / "alone")
    model = {"source": str(folder), "device": "cpu", "dtype": "float32"}
    together = tmp_path / "together"
    samples = Toy().samples(path, False)
    made = answer_on_cluster(Toy(), samples, model, asking, together, kill, address="local", workers=2)
    assert killed
    assert made == 10
    assert (together / ANSWERS).read_bytes() == (tmp_path / "alone" / ANSWERS).read_bytes()
    assert len((together / "times.jsonl").read_text().splitlines()) == 10  # each batch was kept once
    for name in samples.pictures:
        assert (together / "pictures" / name).exists()


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    from janus.eval.cluster import answer as answer_on_cluster

    samples = Toy().samples(data(tmp_path), False)
    asking = Asking("tiny", max_tokens=4)
    with pytest.raises(ValueError, match=r"no worker can answer: .*no-such-model"):
        answer_on_cluster(
            Toy(), samples, {"source": "no-such-model"}, asking, tmp_path / "out", address="local"
        )
    with pytest.raises(ValueError, match=r"there is no Ray cluster at 127\.0\.0\.1:1"):
        answer_on_cluster(Toy(), samples, {}, asking, tmp_path / "out", address="127.0.0.1:1")
