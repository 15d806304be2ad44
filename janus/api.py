"""What users call: load a checkpoint, ask about pictures, draw pictures, or work on the token level."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from PIL import Image
from torch import Tensor

from janus import checkpoints, memory
from janus.background import Background
from janus.checkpoints import adapters
from janus.config import JanusConfig, PromptConfig
from janus.core.cache import Cache
from janus.core.quantized import Quantization, check_device
from janus.encoders.preprocess import ImageSource, load_image, preprocess
from janus.generation import decode
from janus.model import JanusModel
from janus.previews import Previews
from janus.prompts import Prompt
from janus.requests import Drawing, Job, Question, Way, group, tokens_of
from janus.sampling import Sampling
from janus.scoring import score
from janus.tokenizers.chat import (
    Message,
    answer_ids,
    drawing_prompt,
    message_images,
    unconditional,
    understanding_prompt,
)
from janus.tokenizers.text import TextTokenizer

WINDOW = 4  # codes that are guessed and checked at once, of all pictures of a batch together


class _Writing(TypedDict, total=False):
    """Keyword arguments of `Janus.chat`, for its signatures by type."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None


class _Drawing(TypedDict, total=False):
    """Keyword arguments of `Janus.generate_images`, for its signatures by type."""

    seed: int | Sequence[int] | None
    guidance: float | None
    temperature: float | None
    top_k: int
    top_p: float
    size: int | None
    batch_size: int | Literal["auto"]
    window: int | None
    on_step: Callable[[int, int], None] | None
    on_preview: Callable[[list[Image.Image]], None] | None


