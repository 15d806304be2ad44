"""Between the layouts: names, bits, what is left out, and what transformers makes of it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from janus import Janus, checkpoints
from janus.checkpoints import configs, saving, writing
from janus.checkpoints.layouts import UNUSED, Layout, official_shapes, on_meta, recipes
from janus.config import PRESETS, PromptConfig
from janus.encoders.preprocess import preprocess
from janus.model import JanusModel
from janus.tokenizers.chat import drawing_prompt, understanding_prompt
from janus.tokenizers.text import TextTokenizer, train_bpe
from tests.conftest import randomise

transformers.utils.logging.disable_progress_bar()


CONFIG = PRESETS["tiny"]  # transformers can be this one


@pytest.fixture(scope="module")
def model() -> JanusModel:
    model = JanusModel(CONFIG).eval()
    randomise(model)
    return model


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    train_bpe(["a photo of a red apple", "What is in the picture?"], 400, PromptConfig(), folder)
    return folder


@pytest.fixture(scope="module")
def official(model: JanusModel, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official") / "model"
    checkpoints.save(model, folder, source=text)
    return folder


@pytest.fixture(scope="module")
def community(model: JanusModel, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved by us in the transformers layout, then loaded and saved again by transformers itself."""
    base = tmp_path_factory.mktemp("community")
    checkpoints.save(model, base / "ours", layout="transformers", source=text)
    theirs, report = transformers.JanusForConditionalGeneration.from_pretrained(
        base / "ours", output_loading_info=True
    )
    assert not any(report.values()), report
    theirs.save_pretrained(base / "theirs")
    transformers.JanusProcessor.from_pretrained(base / "ours").save_pretrained(base / "theirs")
    return base / "theirs"


def weights(folder: Path) -> dict[str, Tensor]:
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


