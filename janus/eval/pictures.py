"""The pictures that questions are about, by their content: spooled to disk, so that thousands fit."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping

from PIL import Image, UnidentifiedImageError

_SUFFIXES = {
    "BMP": "bmp",
    "GIF": "gif",
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "TIFF": "tiff",
    "WEBP": "webp",
}
_ENDS = {"jpg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}  # of whole files


class Pictures(Mapping[str, bytes]):
    """Files of pictures by a name that is made of their content, `9f86d081884c7d65.jpg`; equal ones are kept
    once.  They lie in a temporary file that goes with this object."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[int, int]] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this object lives

    def add(self, data: bytes) -> str:
        """Keep a picture's file; returns its name.  Raises ValueError where it is no picture."""
        try:
            with Image.open(io.BytesIO(data)) as picture:
                suffix = _SUFFIXES.get(picture.format or "")
                if suffix not in _ENDS or not data.rstrip(b"\0").endswith(_ENDS[suffix]):
                    picture.load()  # slow, and only so is it known that nothing is missing
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"not a picture: {len(data)} bytes that begin with {data[:12]!r}") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"a damaged picture ({error})") from error
        if suffix is None:
            raise ValueError(f"a picture must be one of {', '.join(_SUFFIXES)}, not {picture.format}")
        name = f"{hashlib.sha256(data).hexdigest()[:32]}.{suffix}"
        if name not in self._places:
            self._places[name] = self._file.seek(0, io.SEEK_END), len(data)
            self._file.write(data)
        return name

    def __getitem__(self, name: str) -> bytes:
        start, length = self._places[name]
        self._file.seek(start)
        return self._file.read(length)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
