"""What storing the core in fewer bits changes: how far its predictions move.

    python benchmarks/quantization.py [MODEL] [--pictures 64] [--dtype float32] [--json FILE]

The model as it is draws pictures of GenEval's kinds of prompts (`janus.eval.prompts`) and answers a question
about each; then the same tokens are read by the model in 8 and in 4 bits.  Told for codes and for words: the
mean Kullback-Leibler divergence of its predictions from those of the model as it is, in nats a token, and at
how many places the likeliest token is the same.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from drawn_codes import draw
from torch import Tensor
from tqdm import tqdm

from janus import Janus
from janus.core.quantized import Quantization
from janus.encoders.preprocess import preprocess
from janus.eval.prompts import COUNTS, make_prompts
from janus.model import Batch, JanusModel
from janus.tokenizers.chat import answer_ids, drawing_prompt, understanding_prompt

QUESTION = "What is in the picture?"
SEED = 7  # of the prompts
KINDS: tuple[Quantization, ...] = ("int8", "int4")


def drawn(model: Janus, text: str, seed: int) -> tuple[Batch, int]:
    """A prompt with the picture that the model draws of it, and how many tokens come before the picture."""
    own = model.config.drawing
    codes = torch.from_numpy(draw(model, [text], seed, own.guidance, own.temperature))
    prompt = drawing_prompt(text, model.tokenizer, model.config.prompt)
    slots = torch.tensor([[False] * len(prompt) + [True] * codes.shape[1]])
    ids = torch.tensor([prompt + [model.tokenizer.image_id] * codes.shape[1]])
    return Batch(ids=ids, codes=codes, code_slots=slots), len(prompt)


def answered(model: Janus, codes: Tensor) -> tuple[Batch, int]:
    """A question about a picture with the model's answer, and how many tokens come before that."""
    (picture,) = model.decode_images(codes)
    answer = answer_ids(model.chat(QUESTION, [picture], max_tokens=40), model.tokenizer)
    turns = [{"role": "user", "content": QUESTION, "images": [picture]}]
    config = model.config
    prompt = understanding_prompt(turns, model.tokenizer, config.prompt, config.vision.tokens)
    ids = torch.tensor([[*prompt, *answer]])
    slots = ids == model.tokenizer.image_id
    return Batch(ids=ids, pixels=preprocess([picture], config.image), image_slots=slots), len(prompt)


def predictions(model: JanusModel, batch: Batch, before: int) -> Tensor:
    """Log-probabilities of every token from place `before` on, (tokens, V)."""
    hidden = model.hidden(batch)[0, before - 1 : -1]
    logits = model.text_logits(hidden) if batch.codes is None else model.image_logits(hidden)
    return logits.float().log_softmax(-1)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: the one that ships with the package")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--dtype", default="float32", help="of the computation (default: float32)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    model = Janus.from_pretrained(options.model, device="cpu", dtype=options.dtype)
    others = {kind: copy.deepcopy(model.model) for kind in KINDS}
    for kind, other in others.items():
        other.quantize(kind)
    lines = make_prompts(SEED, dict.fromkeys(COUNTS, -(-options.pictures // len(COUNTS))))[: options.pictures]
    found: dict[str, dict[str, list[Tensor]]] = {
        f"{kind} {what}": {"KL": [], "same": []} for what in ("codes", "words") for kind in KINDS
    }
    for seed, line in enumerate(tqdm(lines, unit="picture")):
        batch, before = drawn(model, line["prompt"], seed)
        assert batch.codes is not None
        for what, (told, start) in {"codes": (batch, before), "words": answered(model, batch.codes)}.items():
            wanted = predictions(model.model, told, start)
            for kind, other in others.items():
                got, sums = predictions(other, told, start), found[f"{kind} {what}"]
                sums["KL"].append((wanted.exp() * (wanted - got)).sum(-1))
                sums["same"].append((wanted.argmax(-1) == got.argmax(-1)).float())
    figures = {name: {k: float(torch.cat(v).mean()) for k, v in one.items()} for name, one in found.items()}
    for name, one in figures.items():
        print(f"{name:12} KL {one['KL']:.5f} nats a token, likeliest the same {one['same']:.2%}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
