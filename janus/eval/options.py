"""What `janus eval` takes: a word for each benchmark with its options, `score`, `compare` and `table`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class About:
    """A benchmark on the command line."""

    kind: str  # what the model gives: "picture" or "answer"
    summary: str
    data: str  # what --data takes
    example: str
    judged: bool = False  # whether a judge can be asked


BENCHMARKS = {
    "geneval": About(
        "picture",
        "Draw what GenEval's prompts ask for, and have a detector judge.",
        "evaluation_metadata.jsonl, or the folder it is in",
        "geneval/prompts",
    ),
    "dpg": About(
        "picture",
        "Draw DPG-Bench's dense prompts, and have questions about the pictures answered.",
        "the folder dpg_bench (dpg_bench.csv and prompts/)",
        "ELLA/dpg_bench",
        judged=True,
    ),
    "mmbench": About(
        "answer",
        "MMBench: multiple choice, each question in all rotations of its options.",
        "MMBench_DEV_EN.tsv, or the hub's parquet files",
        "MMBench_DEV_EN.tsv",
        judged=True,
    ),
    "pope": About(
        "answer",
        "POPE: is this thing in the picture?  Three splits.",
        "coco_pope_*.json, POPE.tsv, or the hub's parquet files",
        "POPE/output/coco --images val2014",
    ),
    "mme": About(
        "answer",
        "MME: two yes-or-no questions to each picture, perception and cognition.",
        "MME.tsv, the release's folders, the evaluation tool's lists, or the hub's parquet files",
        "MME.tsv",
    ),
    "seed": About(
        "answer",
        "SEED-Bench: multiple choice about pictures, nine dimensions.",
        "SEED-Bench.json, SEEDBench_IMG.tsv, or the hub's parquet files",
        "SEEDBench_IMG.tsv",
        judged=True,
    ),
    "mmmu": About(
        "answer",
        "MMMU: college subjects, multiple choice and open questions, validation split.",
        "MMMU_DEV_VAL.tsv, or the hub's parquet files",
        "MMMU_DEV_VAL.tsv",
        judged=True,
    ),
    "mmvet": About(
        "answer",
        "MM-Vet: free answers, graded by a judge.",
        "mm-vet.json, MMVet.tsv, or the hub's parquet files",
        "mm-vet/mm-vet.json --images mm-vet/images",
        judged=True,
    ),
    "gqa": About(
        "answer",
        "GQA: short answers about scenes, the balanced test-dev questions.",
        "testdev_balanced_questions.json, GQA_TestDev_Balanced.tsv, or the hub's parquet files",
        "testdev_balanced_questions.json --images images",
    ),
}
_SCORE = """examples:
  janus eval score runs/geneval
  janus eval score runs/pope --mode fixed
  janus eval score Janus-Pro-1B_POPE.xlsx --as pope --out runs/theirs          (VLMEvalKit)
  janus eval score 20260101_samples_pope.jsonl --as pope --data lmms-lab/POPE  (lmms-eval)"""


def add_commands(verb: argparse.ArgumentParser, add_model: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the benchmarks and what works on their runs to `janus eval`; add_model adds options for a model."""
    commands = verb.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, about in BENCHMARKS.items():
        command = _command(commands, name, about.summary, _examples(name, about))
        _asking(command, name, about)
        _judging(command, (name,))
        add_model(command)
    score = _command(commands, "score", "Score a run's answers anew, or those of another tool.", _SCORE)
    score.add_argument("folder", metavar="PATH", help="a run's --out, or VLMEvalKit's or lmms-eval's file")
    score.add_argument("--as", dest="named", choices=[*BENCHMARKS], help="whose answers a file holds")
    score.add_argument("--out", metavar="D", help="folder for the scores of a file (default: beside it)")
    score.add_argument("--data", metavar="PATH", help="the data set, which lmms-eval's files do not hold")
    score.add_argument("--images", metavar="D", help="its pictures, if they lie in files of their own")
    _judging(score, tuple(BENCHMARKS))
    compare = _command(
        commands,
        "compare",
        "Which answers of two runs of a benchmark differ, and whether the difference is one.",
        "example:\n  janus eval compare runs/pope-bf16 runs/pope-int4",
    )
    compare.add_argument("folder", metavar="RUN", help="a scored run")
    compare.add_argument("other", metavar="OTHER", help="another run of the same benchmark")
    compare.add_argument("--show", type=int, default=20, metavar="N", help="changes to show (default: 20)")
    table = _command(
        commands,
        "table",
        "Scores of many runs, beside the Janus-Pro report's numbers.",
        "example:\n  janus eval table runs/*",
    )
    table.add_argument("folders", nargs="+", metavar="RUN", help="scored runs")


