"""Pictures for the image tokenizer: those of plain sources, or of folders full of pictures alone.

Shapes: N pictures, S their side, K codes of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from janus.config import VqConfig
from janus.data.records import BadRecord, Kind, Picture, Record, Records, Skipped, StoredPicture
from janus.data.scene_source import SceneSource
from janus.data.sources import open_source
from janus.encoders.preprocess import crop
from janus.tokenizers.image import VqTokenizer
from janus.train.loader import Loader
from janus.train.parallel import Parallel
from janus.train.plan import DataRecipe
from janus.train.stream import Draft, Part, Stream

_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_LISTS = (".jsonl", ".tar")
_SHOWN: tuple[Kind, ...] = ("generation", "understanding")  # kinds of records that have pictures


class PictureFolder:
    """All pictures in a folder and in those below it, as records without words (see `Records`).

    Raises ValueError where there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.unusable = Skipped()
        found = (path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file())
        self._paths = sorted(path for path in found if path.name[0] != ".")
        if not self._paths:
            raise ValueError(f"{folder} holds no pictures; they end in {', '.join(sorted(_ENDINGS))}")

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"generation"})

    def of_kind(self, kind: Kind) -> np.ndarray:
        return np.arange(len(self) if kind == "generation" else 0)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no picture {index}; pictures are 0 to {len(self) - 1}")
        path = self._paths[index]
        return Record(str(path), "generation", images=(StoredPicture(str(path), path.name, path),))


def open_pictures(data: Sequence[DataRecipe], tokenizer: VqTokenizer) -> list[tuple[Records, float]]:
    """The sources of a recipe with their weights; `tokenizer` codes scenes that come with codes.

    A folder with JSON lines or shards is what `janus.data.sources` says; of any other all pictures are
    taken, with or without words.  Raises ValueError for a source without pictures.
    """
    opened: list[tuple[Records, float]] = []
    for one in data:
        source: Records
        if one.scenes is not None:
            source = SceneSource(one.scenes, tokenizer)
        else:
            assert one.path is not None
            path = Path(one.path)
            alone = path.is_dir() and not any(entry.suffix in _LISTS for entry in path.iterdir())
            source = PictureFolder(path) if alone else open_source(path)
        if not source.kinds & set(_SHOWN):
            raise ValueError(f"{one.title} has no pictures")
        opened.append((source, one.weight))
    return opened


def picture_stream(sources: Sequence[tuple[Records, float]], seed: int) -> Stream:
    """One picture after the other, each the only draft of its row; weights divide them among the sources.

    A record with several pictures gives one of them each time that it comes.
    """
    total = sum(weight for _, weight in sources)
    if total <= 0:
        raise ValueError("the weights of data are all 0")
    parts = []
    for source, weight in sources:
        having = np.sort(np.concatenate([source.of_kind(kind) for kind in _SHOWN]))
        parts.append(Part("generation", source, having, weight / total))
    return Stream(parts, _draft, row=1, seed=seed)


def _draft(record: Record, rng: np.random.Generator) -> Draft:
    """A record's picture, which takes the one place of a row."""
    if not record.images:
        raise BadRecord(record.name, "no picture", "a tokenizer learns from pictures alone")
    image = record.images[int(rng.integers(len(record.images)))]
    return Draft(record.name, [0], [], drawing=image, codes=record.codes, repainted=record.repainted)


@dataclass(frozen=True)
class Pictures:
    """A batch.  `codes` are those to give the pictures back from; without them, the encoder's own."""

    pixels: Tensor  # (N, 3, S, S) in [-1, 1]
    codes: Tensor  # (N, K), -1 throughout a picture that has none
    repainted: Tensor  # (N, 3, S, S) the same pictures in other colours, where there is such a one
    tones: Tensor  # (N, K) of the pictures' codes, -1 where any may be

    def to(self, device: torch.device) -> Pictures:
        return Pictures(*(getattr(self, one.name).to(device, non_blocking=True) for one in fields(self)))


class PictureLoader(Loader[Pictures]):
    """Batches of pictures, prepared as those to draw are."""

    def __init__(
        self,
        stream: Stream,
        config: VqConfig,
        parallel: Parallel,
        pictures: int,
        micro_pictures: int,
        workers: int = 0,
    ) -> None:
        super().__init__(stream, parallel, pictures, micro_pictures, workers, unit="pictures")
        self.config = config

    def collate(self, rows: Sequence[Sequence[Draft]]) -> Pictures:
        """Read the pictures of these rows; those that cannot be read are left out."""
        read = [sample for row in self.read(rows, self._load) for sample in row]
        side, tokens = self.config.image_size, self.config.tokens
        if not read:
            no_pixels, no_codes = torch.zeros(0, 3, side, side), torch.zeros(0, tokens, dtype=torch.long)
            return Pictures(no_pixels, no_codes, no_pixels, no_codes)
        pixels, codes, repainted, tones = zip(*read, strict=True)
        return Pictures(torch.cat(pixels), torch.stack(codes), torch.cat(repainted), torch.stack(tones))

    def _load(self, draft: Draft) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        picture: Picture | None = draft.drawing
        assert picture is not None
        codes = tones = torch.full((self.config.tokens,), -1)
        if draft.codes is not None:
            codes = torch.from_numpy(draft.codes.astype(np.int64))
        pixels = repainted = crop([picture.load()], self.config.image_size)
        if draft.repainted is not None:
            repainted = crop([draft.repainted.picture.load()], self.config.image_size)
            tones = torch.from_numpy(draft.repainted.tones.astype(np.int64))
        return pixels, codes, repainted, tones
