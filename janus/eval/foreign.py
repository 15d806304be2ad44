"""Models of transformers: found, read strictly, and known by the hash of their weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from janus.checkpoints.files import WeightFiles, some

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def imported() -> Any:
    """transformers.  Raises ValueError where it is not installed."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ValueError('this detector needs transformers: pip install "janus-pro[eval]"') from error
    return transformers


def load_strictly(
    kind: Any,
    config: Any,
    state: Mapping[str, Tensor],
    where: object,
    spare: Sequence[str] = (),
    absent: Sequence[str] = (),
) -> nn.Module:
    """A transformers model with these weights, in float32, named as in any version's checkpoints.

    spare: ends of names that may be in `state` and are not needed; absent: of those that may be missing,
    since nothing reads them.  Raises ValueError listing unknown, missing and misshapen tensors, and those
    with numbers that are infinite or none.
    """
    state = {key: value for key, value in state.items() if not key.endswith(tuple(spare))}
    wrong = {"broken": sorted(key for key, value in state.items() if not bool(value.isfinite().all()))}
    with _quiet():
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict={key: value.float() for key, value in state.items()},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    wrong["unknown"] = sorted(info["unexpected_keys"])
    wrong["missing"] = sorted(key for key in info["missing_keys"] if not key.endswith(tuple(absent)))
    wrong["misshapen"] = sorted(
        f"{key} is {list(given)} instead of {list(own)}" for key, given, own in info["mismatched_keys"]
    )
    if complaints := [f"{len(names)} {what}: {some(names)}" for what, names in wrong.items() if names]:
        raise ValueError(f"the tensors in {where} do not fit its config.json; {'; '.join(complaints)}")
    return model.eval()


def weights_sha256(files: WeightFiles) -> str:
    """Of the file, or where there are several, of all of them one after the other."""
    digest = hashlib.sha256()
    for name in sorted(set(files.files.values())):
        with (files.folder / name).open("rb") as file:
            while piece := file.read(2**24):
                digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own bars and tables about loading: what is wrong with it is told as an error."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def folder_of(source: str | Path) -> Path:
    """A folder, or the hub's copy of one in the cache.  Raises ValueError where there is neither."""
    if Path(source).is_dir():
        return Path(source)
    if not _ID.fullmatch(str(source)) or Path(source).exists():
        raise ValueError(
            f"{source} is neither mmdet's .pth file nor a folder nor a hub id such as "
            "facebook/mask2former-swin-small-coco-instance"
        )
    from huggingface_hub import snapshot_download

    try:
        for weights in ("*.safetensors", "*.bin"):
            wanted = ["*.json", weights]
            folder = Path(snapshot_download(str(source), allow_patterns=wanted, ignore_patterns="*/*"))
            if any(folder.glob(weights)):
                return folder
    except Exception as error:  # the kinds of network errors differ between versions of the hub's client
        raise ValueError(f"there is no {source} here, and the hub does not give it: {error}") from error
    raise ValueError(f"{source} on the hub has neither .safetensors nor .bin files")
