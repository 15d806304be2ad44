"""The command `janus`: one verb each for what people do with a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus import __version__

if TYPE_CHECKING:
    from janus.api import Janus


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.  Returns the exit status: 0, 2 for a user's mistake, 130 when interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except ValueError as error:
        print(f"janus {options.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="janus", description="Janus-Pro: ask about pictures and draw them, with one transformer."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_info(verbs)
    _add_chat(verbs)
    _add_generate(verbs)
    _add_convert(verbs)
    _add_train(verbs)
    _add_eval(verbs)
    _add_serve(verbs)
    _add_bench(verbs)
    return parser


def _verb(verbs: Any, name: str, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=run)
    return verb


def _device_options(group: Any) -> None:
    group.add_argument("--device", help="cpu, cuda, mps ... (default: a GPU if there is one)")
    group.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="default: what the checkpoint asks for"
    )
    _quantize_option(group)


def _quantize_option(group: Any) -> None:
    group.add_argument(
        "--quantize",
        choices=["int8", "int4", "fp8"],
        help="keep the core's weights in 8 or 4 bits: less memory, a little less exact; fp8 is for GPUs",
    )


def _model_options(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("model")
    group.add_argument("--model", metavar="M", help="folder or hub id (default: the model in the package)")
    group.add_argument(
        "--adapter",
        metavar="A",
        help="folder of a LoRA adapter to add to M; as M itself, it brings the model it was trained on",
    )
    group.add_argument("--revision", help="branch, tag or commit of a hub id")
    group.add_argument("--offline", action="store_true", help="take hub files from the cache alone")
    _device_options(group)


def _load(options: argparse.Namespace) -> Janus:
    with _progress("loading", "B") as show:
        return _open(options, options.model, show)


def _open(options: argparse.Namespace, source: str | None, on_bytes: Callable[[int, int], None]) -> Janus:
    from janus.api import Janus

    return Janus.from_pretrained(
        source,
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        adapter=options.adapter,
        revision=options.revision,
        offline=options.offline,
        on_bytes=on_bytes,
    )


@contextmanager
def _progress(doing: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr that follows (done, total); it vanishes at the end, and never shows for short work."""
    from tqdm import tqdm

    with tqdm(desc=doing, unit=unit, unit_scale=unit == "B", leave=False, delay=0.5) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


# -- info ---------------------------------------------------------------------------------------


def _add_info(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "info",
        _info,
        "Tell what a model is: its parts, parameters and memory.",
        "  janus info\n  janus info janus-pro-7b          (a preset: no weights needed)",
    )
    verb.add_argument("source", nargs="?", metavar="MODEL", help="folder, hub id or preset")
    verb.add_argument("--revision", help="branch, tag or commit of a hub id")
    verb.add_argument("--offline", action="store_true", help="take hub files from the cache alone")


def _info(options: argparse.Namespace) -> None:
    from janus.info import describe

    print(describe(options.source, revision=options.revision, offline=options.offline))


# -- chat ---------------------------------------------------------------------------------------


def _add_chat(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "chat",
        _chat,
        "Answer a question about pictures, or talk without any.",
        '  janus chat photo.jpg "What is in the picture?"\n  janus chat --interactive photo.jpg',
    )
    verb.add_argument("words", nargs="*", metavar="IMAGE... QUESTION", help="pictures, then the question")
    verb.add_argument(
        "--interactive", action="store_true", help="keep talking; every argument is then a picture"
    )
    verb.add_argument("--max-tokens", type=int, default=512, help="longest answer (default: 512)")
    verb.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: 0)")
    verb.add_argument("--top-p", type=float, default=1.0, help="nucleus of the sampling (default: 1, all)")
    verb.add_argument("--seed", type=int, help="of the sampling, for temperatures above 0")
    _model_options(verb)


def _chat(options: argparse.Namespace) -> None:
    if not options.words and not options.interactive:
        raise ValueError('give a question, for instance: janus chat photo.jpg "What is this?"')
    if options.interactive:
        _talk(_load(options), options)
        return
    *images, question = options.words
    _say(_load(options), options, [{"role": "user", "content": question, "images": images}])


