"""The one transformer: every layer's attention and feed-forward are named by the config.

B batch, T tokens, D width, E experts.  Parameter names are those of the published Llama and DeepSeek
checkpoints, so a state dict needs only `published.stack_experts` in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from janus.config import CoreConfig
from janus.core import graphs
from janus.core.attention import GroupedQueryAttention, RMSNorm, Visibility, visibility
from janus.core.cache import Cache
from janus.core.graphs import Graphs, Shelf
from janus.core.mla import LatentAttention
from janus.core.moe import FeedForward, MoE, Samples, number_samples
from janus.core.quantized import Quantization, quantize
from janus.core.rope import Rotary, rotary
from janus.core.steps import Steps, UnfitError
from janus.kernels.linear import Linear


class Layer(nn.Module):
    """Attention, then a feed-forward, each on the normalised stream and added to it."""

    def __init__(self, config: CoreConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.attention_kind = config.attention[index]
        self.self_attn = (
            LatentAttention(config) if self.attention_kind == "mla" else GroupedQueryAttention(config)
        )
        self.mlp = (
            MoE(config)
            if config.feed_forward[index] == "moe"
            else FeedForward(config.width, config.ffn_width)
        )
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        angles: dict[str, Rotary],
        visible: Visibility,
        cache: Cache | None,
        samples: Samples | None,
    ) -> Tensor:
        attention_angles = angles[self.attention_kind]
        x = x + self.self_attn(self.input_layernorm(x), attention_angles, visible, cache, self.index)
        normed = self.post_attention_layernorm(x)
        return x + (self.mlp(normed, samples) if isinstance(self.mlp, MoE) else self.mlp(normed))


class Transformer(nn.Module):
    """Decoder from embeddings to the final norm; the heads on top belong to others."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self._shelf = Shelf()
        self._compiled: Steps | Literal[False] | None = None  # of decoding on the CPU; False: not possible
        if config.quantization is not None:
            quantize(self.layers, config.quantization)

    def quantize(self, kind: Quantization) -> None:
        """Store the layers' matrices in few bits, in place (see `janus.core.quantized`).

        Raises ValueError for an unknown kind, a core that is quantised already, and sizes that int4 cannot
        hold.
        """
        if self.config.quantization is not None:
            raise ValueError(
                f"the weights are {self.config.quantization} already; make {kind} of the original ones"
            )
        quantize(self.layers, kind)
        self._compiled, self._shelf = None, Shelf()
        self.config = replace(self.config, quantization=kind)

    def forward(
        self,
        x: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: Cache | None = None,
        branches: Tensor | None = None,
    ) -> Tensor:
        """Embeddings (B, T, D) -> hidden states (B, T, D) after the final norm.

        positions: (B, T), by default 0 to T - 1, counted on from the cache's length.
        segments: (B, T), the sample each token belongs to; a token attends the slots up to its own of
            its own sample.  0 is padding, which sees only padding.  None is sample 1 throughout.
        cache: read, and extended by these T tokens.
        branches: (B, T), for training: of its sample a token sees its own branch and branch 0 only, as if
            each branch alone had followed branch 0.

        Raises ValueError if shapes disagree, the cache is full or would have to keep branches apart, or a
        row without segments or positions is longer than the model's context.
        """
        batch, tokens, _ = x.shape
        self._check(x, positions, segments, cache, branches)
        if positions is None:
            start = 0 if cache is None else cache.length
            positions = torch.arange(start, start + tokens, device=x.device)[None]
        if cache is not None:
            cache.begin(batch, tokens, segments)
        visible = visibility(x, segments, cache, branches)
        if cache is not None and (steps := self._steps(x, cache)) is not None:
            out = steps(x, self._angles(positions, torch.float32), visible, cache)
            cache.advance(tokens)
            return out
        recorded = None
        if cache is not None and cache.graphs is not None and cache.length and not torch.is_grad_enabled():
            recorded = cache.graphs(self._through, x, positions, cache.length)
        samples = None
        if self.training and self._moes():
            samples = number_samples(batch, tokens, segments, x.device)
        x = self._through(x, positions, visible, cache, samples) if recorded is None else recorded
        if cache is not None:
            cache.advance(tokens)
        return x

    def _through(
        self,
        x: Tensor,
        positions: Tensor,
        visible: Visibility,
        cache: Cache | None,
        samples: Samples | None = None,
    ) -> Tensor:
        """All layers, module by module, and the norm."""
        angles = self._angles(positions, x.dtype)
        for layer in self.layers:
            x = layer(x, angles, visible, cache, samples)
        return self.norm(x)

    def cache(self, batch: int, capacity: int) -> Cache:
        """Memory for decoding so many tokens at least; where steps are recorded, what `keep` kept if it fits.

        Raises ValueError for no rows or no slots.
        """
        like = self.norm.weight
        records = graphs.usable(like.device) and not self._moes()  # which experts to call, the host decides
        if records:
            capacity = -(-capacity // graphs.BUCKET) * graphs.BUCKET
        kept, self._shelf.cache = self._shelf.cache, None
        same = kept is not None and (kept.rows, kept.capacity) == (batch, capacity)
        if same and kept is not None and kept.graphs is not None and kept.graphs.valid():
            kept.reset()
            kept.use(batch)
            return kept
        del kept  # before there is another one
        made = Cache(self.config, batch, capacity, dtype=like.dtype, device=like.device)
        if records:
            made.graphs = Graphs([*self.layers], self.norm, made)
        return made

    def keep(self, cache: Cache) -> None:
        """Take back what `cache` gave, with the steps that were recorded for it."""
        if cache.graphs is not None:
            self._shelf.cache = cache

    @property
    def kept_bytes(self) -> int:
        """Of memory that `cache` gives again, or frees."""
        return 0 if self._shelf.cache is None else self._shelf.cache.bytes

    def _steps(self, x: Tensor, cache: Cache) -> Steps | None:
        """What takes these tokens in one call, if anything can."""
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return None
        if self._compiled is None or (self._compiled and not self._compiled.valid(cache)):
            try:
                self._compiled = Steps(self.config, [*self.layers], self.norm)
            except UnfitError:
                self._compiled = False
        return self._compiled if self._compiled and self._compiled.takes(x, cache) else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Transformer:
        self._compiled, self._shelf = None, Shelf()
        super()._apply(fn, recurse)
        return self

    def _check(
        self,
        x: Tensor,
        positions: Tensor | None,
        segments: Tensor | None,
        cache: Cache | None,
        branches: Tensor | None,
    ) -> None:
        if branches is not None and cache is not None:
            raise ValueError("branches are for training; a cache holds one continuation of each row")
        for name, value in (("positions", positions), ("segments", segments), ("branches", branches)):
            if value is not None and value.shape != x.shape[:2]:
                raise ValueError(
                    f"{name} are {tuple(value.shape)}, but there are {tuple(x.shape[:2])} tokens"
                )
        end = x.shape[1] + (0 if cache is None else cache.length)
        if positions is None and segments is None and end > self.config.max_positions:
            raise ValueError(f"{end} tokens exceed the model's context of {self.config.max_positions}")

    def _angles(self, positions: Tensor, dtype: torch.dtype) -> dict[str, Rotary]:
        """The rotary angles of each kind of attention in use, once for all layers."""
        config = self.config
        widths = {"gqa": 0 if "gqa" not in config.attention else config.gqa_head_dim}
        widths["mla"] = 0 if config.mla is None else config.mla.rope_dim
        return {
            kind: rotary(positions, widths[kind], config.rope_theta, config.yarn, dtype)
            for kind in sorted(set(config.attention))
        }

    def _moes(self) -> list[MoE]:
        return [layer.mlp for layer in self.layers if isinstance(layer.mlp, MoE)]

    def balance_loss(self) -> Tensor:
        """The last training forward's sequence-wise balance loss, weighted and summed over layers; a scalar.

        Zero for a model without experts; ValueError before any training forward.
        """
        losses = [moe.last_balance_loss for moe in self._moes()]
        known = [loss for loss in losses if loss is not None]
        if len(known) < len(losses):
            raise ValueError("the balance loss is that of the last training forward, and there was none")
        return torch.stack(known).sum() if known else self.norm.weight.new_zeros(())

    def expert_counts(self) -> Tensor:
        """(mixture layers, E): how many tokens of the last training forward chose each expert."""
        counts = [moe.last_counts for moe in self._moes()]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts):
            raise ValueError("expert counts are those of the last training forward, and there was none")
        if not known:
            raise ValueError("this model has no mixture-of-experts layer")
        return torch.stack(known)

    def update_expert_bias(self, counts: Tensor) -> None:
        """V3's balancing step, outside the gradient: `counts` as `expert_counts` gives, or sums of it.

        The V2 routing has no bias and stays as it is.
        """
        moes = self._moes()
        expected = (len(moes), 0 if self.config.moe is None else self.config.moe.experts)
        if tuple(counts.shape) != expected:
            raise ValueError(f"counts are {tuple(counts.shape)}, (mixture layers, experts) is {expected}")
        for moe, count in zip(moes, counts, strict=True):
            moe.update_bias(count)


class LanguageModel(nn.Module):
    """The transformer with its head over the vocabulary (not tied to the embedding)."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.model = Transformer(config)
        self.lm_head = Linear(config.width, config.vocab_size, bias=False)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Ids (B, T) -> logits (B, T, vocabulary); the rest as in `Transformer.forward`."""
        return self.lm_head(self.model(self.model.embed_tokens(ids), positions, segments, cache))


@torch.no_grad()
def init_weights(model: nn.Module, generator: torch.Generator, std: float = 0.02) -> None:
    """Weights for training the core from scratch, in place: matrices normal, norms one, balancing bias zero.

    Values depend on the generator alone, not on the device or precision of the model.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            values = torch.empty(parameter.shape, device=generator.device)
            parameter.copy_(values.normal_(0.0, std, generator=generator))
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.zero_()
