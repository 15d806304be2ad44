"""Who may import whom, and what an import may bring along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "janus"

# Each floor may import those above it in this list, never one below or beside it.
FLOORS = [
    {"config"},
    {"kernels"},
    {"core", "encoders", "loss", "tokenizers"},
    {"model"},
    {"checkpoints"},
    {"memory", "previews", "prompts", "sampling"},
    {"background", "parties"},
    {"generation"},
    {"requests", "scoring"},
    {"api", "bench", "info", "gallery"},
    {"data", "serve"},
    {"eval"},
    {"train"},
    {"cli"},
    {"__main__"},
]


def _imports(path: Path) -> set[str]:
    """Rooms of the package that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = (
                [f"janus.{alias.name}" for alias in node.names]
                if node.module == "janus"
                else [node.module or ""]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("janus.")}
    return found - {"__version__", "JanusConfig", "Janus"}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_floor() -> None:
    rooms = {_room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_up(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        return
    floor = next(i for i, rooms in enumerate(FLOORS) if room in rooms)
    allowed = set().union(*FLOORS[:floor]) | {room}
    assert _imports(path) <= allowed, f"{room} may not import {_imports(path) - allowed}"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("janus", ["torch", "timm", "transformers", "gradio", "diffusers", "ray"]),
        ("janus.cli", ["torch", "timm", "transformers", "gradio", "diffusers", "ray"]),
        ("janus.api", ["transformers", "gradio", "diffusers", "ray"]),
    ],
)
def test_imports_stay_light(module: str, heavy: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
