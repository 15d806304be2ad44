"""Looking ahead: a loss that teaches drawing what the names in a caption stand for.

Which thing is drawn, one code of many tells: the first of its cells.  The image loss asks for it once; here
all the cells before it ask too.  The idea is that of multi-token prediction (DeepSeek-V3, arXiv 2412.19437,
section 2.2), except that what is predicted is not the token after the next but the next that names decide.
`docs/training.md` has the runs that led to it.

Shapes: B rows, T tokens, D width, N drawn pictures, K codes of one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from janus.loss import cross_entropy
from janus.model import Batch, JanusModel


class LookAhead(nn.Module):
    """From every cell of a drawing, asks for the next code that names decide, through a matrix of its own.

    That matrix is not part of the trained model.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.turn = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.turn.weight)

    def forward(self, model: JanusModel, hidden: Tensor, batch: Batch) -> Tensor:
        """The mean loss over the cells with such a code before them; `hidden` is the batch's, (B, T, D)."""
        if batch.codes is None or batch.code_weights is None or batch.code_slots is None:
            return 0 * self.turn.weight.float().sum()  # with several processes every part takes part
        wanted = things_ahead(batch.codes, batch.code_weights).flatten()
        vectors = hidden[:, :-1][batch.code_slots[:, 1:]][wanted >= 0]
        logits = model.image_logits(self.turn(vectors.float()).to(vectors.dtype))
        return cross_entropy(logits, wanted[wanted >= 0]) / max(len(vectors), 1)


def things_ahead(codes: Tensor, weights: Tensor) -> Tensor:
    """For each code, itself or the next one that names decide, (N, K); -1 behind the last of them.

    Those are the codes that weigh more in the loss than a picture's others.
    """
    heavy = weights > weights.amin(dim=1, keepdim=True)
    found = torch.full_like(codes, -1)
    after = torch.full_like(codes[:, 0], -1)
    for cell in range(codes.shape[1] - 1, -1, -1):
        after = torch.where(heavy[:, cell], codes[:, cell], after)
        found[:, cell] = after
    return found
