"""DPG-Bench's data, whole runs, and how judges are asked about pictures."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from janus.eval import dpg_data
from janus.eval.benchmark import Answers, Item, Line, Mode
from janus.eval.dpg import DPG, INSTRUCTED, SHORT, MPlug
from janus.eval.dpg_data import OFFICIAL_BLOB, OFFICIAL_PROMPTS, own_rows, read_data
from janus.eval.judges import ModelJudge, Reply, Request, Spent
from tests.dpg_cases import COLUMNS, as_csv

# -- data -----------------------------------------------------------------------------------------

GOOD = dict(
    zip(
        COLUMNS,
        ("vrd1", "A cat.", "cat", "1", "0", "entity", "whole", "entity - whole (cat)", "A cat?"),
        strict=True,
    )
)


def write(folder: Path, lines: Sequence[Mapping[str, str]], **prompts: str) -> Path:
    (folder / "dpg_bench.csv").write_text(as_csv([dict(line) for line in lines]))
    for name, text in prompts.items():
        (folder / "prompts").mkdir(exist_ok=True)
        (folder / "prompts" / f"{name}.txt").write_text(text)
    return folder


def test_prompts_come_from_their_files_or_from_the_table(tmp_path: Path) -> None:
    second = GOOD | {
        "proposition_id": "2",
        "dependency": "1, 3",
        "question_natural_language": 'A "red", cat?',
    }
    other = GOOD | {"item_id": "0", "text": "A dog.\n"}
    samples = read_data(write(tmp_path, [GOOD, second, other], vrd1="A very long prompt.\n"))
    assert samples.title == "prompts of dpg_bench.csv"
    assert not samples.published
    vrd, dog = samples.lines
    assert (vrd["id"], vrd["prompt"]) == ("vrd1", "A very long prompt.")
    assert (dog["id"], dog["prompt"]) == ("0", "A dog.")
    assert vrd["questions"][1] == {
        "row": 1,
        "number": 2,
        "parents": [1, 3],
        "about": "entity - whole (cat)",
        "text": 'A "red", cat?',
    }
    assert dog["questions"][0]["row"] == 2
    assert read_data(tmp_path / "dpg_bench.csv").lines == samples.lines
    assert DPG().limited(samples.lines, 1) == (vrd,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"proposition_id": "one"}, "proposition_id must be a whole number, not 'one'"),
        ({"proposition_id": ""}, "proposition_id must be a whole number, not ''"),
        ({"dependency": "1;2"}, "dependency must be numbers of questions with commas between, not '1;2'"),
        ({"dependency": ""}, "dependency must be numbers"),
        ({"tuple": ""}, "there must be a tuple and a question, not '' and 'A cat\\?'"),
        ({"question_natural_language": " "}, "there must be a tuple and a question"),
        ({"item_id": ""}, "item_id must be fit for the name of a file, not ''"),
        ({"item_id": "../x"}, "item_id must be fit for the name of a file, not '../x'"),
        ({"item_id": "x", "text": ""}, "there is neither prompts/x.txt nor a text"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: dict[str, str], words: str) -> None:
    told = rf"1 bad rows beside 1 good ones:\n  dpg_bench\.csv, row 2: {words}"
    with pytest.raises(ValueError, match=told):
        read_data(write(tmp_path, [GOOD, GOOD | change]))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file that fits dpg_bench\.csv"):
        read_data(tmp_path)
    with pytest.raises(ValueError, match=r"there is no .*nowhere"):
        read_data(tmp_path / "nowhere")
    (tmp_path / "dpg_bench.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="row 1: there is no column"):
        read_data(tmp_path)
    with pytest.raises(ValueError, match="has no questions"):
        read_data(write(tmp_path, []))
    with pytest.raises(ValueError, match=r"prompts/b\.txt: no row asks about it"):
        read_data(write(tmp_path, [GOOD], vrd1="A cat.", b="A dog."))


def test_the_published_files_are_known_by_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CSV by the name that git has for it, the prompts by a hash of their own."""
    folder = write(tmp_path, [GOOD], vrd1="A cat.")
    data = (folder / "dpg_bench.csv").read_bytes()
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    prompts = hashlib.sha256(b"vrd1\nA cat.\n").hexdigest()
    assert len(OFFICIAL_BLOB) == len(blob)
    assert len(OFFICIAL_PROMPTS) == len(prompts)
    monkeypatch.setattr(dpg_data, "OFFICIAL_BLOB", blob)
    assert not read_data(folder).published
    monkeypatch.setattr(dpg_data, "OFFICIAL_PROMPTS", prompts)
    assert (read_data(folder).published, read_data(folder).title) == (True, "DPG-Bench's prompts")
    (folder / "prompts" / "more.txt").write_text("A prompt that the published table does not ask about.")
    assert not read_data(folder).published


