"""What the image tokenizer's training asks for, and what it measures on pictures and codes.

Shapes: N pictures, S their side, K codes of one, E width of a code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor

from janus.tokenizers.image import VqTokenizer
from janus.train import perceptual
from janus.train.discriminator import Discriminator, balance
from janus.train.tones import give_back
from janus.train.vq_data import Pictures
from janus.train.vq_recipe import TokenizerRecipe

SQUARED = "squared error"  # noted whether it teaches or not
ADVERSARIAL = "adversarial"
TONES = "tones"
PLAYED = (ADVERSARIAL, "adversarial scale", "discriminator")  # noted where there is an adversary
_SHAKE = 0.02  # of a code's new place, so that two on the same vector part


class Objective:
    """The losses of a recipe; those of weight 0 are left out, with all that they would need.

    Raises ValueError where one needs a package that is missing, or tones that the tokenizer lacks.
    """

    def __init__(self, recipe: TokenizerRecipe, tokenizer: VqTokenizer, device: torch.device) -> None:
        if recipe.losses.tones and tokenizer.config.tones == 1:
            raise ValueError("losses.tones teaches a codebook with tones; this image tokenizer has none")
        self.tokenizer, self.device = tokenizer, device
        self.weights, self.teaching = asdict(recipe.losses), recipe.teaching
        self.bfloat16 = recipe.precision == "bfloat16"
        self.only_decoder = set(recipe.train) == {"decoder"}
        self.perceptual = perceptual.pretrained().to(device) if "perceptual" in self.teaching else None
        self.adversary: Discriminator | None = None
        if ADVERSARIAL in self.teaching:
            settings, generator = recipe.discriminator, torch.Generator().manual_seed(recipe.seed + 1)
            self.adversary = Discriminator(settings.channels, settings.layers, generator).to(device)
        self._sole = [name for name in self.teaching if name != ADVERSARIAL]  # what needs no adversary
        self.noted = [SQUARED, *self._sole, *(PLAYED if self.adversary is not None else ())]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def learn(self, batch: Pictures, share: float, play: bool) -> tuple[dict[str, Tensor], Tensor]:
        """Add the gradients of a share of the step's pictures; `play` lets the adversary take part.

        Returns what `noted` names, means over these pictures, and their codes (N, K).
        """
        with self._autocast():
            made, held, codes = self._given_back(batch)
            made = made.float()
            losses = pixel_losses(made, batch.pixels)
            noted = {SQUARED: losses["squared"]}
            if self.perceptual is not None:
                losses["perceptual"] = self.perceptual(made, batch.pixels)
        losses = {name: loss for name, loss in losses.items() if name in self.teaching}
        held = {name: loss for name, loss in held.items() if name in self.teaching}
        noted |= losses | held
        pull = torch.zeros_like(made)
        if losses:
            (pull,) = torch.autograd.grad(self._weighted(losses), made)
        if play and self.adversary is not None:
            fooling, played = self._play(self.adversary, pull if losses else None, made, batch.pixels, share)
            pull = pull + fooling
            noted |= played
        ends, pulls = ([made], [share * pull]) if made.requires_grad else ([], [])
        if held:
            ends.append(self._weighted(held))
            pulls.append(torch.full_like(ends[-1], share))
        torch.autograd.backward(ends, pulls)  # all at once, as they share the encoder
        return noted, codes

    def _given_back(self, batch: Pictures) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Pictures (N, 3, S, S), the losses that hold codes and encoder together, codes (N, K).

        Where the decoder learns alone, it learns from the codes that come with a picture, if any do.
        """
        if TONES in self.teaching:
            return give_back(self.tokenizer, batch.pixels, batch.repainted, batch.tones)
        if not self.only_decoder:
            made, held, codes = self.tokenizer(batch.pixels)
            return made, held._asdict(), codes
        codes = self._codes(batch)
        return self.tokenizer.decode(codes), {}, codes

    def _codes(self, batch: Pictures) -> Tensor:
        if self.only_decoder and not bool((batch.codes < 0).any()):
            return batch.codes
        own = self.tokenizer.encode(batch.pixels)
        return torch.where(batch.codes < 0, own, batch.codes) if self.only_decoder else own

    def _weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()

    def _play(
        self, adversary: Discriminator, pull: Tensor | None, made: Tensor, pixels: Tensor, share: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Let the adversary learn; the gradient (N, 3, S, S) that fools it, and what to note.

        At the decoder's last layer that gradient pulls as strongly as `pull`, the other losses' gradient,
        times the recipe's weight (arXiv 2012.09841, equation 7).
        """
        with self._autocast():
            fooled = adversary.fooled(made)
            mistakes = adversary.mistakes(made, pixels)
        (share * mistakes).backward()
        (other,) = torch.autograd.grad(fooled, made)
        scale = torch.ones_like(fooled)
        if pull is not None:
            last = self.tokenizer.decoder.conv_out.weight
            a, b = (torch.autograd.grad(made, last, g, retain_graph=True)[0] for g in (pull, other))
            scale = balance(a, b)
        noted = dict(zip(PLAYED, (fooled, scale, mistakes), strict=True))
        return self.weights[ADVERSARIAL] * scale * other, noted

    def total(self, noted: Mapping[str, float]) -> float:
        """The weighted sum of what was noted, without the adversary, whose scores mean nothing alone."""
        return sum(self.weights[name] * noted[name] for name in self._sole)

    @torch.no_grad()
    def look(self, batch: Pictures) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures (N, 3, S, S) given back, their codes (N, K), their perceptual distance if that teaches."""
        with self._autocast():
            codes = self._codes(batch)
            made = self.tokenizer.decode(codes).float().clamp(-1, 1)
            far = made.new_zeros(()) if self.perceptual is None else self.perceptual(made, batch.pixels)
        return made, codes, far


def pixel_losses(made: Tensor, pixels: Tensor) -> dict[str, Tensor]:
    """Absolute and squared error, and the absolute error of the steps to the next pixel, down and right."""
    error = made - pixels
    edges = error.diff(dim=-2).abs().mean() + error.diff(dim=-1).abs().mean()
    return {"absolute": error.abs().mean(), "squared": error.square().mean(), "edges": edges}


def decibels(squared: float) -> float:
    """The PSNR of a mean squared error of pixels that reach from -1 to 1."""
    return 10 * math.log10(4 / max(squared, 1e-10))


def use(counts: Tensor) -> dict[str, float]:
    """Of how often each code was chosen, (codes,): the share chosen at all, and the perplexity.

    The perplexity is e to the entropy: as many codes as would be as unforeseeable, all alike.
    """
    shares = counts.double() / counts.sum().clamp(min=1)
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum()
    return {"codes used": float((counts > 0).double().mean()), "perplexity": float(entropy.exp())}


@torch.no_grad()
def new_places(dead: int, pixels: Tensor, tokenizer: VqTokenizer, seed: int) -> Tensor:
    """Unit vectors (dead, E) for codes that nothing chose: the encoder's of these pictures, shaken a bit."""
    generator = torch.Generator().manual_seed(seed)
    vectors = tokenizer.latents(pixels).flatten(0, 1)
    chosen = vectors[torch.randint(len(vectors), (dead,), generator=generator).to(vectors.device)]
    shaken = chosen + _SHAKE * torch.randn(chosen.shape, generator=generator).to(chosen.device)
    return F.normalize(shaken, dim=-1)
