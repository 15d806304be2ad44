"""Reading and writing weights: folders and hub ids, the official and the transformers layout."""

from pathlib import Path

from janus.checkpoints.files import SHARD_BYTES
from janus.checkpoints.layouts import LAYOUTS, Layout
from janus.checkpoints.loading import Summary, inspect, load
from janus.checkpoints.saving import save

EMBEDDED = Path(__file__).parent.parent / "embedded"  # the model that ships with the package

__all__ = ["EMBEDDED", "LAYOUTS", "SHARD_BYTES", "Layout", "Summary", "inspect", "load", "save"]
