"""What a model is made of: frozen dataclasses, the presets, and their JSON form.

Every size of a model is read from here; no module looks into a dictionary.  The numbers of the
presets are those of the published checkpoints (their `config.json`) and, for the core, of the
Janus-Pro report (section 3.1) and the DeepSeek-V2 and DeepSeek-V3 reports (sections 2.1 and 2.2).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)


@dataclass(frozen=True)
class YarnConfig:
    """YaRN context extension as DeepSeek-V2/V3 use it (arXiv 2309.00071)."""

    factor: float
    original_positions: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0


@dataclass(frozen=True)
class MlaConfig:
    """Multi-head latent attention (DeepSeek-V2 report, section 2.1)."""

    kv_rank: int  # width of the compressed key-value latent, what the cache holds
    nope_dim: int  # per head, the part of query and key without position
    rope_dim: int  # per head, the rotary part; its key is shared by all heads
    v_dim: int  # per head
    q_rank: int | None = None  # width of the compressed query, None: no compression


@dataclass(frozen=True)
class MoeConfig:
    """Fine-grained routed experts beside shared ones (DeepSeek-V2 section 2.2, V3 section 2.1.2)."""

    experts: int
    active: int  # routed experts per token
    expert_width: int  # hidden width of one expert
    shared: int = 1  # shared experts, computed as one feed-forward of `shared * expert_width`
    routing: Literal["softmax", "sigmoid"] = "sigmoid"  # V2 | V3
    groups: int = 1
    active_groups: int = 1
    normalise: bool = True  # chosen weights divided by their sum
    scale: float = 1.0  # chosen weights times this
    bias_speed: float = 1e-3  # step of the balancing bias, V3's gamma; the V2 routing has no bias
    balance_loss: float = 1e-4  # weight of the sequence-wise balance loss, V3's alpha

    def __post_init__(self) -> None:
        if self.active > self.experts:
            raise ValueError(f"active={self.active} experts of only experts={self.experts}")
        if self.experts % self.groups:
            raise ValueError(f"experts={self.experts} do not divide into groups={self.groups}")
        if self.active > self.active_groups * (self.experts // self.groups):
            raise ValueError(
                f"active={self.active} experts do not fit into active_groups={self.active_groups} "
                f"of {self.experts // self.groups} experts each"
            )


@dataclass(frozen=True)
class CoreConfig:
    """The one transformer.  `attention` and `feed_forward` name each layer's kind."""

    vocab_size: int
    width: int
    heads: int
    attention: tuple[Literal["gqa", "mla"], ...]
    feed_forward: tuple[Literal["dense", "moe"], ...]
    ffn_width: int  # hidden width of the dense layers
    kv_heads: int | None = None  # gqa only; None: as many as heads
    head_dim: int | None = None  # gqa only; None: width / heads
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_positions: int = 16384
    yarn: YarnConfig | None = None
    mla: MlaConfig | None = None
    moe: MoeConfig | None = None
    quantization: Literal["int8", "int4", "fp8"] | None = None  # how the layers' matrices are stored

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.feed_forward):
            raise ValueError(
                f"attention names {len(self.attention)} layers, feed_forward {len(self.feed_forward)}"
            )
        if "mla" in self.attention and self.mla is None:
            raise ValueError("a layer uses 'mla' attention but mla is not configured")
        if "moe" in self.feed_forward and self.moe is None:
            raise ValueError("a layer uses a 'moe' feed-forward but moe is not configured")
        if "gqa" in self.attention:
            if self.head_dim is None and self.width % self.heads:
                raise ValueError(f"width={self.width} does not divide into heads={self.heads}")
            if self.heads % self.num_kv_heads:
                raise ValueError(f"heads={self.heads} do not divide into kv_heads={self.num_kv_heads}")

    @property
    def layers(self) -> int:
        return len(self.attention)

    @property
    def num_kv_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def gqa_head_dim(self) -> int:
        return self.width // self.heads if self.head_dim is None else self.head_dim


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP tower of understanding: a timm vision transformer with a pooling head it does not use."""

    image_size: int = 384
    patch_size: int = 16
    width: int = 1024
    depth: int = 24
    heads: int = 16
    ffn_width: int = 4096

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} is not a multiple of patch_size={self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(f"width={self.width} does not divide into heads={self.heads}")

    @property
    def tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class VqConfig:
    """The VQ image tokenizer of generation (LlamaGen's VQ-16)."""

    image_size: int = 384
    codes: int = 16384  # rows of the codebook
    code_dim: int = 8
    z_channels: int = 256
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    fold: int = 1  # pixels folded into channels before the first convolution: fold 4 works at a quarter size
    tones: int = 1  # codes that share a shape and differ in tone: code = shape * tones + tone
    tone_dim: int = 0  # last numbers of a code's vector, which tell its tone; those before tell its shape

    def __post_init__(self) -> None:
        if self.tones < 1 or self.codes % self.tones:
            raise ValueError(f"codes={self.codes} is not a multiple of tones={self.tones} (1 or more)")
        if (self.tones > 1) != (0 < self.tone_dim < self.code_dim):
            raise ValueError(
                f"tone_dim={self.tone_dim} of code_dim={self.code_dim} does not fit tones={self.tones}: with "
                "tones, both shape and tone need a part of a code's vector, without them tone_dim is 0"
            )
        if self.image_size % self.downsampling:
            raise ValueError(
                f"image_size={self.image_size} is not a multiple of the downsampling {self.downsampling}"
            )

    @property
    def downsampling(self) -> int:
        return self.fold * 2 ** (len(self.multipliers) - 1)

    @property
    def grid(self) -> int:
        """Codes along one side of the picture."""
        return self.image_size // self.downsampling

    @property
    def tokens(self) -> int:
        return self.grid**2


@dataclass(frozen=True)
class ImageConfig:
    """How a picture becomes the understanding encoder's input."""

    size: int = 384
    min_size: int = 14  # the short side is never scaled below this
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rounding: Literal["truncate", "round"] = "truncate"  # of the scaled sides: official | transformers

    def __post_init__(self) -> None:
        if not 0 < self.min_size <= self.size:
            raise ValueError(f"min_size={self.min_size} must be at least 1 and at most size={self.size}")


@dataclass(frozen=True)
class PromptConfig:
    """What surrounds the users' words.  Ids are looked up by these strings."""

    user: str = "<|User|>"
    assistant: str = "<|Assistant|>"
    system_prompt: str = SYSTEM_PROMPT
    use_system_prompt: bool = True  # for understanding; drawing never has one
    jinja: str | None = None  # a folder's own chat template, used instead of the built-in one
    bos_token: str = "<｜begin▁of▁sentence｜>"
    eos_token: str = "<｜end▁of▁sentence｜>"
    pad_token: str = "<｜▁pad▁｜>"
    image_token: str = "<image_placeholder>"
    begin_image_token: str = "<begin_of_image>"
    end_image_token: str = "<end_of_image>"


@dataclass(frozen=True)
class DrawingConfig:
    """How a checkpoint's pictures are drawn unless the caller says otherwise; the official values."""

    guidance: float = 5.0
    temperature: float = 1.0


@dataclass(frozen=True)
class JanusConfig:
    """A whole Janus model: two encoders, two adaptors, one core, two heads."""

    core: CoreConfig
    vision: VisionConfig = field(default_factory=VisionConfig)
    vq: VqConfig = field(default_factory=VqConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    drawing: DrawingConfig = field(default_factory=DrawingConfig)
    und_adaptor_depth: int = 2
    gen_adaptor_depth: int = 2
    gen_head_width: int | None = None  # hidden width of the image head; None: the core's

    def __post_init__(self) -> None:
        if self.image.size != self.vision.image_size:
            raise ValueError(
                f"pictures are prepared at {self.image.size} pixels, "
                f"but the vision encoder takes {self.vision.image_size}"
            )

    @property
    def image_head_width(self) -> int:
        return self.core.width if self.gen_head_width is None else self.gen_head_width

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `json.dumps` takes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> JanusConfig:
        """The inverse of `to_dict`.  Raises ValueError naming any unknown or missing field."""
        return dataclass_from_dict(cls, values, "config")


def dataclass_from_dict(cls: Any, values: Any, where: str) -> Any:
    """A dataclass of this kind from plain values, strictly.

    `where` names the values in the ValueErrors for what is unknown, missing or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be an object, not {values!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        hint = "; a space must follow the colon" if any(":" in str(name) for name in unknown) else ""
        raise ValueError(f"{where} has unknown fields {unknown}{hint}; known are {sorted(hints)}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where} lacks {missing}")
    return cls(**{name: _typed(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _typed(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint` asks: nested dataclasses and tuples rebuilt, everything else checked."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _typed(next(a for a in typing.get_args(hint) if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return dataclass_from_dict(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, not {value!r}")
        return tuple(_typed(typing.get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{where} must be one of {list(typing.get_args(hint))}, not {value!r}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ValueError(f"{where} must be {hint.__name__}, not {value!r}")
    return value


def _llama(width: int, ffn_width: int, layers: int, heads: int) -> CoreConfig:
    return CoreConfig(
        vocab_size=102400,
        width=width,
        heads=heads,
        attention=tuple(["gqa"] * layers),
        feed_forward=tuple(["dense"] * layers),
        ffn_width=ffn_width,
    )


def _small(core: CoreConfig, multipliers: tuple[int, ...], fold: int) -> JanusConfig:
    """A model of a few hundred thousand parameters around `core`, for tests."""
    return JanusConfig(
        core=core,
        vision=VisionConfig(image_size=32, patch_size=8, width=32, depth=2, heads=2, ffn_width=64),
        vq=VqConfig(
            image_size=32,
            codes=64,
            z_channels=16,
            channels=32,
            multipliers=multipliers,
            res_blocks=1,
            fold=fold,
        ),
        image=ImageConfig(size=32),
    )


def _presets() -> dict[str, JanusConfig]:
    pro_1b = JanusConfig(core=_llama(2048, 5632, 24, 16))
    v2 = MoeConfig(
        experts=8, active=3, expert_width=32, shared=2, routing="softmax", normalise=False, balance_loss=1e-3
    )
    v3 = MoeConfig(experts=8, active=3, expert_width=32, groups=4, active_groups=2, scale=2.5)
    mla = MlaConfig(kv_rank=32, nope_dim=16, rope_dim=8, v_dim=16)
    yarn = YarnConfig(factor=40, original_positions=4096, mscale=0.707, mscale_all_dim=0.707)
    shape: dict[str, Any] = dict(vocab_size=1024, width=64, heads=4, ffn_width=128, max_positions=1024)
    deep: dict[str, Any] = shape | dict(attention=("mla",) * 3, feed_forward=("dense", "moe", "moe"))
    return {
        "janus-1.3b": dataclasses.replace(pro_1b, prompt=PromptConfig(user="User", assistant="Assistant")),
        "janus-pro-1b": pro_1b,
        "janus-pro-7b": JanusConfig(core=_llama(4096, 11008, 30, 32)),
        "tiny": _small(
            CoreConfig(**shape, attention=("gqa",) * 2, feed_forward=("dense",) * 2, kv_heads=2),
            multipliers=(1, 1, 2, 2),
            fold=1,
        ),
        "tiny-v2": _small(CoreConfig(**deep, mla=mla, moe=v2, yarn=yarn), multipliers=(1, 2), fold=4),
        "tiny-v3": _small(
            CoreConfig(**deep, mla=dataclasses.replace(mla, q_rank=24), moe=v3), multipliers=(1, 2), fold=4
        ),
    }


PRESETS: dict[str, JanusConfig] = _presets()
