"""`python -m janus.train RECIPE.yaml [--stage NAME] [--work DIR]`: all stages one after the other, or one."""

from __future__ import annotations

import argparse
from pathlib import Path

from janus.train.recipe import load_recipe
from janus.train.stages import longer_decoder, train_model
from janus.train.tokenizer import train_tokenizer
from janus.train.vision import train_vision


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m janus.train", description="Train the embedded model.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument(
        "--stage", choices=("tokenizer", "decoder", "vision", "model"), help="default: one after the other"
    )
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "janus" / "train")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    arguments.work.mkdir(parents=True, exist_ok=True)
    stages = {
        "tokenizer": train_tokenizer,
        "decoder": longer_decoder,
        "vision": train_vision,
        "model": train_model,
    }
    for name, train in stages.items():
        if arguments.stage in (None, name):
            train(recipe, arguments.work)


if __name__ == "__main__":
    main()
