"""Running a benchmark: answers that survive anything, and scores that can be made again."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from janus.cli import main
from janus.eval.asking import Made, Request
from janus.eval.benchmark import Benchmark, Item, Line, Progress, Samples
from janus.eval.detect import load_detector
from janus.eval.folder import ANSWERS, Journal, Run, claimed
from janus.eval.geneval import GenEval
from janus.eval.intervals import bootstrap, wilson
from janus.eval.prompts import TASKS
from janus.eval.runner import REPORT, RESULTS, VERDICTS, Asking, answer, score
from tests.stand_ins import LINES, PLAN, Numbers, Truth, numbers

if TYPE_CHECKING:
    from janus import Janus


def truth(wrong: tuple[str, ...] = ()) -> GenEval:
    return GenEval(Truth(LINES, wrong), caveat="judged by the truth")


def files(folder: Path) -> dict[str, bytes]:
    """All that a run leaves, without the time it took."""
    kept = (path for path in folder.rglob("*") if path.is_file() and path.name not in ("times.jsonl", "lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


# -- answers ------------------------------------------------------------------------------------


def _killed(folder: Path, asked: Path, moment: int) -> None:
    """Run the stand-in in a process of its own, which is killed when it writes to the disk that often."""
    code = f"""
import os, signal
from collections.abc import Sequence
from pathlib import Path
from tests.stand_ins import Numbers, numbers
class Logged(Numbers):
    def ask(self, requests, on_progress=None):
        with Path({str(asked)!r}).open("a") as log:
            log.writelines(f"{{request.item.key}}\\n" for request in requests)
        return super().ask(requests, on_progress)
moments, sync = iter(range(1, 1000)), os.fsync
def fsync(file):
    if next(moments) == {moment}:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(file)
os.fsync = fsync
numbers(Path({str(folder)!r}), Logged())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_runs_lose_and_repeat_nothing(tmp_path: Path) -> None:
    folder, quiet, asked = tmp_path / "killed", tmp_path / "undisturbed", tmp_path / "asked"
    stored = [0]
    for moment in (1, 3, 10, 40, 45):
        before = set(Run.open(folder).answers().raw) if stored[-1] else set()
        asked.write_text("")
        _killed(folder, asked, moment)
        assert not before & set(asked.read_text().split())
        stored.append(len(Run.open(folder).answers().raw) if (folder / "run.json").exists() else 0)
    assert stored == sorted(stored)
    assert 10 < stored[-1] < 48
    with (folder / ANSWERS).open("ab") as file:  # as a process leaves it that dies while it writes
        file.write(b'{"item": "00011/000')
    there = set(Run.open(folder).answers().raw)
    last = Numbers()
    assert numbers(folder, last) == 48 - len(there)
    assert not there & set(last.asked)
    numbers(quiet, Numbers())
    for run in (folder, quiet):
        score(truth(wrong=("00003/00001",)), run)
    assert files(folder) == files(quiet)
    assert numbers(folder, Numbers()) == 0


def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    folder, quiet = tmp_path / "killed", tmp_path / "undisturbed"
    code = f"""
import time
from pathlib import Path
from tests.stand_ins import Numbers, numbers
class Slow(Numbers):
    def ask(self, requests, on_progress=None):
        time.sleep(0.02)
        return super().ask(requests, on_progress)
print("ready", flush=True)
numbers(Path({str(folder)!r}), Slow())
"""
    rng, kills = random.Random(7), 0
    while kills < 10:
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.random() * 0.12)
            process.kill()
        if process.returncode == 0:  # it was done before: from the beginning once more
            shutil.rmtree(folder)
        kills += process.returncode == -signal.SIGKILL
    numbers(folder, Numbers())
    numbers(quiet, Numbers())
    for run in (folder, quiet):
        score(truth(), run)
    assert files(folder) == files(quiet)


def test_a_lost_picture_is_drawn_again(tmp_path: Path) -> None:
    numbers(tmp_path, Numbers())
    (tmp_path / "pictures" / "00002" / "00003.png").unlink()
    results, _ = score(truth(), tmp_path)
    assert (results["answered"], results["parsed"], results["complete"]) == (48, 47, False)
    asker = Numbers()
    assert numbers(tmp_path, asker) == 1
    assert asker.asked == ["00002/00003"]
    assert score(truth(), tmp_path)[0]["complete"]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    code = f"""
from tests.stand_ins import Numbers, numbers
from collections.abc import Sequence
from pathlib import Path
numbers(Path({str(tmp_path)!r}), Numbers())
"""
    with claimed(tmp_path):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"another process is at work in {tmp_path}" in done.stderr
    assert numbers(tmp_path, Numbers()) == 48


