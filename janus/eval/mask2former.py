"""GenEval's published detector: Mask2Former finds things, CLIP names their colours.

Mask2Former Swin-S, trained on COCO's instances by mmdet 2.x, and CLIP ViT-L/14 of OpenAI's, both run by
transformers: the official environment (mmdet 2.x, mmcv 1.7, torch 1.12) needs a compiler and an old GPU.
`mmdet_keys` reads the official checkpoint; `tests/test_mask2former.py` says how this was compared with mmdet.

Source: GenEval's `evaluation/evaluate_images.py`; mmdet 2.28.2, apis/inference.py and
configs/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from janus.checkpoints.files import WeightFiles, read_json
from janus.data.subjects import NAMES
from janus.eval import mmdet_keys
from janus.eval.clip_colours import BACKGROUND, ClipColours
from janus.eval.detect import Detection, Mask
from janus.eval.foreign import folder_of, imported, load_strictly, weights_sha256
from janus.eval.instances import Things, prepared, things_in

DOUBTFUL = 0.05  # what is less certain is not told; GenEval's lowest threshold is 0.3
_UNUSED = (
    "relative_position_index",
    "criterion.empty_weight",
    "swin.layernorm.weight",
    "swin.layernorm.bias",
)


class Mask2Former:
    """A `janus.eval.detect.Detector`.

    segmenter: gives class logits (1, queries, classes + 1) and mask logits (1, queries, height, width) for
    pixels; names: of its classes, in its order.  `caveat` is empty only with both published checkpoints.
    """

    title = "Mask2Former and CLIP"

    def __init__(
        self,
        segmenter: nn.Module,
        colours: ClipColours,
        names: Sequence[str] = NAMES,
        kind: str = "weights of unknown origin",
        sha256: str = "",
    ) -> None:
        self.segmenter, self.names, self.clip = segmenter, tuple(names), colours
        self._official = sha256.startswith(mmdet_keys.OFFICIAL_SHA256)
        self.figures = {
            "detector": "the published mmdet checkpoint" if self._official else kind,
            "detector_weights": sha256[:16],
            "clip_weights": colours.sha256[:16],
            "background": colours.background,
            "crop": colours.crop,
        }

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        clip: str | Path | None = None,
        device: str | torch.device | None = None,
        background: str = BACKGROUND,
        crop: bool = True,
        sizes: mmdet_keys.Sizes | None = None,
    ) -> Mask2Former:
        """source: the official `.pth` file, or a folder or hub id of transformers' form; clip: of CLIP.

        sizes: of the network in a `.pth` file, if it is not the official one.  Raises ValueError where files
        are missing, damaged or do not fit.
        """
        if source is None or clip is None:
            lacking = "Mask2Former" if source is None else "CLIP"
            raise ValueError(
                f"the mask2former detector needs the weights of {lacking}; of Mask2Former mmdet's "
                f"{mmdet_keys.OFFICIAL} or a folder or hub id such as "
                "facebook/mask2former-swin-small-coco-instance, of CLIP such as openai/clip-vit-large-patch14"
            )
        imported()
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if Path(source).is_file():
            state, digest = mmdet_keys.read(Path(source))
            segmenter = segmenter_of(state, sizes or mmdet_keys.Sizes(), source)
            names, kind = list(NAMES), "an mmdet checkpoint"
        else:
            segmenter, names, digest = _own(source)
            kind = "a transformers checkpoint"
        colours = ClipColours.from_pretrained(clip, device, background, crop)
        return cls(segmenter.to(device), colours, names, kind, digest)

    @property
    def caveat(self) -> str:
        """What stands beside the scores."""
        parts = []
        if not self._official:
            parts.append(
                "things found by other weights than the published detector's, for which GenEval's thresholds "
                "were not chosen"
            )
        if not self.clip.official:
            parts.append("colours not named by OpenAI's CLIP ViT-L/14 with the official options")
        return "; ".join([*parts, "not comparable with published numbers"] if parts else [])

    def detect(self, pictures: Sequence[Image.Image]) -> list[list[Detection]]:
        """What each picture shows, with masks; each is looked at alone, as the official script does.

        Raises ValueError where the network gives numbers that are infinite or none.
        """
        return [self._detections(self.things(picture, DOUBTFUL)) for picture in pictures]

    def _detections(self, things: Things) -> list[Detection]:
        boxes = things.boxes.tolist()
        masks = map(Mask.of, things.masks.cpu().numpy())
        return [
            Detection(self.names[kind], score, (box[0], box[1], box[2], box[3]), mask=mask)
            for kind, score, box, mask in zip(
                things.kinds.tolist(), things.scores.tolist(), boxes, masks, strict=True
            )
        ]

    def colours(self, picture: Image.Image, found: Sequence[Detection]) -> list[str]:
        return self.clip.named(picture, found)

    @torch.inference_mode()
    def things(self, picture: Image.Image, least: float = 0.0) -> Things:
        """The `MOST` most probable things of a picture, without those whose score is below `least`."""
        device = next(self.segmenter.parameters()).device
        pixels, inner = prepared(picture)
        classes, masks = self.segmenter(pixels[None].to(device))
        if not bool(classes.isfinite().all() and masks.isfinite().all()):
            raise ValueError("Mask2Former gives numbers that are infinite or none; its weights are broken")
        padded = (pixels.shape[1], pixels.shape[2])
        return things_in(classes[0], masks[0], padded, inner, picture.size[::-1], least)

    def self_test(self, picture: Image.Image, name: str) -> None:
        """Raises ValueError unless it finds what a picture, a photograph of one of its classes, shows."""
        sure = max((thing.score for thing in self.detect([picture])[0] if thing.name == name), default=0.0)
        if sure <= 0.3:
            raise ValueError(
                f"the detector is {sure:.2f} sure of a {name} in a picture of one: are its weights right?"
            )


# -- the network ---------------------------------------------------------------------------------


def segmenter_of(state: dict[str, Tensor], sizes: mmdet_keys.Sizes, where: object) -> nn.Module:
    """The network with the weights of an mmdet checkpoint.  Raises ValueError where they do not fit."""
    transformers = imported()
    weights = mmdet_keys.converted(state, sizes, where)
    swin = transformers.SwinConfig(
        embed_dim=sizes.swin_width,
        depths=list(sizes.swin_depths),
        num_heads=list(sizes.swin_heads),
        window_size=sizes.window,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=sizes.width,
        mask_feature_size=sizes.width,
        hidden_dim=sizes.width,
        encoder_layers=sizes.encoder_depth,
        encoder_feedforward_dim=sizes.encoder_ffn,
        decoder_layers=sizes.decoder_depth + 1,  # it counts the first guess of the masks, too
        dim_feedforward=sizes.decoder_ffn,
        num_attention_heads=sizes.heads,
        num_queries=sizes.queries,
        num_labels=sizes.classes,
    )
    return load_strictly(_segmenter_class(), config, weights, where, _UNUSED, _UNUSED)


def _own(source: str | Path) -> tuple[nn.Module, list[str], str]:
    """The network, the names of its classes and the hash of its weights from a folder or the hub."""
    transformers = imported()
    folder = folder_of(source)
    read_json(folder / "config.json")
    config = transformers.AutoConfig.from_pretrained(folder)
    backbone = getattr(getattr(config, "backbone_config", None), "model_type", None)
    if config.model_type != "mask2former" or backbone != "swin":
        raise ValueError(f"{folder} is {config.model_type} with {backbone}, not mask2former with swin")
    names = [mmdet_keys.geneval_name(config.id2label[index]) for index in sorted(config.id2label)]
    mmdet_keys.check_classes(names, folder / "config.json")
    files = WeightFiles(folder)
    state = {key: files.read(key) for key in files.infos}
    segmenter = load_strictly(_segmenter_class(), config, state, folder, _UNUSED, _UNUSED)
    return segmenter, names, weights_sha256(files)


def _segmenter_class() -> Any:
    """Mask2FormerForUniversalSegmentation without its loss, which needs scipy."""
    transformers = imported()
    base: Any = transformers.Mask2FormerPreTrainedModel

    class Segmenter(base):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model = transformers.Mask2FormerModel(config)
            self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
            self.post_init()

        def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            output = self.model(pixel_values=pixels, output_hidden_states=True)
            queries = output.transformer_decoder_intermediate_states[-1].transpose(0, 1)
            return self.class_predictor(queries), output.masks_queries_logits[-1]

    return Segmenter
