"""Raw answers that are pictures: drawn by a model, kept as PNG files in GenEval's own layout.

    pictures/00012/metadata.jsonl           the sample
    pictures/00012/samples/00003.png        its fourth picture

The official scorer takes the folder `pictures` as it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Sequence

from PIL import Image

from janus import memory
from janus.api import Janus
from janus.eval.asking import Made, Request, about
from janus.eval.benchmark import Line, Progress
from janus.eval.folder import PICTURES
from janus.sampling import Sampling
from janus.tokenizers.chat import drawing_prompt


class Drawer:
    """Draws the pictures of items.

    guidance and temperature: None takes the checkpoint's own.  Raises ValueError for settings out of range.
    """

    def __init__(self, model: Janus, *, guidance: float | None, temperature: float | None) -> None:
        own = model.config.drawing
        self.guidance = own.guidance if guidance is None else guidance
        self.temperature = own.temperature if temperature is None else temperature
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance must be a number, not {self.guidance}")
        Sampling(self.temperature)
        self.model = model

    @property
    def settings(self) -> Line:
        return {**about(self.model), "guidance": self.guidance, "temperature": self.temperature}

    def check(self, prompts: Sequence[str], batch_size: int) -> None:
        """Raise ValueError for a prompt that the context, or a batch that memory does not hold."""
        config, tokenizer = self.model.config, self.model.tokenizer
        lengths = [len(drawing_prompt(text, tokenizer, config.prompt)) for text in prompts]
        longest = max(lengths, default=0)
        if longest + config.vq.tokens > config.core.max_positions:
            sample, tokens = lengths.index(longest), longest + config.vq.tokens
            raise ValueError(
                f"the prompt of sample {sample} and its picture take {tokens} tokens, the context holds "
                f"{config.core.max_positions}: {prompts[sample]!r}"
            )
        guided, device = self.guidance != 1, self.model.model.device
        needed = memory.drawing_bytes(config, batch_size, longest, guided, self.model.model.dtype)
        free = memory.free_bytes(device)
        if free is not None and needed > free:
            raise ValueError(
                f"drawing {batch_size} pictures at once takes {needed / 1e9:.1f} GB beside the weights, the "
                f"{device.type} has {free / 1e9:.1f} GB; choose a smaller --batch-size"
            )

    def ask(self, requests: Sequence[Request], on_progress: Progress | None = None) -> list[Made]:
        """Draw one picture for each request.  on_progress: pictures' worth of tokens drawn, of all."""

        def show(done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(done * len(requests) // total, len(requests))

        drawn = self.model.generate_images(
            [request.prompt for request in requests],
            seed=[request.seed for request in requests],
            guidance=self.guidance,
            temperature=self.temperature,
            batch_size=len(requests),
            on_step=show,
        )
        return [_made(request, picture) for request, [picture] in zip(requests, drawn, strict=True)]


def _made(request: Request, picture: Image.Image) -> Made:
    stream = io.BytesIO()
    Image.frombytes(picture.mode, picture.size, picture.tobytes()).save(stream, "PNG", compress_level=1)
    data, item = stream.getvalue(), request.item
    folder = f"{PICTURES}/{item.sample:05d}"
    path = f"{folder}/samples/{item.number:05d}.png"
    files = {path: data}
    if item.number == 0:
        files[f"{folder}/metadata.jsonl"] = (json.dumps(request.sample, ensure_ascii=False) + "\n").encode()
    line = {
        "item": item.key,
        "prompt": request.prompt,
        "seed": request.seed,
        "file": path,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return Made(line, files)
