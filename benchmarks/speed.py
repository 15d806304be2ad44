"""Drawing and writing side by side with transformers' Janus: the same weights, prompts and precision.

    python benchmarks/speed.py                                    the Janus-Pro-1B shape in bfloat16
    python benchmarks/speed.py --sides janus int4 uncompiled      these against transformers
    python benchmarks/speed.py -n 8 --context 8                   where the peer's prompts would take an hour
    python benchmarks/speed.py --device cuda --preset janus-pro-7b -n 1 16 32
    python benchmarks/speed.py --preset tiny --dtype float32      seconds

All models are in memory at once (random weights, written once in the transformers layout) and take turns,
round by round.  The peers are transformers' own `generate`, and the official repository's loop, whose calls
(`generation_inference.py`: one forward of the language model a token, a cache that grows, the two rows of
guidance one after the other) are made on transformers' model.  "uncompiled" is this package without a
compiler on the machine.  A figure is the median of all timed steps, or readings, with the fastest and the
slowest, and by how much it is ahead of transformers.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from janus import bench, checkpoints
from janus.config import PRESETS, PromptConfig
from janus.core.quantized import Quantization, check_device
from janus.generation import decode
from janus.kernels import native
from janus.model import JanusModel
from janus.parties import Group
from janus.prompts import Prompt
from janus.sampling import Sampling
from janus.tokenizers.text import train_bpe

GUIDANCE = 5.0
WARM_UP = 2  # steps of each round that do not count
QUESTION = 50  # tokens beside a picture's
SIDES = ("janus", "int8", "int4", "fp8", "uncompiled", "uncompiled int8", "transformers", "official loop")
CASES = ["drawing", "writing", "reading"]
Case = Callable[[Any], list[float]]  # what is timed: a side to seconds


class Ours:
    """This package."""

    def __init__(self, model: JanusModel) -> None:
        self.model, self.core, self.device = model, model.core, model.device

    def draw(self, prompt: list[int], plain: list[int], images: int, steps: int) -> None:
        tokens = decode(
            self.model,
            Group(
                [Prompt(prompt)] * images,
                kind="image",
                new_tokens=steps,
                sampling=Sampling(),
                generators=[torch.Generator().manual_seed(i) for i in range(images)],
                unconditional=[Prompt(plain)] * images,
                guidance=GUIDANCE,
            ),
        )
        for _ in tokens:
            pass

    def write(self, prompt: list[int], steps: int) -> None:
        self._write(Prompt(prompt), steps)

    def read(self, prompt: list[int], pixels: Tensor, image_id: int) -> None:
        self._write(Prompt(prompt, pixels, image_id), 1)

    def _write(self, prompt: Prompt, steps: int) -> None:
        sampling, generators = Sampling(temperature=0), [torch.Generator()]
        tokens = decode(
            self.model,
            Group(
                [prompt],
                kind="text",
                new_tokens=steps,
                sampling=sampling,
                generators=generators,
            ),
        )
        for _ in tokens:
            pass


@contextmanager
def no_compiler(model: JanusModel) -> Iterator[None]:
    os.environ["JANUS_NATIVE"] = "0"
    native.library.cache_clear()
    model.to(model.device)  # forgets what was compiled
    try:
        yield
    finally:
        del os.environ["JANUS_NATIVE"]
        native.library.cache_clear()
        model.to(model.device)


class Uncompiled(Ours):
    """This package where there is no compiler."""

    def draw(self, prompt: list[int], plain: list[int], images: int, steps: int) -> None:
        with no_compiler(self.model):
            super().draw(prompt, plain, images, steps)

    def _write(self, prompt: Prompt, steps: int) -> None:
        with no_compiler(self.model):
            super()._write(prompt, steps)


class Transformers:
    """transformers' `generate`."""

    def __init__(self, model: Any) -> None:
        self.model, self.core, self.device = model, model.model.language_model, model.device

    def draw(self, prompt: list[int], plain: list[int], images: int, steps: int) -> None:
        self.model.model.vision_model.config.num_image_tokens = steps  # the loop's length, nothing else
        self._generate(
            prompt,
            generation_mode="image",
            guidance_scale=GUIDANCE,
            do_sample=True,
            num_return_sequences=images,
        )

    def write(self, prompt: list[int], steps: int) -> None:
        self._generate(prompt, max_new_tokens=steps, min_new_tokens=steps, do_sample=False)

    def read(self, prompt: list[int], pixels: Tensor, image_id: int) -> None:
        pixels = pixels.to(self.device, self.model.dtype)
        self._generate(prompt, pixel_values=pixels, max_new_tokens=1, do_sample=False)

    def _generate(self, prompt: list[int], **settings: Any) -> None:
        ids = torch.tensor([prompt], device=self.device)
        self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)


class OfficialLoop(Transformers):
    """The calls of the official repository's `generation_inference.py`."""

    @torch.inference_mode()
    def draw(self, prompt: list[int], plain: list[int], images: int, steps: int) -> None:
        inner = self.model.model
        rows = torch.tensor([prompt, plain] * images, device=self.device)
        x, past = inner.language_model.get_input_embeddings()(rows), None
        for _ in range(steps):
            out = inner.language_model(inputs_embeds=x, use_cache=True, past_key_values=past)
            past = out.past_key_values
            logits = inner.generation_head(out.last_hidden_state[:, -1])
            wanted, other = logits[0::2], logits[1::2]
            chances = torch.softmax(other + GUIDANCE * (wanted - other), dim=-1)
            token = torch.multinomial(chances, num_samples=1)
            x = self.model.prepare_embeddings_for_image_generation(token.repeat_interleave(2, dim=0))