def test_a_run_goes_on_only_as_it_was(tmp_path: Path) -> None:
    numbers(tmp_path, Numbers())
    settings = {"model": "numbers", "each": 4, "seed": 1}
    with pytest.raises(ValueError, match=r"differs in settings\.seed \(0, now 1\).*--out"):
        numbers(tmp_path, Numbers(), PLAN | {"settings": settings})
    with pytest.raises(ValueError, match="another run; it differs in samples"), claimed(tmp_path):
        Run.begin(tmp_path, PLAN, LINES[:-1])
    assert numbers(tmp_path, Numbers(), PLAN | {"versions": {"janus": "2"}}) == 0


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"something else in it \(thesis\.txt\)"):
        numbers(tmp_path, Numbers())
    with pytest.raises(ValueError, match="holds no run"):
        score(truth(), tmp_path)


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "lines.jsonl")
    journal.add([{"a": 1}, {"b": "ü\u2028"}])
    assert journal.read() == [{"a": 1}, {"b": "ü\u2028"}]
    journal.path.write_bytes(b'{"a": 1}\n[2]\n{"c": 3}\n')
    with pytest.raises(ValueError, match=r"lines\.jsonl: line 2 is damaged"):
        journal.read()
    numbers(tmp_path / "run", Numbers())
    Journal(tmp_path / "run" / ANSWERS).add([{"item": "00099/00000"}])
    with pytest.raises(ValueError, match="answers '00099/00000', which nobody asked"):
        score(truth(), tmp_path / "run")


def test_seeds_belong_to_items() -> None:
    seeds = [Item(sample, number).seed(7) for sample in range(553) for number in range(4)]
    assert len(set(seeds)) == len(seeds)
    assert max(seeds) < 2**32
    assert Item(3, 1).seed(7) == Item(3, 1).seed(7) != Item(3, 1).seed(8)


# -- scores -------------------------------------------------------------------------------------


def test_results_have_their_schema(tmp_path: Path) -> None:
    numbers(tmp_path, Numbers())
    score(truth(wrong=("00000/00000", "00000/00002")), tmp_path)
    results = json.loads((tmp_path / RESULTS).read_text())
    assert results["benchmark"] == "geneval"
    assert results["mode"] == "official"
    assert results["complete"] is True
    assert [results[key] for key in ("expected", "answered", "parsed", "scored")] == [48] * 4
    assert list(results["scores"]) == ["overall", *TASKS]
    assert results["scores"]["single_object"] == 6 / 8
    assert results["scores"]["overall"] == pytest.approx((5 + 6 / 8) / 6)
    assert results["caveat"] == "judged by the truth; not all the official prompts"
    assert results["detector"] == {"title": "oracle", "figures": {"precision": 1.0}}
    assert results["samples"] == PLAN["samples"]
    assert results["settings"] == PLAN["settings"]
    assert set(results["versions"]) == {"janus", "scored by janus"}
    low, high = results["tasks"]["single_object"].pop("interval")
    assert low < 6 / 8 < high
    counts = {"prompts": 2, "expected": 8, "scored": 8, "correct": 6}
    assert results["tasks"]["single_object"] == counts
    low, high = results["overall_interval"]
    assert low < results["scores"]["overall"] < high
    verdicts = [json.loads(line) for line in (tmp_path / VERDICTS).read_text().splitlines()]
    assert [line["item"] for line in verdicts if not line["correct"]] == ["00000/00000", "00000/00002"]
    keys = {"item", "id", "tags", "cluster", "pictures", "prompt", "score", "reason"}
    official = {"filename", "tag", "prompt", "correct", "reason", "metadata", "details"}
    assert all(line.keys() == keys | official for line in verdicts)
    report = (tmp_path / REPORT).read_text()
    for words in (
        "**judged by the truth;",
        "What is known of the oracle: precision 1.0.",
        "| overall | 0.958 |",
        "0.80 |",
    ):
        assert words in report
    assert f"[00000/00000](pictures/00000/00000.png) | {LINES[0]['prompt']} |  | 0 |" in report


