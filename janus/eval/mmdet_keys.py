"""The published detector's checkpoint, of mmdet 2.x, named and laid out as transformers has it.

mmdet's `backbone` and `panoptic_head` are the same network as transformers' Mask2Former with Swin, but for
- names;
- query, key and value of Swin's attention and of the decoder's self-attention, one matrix in mmdet, three in
  transformers;
- the merging of patches, where mmdet has the four neighbours of a channel together, in rows (`nn.Unfold`),
  and transformers all channels of a neighbour, in columns;
- the index of relative positions, a constant, which mmdet stores.
Classes are in COCO's order in both, the background last.

Source: mmdet 2.28.2, models/backbones/swin.py, models/dense_heads/mask2former_head.py,
models/plugins/msdeformattn_pixel_decoder.py.  The names on the other side are those of the checkpoints on the
hub, which every version of transformers reads.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from janus.checkpoints.files import some

OFFICIAL = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
OFFICIAL_SHA256 = "743b7d99"  # its beginning, which is how the publisher names a file
LEVELS, POINTS = 3, 4  # of deformable attention, in every Mask2Former
_ENCODER = "model.pixel_level_module.encoder."
_PIXELS = "model.pixel_level_module.decoder."
_QUERIES = "model.transformer_module."


@dataclass(frozen=True)
class Sizes:
    """Of a Mask2Former with Swin; the defaults are those of the published detector."""

    swin_width: int = 96  # of the first stage, doubled by each other one
    swin_depths: tuple[int, int, int, int] = (2, 2, 18, 2)
    swin_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window: int = 7
    width: int = 256  # of features, queries and masks
    heads: int = 8
    encoder_depth: int = 6
    encoder_ffn: int = 1024
    decoder_depth: int = 9
    decoder_ffn: int = 2048
    queries: int = 100
    classes: int = 80


class Row(NamedTuple):
    """One tensor of mmdet's and what it is in transformers."""

    name: str
    shape: tuple[int, ...]
    names: tuple[str, ...]  # several: the tensor's equal parts along the first axis; none: nothing
    turned: Callable[[Tensor], Tensor] = torch.Tensor.contiguous


def rows(sizes: Sizes) -> Iterator[Row]:
    """The whole table."""
    yield from _swin(sizes)
    yield from _pixel_decoder(sizes)
    yield from _decoder(sizes)


def converted(state: Mapping[str, Any], sizes: Sizes, where: object) -> dict[str, Tensor]:
    """mmdet's tensors as transformers wants them, in float32.

    Raises ValueError listing unknown, missing and misshapen tensors, and those with numbers that are none.
    """
    table = {row.name: row for row in rows(sizes)}
    wrong = [
        f"{len(names)} {what}: {some(names)}"
        for what, names in (
            ("unknown", sorted(state.keys() - table.keys())),
            ("missing", sorted(table.keys() - state.keys())),
            ("misshapen", [_misshapen(row, state[name]) for name, row in table.items() if _bad(row, state)]),
        )
        if names
    ]
    if wrong:
        raise ValueError(
            f"{where} is no checkpoint of mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco by mmdet 2.x; "
            + "; ".join(wrong)
        )
    result: dict[str, Tensor] = {}
    for name, row in table.items():
        if row.names:
            parts = row.turned(state[name].float()).chunk(len(row.names))
            result |= {new: part.contiguous() for new, part in zip(row.names, parts, strict=True)}
        elif not torch.equal(state[name], relative_positions(sizes.window)):
            raise ValueError(f"{name} in {where} numbers relative positions in another order")
    return result


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a `.pth` file of mmdet's and the file's SHA-256.

    Beside them the file holds strings and numbers about the training.  Nothing else is let in: a pickle could
    run code.  Raises ValueError where there is more, and for damaged files, other files and other classes; a
    name that ends like OpenMMLab's, in the beginning of the file's SHA-256, must be right about that.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if (name := re.search(r"-([0-9a-f]{8})\.pth$", path.name)) and not digest.startswith(name[1]):
            raise ValueError(f"its SHA-256 should begin with {name[1]}, by its name, and begins {digest[:8]}")
        with torch.serialization.safe_globals(_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, strings and numbers and was not loaded, for it could run code: "
            f"{_reason(error)}"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or not what it says: {_reason(error)}") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is no checkpoint of mmdet's: it has no state_dict of tensors")
    meta = content.get("meta")
    classes = meta.get("CLASSES") if isinstance(meta, dict) else None
    if classes is not None:
        check_classes(list(classes), path)
    return dict(state), digest


