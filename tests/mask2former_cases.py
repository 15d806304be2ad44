"""Pictures and weights that mmdet's Mask2Former and ours are compared on, made again from names alone.

`golden/mask2former.json` holds only what the official code said, and this file says how to make that again.

Where: mmdet 2.28.2 (the wheel on PyPI) and mmcv-full 1.7.1 (its source on PyPI) without what is compiled.
A module `mmcv._ext` whose functions raise stands for that, so that deformable attention runs by mmcv's own
`multi_scale_deformable_attn_pytorch`.  torch 2.14 on the CPU in float32, OpenCV 4.11.

Model: `init_detector` of mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py with the sizes of `tiny_sizes()`
put into its config, then every tensor of its `state_dict()` replaced by `tiny_weights()`, but for the
constant `relative_position_index`.

Outputs, for each of `pictures()`, saved as PNG: `shape`, of the network's input; `sums` of it; `classes` and
`masks`, some of the class and mask logits that the last layer of `panoptic_head` gives for it; and the fifty
most certain `things` of `inference_detector`, [class, score, box, pixels of the mask].
`index`: some of the constant.  `resized`: height and width, those that `cv2.resize` with INTER_LINEAR made of
`noise()`, and the CRC-32 of that; OpenCV 4.8.1, 4.11 and 5.0 agree.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from janus.data.subjects import NAMES
from janus.eval.mmdet_keys import Sizes, relative_positions, rows
from tests.recipe import recipe_weights, uniform

META = {  # what mmdet stores beside the weights, more or less
    "CLASSES": tuple(name.removeprefix("computer ").removeprefix("tv ") for name in NAMES),
    "config": "model = dict()",
    "epoch": 1,
    "best": np.float64(0.3),
    "hook_msgs": {"last_ckpt": "latest.pth", "seen": np.int64(3)},
    "PALETTE": [(220, 20, 60)],
}
SIDES = ((96, 96), (64, 200), (1700, 40))  # width and height; the last is resized to 1333 by 31


def tiny_sizes() -> Sizes:
    """Everything that the published detector has, as small as may be: three levels, shifted windows."""
    return Sizes(
        swin_width=16,
        swin_depths=(2, 2, 2, 2),
        swin_heads=(1, 2, 2, 4),
        width=32,
        heads=4,
        encoder_depth=2,
        encoder_ffn=48,
        decoder_depth=4,
        decoder_ffn=64,
        queries=12,
    )


def tiny_weights(sizes: Sizes) -> dict[str, Tensor]:
    """mmdet's tensors by their names, of the recipe of `recipe`; the classes are made surer of themselves.

    Constants are left out.
    """
    weights = recipe_weights({row.name: row.shape for row in rows(sizes) if row.names})
    head = "panoptic_head."
    weights[head + "cls_embed.weight"] *= 5
    for name in ("query_feat.weight", "query_embed.weight"):
        weights[head + name] *= sizes.width**0.5
    weights[head + "mask_embed.4.weight"] *= 3
    weights[head + "mask_embed.4.bias"][0] = 12
    weights[head + "pixel_decoder.mask_feature.weight"][0] = 0
    weights[head + "pixel_decoder.mask_feature.bias"][0] = -1
    return weights


def mmdet_state() -> dict[str, Tensor]:
    """A whole state dict of mmdet's, of `tiny_sizes()`."""
    constant = relative_positions(tiny_sizes().window)
    constants = {row.name: constant for row in rows(tiny_sizes()) if not row.names}
    return tiny_weights(tiny_sizes()) | constants


def pictures() -> list[Image.Image]:
    """Smooth blots of colours, with a little noise."""
    return [_picture(f"picture {number}", size) for number, size in enumerate(SIDES)]


def _picture(name: str, size: tuple[int, int]) -> Image.Image:
    width, height = size
    blots = (uniform(name, (5, 5, 3)).numpy() * 110 + 128).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(blots).resize(size, Image.Resampling.NEAREST)).astype(np.float32)
    noise = uniform(f"noise of {name}", (height, width, 3)).numpy() * 20
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def some_classes(logits: Tensor) -> Tensor:
    """(queries, classes + 1), the background among them."""
    return logits[:, ::5]


def some_pixels(logits: Tensor) -> Tensor:
    """(queries, height, width)."""
    return logits[:, ::20, ::20]


def sums(pixels: Tensor) -> list[float]:
    """Of each channel of (3, height, width), weighted by place: what tells a wrong input from a right one."""
    weights = torch.arange(pixels[0].numel(), dtype=torch.float64).remainder(97)
    return [float((channel.flatten().double() * weights).mean()) for channel in pixels]


def noise(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8."""
    words = np.random.Philox(height * 10_000 + width).random_raw(height * width * 3)
    return (words >> np.uint64(56)).astype(np.uint8).reshape(height, width, 3)
