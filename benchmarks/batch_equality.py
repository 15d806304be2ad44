"""How many codes a picture keeps when others are drawn beside it, in each precision.

    python benchmarks/batch_equality.py

Draws prompts of unequal length with the embedded model, alone and in one batch, with the same seeds.
"""

from __future__ import annotations

import torch

from janus import Janus
from janus.generation import decode
from janus.parties import Group
from janus.prompts import Prompt
from janus.sampling import Sampling
from janus.tokenizers.chat import drawing_prompt, unconditional

PROMPTS = [
    "a photo of a dog",
    "a photo of a red apple",
    "a photo of a blue bus right of a yellow banana",
    "a photo of a clock above a pink elephant",
]


def draw(model: Janus, prompts: list[str], seeds: list[int]) -> torch.Tensor:
    ids = [drawing_prompt(text, model.tokenizer, model.config.prompt) for text in prompts]
    steps = decode(
        model.model,
        Group(
            [Prompt(row) for row in ids],
            kind="image",
            new_tokens=model.config.vq.tokens,
            sampling=Sampling(),
            generators=[torch.Generator().manual_seed(seed) for seed in seeds],
            unconditional=[Prompt(unconditional(row, model.tokenizer)) for row in ids],
            guidance=5.0,
        ),
    )
    return torch.stack(list(steps), dim=1)


def main() -> None:
    print("| precision | codes equal | of which before a picture's first difference |\n|---|---|---|")
    for dtype in ("float32", "bfloat16", "float16"):
        model = Janus.from_pretrained(device="cpu", dtype=dtype)
        equal = kept = total = 0
        for seed in range(4):
            seeds = [seed * 10 + i for i in range(len(PROMPTS))]
            together = draw(model, PROMPTS, seeds)
            alone = torch.cat([draw(model, [p], [s]) for p, s in zip(PROMPTS, seeds, strict=True)])
            same = together == alone
            equal += int(same.sum())
            kept += int(same.cumprod(dim=1).sum())
            total += same.numel()
        print(f"| {dtype} | {equal / total:.1%} of {total} | {kept / total:.1%} |")


if __name__ == "__main__":
    main()
