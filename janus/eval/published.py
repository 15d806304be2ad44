"""What the Janus-Pro report says (arXiv 2501.17811): tables 3 to 5, for orientation beside our scores.

It names no prompts, no harness and no settings of generation; docs/evaluation.md says what is known of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from janus.eval.benchmark import Table

# Table 3, None where it has none.  MME is perception alone, in points; the others are percent.
UNDERSTANDING: dict[str, dict[str, float | None]] = {
    "Janus": {
        "pope": 87.0, "mme": 1338.0, "mmbench": 69.4, "seed": 63.7, "gqa": 59.1, "mmmu": 30.5, "mmvet": 34.3,
    },
    "Janus-Pro-1B": {
        "pope": 86.2, "mme": 1444.0, "mmbench": 75.5, "seed": 68.3, "gqa": 59.3, "mmmu": 36.3, "mmvet": 39.8,
    },
    "Janus-Pro-7B": {
        "pope": 87.4, "mme": 1567.1, "mmbench": 79.2, "seed": 72.1, "gqa": 62.0, "mmmu": 41.0, "mmvet": 50.0,
    },
    "LLaVA-v1.5 7B": {
        "pope": 85.9, "mme": 1510.7, "mmbench": 64.3, "seed": 58.6, "gqa": 62.0, "mmmu": 35.4, "mmvet": 31.1,
    },
    "Emu3-Chat 8B": {
        "pope": 85.2, "mme": 1244.0, "mmbench": 58.5, "seed": 68.2, "gqa": 60.3, "mmmu": 31.6, "mmvet": 37.2,
    },
    "TokenFlow-XL 13B": {
        "pope": 86.8, "mme": 1545.9, "mmbench": 68.9, "seed": 68.7, "gqa": 62.7, "mmmu": 38.7, "mmvet": 40.7,
    },
    "ILLUME 7B": {
        "pope": 88.5, "mme": 1445.3, "mmbench": 65.1, "seed": 72.9, "gqa": None, "mmmu": 38.2, "mmvet": 37.0,
    },
    "Show-o-512 1.3B": {
        "pope": 80.0, "mme": 1097.2, "mmbench": None, "seed": None, "gqa": 58.0, "mmmu": 26.7, "mmvet": None,
    },
}  # fmt: skip
# Table 4: single object, two objects, counting, colours, position, colour attribution, overall.
GENEVAL: dict[str, tuple[float, ...]] = {
    "Janus": (0.97, 0.68, 0.30, 0.84, 0.46, 0.42, 0.61),
    "Janus-Pro-1B": (0.98, 0.82, 0.51, 0.89, 0.65, 0.56, 0.73),
    "Janus-Pro-7B": (0.99, 0.89, 0.59, 0.90, 0.79, 0.66, 0.80),
    "SDXL": (0.98, 0.74, 0.39, 0.85, 0.15, 0.23, 0.55),
    "DALL-E 3": (0.96, 0.87, 0.47, 0.83, 0.43, 0.45, 0.67),
    "SD3-Medium": (0.99, 0.94, 0.72, 0.89, 0.33, 0.60, 0.74),
}
# Table 5: global, entity, attribute, relation, other, overall.
DPG: dict[str, tuple[float, ...]] = {
    "Janus": (82.33, 87.38, 87.70, 85.46, 86.41, 79.68),
    "Janus-Pro-1B": (87.58, 88.63, 88.17, 88.98, 88.30, 82.63),
    "Janus-Pro-7B": (86.90, 88.90, 89.40, 89.32, 89.48, 84.19),
    "SDXL": (83.27, 82.43, 80.91, 86.76, 80.41, 74.65),
    "DALL-E 3": (90.97, 89.61, 88.39, 90.58, 89.83, 83.50),
    "SD3-Medium": (87.90, 91.01, 88.83, 80.70, 88.68, 84.08),
}


def beside(benchmark: str, ours: float | None, what: str) -> Table:
    """Our score of a benchmark of questions among the report's, on the report's scale; `what` it is of."""
    rows: list[Sequence[str]] = [("this run", "-" if ours is None else f"{ours:.1f}")]
    rows += [
        (name, f"{score:.1f}")
        for name, scores in UNDERSTANDING.items()
        if (score := scores[benchmark]) is not None
    ]
    return Table(f"Beside the report's table 3: {what}", ("model", benchmark), rows)