def _command(commands: Any, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _examples(name: str, about: About) -> str:
    small = "-n 1 --limit 80" if about.kind == "picture" else "--limit 200 --prompts llava"
    return f"""examples:
  janus eval {name} --fixture                                   (a small sample, no data needed)
  janus eval {name} --data {about.example} --model M --out runs/{name}-M
  janus eval {name} --data {about.example} {small}

The same command given again goes on where it was stopped; `janus eval score` scores anew.
On several GPUs: torchrun --nproc-per-node 8 -m janus eval {name} ..."""


def _asking(command: argparse.ArgumentParser, name: str, about: About) -> None:
    command.add_argument(
        "--data", metavar="PATH", help=f"{about.data}; or a dataset on the hub (default: the package's own)"
    )
    command.add_argument("--fixture", action="store_true", help="only the package's own small sample")
    command.add_argument(
        "--out", metavar="D", default=f"runs/{name}", help=f"folder of the run (default: runs/{name})"
    )
    command.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="only the first N samples, and what is scored together with them",
    )
    if about.kind == "picture":
        command.add_argument("-n", type=int, metavar="N", help="pictures of each prompt (default: 4)")
        command.add_argument(
            "--seed", type=int, default=0, help="every picture's own comes from it (default: 0)"
        )
        command.add_argument("--guidance", type=float, help="1 is none (default: the checkpoint's own)")
        command.add_argument("--temperature", type=float, help="0 is greedy (default: the checkpoint's own)")
    else:
        command.add_argument(
            "--images",
            metavar="D",
            help="folder of pictures that lie in files of their own (default: beside)",
        )
        command.add_argument(
            "--prompts",
            choices=["pro", "vlmevalkit", "llava", "plain"],
            default="pro",
            help="how questions are put, see docs/evaluation.md (default: pro)",
        )
        command.add_argument(
            "--max-tokens",
            type=int,
            metavar="N",
            help="of an answer (default: as the prompts' source has it)",
        )
    command.add_argument("--batch-size", type=int, default=16, help="asked at once (default: 16)")
    command.add_argument("--answers-only", action="store_true", help="get the answers now, score them later")
    command.add_argument(
        "--ray", metavar="ADDRESS", help='a Ray cluster to work on, or "local" (needs janus-pro[ray])'
    )
    command.add_argument("--workers", type=int, metavar="N", help="with --ray: models (default: one per GPU)")


def _judging(command: argparse.ArgumentParser, names: Sequence[str]) -> None:
    command.add_argument(
        "--mode",
        choices=["official", "fixed"],
        default="official",
        help="the published rules with their quirks, or mended (default: official)",
    )
    if "geneval" in names:
        command.add_argument(
            "--detector",
            choices=["scene", "mask2former"],
            default="scene",
            help="who judges pictures: the embedded world's judge, or the published one (default: scene)",
        )
        command.add_argument(
            "--detector-model",
            metavar="M",
            help="of mask2former: mmdet's .pth file, or a folder or hub id of transformers' form",
        )
        command.add_argument(
            "--clip-model", metavar="M", help="of mask2former: openai/clip-vit-large-patch14"
        )
    if not any(BENCHMARKS[name].judged for name in names):
        return
    group = command.add_argument_group("judge", "who is asked where the rule needs a judge")
    group.add_argument(
        "--judge",
        metavar="WHO",
        help='the address of an OpenAI-style server, such as https://api.example.com/v1; "janus" for a Janus '
        'model; "mplug" for DPG-Bench\'s own (default: none, answers are matched)',
    )
    group.add_argument("--judge-model", metavar="M", help="its name there; for janus a folder or hub id")
    group.add_argument(
        "--judge-key",
        metavar="VARIABLE",
        default="OPENAI_API_KEY",
        help='environment variable with the key, "" if none is wanted (default: OPENAI_API_KEY)',
    )
    group.add_argument("--judge-requests", type=int, metavar="N", help="ask at most so often, in all")
    group.add_argument("--judge-budget", type=float, metavar="X", help="spend at most so much, in all")
    group.add_argument(
        "--judge-prices",
        type=float,
        nargs=2,
        metavar=("IN", "OUT"),
        help="of a million tokens read and written, for --judge-budget",
    )
