"""Draws columns of training logs, the runs of a recipe in several stages one after the other.

    python benchmarks/curves.py runs/embedded/stage2 runs/embedded/stage3 --columns text image --out c.png

Each column has a panel of its own.  Points are rows of `log.csv`, the line their mean over `--smooth` rows.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def read(run: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have the column.  Raises ValueError where no row has."""
    with (run / "log.csv").open(encoding="utf-8") as file:
        rows = [(int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row.get(column)]
    if not rows:
        raise ValueError(f"{run / 'log.csv'} has no values of {column!r}")
    steps, values = zip(*rows, strict=True)
    return np.array(steps), np.array(values)


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the values around each, fewer at the ends."""
    counts = np.convolve(np.ones_like(values), np.ones(width), "same")
    return np.convolve(values, np.ones(width), "same") / counts


def draw(runs: list[Path], columns: list[str], width: int) -> Figure:
    figure = Figure(figsize=(5 * len(columns), 3.4), layout="constrained")
    for panel, column in enumerate(columns, start=1):
        axes = figure.add_subplot(1, len(columns), panel)
        start = 0
        for run in runs:
            steps, values = read(run, column)
            (points,) = axes.plot(start + steps, values, ".", markersize=2, alpha=0.3)
            line = smooth(values, min(width, len(values)))
            axes.plot(start + steps, line, color=points.get_color(), label=run.name)
            start += int(steps[-1])
        axes.set(title=column, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs, in their order")
    parser.add_argument("--columns", nargs="+", default=["loss"])
    parser.add_argument("--smooth", type=int, default=9, metavar="ROWS")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    arguments = parser.parse_args()
    draw(arguments.runs, arguments.columns, arguments.smooth).savefig(arguments.out, dpi=110)
    print(arguments.out)


if __name__ == "__main__":
    main()