def check_classes(classes: list[Any], where: object) -> None:
    """Raises ValueError unless the classes are COCO's eighty, in its order."""
    from janus.data.subjects import NAMES

    names = [geneval_name(name) for name in classes]
    if names != list(NAMES):
        odd = [f"{n}: {name}" for n, (name, own) in enumerate(zip(names, NAMES, strict=False)) if name != own]
        raise ValueError(
            f"the {len(names)} classes of {where} are not COCO's eighty in its order"
            + (f"; wrong are {some(odd, 5)}" if odd else "")
        )


def geneval_name(name: object) -> str:
    """GenEval's name for a class of COCO's, which may be spelt as in Pascal VOC or with underscores."""
    spelt = str(name).replace("_", " ")
    return _SPELLINGS.get(spelt, spelt)


_SPELLINGS = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}


def _bad(row: Row, state: Mapping[str, Any]) -> bool:
    value = state.get(row.name)
    return value is not None and (tuple(value.shape) != row.shape or not bool(value.isfinite().all()))


def _misshapen(row: Row, value: Tensor) -> str:
    if tuple(value.shape) != row.shape:
        return f"{row.name} is {list(value.shape)} instead of {list(row.shape)}"
    return f"{row.name} has numbers that are infinite or none"


def _numbers() -> list[Any]:
    """What numpy needs to give back one number that was pickled; versions name it differently."""
    scalar: Any = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = {type(np.dtype(kind)) for kind in ("?", "i4", "i8", "f4", "f8")}
    return [*((scalar, name) for name in names), np.dtype, *kinds]


