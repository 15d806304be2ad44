"""DPG-Bench: does a drawn picture show all that a long prompt says?

1,065 prompts, four pictures to each; a model for questions about pictures answers some 13 of them to each.
Source: Hu et al., "ELLA: Equip Diffusion Models with LLM for Enhanced Semantic Alignment",
github.com/TencentQQGYLab/ELLA (commit 3c228f1).  `dpg_rules` has the rules, `judges` asks, docs/evaluation.md
explains.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from PIL import Image, PngImagePlugin

from janus.eval.benchmark import (
    Answers,
    Counts,
    Item,
    Line,
    Mode,
    Progress,
    Samples,
    Scored,
    caveats,
    check_mode,
)
from janus.eval.dpg_data import FILE, PROMPTS, own_data, read_data
from janus.eval.dpg_rules import JUDGE, READ, TILES, Judged, Question
from janus.eval.dpg_scores import scores_of, tables
from janus.eval.folder import picture_bytes, write_whole
from janus.eval.judges import Consultation, Judge, ModelJudge, Reply, Request, Spent
from janus.eval.profiles import Profile

MPLUG = "damo/mplug_visual-question-answering_coco_large_en"
# How a question is put.  mPLUG says "yes" or "no" by itself; chat models would write "Yes.", which is no yes.
BARE, SHORT = "{}", "{} Please answer yes or no."
INSTRUCTED = "{}\nAnswer with one word in lower case and nothing else: yes or no."
_MAX_TOKENS = 8
_AT_ONCE = 16  # prompts whose pictures are in memory
_EMBEDDED = "the embedded model"
_Said = list[dict[int, str]]  # answers by the rows of the questions, for each picture


class DPG:
    """The benchmark.

    judge: who answers questions about pictures; None: the embedded model, which knows its own world alone.
    """

    name = "dpg"
    kind: Literal["answer", "picture"] = "picture"
    each = 4
    profile: Profile | None = None
    accepts = (FILE, f"{PROMPTS}/*.txt")

    def __init__(self, mode: Mode = "official", judge: Judge | None = None) -> None:
        check_mode(mode)
        self.mode, self._judge = mode, judge

    @property
    def settings(self) -> Line:
        return {}

    def samples(self, data: Path | None, fixture: bool) -> Samples:
        """The official files, or prompts about the embedded world: 120, six of them as the fixture."""
        return own_data(fixture) if data is None else read_data(data)

    def limited(self, lines: Sequence[Line], limit: int) -> Sequence[Line]:
        return lines[:limit]

    def prompt(self, sample: Line) -> str:
        return str(sample["prompt"])

    def prepare(self) -> None:
        """Raises ValueError where the judge cannot be asked."""
        self.judge.check()

    @cached_property
    def judge(self) -> Judge:
        if self._judge is not None:
            return self._judge
        from janus.api import Janus

        return ModelJudge(Janus.from_pretrained(), _EMBEDDED)

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        """Ask about every picture that can be read, and tile those of each prompt for the official script.

        A prompt has a verdict when all questions about all of its pictures are answered.
        """
        consultation = Consultation(self.judge, answers.folder)
        judged: dict[int, Judged] = {}
        said: dict[int, _Said] = {}
        for place, of in self._answered(answers, consultation, on_progress):
            sample = answers.samples[place]
            said[place] = of
            judged[place] = JUDGE[self.mode](sample["id"], _questions(sample), of)
        dropped = {answers.samples[place]["id"]: one.dropped for place, one in judged.items() if one.dropped}
        kept = {place: one for place, one in judged.items() if not one.dropped}
        read = READ[self.mode]
        counts = Counts(
            unit="prompt",
            expected=len(answers.samples) - len(dropped),
            answered=sum(len(_keys(answers, place)) == answers.each for place in range(len(answers.samples)))
            - len(dropped),
            parsed=sum(all(read(text) for tile in said[place] for text in tile.values()) for place in kept),
            scored=len(kept),
        )
        scores, details = scores_of(
            {answers.samples[place]["id"]: one for place, one in kept.items()}, counts
        )
        heard = Counter(
            read(text) or "other" for of in said.values() for tile in of for text in tile.values()
        )
        details |= {"dropped": dropped, "answers": dict(heard), "judge": consultation.details}
        return Scored(
            scores=scores,
            counts=counts,
            verdicts=[self._verdict(answers, place, one, said[place]) for place, one in kept.items()],
            details=details,
            caveat=self._caveat(answers),
            tables=tables(scores, details),
            notes=self._notes(answers, details, consultation),
        )

    def _answered(
        self, answers: Answers, consultation: Consultation, on_progress: Progress | None
    ) -> Iterator[tuple[int, _Said]]:
        """The answers about the pictures of each prompt of which all are there, and all are answered."""
        places = range(len(answers.samples))
        total = sum(len(sample["questions"]) for sample in answers.samples) * answers.each
        done, wording = 0, _wording(self.judge)
        for start in range(0, len(places), _AT_ONCE):
            requests: list[Request] = []
            asked: dict[int, list[tuple[int, int]]] = {}  # by prompt: the picture and the row of each
            for place in places[start : start + _AT_ONCE]:
                pictures = _pictures(answers, place)
                if len(pictures) < answers.each:
                    continue
                _tile(answers, place, pictures)
                asked[place] = []
                for number, picture in enumerate(pictures):
                    for question in answers.samples[place]["questions"]:
                        asking = wording.format(question["text"])
                        about = f"{answers.samples[place]['id']}, picture {number}, row {question['row']}"
                        requests.append(
                            Request(asking, pictures=(picture,), max_tokens=_MAX_TOKENS, about=about)
                        )
                        asked[place].append((number, question["row"]))

            def show(more: int, _: int, before: int = done) -> None:
                if on_progress is not None:
                    on_progress(before + more, total)

            replies = iter(consultation.ask(requests, show))
            done += len(requests)
            show(0, 0, done)
            for place, of in asked.items():
                texts = [next(replies).text for _ in of]
                said: _Said = [{} for _ in range(answers.each)]
                for (number, row), text in zip(of, texts, strict=True):
                    if text is not None:
                        said[number][row] = text
                if None not in texts:
                    yield place, said

    def _verdict(self, answers: Answers, place: int, judged: Judged, said: _Said) -> Line:
        sample, read = answers.samples[place], READ[self.mode]
        failed = [
            f"picture {number}: {question['text']} {tile[question['row']]!r}"
            for number, tile in enumerate(said)
            for question in sample["questions"]
            if read(tile[question["row"]]) != "yes"
        ]
        total = len(sample["questions"]) * len(said)
        more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
        return {
            "item": Item(place, 0).key,
            "id": sample["id"],
            "tags": {"source": sample["id"].rstrip("0123456789") or "numbered"},
            "prompt": sample["prompt"],
            "pictures": [answers.raw[key]["file"] for key in _keys(answers, place)],
            "answer": f"{total - len(failed)} of {total} questions hold",
            "read": None,
            "expected": None,
            "score": judged.score,
            "pictures_scores": list(judged.tiles),
            "reason": "; ".join(failed[:5]) + more,
        }

    def _caveat(self, answers: Answers) -> str:
        data = "" if answers.published else f"not the published prompts ({answers.title})"
        judged = "" if self.judge.title == MPlug.title else f"judged by {self.judge.title}, not by mPLUG"
        if self.judge.title == _EMBEDDED:
            judged += ", in the embedded world; not comparable with published numbers"
        pictures = "" if answers.each == self.each else f"{answers.each} pictures to a prompt, not four"
        return caveats(self.mode, data, judged, pictures)

    def _notes(self, answers: Answers, details: Line, consultation: Consultation) -> list[str]:
        told = consultation.notes
        dropped = details["dropped"]
        if dropped:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(dropped.items())[:3])
            told.append(
                f"The official script drops {len(dropped)} of {len(answers.samples)} prompts, and so is done "
                f"here; the mode `fixed` counts them ({why})."
            )
        other = details["answers"].get("other", 0)
        if other:
            told.append(f"{other} answers were neither yes nor no, and count as no.")
        return told


class MPlug:
    """The official judge: mPLUG, through ModelScope.

    As `MPLUG` in `compute_dpg_bench.py`; it is not among the package's dependencies, ELLA's file
    requirements-for-dpg_bench.txt names what it needs.
    """

    title = "mPLUG"
    chats = False

    @property
    def identity(self) -> Line:
        return {"model": MPLUG}

    def check(self) -> None:
        """Raises ValueError where ModelScope is not installed."""
        self._modelscope()

    def ask(self, requests: Sequence[Request], spent: Spent) -> Iterator[tuple[int, Reply]]:
        """One after the other, as the official script does."""
        for place, request in enumerate(requests):
            with Image.open(io.BytesIO(request.pictures[0])) as picture:
                picture.load()
            found = self._pipeline({"image": picture, "question": request.prompt})
            yield place, Reply(str(found["text"]), model=MPLUG, spent=Spent(requests=1))

    @cached_property
    def _pipeline(self) -> Any:
        import torch

        pipeline, task = self._modelscope()
        return pipeline(task, model=MPLUG, device="cuda" if torch.cuda.is_available() else "cpu")

    def _modelscope(self) -> tuple[Any, Any]:
        try:
            pipeline = import_module("modelscope.pipelines").pipeline
            tasks = import_module("modelscope.utils.constant").Tasks
        except ImportError as error:
            raise ValueError(
                "mPLUG needs ModelScope, which is not here: install requirements-for-dpg_bench.txt of "
                "github.com/TencentQQGYLab/ELLA, or choose another judge"
            ) from error
        return pipeline, tasks.visual_question_answering


def _wording(judge: Judge) -> str:
    if not judge.chats:
        return BARE
    return SHORT if isinstance(judge, ModelJudge) else INSTRUCTED


def _questions(sample: Line) -> list[Question]:
    return [
        Question(one["row"], one["number"], tuple(one["parents"]), one["about"], one["text"])
        for one in sample["questions"]
    ]


def _keys(answers: Answers, place: int) -> list[str]:
    """Of the pictures of a prompt that were drawn."""
    keys = [Item(place, number).key for number in range(answers.each)]
    return [key for key in keys if "file" in answers.raw.get(key, {})]


def _pictures(answers: Answers, place: int) -> list[bytes]:
    """Those of a prompt that are there, and the same as when they were drawn."""
    found = [picture_bytes(answers.raw[key], answers.folder) for key in _keys(answers, place)]
    return [data for data in found if data is not None]


def _tile(answers: Answers, place: int, pictures: Sequence[bytes]) -> None:
    """Keep the first four in one file, two rows of two, as the official script wants them."""
    path = answers.folder / "tiles" / f"{answers.samples[place]['id']}.png"
    digest = " ".join(answers.raw[key]["sha256"] for key in _keys(answers, place)[:TILES])
    try:
        with Image.open(path) as there:
            if there.info.get("pictures") == digest:
                return
    except (OSError, SyntaxError):
        pass
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures[:TILES]]
    width, height = opened[0].size
    tiled = Image.new("RGB", (width * min(2, len(opened)), height * (1 + (len(opened) > 2))))
    for number, picture in enumerate(opened):
        tiled.paste(picture, (width * (number % 2), height * (number // 2)))
    info = PngImagePlugin.PngInfo()
    info.add_text("pictures", digest)
    stream = io.BytesIO()
    tiled.save(stream, "PNG", pnginfo=info)
    write_whole(path, stream.getvalue())