def _say(model: Janus, options: argparse.Namespace, turns: list[dict[str, Any]]) -> str:
    """Print the answer to the last turn as it is written, and return it."""
    answer = ""
    for piece in model.chat(
        turns,
        stream=True,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    ):
        answer += piece
        print(piece, end="", flush=True)
    print()
    return answer.strip()


def _talk(model: Janus, options: argparse.Namespace) -> None:
    print("Ask away; an empty line or Ctrl-D ends.", file=sys.stderr)
    turns: list[dict[str, Any]] = []
    images = options.words
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            return
        if not question:
            return
        asked = [*turns, {"role": "user", "content": question, "images": images}]
        try:
            answer = _say(model, options, asked)
        except ValueError as error:  # the conversation so far stays
            print(error, file=sys.stderr)
            continue
        turns = [*asked, {"role": "assistant", "content": answer}]
        images = []


# -- generate -----------------------------------------------------------------------------------


def _add_generate(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "generate",
        _generate,
        "Draw pictures of one or several prompts, as PNG files.",
        '  janus generate "a photo of a red apple" -n 4 --seed 7 -o out/',
    )
    verb.add_argument("prompts", nargs="+", metavar="PROMPT")
    verb.add_argument("-n", type=int, default=1, help="pictures of each prompt (default: 1)")
    verb.add_argument("-o", "--out", default="out", help="folder for the files (default: out)")
    verb.add_argument("--seed", type=int, help="picture j is drawn from seed + j (default: a fresh one)")
    verb.add_argument("--guidance", type=float, help="1 is none (default: the checkpoint's own; official: 5)")
    verb.add_argument(
        "--temperature", type=float, help="0 is greedy (default: the checkpoint's own; official: 1)"
    )
    verb.add_argument("--top-k", type=int, default=0, help="only the k likeliest codes (default: 0, all)")
    verb.add_argument("--top-p", type=float, default=1.0, help="nucleus of the sampling (default: 1, all)")
    verb.add_argument("--size", type=int, help="side in pixels; refused unless the weights draw it")
    verb.add_argument(
        "--batch-size",
        type=_batch_size,
        default="auto",
        metavar="B",
        help="pictures drawn at once (default: auto, as many as memory holds)",
    )
    verb.add_argument(
        "--window",
        type=int,
        help="codes of a picture guessed and checked at once, at most; 1 is none (default: 4 in all)",
    )
    _model_options(verb)


def _batch_size(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be auto or a number from 1 on, not {text!r}") from None


def _generate(options: argparse.Namespace) -> None:
    from janus.gallery import check_folder, save_pictures, save_sheet

    folder = check_folder(options.out)
    model = _load(options)
    with _progress("drawing", "token") as show:
        drawn = model.generate_images(
            options.prompts,
            options.n,
            seed=options.seed,
            guidance=options.guidance,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            size=options.size,
            batch_size=options.batch_size,
            window=options.window,
            on_step=show,
        )
    pictures = [picture for pictures in drawn for picture in pictures]
    for path in save_pictures(pictures, folder):
        print(path)
    if len(pictures) > 1:
        print(save_sheet(pictures, folder))


# -- convert ------------------------------------------------------------------------------------


def _add_convert(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "convert",
        _convert,
        "Rewrite a checkpoint in another layout, tensor by tensor; without loss, or in 8 or 4 bits.",
        "  janus convert deepseek-ai/Janus-Pro-1B janus-pro-1b-hf --layout transformers\n"
        "  janus convert deepseek-ai/Janus-Pro-7B janus-pro-7b-int4 --layout official --quantize int4",
    )
    verb.add_argument("source", metavar="SRC", help="folder or hub id")
    verb.add_argument("target", metavar="DST", help="folder to write; must not exist yet, or be empty")
    verb.add_argument("--layout", required=True, choices=["official", "transformers"])
    _quantize_option(verb)
    verb.add_argument(
        "--strict", action="store_true", help="refuse where tensors would have to be dropped or filled in"
    )
    verb.add_argument("--revision", help="branch, tag or commit of a hub id")
    verb.add_argument("--offline", action="store_true", help="take hub files from the cache alone")


def _convert(options: argparse.Namespace) -> None:
    from janus.api import Janus
    from janus.checkpoints import convert
    from janus.checkpoints.writing import check_free

    if options.quantize:
        if options.strict:
            raise ValueError("--strict is about tensors that stay as they are; leave it out with --quantize")
        check_free(Path(options.target))
        with _progress("loading", "B") as show:
            model = Janus.from_pretrained(
                options.source,
                device="cpu",
                revision=options.revision,
                offline=options.offline,
                on_bytes=show,
            )
        model.model.quantize(options.quantize)
        model.save_pretrained(options.target, options.layout)
        print(f"{options.target}: {options.quantize} weights in the {options.layout} layout")
        return
    with _progress("converting", "B") as show:
        report = convert(
            options.source,
            options.target,
            options.layout,
            strict=options.strict,
            revision=options.revision,
            offline=options.offline,
            on_bytes=show,
        )
    print(report)


# -- train --------------------------------------------------------------------------------------


def _add_train(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "train",
        _train,
        "Train a model, or an image tokenizer, on your own pictures and texts, as a recipe says.",
        "  janus train recipes/finetune.yaml\n"
        "  janus train recipes/tokenizer.yaml\n"
        "  janus train recipes/finetune.yaml --set steps=50 --set out=runs/try\n"
        "  torchrun --nproc-per-node 8 -m janus train recipes/finetune.yaml      (one process per GPU)\n\n"
        "A run that was stopped goes on from its last state when the same command is given again.",
    )
    verb.add_argument("recipe", metavar="RECIPE.yaml", help="see recipes/ and docs/training.md")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="instead of what the recipe says; inner fields as lora.rank=8; may be repeated",
    )
    verb.add_argument("--device", help="cpu, cuda ... (default: a GPU if there is one)")


