"""GenEval's scores from its verdicts, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean

from janus.eval.benchmark import Answers, Item, Line, Mode
from janus.eval.intervals import bootstrap, wilson
from janus.eval.prompts import TASKS

# Table 4 of the Janus-Pro report, in the order of TASKS, then overall.
PUBLISHED = {
    "Janus": (0.97, 0.68, 0.30, 0.84, 0.46, 0.42, 0.61),
    "Janus-Pro-1B": (0.98, 0.82, 0.51, 0.89, 0.65, 0.56, 0.73),
    "Janus-Pro-7B": (0.99, 0.89, 0.59, 0.90, 0.79, 0.66, 0.80),
}


def scores_of(
    answers: Answers, correct: Mapping[str, bool], mode: Mode
) -> tuple[dict[str, float | None], Line]:
    """Scores by task and overall, and the counts and intervals behind them.

    correct: whether the picture of an item is right, by its key.  A task's score is the share of its
    pictures that are right, None unless all have a verdict.  `overall` is the mean over the tasks; where
    some have no prompts at all, the official rule takes the mean of the others, the fixed one gives None.
    """
    prompts: dict[str, list[list[bool]]] = {task: [] for task in TASKS}  # verdicts by task and prompt
    for index, sample in enumerate(answers.samples):
        keys = [Item(index, number).key for number in range(answers.each)]
        prompts[sample["tag"]].append([correct[key] for key in keys if key in correct])
    scores: dict[str, float | None] = {"overall": None}
    tasks = {}
    for task, of in prompts.items():
        verdicts = list(chain.from_iterable(of))
        expected, right = len(of) * answers.each, sum(verdicts)
        whole = 0 < len(verdicts) == expected
        scores[task] = right / expected if whole else None
        tasks[task] = {
            "prompts": len(of),
            "expected": expected,
            "scored": len(verdicts),
            "correct": right,
            "interval": wilson(right, expected) if whole else None,
        }
    counting = [task for task in TASKS if mode == "fixed" or prompts[task]]
    shares = [score for task in counting if (score := scores[task]) is not None]
    every = list(chain.from_iterable(prompts.values()))
    details: Line = {"tasks": tasks, "overall_interval": None, "pictures_right": None, "prompts_right": None}
    if all(len(of) == answers.each for of in every):
        details["pictures_right"] = fmean(chain.from_iterable(every))
        details["prompts_right"] = fmean(map(any, every))
    if len(shares) == len(counting):
        scores["overall"] = fmean(shares)
        details["overall_interval"] = bootstrap([list(map(fmean, prompts[task])) for task in counting])
    return scores, details


def table(scores: Mapping[str, float | None], details: Line) -> str:
    """Markdown: the scores with their intervals beside the report's."""
    detector = details["detector"]
    names = list(PUBLISHED)
    lines = [
        f"Judged by the {detector['title']}; the report's numbers by Mask2Former.",
        "",
        "| task | score | 95 % | right of | " + " | ".join(f"{name} (report)" for name in names) + " |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for row, task in enumerate([*TASKS, "overall"]):
        score = scores[task]
        counts = details["tasks"].get(task)
        interval = counts["interval"] if counts else details["overall_interval"]
        shown = [
            task,
            "-" if score is None else f"{score:.3f}",
            "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
            f"{counts['correct']} of {counts['scored']}" if counts else "",
            *(f"{PUBLISHED[name][row]:.2f}" for name in names),
        ]
        lines.append(f"| {' | '.join(shown)} |")
    if details["pictures_right"] is not None:
        lines += [
            "",
            f"Right: {details['pictures_right']:.1%} of all pictures; "
            f"of {details['prompts_right']:.1%} of the prompts at least one picture.",
        ]
    if detector["figures"]:
        figures = "; ".join(f"{name} {value}" for name, value in detector["figures"].items())
        lines += ["", f"What is known of the {detector['title']}: {figures}."]
    return "\n".join(lines)


def reasons(verdicts: Sequence[Line]) -> str:
    """Markdown: every picture with its prompt, its verdict and the reason."""
    lines = ["| picture | prompt | right | why not |", "|---|---|---|---|"]
    for line in verdicts:
        why = line["reason"].replace("\n", "; ")
        cells = [line["prompt"], "yes" if line["correct"] else "no", why]
        safe = " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells)
        lines.append(f"| [{line['item']}]({line['filename']}) | {safe} |")
    return "\n".join(lines)
