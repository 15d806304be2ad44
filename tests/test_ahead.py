"""Looking ahead: which codes are asked for, and from where."""

from __future__ import annotations

import pytest
import torch

from janus.config import PRESETS
from janus.model import JanusModel
from janus.tokenizers.text import train_bpe
from janus.train.ahead import LookAhead, things_ahead
from janus.train.packing import Sample, collate

TINY = PRESETS["tiny-v3"]


def test_every_cell_asks_for_the_next_code_that_names_decide() -> None:
    codes = torch.tensor([[4, 5, 6, 7, 8], [9, 1, 2, 3, 4]])
    weights = torch.tensor([[1.0, 8, 1, 8, 1], [8.0, 1, 1, 1, 1]])
    assert things_ahead(codes, weights).tolist() == [[5, 5, 7, 7, -1], [9, -1, -1, -1, -1]]


def test_looking_ahead_reads_the_cells_before_a_thing(tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.manual_seed(0)
    words = train_bpe(["a red apple"], 300, TINY.prompt, tmp_path_factory.mktemp("words"))
    model = JanusModel(TINY).eval()
    count = TINY.vq.tokens
    caption = [words.bos_id, *words.encode("a red apple")]
    codes, weights = torch.arange(count) % TINY.vq.codes, torch.ones(count)
    weights[2] = 5.0  # the third code is the one that names decide
    sample = Sample([*caption, *[words.image_id] * count], [], codes=codes, weights=weights)
    batch = collate([[sample]], len(sample.ids), words, count).batch
    looker = LookAhead(TINY.core.width)
    with torch.no_grad():
        hidden = model.hidden(batch)
        before = hidden[
            0, len(caption) - 1 : len(caption) + 2
        ]  # the places that predict the first three codes
        expected = torch.nn.functional.cross_entropy(model.image_logits(before), codes[2].expand(3))
        torch.testing.assert_close(looker(model, hidden, batch), expected)
        looker.turn.weight.zero_()
        assert looker(model, hidden, batch) != expected