def seconds(side: Any, run: Callable[[], None]) -> list[float]:
    """Of each step after the first `WARM_UP`; on a GPU their mean, without waiting for each."""
    times: list[float] = []

    def called(*_: object) -> None:
        """The core has taken the prompt, or a token."""
        if side.device.type != "cuda" or len(times) == WARM_UP:
            bench.finish(side.device)
        times.append(time.perf_counter())

    hook = side.core.register_forward_hook(called)
    try:
        run()
    finally:
        hook.remove()
    if side.device.type == "cuda":
        bench.finish(side.device)
        return [(time.perf_counter() - times[WARM_UP]) / (len(times) - 1 - WARM_UP)]
    return [after - before for before, after in pairwise(times)][WARM_UP:]


def reading(side: Any, *given: Any) -> list[float]:
    bench.finish(side.device)
    started = time.perf_counter()
    side.read(*given)
    bench.finish(side.device)
    return [time.perf_counter() - started]


def sides(preset: str, dtype: str, device: str, names: list[str]) -> dict[str, Any]:
    import transformers

    transformers.logging.set_verbosity_error()
    model = bench.open_model(preset, device, dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_bpe(["a"], 300, PromptConfig(), folder / "text")
        checkpoints.save(model, folder / "model", layout="transformers", source=folder / "text")
        theirs = transformers.JanusForConditionalGeneration.from_pretrained(
            folder / "model", dtype=getattr(torch, dtype)
        )
        theirs.eval().to(device)
    made: dict[str, Any] = {
        "janus": Ours(model),
        "uncompiled": Uncompiled(model),
        "transformers": Transformers(theirs),
        "official loop": OfficialLoop(theirs),
    }
    for kind in get_args(Quantization):
        if {kind, f"uncompiled {kind}"} & {*names}:
            check_device(kind, model.device)
            fewer = copy.deepcopy(model)
            fewer.quantize(kind)
            made |= {kind: Ours(fewer), f"uncompiled {kind}": Uncompiled(fewer)}
    return {name: made[name] for name in SIDES if name in names or name == "transformers"}


def _drawing(words: list[int], plain: list[int], images: int, steps: int, side: Any) -> list[float]:
    return seconds(side, partial(side.draw, words, plain, images, steps + WARM_UP + 1))


def cases(preset: str, images: list[int], steps: int, context: int | None, image_id: int) -> dict[str, Case]:
    """What is timed, by name; by default after as many tokens as in the middle of a picture."""
    config = PRESETS[preset]
    generator = torch.Generator().manual_seed(0)
    length = context or config.vq.tokens // 2
    words = torch.randint(300, config.core.vocab_size, (length,), generator=generator).tolist()
    plain = [words[0], *[1] * (len(words) - 2), words[-1]]
    pixels = torch.rand(1, 3, config.image.size, config.image.size, generator=generator) * 2 - 1
    half = words[:1] * (QUESTION // 2)
    question = half + [image_id] * config.vision.tokens + half
    found: dict[str, Case] = {}
    for n in images:
        found[f"drawing, {n} at once, a step"] = partial(_drawing, words, plain, n, steps)
    found["writing, a token"] = lambda side: seconds(side, partial(side.write, words, steps + WARM_UP + 1))
    found["reading a picture and a question"] = lambda side: reading(side, question, pixels, image_id)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="janus-pro-1b", choices=["tiny", "janus-pro-1b", "janus-pro-7b"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--device", default="cpu", help="cuda, for instance")
    parser.add_argument("-n", type=int, nargs="+", default=[1, 8], help="pictures at once")
    parser.add_argument("--context", type=int, help="tokens before (default: half a picture's)")
    parser.add_argument(
        "--sides", nargs="+", default=["janus", "transformers", "official loop"], choices=SIDES
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["drawing", "writing", "reading"],
        choices=["drawing", "writing", "reading"],
    )
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    everyone = sides(options.preset, options.dtype, options.device, options.sides)
    print(f"| {options.preset}, {options.dtype}, ms | " + " | ".join(everyone) + " |")
    print("|---" * (len(everyone) + 1) + "|")
    figures: dict[str, dict[str, list[float]]] = {}
    image_id = everyone["transformers"].model.config.image_token_id
    every = cases(options.preset, options.n, options.steps, options.context, image_id)
    for name, case in every.items():
        if not name.startswith(tuple(options.cases)):
            continue
        times: dict[str, list[float]] = defaultdict(list)
        for number in range(options.rounds):
            order = list(everyone) if number % 2 == 0 else list(everyone)[::-1]
            for side in order:
                if side == "official loop" and not name.startswith("drawing"):
                    continue  # it has a loop for drawing only
                times[side] += case(everyone[side])
        figures[name] = times
        shown = [_shown(times[side], times["transformers"]) for side in everyone]
        print(f"| {name} | " + " | ".join(shown) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _shown(times: list[float], theirs: list[float]) -> str:
    if not times:
        return ""
    told = "{:.1f} ({:.1f} to {:.1f})".format(*(1e3 * f(times) for f in (statistics.median, min, max)))
    ahead = statistics.median(theirs) / statistics.median(times)
    return told if times is theirs else f"{told}, {ahead:.2f}x"


if __name__ == "__main__":
    main()