def test_scoring_again_changes_nothing_and_looks_at_nothing(tmp_path: Path) -> None:
    numbers(tmp_path, Numbers())
    benchmark = truth(wrong=("00000/00000",))
    first, _ = score(benchmark, tmp_path)
    written = files(tmp_path)
    again = Truth(LINES)
    assert score(GenEval(again, caveat="judged by the truth"), tmp_path)[0] == first
    assert again.looked == 0
    assert files(tmp_path) == written
    other = Truth(LINES)
    other.figures = {"precision": 0.5}  # another detector of the same title must look for itself
    assert score(GenEval(other, "fixed"), tmp_path)[0]["scores"]["overall"] == 1
    assert other.looked == 48


def test_an_incomplete_run_says_so(tmp_path: Path) -> None:
    class Ending(Numbers):
        def ask(self, requests: Sequence[Request], on_progress: Progress | None = None) -> list[Made]:
            if len(self.asked) == 15:
                raise KeyboardInterrupt
            return super().ask(requests)

    with pytest.raises(KeyboardInterrupt):
        numbers(tmp_path, Ending())
    results, scored = score(truth(), tmp_path)
    assert (results["expected"], results["answered"], results["scored"]) == (48, 15, 15)
    assert results["complete"] is False
    assert results["scores"]["overall"] is results["overall_interval"] is None
    assert results["scores"]["single_object"] == 1  # all eight were there
    assert results["scores"]["two_object"] is results["scores"]["counting"] is None
    assert results["tasks"]["two_object"]["scored"] == 7
    assert results["tasks"]["two_object"]["interval"] is None
    report = (tmp_path / REPORT).read_text()
    assert "INCOMPLETE: of 48 pictures expected, 15 were answered" in report
    assert "| overall | - | - |" in report
    assert len(scored.verdicts) == 15


def test_nothing_answered_is_an_error(tmp_path: Path) -> None:
    with claimed(tmp_path):
        Run.begin(tmp_path, PLAN, LINES)
    with pytest.raises(ValueError, match="no answers yet"):
        score(truth(), tmp_path)


def test_intervals() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    rng = [0.0, 1.0] * 50
    low, high = bootstrap([rng, rng])
    spread = 1.96 * math.sqrt(0.25 / 100 / 2)  # of the mean of two means of a hundred each
    assert (low, high) == pytest.approx((0.5 - spread, 0.5 + spread), abs=0.01)
    assert bootstrap([rng, rng]) == (low, high)
    assert bootstrap([[1.0], [0.0]]) == (0.5, 0.5)


# -- with a model -------------------------------------------------------------------------------


class Fixture(GenEval):
    """Three prompts."""

    def samples(self, data: Path | None, fixture: bool) -> Samples:
        return Samples("three prompts", tuple(LINES[::5]))


class Blind:
    title = "blind detector"

    def detect(self, pictures: list[Image.Image]) -> list[list[object]]:
        return [[] for _ in pictures]


def drawn(model: Janus, out: Path, **settings: int) -> Benchmark:
    benchmark: Benchmark = Fixture(Blind())  # type: ignore[arg-type]
    answer(benchmark, benchmark.samples(None, True), model, Asking("tiny", **settings), out)
    return benchmark


def test_a_model_draws_the_same_in_any_batch(janus: Janus, tmp_path: Path) -> None:
    for name, batch in (("one", 1), ("many", 12)):
        drawn(janus, tmp_path / name, batch_size=batch)
    one, many = (Journal(tmp_path / name / ANSWERS).read() for name in ("one", "many"))
    for mine, other in zip(one, many, strict=True):
        assert mine | {"sha256": ""} == other | {"sha256": ""}
        alone, beside = (np.asarray(Image.open(tmp_path / n / mine["file"]), int) for n in ("one", "many"))
        assert np.abs(alone - beside).max() <= 2  # the decoder rounds by batch
    assert len({line["sha256"] for line in one}) == 12
    assert (one[-1]["item"], one[-1]["seed"]) == ("00002/00003", Item(2, 3).seed(0))
    again = janus.generate_images(LINES[10]["prompt"], seed=one[-1]["seed"])[0]
    assert Image.open(tmp_path / "one" / one[-1]["file"]).tobytes() == again.tobytes()
    metadata = (tmp_path / "one" / "pictures" / "00002" / "metadata.jsonl").read_text()
    assert json.loads(metadata) == LINES[10]


