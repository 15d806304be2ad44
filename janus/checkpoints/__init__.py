"""Reading and writing weights: folders and hub ids, the official and the transformers layout."""

from pathlib import Path

from janus.checkpoints.conversion import Conversion, convert
from janus.checkpoints.deepseek import load_language_model
from janus.checkpoints.layouts import Layout
from janus.checkpoints.loading import Summary, inspect, load
from janus.checkpoints.saving import save
from janus.checkpoints.writing import SHARD_BYTES

EMBEDDED = Path(__file__).parent.parent / "embedded"  # the model that ships with the package

__all__ = [
    "EMBEDDED",
    "SHARD_BYTES",
    "Conversion",
    "Layout",
    "Summary",
    "convert",
    "inspect",
    "load",
    "load_language_model",
    "save",
]
