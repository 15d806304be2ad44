"""What Mask2Former sees of a picture, and which things its answer says are there: the steps of mmdet 2.x.

Source: mmdet 2.28.2, configs/mask2former/mask2former_r50_lsj_8x2_50e_coco.py (`test_pipeline`),
models/dense_heads/maskformer_head.py `simple_test` and
models/seg_heads/panoptic_fusion_heads/maskformer_fusion_head.py `instance_postprocess`; mmcv 1.7.1
image/geometric.py (`rescale_size`, `imresize`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

LONGEST, SHORTEST = 1333, 800  # what a picture is resized into
MULTIPLE, PADDING = 32, 128  # it is padded at the right and below, with this grey
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of red, green and blue
MOST = 100  # things of a picture


@dataclass(frozen=True)
class Things:
    """What a picture shows, the most probable classes in any order."""

    kinds: Tensor  # (n,) index of the class
    scores: Tensor  # (n,)
    boxes: Tensor  # (n, 4) left, top, right, bottom in pixels, all 0 for an empty mask
    masks: Tensor  # (n, height, width) bool


def prepared(picture: Image.Image) -> tuple[Tensor, tuple[int, int]]:
    """What the network sees of a picture, (3, height, width), and its height and width before padding.

    The picture fills LONGEST by SHORTEST pixels as well as it can; the rounding is mmcv's.
    """
    pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    scale = min(LONGEST / max(height, width), SHORTEST / min(height, width))
    inner = int(height * scale + 0.5), int(width * scale + 0.5)
    pixels = resized(pixels, inner)
    below, right = (-side % MULTIPLE for side in inner)
    pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)), constant_values=PADDING)
    normal = (pixels.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return torch.from_numpy(normal).permute(2, 0, 1).contiguous(), inner


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) uint8 to another height and width, equal to OpenCV's INTER_LINEAR in every bit.

    Nothing is smoothed where the picture gets smaller.  Shares of pixels are whole numbers of 2048ths; beside
    the outer columns there is nothing to mix with, beside the outer rows there are the same rows again.
    """
    left, right, of_left, of_right = _taps(pixels.shape[1], size[1])
    lone = (left < 0) | (left >= pixels.shape[1] - 1)
    of_left[lone], of_right[lone] = 2048, 0
    left, right = (np.clip(at, 0, pixels.shape[1] - 1) for at in (left, right))
    across = pixels[:, left].astype(np.int32) * of_left[:, None] + pixels[:, right] * of_right[:, None]
    top, bottom, of_top, of_bottom = _taps(pixels.shape[0], size[0])
    top, bottom = (np.clip(at, 0, pixels.shape[0] - 1) for at in (top, bottom))
    upper = (across[top] >> 4) * of_top[:, None, None] >> 16
    lower = (across[bottom] >> 4) * of_bottom[:, None, None] >> 16
    return (upper + lower + 2 >> 2).astype(np.uint8)


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each new pixel the two old ones that it lies between, and their shares in 2048ths."""
    middle = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    first = np.floor(middle).astype(np.int32)
    share = middle - first.astype(np.float32)
    shares = [np.rint(part * np.float32(2048)).astype(np.int32) for part in (1 - share, share)]
    return first, first + 1, shares[0], shares[1]


def things_in(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    inner: tuple[int, int],
    size: tuple[int, int],
    least: float = 0.0,
) -> Things:
    """The things of one picture from (queries, classes + 1) and (queries, height, width).

    Each query may be several classes.  A thing's score is the probability of its class times the mean
    probability of its mask's pixels.  padded: height and width of what the network saw; inner: of the part
    that is the picture; size: of the picture itself.  Things that score below `least` are left out.
    """
    probable = class_logits.softmax(-1)[:, :-1]
    count = probable.shape[1]
    probable, index = probable.flatten().topk(min(MOST, probable.numel()), sorted=False)
    may = probable >= least  # a score is never above the probability
    probable, index = probable[may], index[may]
    query, which = (index // count).unique(return_inverse=True)
    masks = interpolate(mask_logits[query][:, None], padded, mode="bilinear", align_corners=False)
    masks = masks[..., : inner[0], : inner[1]]
    masks = interpolate(masks, size, mode="bilinear", align_corners=False)[:, 0]
    inside = (masks > 0).float()
    certain = (masks.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    scores = probable * certain[which]
    told = scores >= least
    which = which[told]
    return Things((index % count)[told], scores[told], _boxes(inside > 0)[which], (inside > 0)[which])


def _boxes(masks: Tensor) -> Tensor:
    """(n, 4): the smallest boxes around masks (n, height, width)."""
    ends = []
    for axis in (1, 2):  # what is there of each column, then of each row
        there = masks.any(axis)
        first = there.int().argmax(1)
        beyond = there.shape[1] - there.flip(1).int().argmax(1)
        ends.append((first, beyond * there.any(1)))
    return torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], 1).float()