def bits(value: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return value.dtype, tuple(value.shape), value.contiguous().view(torch.uint8).numpy().tobytes()


def assert_same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert bits(value) == bits(right[key]), key


def test_names_and_shapes_are_those_of_transformers_at_1b() -> None:
    config = PRESETS["janus-pro-1b"]
    values = configs.write_transformers(config, torch.bfloat16, image_id=100581)
    with torch.device("meta"):
        theirs = transformers.JanusForConditionalGeneration(transformers.JanusConfig(**values))
    official = official_shapes(on_meta(lambda: JanusModel(config)))
    ours = recipes(official, "official", "transformers", official)
    expected = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert {key: recipe.shape for key, recipe in ours.items()} == expected
    there = recipes(official, "transformers", "official", expected)
    assert {key for recipe in there.values() for key in recipe.keys} == expected.keys()
    assert {key: recipe.shape for key, recipe in there.items()} == official


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_official_to_official_keeps_every_bit(official: Path, kind: str, tmp_path: Path) -> None:
    """Types may differ between tensors, numbers may be no numbers, shards may be cut elsewhere."""
    source = copy(official, tmp_path / "source")
    state = weights(source)
    state["gen_embed.weight"] = state["gen_embed.weight"].half()
    state["language_model.lm_head.weight"] = state["language_model.lm_head.weight"].bfloat16()
    state["aligner.layers.0.bias"].view(torch.int32)[:3] = torch.tensor([0x7FC00001, -1, 0x7F800000]).int()
    (source / "model.safetensors").unlink()
    if kind == "bin":
        torch.save(state, source / "pytorch_model.bin")
    else:
        save_file(state, source / "model.safetensors")
    (source / "README.md").write_text("mine")
    (source / ".hidden").write_text("not for others")
    report = checkpoints.convert(source, tmp_path / "copy", "official", strict=True, shard_bytes=500_000)
    assert (report.dropped, report.filled, report.tensors) == ([], [], len(state))
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) > 1
    assert_same_bits(weights(tmp_path / "copy"), state)
    others = {p.name for p in source.iterdir()} - {"model.safetensors", "pytorch_model.bin", ".hidden"}
    assert {p.name for p in (tmp_path / "copy").glob("*") if "model" not in p.name} == others
    for name in others:
        assert (tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes()


def copy(source: Path, target: Path) -> Path:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_transformers_to_transformers_keeps_every_bit(community: Path, tmp_path: Path) -> None:
    report = checkpoints.convert(community, tmp_path / "copy", "transformers", strict=True)
    assert (report.dropped, report.filled) == ([], [])
    assert_same_bits(weights(tmp_path / "copy"), weights(community))
    assert checkpoints.load(tmp_path / "copy")[0].config == checkpoints.load(community)[0].config


def test_what_never_is_there_is_not_made_up_within_a_layout(official: Path, tmp_path: Path) -> None:
    source = copy(official, tmp_path / "source")
    state = {key: value for key, value in weights(source).items() if key not in UNUSED}
    save_file(state, source / "model.safetensors")
    assert checkpoints.convert(source, tmp_path / "copy", "official").filled == []
    assert weights(tmp_path / "copy").keys() == state.keys()


def test_there_and_back(official: Path, tmp_path: Path) -> None:
    there = checkpoints.convert(official, tmp_path / "there", "transformers")
    assert there.dropped == sorted(UNUSED)
    assert len(there.dropped) == 14
    assert there.filled == []
    for key in UNUSED:
        assert key in str(there)
    back = checkpoints.convert(tmp_path / "there", tmp_path / "back", "official")
    assert (back.dropped, back.filled) == ([], sorted(UNUSED))
    assert "filled 14" in str(back)
    assert "zeros" in str(back)
    expected = {k: torch.zeros_like(v) if k in UNUSED else v for k, v in weights(official).items()}
    assert_same_bits(weights(tmp_path / "back"), expected)
    again = checkpoints.convert(tmp_path / "back", tmp_path / "again", "transformers")
    assert len(again.dropped) == 14
    assert_same_bits(weights(tmp_path / "again"), weights(tmp_path / "there"))


def test_progress_reaches_the_end(official: Path, community: Path, tmp_path: Path) -> None:
    ways: list[tuple[Path, Layout]] = [(official, "transformers"), (community, "official")]
    for source, layout in ways:
        target = tmp_path / layout
        done: list[int] = []
        totals: set[int] = set()

        def count(at: int, total: int, done: list[int] = done, totals: set[int] = totals) -> None:
            done.append(at)
            totals.add(total)

        checkpoints.convert(source, target, layout, on_bytes=count)
        written = load_file(target / "model.safetensors")
        assert totals == {sum(value.nbytes for value in written.values())}
        assert done[-1] in totals
        assert done == sorted(done)
        assert len(done) == len(written)
    loaded: list[tuple[int, int]] = []
    Janus.from_pretrained(official, on_bytes=lambda *at: loaded.append(at))
    file = load_file(official / "model.safetensors")
    unread = file["gen_vision_model.quantize.codebook_used"].nbytes
    total = sum(value.nbytes for value in file.values())
    assert loaded[-1] == (total - unread, total)


def test_strict_refuses_to_drop_or_fill(official: Path, community: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"strict.*14 tensors.*left out.*attn_pool"):
        checkpoints.convert(official, tmp_path / "out", "transformers", strict=True)
    with pytest.raises(ValueError, match=r"strict.*14 tensors.*filled with zeros.*codebook_used"):
        checkpoints.convert(community, tmp_path / "out", "official", strict=True)
    assert list(tmp_path.iterdir()) == []


def test_transformers_computes_the_same(official: Path, model: JanusModel, tmp_path: Path) -> None:
    checkpoints.convert(official, tmp_path / "there", "transformers")
    theirs, report = transformers.JanusForConditionalGeneration.from_pretrained(
        tmp_path / "there", output_loading_info=True
    )
    assert not any(report.values()), report
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 400, (2, 9), generator=generator)
    pixels = torch.randn(2, 3, 32, 32, generator=generator)
    codes = torch.randint(0, 64, (2, 16), generator=generator)
    hidden = torch.randn(2, 3, 64, generator=generator)
    with torch.no_grad():
        pairs = [
            (theirs(input_ids=ids).logits, model.language_model(ids)),
            (theirs.model.get_image_features(pixels).pooler_output, model.embed_images(pixels)),
            (theirs.prepare_embeddings_for_image_generation(codes), model.embed_codes(codes)),
            (theirs.model.generation_head(hidden), model.image_logits(hidden)),
            (theirs.model.vqmodel.decode(codes), model.gen_vision_model.decode(codes)),
        ]
    for other, ours in pairs:
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


