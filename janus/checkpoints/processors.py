"""How a folder wants pictures and prompts prepared, to and from its processor files.

Official: `preprocessor_config.json` and `processor_config.json`; its code writes the prompt, so a chat
template matters only in a file of its own.  transformers: the same two files (or the first inside the
second), and a chat template.  What the official files cannot say is kept under `prompt` in
`processor_config.json` and `rounding` in `preprocessor_config.json`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from janus.checkpoints.fields import Fields
from janus.checkpoints.files import read_json
from janus.checkpoints.layouts import Layout
from janus.checkpoints.writing import write_json
from janus.config import SYSTEM_PROMPT, ImageConfig, PromptConfig, VisionConfig
from janus.tokenizers.chat import jinja_template

PREPROCESSOR, PROCESSOR, TEMPLATE = "preprocessor_config.json", "processor_config.json", "chat_template.jinja"
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # both processors' default, which no checkpoint uses
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_TAGS = {
    "image_token": "image_tag",
    "begin_image_token": "image_start_tag",
    "end_image_token": "image_end_tag",
    "pad_token": "pad_tag",
}
# what transformers' tokenizer settings call them
_EXTRA_TOKENS = {
    "image_token": "image_token",
    "begin_image_token": "boi_token",
    "end_image_token": "eoi_token",
}


def read_processor(folder: Path, layout: Layout, vision: VisionConfig) -> tuple[ImageConfig, PromptConfig]:
    """Raises ValueError where the files ask for what does not fit the model or does not exist here."""
    processor = _optional(folder / PROCESSOR)
    processor.expect("num_image_tokens", vision.tokens)
    if layout == "official":
        return _official_image(folder, vision), _official_prompt(folder, processor)
    return _transformers_image(folder, processor, vision), _transformers_prompt(folder, processor)


def _optional(path: Path) -> Fields:
    return Fields(read_json(path) if path.is_file() else {}, str(path))


# -- pictures -----------------------------------------------------------------------------------


def _official_image(folder: Path, vision: VisionConfig) -> ImageConfig:
    fields = _optional(folder / PREPROCESSOR)
    fields.expect("image_size", vision.image_size)
    rounding = fields.take("rounding", str, "truncate")
    return _image(fields, vision.image_size, rounding)


def _transformers_image(folder: Path, processor: Fields, vision: VisionConfig) -> ImageConfig:
    fields = _optional(folder / PREPROCESSOR)
    if not fields.values and "image_processor" in processor:
        fields = processor.inner("image_processor")
    size = vision.image_size
    fields.expect("size", {"height": size, "width": size}, size)
    for step in ("do_resize", "do_rescale", "do_pad"):
        fields.expect(step, True)
    fields.expect("resample", 3)  # bicubic
    return _image(fields, size, "round")


def _image(fields: Fields, size: int, rounding: str) -> ImageConfig:
    fields.expect("do_normalize", True)
    rescale = fields.take("rescale_factor", float, 1 / 255)
    if abs(rescale * 255 - 1) > 1e-6:
        raise ValueError(f"{fields.where}: rescale_factor must be 1/255, not {rescale}")
    # without a file, what every published checkpoint says; a file without the field, the code's default
    mean = _three(fields, "image_mean", _CLIP_MEAN if fields.values else (0.5, 0.5, 0.5))
    std = _three(fields, "image_std", _CLIP_STD if fields.values else (0.5, 0.5, 0.5))
    colour = [int(value * 255) for value in mean]
    fields.expect("background_color", colour)
    if rounding not in ("truncate", "round"):
        raise ValueError(f"{fields.where}: rounding must be 'truncate' or 'round', not {rounding!r}")
    return ImageConfig(
        size=size,
        min_size=fields.take("min_size", int, min(14, size)),
        mean=mean,
        std=std,
        rounding="round" if rounding == "round" else "truncate",
    )


def _three(fields: Fields, name: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    values = fields.several(name, float, default)
    if len(values) != 3:
        raise ValueError(f"{fields.where}: {name} must hold three numbers, not {list(values)}")
    return values[0], values[1], values[2]


# -- prompts ------------------------------------------------------------------------------------


def _official_prompt(folder: Path, processor: Fields) -> PromptConfig:
    processor.expect("sft_format", "deepseek")
    stated: dict[str, Any] = {
        ours: processor.take(theirs, str) for ours, theirs in _TAGS.items() if theirs in processor
    }
    path = folder / TEMPLATE
    if path.is_file():
        stated["jinja"] = path.read_text(encoding="utf-8")
    own = processor.inner("prompt") if "prompt" in processor else Fields({}, str(folder))
    for name in ("user", "assistant", "system_prompt", "bos_token", "eos_token"):
        if name in own:
            stated[name] = own.take(name, str)
    if "use_system_prompt" in own:
        stated["use_system_prompt"] = own.take("use_system_prompt", bool)
    own.done()
    return dataclasses.replace(_tokenizers_prompt(folder), **stated)


def _transformers_prompt(folder: Path, processor: Fields) -> PromptConfig:
    tokenizer = _optional(folder / "tokenizer_config.json")
    extra = (
        tokenizer.inner("extra_special_tokens")
        if _is_object(tokenizer, "extra_special_tokens")
        else tokenizer
    )
    stated: dict[str, Any] = {}
    for ours, theirs in _EXTRA_TOKENS.items():
        for fields in (tokenizer, extra):
            if theirs in fields:
                stated[ours] = _token(fields.values[theirs])
    return dataclasses.replace(
        _tokenizers_prompt(folder),
        use_system_prompt=processor.take("use_default_system_prompt", bool, False),
        jinja=_template(folder, processor, tokenizer),
        **stated,
    )


def _is_object(fields: Fields, name: str) -> bool:
    return isinstance(fields.values.get(name), dict)


def _token(value: object) -> object:
    """A token as a string, or as an object that describes it."""
    return value.get("content") if isinstance(value, dict) else value


def _template(folder: Path, processor: Fields, tokenizer: Fields) -> str | None:
    path = folder / TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for fields in (_optional(folder / "chat_template.json"), processor, tokenizer):
        if "chat_template" in fields:
            return fields.take("chat_template", str)
    return None


def _tokenizers_prompt(folder: Path) -> PromptConfig:
    """What the tokenizer's files alone say: the end markers, and whether the role strings of Janus-Pro
    are tokens; Janus-1.3B has none and writes the roles as words."""
    prompt = PromptConfig()
    stated: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the later one counts
        fields = _optional(folder / name)
        for key in ("bos_token", "eos_token"):
            if key in fields:
                stated[key] = _token(fields.values[key])
    path = folder / "tokenizer.json"
    if path.is_file():
        added = read_json(path).get("added_tokens")
        tokens = {item.get("content") for item in added} if isinstance(added, list) else set()
        if not {prompt.user, prompt.assistant} <= tokens:
            stated |= {"user": "User", "assistant": "Assistant"}
    return dataclasses.replace(prompt, **stated)


# -- writing ------------------------------------------------------------------------------------


def write_official_processor(
    folder: Path, image: ImageConfig, prompt: PromptConfig, image_tokens: int
) -> None:
    """Processor files of the official layout, into a folder that already has its tokenizer."""
    pictures = _pictures(image) | {
        "image_processor_type": "VLMImageProcessor",
        "processor_class": "VLChatProcessor",
        "image_size": image.size,
    }
    if image.rounding != "truncate":
        pictures["rounding"] = image.rounding
    values: dict[str, Any] = {
        "processor_class": "VLChatProcessor",
        "add_special_token": False,
        "ignore_id": -100,
        "mask_prompt": True,
        "num_image_tokens": image_tokens,
        "sft_format": "deepseek",
    } | {theirs: getattr(prompt, ours) for ours, theirs in _TAGS.items()}
    told = dataclasses.asdict(_tokenizers_prompt(folder))
    own = {
        name: value
        for name, value in dataclasses.asdict(prompt).items()
        if name not in _TAGS and name != "jinja" and value != told[name]
    }
    if own:
        values["prompt"] = own
    write_json(folder / PREPROCESSOR, pictures)
    write_json(folder / PROCESSOR, values)
    if prompt.jinja is not None:
        (folder / TEMPLATE).write_text(prompt.jinja, encoding="utf-8")


def write_transformers_processor(
    folder: Path, image: ImageConfig, prompt: PromptConfig, image_tokens: int
) -> None:
    """Processor files of the transformers layout.

    Raises ValueError for a system prompt that transformers' processor would not write.
    """
    if prompt.use_system_prompt and prompt.system_prompt != SYSTEM_PROMPT:
        raise ValueError("the transformers layout has no place for a system prompt other than Janus's own")
    pictures = _pictures(image) | {
        "image_processor_type": "JanusImageProcessor",
        "processor_class": "JanusProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_pad": True,
        "resample": 3,
        "size": {"height": image.size, "width": image.size},
    }
    values = {
        "processor_class": "JanusProcessor",
        "num_image_tokens": image_tokens,
        "use_default_system_prompt": prompt.use_system_prompt,
    }
    write_json(folder / PREPROCESSOR, pictures)
    write_json(folder / PROCESSOR, values)
    template = jinja_template(prompt) if prompt.jinja is None else prompt.jinja
    (folder / TEMPLATE).write_text(template, encoding="utf-8")


def _pictures(image: ImageConfig) -> dict[str, Any]:
    return {
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "min_size": image.min_size,
        "rescale_factor": 1 / 255,
        "background_color": [int(value * 255) for value in image.mean],
    }
