"""How sure a score is: intervals that hold the true value 95 times of 100."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z = 1.959964  # the normal distribution's two-sided 95 %


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Wilson's interval of a share, which stays sensible near 0 and 1; total at least 1.

    It takes the answers as independent.  Several answers to one prompt are not quite, so that the true
    interval is somewhat wider.
    """
    share, z2 = correct / total, Z * Z
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(groups: Sequence[Sequence[float]], rounds: int = 10_000) -> tuple[float, float]:
    """The interval of the mean of the groups' means, when samples are drawn anew within each group.

    groups: for each the scores of its samples, at least one.  Always draws the same.
    """
    rng = np.random.default_rng(0)
    means = np.zeros(rounds)
    for scores in groups:
        values = np.asarray(scores, np.float64)
        means += values[rng.integers(0, len(values), (rounds, len(values)))].mean(axis=1) / len(groups)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def clustered(scores: Sequence[float], clusters: Sequence[str], rounds: int = 10_000) -> tuple[float, float]:
    """The interval of the mean of scores of which those of one cluster go together: clusters are drawn anew.

    scores and clusters: one for each verdict, at least one.  Always draws the same.
    """
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    places = np.array([numbers[cluster] for cluster in clusters])
    counts = np.bincount(places).astype(np.float64)
    sums = np.bincount(places, weights=np.asarray(scores, np.float64))
    rng = np.random.default_rng(0)
    means = np.empty(rounds)
    step = max(1, 2_000_000 // len(numbers))  # rounds at once, for the memory
    for start in range(0, rounds, step):
        drawn = rng.integers(0, len(numbers), (min(step, rounds - start), len(numbers)))
        means[start : start + step] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
