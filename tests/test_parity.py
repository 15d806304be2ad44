"""The whole model against transformers' Janus: every stage, greedy answers, greedy guided pictures.

transformers makes a small random model and saves it; our reader loads that folder.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from janus import checkpoints
from janus.config import PRESETS
from janus.generation import decode
from janus.model import Batch, JanusModel
from janus.parties import Group
from janus.prompts import Prompt
from janus.sampling import Sampling
from tests.conftest import randomise

BOS, BOI, PAD, IMAGE = 1, 2, 3, 4


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, JanusModel]:
    """The same weights in transformers' classes and in ours."""
    import transformers as hf

    tiny = PRESETS["tiny"]
    core, vision, vq = tiny.core, tiny.vision, tiny.vq
    config = hf.JanusConfig(
        text_config=hf.LlamaConfig(
            vocab_size=core.vocab_size,
            hidden_size=core.width,
            intermediate_size=core.ffn_width,
            num_hidden_layers=core.layers,
            num_attention_heads=core.heads,
            num_key_value_heads=core.num_kv_heads,
            max_position_embeddings=core.max_positions,
            rms_norm_eps=core.norm_eps,
            bos_token_id=BOS,
            eos_token_id=None,
            pad_token_id=PAD,
            tie_word_embeddings=False,
        ).to_dict(),
        vision_config=hf.JanusVisionConfig(
            hidden_size=vision.width,
            num_hidden_layers=vision.depth,
            num_attention_heads=vision.heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            mlp_ratio=vision.ffn_width / vision.width,
            projection_dim=core.width,
            num_image_tokens=vision.tokens,
        ).to_dict(),
        vq_config=hf.JanusVQVAEConfig(
            num_embeddings=vq.codes,
            latent_channels=vq.z_channels,
            base_channels=vq.channels,
            channel_multiplier=list(vq.multipliers),
            num_res_blocks=vq.res_blocks,
            projection_dim=core.width,
            image_token_embed_dim=core.width,
        ).to_dict(),
        image_token_id=IMAGE,
        tie_word_embeddings=False,
    )
    theirs = hf.JanusForConditionalGeneration(config).eval()
    randomise(theirs)
    book = theirs.model.vqmodel.quantize.embedding.weight
    book.data = torch.nn.functional.normalize(book.data, dim=-1)  # transformers compares unnormalised codes
    folder = tmp_path_factory.mktemp("transformers")
    theirs.save_pretrained(folder)
    ours, _ = checkpoints.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    return theirs, ours.eval()


def _same(stage: str, ours: Tensor, theirs: Tensor) -> None:
    """At most 1e-4 of the largest value apart.  `pytest -rP` shows by how much."""
    assert ours.shape == theirs.shape
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"{stage}: {apart:.1e}")
    assert apart <= 1e-4


def _pixels(n: int) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(n)) * 2 - 1


def _ids(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [BOS, *torch.randint(8, 1000, (length - 1,), generator=generator).tolist()]


@torch.no_grad()
def test_understanding_stages(pair: tuple[Any, JanusModel]) -> None:
    theirs, ours = pair
    pixels = _pixels(2)
    features = theirs.model.vision_model(pixels).last_hidden_state
    _same("SigLIP features", ours.vision_model(pixels), features)
    _same("understanding adaptor", ours.embed_images(pixels), theirs.model.aligner(features))
    ids = torch.tensor([[*_ids(3), *[IMAGE] * 16, *_ids(4)[1:], *[IMAGE] * 16, 9]])
    out = theirs(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
    batch = Batch(ids, pixels=pixels, image_slots=ids == IMAGE)
    hidden = ours.hidden(batch)
    _same("hidden states", hidden, out.hidden_states[-1])
    _same("text logits", ours.text_logits(hidden), out.logits)


@torch.no_grad()
def test_drawing_stages(pair: tuple[Any, JanusModel]) -> None:
    theirs, ours = pair
    codes = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    embedded = ours.embed_codes(codes)
    _same("generation adaptor", embedded, theirs.prepare_embeddings_for_image_generation(codes))
    hidden = ours.core(embedded)
    _same(
        "hidden states of codes",
        hidden,
        theirs.model.language_model(inputs_embeds=embedded).last_hidden_state,
    )
    _same("image logits", ours.image_logits(hidden), theirs.model.generation_head(hidden))
    pixels = theirs.decode_image_tokens(codes)  # (2, 32, 32, 3)
    _same("VQ decode", ours.gen_vision_model.decode(codes).permute(0, 2, 3, 1), pixels)


@torch.no_grad()
def test_vq_codes_are_identical(pair: tuple[Any, JanusModel]) -> None:
    theirs, ours = pair
    pixels = _pixels(40)
    codes = ours.gen_vision_model.encode(pixels)
    assert torch.equal(codes.flatten(), theirs.model.vqmodel.encode(pixels).image_tokens.flatten())
    assert len(codes.unique()) > 20


def _greedy(model: JanusModel, prompt: Prompt, kind: Any, steps: int, plain: list[Prompt]) -> list[int]:
    tokens = decode(
        model,
        Group(
            [prompt],
            kind=kind,
            new_tokens=steps,
            sampling=Sampling(temperature=0),
            generators=[torch.Generator()],
            unconditional=plain,
            guidance=5.0 if plain else None,
        ),
    )
    return [int(token) for token in tokens]


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_greedy_answers(pair: tuple[Any, JanusModel], seed: int) -> None:
    theirs, ours = pair
    pixels = _pixels(1)
    ids = [*_ids(3, seed), *[IMAGE] * 16, *_ids(6, seed + 9)[1:]]
    expected = theirs.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        pixel_values=pixels,
        max_new_tokens=40,
        do_sample=False,
    )[0, len(ids) :]
    assert _greedy(ours, Prompt(ids, pixels, IMAGE), "text", 40, []) == expected.tolist()


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_greedy_guided_pictures(pair: tuple[Any, JanusModel], seed: int) -> None:
    theirs, ours = pair
    ids = [*_ids(7, seed), BOI]
    theirs.generation_config.generation_kwargs = {"boi_token_id": BOI}
    theirs.generation_config.pad_token_id = PAD
    theirs.generation_config.bos_token_id = BOS
    expected = theirs.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        generation_mode="image",
        guidance_scale=5.0,
        do_sample=False,
    )[0]
    plain = Prompt([BOS, *[PAD] * (len(ids) - 2), BOI])
    assert _greedy(ours, Prompt(ids), "image", 16, [plain]) == expected.tolist()
