"""Answers that VLMEvalKit and lmms-eval wrote, scored like our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from janus.eval.fixtures import fixture_scenes
from janus.eval.folder import ANSWERS, Journal
from janus.eval.mmmu import MMMU
from janus.eval.others import bring_in
from janus.eval.runner import score
from janus.eval.seed import Seed
from janus.eval.tables import write_tsv
from tests.toy import Toy, data, rows


def predicted(count: int = 6) -> list[dict[str, Any]]:
    """As VLMEvalKit's result files: the data's rows without pictures, and the answers; two of them wrong."""
    lines = [row | {"prediction": row["answer"]} for row in rows(fixture_scenes(count))]
    for line in lines:
        del line["image"]
    lines[1]["prediction"], lines[4]["prediction"] = "", 'a\tlong\n"story"'
    return lines


def as_xlsx(path: Path, lines: list[dict[str, Any]]) -> None:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(list(lines[0]))
    for line in lines:
        sheet.append([value or None for value in line.values()])  # an empty cell is none at all
    book.save(path)


@pytest.mark.parametrize("form", ["xlsx", "tsv", "json"])
def test_vlmevalkit(tmp_path: Path, form: str) -> None:
    lines, file = predicted(), tmp_path / f"Janus-Pro-1B_TOY.{form}"
    if form == "xlsx":
        as_xlsx(file, [line | {"index": str(line["index"]), "pair": str(line["pair"])} for line in lines])
    elif form == "tsv":
        write_tsv(file, lines)
    else:
        file.write_text(json.dumps([line | {"index": str(line["index"])} for line in lines]))
    assert bring_in(Toy(), file, tmp_path / "out") == 6
    results, scored = score(Toy(), tmp_path / "out")
    assert results["scores"]["overall"] == pytest.approx(4 / 6)
    assert results["settings"]["model"] == f"answers in Janus-Pro-1B_TOY.{form}, of VLMEvalKit"
    assert [line["answer"] for line in scored.verdicts] == [line["prediction"] for line in lines]
    assert bring_in(Toy(), file, tmp_path / "out") == 6
    assert len(Journal(tmp_path / "out" / ANSWERS).read()) == 6


def test_lmms_eval(tmp_path: Path) -> None:
    """Its files leave out the questions, and `resps` where filters changed nothing; ranks come one by one."""
    told = predicted()
    lines = [
        {"doc_id": i, "target": one["answer"], "filtered_resps": [one["prediction"]], "doc_hash": "0"}
        for i, one in enumerate(told)
    ]
    lines[2] |= {"resps": [[told[2]["answer"]]], "filtered_resps": ["something else"]}
    lines[3] |= {"resps": ["a", "b"], "filtered_resps": ["a"]}
    file = tmp_path / "20260101_000000_samples_toy.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[::2] + lines[1::2]))
    with pytest.raises(ValueError, match=r"holds answers alone; give the data set .* with --data"):
        bring_in(Toy(), file, tmp_path / "out")
    assert bring_in(Toy(), file, tmp_path / "out", data(tmp_path, 8)) == 6
    results, scored = score(Toy(), tmp_path / "out")
    assert (results["expected"], results["answered"], results["complete"]) == (8, 6, False)
    assert [line["score"] for line in scored.verdicts] == [1, 0, 1, 0, 0, 1]
    assert scored.verdicts[3]["answer"] == "a"


def test_answers_stay_with_their_questions_where_rows_are_left_out(tmp_path: Path) -> None:
    """VLMEvalKit's MMMU has the development split, too; lmms-eval's SEED has questions about films."""
    subject = {"category": "Art", "l2-category": "Art & Design", "A": "one", "B": "two"}
    lines = [
        {"index": i, "id": f"{split}_Art_{i}", "split": split, "question": "Which?", "answer": "AB"[i % 2]}
        | subject
        | {"prediction": "AB"[i % 2] if split == "validation" else "C"}
        for i, split in enumerate(["dev", "validation", "dev", "validation", "validation"])
    ]
    (tmp_path / "m.json").write_text(json.dumps(lines))
    assert bring_in(MMMU(), tmp_path / "m.json", tmp_path / "mmmu") == 3
    assert [line["score"] for line in score(MMMU(), tmp_path / "mmmu")[1].verdicts] == [1, 1, 1]
    scene = fixture_scenes(1)[0]
    (tmp_path / "one.png").write_bytes(scene.png)
    choices = {f"choice_{letter}": f"the {letter}" for letter in "abcd"}
    questions = [
        {"question_id": str(i), "question": "Which?", "answer": "ABCD"[i % 4], "data_id": "one.png"}
        | choices
        | {"data_type": kind, "question_type_id": "1" if kind == "image" else "11"}
        for i, kind in enumerate(["video", "image", "video", "image"])
    ]
    (tmp_path / "SEED-Bench.json").write_text(json.dumps({"questions": questions}))
    told = [{"doc_id": i, "filtered_resps": ["ABCD"[i % 4]]} for i in range(4)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    assert bring_in(Seed(), tmp_path / "s.jsonl", tmp_path / "seed", tmp_path / "SEED-Bench.json") == 2
    results, scored = score(Seed(), tmp_path / "seed")
    assert [line["score"] for line in scored.verdicts] == [1, 1]
    assert results["complete"]


def test_what_is_wrong_with_a_file_is_told(tmp_path: Path) -> None:
    for name, content, words in (
        ("a.csv", "", "must be a file of VLMEvalKit or lmms-eval"),
        ("a.json", "[]", "has no rows"),
        ("b.json", '[{"index": "1"}]', "neither VLMEvalKit's column 'prediction' nor lmms-eval's doc_id"),
        (
            "c.json",
            '[{"index": "1", "prediction": "x"}]',
            r"1 bad rows beside 0 good ones:\n  c\.json, row 1",
        ),
        ("a.xlsx", "no zip", r"cannot read .*a\.xlsx"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=words):
            bring_in(Toy(), tmp_path / name, tmp_path / "out")
    (tmp_path / "d.jsonl").write_text('{"doc_id": 8, "filtered_resps": ["x"]}\n')
    with pytest.raises(ValueError, match=r"d\.jsonl, line 1: doc_id 8 is none of the data set's 8 rows"):
        bring_in(Toy(), tmp_path / "d.jsonl", tmp_path / "out", data(tmp_path, 8))
    assert not (tmp_path / "out").exists()
