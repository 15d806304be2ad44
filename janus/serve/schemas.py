"""The bodies of requests and answers, as OpenAI's API has them; strict, so that nothing is silently ignored.

Fields that OpenAI has and a Janus model can't honour are there with the values that ask for nothing.  Other
fields may only be null.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 2.0 is 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
Zero = Annotated[float, Field(ge=0, le=0)]
Nothing = Annotated[list[Any], Field(max_length=0)]
NoEntries = Annotated[dict[str, Any], Field(max_length=0)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class _Asked(BaseModel):
    """Unknown fields are refused, but for null: clients send null for what they do not use."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, None]


# -- chat ---------------------------------------------------------------------------------------


class TextPart(_Asked):
    type: Literal["text"]
    text: str


class ImageUrl(_Asked):
    url: str = Field(description="data:image/...;base64,...; http(s) only from hosts that the server allows")
    detail: Literal["auto", "low", "high", "original"] | None = Field(
        None, description="changes nothing: the model looks at every picture at its own size"
    )


class ImagePart(_Asked):
    type: Literal["image_url"]
    image_url: ImageUrl


UserPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(_Asked):
    role: Literal["system", "developer"]
    content: str | list[TextPart]


class UserMessage(_Asked):
    role: Literal["user"]
    content: str | list[UserPart]


class AssistantMessage(_Asked):
    """A past answer, also as a client got it: with the fields of OpenAI's answers, empty."""

    role: Literal["assistant"]
    content: str | list[TextPart]
    annotations: Nothing | None = None
    tool_calls: Nothing | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(_Asked):
    include_usage: bool | None = Field(None, description="a last piece with the counts of tokens")
    include_obfuscation: Literal[False] | None = None


class PlainText(_Asked):
    type: Literal["text"]


class ChatRequest(_Asked):
    model_config = ConfigDict(
        json_schema_extra={"example": {"messages": [{"role": "user", "content": "What is red?"}]}}
    )

    model: str | None = Field(None, description="one of /v1/models; the server's first if left out")
    messages: list[Message] = Field(
        min_length=1, description="user and assistant alternate, after at most one system message"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Whole | None = Field(None, ge=1, lt=2**31, description="of each answer; 512 if left out")
    max_completion_tokens: Whole | None = Field(
        None, ge=1, lt=2**31, description="the newer name of max_tokens"
    )
    temperature: Number | None = Field(None, ge=0, le=2, description="0, the default, is greedy")
    top_p: Number | None = Field(None, gt=0, le=1)
    seed: Seed | None = Field(None, description="answer i is drawn from seed + i; a fresh one if left out")
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = Field(
        None, description="words at which an answer ends; they are not part of it"
    )
    n: Whole | None = Field(None, ge=1, lt=2**31, description="answers")

    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None

    tools: Nothing | None = None
    tool_choice: Literal["none"] | None = None
    functions: Nothing | None = None
    logprobs: Literal[False] | None = None
    logit_bias: NoEntries | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    response_format: PlainText | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    store: Literal[False] | None = None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int
    message: Answer
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


# -- pictures -----------------------------------------------------------------------------------


class ImagesRequest(_Asked):
    model_config = ConfigDict(json_schema_extra={"example": {"prompt": "a photo of a red car"}})

    prompt: Annotated[str, StringConstraints(pattern=r"\S")]
    model: str | None = Field(None, description="one of /v1/models; the server's first if left out")
    n: Whole | None = Field(None, ge=1, lt=2**31, description="pictures")
    size: Annotated[str, StringConstraints(pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$")] | None = Field(
        None, description="auto, or the one size that the model draws"
    )
    response_format: Literal["b64_json"] | None = None
    stream: bool | None = None
    partial_images: Whole | None = Field(
        None, ge=0, le=3, description="with stream: how often unfinished pictures are sent, at most"
    )

    seed: Seed | None = Field(None, description="picture i is drawn from seed + i; a fresh one if left out")
    guidance: Number | None = Field(None, ge=0, le=100, description="1 is none; the model's own if left out")
    temperature: Number | None = Field(None, ge=0, le=2, description="the model's own if left out")
    top_k: Whole | None = Field(None, ge=0, lt=2**31, description="0: all")
    top_p: Number | None = Field(None, gt=0, le=1)

    user: str | None = None
    safety_identifier: str | None = None

    quality: Literal["auto", "standard"] | None = None
    style: Literal["vivid"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    output_format: Literal["png"] | None = None
    output_compression: Annotated[Whole, Field(ge=100, le=100)] | None = None


class Picture(BaseModel):
    b64_json: str
    seed: int


class InputDetails(BaseModel):
    text_tokens: int
    image_tokens: Literal[0] = 0


class ImagesUsage(BaseModel):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails


class Images(BaseModel):
    created: int
    background: Literal["opaque"] = "opaque"
    output_format: Literal["png"] = "png"
    size: str
    data: list[Picture]
    usage: ImagesUsage


# -- the rest -----------------------------------------------------------------------------------


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["janus"] = "janus"
    state: Literal["on disk", "loading", "ready"]


class ModelCards(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ok", "stopping", "broken"]


class Wrong(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """Every error has this body."""

    error: Wrong

    WHEN: ClassVar[dict[int, str]] = {
        400: "something in the request is wrong; `param` names it",
        401: "the key is missing or wrong",
        404: "there is no such model",
        408: "the body did not arrive in time",
        413: "the body is larger than the server takes",
        415: "the body is not sent as application/json",
        429: "the queue is full; Retry-After says when to come back",
        500: "the server failed",
        503: "the server is about to stop, or can't load the model",
        504: "the request took longer than it may",
    }

    @classmethod
    def answers(cls, *statuses: int) -> dict[int | str, dict[str, Any]]:
        """For FastAPI's `responses`."""
        return {status: {"model": cls, "description": cls.WHEN[status]} for status in statuses}