def test_what_transformers_saved_is_loaded(community: Path, model: JanusModel) -> None:
    loaded, _ = checkpoints.load(community)
    state = loaded.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], torch.zeros_like(value) if key in UNUSED else value), key
    sizes = dataclasses.replace(loaded.config, image=model.config.image, prompt=model.config.prompt)
    assert sizes == model.config
    assert loaded.config.image.rounding == "round"


def test_a_head_tied_by_transformers(community: Path, tmp_path: Path) -> None:
    """transformers ties by default and then leaves the head out of its files."""
    values = json.loads((community / "config.json").read_text())
    tied = transformers.JanusForConditionalGeneration(
        transformers.JanusConfig(**values | {"tie_word_embeddings": True})
    )
    copy(community, tmp_path / "tied")
    (tmp_path / "tied" / "model.safetensors").unlink()
    tied.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in weights(tmp_path / "tied")
    model, _ = checkpoints.load(tmp_path / "tied")
    embedding = model.language_model.model.embed_tokens.weight
    assert torch.equal(model.language_model.lm_head.weight, embedding)
    assert checkpoints.convert(tmp_path / "tied", tmp_path / "back", "official").dropped == []
    back = weights(tmp_path / "back")
    assert torch.equal(back["language_model.lm_head.weight"], embedding)
    checkpoints.convert(tmp_path / "tied", tmp_path / "copy", "transformers")
    assert_same_bits(weights(tmp_path / "copy"), weights(tmp_path / "tied"))
    values = json.loads((tmp_path / "tied" / "config.json").read_text())
    (tmp_path / "tied" / "config.json").write_text(json.dumps(values | {"tie_word_embeddings": False}))
    with pytest.raises(ValueError, match=r"1 missing: lm_head\.weight"):
        checkpoints.load(tmp_path / "tied")


# -- how the folder wants pictures and prompts --------------------------------------------------


def test_prompts_and_pictures_are_those_of_transformers(community: Path) -> None:
    processor = transformers.JanusProcessor.from_pretrained(community)
    loaded, _ = checkpoints.load(community)
    prompt = loaded.config.prompt
    tokenizer = TextTokenizer.from_folder(community, prompt)
    photo = Image.linear_gradient("L").convert("RGB").resize((77, 30))
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    words = processor.apply_chat_template([turn], add_generation_prompt=True)
    theirs = processor(text=words, images=[photo], return_tensors="pt")
    ours = understanding_prompt([turn | {"images": [photo]}], tokenizer, prompt, loaded.config.vision.tokens)
    assert theirs["input_ids"][0].tolist() == ours
    pixels = preprocess([photo], loaded.config.image)
    assert (pixels - theirs["pixel_values"]).abs().max() < 2.5 * 2 / 255  # its filter rounds otherwise
    drawing = [{"role": "user", "content": [{"type": "text", "text": "a red apple"}]}]
    words = processor.apply_chat_template(drawing, add_generation_prompt=True)
    ids = processor(text=words, generation_mode="image")["input_ids"][0]
    assert list(ids) == drawing_prompt("a red apple", tokenizer, prompt)


def test_a_folder_decides_for_itself(community: Path, tmp_path: Path) -> None:
    folder = copy(community, tmp_path / "own")
    template = "{% for m in messages %}[{{ m['content'][0]['text'] }}]{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    path = folder / "processor_config.json"
    values = json.loads(path.read_text())
    values["use_default_system_prompt"] = False
    values["image_processor"] |= {"min_size": 3, "image_mean": [0.25] * 3, "background_color": [63] * 3}
    path.write_text(json.dumps(values))
    loaded, _ = checkpoints.load(folder)
    prompt, image = loaded.config.prompt, loaded.config.image
    assert (prompt.jinja, prompt.use_system_prompt) == (template, False)
    assert (image.min_size, image.mean, image.rounding) == (3, (0.25, 0.25, 0.25), "round")
    checkpoints.convert(folder, tmp_path / "official", "official")
    assert configs.read(tmp_path / "official").config == loaded.config
    checkpoints.save(loaded, tmp_path / "again", layout="transformers", source=folder)
    assert configs.read(tmp_path / "again").config == loaded.config
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 1 }}"}))
    assert configs.read(folder).config.prompt.jinja == "{{ 1 }}"


