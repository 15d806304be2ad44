"""A whole model against transformers' Janus, stage by stage, one model in memory at a time.

    python benchmarks/parity.py                                        the Janus-Pro-1B shape in bfloat16
    python benchmarks/parity.py --preset tiny --dtype float32          seconds

Random weights are written once in the official layout and converted to the transformers layout with
the package's own converter.  Each side then runs in a process of its own on the same inputs and
leaves its outputs in a file; the last step compares them.  The 1B shape takes about 9 GB of disk.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from janus import checkpoints
from janus.config import PRESETS, PromptConfig
from janus.generation import decode
from janus.model import Batch, JanusModel
from janus.parties import Group, Kind
from janus.prompts import Prompt
from janus.sampling import Sampling
from janus.tokenizers.chat import unconditional
from janus.tokenizers.text import TextTokenizer, train_bpe

STEPS = 16  # greedy tokens compared


def make_weights(preset: str, folder: Path) -> None:
    """Random weights whose activations stay near one, in bfloat16."""
    with torch.device("meta"):
        model = JanusModel(PRESETS[preset])
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.empty(parameter.shape, dtype=torch.bfloat16).normal_(generator=generator)
        if parameter.ndim < 2:
            parameter.data.copy_(noise * 0.1 + (1.0 if name.endswith("weight") else 0.0))
        else:
            parameter.data.copy_(noise / parameter[0].numel() ** 0.5)
    book = model.gen_vision_model.quantize.embedding.weight
    book.data = torch.nn.functional.normalize(book.data.float(), dim=-1).to(torch.bfloat16)
    text = folder.parent / "tokenizer"  # of bytes; the models see random ids from above it
    train_bpe(["a"], 300, PromptConfig(), text)
    checkpoints.save(model, folder, layout="official", source=text)


def inputs(preset: str, tokenizer: TextTokenizer) -> dict[str, Tensor]:
    config = PRESETS[preset]
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(300, config.core.vocab_size, (24,), generator=generator)
    picture = torch.full((config.vision.tokens,), tokenizer.image_id)
    bos, boi = torch.tensor([tokenizer.bos_id]), torch.tensor([tokenizer.begin_image_id])
    return {
        "pixels": torch.rand(1, 3, config.image.size, config.image.size, generator=generator) * 2 - 1,
        "question": torch.cat([bos, words[:8], picture, words[8:]])[None],
        "caption": torch.cat([bos, words[:12], boi])[None],
        "codes": torch.randint(0, config.vq.codes, (1, config.vq.tokens), generator=generator),
    }


@torch.inference_mode()
def run_ours(
    folder: Path, given: dict[str, Tensor], tokenizer: TextTokenizer, dtype: torch.dtype
) -> dict[str, Tensor]:
    model, _ = checkpoints.load(folder, dtype=dtype)
    model.eval()
    pixels, ids, codes = given["pixels"].to(dtype), given["question"], given["codes"]
    hidden = model.hidden(Batch(ids, pixels=pixels, image_slots=ids == tokenizer.image_id))
    drawn = model.core(model.embed_codes(codes))
    question = Prompt(ids[0].tolist(), pixels, tokenizer.image_id)
    caption = given["caption"][0].tolist()
    plain = Prompt(unconditional(caption, tokenizer))
    return {
        "SigLIP features": model.vision_model(pixels),
        "adaptor": model.embed_images(pixels),
        "hidden states": hidden,
        "text logits": model.text_logits(hidden),
        "image logits": model.image_logits(drawn),
        "VQ decode": model.gen_vision_model.decode(codes),
        "VQ codes": model.gen_vision_model.encode(pixels),
        "greedy text": _greedy(model, question, "text", []),
        "greedy guided codes": _greedy(model, Prompt(caption), "image", [plain]),
    }


def _greedy(model: JanusModel, prompt: Prompt, kind: Kind, plain: list[Prompt]) -> Tensor:
    tokens = decode(
        model,
        Group(
            [prompt],
            kind=kind,
            new_tokens=STEPS,
            sampling=Sampling(temperature=0),
            generators=[torch.Generator()],
            unconditional=plain,
            guidance=5.0 if plain else None,
        ),
    )
    return torch.cat(list(tokens))


@torch.inference_mode()
def run_theirs(
    folder: Path, given: dict[str, Tensor], tokenizer: TextTokenizer, dtype: torch.dtype
) -> dict[str, Tensor]:
    import transformers

    model = transformers.JanusForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    pixels, ids, codes = given["pixels"].to(dtype), given["question"], given["codes"]
    inner = model.model
    features = inner.vision_model(pixels).last_hidden_state
    out = model(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
    drawn = inner.language_model(
        inputs_embeds=model.prepare_embeddings_for_image_generation(codes)
    ).last_hidden_state
    text = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=pixels,
        max_new_tokens=STEPS,
        do_sample=False,
    )[0, ids.shape[1] :]
    inner.vision_model.config.num_image_tokens = STEPS  # the loop's length, nothing else
    caption = given["caption"]
    drawing = model.generate(
        input_ids=caption,
        attention_mask=torch.ones_like(caption),
        generation_mode="image",
        guidance_scale=5.0,
        do_sample=False,
    )[0]
    return {
        "SigLIP features": features,
        "adaptor": inner.aligner(features),
        "hidden states": out.hidden_states[-1],
        "text logits": out.logits,
        "image logits": inner.generation_head(drawn),
        "VQ decode": model.decode_image_tokens(codes).permute(0, 3, 1, 2),
        "VQ codes": inner.vqmodel.encode(pixels).image_tokens.reshape(1, -1),
        "greedy text": text,
        "greedy guided codes": drawing[:STEPS],
    }


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    lines = ["| stage | largest difference / largest value | mean difference / mean value | equal |"]
    lines.append("|---|---|---|---|")
    for name, mine in ours.items():
        other = theirs[name]
        if mine.is_floating_point():
            a, b = mine.float(), other.float()
            gap = (a - b).abs()
            largest, mean = gap.max() / b.abs().max(), gap.mean() / b.abs().mean()
            lines.append(f"| {name} | {largest:.1e} | {mean:.1e} | |")
        else:
            lines.append(f"| {name} | | | {int((mine == other).sum())} of {mine.numel()} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="janus-pro-1b", choices=["tiny", "janus-pro-1b", "janus-pro-7b"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--work", type=Path, help="folder for weights and outputs (default: a temporary one)")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run, layout = (run_ours, "official") if options.side == "ours" else (run_theirs, "transformers")
        tokenizer = TextTokenizer.from_folder(options.work / "tokenizer", PromptConfig())
        given = inputs(options.preset, tokenizer)
        outputs = run(options.work / layout, given, tokenizer, getattr(torch, options.dtype))
        outputs = {name: value.contiguous().clone() for name, value in outputs.items()}
        save_file(outputs, options.work / f"{options.side}.safetensors")
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        if not (work / "transformers").exists():
            make_weights(options.preset, work / "official")
            print(checkpoints.convert(work / "official", work / "transformers", "transformers"))
        for side in ("ours", "theirs"):
            arguments = ["--preset", options.preset, "--dtype", options.dtype, "--work", str(work)]
            subprocess.run([sys.executable, __file__, "--side", side, *arguments], check=True)
        print(compare(load_file(work / "ours.safetensors"), load_file(work / "theirs.safetensors")))


if __name__ == "__main__":
    main()
