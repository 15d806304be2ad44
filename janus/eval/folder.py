"""A run's folder: what was asked for, the raw answers as they come, and what was made of them.

    run.json        samples, settings and versions; whoever goes on must agree with the first two
    samples.jsonl   the samples
    pictures/       those that are asked about, or that were drawn
    answers.jsonl   raw answers, as they were made; in their order when all are there
    results.json, verdicts.jsonl, report.md, report.html      written by scoring, whole and anew each time

A process may be killed at any moment.  Files appear whole or not at all, except JSON lines that are added
to: their last line may then be a beginning, which is cut off before the next is added.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from janus.eval.benchmark import Answers, Line
from janus.gallery import check_folder

PLAN, SAMPLES, ANSWERS, LOCK, PICTURES = "run.json", "samples.jsonl", "answers.jsonl", "lock", "pictures"
_PART = ".part"
_FREE = {"versions"}  # of the plan; may differ when a run goes on


class Journal:
    """A file of JSON lines that is only ever added to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mended = False

    def read(self) -> list[Line]:
        """Every whole line.  Raises ValueError for one that is not a JSON object, with its number."""
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        lines = []
        for number, raw in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
            try:
                line = json.loads(raw)
            except ValueError:
                line = None
            if not isinstance(line, dict):
                raise ValueError(f"{self.path}: line {number} is damaged; take it out and run again")
            lines.append(line)
        return lines

    def add(self, lines: Sequence[Line]) -> None:
        """They are on the disk when this returns.  Raises ValueError where they cannot be written."""
        new = not self.path.exists()
        try:
            with self.path.open("ab") as file:
                if not self._mended:  # a process that was killed may have left half a line
                    file.truncate(self.path.read_bytes().rfind(b"\n") + 1)
                    self._mended = True
                file.write("".join(_json_line(line) for line in lines).encode())
                file.flush()
                os.fsync(file.fileno())
            if new:
                _sync(self.path.parent)
        except OSError as error:
            raise ValueError(f"cannot write {self.path}: {error.strerror or error}") from error


