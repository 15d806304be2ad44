"""The tensors of each layout: their names and shapes, and how one layout's are made of the other's.

The official layout's names are those of `JanusModel`, with one tensor per expert and a leftover that
nothing reads.  The transformers layout renames them, stores SigLIP's query, key and value apart, and
has no place for the tensors in `UNUSED`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from janus.checkpoints.files import Info, Tensors, WeightFiles, check
from janus.core.published import split_experts
from janus.model import JanusModel

Layout = Literal["official", "transformers"]
Shapes = Mapping[str, tuple[int, ...]]

CODEBOOK_USED = "gen_vision_model.quantize.codebook_used"
CODEBOOK_USED_SHAPE = (65536,)
TIED_HEAD = "lm_head.weight"  # transformers' name
_POOL = "vision_model.vision_tower.attn_pool."

# What Janus never reads: SigLIP's pooling head and a count of used codes that nothing updates.  Their
# absence is accepted, and where a layout wants them they are zeros of the type of a neighbour.
UNUSED = {
    f"{_POOL}{name}": "vision_model.vision_tower.norm.weight"
    for name in (
        "latent",
        "q.weight",
        "q.bias",
        "kv.weight",
        "kv.bias",
        "proj.weight",
        "proj.bias",
        "norm.weight",
        "norm.bias",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "mlp.fc2.weight",
        "mlp.fc2.bias",
    )
} | {CODEBOOK_USED: "gen_vision_model.quantize.embedding.weight"}

# Official names to transformers' ones.  The first pattern that matches the beginning of a name replaces
# it; what follows stays.
_TOWER = "model.vision_model."
_RENAMED = (
    (r"vision_model\.vision_tower\.pos_embed", f"{_TOWER}embeddings.position_embedding.weight"),
    (r"vision_model\.vision_tower\.patch_embed\.proj\.", f"{_TOWER}embeddings.patch_embedding."),
    (r"vision_model\.vision_tower\.blocks\.(\d+)\.norm(\d)\.", rf"{_TOWER}encoder.layers.\1.layer_norm\2."),
    (
        r"vision_model\.vision_tower\.blocks\.(\d+)\.attn\.proj\.",
        rf"{_TOWER}encoder.layers.\1.self_attn.projection_layer.",
    ),
    (
        r"vision_model\.vision_tower\.blocks\.(\d+)\.attn\.qkv\.",
        rf"{_TOWER}encoder.layers.\1.self_attn.*_proj.",  # * is q, k and v
    ),
    (r"vision_model\.vision_tower\.blocks\.(\d+)\.mlp\.", rf"{_TOWER}encoder.layers.\1.mlp."),
    (r"vision_model\.vision_tower\.norm\.", f"{_TOWER}post_layernorm."),
    (r"gen_vision_model\.encoder\.conv_blocks\.(\d+)\.res\.", r"model.vqmodel.encoder.down.\1.block."),
    (r"gen_vision_model\.encoder\.conv_blocks\.", "model.vqmodel.encoder.down."),
    (r"gen_vision_model\.decoder\.conv_blocks\.(\d+)\.res\.", r"model.vqmodel.decoder.up.\1.block."),
    (r"gen_vision_model\.decoder\.conv_blocks\.", "model.vqmodel.decoder.up."),
    (r"gen_vision_model\.(encoder|decoder)\.mid\.0\.", r"model.vqmodel.\1.mid.block_1."),
    (r"gen_vision_model\.(encoder|decoder)\.mid\.1\.", r"model.vqmodel.\1.mid.attn_1."),
    (r"gen_vision_model\.(encoder|decoder)\.mid\.2\.", r"model.vqmodel.\1.mid.block_2."),
    (r"gen_vision_model\.", "model.vqmodel."),
    (r"gen_embed\.", "model.generation_embeddings."),
    (r"gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
    (r"gen_head\.vision_head\.", "model.generation_head.vision_head."),
    (r"language_model\.lm_head\.", "lm_head."),
    (r"language_model\.model\.", "model.language_model."),
)
_ALIGNER = re.compile(r"(gen_)?aligner\.layers\.(\d+)\.")  # linear layers at even places, GELUs between


@dataclass(frozen=True)
class Recipe:
    """How to make a tensor of `shape`: the tensors `keys` joined along their first dimension, of that the
    `block`-th of `blocks` equal parts.  Without keys: zeros, of the type of the tensor `like`."""

    shape: tuple[int, ...]
    keys: tuple[str, ...] = ()
    block: int = 0
    blocks: int = 1
    like: str = ""


@dataclass
class Relaid:
    """`Tensors` of another layout, made one at a time from `source`.

    Raises ValueError where tensors that become one are stored in different types.
    """

    source: Tensors
    recipes: Mapping[str, Recipe]
    infos: dict[str, Info] = field(init=False)

    def __post_init__(self) -> None:
        self.infos = {}
        for key, recipe in self.recipes.items():
            names = recipe.keys or (recipe.like,)
            types = {self.source.infos[name].dtype for name in names}
            if len(types) > 1:
                raise ValueError(f"{', '.join(names)} must be of one type to become {key}, not of {types}")
            self.infos[key] = Info(recipe.shape, types.pop())

    def read(self, key: str) -> Tensor:
        recipe = self.recipes[key]
        if not recipe.keys:
            return torch.zeros(recipe.shape, dtype=self.infos[key].dtype)
        if len(recipe.keys) == 1:
            value = self.source.read(recipe.keys[0])
        else:  # what is copied need not stay mapped
            read = self.source.glance if isinstance(self.source, WeightFiles) else self.source.read
            value = torch.cat([read(name) for name in recipe.keys])
        return value.chunk(recipe.blocks)[recipe.block].reshape(recipe.shape)


class _NoValues(TorchFunctionMode):
    """Initialising parameters does nothing: on the meta device it costs seconds and has no effect."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