def test_special_tokens_of_a_folder(community: Path, tmp_path: Path) -> None:
    folder = copy(community, tmp_path / "own")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        written = (folder / name).read_text()
        (folder / name).write_text(
            written.replace("<begin_of_image>", "<boi>").replace("<｜end▁of", "<｜fin▁of")
        )
    prompt = configs.read(folder).config.prompt
    assert prompt.begin_image_token == "<boi>"
    assert prompt.eos_token == "<｜fin▁of▁sentence｜>"
    assert TextTokenizer.from_folder(folder, prompt).begin_image_id > 0


@pytest.mark.parametrize(
    ("where", "changes", "words"),
    [
        ("vision_config", {"use_qk_norm": True}, "use_qk_norm is True"),
        ("vision_config", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("vision_config", {"projection_dim": 5}, "projection_dim is 5"),
        ("vision_config", {"num_image_tokens": 5}, "num_image_tokens is 5"),
        ("vq_config", {"double_latent": True}, "double_latent is True"),
        ("text_config", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "'llama3'"),
        ("text_config", {"tie_word_embeddings": True}, "tie_word_embeddings is True"),
    ],
)
def test_transformers_settings_that_are_not_supported(
    community: Path, where: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = copy(community, tmp_path / "m")
    values = json.loads((folder / "config.json").read_text())
    values[where] |= changes
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=words):
        checkpoints.load(folder)


def test_models_that_transformers_cannot_be(text: Path, tmp_path: Path) -> None:
    vq = CONFIG.vq
    kind = PromptConfig(system_prompt="Be kind.")
    refused = {
        "gqa and dense": PRESETS["tiny-v3"],
        "fold=4": dataclasses.replace(CONFIG, vq=dataclasses.replace(vq, fold=4, multipliers=(1, 2))),
        "64 codes": dataclasses.replace(CONFIG, vq=dataclasses.replace(vq, multipliers=(1, 2, 2))),
        "image head of another width": dataclasses.replace(CONFIG, gen_head_width=5),
        "system prompt": dataclasses.replace(CONFIG, prompt=kind),
    }
    for words, other in refused.items():
        with pytest.raises(ValueError, match=f"transformers layout has no place for .*{words}"):
            saving.write_settings(tmp_path, other, torch.float32, "transformers", text)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        saving.write_settings(tmp_path, CONFIG, torch.float32, "transformers", None)


# -- mistakes -----------------------------------------------------------------------------------


def test_nothing_is_written_for_a_bad_checkpoint(official: Path, tmp_path: Path) -> None:
    source = copy(official, tmp_path / "source")
    state = weights(source)
    wrong: list[tuple[str, Callable[[dict[str, Tensor]], object]]] = [
        ("1 misshapen: gen_embed.weight", lambda s: s.update({"gen_embed.weight": torch.zeros(1)})),
        ("1 missing: gen_embed.weight", lambda s: s.pop("gen_embed.weight")),
        ("1 unknown: more", lambda s: s.update(more=torch.zeros(1))),
    ]
    for words, spoil in wrong:
        bad = dict(state)
        spoil(bad)
        save_file(bad, source / "model.safetensors")
        for layout in ("official", "transformers"):
            with pytest.raises(ValueError, match=words):
                checkpoints.convert(source, tmp_path / "out", layout)
    with pytest.raises(ValueError, match="layout must be one of"):
        checkpoints.convert(official, tmp_path / "out", "gguf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="already exists"):
        checkpoints.convert(official, source, "transformers")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_full_disk(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing, "_write_tensor", full)
    with pytest.raises(ValueError, match="No space left on device"):
        checkpoints.convert(official, tmp_path / "out", "transformers")
    assert list(tmp_path.iterdir()) == []


def test_parts_of_different_types_cannot_become_one(community: Path, tmp_path: Path) -> None:
    folder = copy(community, tmp_path / "mixed")
    state = weights(folder)
    key = "model.vision_model.encoder.layers.0.self_attn.k_proj.weight"
    state[key] = state[key].half()
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="must be of one type"):
        checkpoints.convert(folder, tmp_path / "out", "official")
    checkpoints.convert(folder, tmp_path / "copy", "transformers")
    assert_same_bits(weights(tmp_path / "copy"), state)
