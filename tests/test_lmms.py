"""The plug-in for lmms-eval, against stand-ins of its classes; and in lmms-eval where that is installed."""

from __future__ import annotations

import abc
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from janus import Janus
from janus.eval import lmms
from janus.eval.lmms_requests import Settings, asked, conversation_of, question_of

ROOT = Path(__file__).parents[1]
INSTALLED = find_spec("lmms_eval") is not None
RED, BLUE = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (24, 20), "blue")
GREEDY = {"max_new_tokens": 6, "until": ["\n\n"], "do_sample": False}
SAMPLED = {"max_new_tokens": 6, "until": [], "do_sample": True, "temperature": 1.0}
DOCUMENTS: list[dict[str, Any]] = [
    {"question": "What is in the picture?", "pictures": [RED]},
    {"question": "图片里有什么", "pictures": []},
    {"question": "a red apple", "pictures": [BLUE, RED]},
    {"question": "What is red?", "pictures": [BLUE]},
    {"question": "a photo", "pictures": [RED]},
]


@dataclass
class Instance:
    """As lmms_eval.api.instance has it, in what the plug-in reads."""

    args: tuple[Any, ...]
    idx: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)


class Base(abc.ABC):
    """As lmms_eval.api.model.lmms."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {"pope": {"test": DOCUMENTS}}
        self.cleaned = 0

    @abc.abstractmethod
    def loglikelihood(self, requests: list[Any]) -> list[Any]: ...

    @abc.abstractmethod
    def generate_until(self, requests: list[Any]) -> list[Any]: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]: ...

    def clean(self) -> None:
        self.cleaned += 1


@dataclass(frozen=True)
class Manifest:
    """As lmms_eval.models.registry_v2.ModelManifest."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class Result:
    """As lmms_eval.api.instance.GenerationResult."""

    text: Any


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    modules: dict[str, dict[str, Any]] = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.api.instance": {"GenerationResult": Result},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }
    for name, parts in modules.items():
        module = ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)


def model(folder: Path | None, name: str = "JanusPro", **arguments: Any) -> Any:
    source = None if folder is None else str(folder)
    return getattr(lmms, name)(pretrained=source, device="cpu", dtype="float32", **arguments)


def messages(document: dict[str, Any]) -> list[dict[str, Any]]:
    pictures = [{"type": "image", "url": picture} for picture in document["pictures"]]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": document["question"]}]}]


def chat(document: int, settings: dict[str, Any] = GREEDY) -> Instance:
    return Instance(("", messages, settings, document, "pope", "test"))


def simple(document: int, settings: Any = GREEDY) -> Instance:
    context = DOCUMENTS[document]["question"]
    return Instance((context, settings, lambda own: own["pictures"], document, "pope", "test"))


def directly(janus: Janus, document: int) -> str:
    one = DOCUMENTS[document]
    return janus.chat(one["question"], one["pictures"], max_tokens=6).partition("\n\n")[0]


# -- how lmms-eval finds it ---------------------------------------------------------------------------


def test_lmms_eval_is_not_imported_with_the_package(tmp_path: Path) -> None:
    (tmp_path / "lmms_eval.py").write_text("raise SystemExit('lmms_eval was imported')")
    code = "import janus, janus.eval.lmms, sys; sys.exit('torch' in sys.modules)"
    where = os.pathsep.join((str(tmp_path), str(ROOT)))
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": where}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_the_manifest_names_one_class_of_each_kind() -> None:
    manifest = lmms.manifest()
    assert manifest.model_id == "janus_pro"
    for path, is_simple in ((manifest.simple_class_path, True), (manifest.chat_class_path, False)):
        module, _, name = path.rpartition(".")
        found = getattr(sys.modules[module], name)
        assert issubclass(found, Base)
        assert found.is_simple is is_simple
        assert not found.__abstractmethods__


