"""Data that users bring: pictures with JSON lines or captions, in folders or webdataset shards.

`open_source` takes a folder of `*.jsonl` files, one such file, a folder of pictures with a text beside
each, a folder of `*.tar` shards, one shard, or a pattern like `shards/train-{000..009}.tar`.  What a
line says is told in `janus.data.records`.

Files that share a stem are one record: pictures, and a `.txt` with the caption or else a `.json` with a
line, which means all of them if it names none.  In a shard the stem ends at the first dot of the name, as
in webdataset, so that a record can have several pictures; in a folder at the last.

A source is indexed once, when it is opened; after that any thread or process reads any record.
"""

from __future__ import annotations

import os
import re
import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate, product
from pathlib import Path

import numpy as np

from janus.checkpoints.files import some
from janus.data.records import (
    KINDS,
    BadRecord,
    Kind,
    Picture,
    Record,
    Skipped,
    StoredPicture,
    parse,
    read_bytes,
    record_of,
)

_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_BLOCK = 512  # bytes, of a tar file
_File = tuple[str, int, int]  # name, and offset and size in a tar


class Source:
    """Records by number, in an order that never changes.

    `unusable` counts those that were found wrong when it was opened.  They keep their numbers, and asking
    for one raises BadRecord.  So may others: captions in files of their own are not read before.
    """

    def __init__(self, parts: Sequence[_Lines | _Stems], unusable: Skipped) -> None:
        self.unusable = unusable
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))
        self._kinds = np.concatenate([np.array(part.kinds, dtype=np.int8) for part in parts])

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(kind for kind in KINDS if len(self.of_kind(kind)))

    def of_kind(self, kind: Kind) -> np.ndarray:
        """The numbers of the records of this kind, rising."""
        return np.flatnonzero(self._kinds == KINDS.index(kind))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no record {index}; records are 0 to {len(self) - 1}")
        part = bisect_right(self._ends, index)
        return self._parts[part].record(index - (self._ends[part - 1] if part else 0))


def open_source(where: str | Path) -> Source:
    """The source at a path, indexed.

    Raises ValueError if there is nothing to use, a shard is missing, truncated or no tar file.
    """
    path, unusable = Path(where), Skipped()
    if path.is_dir():
        parts = _folder(path, unusable)
    else:
        paths = [path] if path.exists() else list(_expanded(str(where)))
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise ValueError(f"there is no {some(missing)}")
        parts = [_file(path, unusable) for path in paths]
    source = Source(parts, unusable)
    if not len(source):
        raise ValueError(
            f"{where} holds no records; a source has .jsonl files, .tar shards, or pictures with a .txt or "
            ".json of the same name"
        )
    if not source.kinds:
        raise ValueError(f"{where}: {unusable}; the first is {unusable.messages[0]}")
    return source


def _folder(folder: Path, unusable: Skipped) -> list[_Lines | _Stems]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file() and entry.name[0] != ".")
    files = [folder / name for name in names if name.endswith((".jsonl", ".tar"))]
    if len({file.suffix for file in files}) > 1:
        raise ValueError(f"{folder} holds both .jsonl and .tar files; name those that are meant")
    if files:
        return [_file(file, unusable) for file in files]
    whole = ((name, 0, -1) for name in names)
    return [_Stems(folder, _grouped(whole, lambda name: name.rpartition(".")[0]), unusable)]


def _file(path: Path, unusable: Skipped) -> _Lines | _Stems:
    if path.suffix == ".jsonl":
        return _Lines(path, unusable)
    if path.suffix == ".tar":
        return _Stems(path, _grouped(_members(path), _webdataset_stem), unusable)
    raise ValueError(f"{path}: a source is a folder, a .jsonl file or a .tar file, nothing else")


def _expanded(pattern: str) -> Iterator[Path]:
    """`a-{08..10}.tar` to a-08.tar, a-09.tar, a-10.tar; anything else to itself."""
    texts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)  # text, first, last, text, ..., text
    ranges = [range(int(a), int(b) + 1) for a, b in zip(texts[1::3], texts[2::3], strict=True)]
    if not all(ranges):
        raise ValueError(f"{pattern}: a range must rise, like {{000..009}}")
    for numbers in product(*ranges):
        digits = [f"{n:0{len(first)}}" for n, first in zip(numbers, texts[1::3], strict=True)]
        yield Path("".join(text + digit for text, digit in zip(texts[::3], [*digits, ""], strict=True)))


def _kind(read: Callable[[], Record], unusable: Skipped) -> int:
    """Where in KINDS a record's kind is; -1 if it is no good."""
    unusable.records += 1
    try:
        return KINDS.index(read().kind)
    except BadRecord as error:
        unusable.add(error)
        return -1


