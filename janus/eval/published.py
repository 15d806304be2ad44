"""What the Janus-Pro report says (arXiv 2501.17811): tables 3 to 5, for orientation beside our scores.

It names no prompts, no harness and no settings of generation; docs/evaluation.md says what is known of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from janus.eval.benchmark import Table

FAMILY = ("Janus", "Janus-Pro-1B", "Janus-Pro-7B")
# Table 3, None where it has none.  MME is perception alone, in points; the others are percent.
COLUMNS = ("pope", "mme", "mmbench", "seed", "gqa", "mmmu", "mmvet")
UNDERSTANDING: dict[str, tuple[float | None, ...]] = {
    "Janus": (87.0, 1338.0, 69.4, 63.7, 59.1, 30.5, 34.3),
    "Janus-Pro-1B": (86.2, 1444.0, 75.5, 68.3, 59.3, 36.3, 39.8),
    "Janus-Pro-7B": (87.4, 1567.1, 79.2, 72.1, 62.0, 41.0, 50.0),
    "LLaVA-v1.5-Phi-1.5 1.3B": (84.1, 1128.0, None, None, 56.5, 30.7, None),
    "MobileVLM 1.4B": (84.5, 1196.2, 53.2, None, 56.1, None, None),
    "MobileVLM-V2 1.4B": (84.3, 1302.8, 57.7, None, 59.3, None, None),
    "MobileVLM 2.7B": (84.9, 1288.9, 59.6, None, 59.0, None, None),
    "MobileVLM-V2 2.7B": (84.7, 1440.5, 63.2, None, 61.1, None, None),
    "LLaVA-Phi 2.7B": (85.0, 1335.1, 59.8, None, None, None, 28.9),
    "LLaVA 7B": (76.3, 809.6, 38.7, 33.5, None, None, 25.5),
    "LLaVA-v1.5 7B": (85.9, 1510.7, 64.3, 58.6, 62.0, 35.4, 31.1),
    "InstructBLIP 7B": (None, None, 36.0, 53.4, 49.2, None, 26.2),
    "Qwen-VL-Chat 7B": (None, 1487.5, 60.6, 58.2, 57.5, None, None),
    "IDEFICS-9B 8B": (None, None, 48.2, None, 38.4, None, None),
    "Emu3-Chat 8B": (85.2, 1244.0, 58.5, 68.2, 60.3, 31.6, 37.2),
    "InstructBLIP 13B": (78.9, 1212.8, None, None, 49.5, None, 25.6),
    "DreamLLM 7B": (None, None, None, None, None, None, 36.6),
    "LaVIT 7B": (None, None, None, None, 46.8, None, None),
    "MetaMorph 8B": (None, None, 75.2, 71.8, None, None, None),
    "Show-o-256 1.3B": (73.8, 948.4, None, None, 48.7, 25.1, None),
    "Show-o-512 1.3B": (80.0, 1097.2, None, None, 58.0, 26.7, None),
    "D-Dit 2.0B": (84.0, 1124.7, None, None, 59.2, None, None),
    "Gemini-Nano-1 1.8B": (None, None, None, None, None, 26.3, None),
    "ILLUME 7B": (88.5, 1445.3, 65.1, 72.9, None, 38.2, 37.0),
    "TokenFlow-XL 13B": (86.8, 1545.9, 68.9, 68.7, 62.7, 38.7, 40.7),
    "LWM 7B": (75.2, None, None, None, 44.8, None, 9.6),
    "VILA-U 7B": (85.8, 1401.8, None, 59.0, 60.8, None, 33.5),
    "Chameleon 7B": (None, None, None, None, None, 22.4, 8.3),
}
# Table 4: single object, two objects, counting, colours, position, colour attribution, overall.
GENEVAL: dict[str, tuple[float | None, ...]] = {
    "Janus": (0.97, 0.68, 0.30, 0.84, 0.46, 0.42, 0.61),
    "Janus-Pro-1B": (0.98, 0.82, 0.51, 0.89, 0.65, 0.56, 0.73),
    "Janus-Pro-7B": (0.99, 0.89, 0.59, 0.90, 0.79, 0.66, 0.80),
    "LlamaGen": (0.71, 0.34, 0.21, 0.58, 0.07, 0.04, 0.32),
    "LDM": (0.92, 0.29, 0.23, 0.70, 0.02, 0.05, 0.37),
    "SDv1.5": (0.97, 0.38, 0.35, 0.76, 0.04, 0.06, 0.43),
    "PixArt-α": (0.98, 0.50, 0.44, 0.80, 0.08, 0.07, 0.48),
    "SDv2.1": (0.98, 0.51, 0.44, 0.85, 0.07, 0.17, 0.50),
    "DALL-E 2": (0.94, 0.66, 0.49, 0.77, 0.10, 0.19, 0.52),
    "Emu3-Gen": (0.98, 0.71, 0.34, 0.81, 0.17, 0.21, 0.54),
    "SDXL": (0.98, 0.74, 0.39, 0.85, 0.15, 0.23, 0.55),
    "DALL-E 3": (0.96, 0.87, 0.47, 0.83, 0.43, 0.45, 0.67),
    "SD3-Medium": (0.99, 0.94, 0.72, 0.89, 0.33, 0.60, 0.74),
    "SEED-X": (0.97, 0.58, 0.26, 0.80, 0.19, 0.14, 0.49),
    "Show-o": (0.95, 0.52, 0.49, 0.82, 0.11, 0.28, 0.53),
    "D-DiT": (0.97, 0.80, 0.54, 0.76, 0.32, 0.50, 0.65),
    "LWM": (0.93, 0.41, 0.46, 0.79, 0.09, 0.15, 0.47),
    "Transfusion": (None, None, None, None, None, None, 0.63),
    "ILLUME": (0.99, 0.86, 0.45, 0.71, 0.39, 0.28, 0.61),
    "TokenFlow-XL": (0.95, 0.60, 0.41, 0.81, 0.16, 0.24, 0.55),
    "Chameleon": (None, None, None, None, None, None, 0.39),
}
# Table 5: global, entity, attribute, relation, other, overall.
DPG: dict[str, tuple[float, ...]] = {
    "Janus": (82.33, 87.38, 87.70, 85.46, 86.41, 79.68),
    "Janus-Pro-1B": (87.58, 88.63, 88.17, 88.98, 88.30, 82.63),
    "Janus-Pro-7B": (86.90, 88.90, 89.40, 89.32, 89.48, 84.19),
    "SDv1.5": (74.63, 74.23, 75.39, 73.49, 67.81, 63.18),
    "PixArt-α": (74.97, 79.32, 78.60, 82.57, 76.96, 71.11),
    "Lumina-Next": (82.82, 88.65, 86.44, 80.53, 81.82, 74.63),
    "SDXL": (83.27, 82.43, 80.91, 86.76, 80.41, 74.65),
    "Playground v2.5": (83.06, 82.59, 81.20, 84.08, 83.50, 75.47),
    "Hunyuan-DiT": (84.59, 80.59, 88.01, 74.36, 86.41, 78.87),
    "PixArt-Σ": (86.89, 82.89, 88.94, 86.59, 87.68, 80.54),
    "Emu3-Gen": (85.21, 86.68, 86.84, 90.22, 83.15, 80.60),
    "DALL-E 3": (90.97, 89.61, 88.39, 90.58, 89.83, 83.50),
    "SD3-Medium": (87.90, 91.01, 88.83, 80.70, 88.68, 84.08),
}


def understanding(model: str, benchmark: str) -> float | None:
    """Table 3's number; None where it has none."""
    scores = dict(zip(COLUMNS, UNDERSTANDING.get(model, ()), strict=False))
    return scores.get(benchmark)


def among(
    number: int, header: Sequence[str], ours: Sequence[str], theirs: Mapping[str, Sequence[float | None]]
) -> Table:
    """Our row of scores above those of a table of the report, as numbers of two digits."""
    rows = [["this run", *ours]]
    rows += [
        [model, *("-" if score is None else f"{score:.2f}" for score in scores)]
        for model, scores in theirs.items()
    ]
    return Table(f"Beside the report's table {number}", ["model", *header], rows)


def beside(benchmark: str, ours: float | None, what: str) -> Table:
    """Our score of a benchmark of questions among the report's, on the report's scale; `what` it is of."""
    rows: list[Sequence[str]] = [("this run", "-" if ours is None else f"{ours:.1f}")]
    rows += [
        (model, f"{score:.1f}")
        for model in UNDERSTANDING
        if (score := understanding(model, benchmark)) is not None
    ]
    return Table(f"Beside the report's table 3: {what}", ("model", benchmark), rows)
