"""POPE: its scores beside the official script's and two harnesses', and its data."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pyarrow
import pytest
from pyarrow import parquet

from janus.eval import yesno
from janus.eval.benchmark import Line, Mode, Scored
from janus.eval.fixtures import fixture_scenes
from janus.eval.pope import POPE
from janus.eval.pope_scores import SPLITS, figures
from janus.eval.tables import write_tsv
from janus.eval.yesno import Reading
from tests.answered import answered, square
from tests.yesno_cases import fingerprint, pope_runs

GOLDEN = json.loads((Path(__file__).parent / "golden" / "pope.json").read_text())


def scored(lines: Sequence[Line], said: Sequence[str | None], mode: Mode = "official") -> Scored:
    return POPE(mode).score(answered(lines, said))


def samples(run: list[dict[str, str]]) -> list[Line]:
    return [
        {
            "id": str(number),
            "question": "Is there a cat?",
            "answer": one["label"],
            "splits": [one["split"]],
            "pictures": [one["image"]],
        }
        for number, one in enumerate(run)
    ]


# -- scores -------------------------------------------------------------------------------------


def test_the_official_scripts_figures_of_whole_benchmarks() -> None:
    """Where it divides by zero there are none."""
    assert fingerprint(pope_runs()) == GOLDEN["input_runs"]
    without = 0
    for run, golden in zip(pope_runs(), GOLDEN["runs"], strict=True):
        result = scored(samples(run), [one["answer"] for one in run])
        for split, wanted in golden["official"].items():
            found = result.details["splits"][split]
            if wanted is None:
                without += 1
                assert found["f1"] is result.scores[split] is result.scores["overall"] is None
                assert any(f"No F1 of the {split} split" in note for note in result.notes)
                continue
            names = ("accuracy", "precision", "recall", "f1", "yes_rate")
            assert [found[name] for name in names] == pytest.approx(wanted, abs=1e-12)
            assert result.scores[split] == found["f1"]
        if None not in golden["official"].values():
            f1 = [one[3] for one in golden["official"].values()]
            assert result.scores["overall"] == pytest.approx(fmean(f1))
    assert without == 6


def test_vlmevalkits_and_lmms_evals_figures_of_whole_benchmarks() -> None:
    for run, golden in zip(pope_runs(), GOLDEN["runs"], strict=True):
        for split, wanted in golden["vlmevalkit"].items():
            some = [one for one in run if split in (one["split"], "Overall")]
            pairs = [(yesno.label(one["label"]), yesno.vlmevalkit(one["answer"])) for one in some]
            found = figures(pairs)
            names = ("accuracy", "precision", "recall", "f1")
            assert [100 * (found[name] or 0) for name in names] == pytest.approx(wanted, abs=1e-9)
        pairs = [(yesno.label(one["label"]), yesno.lmms_eval_pope(one["answer"])) for one in run]
        found = figures(pairs, unread_missed=False)
        accuracy, precision, recall, f1, of_labels = golden["lmms_eval"]
        wanted = [accuracy, precision, recall, f1]
        assert [found[name] for name in names] == pytest.approx(wanted, abs=1e-12)
        assert of_labels == 0.5  # lmms-eval's yes ratio is that of the right answers, whatever was said


def test_lmms_evals_recall_passes_over_what_it_cannot_read() -> None:
    pairs: list[tuple[Reading, Reading | None]] = [("yes", "yes"), ("yes", None), ("no", "no"), ("no", None)]
    assert figures(pairs)["recall"] == 0.5
    assert figures(pairs, unread_missed=False)["recall"] == 1
    assert figures(pairs)["accuracy"] == figures(pairs)["yes_rate"] * 2 == 0.5  # type: ignore[operator]


def small(*labels: Reading) -> list[Line]:
    """Each question in all splits."""
    rows = [{"split": "random", "image": f"{n}.png", "label": label} for n, label in enumerate(labels)]
    return [line | {"splits": list(SPLITS)} for line in samples(rows)]


def test_the_official_rule_takes_what_it_cannot_read_as_a_yes_and_fixed_as_wrong() -> None:
    lines, said = small("yes", "yes", "no", "no"), ["Yes", "Sure", "No", "Hm"]
    official, fixed = scored(lines, said), scored(lines, said, "fixed")
    assert official.scores["overall"] == pytest.approx(0.8)  # precision 2/3, recall 1
    assert official.counts.parsed == official.counts.scored == 12
    assert "6 answers say neither yes nor no; the official rule takes each as a yes." in official.notes
    assert fixed.scores["overall"] == pytest.approx(2 / 3)  # precision 1, recall 1/2
    assert fixed.scores["accuracy"] == 0.5
    assert (fixed.counts.parsed, fixed.counts.scored) == (6, 12)
    assert "mended rules" in fixed.caveat
    verdicts = {line["answer"]: line for line in fixed.verdicts}
    assert (verdicts["Hm"]["read"], verdicts["Hm"]["reason"]) == (None, "says neither")
    wrong = scored(small("no"), ["yes"]).verdicts[0]
    assert (wrong["score"], wrong["reason"]) == (0, "says yes, right is no")


def test_fixed_does_not_divide_by_zero() -> None:
    result = scored(small("yes", "no"), ["No", "No"], "fixed")
    assert result.scores == {"overall": 0, "random": 0, "popular": 0, "adversarial": 0, "accuracy": 0.5}
    assert scored(small("yes", "no"), ["No", "No"]).scores["overall"] is None


def test_a_question_of_several_splits_counts_in_each() -> None:
    lines = small("yes", "no")
    lines[0]["splits"] = ["popular"]
    result = scored(lines, ["Yes", "Yes"])
    assert result.counts.expected == 4
    assert [line["id"] for line in result.verdicts] == ["0", "1, random", "1, popular", "1, adversarial"]
    assert result.details["splits"]["popular"]["yes_rate"] == 1
    assert result.details["splits"]["popular"]["expected"] == 2


def test_a_missing_answer_leaves_its_splits_without_a_score() -> None:
    lines = small("yes", "no", "yes")
    lines[2]["splits"] = ["random"]
    result = scored(lines, ["Yes", "No", None])
    assert not result.counts.complete
    assert (result.counts.expected, result.counts.answered) == (7, 6)
    assert result.scores == {
        "overall": None, "random": None, "popular": 1, "adversarial": 1, "accuracy": None,
    }  # fmt: skip


def test_a_missing_split_is_named_and_there_is_no_overall() -> None:
    lines = [line | {"splits": ["random", "popular"]} for line in small("yes", "no")]
    result = scored(lines, ["Yes", "No"])
    assert result.counts.complete
    assert result.scores["overall"] is result.scores["adversarial"] is None
    assert result.scores["random"] == 1
    assert result.caveat == "not the published data (some questions); without the adversarial split"


def test_the_random_split_of_2910_questions_is_told() -> None:
    labels: list[Reading] = ["yes", "no"] * 1455
    lines = [line | {"splits": ["random"], "pictures": ["a.png"]} for line in small(*labels)]
    assert any("2,910 questions" in note for note in scored(lines, ["Yes"] * 2910).notes)
    assert not any("2,910 questions" in note for note in scored(lines[:20], ["Yes"] * 20).notes)


def test_intervals_draw_pictures_with_all_their_questions() -> None:
    run = next(pope_runs())
    apart = scored(samples(run), [one["answer"] for one in run])
    low, high = apart.details["overall_interval"]
    assert low < (apart.scores["overall"] or 0) < high
    together = scored([line | {"pictures": [f"{n % 2}.png"]} for n, line in enumerate(samples(run))],
                      [one["answer"] for one in run])  # fmt: skip
    assert together.details["overall_interval"] != (low, high)
    right = scored(samples(run), [one["label"] for one in run])
    assert right.details["overall_interval"] == (1, 1)
    assert right.details["splits"]["popular"]["f1_interval"] == (1, 1)


def test_the_tables_show_splits_other_readings_and_the_report() -> None:
    lines, said = small("yes", "yes", "no", "no"), ["Yes", "Yes.", "No", "**No**"]
    splits, others, beside = scored(lines, said).tables
    assert [row[0] for row in splits.rows] == [*SPLITS, "mean of the three", "all together"]
    assert list(splits.rows[0][1:5]) == ["75.0", "66.7", "100.0", "80.0"]
    assert [[row[1], row[4], row[5]] for row in others.rows] == [
        ["80.0", "75.0", "0"],
        ["100.0", "100.0", "0"],
        ["100.0", "75.0", "3"],  # VLMEvalKit does not read **No**
        ["100.0", "50.0", "6"],  # nor lmms-eval Yes., which it passes over in the recall
    ]
    assert [row for row in beside.rows if row[0] in ("this run", "Janus-Pro-7B")] == [
        ("this run", "80.0"),
        ("Janus-Pro-7B", "87.4"),
    ]


# -- data ---------------------------------------------------------------------------------------


def official(folder: Path, split: str, count: int = 4) -> None:
    (folder / "val2014").mkdir(exist_ok=True)
    lines = []
    for number in range(count):
        image = f"COCO_val2014_{number // 2:012d}.jpg"
        (folder / "val2014" / image).write_bytes(square(number // 2))
        text, label = f"Is there a {split} {number} in the image?", "yes" if number % 2 == 0 else "no"
        lines.append({"question_id": number + 1, "image": image, "text": text, "label": label})
    (folder / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_official_json_lines_beside_their_pictures(tmp_path: Path) -> None:
    for split in SPLITS:
        official(tmp_path, split)
    found = POPE().samples(tmp_path, False, tmp_path / "val2014")
    assert Counter(split for line in found.lines for split in line["splits"]) == dict.fromkeys(SPLITS, 4)
    assert len(found.pictures) == 2
    line = next(line for line in found.lines if line["id"] == "popular/3")
    assert (line["question"], line["answer"]) == ("Is there a popular 2 in the image?", "yes")
    assert found.title == "coco_pope_adversarial.json, coco_pope_popular.json, coco_pope_random.json"
    assert not found.published
    prompt = "Is there a popular 2 in the image?\nAnswer the question using a single word or phrase."
    assert POPE().prompt(line) == prompt
    limited = POPE().limited(found.lines, 1)  # one picture's, in every split
    assert Counter(split for line in limited for split in line["splits"]) == dict.fromkeys(SPLITS, 2)
    assert list(POPE().lacking(found.lines)) == []
    (tmp_path / "coco_pope_random.json").unlink()
    assert list(POPE().lacking(POPE().samples(tmp_path, False).lines)) == ["the random split"]


def test_the_published_files_are_those_of_the_official_repository() -> None:
    assert sorted(name.rpartition(" ")[2] for name in POPE.files.values()) == [
        "POPE.tsv", "coco_pope_adversarial.json", "coco_pope_popular.json", "coco_pope_random.json",
    ]  # fmt: skip


def test_vlmevalkits_rows_of_several_splits(tmp_path: Path) -> None:
    first = {
        "index": 7,
        "image": fixture_scenes(1)[0].base64,
        "question": "Is there a cat in the image? Please answer yes or no.",
        "answer": "Yes",
        "category": "adversarial,popular",
    }
    second = {"index": 8, "image": "7", "question": "Is there a dog?", "answer": "No", "category": "random"}
    write_tsv(tmp_path / "POPE.tsv", [first, second])
    lines = POPE().samples(tmp_path, False).lines
    assert [(line["id"], line["answer"], line["splits"]) for line in lines] == [
        ("7", "yes", ["popular", "adversarial"]),
        ("8", "no", ["random"]),
    ]
    assert POPE().prompt(lines[0]).startswith("Is there a cat in the image?\nAnswer")


def test_lmms_labs_parquet(tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "question_id": "1", "question": "Is there a cat?", "answer": "no", "category": split,
         "image_source": "COCO", "image": {"bytes": square(), "path": None}}
        for n, split in enumerate(SPLITS)
    ]  # fmt: skip
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
    lines = POPE().samples(tmp_path, False).lines
    assert [line["id"] for line in lines] == [f"{split}/1" for split in SPLITS]
    parquet.write_table(
        pyarrow.Table.from_pylist([{k: v for k, v in rows[0].items() if k != "category"}]),
        tmp_path / "popular-00000.parquet",
    )
    (line,) = POPE().samples(tmp_path / "popular-00000.parquet", False).lines
    assert (line["id"], line["splits"]) == ("popular/1", ["popular"])


def test_two_forms_of_the_data_in_one_folder_are_told(tmp_path: Path) -> None:
    official(tmp_path, "random", 2)
    row = {
        "index": 1,
        "image": base64.b64encode(square()).decode(),
        "question": "Is there a random 0 in the image?",
    }
    write_tsv(tmp_path / "POPE.tsv", [row | {"answer": "Yes", "category": "random"}])
    with pytest.raises(ValueError, match="a TSV file and others hold the same questions"):
        POPE().samples(tmp_path, False)


GOOD = {"question_id": 1, "image": "a.png", "text": "Is there a cat in the image?", "label": "yes"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "maybe"}, "line 1: the right answer must be yes or no, not 'maybe'"),
        ({"label": None}, "line 1: the right answer must be yes or no, not None"),
        ({"text": ""}, "line 1: there is no question"),
        ({"question_id": None}, "line 1: there is neither an index nor a question_id"),
        ({"image": "b.png"}, "line 1: there is no picture b.png"),
        ({"image": ""}, "line 1: no picture"),
        ({"category": "rare"}, "line 1: category must be some of random, popular, adversarial, not 'rare'"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, change: Line, words: str) -> None:
    (tmp_path / "a.png").write_bytes(square())
    path = tmp_path / "coco_pope_random.json"
    path.write_text("\n".join(map(json.dumps, (GOOD | change, GOOD | {"question_id": 2, "text": "Is it?"}))))
    with pytest.raises(ValueError, match=words):
        POPE().samples(path, False)


def test_a_file_that_names_no_split(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(square())
    (tmp_path / "lines.json").write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"question_id": 2}))
    with pytest.raises(ValueError, match="neither a column category nor the file's name says"):
        POPE().samples(tmp_path / "lines.json", False)


def test_the_fixture_asks_about_what_is_there_and_what_is_not() -> None:
    lines = POPE().samples(None, True).lines
    assert len(lines) == 24
    for split in SPLITS:
        assert Counter(line["answer"] for line in lines if split in line["splits"]) == {"yes": 6, "no": 6}
    scenes = fixture_scenes()
    for number, line in enumerate(lines):
        name = line["question"].split(" in the image")[0].split(" ", 3)[3]
        assert (name in scenes[number // 4].facts.counts) == (line["answer"] == "yes")
    assert scored(list(lines), [line["answer"] for line in lines]).scores["overall"] == 1
