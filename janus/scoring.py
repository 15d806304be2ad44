"""Log-probabilities of given tokens, without decoding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from janus.model import JanusModel
from janus.parties import Kind
from janus.prompts import Prompt, check_context, left_padded
from janus.sampling import guide


@torch.inference_mode()
def score(
    model: JanusModel,
    prompts: Sequence[Prompt],
    tokens: Sequence[Sequence[int]],
    *,
    kind: Kind,
    unconditional: Sequence[Prompt] = (),
    guidance: float | None = None,
) -> list[Tensor]:
    """Log-probabilities of given `tokens` after their prompts, one float32 tensor (n,) per request.

    The whole sequences pass through the core once, without a cache; with `guidance` the
    probabilities are those of the guided logits.
    """
    longest = max(len(row) for row in tokens)
    check_context(model, [*prompts, *unconditional], longest)
    rows = left_padded(model, [*prompts, *unconditional])
    padded = torch.zeros(len(tokens), longest, dtype=torch.long, device=model.device)
    for row, own in enumerate(tokens):  # what follows a shorter row is after it and cannot change it
        padded[row, : len(own)] = torch.tensor(own, device=model.device)
    embed = model.embed_text if kind == "text" else model.embed_codes
    given = padded if guidance is None else padded.repeat(2, 1)
    prompt_length = rows.x.shape[1]
    rows = rows.extend(embed(given[:, :-1]))
    hidden = model.core(rows.x, rows.positions, rows.segments)[:, prompt_length - 1 :]
    logits = model.text_logits(hidden) if kind == "text" else model.image_logits(hidden)
    logits = logits.float()
    if guidance is not None:
        wanted, plain = logits.chunk(2)
        logits = guide(wanted, plain, guidance)
    log_probs = logits.log_softmax(-1).gather(-1, padded.unsqueeze(-1)).squeeze(-1)
    return [log_probs[row, : len(own)] for row, own in enumerate(tokens)]