class Run:
    """An open run folder.

    Several workers add answers to journals of their own, `answers-1.jsonl` and so on; `gather` makes one file
    of them, in order.
    """

    def __init__(self, folder: Path, plan: Line, samples: Sequence[Line]) -> None:
        self.folder, self.plan, self.samples = folder, plan, samples

    @classmethod
    def begin(
        cls,
        folder: Path,
        plan: Line,
        samples: Sequence[Line],
        pictures: Mapping[str, bytes] = MappingProxyType({}),
    ) -> Run:
        """A new run, or the same one going on.

        plan: `benchmark`, `samples`, `settings` (among them `each`) and `versions`.  pictures: those that
        samples name.  Raises ValueError for a folder with another run, naming what differs, or with
        something else in it.
        """
        plan = json.loads(json.dumps(plan))
        if (folder / PLAN).exists():
            before = cls.open(folder)
            differs = list(_differences(before.plan, plan, ""))
            if before.samples != json.loads(json.dumps(samples)):
                differs.append("samples")
            if differs:
                raise ValueError(
                    f"{folder} holds another run; it differs in {', '.join(differs)}.  "
                    "Give this one a folder of its own with --out"
                )
            before._keep(pictures)
            return before
        begun = {SAMPLES, PICTURES} if (folder / SAMPLES).exists() else set()
        others = {p.name for p in folder.iterdir() if p.suffix != _PART} - {LOCK} - begun
        if others:
            raise ValueError(
                f"{folder} has something else in it ({min(others)}); give another folder as --out"
            )
        write_lines(folder / SAMPLES, samples)
        run = cls(folder, plan, list(samples))
        run._keep(pictures, anew=True)
        write_json(folder / PLAN, plan)
        return run

    def _keep(self, pictures: Mapping[str, bytes], anew: bool = False) -> None:
        """Keep those that samples name and, unless `anew`, are not there; their names tell their content.

        Thousands of them are put on the disk together, which one by one would take minutes.
        """
        shown = dict.fromkeys(name for line in self.samples for name in line.get("pictures", ()))
        paths = {name: self.folder / PICTURES / name for name in shown if name in pictures}
        missing = [name for name, path in paths.items() if anew or not path.exists()]
        for name in missing:
            write_whole(paths[name], pictures[name], now=False)
        if missing and hasattr(os, "sync"):
            os.sync()

    def pictures(self, sample: Line) -> tuple[bytes, ...]:
        """The files of the pictures that a sample names.  Raises ValueError where one cannot be read."""
        try:
            return tuple((self.folder / PICTURES / name).read_bytes() for name in sample.get("pictures", ()))
        except OSError as error:
            raise ValueError(f"cannot read {error.filename}: {error.strerror}") from error

    @classmethod
    def open(cls, folder: Path) -> Run:
        """One that was begun.  Raises ValueError if there is none, or its files are damaged."""
        path = folder / PLAN
        if not path.is_file():
            raise ValueError(f"{folder} holds no run of `janus eval`: there is no {path}")
        try:
            plan = json.loads(path.read_bytes())
            int(plan["settings"]["each"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from error
        return cls(folder, plan, Journal(folder / SAMPLES).read())

    def answers(self) -> Answers:
        """What there is so far; of two answers to the same item the later one."""
        raw = {line["item"]: line for journal in self._journals() for line in journal.read()}
        about = self.plan["samples"]
        published = about.get("published", False) and about["used"] == about["count"]
        each = self.plan["settings"]["each"]
        answers = Answers(self.folder, self.samples, about["title"], published, each, raw)
        strange = raw.keys() - {item.key for item in answers.items}
        if strange:
            raise ValueError(f"{self.folder / ANSWERS} answers {min(strange)!r}, which nobody asked")
        return answers

    def journal(self, worker: int = 0) -> Journal:
        """Where a worker keeps its answers."""
        return Journal(self.folder / (f"answers-{worker}.jsonl" if worker else ANSWERS))

    def gather(self) -> None:
        """One file of all answers, in their order, and each but once."""
        answers = self.answers()
        lines = [answers.raw[item.key] for item in answers.items if item.key in answers.raw]
        if lines != self.journal().read():
            write_lines(self.folder / ANSWERS, lines)
        for journal in self._journals()[1:]:
            journal.path.unlink()

    def _journals(self) -> list[Journal]:
        """That of the first worker comes first."""
        others = sorted(self.folder.glob("answers-*.jsonl"))
        return [self.journal(), *map(Journal, others)]


@contextmanager
def claimed(folder: str | Path) -> Iterator[Path]:
    """Make the folder and keep other processes out of it; the system lets go when this one ends, however.

    Raises ValueError where another process is at work, or the folder cannot be written.
    """
    path = check_folder(folder)
    with (path / LOCK).open("ab") as file:
        try:
            import fcntl
        except ImportError:  # Windows has other locks; one process at a time is then the user's business
            yield path
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is at work in {path}; give this one another folder") from error
        yield path


def write_whole(path: Path, data: bytes, now: bool = True) -> None:
    """Write beside, then rename: the file is there whole, and on the disk, or not at all.

    now: otherwise the system decides when it is on the disk.  Raises ValueError where it cannot be written.
    """
    beside = path.with_name(path.name + _PART)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            if now:
                os.fsync(file.fileno())
        beside.replace(path)
        if now:
            _sync(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_lines(path: Path, lines: Sequence[Line]) -> None:
    write_whole(path, "".join(_json_line(line) for line in lines).encode())


def intact(answer: Line, folder: Path) -> bool:
    """Whether it is an answer, and the file that it speaks of is there and the same."""
    return "error" not in answer and ("file" not in answer or picture_bytes(answer, folder) is not None)


def picture_bytes(answer: Line, folder: Path) -> bytes | None:
    """The PNG file that an answer speaks of; None where it is missing, or no longer the same."""
    try:
        data = (folder / answer["file"]).read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == answer["sha256"] else None


def _json_line(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _differences(before: Any, now: Any, name: str) -> Iterator[str]:
    """Where two plans differ, as "settings.seed (0, now 1)"."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            if name or key not in _FREE:
                yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} ({before!r}, now {now!r})"


def _sync(folder: Path) -> None:
    """Renames and new files are on the disk only once their folder is."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
