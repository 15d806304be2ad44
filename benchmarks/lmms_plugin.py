"""The plug-in for lmms-eval (`janus.eval.lmms`), run by lmms-eval itself in an environment of its own.

    python benchmarks/lmms_plugin.py [--work DIR] [--scenes 60] [--model MODEL] [--fresh] [--python PYTHON]

The environment has lmms-eval and this package installed as users install them; it borrows the packages of
the interpreter that runs this script (with `--fresh` it does not, and is 7 GB).  `--python` names an
interpreter that has both already.

There is no data to download: questions about pictures of the embedded world become tasks of lmms-eval.
janus_pope is its own POPE task with other pictures; janus_mixed has questions with two pictures, one or none;
janus_sampled asks each of these three times and samples; janus_options chooses by likelihood.  They run with
batches of 1 and of 8, in the form of messages and of contexts, and by two processes.  All answers must be the
same each time, and the greedy ones those of `Janus.chat_batch`.  Takes nine minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from janus import Janus
from janus.data.wording import questions
from janus.eval.fixtures import FixtureScene, fixture_scenes

ROOT = Path(__file__).parents[1]
PACKAGES = ("lmms-eval==0.7.3", "filelock<4")  # 0.7.3 imports filelock._api, which filelock 4 no longer has
MOST = 16  # tokens of an answer
GREEDY = ("janus_pope", "janus_mixed")

POPE = """
include: {package}/tasks/pope/pope.yaml
task: janus_pope
dataset_path: imagefolder
dataset_kwargs:
  data_dir: {data}/pope
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: ""
"""
MIXED = """
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}/mixed.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function mixed.pictures
doc_to_text: question
doc_to_target: answer
process_results: !function mixed.compare
generation_kwargs:
  max_new_tokens: {most}
  until: ["\\n\\n"]
  temperature: 0.9
  top_p: 0.95
  do_sample: {sampled}
repeats: {repeats}
filter_list:
  - name: all
    filter:
      - function: take_first_k
        k: {repeats}
metric_list:
  - metric: exact
    aggregation: mean
    higher_is_better: true
"""
OPTIONS = """
task: janus_options
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}/mixed.jsonl
test_split: test
output_type: multiple_choice
doc_to_visual: !function mixed.pictures
doc_to_text: question
doc_to_choice: ["yes", "no"]
doc_to_target: "{{{{ ['yes', 'no'].index(answer) }}}}"
metric_list:
  - metric: acc
"""
FUNCTIONS = """
from PIL import Image


def pictures(doc):
    return [Image.open(path) for path in doc["pictures"]]


def compare(doc, results):
    right = [answer == doc["answer"] for answer in results]
    return {"exact": sum(right) / len(right)}
"""


def yes_no(scene: FixtureScene) -> dict[str, str]:
    """A question about a scene that is answered by one of the two words."""
    asked = questions(scene.scene, scene.rng(1), 8, ["yes-no"])
    one = next(one for one in asked if one.answer in ("yes", "no"))
    return {"question": one.question, "answer": one.answer}


def make_tasks(tasks: Path, data: Path, package: str, scenes: int) -> list[dict[str, Any]]:
    """Write tasks and data; returns the documents, those of janus_mixed after those of janus_pope."""
    (data / "pope" / "test").mkdir(parents=True, exist_ok=True)
    tasks.mkdir(parents=True, exist_ok=True)
    pope: list[dict[str, Any]] = []
    mixed: list[dict[str, Any]] = []
    shown = fixture_scenes(scenes)
    for scene in shown:
        file = data / "pope" / "test" / f"{scene.number:04d}.png"
        file.write_bytes(scene.png)
        pope.append({"file_name": file.name, "question_id": scene.number, **yes_no(scene)})
        first = scene.number + 1 - scene.number % 3  # so that two, one or none are shown
        paths = [str(file.with_name(f"{number:04d}.png")) for number in range(first, scene.number + 1)]
        mixed.append({"pictures": paths, **yes_no(scene)})
    _write_lines(data / "pope" / "test" / "metadata.jsonl", pope)
    _write_lines(data / "mixed.jsonl", mixed)
    words: dict[str, Any] = {"data": data, "package": package, "most": MOST}
    (tasks / "pope.yaml").write_text(POPE.format(**words), encoding="utf-8")
    (tasks / "options.yaml").write_text(OPTIONS.format(**words), encoding="utf-8")
    for task, sampled, repeats in (("janus_mixed", "false", 1), ("janus_sampled", "true", 3)):
        text = MIXED.format(task=task, sampled=sampled, repeats=repeats, **words)
        (tasks / f"{task}.yaml").write_text(text, encoding="utf-8")
    (tasks / "mixed.py").write_text(FUNCTIONS, encoding="utf-8")
    asked = [{**line, "pictures": [str(data / "pope" / "test" / line["file_name"])]} for line in pope]
    return asked + mixed


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def make_environment(folder: Path, fresh: bool) -> Path:
    """A virtual environment with lmms-eval and this package; returns its interpreter."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if not fresh:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        borrowed = [path for path in sys.path if path.endswith("site-packages")]
        here = folder / "lib" / version / "site-packages" / "borrowed.pth"
        here.write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    project = folder / "project"  # built from a copy, since building leaves files behind
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(ROOT / "janus", project / "janus", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, project)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES, str(project)], check=True)
    subprocess.run([*pip, "--force-reinstall", "--no-deps", str(project)], check=True)  # as it is now
    return python


