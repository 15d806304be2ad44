"""Benchmarks of questions: their data, what a model is asked, what cannot be answered, and whole runs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from janus.eval.answering import Answerer
from janus.eval.asking import Request
from janus.eval.benchmark import Item
from janus.eval.fixtures import fixture_scenes
from janus.eval.folder import ANSWERS, Journal
from janus.eval.profiles import LETTER, PROFILES, SHORT, STEP_BY_STEP, Form, profile_of
from janus.eval.runner import PAGE, RESULTS, Asking, answer, score
from janus.tokenizers.chat import understanding_prompt
from tests.toy import Toy, data, rows

if TYPE_CHECKING:
    from janus import Janus


# -- prompts ------------------------------------------------------------------------------------

OPTIONS = {"A": "a cat", "B": "a dog"}


@pytest.mark.parametrize(
    ("profile", "benchmark", "form", "wanted"),
    [
        ("vlmevalkit", "pope", "yes-no", f"Is it?\n{SHORT}"),
        ("vlmevalkit", "mme", "yes-no", f"Is it? Please answer yes or no.\n{SHORT}"),
        ("llava", "mme", "yes-no", f"Is it?\n{SHORT}"),
        ("plain", "mme", "yes-no", "Is it? Please answer yes or no."),
        ("pro", "pope", "yes-no", f"Is it?\n{SHORT}"),
    ],
)
def test_yes_or_no_is_worded_as_its_source_words_it(
    profile: str, benchmark: str, form: Form, wanted: str
) -> None:
    assert profile_of(profile).text(benchmark, form, "Is it? Please answer yes or no.") == wanted


def test_choices_are_worded_as_their_sources_word_them() -> None:
    lettered = "A. a cat\nB. a dog"
    adapter = f"Hint: look\nWhich?\n{lettered}\n\n{LETTER}"
    for name, wanted in (
        ("vlmevalkit", adapter),
        ("pro", adapter),
        ("llava", f"look\nWhich?\n{lettered}\n{LETTER}"),
        ("plain", f"look\nWhich?\n{lettered}"),
    ):
        assert profile_of(name).text("mmbench", "choice", "Which?", OPTIONS, "look") == wanted
    without = profile_of("vlmevalkit").text("mmmu", "choice", "Which?", {}, "")
    assert without == "Which?\nAnswer the question directly."
    assert profile_of("vlmevalkit").text("gqa", "short", "Which?") == f"Which?\n{SHORT}"
    assert profile_of("llava").text("mmvet", "free", "Which?") == "Which?"
    with pytest.raises(ValueError, match="profile must be one of pro, vlmevalkit, llava, plain, not 'own'"):
        profile_of("own")


def told(janus: Janus, profile: str, benchmark: str, pictures: int) -> str:
    """The whole prompt as text, pictures as <image_placeholder>."""
    chosen = PROFILES[profile]  # type: ignore[index]
    asker = Answerer(janus, max_tokens=5, template=chosen.template, system=chosen.systems.get(benchmark))
    scene = fixture_scenes(1)[0]
    text = chosen.text(benchmark, "choice", "Which?", OPTIONS)
    request = Request(Item(0, 0), text, 0, {"id": "1"}, (scene.png,) * pictures)
    conversation, _ = asker._conversation(request)
    config = asker.model.config
    ids = understanding_prompt(conversation, janus.tokenizer, config.prompt, 1)
    names = {token: name for name, token in janus.tokenizer._control.items()}
    return "".join(names.get(token) or janus.tokenizer.decode([token]) for token in ids)


def test_the_adapters_prompt_to_the_letter(janus: Janus) -> None:
    """`vlmeval/vlm/janus.py`: plain roles, no system prompt, all pictures first with nothing between."""
    shown = "<begin_of_image><image_placeholder><end_of_image>"
    body = f"\nWhich?\nA. a cat\nB. a dog\n\n{LETTER}\n\nAssistant:"
    bos = janus.config.prompt.bos_token
    assert told(janus, "vlmevalkit", "mmbench", 2) == f"{bos}User: {shown}{shown}{body}"
    assert told(janus, "vlmevalkit", "mmvet", 1) == f"{bos}{STEP_BY_STEP}\n\nUser: {shown}{body}"
    own = f"{bos}{janus.config.prompt.system_prompt}\n\n<|User|>: {shown}"
    assert told(janus, "pro", "mmvet", 1) == own + body.replace("Assistant", "<|Assistant|>")
    assert told(janus, "pro", "mmbench", 2).count(f"{shown}\n{shown}\n") == 1


# -- data ---------------------------------------------------------------------------------------


def test_samples_name_their_pictures_by_content(tmp_path: Path) -> None:
    samples = Toy().samples(data(tmp_path), False)
    assert samples.title == "toy.tsv"
    assert not samples.published
    assert [line["id"] for line in samples.lines] == [str(i) for i in range(10)]
    scene = fixture_scenes(10)[7]
    assert samples.pictures[samples.lines[7]["pictures"][0]] == scene.png
    toy = Toy()
    toy.files = {"7": "another file"}  # type: ignore[misc]
    assert not toy.samples(tmp_path, False).published
    assert Toy().samples(None, True).title == "the package's fixture"


def test_published_files_are_known_by_their_checksum(tmp_path: Path) -> None:
    import hashlib

    path = data(tmp_path)
    toy = Toy()
    toy.files = {hashlib.md5(path.read_bytes()).hexdigest(): "the toys"}  # type: ignore[misc]
    samples = toy.samples(tmp_path, False)
    assert (samples.title, samples.published) == ("the toys", True)
    toy.lacking = lambda lines: iter(["a split"])  # type: ignore[method-assign]
    assert not toy.samples(tmp_path, False).published


def test_all_bad_rows_are_named_and_counted(tmp_path: Path) -> None:
    from janus.eval.tables import write_tsv

    lines = rows(fixture_scenes(16))
    lines[3]["question"] = ""
    lines[5]["index"] = 4
    lines[6]["image"] = "bm8gcGljdHVyZQ==" * 9
    lines[8]["image"] = ""
    write_tsv(tmp_path / "toy.tsv", lines)
    with pytest.raises(ValueError, match="has 4 bad rows beside 12 good ones") as caught:
        Toy().samples(tmp_path, False)
    assert str(caught.value).splitlines()[1:] == [
        "  toy.tsv, row 4: no question",
        "  toy.tsv, row 6: the id '4' again, which toy.tsv, row 5 has",
        "  toy.tsv, row 7: the image is not base64 (Excess data after padding)",
        "  toy.tsv, row 9: no picture",
    ]
    lines = rows(fixture_scenes(16))
    for line in lines:
        line["question"] = ""
    write_tsv(tmp_path / "toy.tsv", lines)
    with pytest.raises(ValueError, match=r"16 bad rows.*\n(.*\n){10}  and 6 more$"):
        Toy().samples(tmp_path, False)


def test_a_limit_takes_whole_groups(tmp_path: Path) -> None:
    lines = Toy().samples(data(tmp_path), False).lines
    for limit, ids in ((1, "01"), (2, "01"), (3, "0123"), (10, "0123456789"), (99, "0123456789")):
        assert "".join(line["id"] for line in Toy().limited(lines, limit)) == ids
    mixed = [*lines[::2], *lines[1::2]]
    assert [line["id"] for line in Toy().limited(mixed, 2)] == ["0", "2", "1", "3"]


# -- runs ---------------------------------------------------------------------------------------


def test_a_run_from_data_to_results(janus: Janus, tmp_path: Path) -> None:
    toy, out = Toy(profile="plain"), tmp_path / "run"
    samples = toy.samples(data(tmp_path), False)
    asking = Asking("tiny", limit=5, max_tokens=6, batch_size=4)
    assert answer(toy, samples, janus, asking, out) == 6
    assert answer(toy, samples, janus, asking, out) == 0
    raw = Journal(out / ANSWERS).read()
    assert [line["item"] for line in raw] == [f"0000{i}/00000" for i in range(6)]
    scenes = fixture_scenes(10)
    for line, scene in zip(raw, scenes, strict=False):
        assert line["answer"] == janus.chat("What is in the picture?", [scene.png], max_tokens=6)
        assert line["prompt"] == "What is in the picture?"
    results, _ = score(toy, out)
    assert json.loads((out / RESULTS).read_text()) == json.loads(json.dumps(results))
    assert [results[key] for key in ("unit", "expected", "answered", "parsed", "scored")] == [
        "question", 6, 6, 6, 6,
    ]  # fmt: skip
    assert results["complete"]
    assert results["settings"]["profile"] == "plain"
    assert results["settings"]["max_tokens"] == 6
    assert results["settings"]["weights"]
    assert results["caveat"] == "not the published data (toy.tsv)"
    page = (out / PAGE).read_text()
    for name in (line for sample in samples.lines[:6] for line in sample["pictures"]):
        assert (out / "pictures" / name).read_bytes() == samples.pictures[name]
        assert f'src="pictures/{name}"' in page


def test_answers_are_the_same_in_any_batch(janus: Janus, tmp_path: Path) -> None:
    toy, told = Toy(), []
    samples = toy.samples(data(tmp_path), False)
    for size in (1, 3, 16):
        out = tmp_path / str(size)
        answer(toy, samples, janus, Asking("tiny", max_tokens=6, batch_size=size), out)
        told.append(Journal(out / ANSWERS).read())
    assert told[0] == told[1] == told[2]


def test_what_cannot_be_answered_costs_nothing_else(janus: Janus, tmp_path: Path) -> None:
    toy, out = Toy(profile="plain"), tmp_path / "run"
    samples = toy.samples(data(tmp_path), False)
    lines = list(samples.lines)
    lines[1] = lines[1] | {"question": "what " * janus.config.core.max_positions}
    damaged = lines[2]["pictures"][0]
    pictures = dict(samples.pictures) | {damaged: samples.pictures[damaged][:300]}
    samples = dataclasses.replace(samples, lines=tuple(lines), pictures=pictures)
    assert answer(toy, samples, janus, Asking("tiny", max_tokens=4), out) == 10
    results, _ = score(toy, out)
    assert (results["expected"], results["answered"], results["complete"]) == (10, 8, False)
    assert results["scores"]["overall"] is None
    assert [raw["item"] for raw in results["errors"]] == ["00001/00000", "00002/00000"]
    assert "the context holds" in results["errors"][0]["error"]
    assert "not a readable picture" in results["errors"][1]["error"]
    report = (out / "report.md").read_text()
    assert "INCOMPLETE: of 10 questions expected, 8 were answered" in report
    assert "2 could not be answered: 00001/00000: the question takes" in report
    assert answer(toy, samples, janus, Asking("tiny", max_tokens=4), out) == 2  # tried again
    assert len(Journal(out / ANSWERS).read()) == 10


def test_other_prompts_are_another_run(janus: Janus, tmp_path: Path) -> None:
    samples = Toy().samples(data(tmp_path), False)
    asking = Asking("tiny", limit=2, max_tokens=2)
    answer(Toy(), samples, janus, asking, tmp_path / "run")
    with pytest.raises(ValueError, match=r"differs in settings\.profile \('pro', now 'llava'\)"):
        answer(Toy(profile="llava"), samples, janus, asking, tmp_path / "run")


_RANKS = """
import sys
from pathlib import Path
from janus import Janus
from janus.eval.runner import Asking
from janus.eval.workers import Workers
from tests.toy import Toy
model, data, out = sys.argv[1:]
toy = Toy()
with Workers.here() as workers:
    janus = Janus.from_pretrained(model, device="cpu", dtype="float32")
    samples = toy.samples(Path(data), False) if workers.first else None
    made = workers.answer(toy, samples, janus, Asking("tiny", max_tokens=4, batch_size=2), out)
    print(f"rank {workers.rank} knows of {made}")
"""


def test_several_processes_give_the_same_file(folder: Path, janus: Janus, tmp_path: Path) -> None:
    """Under torchrun, and going on from what one process had done."""
    path, script = data(tmp_path), tmp_path / "ranks.py"
    script.write_text(_RANKS)
    alone, together = tmp_path / "alone", tmp_path / "together"
    asking = Asking("tiny", max_tokens=4, batch_size=2)
    answer(Toy(), Toy().samples(path, False), janus, asking, alone)

    def stop(done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(Toy(), Toy().samples(path, False), janus, asking, together, stop)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    paths = [str(folder), str(path), str(together)]
    root = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([*command, str(script), *paths], capture_output=True, text=True, env=root)
    assert done.returncode == 0, done.stderr
    assert "rank 0 knows of 8" in done.stdout
    assert "rank 1 knows of 8" in done.stdout
    assert (together / ANSWERS).read_bytes() == (alone / ANSWERS).read_bytes()
    assert not list(together.glob("answers-*"))
