"""What a run tells of itself: lines on the screen, a table, TensorBoard, the time left."""

from __future__ import annotations

import csv
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TABLE = "log.csv"


class Log:
    """Writes `log.csv` with these columns, TensorBoard files, and lines on the screen.

    Rows that an interrupted run wrote after `step` are dropped: it goes through those steps again.
    TensorBoard files are written where the package `tensorboard` is installed.
    """

    def __init__(self, folder: Path, columns: Sequence[str], steps: int, step: int) -> None:
        self._path, self._columns, self._steps, self._first = folder / TABLE, columns, steps, step
        self._started = time.monotonic()
        self._begin(step)
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def _begin(self, step: int) -> None:
        """The table's head, and the rows up to `step` that are there already."""
        kept: list[dict[str, str]] = []
        if self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        beside = self._path.with_suffix(".part")
        with beside.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, ["step", *self._columns], extrasaction="ignore")
            table.writeheader()
            table.writerows(kept)
        beside.replace(self._path)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row, some columns of which may stay empty."""
        row = {name: f"{value:.6g}" for name, value in values.items()}
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, ["step", *self._columns]).writerow({"step": step} | row)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if "layer" not in name)
        print(f"step {step} of {self._steps}: {told}; {self._left(step)}", flush=True)

    def _left(self, step: int) -> str:
        seconds = (time.monotonic() - self._started) / max(1, step - self._first) * (self._steps - step)
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes:02} min left" if hours else f"{minutes} min left"

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
