"""When an answer to GQA is right, by several rules, and what comes of it."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from janus.eval.benchmark import Line, Mode, Table
from janus.eval.published import beside
from janus.eval.tallies import share, shown, shown_interval, tally

SEMANTIC = {"attr": "attribute", "cat": "category", "global": "scene", "obj": "object", "rel": "relation"}
_NO_STEP = ("exist", "query: name", "choose name")  # of a question's program, the last one does not count
_ENDS = re.compile(r"^[\W_]+|[\W_]+$")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_AXES = {"kind": "", "structural": "structural type", "semantic": "semantic type"}


@dataclass(frozen=True)
class Rule:
    """How an answer is read before it is compared, and whether the right one is read so, too."""

    read: Callable[[str], str]
    both: bool

    def agrees(self, said: str, right: str) -> bool:
        return self.read(said) == (self.read(right) if self.both else right)


def as_it_is(text: str) -> str:
    """GQA's eval.py: nothing is changed."""
    return text


def llava(text: str) -> str:
    """LLaVA's step before eval.py (haotian-liu/LLaVA, scripts/convert_gqa_for_eval.py)."""
    return text.rstrip(".").lower()


def vlmevalkit(text: str) -> str:
    """VLMEvalKit (dataset/utils/vqa_eval.py, `process_line`, "accuracy")."""
    return text.strip().lower()


def lmms_eval(text: str) -> str:
    """lmms-eval (api/metrics.py, `exact_match_hf_evaluate`, case and punctuation ignored); spaces count."""
    return text.lower().translate(_PUNCTUATION)


def mended(text: str) -> str:
    """Our own: case, width, spaces and what stands around words do not matter; hyphens within words do."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(filter(None, (_ENDS.sub("", word) for word in words)))


RULES: dict[Mode, Rule] = {"official": Rule(as_it_is, False), "fixed": Rule(mended, True)}
READERS: dict[str, Rule] = {
    "GQA's eval.py (official)": RULES["official"],
    "eval.py after LLaVA's step": Rule(llava, False),
    "mended (fixed)": RULES["fixed"],
    "VLMEvalKit": Rule(vlmevalkit, True),
    "lmms-eval": Rule(lmms_eval, True),
}


def steps_of(semantic: Sequence[Mapping[str, str]]) -> int:
    """Steps of reasoning in a question's program (eval.py, `getStepsNum`)."""
    told = [f"{step['operation']}: {step['argument']}" for step in semantic]
    return sum(not any(part in step for part in _NO_STEP) for step in told)


def distribution(right: Sequence[str], said: Sequence[str], groups: Sequence[str | None]) -> float | None:
    """How far answers are from the right ones in their distribution, less is better (eval.py, `chiSquare`).

    Over the groups that questions belong to; None where none has any.
    """
    gold: dict[str, Counter[str]] = {}
    given: dict[str, Counter[str]] = {}
    for answer, other, group in zip(right, said, groups, strict=True):
        if group is not None:
            gold.setdefault(group, Counter())[answer] += 1
            given.setdefault(group, Counter())[other] += 1
    if not gold:
        return None
    weighed = 0.0
    for group, counts in gold.items():
        apart = sum((given[group][answer] - count) ** 2 / count for answer, count in counts.items())
        weighed += apart * counts.total()
    return weighed / sum(counts.total() for counts in gold.values()) / 100


def scores_of(
    verdicts: Sequence[Line], samples: Sequence[Line], rule: Rule
) -> tuple[dict[str, float | None], Line]:
    """The scores and what belongs to them; shares are None where an answer is missing."""
    whole = len(verdicts) == len(samples)
    found = {axis: tally(verdicts, axis) for axis in (*_AXES, "steps", "words")}
    for axis in ("steps", "words"):
        found[axis] = dict(sorted(found[axis].items(), key=lambda one: int(one[0])))
    overall = share(verdicts)
    scores: dict[str, float | None] = {
        "overall": overall["score"] if whole else None,
        **{kind: found["kind"].get(kind, {}).get("score") if whole else None for kind in ("binary", "open")},
    }
    readers: dict[str, float | None] = dict.fromkeys(READERS)
    apart = None
    if whole:
        said = [(line["answer"], line["expected"]) for line in verdicts]
        readers = {name: fmean(float(one.agrees(*pair)) for pair in said) for name, one in READERS.items()}
        answers = [rule.read(answer) for answer, _ in said]
        right = [rule.read(gold) if rule.both else gold for _, gold in said]
        apart = distribution(right, answers, [sample["group"] for sample in samples])
    details = {
        "overall_interval": overall["interval"] if whole else None,
        **found,
        "distribution": apart,
        "readers": readers,
    }
    return scores, details


def tables(scores: Mapping[str, float | None], details: Line) -> list[Table]:
    """All questions and their types, the same answers as other rules read them, and the report's number."""
    rows = [["all", shown(scores["overall"]), shown_interval(details["overall_interval"]), ""]]
    for axis, title in _AXES.items():
        for value, found in details[axis].items():
            name = f"{title}: {SEMANTIC.get(value, value)}" if title else value
            interval = shown_interval(found["interval"])
            rows.append([name, shown(found["score"]), interval, str(found["of"])])
    ours = None if scores["overall"] is None else 100 * scores["overall"]
    others = [[name, shown(value)] for name, value in details["readers"].items()]
    return [
        Table("", ("questions", "accuracy", "95 %", "of"), rows),
        Table("The same answers, read by others' rules", ("read by", "accuracy"), others),
        beside("gqa", ours, "accuracy; which rule it is by is not said"),
    ]


def notes(details: Line, mode: Mode) -> list[str]:
    """What one must know to compare."""
    told = []
    if mode == "official":
        step = shown(details["readers"]["eval.py after LLaVA's step"])
        told.append(
            'The official script compares answers as they are, so that "Yes" or "yes." is wrong; numbers of '
            f"models since LLaVA are after its step, which drops case and the last point: here {step}."
        )
    if details["distribution"] is not None:
        told.append(f"Distribution (less is better): {details['distribution']:.2f}.")
    return told