def test_a_model_that_is_stopped_goes_on_to_the_same_files(janus: Janus, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > 7:
            raise KeyboardInterrupt

    benchmark = drawn(janus, tmp_path / "undisturbed", batch_size=5)
    samples, asking = benchmark.samples(None, True), Asking("tiny", batch_size=5)
    with pytest.raises(KeyboardInterrupt):
        answer(benchmark, samples, janus, asking, tmp_path / "stopped", stop)
    assert answer(benchmark, samples, janus, asking, tmp_path / "stopped") == 7
    assert files(tmp_path / "stopped") == files(tmp_path / "undisturbed")


def test_a_model_run_to_its_results(janus: Janus, tmp_path: Path) -> None:
    benchmark = drawn(janus, tmp_path, each=2, limit=2)
    results, _ = score(benchmark, tmp_path)
    assert results["scores"]["overall"] == 0
    assert results["expected"] == results["scored"] == 4
    assert results["settings"]["guidance"] == janus.config.drawing.guidance
    assert results["settings"]["limit"] == 2
    assert results["caveat"].startswith("not judged by the published detector; not comparable")
    assert "2 of the 3 samples of three prompts" in (tmp_path / REPORT).read_text()


def test_other_weights_are_another_run(janus: Janus, tmp_path: Path) -> None:
    drawn(janus, tmp_path, each=1)
    weight = janus.model.gen_head.vision_head.weight.data
    weight += 1e-3
    try:
        with pytest.raises(ValueError, match=r"differs in settings\.weights"):
            drawn(janus, tmp_path, each=1)
    finally:
        weight -= 1e-3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guidance": math.nan}, "guidance must be a number"),
        ({"temperature": -1.0}, "temperature"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"each": 0}, "each must be at least 1"),
        ({"batch_size": 10**10}, "choose a smaller --batch-size"),
    ],
)
def test_what_does_not_fit_is_told_before_work_begins(
    janus: Janus, tmp_path: Path, settings: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        drawn(janus, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_is_too_long_is_told_before_work_begins(janus: Janus, tmp_path: Path) -> None:
    class Long(Fixture):
        def prompt(self, sample: Line) -> str:
            return "cat " * 1000 if sample == LINES[5] else "cat"

    benchmark = Long(Blind())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the prompt of sample 1 and its picture take \d+ tokens"):
        answer(benchmark, benchmark.samples(None, True), janus, Asking("tiny"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["eval"], ["eval", "geneval"], ["eval", "score"]])
def test_the_command_explains_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert f"  janus {' '.join(words)} " in shown


def test_the_command_draws_and_scores(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("janus.eval.geneval.load_detector", lambda name: Blind())
    out, model = str(tmp_path / "out"), ["--model", str(folder), "--device", "cpu"]
    draw = ["eval", "geneval", "--fixture", "--limit", "3", "-n", "1", "--out", out, *model]
    assert main([*draw, "--answers-only"]) == 0
    assert not (tmp_path / "out" / RESULTS).exists()
    assert main(draw) == 0
    assert "0 pictures drawn" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert results["samples"]["title"] == "the package's fixture"
    assert (results["samples"]["used"], results["samples"]["count"], results["expected"]) == (3, 12, 3)
    assert main(["eval", "score", out, "--mode", "fixed"]) == 0
    shown = capsys.readouterr().out
    assert "judged in the embedded world; not comparable with published numbers" in shown
    assert json.loads((tmp_path / "out" / RESULTS).read_text())["mode"] == "fixed"


def test_mistakes_are_told_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("janus.eval.geneval.load_detector", lambda name: Blind())
    start = ["eval", "geneval", "--model", "no-such-model", "--out", str(tmp_path / "file" / "out")]
    for more, words in (
        (["--data", str(bad)], "line 1: tag must be one of"),
        (["--data", str(tmp_path / "none.jsonl")], "there is no"),
        (["--data", str(bad), "--fixture"], "either --data or --fixture"),
        (["--limit", "0"], "limit must be at least 1"),
        ([], "cannot write into the folder"),
    ):
        assert main([*start, *more]) == 2
        assert words in capsys.readouterr().err
    assert main(["eval", "score", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_missing_detector_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "janus.eval.detect.DETECTORS",
        {"away": ("janus.eval.away", "Away", ""), "bare": ("tests.test_eval", "Bare", "")},
    )
    with pytest.raises(ValueError, match=r"no away detector: there is no janus\.eval\.away"):
        load_detector("away")
    with pytest.raises(ValueError, match=r"weights of the bare detector are missing: .*judge\.safetensors"):
        load_detector("bare")
    with pytest.raises(ValueError, match="unknown detector 'owl'; there are away, bare"):
        load_detector("owl")


class Bare:
    @classmethod
    def from_pretrained(cls) -> Bare:
        raise FileNotFoundError("judge.safetensors")
