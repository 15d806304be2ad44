"""The model that ships with the package: its recipes lead to it, and it draws and answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from janus import Janus, checkpoints
from janus.config import dataclass_from_dict
from janus.train.patches import VISION, VisionRecipe
from janus.train.plan import MODEL, TrainRecipe, read_recipe
from janus.train.vq_recipe import TOKENIZER, TokenizerRecipe

FOLDER = Path(__file__).parents[1] / "recipes" / "embedded"
KINDS = {MODEL: TrainRecipe, TOKENIZER: TokenizerRecipe, VISION: VisionRecipe}


@pytest.fixture(scope="module")
def janus() -> Janus:
    return Janus.from_pretrained(dtype="float32", device="cpu")


def test_its_recipes_lead_to_it(janus: Janus) -> None:
    """Each begins with what one before it leaves, and the sizes are those of what ships."""
    left: list[str] = []
    sizes = None
    for path in sorted(FOLDER.glob("*.yaml")):
        kind, values = read_recipe(path)
        recipe = dataclass_from_dict(KINDS[kind], values, path.name)
        new = getattr(recipe, "new", None)
        if isinstance(recipe, TrainRecipe) and new is not None:
            sizes = new.config
        begins = [recipe.model] if recipe.model else getattr(new, "weights", ())
        assert all(any(part.startswith(f"{out}/") for out in left) for part in begins), path.name
        left.append(recipe.out)
    assert sizes is not None
    assert sizes == janus.config


def test_it_is_small(janus: Janus) -> None:
    files = list(checkpoints.EMBEDDED.iterdir())
    assert sum(file.stat().st_size for file in files) < 40e6
    config = json.loads((checkpoints.EMBEDDED / "config.json").read_text(encoding="utf-8"))
    assert config["torch_dtype"] == "bfloat16"


def test_it_draws_and_answers(janus: Janus) -> None:
    """What `make demo` promises."""
    things = ["an apple", "a car", "a banana", "an umbrella", "a clock", "a red bus", "a cat", "a pizza"]
    drawn = [pictures[0] for pictures in janus.generate_images([f"a photo of {t}" for t in things], seed=0)]
    answers = janus.chat_batch(["What is in the picture?"] * len(things), [[p] for p in drawn])
    assert sum(a == b for a, b in zip(answers, things, strict=True)) >= 6, answers
