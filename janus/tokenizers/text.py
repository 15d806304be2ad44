"""Text to token ids and back, with users' words kept from ever acting as control tokens.

A `tokenizer.json` lists added tokens: control tokens (beginning of sentence, image placeholder, role
markers, ...) and, in some checkpoints, odd ordinary ones (single letters).  The library would find all
of them in any text.  Here the library's tokenizer is built *without* the control tokens, so no text can
produce one; they enter a prompt only as `Special` parts, looked up by their string.  Text between two
control tokens is encoded as one run, so merges across the seam of template and words are those of the
official code, which encodes the whole prompt as one string.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from janus.config import PromptConfig

TOKENIZER_FILE = "tokenizer.json"
# the files beside it that may name other strings, the later one winning
_OVERRIDES = ("special_tokens_map.json", "tokenizer_config.json")
_NEEDED = ("bos_token", "eos_token", "pad_token", "begin_image_token", "end_image_token", "image_token")


@dataclass(frozen=True)
class Special:
    """A control token, named by its string."""

    text: str


Part = str | Special


class TextTokenizer:
    """A byte-level BPE tokenizer and the control tokens of one checkpoint.

    `source` is the content of a `tokenizer.json`; `prompt` names the control strings.  Their ids differ
    between checkpoints and are looked up by string.  A missing image placeholder gets the first free id,
    as in the official code (Janus-1.3B); any other missing one raises ValueError.
    """

    def __init__(self, source: str, prompt: PromptConfig) -> None:
        spec = _parse(source)
        self.source = source
        self.prompt = prompt
        vocab: dict[str, int] = spec["model"]["vocab"]
        added: list[dict[str, Any]] = spec["added_tokens"]

        named = {getattr(prompt, name) for name in _NEEDED}
        marks = named | {prompt.user, prompt.assistant}
        self._control = {a["content"]: a["id"] for a in added if a["special"] or a["content"] in marks}
        self._control |= {text: vocab[text] for text in named - set(self._control) if text in vocab}
        if prompt.image_token not in self._control:
            taken = [*vocab.values(), *(a["id"] for a in added)]
            self._control[prompt.image_token] = max(taken) + 1
        missing = sorted(named - set(self._control))
        if missing:
            raise ValueError(f"{TOKENIZER_FILE} lacks the special tokens {missing}")

        ordinary = [a for a in added if a["content"] not in self._control]
        self._bytes = {i: _token_bytes(token) for token, i in vocab.items()}
        self._bytes |= {a["id"]: a["content"].encode() for a in ordinary}
        self._bytes |= dict.fromkeys(self._control.values(), b"")
        self._plain = _without_control(spec, ordinary, set(self._control.values()))
        # the library numbers added tokens anew, in order, whatever the file says
        self._renumber = {self._plain.token_to_id(a["content"]): a["id"] for a in ordinary}
        longest_first = sorted(self._control, key=len, reverse=True)
        self._control_pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

        self.bos_id = self._control[prompt.bos_token]
        self.eos_id = self._control[prompt.eos_token]
        self.pad_id = self._control[prompt.pad_token]
        self.begin_image_id = self._control[prompt.begin_image_token]
        self.end_image_id = self._control[prompt.end_image_token]
        self.image_id = self._control[prompt.image_token]

    @classmethod
    def from_folder(cls, folder: str | Path, prompt: PromptConfig) -> TextTokenizer:
        """The tokenizer of a checkpoint folder.

        Where the folder's `tokenizer_config.json` or `special_tokens_map.json` names a beginning- or
        end-of-sentence string it is used instead of the prompt's.  Its padding string is used only if
        the prompt's does not exist: people set it to other tokens to pad batches, while drawing needs
        the one that the model was trained with.  The strings in use are in `.prompt`.
        Raises ValueError if `tokenizer.json` is missing or not a byte-level BPE.
        """
        folder = Path(folder)
        if not (folder / TOKENIZER_FILE).is_file():
            found = sorted(p.name for p in folder.glob("*token*")) if folder.is_dir() else "no such folder"
            raise ValueError(f"{TOKENIZER_FILE} is missing in {folder} (tokenizer files there: {found})")
        source = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
        stated = _stated_strings(folder)
        spec = _parse(source)
        if prompt.pad_token in {a["content"] for a in spec["added_tokens"]} | set(spec["model"]["vocab"]):
            stated.pop("pad_token", None)
        return cls(source, dataclasses.replace(prompt, **stated))

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json` as it was read, and the `tokenizer_config.json` transformers needs."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER_FILE).write_text(self.source, encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.prompt.bos_token,
            "eos_token": self.prompt.eos_token,
            "pad_token": self.prompt.pad_token,
            "extra_special_tokens": {
                "image_token": self.prompt.image_token,
                "boi_token": self.prompt.begin_image_token,
                "eoi_token": self.prompt.end_image_token,
            },
            "clean_up_tokenization_spaces": False,
        }
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    @property
    def size(self) -> int:
        """One more than the largest id, that is the rows the embedding must at least have."""
        return max(self._bytes) + 1

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that no text encodes to and that decode to nothing."""
        return frozenset(self._control.values())

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without a beginning-of-sentence token; never one of `special_ids`.

        Raises ValueError for text that is not Unicode (a lone surrogate).
        """
        text.encode()  # UnicodeEncodeError is a ValueError and names the character
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        return [self._renumber.get(i, i) for i in ids] if self._renumber else ids

    def encode_parts(self, parts: Iterable[Part]) -> list[int]:
        """Ids of a prompt: adjacent strings are encoded as one, each `Special` is one id.

        Raises ValueError for a `Special` that this tokenizer does not have.
        """
        ids: list[int] = []
        run = ""
        for part in parts:
            if isinstance(part, str):
                run += part
                continue
            if part.text not in self._control:
                raise ValueError(f"{part.text!r} is not a special token of this tokenizer")
            ids += self.encode(run) if run else []
            ids.append(self._control[part.text])
            run = ""
        return ids + self.encode(run)

    def split_template(self, text: str) -> list[Part]:
        """Trusted template text, cut at the control strings in it.  Never for users' words."""
        pieces = self._control_pattern.split(text)  # text, control, text, control, ..., text
        parts = [Special(piece) if i % 2 else piece for i, piece in enumerate(pieces)]
        return [part for part in parts if part != ""]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; control tokens and ids beyond the vocabulary are left out.

        Bytes that are not UTF-8 become U+FFFD.  An added letter of the 7B vocabulary decodes to itself;
        the library would read it as the stand-in of a byte and return U+FFFD for it.
        """
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that one id stands for, possibly a part of a character."""
        return self._bytes.get(token, b"")

    def stream(self) -> TextStream:
        """Decoding one id at a time."""
        return TextStream(self)