def test_the_fixture_asks_in_the_official_form_and_parents_come_first() -> None:
    samples = DPG().samples(None, True)
    assert len(samples.lines) == 6
    lines = own_rows(6)
    assert list(csv.DictReader(io.StringIO(dpg_data.as_csv(lines)))) == lines
    assert tuple(lines[0]) == COLUMNS
    kinds = {line["tuple"].split(" (")[0] for line in lines}
    assert kinds == {"entity - whole", "other - count", "attribute - color", "relation - spatial"}
    for sample in samples.lines:
        for question in sample["questions"]:
            assert all(parent < question["number"] for parent in question["parents"])
    assert len({sample["prompt"] for sample in DPG().samples(None, False).lines}) > 100


# -- whole runs -----------------------------------------------------------------------------------


class Oracle:
    """Answers with what `script` gives for the colour of a picture's first pixel and a question."""

    title, chats = "oracle", True

    def __init__(self, script: Callable[[tuple[int, int], str], str | None]) -> None:
        self.script, self.asked = script, 0

    @property
    def identity(self) -> Line:
        return {}

    def check(self) -> None:
        raise ValueError("asleep")

    def ask(self, requests: Sequence[Request], spent: Spent) -> Iterator[tuple[int, Reply]]:
        for place, request in enumerate(requests):
            self.asked += 1
            [data] = request.pictures
            prompt, number, _ = Image.open(io.BytesIO(data)).getpixel((0, 0))  # type: ignore[misc]
            text = self.script((prompt, number), request.prompt.split("\n")[0])
            yield place, Reply(text, "" if text is not None else "no answer in time", spent=Spent(1))


SAMPLES: list[Line] = [
    {
        "id": name,
        "prompt": f"a picture of {name}",
        "questions": [
            {"row": 3 * place + i, "number": i + 1, "parents": [i], "about": about, "text": f"{name} {i}?"}
            for i, about in enumerate(("entity - whole (x)", "attribute - color (x, y)"))
        ],
    }
    for place, name in enumerate(("vrd1", "vrd2", "7"))
]


def drawn(folder: Path, missing: Sequence[str] = (), each: int = 4, published: bool = True) -> Answers:
    """Pictures whose first pixel says which they are."""
    raw = {}
    for place in range(len(SAMPLES)):
        for number in range(each):
            item = Item(place, number)
            if item.key in missing:
                continue
            stream = io.BytesIO()
            Image.new("RGB", (8, 8), (place, number, 9)).save(stream, "PNG")
            file = folder / "pictures" / f"{place:05d}" / "samples" / f"{number:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(stream.getvalue())
            digest = hashlib.sha256(stream.getvalue()).hexdigest()
            raw[item.key] = {"item": item.key, "file": file.relative_to(folder).as_posix(), "sha256": digest}
    return Answers(folder, SAMPLES, "DPG-Bench's prompts", published, each, raw)


def scored(answers: Answers, script: Any, mode: Mode = "fixed") -> Any:
    return DPG(mode, Oracle(script)).score(answers)


