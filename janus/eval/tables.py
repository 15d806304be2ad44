"""Reading benchmarks' data files: TSV with pictures in base64, parquet, JSON, JSON lines, CSV and plain text.

Every reader gives rows alike: cells by column, pictures taken out and kept by their content.  What is wrong
with a row stays with it, so that all that is wrong can be told at once.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus.eval.benchmark import Progress
from janus.eval.pictures import Pictures

SUFFIXES = (".tsv", ".csv", ".parquet", ".json", ".jsonl", ".txt")
_REFERENCE = 64  # characters: what is shorter names the row that has the picture (VLMEvalKit, image_base.py)
_LISTED = re.compile(r"'([A-Za-z0-9+/=\s]+)'")
_BATCH = 64  # rows of a parquet file in memory at once


@dataclass
class Row:
    """One row of a data file."""

    where: str  # "POPE.tsv, row 17", counted from 1 without the header
    cells: dict[str, Any]  # text in TSV and CSV files, "" where empty or "nan"; elsewhere as it is
    pictures: list[str] = field(default_factory=list)  # names of those that the row holds, in order
    problem: str = ""  # why it cannot be used
    beside: Callable[[str], str] | None = None
    reference: str = ""  # the index of the row that has its picture
    number: int | None = None  # which of the data set's rows it is, from 0; None: counted as they are taken
    position: int = 0  # bytes of the file that were read by then, where that is known

    def picture(self, name: str) -> str:
        """Take in the picture that lies in a file beside the data.  Raises ValueError if it is not there."""
        assert self.beside is not None
        return self.beside(name)


class Source:
    """Data files at a path.

    data: a file, or a folder in which those are taken that fit one of the patterns `accepts`.
    images: the folder of pictures that lie in files of their own; None: beside the data.  Raises ValueError
    where there is no such file.
    """

    def __init__(
        self, data: Path, accepts: Sequence[str], pictures: Pictures, images: Path | None = None
    ) -> None:
        if not data.exists():
            raise ValueError(f"there is no {data}")
        if images is not None and not images.is_dir():
            raise ValueError(f"there is no folder {images}")
        self.pictures = pictures
        self.files = [data] if data.is_file() else sorted({p for a in accepts for p in data.rglob(a)})
        self.root = data.parent if data.is_file() else data
        if not self.files:
            raise ValueError(f"{data} has no file that fits {' or '.join(accepts)}")
        for file in self.files:
            if file.suffix.lower() not in SUFFIXES:
                raise ValueError(f"{file} must be a file of {', '.join(SUFFIXES)}")
        self._images = [images] if images is not None else [self.root]
        self._places: dict[str, list[Path]] | None = None

    def known(self, files: Mapping[str, str]) -> list[str | None]:
        """What each file is, in order, by its MD5 or SHA-256 among those of published ones; None: unknown."""
        kinds = sorted({"md5" if len(digest) == 32 else "sha256" for digest in files})
        found = ([files.get(_digest(file, kind)) for kind in kinds] for file in self.files)
        return [next(filter(None, names), None) for names in found]

    def rows(self, on_progress: Progress | None = None) -> list[Row]:
        """All rows of all files.  on_progress: bytes read, of all.

        Raises ValueError for a file that cannot be read or breaks off.
        """
        found = []
        sizes = [file.stat().st_size for file in self.files]
        for place, file in enumerate(self.files):
            rows = []
            try:
                for row in _READERS[file.suffix.lower()](file, self.pictures):
                    rows.append(row)
                    if on_progress is not None:
                        on_progress(sum(sizes[:place]) + row.position, sum(sizes))
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"cannot read {file}: {error}") from error
            _follow(rows)
            found += rows
        for row in found:
            row.beside = self._take
        return found

    def _take(self, name: str) -> str:
        for path in self._candidates(name):
            try:
                return self.pictures.add(path.read_bytes())
            except ValueError as error:
                raise ValueError(f"{name} is {error}") from error
            except OSError:
                continue
        raise ValueError(f"there is no picture {name} in {self._images[0]}")

    def _candidates(self, name: str) -> Iterator[Path]:
        """Where it should be; then, if there is just one of its name, in whatever folder that is."""
        root = self._images[0]
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"a picture must lie in {root}, not at {name}")
        yield root / name
        if self._places is None:
            self._places = {}
            for path in root.rglob("*"):
                self._places.setdefault(path.name, []).append(path)
        named = [p for p in self._places.get(Path(name).name, []) if p.as_posix().endswith(f"/{name}")]
        if len(named) > 1:
            raise ValueError(f"{name} may be {named[0]} or {named[1]}; give the right folder with --images")
        yield from named


# -- formats ------------------------------------------------------------------------------------


def _separated(file: Path, pictures: Pictures) -> Iterator[Row]:
    """TSV or CSV with a header, as pandas writes it."""
    with (
        _large_cells(),
        file.open("rb") as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream,
    ):
        reader = csv.reader(stream, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
        number = 0
        try:
            header = next(reader, None)
            if header is None:
                raise ValueError(f"{file} is empty")
            for number, cells in enumerate(reader, 1):
                row = Row(f"{file.name}, row {number}", {}, position=raw.tell())
                if len(cells) != len(header):
                    row.problem = f"{len(cells)} cells, the header has {len(header)}; is the file cut off?"
                    yield row
                    continue
                row.cells = {
                    column: "" if cell == "nan" else cell for column, cell in zip(header, cells, strict=True)
                }
                image = row.cells.pop("image", "")
                try:
                    row.pictures, row.reference = _decoded(image, pictures)
                except ValueError as error:
                    row.problem = str(error)
                yield row
        except csv.Error as error:
            raise ValueError(f"{file} breaks off after row {number} ({error}); is it cut off?") from error


def _decoded(cell: str, pictures: Pictures) -> tuple[list[str], str]:
    """The pictures in a cell of base64, or the index of the row that has them."""
    if 0 < len(cell) <= _REFERENCE:
        return [], cell
    several = _LISTED.findall(cell) if cell.startswith("[") else [cell] if cell else []
    names = []
    for text in several:
        try:
            data = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError(f"the image is not base64 ({error})") from error
        try:
            names.append(pictures.add(data))
        except ValueError as error:
            raise ValueError(f"the image is {error}") from error
    if cell and not names:
        raise ValueError(f"the image is not base64: {cell[:20]!r}")
    return names, ""


def _follow(rows: Sequence[Row]) -> None:
    """Rows whose image is the index of another row show that one's."""
    if not any(row.reference for row in rows):
        return
    by_index = {str(row.cells.get("index")): row for row in rows if row.pictures}
    for row in rows:
        if row.reference and row.reference in by_index:
            row.pictures = by_index[row.reference].pictures
        elif row.reference:
            row.problem = f"the image is {row.reference!r}, neither base64 nor the index of a row with one"


