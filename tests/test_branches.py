"""Several questions about one picture in one sample, each as if asked alone."""

from __future__ import annotations

import pytest
import torch

from janus.config import PRESETS
from janus.core.cache import Cache
from janus.model import JanusModel
from janus.tokenizers.text import TextTokenizer, train_bpe
from janus.train.packing import Sample, collate, questions_apart

ASKED = [("What is it?", "a cat"), ("Which colour is the cat?", "red"), ("Is there a dog?", "no")]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    prompt = PRESETS["tiny-v3"].prompt
    return train_bpe([f"{q} {a}" for q, a in ASKED], 300, prompt, tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize("preset", ["tiny-v2", "tiny-v3", "tiny"])
def test_questions_apart_are_answered_as_alone(preset: str, words: TextTokenizer) -> None:
    config = PRESETS[preset]
    torch.manual_seed(0)
    model = JanusModel(config).eval()
    side = config.vision.image_size
    pixels = torch.rand(1, 3, side, side) * 2 - 1
    together = Sample(*questions_apart(ASKED, ["picture"], words, config), pixels=pixels)
    alone = [Sample(*questions_apart([one], ["picture"], words, config), pixels=pixels) for one in ASKED]
    other = Sample([words.bos_id, *words.encode("a text before it")], [])
    with torch.no_grad():
        length = len(other.ids) + len(together.ids)
        batch = collate([[other, together]], length, words, config.vq.tokens).batch
        hidden = model.hidden(batch)[0, len(other.ids) :]
        for (start, end), one in zip(together.branches, alone, strict=True):
            expected = model.hidden(collate([[one]], len(one.ids), words, config.vq.tokens).batch)[0]
            own = torch.cat([hidden[: together.branches[0][0]], hidden[start:end]])
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
            assert [together.ids[i] for i in range(start, end)] == one.ids[one.branches[0][0] :]
    learnt = [words.decode(together.ids[a : b - 1]) for a, b in together.learn]
    assert learnt == [f" {answer}" for _, answer in ASKED]


def test_branches_have_no_cache() -> None:
    config = PRESETS["tiny-v3"]
    core = JanusModel(config).core
    x, zeros = torch.zeros(1, 4, config.core.width), torch.zeros(1, 4, dtype=torch.long)
    cache = Cache(config.core, 1, 8, dtype=torch.float32, device="cpu")
    with pytest.raises(ValueError, match="branches are for training"):
        core(x, cache=cache, branches=zeros)