T = TypeVar("T", bound=nn.Module)


def on_meta(build: Callable[[], T]) -> T:
    """A model whose tensors have shapes and no memory."""
    with torch.device("meta"), _NoValues():
        return build()


def official_shapes(model: JanusModel) -> Shapes:
    """Name and shape of every tensor of a model in the official layout."""
    shapes = {key: tuple(value.shape) for key, value in split_experts(model.state_dict()).items()}
    return shapes | {CODEBOOK_USED: CODEBOOK_USED_SHAPE}


def recipes(official: Shapes, source: Layout, target: Layout, have: Container[str]) -> dict[str, Recipe]:
    """How to make each tensor of the layout `target` from those that a checkpoint in the layout `source`
    has, given all `official` ones.

    Tensors of `UNUSED` that it lacks become zeros; a tied head that it lacks, the embedding.
    """
    out = {}
    for key, shape in official.items():
        pieces = _in_transformers(key, shape)
        names = [name for name, _ in pieces]
        if target == "transformers":
            for block, (name, piece) in enumerate(pieces):
                where = (key, block, len(pieces)) if source == "official" else (name, 0, 1)
                out[name] = Recipe(piece, (where[0],), *where[1:])
        else:
            keys = tuple(names) if source == "transformers" else (key,)
            absent = key in UNUSED and not any(k in have for k in keys)
            like = _named(UNUSED[key], source) if absent else ""
            out[key] = Recipe(shape, () if absent else keys, like=like)
    if source == "transformers" and TIED_HEAD not in have:
        head = TIED_HEAD if target == "transformers" else "language_model.lm_head.weight"
        out[head] = Recipe(out[head].shape, (_named("language_model.model.embed_tokens.weight", source),))
    return out


def check_names(
    infos: Mapping[str, Info], official: Shapes, layout: Layout, tied: bool, where: object
) -> None:
    """Raises ValueError listing unknown, missing and misshapen tensors.

    Only what Janus never reads (`UNUSED`) may be missing and, in the transformers layout, the head of a
    checkpoint that says it is `tied` to the embedding.
    """
    expected = dict(official)
    if layout == "transformers":
        expected = {n: shape for key in official for n, shape in _in_transformers(key, official[key])}
    optional = set(UNUSED) | ({TIED_HEAD} if tied and layout == "transformers" else set())
    for key in optional - infos.keys():
        expected.pop(key, None)
    check(infos, expected, where)


def _named(key: str, layout: Layout) -> str:
    """The name in `layout` of an official tensor that is whole in both."""
    return key if layout == "official" else _in_transformers(key, ())[0][0]


def _in_transformers(key: str, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of what an official tensor is in the transformers layout: nothing, itself, or the
    three parts of SigLIP's query-key-value matrices."""
    if key in UNUSED:
        return []
    if match := _ALIGNER.match(key):
        place = int(match[2]) // 2
        layer = "fc1" if place == 0 else f"hidden_layers.{place - 1}"
        part = "generation_aligner" if match[1] else "aligner"
        return [(f"model.{part}.{layer}.{key[match.end() :]}", shape)]
    for pattern, name in _RENAMED:
        if match := re.match(pattern, key):
            name = match.expand(name) + key[match.end() :]
            break
    else:
        raise AssertionError(f"no rule for {key}")
    if "*" in name:
        third = (shape[0] // 3, *shape[1:])
        return [(name.replace("*", letter), third) for letter in "qkv"]
    if name.endswith("position_embedding.weight"):
        shape = shape[1:]  # the official one has a batch dimension of 1
    return [(name, shape)]
