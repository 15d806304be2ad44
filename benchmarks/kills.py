"""Kills a training run again and again, and compares its end with that of a run that nobody killed.

    python benchmarks/kills.py [--kills 10] [--steps 200]

Both fine-tune the embedded model on a few squares of colour, kept every five steps, and begin and go on by
`janus train`. A kill is a SIGKILL at a random moment after the run's start, most of them while it learns or
keeps a state.  Prints, for each, the step that the run had reached and the last state that it left; fails
where a state cannot be gone on from, or where weights or moments differ in a single bit at the end, and then
tells how far, and from which row of the log on.
Runs use one thread: with several, sums are rounded in another order now and then, and two runs that nobody
killed (`--kills 0`) may differ too.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

KEEP_EVERY = 5
COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def prepare(folder: Path, steps: int) -> list[Path]:
    """Data and the recipes of two runs; returns the recipes."""
    data = folder / "data"
    data.mkdir()
    lines = []
    for name, colour in COLOURS.items():
        Image.new("RGB", (96, 96), colour).save(data / f"{name}.png")
        lines.append({"image": f"{name}.png", "caption": f"a {name} square"})
        lines.append({"image": f"{name}.png", "question": "Which colour?", "answer": name})
    (data / "data.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    paths = []
    for run in ("whole", "killed"):
        recipe = {
            "model": "embedded",
            "out": str(folder / run),
            "data": [{"path": str(data)}],
            "mixture": {"understanding": 1, "generation": 1},
            "steps": steps,
            "row": 320,
            "rows": 1,
            "learning_rate": 1e-4,
            "precision": "float32",
            "keep_every": KEEP_EVERY,
        }
        paths.append(folder / f"{run}.yaml")
        paths[-1].write_text(json.dumps(recipe), encoding="utf-8")
    return paths


def start(recipe: Path) -> subprocess.Popen[bytes]:
    """A run, begun or gone on with; what it says is added to a file beside its recipe."""
    command = [sys.executable, "-m", "janus", "train", str(recipe)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    with recipe.with_suffix(".log").open("ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, env=alone)


def finish(process: subprocess.Popen[bytes], recipe: Path) -> None:
    """Wait for its end.  Raises SystemExit with what it said where it failed."""
    if process.wait():
        raise SystemExit(f"a run failed:\n{recipe.with_suffix('.log').read_text(encoding='utf-8')}")


def last_state(run: Path) -> int:
    """The step of the newest whole state, 0 if there is none."""
    numbers = [path.name.removeprefix("step-") for path in run.glob("step-*")]
    return max([int(number) for number in numbers if number.isdigit()], default=0)


def last_step(run: Path) -> int:
    """The last step that the log tells of."""
    if not (run / "log.csv").exists():
        return 0
    with (run / "log.csv").open(encoding="utf-8") as file:
        return max([int(row["step"]) for row in csv.DictReader(file)], default=0)


def last_tensors(run: Path) -> dict[str, Tensor]:
    """Of the newest whole state."""
    files = sorted((run / f"step-{last_state(run):08}").glob("*.safetensors"))
    return {name: value for file in files for name, value in load_file(file).items()}


def difference(one: Path, other: Path) -> str:
    """Of the last states of two runs, in words; empty where there is none."""
    mine, theirs = last_tensors(one), last_tensors(other)
    if not mine or mine.keys() != theirs.keys():
        return "THE LAST STATES HOLD OTHER TENSORS"
    apart = {name: (mine[name] - theirs[name]).abs().max().item() for name in mine}
    if not (differing := {name: far for name, far in apart.items() if far != 0}):
        return ""
    far, worst = max((far, name) for name, far in differing.items())
    logs = [
        {row["step"]: row["loss"] for row in csv.DictReader((run / "log.csv").open(encoding="utf-8"))}
        for run in (one, other)
    ]
    step = next((step for step, loss in logs[0].items() if logs[1].get(step) != loss), "none")
    return (
        f"THE LAST STATES DIFFER in {len(differing)} of {len(mine)} tensors, {worst} by {far:.1e}; "
        f"first row of the log with another loss: {step}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = prepare(Path(folder), arguments.steps)
        begun = time.monotonic()
        finish(start(whole), whole)
        length = time.monotonic() - begun
        print(f"the whole run took {length:.0f} s")
        run = Path(folder) / "killed"
        for number in range(1, arguments.kills + 1):
            started = time.monotonic()
            process = start(killed)
            before = last_state(run)
            # until it has kept a state, and then for a while
            while last_state(run) <= before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, length / (2 * arguments.kills)))
            if process.poll() is not None:
                finish(process, killed)
                raise SystemExit(f"the run ended before kill {number}; give it more --steps")
            process.send_signal(signal.SIGKILL)
            process.wait()
            state, step = last_state(run), last_step(run)
            print(f"kill {number} after {time.monotonic() - started:.1f} s: log at {step}, state at {state}")
        finish(start(killed), killed)
        if apart := difference(Path(folder) / "whole", run):
            raise SystemExit(apart)
        print("the last states are the same bit for bit")


if __name__ == "__main__":
    main()