class Janus:
    """A Janus model with its tokenizer and settings.

    `model` is the torch module, `tokenizer` its words, `config` its sizes; `folder` is where its
    files lie.
    """

    def __init__(
        self, model: JanusModel, tokenizer: TextTokenizer, folder: Path, prompt: PromptConfig | None = None
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.folder = folder
        self._config = model.config if prompt is None else dataclasses.replace(model.config, prompt=prompt)

    @property
    def config(self) -> JanusConfig:
        return self._config

    def with_prompt(self, **changes: Any) -> Janus:
        """The same weights with other words around the users': fields of `janus.config.PromptConfig`.

        For comparing with tools that prompt a checkpoint unlike its own template; what `save_pretrained`
        writes does not change.  Raises TypeError for a field that there is not.
        """
        prompt = dataclasses.replace(self.config.prompt, **changes)
        return Janus(self.model, self.tokenizer, self.folder, prompt)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        quantize: Quantization | None = None,
        adapter: str | Path | None = None,
        revision: str | None = None,
        offline: bool = False,
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> Janus:
        """Load a folder or a hub id, in the official or the transformers layout.

        Without `source` it is the model that ships with the package.  `device` defaults to the GPU
        if there is one; `dtype` ("float32", "bfloat16", "float16") to what the checkpoint asks for.
        `quantize` ("int8", "int4", "fp8") stores the core's matrices in a half or a quarter of bfloat16's
        memory; fp8 is for GPUs.
        `revision` pins a hub id to a branch, tag or commit; `offline` takes hub files from the cache
        alone.  `on_bytes(done, total)` follows the reading of weights.  `adapter` is the folder of a
        LoRA adapter to merge into them; such a folder as `source` brings the model it was trained on.

        Raises ValueError for anything missing, unreadable or misshapen, saying which.
        """
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        kind = None if dtype is None else _dtype(dtype)
        check_device(quantize, where)
        source = source or checkpoints.EMBEDDED
        if adapters.is_adapter(source):
            if adapter is not None:
                raise ValueError(f"{source} is an adapter, too; give the model that {adapter} belongs to")
            source, adapter = adapters.base_of(source), source
        model, folder = checkpoints.load(
            source,
            device=where if quantize is None else "cpu",
            dtype=kind,
            revision=revision,
            offline=offline,
            on_bytes=on_bytes,
        )
        check_device(model.config.core.quantization, where)
        if adapter is not None:
            adapters.merge(model, adapter)
        if quantize is not None:
            model.quantize(quantize)
            model.to(where)
        return cls(model, TextTokenizer.from_folder(folder, model.config.prompt), folder)

    def save_pretrained(
        self, folder: str | Path, layout: Literal["official", "transformers"] = "official"
    ) -> None:
        """Write weights, settings and tokenizer to a new folder.

        Raises ValueError where the folder cannot be written or the layout cannot hold the model;
        nothing half-written stays.
        """
        checkpoints.save(self.model, folder, layout=layout, source=self.folder)

    # -- understanding ------------------------------------------------------------------------

    @overload
    def chat(
        self,
        prompt: str | Sequence[Message],
        images: Sequence[ImageSource] | None = None,
        *,
        stream: Literal[False] = False,
        **options: Unpack[_Writing],
    ) -> str: ...

    @overload
    def chat(
        self,
        prompt: str | Sequence[Message],
        images: Sequence[ImageSource] | None = None,
        *,
        stream: Literal[True],
        **options: Unpack[_Writing],
    ) -> Iterator[str]: ...

    def chat(
        self,
        prompt: str | Sequence[Message],
        images: Sequence[ImageSource] | None = None,
        *,
        stream: bool = False,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> str | Iterator[str]:
        """Answer a question, or the last turn of a conversation.

        `prompt` is the question, with its `images` (paths, PIL images or bytes), or a list of turns
        `{"role": "user" | "assistant" | "system", "content": str, "images": [...]}`.  With `stream`
        the answer comes in pieces as it is written.  Temperature 0 is greedy.

        Raises ValueError for an empty question, an unknown role, a picture that cannot be read, or a
        conversation longer than the context.
        """
        conversation = _conversation(prompt, images)
        pieces = self._answer([conversation], max_tokens, Sampling(temperature, top_p=top_p), seed)
        words = _strip(piece for _, piece in pieces)
        return words if stream else "".join(words).rstrip()

    def chat_batch(
        self,
        prompts: Sequence[str | Sequence[Message]],
        images: Sequence[Sequence[ImageSource]] | None = None,
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> list[str]:
        """Answer many questions or conversations at once, each as `chat` would alone.

        `images` holds one list for each question, empty where it has none.
        """
        if images is not None and len(images) != len(prompts):
            raise ValueError(f"{len(prompts)} questions but {len(images)} lists of images")
        conversations = [
            _conversation(prompt, None if images is None else images[i]) for i, prompt in enumerate(prompts)
        ]
        answers = [""] * len(conversations)
        sampling = Sampling(temperature, top_p=top_p)
        for row, piece in self._answer(conversations, max_tokens, sampling, seed):
            answers[row] += piece
        return [answer.strip() for answer in answers]

    def _answer(
        self,
        conversations: Sequence[Sequence[Message]],
        max_tokens: int,
        sampling: Sampling,
        seed: int | None,
    ) -> Iterator[tuple[int, str]]:
        """Every request is checked here; the iterator that comes back yields (row, piece of text)."""
        prompts = [self._question(conversation) for conversation in conversations]
        way = self._to_write(prompts, max_tokens, sampling)
        seeds = [_seed(seed)]
        return self._decode_text([Job(way, prompt, seeds) for prompt in prompts])

    def _to_write(self, prompts: Sequence[Prompt], max_tokens: int, sampling: Sampling) -> Way:
        """Answers end where the context does.  Raises ValueError where it has no room for one."""
        _positive(max_tokens=max_tokens)
        longest, context = max((len(p.ids) for p in prompts), default=0), self.config.core.max_positions
        if longest + 1 > context:
            raise ValueError(
                f"the conversation takes {longest} tokens, the context holds {context}; "
                "shorten it or give fewer pictures"
            )
        return Way("text", min(max_tokens, context - longest), sampling, stop_id=self.tokenizer.eos_id)

    def _decode_text(self, jobs: Sequence[Job]) -> Iterator[tuple[int, str]]:
        if not jobs:
            return
        end = self.tokenizer.eos_id
        streams = [self.tokenizer.stream() for _ in jobs]
        stopped = [False] * len(jobs)
        for step in decode(self.model, group(jobs)):
            for row, token in enumerate(step.tolist()):
                stopped[row] = stopped[row] or token == end
                if not stopped[row]:
                    yield row, streams[row].push(token)
        for row, stream in enumerate(streams):
            yield row, stream.finish()

    def _question(self, conversation: Sequence[Message]) -> Prompt:
        ids = understanding_prompt(
            conversation, self.tokenizer, self.config.prompt, self.config.vision.tokens
        )
        pictures = [load_image(source) for source in message_images(conversation)]
        pixels = preprocess(pictures, self.config.image) if pictures else None
        return Prompt(ids, pixels, self.tokenizer.image_id)

    # -- drawing ------------------------------------------------------------------------------

    @overload
    def generate_images(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, prompt: str, n: int = 1, **options: Unpack[_Drawing]
    ) -> list[Image.Image]: ...

    @overload
    def generate_images(
        self, prompt: Sequence[str], n: int = 1, **options: Unpack[_Drawing]
    ) -> list[list[Image.Image]]: ...

    def generate_images(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        *,
        seed: int | Sequence[int] | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        size: int | None = None,
        batch_size: int | Literal["auto"] = "auto",
        window: int | None = None,
        on_step: Callable[[int, int], None] | None = None,
        on_preview: Callable[[list[Image.Image]], None] | None = None,
    ) -> list[Image.Image] | list[list[Image.Image]]:
        """Draw `n` pictures of a prompt, or of each of several.

        Picture j of a prompt is drawn from `seed` + j, so it is the same whatever else is drawn
        beside it; `seed` may be a list, one for each prompt, and without any a fresh one is taken.
        Each picture's `info` holds its prompt, seed and settings.  `guidance` (1 is none) and
        `temperature` default to the checkpoint's own, 5 and 1 for the official ones.  At most
        `batch_size` pictures are drawn at once, "auto" as many as memory holds, up to 64; where that was too
        much, half as many, and so on.  `window` is how many codes of a picture are guessed and checked in one
        pass at most (see `janus.generation.Decoding.step`); 1 is none, and without it there are 4 for all
        pictures of a batch together.  `on_step(done, total)` is called with the number of image tokens
        drawn, `on_preview(pictures)` now and then with those being drawn, in grey what is not
        there yet; that takes a twentieth of the time at most.  `size` is there to be checked: the weights
        draw pictures of one size.

        Raises ValueError for an empty prompt, a size the weights do not support, settings out of range, or
        where memory does not hold even one picture.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        _positive(n=n, batch_size=batch_size, window=window)
        if size is not None and size != self.config.vq.image_size:
            raise ValueError(
                f"these weights draw {self.config.vq.image_size}x{self.config.vq.image_size} pixels, "
                f"not {size}x{size}; draw at their size and scale the picture"
            )
        way = self._to_draw(guidance, temperature, top_k, top_p)
        jobs = [
            self._drawing(text, [first + j], way)
            for text, first in zip(prompts, _seeds(seed, len(prompts)), strict=True)
            for j in range(n)
        ]
        device, tokens = self.model.device, self.config.vq.tokens
        if batch_size == "auto":
            longest = max((len(job.prompt.ids) for job in jobs), default=0)
            kept, guided = self.model.core.kept_bytes, way.guidance is not None
            batch_size = memory.fitting(self.config, longest, guided, self.model.dtype, device, kept)

        with Background(device) as background:

            def draw(some: Sequence[Job], before: int) -> list[tuple[Callable[[], list[Image.Image]], int]]:
                wide = max(1, WINDOW // len(some)) if window is None else window
                codes: list[Tensor] = []
                previews = None
                if on_preview is not None:
                    previews = Previews(on_preview, self.decode_images, self.config.vq.grid)
                for step in decode(self.model, group(some), window=wide):
                    codes.append(step)
                    if on_step is not None:
                        on_step(before * tokens + len(codes) * len(some), len(jobs) * tokens)
                    if previews is not None:
                        previews.offer(codes)
                made = background.start(self.decode_images, torch.stack(codes, dim=1))
                return [(made, place) for place in range(len(some))]

            drawn = [made()[place] for made, place in memory.in_batches(jobs, batch_size, draw, device)]
        pictures = [drawn[first : first + n] for first in range(0, len(drawn), n)]
        for place, picture in enumerate(drawn):
            label(picture, prompts[place // n], jobs[place].seeds[0], way)
        return pictures[0] if isinstance(prompt, str) else pictures

    def _to_draw(self, guidance: float | None, temperature: float | None, top_k: int, top_p: float) -> Way:
        """With the checkpoint's own settings where none are given."""
        own = self.config.drawing
        sampling = Sampling(own.temperature if temperature is None else temperature, top_k, top_p)
        guidance = own.guidance if guidance is None else guidance
        return Way("image", self.config.vq.tokens, sampling, None if guidance == 1 else guidance)

    def _drawing(self, prompt: str, seeds: Sequence[int], way: Way) -> Job:
        ids = drawing_prompt(prompt, self.tokenizer, self.config.prompt)
        plain = None if way.guidance is None else Prompt(unconditional(ids, self.tokenizer))
        return Job(way, Prompt(ids), seeds, plain)

    # -- both in one batch --------------------------------------------------------------------

    def batch(
        self,
        requests: Sequence[Question | Drawing],
        *,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[str | list[Image.Image]]:
        """Answer questions and draw pictures together: an answer for each `Question`, pictures for each
        `Drawing`, the same ones as alone.

        As many as memory holds share every step, for which the weights are read once; where that was too
        much, half as many, and so on.  `on_step(steps, most)` is called after each step of the
        requests in work, with the most that they may need.

        Raises ValueError as `chat` and `generate_images` do, before any work.
        """
        jobs = [self.prepare(request) for request in requests]

        def work(some: Sequence[Job], before: int) -> list[str | list[Image.Image]]:
            return [
                self._words(tokens[0].tolist()) if job.way.kind == "text" else self.decode_images(tokens)
                for job, tokens in zip(some, tokens_of(self.model, some, on_step), strict=True)
            ]

        made = memory.in_batches(jobs, self._fitting(jobs), work, self.model.device)
        for request, job, result in zip(requests, jobs, made, strict=True):
            if isinstance(request, Drawing) and not isinstance(result, str):
                for picture, seed in zip(result, job.seeds, strict=True):
                    label(picture, request.prompt, seed, job.way)
        return made

    def _fitting(self, jobs: Sequence[Job]) -> int:
        """How many jobs memory holds at once, if all are as large as the largest."""
        rows = max((len(job.seeds) * (2 if job.unconditional else 1) for job in jobs), default=1)
        longest = max((len(job.prompt.ids) for job in jobs), default=0)
        slots = longest + max((job.way.new_tokens for job in jobs), default=1)

        def needed(count: int) -> int:
            return Cache.bytes_needed(self.config.core, count * rows, slots, self.model.dtype)

        return memory.at_once(len(jobs), needed, self.model.device, self.model.core.kept_bytes)

    def prepare(self, request: Question | Drawing) -> Job:
        """The request checked and made ready for decoding; for those who decode in a way of their own.

        Raises ValueError as `chat` and `generate_images` do.
        """
        seed = _seed(request.seed)
        if isinstance(request, Drawing):
            _positive(n=request.n)
            way = self._to_draw(request.guidance, request.temperature, request.top_k, request.top_p)
            return self._drawing(request.prompt, [seed + j for j in range(request.n)], way)
        question = self._question(_conversation(request.prompt, request.images))
        sampling = Sampling(request.temperature, top_p=request.top_p)
        return Job(self._to_write([question], request.max_tokens, sampling), question, [seed])

    def _words(self, tokens: list[int]) -> str:
        """Those before the end of sentence."""
        end = self.tokenizer.eos_id
        return self.tokenizer.decode(tokens[: tokens.index(end)] if end in tokens else tokens).strip()

    # -- the token level ----------------------------------------------------------------------

    @torch.inference_mode()
    def encode_images(self, images: Sequence[ImageSource]) -> Tensor:
        """Pictures to codes, (len(images), tokens) long on the CPU.

        Pictures are scaled and padded as for understanding, at the image tokenizer's own size.
        """
        unit = (0.5, 0.5, 0.5)  # the image tokenizer takes [-1, 1]
        how = dataclasses.replace(self.config.image, size=self.config.vq.image_size, mean=unit, std=unit)
        pixels = preprocess([load_image(source) for source in images], how)
        vq = self.model.gen_vision_model
        return torch.cat(
            [vq.encode(p.to(self.model.device, self.model.dtype)) for p in pixels.split(8)]
        ).cpu()

    @torch.inference_mode()
    def decode_images(self, codes: Tensor) -> list[Image.Image]:
        """Codes (N, tokens) to pictures.  Raises ValueError for a wrong shape or a code out of range."""
        vq = self.model.gen_vision_model
        # One by one: a batch is rounded otherwise, and a picture must not depend on what is drawn beside it.
        pixels = torch.cat([vq.decode(c).float().cpu() for c in codes.to(self.model.device).split(1)])
        values = ((pixels + 1) / 2 * 255).clamp(0, 255).byte()  # truncates, as the official script does
        return [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in values]

    def log_probs(
        self,
        prompt: str | Sequence[Message],
        images: Sequence[ImageSource] | None = None,
        *,
        text: str | Sequence[int] | None = None,
        codes: Tensor | Sequence[int] | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Log-probabilities of a given answer or picture, (tokens,) float32 on the CPU.

        Give either `text`, an answer to the conversation `prompt` (a string is written as the
        template writes it: after a space, and with the end of sentence), or `codes`, one picture
        drawn from the text `prompt`.  `guidance` other than 1 scores codes under the guided
        distribution.

        Raises ValueError unless exactly one of the two is given.
        """
        if (text is None) == (codes is None):
            raise ValueError("give either text or codes to score, not both and not neither")
        if text is not None:
            if guidance != 1:
                raise ValueError(f"guidance={guidance} is for codes; text is scored without it")
            tokens = answer_ids(text, self.tokenizer) if isinstance(text, str) else list(text)
            question = self._question(_conversation(prompt, images))
            return score(self.model, [question], [tokens], kind="text")[0].cpu()
        if images is not None or not isinstance(prompt, str):
            raise ValueError("codes are scored after a text prompt alone, without images or turns")
        own = torch.as_tensor(codes).flatten()
        ids = drawing_prompt(prompt, self.tokenizer, self.config.prompt)
        plain = [] if guidance == 1 else [Prompt(unconditional(ids, self.tokenizer))]
        scored = score(
            self.model,
            [Prompt(ids)],
            [own.tolist()],
            kind="image",
            unconditional=plain,
            guidance=guidance if plain else None,
        )
        return scored[0].cpu()


def _conversation(prompt: str | Sequence[Message], images: Sequence[ImageSource] | None) -> Sequence[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt, "images": list(images or ())}]
    if images:
        raise ValueError("with a list of turns, give the images inside the turns: {'images': [...]}")
    return prompt


def label(picture: Image.Image, prompt: str, seed: int, way: Way) -> None:
    """Put into the picture's `info` how it was drawn."""
    guidance = 1.0 if way.guidance is None else way.guidance
    picture.info.update(prompt=prompt, seed=seed, guidance=guidance, **dataclasses.asdict(way.sampling))


def _positive(**numbers: int | str | None) -> None:
    for name, value in numbers.items():
        if value is not None and value != "auto" and (isinstance(value, str) or value < 1):
            raise ValueError(f"{name} must be at least 1, not {value}")


def _strip(pieces: Iterator[str]) -> Iterator[str]:
    """Without white space before the first word, and without empty pieces."""
    begun = False
    for piece in pieces:
        words = piece if begun else piece.lstrip()
        begun = begun or bool(words)
        if words:
            yield words


def _seed(seed: int | None) -> int:
    if seed is None:
        return random.SystemRandom().randrange(2**31)
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be from 0 to 2**63 - 1, not {seed}")
    return seed


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    if seed is None or isinstance(seed, int):
        return [_seed(seed)] * count
    if len(seed) != count:
        raise ValueError(f"{len(seed)} seeds for {count} prompts; give one, or one for each")
    return [_seed(own) for own in seed]


def _dtype(name: str | torch.dtype) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if isinstance(name, torch.dtype) and name in known.values():
        return name
    if name not in known:
        raise ValueError(f"dtype must be one of {list(known)}, not {name!r}")
    return known[str(name)]