class TextStream:
    """Incremental decoding.  All pieces together equal `TextTokenizer.decode` of all ids."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that became certain with this id: whole characters only, possibly none."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left; a character that was never completed becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)


def train_bpe(texts: Iterable[str], vocab_size: int, prompt: PromptConfig, path: str | Path) -> TextTokenizer:
    """A byte-level BPE of at most `vocab_size` ids learnt from `texts`, written into the folder `path`.

    The control strings of `prompt`, role strings among them, come after the learnt vocabulary, as in
    Janus-Pro.  Raises ValueError if `vocab_size` has no room for all bytes and the control strings.
    """
    names = [*(getattr(prompt, name) for name in _NEEDED), prompt.user, prompt.assistant]
    specials = list(dict.fromkeys(names))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(specials)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size={vocab_size} is less than the {smallest} of bytes and special tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\r\n]"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(specials)
    bos = (prompt.bos_token, tokenizer.token_to_id(prompt.bos_token))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{prompt.bos_token} $A", pair=f"{prompt.bos_token} $A $B", special_tokens=[bos]
    )
    trained = TextTokenizer(tokenizer.to_str(), prompt)
    trained.save(path)
    return trained


def _parse(source: str) -> dict[str, Any]:
    try:
        spec = json.loads(source)
    except json.JSONDecodeError as error:
        raise ValueError(f"{TOKENIZER_FILE} is not JSON: {error}") from error
    model = (spec.get("model") or {}).get("type")
    decoder = (spec.get("decoder") or {}).get("type")
    if model != "BPE" or decoder != "ByteLevel":
        raise ValueError(
            f"{TOKENIZER_FILE} must hold a byte-level BPE (model 'BPE', decoder 'ByteLevel'), "
            f"not model {model!r} with decoder {decoder!r}"
        )
    return dict(spec)


def _stated_strings(folder: Path) -> dict[str, Any]:
    """The bos, eos and pad strings that the files beside `tokenizer.json` name."""
    stated: dict[str, Any] = {}
    for name in _OVERRIDES:
        if not (folder / name).is_file():
            continue
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        for key in ("bos_token", "eos_token", "pad_token"):
            value = values.get(key)
            text = value.get("content") if isinstance(value, dict) else value
            if text:
                stated[key] = text
    return stated


def _without_control(spec: dict[str, Any], ordinary: list[dict[str, Any]], control: set[int]) -> Tokenizer:
    """The library's tokenizer with no way to reach a control id."""
    model = dict(spec["model"])
    # A control token may also be a row of the vocabulary, and merges could build it: rename the row to
    # what no text is encoded as (NUL has a stand-in, like every byte), and drop the merges.
    barred = {token for token, i in model["vocab"].items() if i in control}
    if barred:
        model["vocab"] = {f"\0{i}" if i in control else token: i for token, i in model["vocab"].items()}
        pairs = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if barred.isdisjoint((a, b, a + b))]
    off: dict[str, Any] = dict.fromkeys(("post_processor", "truncation", "padding"))
    return Tokenizer.from_str(json.dumps(spec | off | {"model": model, "added_tokens": ordinary}))


def _token_bytes(token: str) -> bytes:
    return bytes(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else token.encode()


def _byte_alphabet() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary: printable ones stand for themselves,
    the others are numbered from 256 (GPT-2's scheme)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _byte_alphabet()