def test_questions_are_asked_once_and_a_new_score_asks_nothing(tmp_path: Path) -> None:
    answers = drawn(tmp_path)
    oracle = Oracle(lambda picture, question: "no" if question == "vrd2 0?" and picture[1] == 1 else "yes")
    steps: list[tuple[int, int]] = []
    first = DPG("fixed", oracle).score(answers, lambda *step: steps.append(step))
    assert oracle.asked == 24
    assert steps[-1] == (24, 24)
    assert first.scores["overall"] == pytest.approx((1 + 0.75 + 1) / 3)
    assert first.scores["entity"] == pytest.approx(11 / 12)
    assert first.scores["attribute"] == 1
    assert "relation" not in first.scores
    second = DPG("fixed", oracle).score(answers)
    assert oracle.asked == 24
    assert (second.scores, second.verdicts) == (first.scores, first.verdicts)
    verdict = first.verdicts[1]
    assert verdict["reason"] == "picture 1: vrd2 0? 'no'"
    assert verdict["pictures_scores"] == [1, 0, 1, 1]
    assert verdict["tags"] == {"source": "vrd"}
    assert verdict["pictures"][3] == "pictures/00001/samples/00003.png"
    assert first.verdicts[2]["tags"] == {"source": "numbered"}
    json.dumps(first.details, allow_nan=False)


def test_a_dropped_prompt_is_told_and_the_rest_is_complete(tmp_path: Path) -> None:
    found = scored(drawn(tmp_path), lambda picture, question: "yes", "official")
    assert found.details["dropped"] == {"vrd1": "question 2 depends on 1, which is not there"}
    assert (found.counts.expected, found.counts.scored, found.counts.complete) == (2, 2, True)
    assert found.scores["overall"] == 1
    assert any("drops 1 of 3 prompts" in note for note in found.notes)
    assert scored(drawn(tmp_path), lambda picture, question: "yes").counts.expected == 3


def test_missing_pictures_make_it_incomplete_in_both_modes(tmp_path: Path) -> None:
    for mode in ("official", "fixed"):
        found = scored(drawn(tmp_path, missing=["00001/00002"]), lambda picture, question: "yes", mode)
        assert found.scores["overall"] is found.scores["entity"] is None
        assert not found.counts.complete
        assert found.counts.expected - found.counts.answered == 1
        assert found.details["mean_of_scored"] == 1
        assert [line["id"] for line in found.verdicts][-1] == "7"


def test_a_changed_picture_counts_as_missing(tmp_path: Path) -> None:
    answers = drawn(tmp_path)
    (tmp_path / "pictures/00002/samples/00000.png").write_bytes(b"?")
    found = scored(answers, lambda picture, question: "yes")
    assert (found.counts.answered, found.counts.scored) == (3, 2)


def test_questions_without_a_reply_leave_their_prompt_without_a_verdict(tmp_path: Path) -> None:
    answers = drawn(tmp_path)
    found = scored(
        answers, lambda picture, question: None if (picture, question) == ((1, 3), "vrd2 1?") else "yes"
    )
    assert [line["id"] for line in found.verdicts] == ["vrd1", "7"]
    assert found.scores["overall"] is None
    assert found.details["judge"]["failures"] == {"no answer in time": 1}
    again = Oracle(lambda picture, question: "yes")
    assert DPG("fixed", again).score(answers).scores["overall"] == 1
    assert again.asked == 1


def test_answers_that_are_neither_yes_nor_no_are_counted(tmp_path: Path) -> None:
    found = scored(drawn(tmp_path), lambda picture, question: "Yes.", "official")
    assert found.scores["overall"] == 0
    assert found.details["answers"] == {"other": 24}
    assert (found.counts.parsed, found.counts.scored) == (0, 2)
    assert any("24 answers were neither yes nor no, and count as no" in note for note in found.notes)
    assert scored(drawn(tmp_path), None).scores["overall"] == 1  # by the replies that are kept


def test_tiles_are_what_the_official_script_cuts_up(tmp_path: Path) -> None:
    answers = drawn(tmp_path)
    scored(answers, lambda picture, question: "yes")
    assert sorted(path.name for path in (tmp_path / "tiles").iterdir()) == ["7.png", "vrd1.png", "vrd2.png"]
    path = tmp_path / "tiles" / "vrd2.png"
    with Image.open(path) as tiled:
        assert (tiled.size, tiled.mode) == ((16, 16), "RGB")
        corners = [tiled.crop((x, y, x + 8, y + 8)) for y in (0, 8) for x in (0, 8)]
    for number, corner in enumerate(corners):
        assert corner.getcolors() == [(64, (1, number, 9))]
    before = path.stat().st_mtime_ns
    scored(answers, None)
    assert path.stat().st_mtime_ns == before
    path.write_bytes(b"cut off")
    scored(answers, None)
    with Image.open(path) as tiled:
        assert tiled.size == (16, 16)