def test_what_the_command_line_got_wrong_is_told(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'2\.5'"):
        model(folder, batch_size="2.5")
    with pytest.raises(ValueError, match=r"pro, vlmevalkit.*'prp'"):
        model(folder, profile="prp")
    with pytest.raises(TypeError, match="pretraind"):
        model(folder, pretraind="x")
    with pytest.raises(ValueError, match="nowhere"):
        model(folder / "nowhere")


# -- how answers are to be written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "temperature", "top_p"),
    [
        ({}, 0, 1),
        ({"temperature": 0.2}, 0.2, 1),  # as lmms-eval's own models take it
        ({"do_sample": False, "temperature": 0.9, "top_p": 0.5}, 0, 1),
        ({"do_sample": True}, 1, 1),
        ({"do_sample": True, "temperature": 0.5, "top_p": 0.9}, 0.5, 0.9),
        ({"do_sample": True, "temperature": 0}, 0, 1),
        ({"do_sample": True, "top_p": 0}, 0, 1),  # of all tokens the likeliest is left
        ({"do_sample": True, "top_k": 1}, 0, 1),
        ({"do_sample": None, "temperature": None, "top_p": None, "num_beams": None}, 0, 1),
        ({"image_aspect_ratio": "original", "num_beams": 1, "repetition_penalty": 1.0}, 0, 1),
        ({"top_k": 20}, 0, 1),  # of no effect where nothing is drawn
    ],
)
def test_greedy_unless_the_task_samples(task: dict[str, Any], temperature: float, top_p: float) -> None:
    settings = Settings.of(task)
    assert (settings.temperature, settings.top_p, settings.max_tokens) == (temperature, top_p, 1024)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"num_beams": 3}, "num_beams=3.*--gen_kwargs num_beams=1"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2"),
        ({"top_k": 20, "do_sample": True}, "top_k=20"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"do_sample": True, "top_p": 1.5}, "top_p .*1.5"),
        ({"temperature": -1.0}, "temperature .*-1"),
    ],
)
def test_settings_that_cannot_be_had_are_refused(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.of(task)


@given(st.text("ab\n"), st.lists(st.text("ab\n", max_size=3)))
def test_an_answer_ends_before_the_first_end(answer: str, until: list[str]) -> None:
    cut = Settings.of({"until": until}).cut(answer)
    assert answer.startswith(cut)
    assert not any(word and word in cut for word in until)
    assert cut == answer or any(word and answer[len(cut) :].startswith(word) for word in until)


def test_one_end_may_be_given_by_itself() -> None:
    assert Settings.of({"until": "\n"}).cut("yes\nno") == "yes"


# -- what is asked ------------------------------------------------------------------------------------


def test_pictures_stand_where_a_chat_task_has_them() -> None:
    told: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "url": RED}, {"type": "text", "text": "A or"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
        {"role": "user", "content": [{"type": "text", "text": "B?"}, {"type": "image", "url": BLUE}]},
    ]
    conversation = conversation_of(told)
    assert [turn["role"] for turn in conversation] == ["system", "user", "assistant", "user"]
    assert [list(turn["images"]) for turn in conversation] == [[], [RED], [], [BLUE]]
    assert [part["type"] for part in conversation[3]["content"]] == ["text", "image"]


def test_pictures_stand_where_a_context_says_so_for_each_of_them() -> None:
    (turn,) = question_of("<image> or <image>?", [RED, BLUE])
    assert [part["type"] for part in turn["content"]] == ["text", "image", "text", "image", "text"]
    assert turn["images"] == [RED, BLUE]


@pytest.mark.parametrize(
    ("context", "visuals"), [("is <image> red?", [RED, BLUE]), ("is it red?", [RED]), ("an <image> tag", [])]
)
def test_pictures_stand_first_where_a_context_does_not(context: str, visuals: list[Any]) -> None:
    assert question_of(context, visuals) == [{"role": "user", "content": context, "images": visuals}]


def test_pictures_may_be_files(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    RED.save(path)
    files: list[Any] = [str(path), {"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": path}]
    assert question_of("?", files)[0]["images"] == [str(path), path.read_bytes(), path]


@pytest.mark.parametrize(
    ("visual", "kind"), [("a.mp4", "video"), ("a.wav", "audio"), ({"array": [0.0]}, "dict"), ([RED], "list")]
)
def test_what_is_no_picture_is_refused_with_its_kind(folder: Path, visual: Any, kind: str) -> None:
    request = Instance(("?", GREEDY, lambda document: [visual], 3, "clips", "test"))
    ours = model(folder, "JanusProSimple")
    ours.task_dict = {"clips": {"test": DOCUMENTS}}
    with pytest.raises(NotImplementedError, match=f"task clips, document 3: Janus looks at .*'{kind}'"):
        ours.generate_until([request])


def test_chat_tasks_with_videos_are_refused(folder: Path) -> None:
    def video(document: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}]

    with pytest.raises(NotImplementedError, match=r"pictures only.*'video'"):
        model(folder).generate_until([Instance(("", video, GREEDY, 0, "pope", "test"))])


# -- answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, "2", 8, "auto"])
def test_answers_are_those_of_chat_in_the_order_of_the_requests(
    folder: Path, janus: Janus, batch_size: int | str
) -> None:
    short = {**GREEDY, "max_new_tokens": 2}
    order = [3, 0, 4, 1, 2]
    requests = [chat(number, short if number == 4 else GREEDY) for number in order]
    answers = model(folder, batch_size=batch_size).generate_until(requests)
    assert answers[:2] + answers[3:] == [directly(janus, number) for number in (3, 0, 1, 2)]
    one = DOCUMENTS[4]
    assert answers[2] == janus.chat(one["question"], one["pictures"], max_tokens=2)


