"""The whole model: two encoders, two adaptors, one core, two heads.

It maps tokens to logits and losses; it neither samples nor reads files.  Attribute names are the
official checkpoint's key prefixes, so that its tensors fit without renaming.

Shapes: B rows, T tokens, D core width, N pictures, S picture side, P tokens per understood picture,
M drawn pictures, K codes per drawn picture, V text vocabulary, C codebook.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from janus.config import JanusConfig
from janus.core.quantized import Quantization
from janus.core.transformer import LanguageModel, Transformer
from janus.encoders.adaptors import ImageHead, MlpAdaptor
from janus.encoders.siglip import SiglipTower
from janus.loss import cross_entropy
from janus.tokenizers.image import VqTokenizer


@dataclass
class Batch:
    """Rows of packed samples, text, understood and drawn pictures mixed freely.

    Wherever `image_slots` or `code_slots` is set, the token's embedding comes from the next vector
    of `pixels` or `codes` (rows first, then along the row) and its id is ignored.
    """

    ids: Tensor  # (B, T) long
    learn: Tensor | None = None  # (B, T) bool: text tokens that the text loss asks for
    pixels: Tensor | None = None  # (N, 3, S, S) understood pictures
    image_slots: Tensor | None = None  # (B, T) bool, N * P of them set
    codes: Tensor | None = None  # (M, K) long, drawn pictures; each code is asked for by the image loss
    code_slots: Tensor | None = None  # (B, T) bool, M * K of them set
    code_weights: Tensor | None = None  # (M, K) of each code in the image loss; their mean should be 1
    positions: Tensor | None = None  # (B, T) long, restarting with each sample
    segments: Tensor | None = None  # (B, T) long, one number per sample, 0 for padding
    branches: Tensor | None = None  # (B, T) long: what continues branch 0 of its sample alone
    slot_words: Tensor | None = None  # (N * P, W) long: tokens that name what a patch shows, else -1
    mentions: Tensor | None = None  # (B, T) bool: the last token of what names a thing to draw
    mention_codes: Tensor | None = None  # (mentions, W) long: that thing's codes, else -1
    looks: Tensor | None = None  # (N, 4) long: level, row, token, a token of the row that it should look at
    carried: Tensor | None = None  # (N, 4) long: level, row, token, the id of the token it should carry along


@dataclass
class Losses:
    """Summed cross-entropies, so that devices and accumulation steps can share one token count."""

    text_sum: Tensor
    image_sum: Tensor
    text_tokens: Tensor
    image_tokens: Tensor
    balance: Tensor  # the experts' sequence-wise balance loss, already weighted

    @property
    def text(self) -> Tensor:
        """Mean over the text tokens asked for."""
        return self.text_sum / self.text_tokens.clamp(min=1)

    @property
    def image(self) -> Tensor:
        """Mean over the codes asked for."""
        return self.image_sum / self.image_tokens.clamp(min=1)

    @property
    def total(self) -> Tensor:
        """Mean over every token asked for, plus the balance loss."""
        tokens = (self.text_tokens + self.image_tokens).clamp(min=1)
        return (self.text_sum + self.image_sum) / tokens + self.balance


class JanusModel(nn.Module):
    """Janus (arXiv 2410.13848) and Janus-Pro (arXiv 2501.17811), figure 2 of either."""

    def __init__(self, config: JanusConfig) -> None:
        super().__init__()
        self.config = config
        core, vq = config.core, config.vq
        self.vision_model = SiglipTower(config.vision)
        self.aligner = MlpAdaptor(config.vision.width, core.width, config.und_adaptor_depth)
        self.gen_vision_model = VqTokenizer(vq)
        self.gen_aligner = MlpAdaptor(vq.code_dim, core.width, config.gen_adaptor_depth)
        self.gen_head = ImageHead(core.width, config.image_head_width, vq.codes)
        self.gen_embed = nn.Embedding(vq.codes, vq.code_dim)
        self.language_model = LanguageModel(core)

    @property
    def core(self) -> Transformer:
        return self.language_model.model

    @property
    def device(self) -> torch.device:
        return self.gen_embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.gen_embed.weight.dtype

    def quantize(self, kind: Quantization) -> None:
        """Store the core's matrices in few bits, in place; encoders, adaptors and heads stay as they are.

        Raises ValueError for an unknown kind, a core that is quantised already, and sizes that int4 cannot
        hold.
        """
        self.core.quantize(kind)
        self.config = replace(self.config, core=self.core.config)

    def embed_text(self, ids: Tensor) -> Tensor:
        """(...) token ids to (..., D)."""
        return self.core.embed_tokens(ids)

    def embed_images(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) prepared pictures to (N, P, D)."""
        return self.aligner(self.vision_model(pixels.to(self.device, self.dtype)))

    def embed_codes(self, codes: Tensor) -> Tensor:
        """(...) codes of drawn pictures to (..., D)."""
        return self.gen_aligner(self.gen_embed(codes))

    def text_logits(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., V)."""
        return self.language_model.lm_head(hidden)

    def image_logits(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., C)."""
        return self.gen_head(hidden)

    def embed(self, batch: Batch) -> Tensor:
        """The core's input, (B, T, D).

        Raises ValueError where the slots and the vectors that should fill them differ in number.
        """
        x = self.embed_text(batch.ids)
        if batch.pixels is not None:
            x = _fill(x, batch.image_slots, self.embed_images(batch.pixels), "image_slots")
        if batch.codes is not None:
            x = _fill(x, batch.code_slots, self.embed_codes(batch.codes), "code_slots")
        return x

    def hidden(self, batch: Batch, entering: Tensor | None = None) -> Tensor:
        """The core's output after its final norm, (B, T, D); `entering` is what `embed` gave, if at hand."""
        x = self.embed(batch) if entering is None else entering
        return self.core(x, batch.positions, batch.segments, branches=batch.branches)

    def forward(self, batch: Batch) -> Losses:
        """Both losses: each asked-for token is predicted from the one before it in its row.

        Raises ValueError where a row begins with a code or an asked-for token, which nothing predicts.
        """
        return self.losses(self.hidden(batch), batch)

    def losses(
        self, hidden: Tensor, batch: Batch, smoothing: float = 0.0, smooth_tones: bool = False
    ) -> Losses:
        """The losses of `forward`, from what `hidden` gave for the batch, (B, T, D).

        `smoothing` is the share of what each code should get that goes to all codes alike; with
        `smooth_tones`, to its shape in all tones (`VqConfig.tones`).
        """
        for asked, name in ((batch.learn, "learn"), (batch.code_slots, "code_slots")):
            if asked is not None and bool(asked[:, 0].any()):
                raise ValueError(f"{name} asks for the first token of a row, which nothing predicts")
        before = hidden[:, :-1]
        nothing = before.new_zeros((), dtype=torch.float32)
        text, image = (nothing, nothing.long()), (nothing, nothing.long())
        if batch.learn is not None:
            asked = batch.learn[:, 1:]
            wanted = batch.ids[:, 1:][asked]
            text = cross_entropy(self.text_logits(before[asked]), wanted), _count(wanted)
        if batch.codes is not None and batch.code_slots is not None:
            asked = batch.code_slots[:, 1:]
            wanted = batch.codes.flatten()
            weights = None if batch.code_weights is None else batch.code_weights.flatten()
            logits = self.image_logits(before[asked])
            among = self.config.vq.tones if smooth_tones else None
            image = cross_entropy(logits, wanted, weights, smoothing, among), _count(wanted)
        balance = self.core.balance_loss() if self.training else nothing
        return Losses(text[0], image[0], text[1], image[1], balance)


def _fill(x: Tensor, slots: Tensor | None, vectors: Tensor, name: str) -> Tensor:
    vectors = vectors.flatten(0, -2).to(x.dtype)
    if slots is None or int(slots.sum()) != len(vectors):
        have = 0 if slots is None else int(slots.sum())
        raise ValueError(f"{name} marks {have} places, but there are {len(vectors)} vectors to put there")
    return x.masked_scatter(slots.unsqueeze(-1), vectors)


def _count(targets: Tensor) -> Tensor:
    return torch.tensor(len(targets), device=targets.device)