def test_other_numbers_of_pictures(tmp_path: Path) -> None:
    found = scored(drawn(tmp_path, each=1), lambda picture, question: "yes")
    assert found.scores["overall"] == 1
    assert "1 pictures to a prompt, not four" in found.caveat
    with Image.open(tmp_path / "tiles" / "7.png") as tiled:
        assert tiled.size == (8, 8)


def test_what_stands_beside_the_score(tmp_path: Path) -> None:
    def yes(picture: tuple[int, int], question: str) -> str:
        return "yes"

    assert scored(drawn(tmp_path), yes, "official").caveat == "judged by oracle, not by mPLUG"
    found = scored(drawn(tmp_path, published=False), yes)
    assert found.caveat.startswith("not the published prompts (DPG-Bench's prompts); judged by oracle")
    assert "by mended rules" in found.caveat
    rows = {row[0]: row[4:7] for row in found.tables[0].rows}
    assert rows["overall"] == ("79.68", "82.63", "84.19")
    assert rows["relation"] == ("85.46", "88.98", "89.32")


# -- judges ---------------------------------------------------------------------------------------


def test_how_each_kind_of_judge_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def heard(picture: tuple[int, int], question: str) -> str:
        asked.append(question)
        return "yes"

    scored(drawn(tmp_path / "chat"), heard)
    assert asked[0] == "vrd1 0?"
    assert INSTRUCTED.format("vrd1 0?").split("\n") == [
        "vrd1 0?",
        "Answer with one word in lower case and nothing else: yes or no.",
    ]

    class Talker:
        def chat_batch(self, prompts: Sequence[Any], **options: Any) -> list[str]:
            asked.extend(turns[0]["content"] for turns in prompts)
            return ["yes"] * len(prompts)

    monkeypatch.setattr(ModelJudge, "identity", {})
    talker = ModelJudge(Talker(), "the embedded model")  # type: ignore[arg-type]
    asked.clear()
    found = DPG("fixed", talker).score(drawn(tmp_path / "janus"))
    assert asked[0] == SHORT.format("vrd1 0?") == "vrd1 0? Please answer yes or no."
    assert found.caveat.startswith(
        "judged by the embedded model, not by mPLUG, in the embedded world; not comp"
    )


def test_mplug_is_asked_as_the_official_script_asks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match="mPLUG needs ModelScope, which is not here: install requirements-for-dpg"
    ):
        DPG(judge=MPlug()).prepare()
    asked: list[Any] = []

    def pipeline(task: str, model: str, device: str) -> Callable[[Line], Line]:
        assert (task, model) == ("vqa", "damo/mplug_visual-question-answering_coco_large_en")

        def answer(given: Line) -> Line:
            asked.append((given["question"], given["image"].getpixel((0, 0))))
            return {"text": "yes"}

        return answer

    modules: dict[str, dict[str, Any]] = {
        "modelscope": {},
        "modelscope.pipelines": {"pipeline": pipeline},
        "modelscope.utils": {},
        "modelscope.utils.constant": {"Tasks": types.SimpleNamespace(visual_question_answering="vqa")},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    benchmark = DPG("official", MPlug())
    benchmark.prepare()
    found = benchmark.score(drawn(tmp_path))
    assert asked[:3] == [("vrd1 0?", (0, 0, 9)), ("vrd1 1?", (0, 0, 9)), ("vrd1 0?", (0, 1, 9))]
    assert (found.caveat, found.scores["overall"]) == ("", 1)


def test_modes_and_judges_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="mode must be one of official, fixed, not 'lenient'"):
        DPG("lenient")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="asleep"):
        DPG(judge=Oracle(lambda picture, question: "yes")).prepare()