def _parquet(file: Path, pictures: Pictures) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError(f'{file} needs pyarrow: pip install "janus-pro[eval]"') from error
    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_BATCH):
                for cells in batch.to_pylist():
                    number += 1
                    position = file.stat().st_size * number // table.metadata.num_rows
                    row = Row(f"{file.name}, row {number}", cells, position=position)
                    yield _taken_out(row, pictures)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read after row {number} ({error}); is it cut off?") from error


def _taken_out(row: Row, pictures: Pictures) -> Row:
    """Pictures are dicts with `bytes`, in columns of any name."""
    for column, value in list(row.cells.items()):
        several = value if isinstance(value, list) else [value]
        if not all(isinstance(one, dict) and "bytes" in one for one in several) or not several:
            continue
        del row.cells[column]
        for one in several:
            try:
                row.pictures.append(pictures.add(one["bytes"] or b""))
            except ValueError as error:
                row.problem = f"{column} is {error}"
    return row


def _json(file: Path, _: Pictures) -> Iterator[Row]:
    """A list, a dict of rows by their id, `{"questions": [...]}`, or lines."""
    text = file.read_text(encoding="utf-8-sig")
    try:
        whole = None if file.suffix.lower() == ".jsonl" else json.loads(text)
    except (ValueError, RecursionError):
        whole = None
    if whole is None:
        yield from _json_lines(file, text)
        return
    if isinstance(whole, dict) and isinstance(whole.get("questions"), list):
        whole = whole["questions"]
    if isinstance(whole, dict):
        if all(isinstance(value, dict) for value in whole.values()) and whole:
            for key, value in whole.items():
                yield Row(f"{file.name}, {key!r}", {"id": key, **value})
            return
        whole = [whole]
    if not isinstance(whole, list):
        raise ValueError(f"{file} must hold rows, not {text[:40]!r}")
    for number, value in enumerate(whole, 1):
        yield _checked(Row(f"{file.name}, row {number}", {}), value)


def _json_lines(file: Path, text: str) -> Iterator[Row]:
    for number, raw in enumerate(text.split("\n"), 1):
        if not raw.strip():
            continue
        row = Row(f"{file.name}, line {number}", {})
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            row.problem = f"not JSON: {raw[:40]!r}; is the file cut off?"
            yield row
            continue
        yield _checked(row, value)


def _checked(row: Row, value: Any) -> Row:
    if isinstance(value, dict):
        row.cells = value
    else:
        row.problem = f"not a JSON object: {str(value)[:40]!r}"
    return row


def _text(file: Path, _: Pictures) -> Iterator[Row]:
    """Lines as they are: cells `text`, `file` (its name without suffix), `folders` (of its path)."""
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            cells = {"text": line.removesuffix("\r"), "file": file.stem, "folders": file.parts[:-1]}
            yield Row(f"{file.name}, line {number}", cells)


_READERS: dict[str, Callable[[Path, Pictures], Iterator[Row]]] = {
    ".tsv": _separated,
    ".csv": _separated,
    ".parquet": _parquet,
    ".json": _json,
    ".jsonl": _json,
    ".txt": _text,
}


@contextmanager
def _large_cells() -> Iterator[None]:
    """Python's limit for a cell is 128 KiB; a picture has more."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _digest(file: Path, kind: str) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def write_tsv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """As pandas writes it; all rows have the same columns."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    file.write_text(stream.getvalue(), encoding="utf-8")