def _train(options: argparse.Namespace) -> None:
    from janus.train.kinds import train

    train(options.recipe, options.set, options.device)


# -- eval ---------------------------------------------------------------------------------------


def _add_eval(verbs: Any) -> None:
    from janus.eval.options import add_commands

    verb = _verb(
        verbs,
        "eval",
        _eval,
        "Run a benchmark: raw answers first, which resumes when stopped, then scores.",
        "  janus eval geneval --fixture --out runs/geneval\n  janus eval score runs/geneval --mode fixed",
    )
    add_commands(verb, _model_options)


def _eval(options: argparse.Namespace) -> None:
    from janus.eval.command import run

    run(options, _load, _progress)


# -- serve --------------------------------------------------------------------------------------


def _add_serve(verbs: Any) -> None:
    from janus.serve.command import add_options

    verb = _verb(
        verbs,
        "serve",
        _serve,
        "Serve a web page and an API in OpenAI's style, for many people at once.",
        "  janus serve --open\n"
        "  janus serve --model deepseek-ai/Janus-Pro-7B --dtype bfloat16 --port 9000\n"
        "  JANUS_API_KEYS=secret janus serve --host 0.0.0.0",
    )
    add_options(verb)
    _device_options(verb)


def _serve(options: argparse.Namespace) -> None:
    from janus.serve.command import run

    run(options, partial(_open, options), _progress)


# -- bench --------------------------------------------------------------------------------------


def _add_bench(verbs: Any) -> None:
    verb = _verb(
        verbs,
        "bench",
        _bench,
        "Measure how fast this machine draws and writes with a model, and what limits it.",
        "  janus bench\n"
        "  janus bench --model janus-pro-1b --dtype bfloat16 -n 8      (a preset: random weights)",
    )
    verb.add_argument(
        "--model", metavar="M", help="folder, hub id or preset (default: the model in the package)"
    )
    _device_options(verb)
    verb.add_argument("-n", type=int, default=1, metavar="IMAGES", help="pictures drawn at once (default: 1)")
    verb.add_argument("--steps", type=int, default=24, help="steps that are timed (default: 24)")
    verb.add_argument("--json", metavar="FILE", help="where to write the figures, with ranges")


def _bench(options: argparse.Namespace) -> None:
    from janus import bench
    from janus.checkpoints.writing import write_json

    model = bench.open_model(options.model, options.device, options.dtype, options.quantize)
    with _progress("measuring", "step") as show:
        figures = bench.bench(model, options.n, options.steps, show)
    print(bench.table(figures))
    if options.json:
        write_json(Path(options.json), figures)


if __name__ == "__main__":
    sys.exit(main())
