"""Looking: losses that teach the core where to look, and what to find there.

A question about a picture is answered by lookups: from a name to the patches of that thing, from the answer
to the option that says it.  Attention comes upon each of them by itself only after many steps in which the
loss does not move, for neither looking at the right place nor having there what is looked for is of use
without the other.  Here both are taught.  At a third of the core's depth a name looks at the patches that
show it, and so do the tokens that say the answer, at what the question is about; half-way up these look at
the other thing that a place is told by, if there is one; at two thirds, at what the answer is about to name,
or at the option whose letter it is.  A quarter of the heads are told so.  And the last token of an option
carries its letter, a name and what tells a place carry where in the picture the thing is.
`docs/training.md` has the runs that led to it.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

from bisect import bisect
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from janus.core.attention import Visibility
from janus.core.transformer import Layer
from janus.data.records import Carried, Level, Pointer, Record
from janus.model import Batch, JanusModel
from janus.tokenizers.text import TextTokenizer

LEVELS: dict[Level, float] = {"first": 1 / 3, "second": 1 / 2, "third": 2 / 3}  # of the layers' number
HEADS = 1 / 4  # of a layer's, the first ones


def located(
    record: Record, ids: list[int], tokenizer: TextTokenizer
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """A record's pointers as (level, token, a token to look at), and what is carried as (level, token, id).

    `ids` are those of its conversation, in which every message stands once, in order.
    """
    if not record.pointers and not record.carried:
        return [], []
    pieces = [tokenizer.token_bytes(token) for token in ids]
    ends = list(accumulate(len(piece) for piece in pieces))
    whole = b"".join(pieces)
    starts, start = [], 0
    for message in record.messages:
        words = message["content"].encode()
        start = whole.index(words, start)
        starts.append(start)
        start += len(words)

    def token_with(message: int, character: int) -> int:
        before = len(record.messages[message]["content"][:character].encode())
        return bisect(ends, starts[message] + before)

    def places(one: Pointer | Carried) -> list[int]:
        if record.messages[one.message]["role"] == "user":
            return [token_with(one.message, one.at - 1)]
        said = range(one.at, one.at + one.characters)
        return sorted({token_with(one.message, character) - 1 for character in said})

    levels = list(LEVELS)
    slots = [place for place, token in enumerate(ids) if token == tokenizer.image_id]
    looks, carried = [], []
    for one in record.pointers:
        targets = [slots[patch] for patch in one.patches]
        targets += [token_with(message, end - 1) for message, end in one.words]
        for place in places(one):
            looks += [(levels.index(one.level), place, target) for target in targets or [0]]
    for word in record.carried:
        token = tokenizer.encode(f" {word.word}")[0]
        carried += [(levels.index(word.level), place, token) for place in places(word)]
    return list(dict.fromkeys(looks)), list(dict.fromkeys(carried))


class Looking:
    """The loss, from what went into the layers that look in the model's last pass."""

    def __init__(self, model: JanusModel) -> None:
        layers = model.core.layers
        self.layers = [int(share * len(layers)) for share in LEVELS.values()]
        self.heads = max(1, int(model.config.core.heads * HEADS))
        self.given: list[tuple[Any, ...]] = [()] * len(self.layers)
        for level, number in enumerate(self.layers):
            layers[number].register_forward_pre_hook(self._keep(level))

    def _keep(self, level: int) -> Any:
        def keep(_layer: nn.Module, given: tuple[Any, ...]) -> None:
            self.given[level] = given

        return keep

    def __call__(self, model: JanusModel, batch: Batch) -> Tensor:
        """The sum over the levels of the mean surprise, of looks and of what is carried."""
        total = torch.zeros((), device=batch.ids.device)
        for level, number in enumerate(self.layers):
            x, angles, visible = self.given[level][:3]
            self.given[level] = ()
            if batch.looks is not None and bool((here := batch.looks[:, 0] == level).any()):
                layer = model.core.layers[number]
                assert isinstance(layer, Layer)
                scores = layer.self_attn.scores(
                    layer.input_layernorm(x), angles[layer.attention_kind], self.heads
                )
                total = total + _surprise(scores.float(), visible, batch.looks[here])
            if batch.carried is not None and bool((here := batch.carried[:, 0] <= level).any()):
                _, rows, places, tokens = batch.carried[here].T
                said = model.text_logits(model.core.norm(x[rows, places]))
                total = total + F.cross_entropy(said.float(), tokens)
        return total


def _surprise(scores: Tensor, visible: Visibility, looks: Tensor) -> Tensor:
    """Minus the log of the share of attention on a token's targets, the mean over tokens and heads.

    scores (B, heads, T, T), looks (N, 4).
    """
    tokens = scores.shape[-1]
    _, rows, places, targets = looks.T
    asked, which = torch.unique(rows * tokens + places, return_inverse=True)
    lines = scores.transpose(1, 2).flatten(0, 1)[asked]  # (asked, heads, T)
    seen = visible.mask
    if seen is None:
        seen = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device=scores.device).tril()
    seen = seen.expand(scores.shape[0], 1, -1, -1).flatten(0, 2)[asked, None]  # (asked, 1, T)
    shares = lines.masked_fill(~seen, -torch.inf).softmax(-1)
    found = shares[which, :, targets]  # (N, heads)
    sums = torch.zeros_like(lines[:, :, 0]).index_add(0, which, found)
    return -(sums + 1e-6).log().mean()
