"""Clients that hang up, and the end of a server under load; benchmarks/serving.py has them longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("psutil")
SCRIPT = Path(__file__).parent.parent / "benchmarks" / "serving.py"


@pytest.mark.parametrize("mode", [("hangups", "--clients", "40"), ("sigterm", "--users", "12")])
def test_promises_are_kept(mode: tuple[str, ...]) -> None:
    run = subprocess.run([sys.executable, str(SCRIPT), *mode], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "| " in run.stdout
