"""The VQ image tokenizer: a picture to a grid of codes, and back.

LlamaGen's VQ-16 (arXiv 2406.06525, section 2.2) with the parameter names of the official Janus
checkpoints (`gen_vision_model.*`).  Its codebook holds directions: both the encoder's vectors and
the codebook's rows are scaled to unit length before they are compared, and decoding uses the unit rows.

Shapes: N pictures, S picture side, G codes along a side, K = G * G codes per picture, C channels,
H and W height and width of a feature map, E width of a code.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus.config import VqConfig
from janus.kernels.linear import widely

NORM_GROUPS = 32


class VqLosses(NamedTuple):
    """Both mean squared distances between unit vectors; the official weights are 1 and 0.25."""

    codebook: Tensor  # pulls the codes towards the encoder's vectors
    commitment: Tensor  # pulls the encoder's vectors towards the codes


class ResBlock(nn.Module):
    """(N, C_in, H, W) to (N, C_out, H, W): two convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        if channels_in != channels:
            self.nin_shortcut: nn.Module = nn.Conv2d(channels_in, channels, 1)
        else:
            self.nin_shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class AttnBlock(nn.Module):
    """Single-headed attention between all places of the feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2).unsqueeze(1) for f in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)  # (N, 1, H*W, C)
        return x + self.proj_out(h.squeeze(1).transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Half the height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # zeros right and below only


class Upsample(nn.Module):
    """Twice the height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks at one resolution, then the step to the next."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        blocks: int,
        *,
        attend: bool = False,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        widths = [channels_in] + [channels] * blocks
        self.res = nn.ModuleList(ResBlock(before, after) for before, after in pairwise(widths))
        self.attn = nn.ModuleList(AttnBlock(channels) if attend else nn.Identity() for _ in range(blocks))
        self.downsample = Downsample(channels) if downsample else nn.Identity()
        self.upsample = Upsample(channels) if upsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for res, attn in zip(self.res, self.attn, strict=True):
            x = attn(res(x))
        return self.upsample(self.downsample(x))


class Encoder(nn.Module):
    """(N, 3, S, S) pixels to (N, z_channels, G, G)."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in (1, *config.multipliers)]
        last = len(config.multipliers) - 1
        self.fold = config.fold
        self.conv_in = nn.Conv2d(3 * config.fold**2, widths[0], 3, padding=1)
        self.conv_blocks = nn.ModuleList(
            Level(before, after, config.res_blocks, attend=i == last, downsample=i != last)
            for i, (before, after) in enumerate(pairwise(widths))
        )
        self.mid = _middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(F.pixel_unshuffle(pixels, self.fold))
        for level in self.conv_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """(N, z_channels, G, G) to (N, 3, S, S) pixels; the encoder mirrored, one block more per level."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in reversed(config.multipliers)]
        self.fold = config.fold
        self.conv_in = nn.Conv2d(config.z_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0])
        self.conv_blocks = nn.ModuleList(
            Level(before, after, config.res_blocks + 1, attend=i == 0, upsample=i != len(widths) - 1)
            for i, (before, after) in enumerate(pairwise([widths[0], *widths]))
        )
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3 * config.fold**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in self.conv_blocks:
            x = level(x)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(x))), self.fold)


class Codebook(nn.Module):
    """The codes as unit vectors, always in float32: half precision would confuse near neighbours."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)

    def rows(self) -> Tensor:
        """(codes, E) of unit length."""
        return F.normalize(self.embedding.weight.float(), dim=-1)

    def nearest(self, z: Tensor) -> Tensor:
        """Unit vectors (..., E) to the closest codes (...): for those, the largest inner product."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            return (z.flatten(0, -2) @ self.rows().T).argmax(-1).view(z.shape[:-1])

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (...) to their unit vectors (..., E)."""
        return F.embedding(codes, self.rows())


class VqTokenizer(nn.Module):
    """Pictures (N, 3, S, S) in [-1, 1] to codes (N, K) in row order, and back.

    Raises ValueError for a config whose channels the group norms cannot divide.
    """

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = Codebook(config.codes, config.code_dim)
        self.quant_conv = nn.Conv2d(config.z_channels, config.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.z_channels, 1)

    def latents(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S) to what is compared with the codes: float32 unit vectors (N, K, E).

        Raises ValueError for another shape of picture.
        """
        side = self.config.image_size
        if pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            raise ValueError(
                f"pixels of shape {tuple(pixels.shape)}; this tokenizer takes (N, 3, {side}, {side})"
            )
        z = self.quant_conv(widely(self.encoder, pixels.to(self.quant_conv.weight.dtype)))
        return F.normalize(z.flatten(2).transpose(1, 2).float(), dim=-1)

    def pixels(self, vectors: Tensor) -> Tensor:
        """Unit vectors (N, K, E) to pixels (N, 3, S, S), about [-1, 1], in the weights' dtype."""
        grid = self.config.grid
        z = vectors.transpose(1, 2).unflatten(2, (grid, grid)).to(self.post_quant_conv.weight.dtype)
        return widely(self.decoder, self.post_quant_conv(z))

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S) in [-1, 1] to codes (N, K), long.  Raises ValueError for another shape."""
        return self.quantize.nearest(self.latents(pixels))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (N, K) to pixels (N, 3, S, S), about [-1, 1] but not clamped.

        Raises ValueError where the number of codes or a code itself does not fit this tokenizer.
        """
        count, rows = self.config.tokens, self.config.codes
        if codes.ndim != 2 or codes.shape[1] != count:
            raise ValueError(f"codes of shape {tuple(codes.shape)}; a picture here is (N, {count})")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < rows:
            raise ValueError(
                f"codes from {int(codes.min())} to {int(codes.max())}; they must be 0 to {rows - 1}"
            )
        return self.pixels(self.quantize(codes))

    def forward(self, pixels: Tensor) -> tuple[Tensor, VqLosses, Tensor]:
        """For training: reconstruction (N, 3, S, S), the quantiser's losses, codes (N, K).

        The reconstruction's gradient passes the choice of codes unchanged (straight-through).
        """
        z = self.latents(pixels)
        codes = self.quantize.nearest(z)
        chosen = self.quantize(codes)
        losses = VqLosses(F.mse_loss(chosen, z.detach()), F.mse_loss(z, chosen.detach()))
        return self.pixels(z + (chosen - z).detach()), losses, codes


def _norm(channels: int) -> nn.GroupNorm:
    if channels % NORM_GROUPS:
        raise ValueError(f"{channels} channels; every level needs a multiple of {NORM_GROUPS}")
    return nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(ResBlock(channels, channels), AttnBlock(channels), ResBlock(channels, channels))
