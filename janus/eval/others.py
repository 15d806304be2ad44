"""Answers of other tools, brought into a run's folder, so that they are scored like our own.

VLMEvalKit's result files (xlsx, tsv, json) hold the questions and, as `prediction`, the answers.  lmms-eval's
(`..._samples_<task>.jsonl`) hold answers by the number of their row in the data set, which is needed, too.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from janus import __version__
from janus.eval.benchmark import Item, Line, Samples
from janus.eval.folder import Run, claimed
from janus.eval.pictures import Pictures
from janus.eval.tables import Row, Source
from janus.eval.understanding import Understanding

_PREDICTION = "prediction"
_SUFFIXES = (".xlsx", ".tsv", ".json", ".jsonl")


def bring_in(
    benchmark: Understanding, file: Path, out: Path, data: Path | None = None, images: Path | None = None
) -> int:
    """Make a run in `out` of the answers in a file; returns how many there are.

    data, images: the benchmark's, which lmms-eval's files need.  Raises ValueError for a file of no known
    form, rows that cannot be used, and answers to questions that there are not.
    """
    if file.suffix.lower() not in _SUFFIXES or not file.is_file():
        raise ValueError(f"{file} must be a file of VLMEvalKit or lmms-eval: {', '.join(_SUFFIXES)}")
    rows = _rows(file)
    if not rows:
        raise ValueError(f"{file} has no rows")
    if all(_PREDICTION in row.cells for row in rows):
        tool = "VLMEvalKit"
        pairs = benchmark.pairs(rows, file, shown=False)
        samples = Samples(f"the questions in {file.name}", tuple(line for _, line in pairs))
        answers = {i: _text(row.cells[_PREDICTION]) for i, (row, _) in enumerate(pairs)}
    elif all("doc_id" in row.cells for row in rows):
        tool = "lmms-eval"
        if data is None:
            raise ValueError(f"{file} holds answers alone; give the data set that they are about with --data")
        samples = benchmark.samples(data, False, images)
        answers = _by_number(rows, samples)
    else:
        raise ValueError(
            f"{file} has neither VLMEvalKit's column {_PREDICTION!r} nor lmms-eval's doc_id in every row"
        )
    _keep(benchmark, samples, answers, f"answers in {file.name}, of {tool}", out)
    return len(answers)


def _keep(benchmark: Understanding, samples: Samples, answers: dict[int, str], model: str, out: Path) -> None:
    about: dict[str, Any] = {"title": samples.title, "count": len(samples.lines), "used": len(samples.lines)}
    plan = {
        "benchmark": benchmark.name,
        "samples": {**about, "published": samples.published, "sha256": samples.sha256},
        "settings": {"model": model, "each": 1},
        "versions": {"janus": __version__, "python": platform.python_version()},
    }
    with claimed(out) as folder:
        run = Run.begin(folder, plan, samples.lines, samples.pictures)
        there = run.answers().raw
        lines: list[Line] = [
            {"item": Item(index, 0).key, "id": samples.lines[index]["id"], "answer": answer}
            for index, answer in sorted(answers.items())
        ]
        run.journal().add([line for line in lines if line["item"] not in there])


def _by_number(rows: list[Row], samples: Samples) -> dict[int, str]:
    """By the places of samples.  lmms-eval leaves out `resps` where its filters change nothing."""
    places = {number: place for place, number in enumerate(samples.rows)}
    most = max(places, default=-1)
    answers = {}
    for row in rows:
        number = row.cells["doc_id"]
        if not isinstance(number, int) or not 0 <= number <= most:
            raise ValueError(f"{row.where}: doc_id {number!r} is none of the data set's {most + 1} rows")
        if number in places:
            answers[places[number]] = _text(row.cells.get("resps", row.cells.get("filtered_resps")))
    if not answers:
        raise ValueError("none of these answers is to a question of this benchmark")
    return answers


def _text(value: Any) -> str:
    """The first of several; nothing and numbers as text."""
    while isinstance(value, list):
        value = value[0] if value else ""
    return "" if value is None else str(value)


def _rows(file: Path) -> list[Row]:
    if file.suffix.lower() != ".xlsx":
        return Source(file, (), Pictures()).rows()
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError as error:
        raise ValueError(f'{file} needs openpyxl: pip install "janus-pro[eval]"') from error
    try:
        return list(_sheet(load_workbook(file, read_only=True, data_only=True), file))
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise ValueError(f"cannot read {file}: {error}") from error


def _sheet(book: Any, file: Path) -> Iterator[Row]:
    lines = book.active.iter_rows(values_only=True)
    header = [str(cell) for cell in next(lines, ())]
    for number, cells in enumerate(lines, 1):
        values = {name: "" if cell is None else str(cell) for name, cell in zip(header, cells, strict=True)}
        values.pop("image", None)
        yield Row(f"{file.name}, row {number}", values)