class Runner:
    """Starts lmms-eval and reads what it wrote."""

    def __init__(self, python: Path, work: Path, arguments: str) -> None:
        self.python, self.work, self.arguments = python, work, arguments
        self.environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(work / "hf"),
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",  # as torchrun has it, since the number of threads rounds sums otherwise
        }

    def run(self, name: str, tasks: str, batch: int, *more: str, processes: int = 1) -> dict[str, list[Any]]:
        """The answers of each task; prints the scores."""
        out = self.work / "out" / name.replace(" ", "-")
        shutil.rmtree(out, ignore_errors=True)
        start = ["-m", "lmms_eval"]
        if processes > 1:
            start = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", *start]
        command = [str(self.python), *start, "--model", "janus_pro", "--model_args", self.arguments]
        command += ["--tasks", tasks, "--include_path", str(self.work / "tasks"), "--batch_size", str(batch)]
        command += ["--log_samples", "--output_path", str(out), *more]
        began = time.perf_counter()
        log = self.work / f"{out.name}.log"
        with log.open("w", encoding="utf-8") as stream:
            subprocess.run(command, env=self.environment, stdout=stream, stderr=stream, check=False)
        seconds = time.perf_counter() - began
        files = {task: list(out.rglob(f"*_samples_{task}.jsonl")) for task in tasks.split(",")}
        if not all(files.values()):
            sys.exit(f"lmms-eval has not answered; see {log}")
        results = json.loads(next(out.rglob("*_results.json")).read_text(encoding="utf-8"))["results"]
        print(f"{name} ({seconds:.0f} s)")
        for task, scores in results.items():
            told = {key.split(",")[0]: value for key, value in scores.items() if isinstance(value, float)}
            shown = {key: value for key, value in told.items() if "stderr" not in key}
            print("   ", task, ", ".join(f"{key} {value:.4f}" for key, value in shown.items()))
        return {task: _answers(found[0]) for task, found in files.items()}


def _answers(file: Path) -> list[Any]:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [line["filtered_resps"] for line in sorted(lines, key=lambda line: line["doc_id"])]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/lmms"), help="for everything that is written")
    parser.add_argument("--scenes", type=int, default=60, help="pictures, and questions of each task")
    parser.add_argument("--model", help="default: the one that ships with the package")
    parser.add_argument("--fresh", action="store_true", help="borrow no packages")
    parser.add_argument("--python", type=Path, help="an interpreter that has lmms-eval and this package")
    options = parser.parse_args()
    work = options.work.resolve()
    python = options.python or make_environment(work / "environment", options.fresh)
    where = "import importlib.util as u; print(u.find_spec('lmms_eval').submodule_search_locations[0])"
    package = subprocess.run([str(python), "-c", where], check=True, capture_output=True, text=True).stdout
    documents = make_tasks(work / "tasks", work / "data", package.strip(), options.scenes)
    source = f"pretrained={options.model}," if options.model else ""
    runner = Runner(python, work, f"{source}dtype=float32")

    generated = ",".join((*GREEDY, "janus_sampled"))
    first = runner.run("batches of 1", generated, 1)
    others = {
        "batches of 8": runner.run("batches of 8", generated, 8),
        "contexts": runner.run("contexts", generated, 8, "--force_simple"),
        "two processes": runner.run("two processes", generated, 8, processes=2),
    }
    wrong = [f"{name}, {task}" for name, told in others.items() for task in told if told[task] != first[task]]
    one, eight = (runner.run(f"options by {n}", "janus_options", n, "--force_simple") for n in (1, 8))
    if one != eight:
        wrong.append("options by 8")
    model = Janus.from_pretrained(options.model, dtype="float32")
    own = model.chat_batch(
        [line["question"] for line in documents], [line["pictures"] for line in documents], max_tokens=MOST
    )
    if [_only(answer) for task in GREEDY for answer in first[task]] != own:
        wrong.append("Janus.chat_batch")
    repeated = sum(len(set(answers)) > 1 for answers in first["janus_sampled"])
    print(f"sampled three times, {repeated} of {options.scenes} questions have different answers")
    if wrong:
        sys.exit("other answers: " + "; ".join(wrong))
    print("the same answers each time")


def _only(answer: str | list[str]) -> str:
    """Of a document that was answered once."""
    return answer if isinstance(answer, str) else answer[0]


if __name__ == "__main__":
    main()