class _Lines:
    """A file of JSON lines, known by where they begin."""

    def __init__(self, path: Path, unusable: Skipped) -> None:
        self._path = path
        self._offsets, self._numbers, self.kinds = array("Q"), array("Q"), array("b")
        offset = 0
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    self._offsets.append(offset)
                    self._numbers.append(number)
                    self.kinds.append(_kind(partial(self._parsed, raw, number), unusable))
                offset += len(raw)

    def __len__(self) -> int:
        return len(self._offsets)

    def record(self, index: int) -> Record:
        with self._path.open("rb") as file:
            file.seek(self._offsets[index])
            return self._parsed(file.readline(), self._numbers[index])

    def _parsed(self, raw: bytes, number: int) -> Record:
        name = f"{self._path}:{number}"

        def find(path: str) -> Picture:
            if Path(path).is_absolute() or ".." in Path(path).parts:
                detail = f"{path}; paths start at {self._path.parent} and have no '..'"
                raise BadRecord(name, "path outside the folder", detail)
            return StoredPicture(name, path, self._path.parent / path)

        return record_of(parse(raw, name), name, find, [])


class _Stems:
    """Files of a folder or of a tar in groups, each a record: its text, then its pictures."""

    def __init__(self, path: Path, groups: list[list[_File]], unusable: Skipped) -> None:
        self._path, self._in_tar = path, not path.is_dir()
        self._ends = array("Q", accumulate(map(len, groups)))
        files = [(os.fsencode(name), offset, size) for group in groups for name, offset, size in group]
        width = max((len(name) for name, _, _ in files), default=1)
        self._files = np.array(files, [("name", f"S{width}"), ("offset", np.int64), ("size", np.int64)])
        self.kinds = array("b")
        for index, group in enumerate(groups):
            if _suffix(group[0][0]) == ".txt" and len(group) == 2:
                unusable.records += 1
                self.kinds.append(KINDS.index("generation"))
            else:
                self.kinds.append(_kind(partial(self.record, index), unusable))

    def __len__(self) -> int:
        return len(self._ends)

    def record(self, index: int) -> Record:
        group = self._group(index)
        first, offset, size = group[0]
        name = f"{self._path}:{first}" if self._in_tar else str(self._path / first)
        if len({file for file, _, _ in group}) < len(group):
            raise BadRecord(name, "same name twice", some([file for file, _, _ in group]))
        if _suffix(first) in _PICTURES:
            raise BadRecord(name, "no text", "a picture needs a .txt or .json of the same name beside it")
        raw = read_bytes(self._where(first), offset, size)
        pictures: dict[str, Picture] = {
            file.rpartition("/")[2]: StoredPicture(name, file, self._where(file), offset, size)
            for file, offset, size in group[1:]
        }

        def find(path: str) -> Picture:
            if path not in pictures:
                raise BadRecord(name, "missing picture", f"{path}; beside it are {list(pictures)}")
            return pictures[path]

        if _suffix(first) == ".json":
            return record_of(parse(raw, name), name, find, list(pictures))
        try:
            line = {"caption": raw.decode("utf-8-sig").strip()}
        except UnicodeDecodeError as error:
            raise BadRecord(name, "not UTF-8", str(error)) from error
        return record_of(line, name, find, list(pictures))

    def _group(self, index: int) -> list[_File]:
        rows = self._files[self._ends[index - 1] if index else 0 : self._ends[index]]
        return [(os.fsdecode(name), offset, size) for name, offset, size in rows.tolist()]

    def _where(self, file: str) -> Path:
        return self._path if self._in_tar else self._path / file


def _members(path: Path) -> Iterator[_File]:
    """The files in a tar.  Raises ValueError if it does not end as a tar must."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                if member.isreg() and not member.name.rpartition("/")[2].startswith("."):
                    yield member.name, member.offset_data, member.size
            file.seek(archive.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError(f"no more files, yet no end, at byte {archive.offset}")
    except tarfile.TarError as error:
        raise ValueError(f"{path} is truncated, damaged or not an uncompressed tar file: {error}") from error


def _grouped(files: Iterable[_File], stem: Callable[[str], str]) -> list[list[_File]]:
    """Files of the same stem: the text, which is the caption if there is one, then the pictures."""
    groups: dict[str, tuple[list[_File], list[_File], list[_File]]] = {}
    for file in files:
        key = stem(file[0])
        ending = file[0][len(key) :].lower()
        if ending in (".txt", ".json") or _suffix(file[0]) in _PICTURES:
            captions, lines, pictures = groups.setdefault(key, ([], [], []))
            (captions if ending == ".txt" else lines if ending == ".json" else pictures).append(file)
    return [(captions or lines) + pictures for captions, lines, pictures in groups.values()]


def _webdataset_stem(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
