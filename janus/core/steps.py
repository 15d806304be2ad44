"""Decoding steps of a transformer on the CPU by the compiled kernels: all layers in one call.

One by one, the operations of a step would cost more than the work in them where a model is small, and read
memory at a fraction of its speed where it is large.

B batch, T new tokens, D width, C channels of a head.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from janus.config import CoreConfig
from janus.core.attention import GroupedQueryAttention, RMSNorm, Visibility
from janus.core.cache import Cache
from janus.core.mla import LatentAttention
from janus.core.moe import Experts, FeedForward, MoE
from janus.core.quantized import Int4Linear, Int8Linear, IntegerExperts
from janus.core.rope import Rotary
from janus.kernels import native
from janus.kernels.linear import Linear, few

if TYPE_CHECKING:
    from janus.core.transformer import Layer

_SMALL = 1024  # width up to which a step costs less than its operations, whatever the number of rows


class Steps:
    """The layers as the kernels see them.

    Raises UnfitError where they can't take them: other modules (an adapter's, say), sizes or numbers.
    """

    def __init__(self, config: CoreConfig, layers: Sequence[nn.Module], norm: RMSNorm) -> None:
        dtype = norm.weight.dtype
        if native.library() is None or dtype not in native.KINDS:
            raise UnfitError
        self.kind, self._norm, self._config = native.KINDS[dtype], norm, config
        self._among = layers
        self._held = weights(layers, norm)  # so that nobody else gets their memory
        self._at = places(layers, norm)
        self._checked: weakref.ref[Cache] | None = None  # the cache that is going on, if all is as it was
        self._kept: list[ctypes.Array[native.Matrix]] = []  # of experts
        known = cast("Sequence[Layer]", layers)
        self._watched = watched(layers)
        self._layers = (native.Layer * len(known))(*(self._layer(layer) for layer in known))
        self._settings = _settings(config, known, self.kind)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Copies of a model make their own: these are places in memory."""
        return type(None), ()

    def valid(self, cache: Cache) -> bool:
        """Whether the modules are the same, and their weights where they were; asked once for each cache."""
        if cache.length and self._checked is not None and self._checked() is cache:
            return True
        same = self._at == places(self._among, self._norm)
        self._checked = weakref.ref(cache) if same else None
        return same

    def takes(self, x: Tensor, cache: Cache) -> bool:
        """Whether a step of these tokens (B, T, D) is one for the kernels.

        Not where somebody watches a layer, its attention or its feed-forward by a hook.
        """
        if hooked(self._watched):
            return False
        rows = x.shape[0] * x.shape[1]
        most = 64 if self._config.width <= _SMALL or self._config.quantization else few(x.dtype)
        same = x.dtype == cache.layers[0][0].dtype and native.KINDS.get(x.dtype) == self.kind
        return same and x.device.type == "cpu" and rows <= most

    def __call__(self, x: Tensor, angles: dict[str, Rotary], visible: Visibility, cache: Cache) -> Tensor:
        """Embeddings (B, T, D) to what comes after the final norm; writes the cache, but not its length.

        angles: float32, of the kinds of attention in use.
        """
        x = x.contiguous()
        out = torch.empty_like(x)
        cosines, sines = zip(*(_pair(angles.get(kind)) for kind in ("gqa", "mla")), strict=True)
        first = next(iter(angles.values()))[0]
        tokens, mask = x.shape[1], visible.mask
        if visible.causal:
            mask = x.new_ones(1, 1, tokens, cache.length + tokens, dtype=torch.bool).tril(cache.length)
        memory = [tensor.data_ptr() for pair in cache.layers for tensor in pair]
        call = native.Call(
            *(x.data_ptr(), out.data_ptr(), self._norm.weight.data_ptr()),
            *(*x.shape[:2], cache.length, cache.capacity),
            *((ctypes.c_void_p * 2)(*cosines), (ctypes.c_void_p * 2)(*sines)),
            0 if len(first) == 1 else tokens,
            *((None, 0, 0) if mask is None else (mask.data_ptr(), *_strides(mask))),
            (ctypes.c_void_p * len(memory))(*memory),
        )
        native.step(self._settings, self._layers, call)
        return out

    def _layer(self, layer: Layer) -> native.Layer:
        made = native.Layer(norm=self._weight(layer.input_layernorm))
        made.norm_ffn = self._weight(layer.post_attention_layernorm)
        mixer, ffn = layer.self_attn, layer.mlp
        made.o = _matrix(mixer.o_proj)
        if isinstance(mixer, LatentAttention):
            made.latent = 1
            made.q = _matrix(mixer.q_b_proj if mixer.compresses_queries else mixer.q_proj)
            if mixer.compresses_queries:
                made.q_first, made.q_norm = _matrix(mixer.q_a_proj), self._weight(mixer.q_a_layernorm)
            made.k, made.k_norm = _matrix(mixer.kv_a_proj_with_mqa), self._weight(mixer.kv_a_layernorm)
            made.expand = _matrix(mixer.kv_b_proj)
        else:
            made.q, made.k, made.v = (_matrix(m) for m in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
        if not isinstance(ffn, MoE):
            self._feed_forward(made, ffn)
            return made
        if ffn.shared_experts is not None:
            self._feed_forward(made, ffn.shared_experts)
        made.router = _dense(ffn.gate.weight)
        bias = getattr(ffn.gate, "e_score_correction_bias", None)
        made.bias = None if bias is None else bias.data_ptr()
        experts = [(native.Matrix * len(part))(*part) for part in zip(*_experts(ffn.experts), strict=True)]
        self._kept += experts
        made.gates, made.ups, made.downs = experts
        return made

    def _feed_forward(self, made: native.Layer, ffn: FeedForward) -> None:
        made.gate, made.up, made.down = (_matrix(m) for m in (ffn.gate_proj, ffn.up_proj, ffn.down_proj))

    def _weight(self, norm: RMSNorm) -> int:
        if native.KINDS.get(norm.weight.dtype) != self.kind or len(norm.weight) % 8:
            raise UnfitError
        return norm.weight.data_ptr()


def weights(layers: Sequence[nn.Module], norm: nn.Module) -> list[Tensor]:
    return [t for module in (*layers, norm) for t in chain(module.parameters(), module.buffers())]


def places(layers: Sequence[nn.Module], norm: nn.Module) -> list[int]:
    """Which modules there are, and where their weights are."""
    modules = chain(*(layer.modules() for layer in layers))
    return [*map(id, modules), *(tensor.data_ptr() for tensor in weights(layers, norm))]


def watched(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Layers, their attentions and their feed-forwards, which others may watch by a hook."""
    return [part for one in cast("Sequence[Layer]", layers) for part in (one, one.self_attn, one.mlp)]


def hooked(modules: Sequence[nn.Module]) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


class UnfitError(Exception):
    """The kernels can't take this model."""


def _matrix(module: nn.Module) -> native.Matrix:
    known = type(module) in (Int8Linear, Int4Linear) or (type(module) is Linear and module.bias is None)
    return _fit(cast("Linear | Int8Linear | Int4Linear", module).matrix() if known else None)


def _dense(weight: Tensor) -> native.Matrix:
    return _fit(native.dense(weight))


def _fit(made: native.Matrix | None) -> native.Matrix:
    if made is None:
        raise UnfitError
    return made


def _experts(experts: Experts | IntegerExperts) -> Iterator[tuple[native.Matrix, ...]]:
    """Gate, up and down of each."""
    if isinstance(experts, Experts):
        for gate_up, down in zip(experts.gate_up_proj, experts.down_proj, strict=True):
            yield (*(_dense(part) for part in gate_up.chunk(2)), _dense(down))
        return
    for expert in experts:
        assert isinstance(expert, FeedForward)
        yield _matrix(expert.gate_proj), _matrix(expert.up_proj), _matrix(expert.down_proj)


def _settings(config: CoreConfig, layers: Sequence[Layer], kind: int) -> native.Settings:
    grouped = [m for m in (layer.self_attn for layer in layers) if isinstance(m, GroupedQueryAttention)]
    latent = [m for m in (layer.self_attn for layer in layers) if isinstance(m, LatentAttention)]
    made = native.Settings(kind=kind, width=config.width, heads=config.heads, groups=config.num_kv_heads)
    made.eps, made.layers = config.norm_eps, len(layers)
    widths = [config.width]
    if grouped:
        made.head, made.scale = grouped[0].head_dim, grouped[0].scale
        widths.append(made.head)
    if latent:
        one = latent[0]
        made.nope, made.rope, made.value, made.rank = one.nope_dim, one.rope_dim, one.v_dim, one.kv_rank
        made.latent_scale, made.latent_eps = one.scale, one.kv_a_layernorm.eps
        widths += [one.rope_dim, one.v_dim, one.kv_rank]
    if any(width % native.STEPS[kind] for width in widths):
        raise UnfitError
    if config.moe is not None:
        moe = config.moe
        made.experts, made.active = moe.experts, moe.active
        made.expert_groups, made.active_groups = moe.groups, moe.active_groups
        made.sigmoid, made.normalise = int(moe.routing == "sigmoid"), int(moe.normalise)
        made.routed_scale = moe.scale
    return made


def _pair(angles: Rotary | None) -> tuple[int | None, int | None]:
    return (None, None) if angles is None else (angles[0].data_ptr(), angles[1].data_ptr())


def _strides(mask: Tensor) -> tuple[int, int]:
    """From one row to the next, and from one token to the next."""
    return 0 if len(mask) == 1 else mask.stride(0), mask.stride(2)
