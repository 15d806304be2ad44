"""Naming: a loss that teaches the core what the patches of a picture show, in words.

Answers to questions ask for a word or two about a whole picture.  Here every patch is asked for the words of
the thing that it shows, where it enters the core and where it leaves it.  Where it enters, the adaptor's
vector should point the way of those words' embeddings, so that a picture reads like a list of words; where it
leaves, the text head should give them.  `docs/training.md` has the runs that led to it.

Shapes: B rows, T tokens, D width, V words known, W words at most for one patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from janus.model import Batch, JanusModel
from janus.tokenizers.text import TextTokenizer

SHARPNESS = 20.0  # logits where a patch enters are cosines times this
WORDS = 8  # tokens that a patch is asked for at most


def named(phrases: Sequence[str], tokenizer: TextTokenizer) -> Tensor:
    """Tokens of what each patch shows, (patches, W), filled up with -1; "" is the token that pads rows."""
    ids = {"": [tokenizer.pad_id]} | {one: tokenizer.encode(f" {one}")[:WORDS] for one in set(phrases) if one}
    rows = [ids[phrase] for phrase in phrases]
    return torch.tensor([row + [-1] * (WORDS - len(row)) for row in rows])


def naming_loss(model: JanusModel, entering: Tensor, leaving: Tensor, batch: Batch) -> Tensor:
    """The mean over the patches that have words; each of a patch's words has the same share of it.

    `entering` and `leaving` are what the core takes and gives for the batch, (B, T, D).
    """
    if batch.slot_words is None or batch.image_slots is None:
        return 0 * leaving.float().sum()
    known = batch.slot_words >= 0
    named = known.any(1)
    shares = known[named] / known[named].sum(1, keepdim=True)
    table = model.core.embed_tokens.weight.float()
    targets = table.new_zeros(len(shares), len(table))  # (named patches, V)
    targets.scatter_add_(1, batch.slot_words[named].clamp(min=0), shares)
    enter, leave = (vectors[batch.image_slots][named] for vectors in (entering, leaving))
    cosines = F.normalize(enter.float(), dim=1) @ F.normalize(table, dim=1).T
    return F.cross_entropy(SHARPNESS * cosines, targets) + F.cross_entropy(
        model.text_logits(leave).float(), targets
    )
