"""The colours of things by CLIP, as GenEval's published detector names them.

Each thing is cut out of the picture, with grey where the thing is not, and compared with sentences about ten
colours: CLIP ViT-L/14 with OpenAI's weights, three sentences for a colour and class.

Source: GenEval's `evaluation/evaluate_images.py` (`ImageCrops`, `color_classification`), clip_benchmark 1.4.0
`metrics/zeroshot_classification.py`, open_clip 2.20.0 `transform.py`.  The weights are read in transformers'
form: https://huggingface.co/openai/clip-vit-large-patch14.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageColor
from torch import Tensor, nn

from janus.checkpoints.files import WeightFiles, read_json
from janus.checkpoints.hub import locate
from janus.data.subjects import COLOURS
from janus.eval.detect import Detection
from janus.eval.foreign import imported, load_strictly, weights_sha256

TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
BACKGROUND = "#999"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
# The files of openai/clip-vit-large-patch14 on the hub: the same numbers as OpenAI's own ViT-L-14.pt
OPENAI_SHA256 = {
    "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb": "model.safetensors",
    "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3": "pytorch_model.bin",
}
_BATCH = 16
_CONSTANTS = ("embeddings.position_ids",)  # stored by old versions of transformers

Tokens = Callable[[Sequence[str]], Tensor]  # sentences to token ids, (sentences, length)


class ClipColours:
    """Names the colours of things that were found.

    model: a transformers CLIPModel.  background: what stands where a thing's mask is not, "original" to leave
    the picture as it is.  crop: whether to cut the thing's box out of the picture.
    """

    def __init__(
        self,
        model: Any,
        tokens: Tokens,
        background: str = BACKGROUND,
        crop: bool = True,
        sha256: str = "",
    ) -> None:
        if background != "original":
            ImageColor.getrgb(background)  # a ValueError for no colour
        self.model = model.eval().requires_grad_(False)
        self.tokens, self.background, self.crop, self.sha256 = tokens, background, crop, sha256
        self._classifiers: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: str | torch.device = "cpu",
        background: str = BACKGROUND,
        crop: bool = True,
    ) -> ClipColours:
        """CLIP from a folder or hub id of transformers' form.

        Raises ValueError where files are missing or do not fit each other, and for activations other than
        OpenAI's quick GELU: with the usual GELU the same weights give other answers.
        """
        transformers = imported()
        folder = locate(source)
        if (kind := read_json(folder / "config.json").get("model_type")) != "clip":
            raise ValueError(f"{folder} is a {kind} checkpoint, not a clip one")
        config = transformers.CLIPConfig.from_pretrained(folder)
        for part in (config.text_config, config.vision_config):
            if part.hidden_act != "quick_gelu":
                raise ValueError(
                    f"{part.model_type} in {folder} has the activation {part.hidden_act!r}; OpenAI's weights "
                    "need 'quick_gelu': openai/clip-vit-large-patch14 has it"
                )
        files = WeightFiles(folder)
        model = load_strictly(
            transformers.CLIPModel, config, {k: files.read(k) for k in files.infos}, folder, _CONSTANTS
        )
        tokens = _tokens(transformers, folder, config.text_config)
        return cls(model.to(device), tokens, background, crop, weights_sha256(files))

    @property
    def official(self) -> bool:
        """Whether these are OpenAI's weights, used as in GenEval."""
        return self.sha256 in OPENAI_SHA256 and self.background == BACKGROUND and self.crop

    def named(self, picture: Image.Image, found: Sequence[Detection]) -> list[str]:
        """The colour of each thing; of equals the first in GenEval's order."""
        if not found:
            return []
        return [COLOURS[index] for index in self.logits(picture, found).argmax(1).tolist()]

    @torch.inference_mode()
    def logits(self, picture: Image.Image, found: Sequence[Detection]) -> Tensor:
        """(things, colours), float32."""
        device = next(self.model.parameters()).device
        to_input = transform(self.model.config.vision_config.image_size)
        cut = [to_input(image) for image in self.cut_out(picture, found)]
        rows = []
        for start in range(0, len(cut), _BATCH):
            names = [thing.name for thing in found[start : start + _BATCH]]
            with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
                pixels = torch.stack(cut[start : start + _BATCH]).to(device)
                # By its parts, for what get_image_features gives differs between versions.
                pooled = self.model.vision_model(pixel_values=pixels).pooler_output
                features = 100.0 * nn.functional.normalize(self.model.visual_projection(pooled), dim=-1)
                rows += [row @ self.classifier(name) for row, name in zip(features, names, strict=True)]
        return torch.stack(rows).float().cpu()

    def cut_out(self, picture: Image.Image, found: Sequence[Detection]) -> list[Image.Image]:
        """What CLIP sees of each thing, before it is resized.  A thing without a mask is all of its box."""
        picture = picture.convert("RGB")
        blank = picture
        if self.background != "original":
            blank = Image.new("RGB", picture.size, self.background)
        images = []
        for thing in found:
            image = picture
            if thing.mask is not None:
                image = Image.composite(picture, blank, Image.fromarray(thing.mask.pixels(picture.size)))
            images.append(image.crop(thing.box) if self.crop else image)
        return images

    @torch.inference_mode()
    def classifier(self, name: str) -> Tensor:
        """(width, colours): for each colour the mean of its sentences about a class, of unit length."""
        if name not in self._classifiers:
            device = next(self.model.parameters()).device
            texts = [t.format(colour=colour, name=name) for colour in COLOURS for t in TEMPLATES]
            with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
                output = self.model.text_model(input_ids=self.tokens(texts).to(device)).pooler_output
                each = nn.functional.normalize(self.model.text_projection(output), dim=-1)
                means = each.unflatten(0, (len(COLOURS), len(TEMPLATES))).mean(1)
                self._classifiers[name] = (means / means.norm(dim=-1, keepdim=True)).T
        return self._classifiers[name]


@cache
def transform(size: int) -> Callable[[Image.Image], Tensor]:
    """open_clip's for inference: the shorter side to `size`, its middle, (3, size, size)."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def _tokens(transformers: Any, folder: Path, config: Any) -> Tokens:
    """The tokenizer in a folder, checked to be that of the text model.

    Raises ValueError where it is missing or does not fit.
    """
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"cannot read the tokenizer in {folder}: {error}") from error

    def tokens(texts: Sequence[str]) -> Tensor:
        # What follows the end of a sentence cannot be seen from it, so the kind of padding does not matter.
        length = config.max_position_embeddings
        said = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return said["input_ids"]

    highest = int(tokens(["a photo of a red apple"]).max())
    if highest != tokenizer.eos_token_id or highest >= config.vocab_size:
        raise ValueError(
            f"the tokenizer in {folder} does not fit its model of {config.vocab_size} tokens: "
            f"sentences should end with the highest of its numbers, which is {highest}"
        )
    return tokens