def _reason(error: Exception) -> str:
    """The line of a long message that says what was wrong."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return next((line for line in lines if "unsupported" in line.lower()), (lines or ["?"])[0])


# -- the table ----------------------------------------------------------------------------------


def _named(old: str, new: str, *shape: int, bias: bool = True) -> Iterator[Row]:
    yield Row(f"{old}.weight", shape, (f"{new}.weight",))
    if bias:
        yield Row(f"{old}.bias", shape[:1], (f"{new}.bias",))


def _norm(old: str, new: str, width: int) -> Iterator[Row]:
    return _named(old, new, width)


def _split(old: str, new: tuple[str, str, str], width: int, mark: str = ".") -> Iterator[Row]:
    """Query, key and value in one.  mark: what stands before `weight` and `bias`."""
    yield Row(f"{old}{mark}weight", (3 * width, width), tuple(f"{name}.weight" for name in new))
    yield Row(f"{old}{mark}bias", (3 * width,), tuple(f"{name}.bias" for name in new))


def _ffn(old: str, first: str, second: str, width: int, inner: int) -> Iterator[Row]:
    yield from _named(f"{old}.layers.0.0", first, inner, width)
    yield from _named(f"{old}.layers.1", second, width, inner)


def _swin(sizes: Sizes) -> Iterator[Row]:
    first = sizes.swin_width
    yield from _named("backbone.patch_embed.projection", f"{_ENCODER}embeddings.patch_embeddings.projection",
                      first, 3, 4, 4)  # fmt: skip
    yield from _norm("backbone.patch_embed.norm", f"{_ENCODER}embeddings.norm", first)
    for stage, depth in enumerate(sizes.swin_depths):
        width = first * 2**stage
        for block in range(depth):
            yield from _swin_block(sizes, stage, block, width)
        if stage + 1 < len(sizes.swin_depths):
            old, new = f"backbone.stages.{stage}.downsample", f"{_ENCODER}encoder.layers.{stage}.downsample"
            for name in ("norm.weight", "norm.bias"):
                yield Row(f"{old}.{name}", (4 * width,), (f"{new}.{name}",), merged)
            name = "reduction.weight"
            yield Row(f"{old}.{name}", (2 * width, 4 * width), (f"{new}.{name}",), merged)
        yield from _norm(f"backbone.norm{stage}", f"{_ENCODER}hidden_states_norms.stage{stage + 1}", width)


def _swin_block(sizes: Sizes, stage: int, block: int, width: int) -> Iterator[Row]:
    old, new = f"backbone.stages.{stage}.blocks.{block}", f"{_ENCODER}encoder.layers.{stage}.blocks.{block}"
    attention, own = f"{old}.attn.w_msa", f"{new}.attention"
    window, table = sizes.window, "relative_position_bias_table"
    yield Row(
        f"{attention}.{table}", ((2 * window - 1) ** 2, sizes.swin_heads[stage]), (f"{own}.self.{table}",)
    )
    yield Row(f"{attention}.relative_position_index", (window**2, window**2), ())
    yield from _split(
        f"{attention}.qkv", (f"{own}.self.query", f"{own}.self.key", f"{own}.self.value"), width
    )
    yield from _named(f"{attention}.proj", f"{own}.output.dense", width, width)
    yield from _ffn(f"{old}.ffn", f"{new}.intermediate.dense", f"{new}.output.dense", width, 4 * width)
    yield from _norm(f"{old}.norm1", f"{new}.layernorm_before", width)
    yield from _norm(f"{old}.norm2", f"{new}.layernorm_after", width)


def _pixel_decoder(sizes: Sizes) -> Iterator[Row]:
    head, width = "panoptic_head.pixel_decoder", sizes.width
    for level in range(LEVELS):  # the coarsest first, in both
        old, new = f"{head}.input_convs.{level}", f"{_PIXELS}input_projections.{level}"
        yield from _named(f"{old}.conv", f"{new}.0", width, sizes.swin_width * 2 ** (LEVELS - level), 1, 1)
        yield from _norm(f"{old}.gn", f"{new}.1", width)
    for layer in range(sizes.encoder_depth):
        old, new = f"{head}.encoder.layers.{layer}", f"{_PIXELS}encoder.layers.{layer}"
        samples = sizes.heads * LEVELS * POINTS
        for name, count in (
            ("sampling_offsets", 2 * samples),
            ("attention_weights", samples),
            ("value_proj", width),
            ("output_proj", width),
        ):
            yield from _named(f"{old}.attentions.0.{name}", f"{new}.self_attn.{name}", count, width)
        yield from _ffn(f"{old}.ffns.0", f"{new}.fc1", f"{new}.fc2", width, sizes.encoder_ffn)
        yield from _norm(f"{old}.norms.0", f"{new}.self_attn_layer_norm", width)
        yield from _norm(f"{old}.norms.1", f"{new}.final_layer_norm", width)
    yield Row(f"{head}.level_encoding.weight", (LEVELS, width), (f"{_PIXELS}level_embed",))
    for old, new, inner, side in (
        ("lateral_convs", "adapter_1", sizes.swin_width, 1),
        ("output_convs", "layer_1", width, 3),
    ):
        yield from _named(f"{head}.{old}.0.conv", f"{_PIXELS}{new}.0", width, inner, side, side, bias=False)
        yield from _norm(f"{head}.{old}.0.gn", f"{_PIXELS}{new}.1", width)
    yield from _named(f"{head}.mask_feature", f"{_PIXELS}mask_projection", width, width, 1, 1)


def _decoder(sizes: Sizes) -> Iterator[Row]:
    head, width = "panoptic_head", sizes.width
    for layer in range(sizes.decoder_depth):
        old, new = f"{head}.transformer_decoder.layers.{layer}", f"{_QUERIES}decoder.layers.{layer}"
        cross, own = f"{old}.attentions.0.attn", f"{old}.attentions.1.attn"
        yield Row(f"{cross}.in_proj_weight", (3 * width, width), (f"{new}.cross_attn.in_proj_weight",))
        yield Row(f"{cross}.in_proj_bias", (3 * width,), (f"{new}.cross_attn.in_proj_bias",))
        yield from _named(f"{cross}.out_proj", f"{new}.cross_attn.out_proj", width, width)
        q, k, v = (f"{new}.self_attn.{name}_proj" for name in "qkv")
        yield from _split(f"{own}.in_proj", (q, k, v), width, mark="_")
        yield from _named(f"{own}.out_proj", f"{new}.self_attn.out_proj", width, width)
        yield from _ffn(f"{old}.ffns.0", f"{new}.fc1", f"{new}.fc2", width, sizes.decoder_ffn)
        for number, name in enumerate(("cross_attn_layer_norm", "self_attn_layer_norm", "final_layer_norm")):
            yield from _norm(f"{old}.norms.{number}", f"{new}.{name}", width)
    yield from _norm(f"{head}.transformer_decoder.post_norm", f"{_QUERIES}decoder.layernorm", width)
    for old, new, count in (
        ("query_embed", "queries_embedder", sizes.queries),  # the places
        ("query_feat", "queries_features", sizes.queries),
        ("level_embed", "level_embed", LEVELS),
    ):
        yield from _named(f"{head}.{old}", f"{_QUERIES}{new}", count, width, bias=False)
    yield from _named(f"{head}.cls_embed", "class_predictor", sizes.classes + 1, width)
    for layer in range(3):
        new = f"{_QUERIES}decoder.mask_predictor.mask_embedder.{layer}.0"
        yield from _named(f"{head}.mask_embed.{2 * layer}", new, width, width)


def merged(value: Tensor) -> Tensor:
    """The last axis, (channel, row, column), to (column, row, channel)."""
    *outer, inner = value.shape
    order = value.reshape(*outer, inner // 4, 2, 2).transpose(-1, -3)
    return order.reshape(value.shape)


def relative_positions(window: int) -> Tensor:
    """Rows of the table of relative positions, for each two places of a window."""
    place = torch.arange(window)
    apart = place[:, None] - place + window - 1  # (to, from)
    index = apart[:, None, :, None] * (2 * window - 1) + apart[None, :, None, :]
    return index.reshape(window**2, window**2)
