"""Two runs of one benchmark beside each other, and many runs in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from janus.eval.benchmark import Line, Table
from janus.eval.folder import Journal
from janus.eval.published import DPG, GENEVAL, UNDERSTANDING, understanding
from janus.eval.report import markdown
from janus.eval.runner import RESULTS, VERDICTS
from janus.eval.tallies import shown

_ROUNDS = 10_000  # of drawing clusters anew, and of swapping signs


def compare(one: str | Path, other: str | Path, show: int = 20) -> str:
    """Which verdicts of two scored runs differ, in Markdown, with the difference of their means, its interval
    and how often chance alone makes one as large.

    Items are matched by their ids; those of one run alone are counted and left out.  Raises ValueError for
    runs of different benchmarks or modes, and where nothing matches.
    """
    (mine, before), (theirs, after) = _scored(one), _scored(other)
    for key in ("benchmark", "mode"):
        if mine[key] != theirs[key]:
            raise ValueError(
                f"{one} is of {key} {mine[key]}, {other} of {theirs[key]}; both must be the same"
            )
    both = [key for key in before if key in after]
    if not both:
        raise ValueError(f"{one} and {other} have no item in common")
    changes = np.array([after[key]["score"] - before[key]["score"] for key in both])
    clusters = [before[key].get("cluster") or key for key in both]
    low, high, chance = paired(changes, clusters)
    better, worse = int((changes > 0).sum()), int((changes < 0).sum())
    alone = len(before) + len(after) - 2 * len(both)
    means = [fmean(side[key]["score"] for key in both) for side in (before, after)]
    lines = [
        f"{mine['benchmark']} by the {mine['mode']} rules: {mine['settings']['model']} ({one}) and "
        f"{theirs['settings']['model']} ({other}), {len(both)} items in common"
        + (f", {alone} of only one of them left out" if alone else ""),
        f"Mean score {means[0]:.4f} and {means[1]:.4f}: {changes.mean():+.4f}, 95 % {low:+.4f} to "
        f"{high:+.4f}; a difference as large comes by chance in {chance:.1%} of cases.",
        f"{better} items better in the second, {worse} worse, {len(both) - better - worse} the same.",
    ]
    differing = [(key, change) for key, change in zip(both, changes, strict=True) if change]
    if differing:
        rows = [
            [key, str(before[key]["prompt"]), *_told(before[key]), *_told(after[key])]
            for key, _ in differing[:show]
        ]
        header = ["item", "asked", "first", "score", "second", "score"]
        lines.append(
            markdown(Table(f"{min(show, len(differing))} of {len(differing)} changes", header, rows))
        )
    return "\n\n".join(lines)


def paired(changes: np.ndarray, clusters: Sequence[str]) -> tuple[float, float, float]:
    """The 95 % interval of the mean change, and how often chance makes one as large.

    The interval is bootstrapped over clusters; for chance the signs of clusters are swapped at random
    (a paired permutation test).  Always draws the same.
    """
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    places = np.array([numbers[cluster] for cluster in clusters])
    sums, counts = np.bincount(places, weights=changes), np.bincount(places).astype(float)
    rng = np.random.default_rng(0)
    means, swapped = np.empty(_ROUNDS), np.empty(_ROUNDS)
    for i in range(_ROUNDS):
        drawn = rng.integers(0, len(sums), len(sums))
        means[i] = sums[drawn].sum() / counts[drawn].sum()
        swapped[i] = (sums * rng.choice((-1.0, 1.0), len(sums))).sum() / counts.sum()
    low, high = np.quantile(means, [0.025, 0.975])
    as_large = (np.abs(swapped) >= abs(changes.mean()) - 1e-12).sum()
    return float(low), float(high), float((as_large + 1) / (_ROUNDS + 1))


def overview(folders: Sequence[str | Path]) -> str:
    """The overall scores of scored runs in Markdown, models as rows, beside the report's numbers."""
    ours: dict[str, dict[str, str]] = {}
    caveats: dict[str, None] = {}
    for folder in folders:
        results, _ = _scored(folder)
        scores, mode = results["scores"], results["mode"]
        name = results["benchmark"] + ("" if mode == "official" else f" ({mode})")
        score = scores["perception"] if results["benchmark"] == "mme" else scores["overall"]
        about = results["settings"]
        row = about["model"] + (f", {about['profile']} prompts" if "profile" in about else "")
        ours.setdefault(row, {})[name] = shown(score, 1 if results["benchmark"] == "mme" else 100)
        if results["caveat"] or not results["complete"]:
            why = results["caveat"] if results["complete"] else f"incomplete; {results['caveat']}"
            caveats[f"{folder}: {why}"] = None
    names = list(dict.fromkeys(name for row in ours.values() for name in row))
    rows = [[row, *(scores.get(name, "-") for name in names)] for row, scores in ours.items()]
    for model in dict.fromkeys([*UNDERSTANDING, *GENEVAL, *DPG]):
        known = [_published(model, name.split(" ")[0]) for name in names]
        if any(value != "-" for value in known):
            rows.append([f"{model} (report)", *known])
    table = markdown(Table("Percent; MME: perception, points", ["model", *names], rows))
    return "\n\n".join([table, *(f"- {caveat}" for caveat in caveats)])


def _published(model: str, benchmark: str) -> str:
    if benchmark == "geneval":
        return shown(GENEVAL[model][-1]) if model in GENEVAL else "-"
    if benchmark == "dpg":
        return shown(DPG[model][-1], 1) if model in DPG else "-"
    return shown(understanding(model, benchmark), 1)


def _scored(folder: str | Path) -> tuple[Line, dict[str, Line]]:
    """Results and verdicts by their ids.  Raises ValueError for a folder that was not scored."""
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise ValueError(f"{folder} is not scored: there is no {path}; run `janus eval score {folder}`")
    try:
        results = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return results, {str(line["id"]): line for line in Journal(Path(folder) / VERDICTS).read()}


def _told(line: Line) -> list[str]:
    answer = line.get("answer")
    return [str(answer if answer is not None else line["reason"] or "right"), f"{line['score']:.3g}"]
