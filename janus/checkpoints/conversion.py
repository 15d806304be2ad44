"""From one checkpoint folder to another, tensor by tensor: no model is built, no number changes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from janus.checkpoints import configs, hub, writing
from janus.checkpoints.files import Counted, OnBytes, WeightFiles, some, usual_dtype
from janus.checkpoints.layouts import Layout, Relaid, check_names, official_shapes, on_meta, recipes
from janus.checkpoints.saving import check_layout, write_settings
from janus.checkpoints.writing import SHARD_BYTES
from janus.model import JanusModel


@dataclass(frozen=True)
class Conversion:
    """What was written, and which tensors the new layout has no place for or had to be made up."""

    target: Path
    source_layout: Layout
    layout: Layout
    tensors: int
    dropped: list[str]  # by their name in the source
    filled: list[str]  # by their name in the target; zeros

    def __str__(self) -> str:
        lines = [
            f"{self.target}: {self.tensors} tensors in the {self.layout} layout, "
            f"from the {self.source_layout} one"
        ]
        if self.dropped:
            lines.append(
                f"left out {len(self.dropped)} that the {self.layout} layout has no place for "
                f"and Janus never reads: {some(self.dropped)}"
            )
        if self.filled:
            lines.append(f"filled {len(self.filled)} that Janus never reads with zeros: {some(self.filled)}")
        return "\n".join(lines)


def convert(
    source: str | Path,
    target: str | Path,
    layout: Layout,
    *,
    strict: bool = False,
    revision: str | None = None,
    offline: bool = False,
    shard_bytes: int = SHARD_BYTES,
    on_bytes: OnBytes | None = None,
) -> Conversion:
    """Write the checkpoint `source` (folder or hub id) to the new folder `target` in `layout`.

    Every tensor keeps its type and every bit.  Within a layout all settings files are copied as they
    are; between layouts they are translated.  transformers has no place for the tensors in
    `layouts.UNUSED`: they are left out, and zeros on the way back; with `strict` that raises instead.
    `on_bytes(done, total)` follows the writing of weights.

    Raises ValueError as `load` and `save` do; then nothing is written.
    """
    check_layout(layout)
    target = Path(target)
    writing.check_free(target)
    folder = hub.locate(source, revision=revision, offline=offline)
    settings = configs.read(folder)
    weights = WeightFiles(folder)
    official = official_shapes(on_meta(lambda: JanusModel(settings.config)))
    check_names(weights.infos, official, settings.layout, settings.tied, folder)

    made = recipes(official, settings.layout, layout, weights.infos)
    if layout == settings.layout:
        made = {key: recipe for key, recipe in made.items() if key in weights.infos}
    tensors = Relaid(weights, made)
    used = {key for recipe in made.values() for key in recipe.keys}
    dropped = sorted(weights.infos.keys() - used)
    filled = sorted(key for key, recipe in made.items() if not recipe.keys)
    report = Conversion(target, settings.layout, layout, len(made), dropped, filled)
    if strict and (dropped or filled):
        raise ValueError(
            f"strict: the {settings.layout} layout and the {layout} one differ by {len(dropped + filled)} "
            f"tensors, which would be {'left out' if dropped else 'filled with zeros'}: "
            f"{some(dropped + filled)}"
        )
    with writing.new_folder(target) as partial:
        if layout == settings.layout:
            _copy_settings(folder, partial)
        else:
            dtype = settings.dtype or usual_dtype(weights.infos)
            write_settings(partial, settings.config, dtype, layout, folder)
        writing.write(partial, tensors if on_bytes is None else Counted(tensors, on_bytes), shard_bytes)
    return report


def _copy_settings(source: Path, target: Path) -> None:
    """All files at the top of the folder but weights, their indices and hidden ones."""
    for path in sorted(source.iterdir()):
        weights = path.suffix in (".safetensors", ".bin") or path.name.endswith(".index.json")
        if path.is_file() and not weights and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)
