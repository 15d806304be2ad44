"""Raw answers that are pictures: drawn by a model, kept as PNG files in GenEval's own layout.

    pictures/00012/metadata.jsonl           the sample
    pictures/00012/samples/00003.png        its fourth picture

The official scorer takes the folder `pictures` as it is.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from janus import memory
from janus.api import Janus
from janus.eval.benchmark import Item, Line, Progress
from janus.eval.folder import picture_bytes, write_lines, write_whole
from janus.sampling import Sampling
from janus.tokenizers.chat import drawing_prompt

PICTURES = "pictures"


class Drawer:
    """Draws the pictures of items.

    prompts: one for each sample.  seed: of the whole run, from which every picture gets its own.  guidance
    and temperature: None takes the checkpoint's own.  Raises ValueError, before anything is drawn, for
    settings out of range, a prompt that the context does not hold, or a batch that memory cannot hold.
    """

    def __init__(
        self,
        model: Janus,
        samples: Sequence[Line],
        prompts: Sequence[str],
        *,
        seed: int,
        guidance: float | None,
        temperature: float | None,
        batch_size: int,
    ) -> None:
        own = model.config.drawing
        self.guidance = own.guidance if guidance is None else guidance
        self.temperature = own.temperature if temperature is None else temperature
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance must be a number, not {self.guidance}")
        Sampling(self.temperature)
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, not {seed}")
        self.model, self.samples, self.prompts, self.seed = model, samples, prompts, seed
        self._check_room(batch_size)

    @property
    def settings(self) -> Line:
        return {"seed": self.seed, "guidance": self.guidance, "temperature": self.temperature}

    def ask(self, items: Sequence[Item], folder: Path, on_progress: Progress | None = None) -> list[Line]:
        """Draw and keep one picture for each item.  on_progress: pictures' worth of tokens drawn, of all."""
        seeds = [item.seed(self.seed) for item in items]
        prompts = [self.prompts[item.sample] for item in items]

        def show(done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(done * len(items) // total, len(items))

        drawn = self.model.generate_images(
            prompts,
            seed=seeds,
            guidance=self.guidance,
            temperature=self.temperature,
            batch_size=len(items),
            on_step=show,
        )
        answers = []
        for item, prompt, seed, [picture] in zip(items, prompts, seeds, drawn, strict=True):
            data = io.BytesIO()
            Image.frombytes(picture.mode, picture.size, picture.tobytes()).save(data, "PNG")
            path = folder / PICTURES / f"{item.sample:05d}" / "samples" / f"{item.number:05d}.png"
            if not (path.parent.parent / "metadata.jsonl").exists():
                write_lines(path.parent.parent / "metadata.jsonl", [self.samples[item.sample]])
            write_whole(path, data.getvalue())
            answers.append(
                {
                    "item": item.key,
                    "prompt": prompt,
                    "seed": seed,
                    "file": path.relative_to(folder).as_posix(),
                    "sha256": hashlib.sha256(data.getvalue()).hexdigest(),
                }
            )
        return answers

    def intact(self, answer: Line, folder: Path) -> bool:
        return picture_bytes(answer, folder) is not None

    def _check_room(self, batch_size: int) -> None:
        config, tokenizer = self.model.config, self.model.tokenizer
        lengths = [len(drawing_prompt(text, tokenizer, config.prompt)) for text in self.prompts]
        longest = max(lengths, default=0)
        if longest + config.vq.tokens > config.core.max_positions:
            sample, tokens = lengths.index(longest), longest + config.vq.tokens
            raise ValueError(
                f"the prompt of sample {sample} and its picture take {tokens} tokens, the context holds "
                f"{config.core.max_positions}: {self.prompts[sample]!r}"
            )
        guided, device = self.guidance != 1, self.model.model.device
        needed = memory.drawing_bytes(config, batch_size, longest, guided, self.model.model.dtype)
        free = memory.free_bytes(device)
        if free is not None and needed > free:
            raise ValueError(
                f"drawing {batch_size} pictures at once takes {needed / 1e9:.1f} GB beside the weights, the "
                f"{device.type} has {free / 1e9:.1f} GB; choose a smaller --batch-size"
            )