def test_answers_end_where_the_task_says(folder: Path, janus: Janus) -> None:
    whole = directly(janus, 0)
    end = whole[len(whole) // 2]
    (answer,) = model(folder).generate_until([chat(0, {**GREEDY, "until": [end]})])
    assert answer == whole.partition(end)[0] != whole


def test_simple_tasks_are_answered_as_chat_tasks_are(folder: Path) -> None:
    contexts = model(folder, "JanusProSimple", batch_size=2).generate_until([*map(simple, range(5))])
    assert contexts == model(folder, batch_size=3).generate_until([*map(chat, range(5))])


def test_a_sampled_answer_depends_on_the_seed_alone(folder: Path) -> None:
    torch.manual_seed(1234)  # as lmms-eval does
    requests = [chat(number, SAMPLED) for number in (0, 0, 0, 2, 3)]
    answers = model(folder, batch_size=8).generate_until(requests)
    assert len(set(answers[:3])) > 1  # repeated requests are samples of their own
    assert model(folder, batch_size=2).generate_until(requests) == answers
    assert model(folder).generate_until(requests[3:]) == answers[3:]
    torch.manual_seed(1)
    assert model(folder, batch_size=8).generate_until(requests) != answers


def test_what_fills_up_a_rank_is_not_asked(folder: Path) -> None:
    filling = Instance(chat(0).args, metadata={"__padding_only__": True})
    assert [*asked([chat(0), filling, chat(1)], False, 0)] == [0, 2]
    assert model(folder).generate_until([filling]) == [""]


def test_an_answer_that_cannot_be_made_is_empty_and_told(
    folder: Path, janus: Janus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    ours = model(folder, batch_size=8)
    ours.task_dict = {"pope": {"test": [*DOCUMENTS, {"question": "What?", "pictures": [str(bad)]}]}}
    answers = ours.generate_until([chat(0), chat(5), chat(3)])
    assert answers == [directly(janus, 0), "", directly(janus, 3)]
    told = capsys.readouterr().err
    assert "task pope, document 5: an empty answer, because" in told
    assert "bad.png" in told
    with pytest.raises(ValueError, match=r"bad\.png"):  # nothing at all could be answered
        ours.generate_until([chat(5)])


def test_the_profile_is_what_surrounds_the_words(folder: Path, janus: Janus) -> None:
    changed = model(folder, profile="vlmevalkit").janus
    assert (changed.config.prompt.user, janus.config.prompt.user) == ("User", "<|User|>")


def test_weights_go_when_all_is_answered(folder: Path) -> None:
    ours = model(folder)
    answers = ours.generate_until([chat(0)])
    ours.clean()
    assert "janus" not in vars(ours)
    assert ours.cleaned == 1
    assert ours.generate_until([chat(0)]) == answers


def test_several_rounds_are_refused(folder: Path) -> None:
    with pytest.raises(NotImplementedError, match="one round"):
        model(folder).generate_until_multi_round([chat(0)])


# -- likelihood ------------------------------------------------------------------------------------------


def scored(ours: Any, options: Sequence[tuple[int, Any]]) -> list[tuple[float, bool]]:
    return [result.text for result in ours.loglikelihood([simple(*option) for option in options])]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_options_have_losses_so_that_the_smallest_is_likeliest(
    folder: Path, janus: Janus, batch_size: int
) -> None:
    ours = model(folder, "JanusProSimple", batch_size=batch_size)
    options: list[tuple[int, Any]] = [(2, " a red apple"), (0, " yes"), (0, " no"), (2, lambda own: "apple")]
    for (loss, _), (number, option) in zip(scored(ours, options), options, strict=True):
        one = DOCUMENTS[number]
        text = option("") if callable(option) else option
        expected = janus.log_probs(one["question"], one["pictures"], text=text)
        assert loss == pytest.approx(-expected.mean().item(), rel=1e-5)


def test_one_document_may_be_asked_about_in_several_ways(folder: Path) -> None:
    ours = model(folder, "JanusProSimple", batch_size=4)
    first, second = simple(0, " yes"), Instance(("What is red?", " yes", *simple(0).args[2:]), idx=1)
    together = [result.text for result in ours.loglikelihood([first, second])]
    assert together == [ours.loglikelihood([one])[0].text for one in (first, second)]
    assert together[0] != together[1]


def test_the_greedy_answer_is_known() -> None:
    ours = model(None, "JanusProSimple", batch_size=2)
    answers = ours.generate_until([*map(simple, range(4))])
    assert all(answers)
    both = [(number, text) for number in range(4) for text in (f" {answers[number]}", " something else")]
    told = scored(ours, both)
    assert [greedy for _, greedy in told] == [True, False] * 4
    assert all(own[0] < other[0] for own, other in zip(told[::2], told[1::2], strict=True))


def test_chat_tasks_and_options_by_themselves_have_no_likelihood(folder: Path) -> None:
    with pytest.raises(NotImplementedError, match="--force_simple"):
        model(folder).loglikelihood([])
    with pytest.raises(NotImplementedError, match="by itself"):
        model(folder, "JanusProSimple").loglikelihood([Instance(("", "yes"))])


# -- the real one ------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not INSTALLED, reason="lmms-eval is not installed; benchmarks/lmms_plugin.py gives it an environment"
)
@pytest.mark.timeout(1200)
def test_lmms_eval_itself_gets_the_same_answers_each_time(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks" / "lmms_plugin.py")
    options = ["--python", sys.executable, "--work", str(tmp_path), "--scenes", "6"]
    run = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "janus_pope pope_accuracy" in run.stdout
