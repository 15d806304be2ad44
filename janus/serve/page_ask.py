"""The tab that answers: a conversation about pictures, which streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from janus.api import Janus
from janus.config import ImageConfig
from janus.requests import Question
from janus.serve.engine import Engine
from janus.serve.models import Models
from janus.serve.page_session import Run, Session, Turn, asked, following, loading
from janus.serve.page_style import status
from janus.serve.page_told import answering, sentence
from janus.serve.pictures import read
from janus.serve.tickets import DroppedError
from janus.tokenizers.chat import Message

EXAMPLES = (
    "What is in the picture?",
    "How many dogs are there?",
    "Is there a car?",
    "What is at the top?",
    "What color is the car?",
)
ABOUT_IT = EXAMPLES[0]
Updates = dict[Any, Any]


class AskTab:
    """Its parts; `connect` says what they do."""

    def __init__(
        self, engine: Engine, models: Models, session: gr.State, model: gr.Dropdown, *, follow: bool
    ) -> None:
        self._engine, self._models = engine, models
        self._session, self._model = session, model
        most = engine.limits.tokens
        self.chat = gr.Chatbot(
            label="Conversation",
            show_label=False,
            height="min(46vh, 560px)",
            placeholder="**Ask about pictures**\n\nDrop, paste or take one below, or draw one first.",
            render_markdown=False,  # a browser would fetch pictures that an answer names
            allow_tags=False,
            buttons=["copy"],
            feedback_options=None,
            elem_id="ask-chat",
        )
        self.status = gr.HTML(status(), elem_id="ask-status")
        self.box = gr.MultimodalTextbox(
            label="Question",
            show_label=False,
            placeholder="Ask something; drop or paste pictures here",
            file_types=["image"],
            file_count="multiple",
            sources=["upload"],
            max_plain_text_length=engine.limits.characters,
            elem_id="ask-box",
        )
        self.examples = gr.Dataset(
            components=[gr.Textbox(visible=False)],
            samples=[[example] for example in EXAMPLES],
            label="Try",
            layout="gallery",
            type="values",
            elem_classes="chips",
            elem_id="ask-examples",
        )
        with gr.Row(elem_classes="acts"):
            self.carry = gr.Button("Draw this answer", size="sm", interactive=False, elem_id="ask-carry")
            self.new = gr.Button("New conversation", size="sm", elem_id="ask-new")
        with gr.Accordion("Take a picture", open=False, elem_id="ask-camera"):
            self.camera = gr.Image(
                sources=["webcam"],
                label="Camera",
                show_label=False,
                height=300,
                webcam_options=gr.WebcamOptions(mirror=False),
                buttons=[],
            )
        with gr.Accordion("Settings", open=False):
            self.follow = gr.Checkbox(
                follow,
                label="Remember the conversation",
                info="If not, each question is asked alone, about the latest pictures; "
                "the model in the package understands no more",
                elem_id="ask-follow",
            )
            self.most = gr.Slider(
                1, most, min(512, most), step=1, label="Longest answer, in tokens", buttons=[]
            )
            self.temperature = gr.Slider(
                0, 2, 0, step=0.05, label="Temperature", info="0 always takes the likeliest word", buttons=[]
            )

    def connect(self, **private: Any) -> None:
        """`private` are arguments of every event."""
        fields = [self._session, self._model, self.follow, self.most, self.temperature]
        outputs = [self.chat, self.status, self.box, self.carry]
        self.box.submit(self._ask, [self.box, *fields], outputs, **private)
        self.examples.click(self._example, [self.examples, self.box, *fields], outputs, **private)
        self.box.stop(self._stop, self._session, None, **private)
        gr.on([self.new.click, self.chat.clear], self._new, self._session, outputs, **private)
        # as it was sent: Gradio's own reading of pictures has no limits
        self.camera.input(
            self._taken, [self.camera, self.box], [self.box, self.camera], preprocess=False, **private
        )

    # -- what the buttons do ----------------------------------------------------------------------

    async def _ask(
        self, asking: dict[str, Any] | None, session: Session, name: str, follow: bool, *settings: float
    ) -> AsyncIterator[Updates]:
        words = str((asking or {}).get("text") or "").strip()
        files = [str(file) for file in (asking or {}).get("files") or []]
        run, before = session.begin("ask"), session.turns
        end: Updates = {}
        box: dict[str, Any] = {"submit_btn": True, "stop_btn": False}
        try:
            turns = [*before, Turn("user", self._checked(words, files, before), files)]
            yield {
                self.status: status("Asking for a place ..."),
                self.box: gr.update(submit_btn=False, stop_btn=True),
                self.carry: gr.update(interactive=False),
            }
            answered = self._answered(session, run, name, turns, follow, *settings)
            async with aclosing(answered) as updates:  # type: ignore[type-var]
                async for update in updates:
                    if run.replaced:
                        return
                    yield update
        except Exception as error:
            end = {self.status: status(sentence(error), wrong=not isinstance(error, DroppedError))}
            if run.tickets:  # the box was emptied
                end[self.chat] = shown(before)
                box["value"] = {"text": words, "files": files}
        finally:
            run.stop()
        if not run.replaced:
            answer = bool(last_answer(session))
            yield end | {self.box: gr.update(**box), self.carry: gr.update(interactive=answer)}

    async def _answered(
        self,
        session: Session,
        run: Run,
        name: str,
        turns: list[Turn],
        follow: bool,
        most: float,
        temperature: float,
    ) -> AsyncIterator[Updates]:
        model: Janus | None = None
        async for model, share in loading(self._models, name):
            if model is None:
                yield {self.status: status(f"Loading {name}: {share:.0%}", share)}
        if run.stopped:
            raise DroppedError("stopped")
        assert model is not None
        now = turns if follow else [_alone(turns)]
        messages = await asyncio.to_thread(self._messages, now, model.config.image)
        question = Question(messages, max_tokens=int(most), temperature=float(temperature))
        ticket = await asked(self._engine, model, question, run)
        yield {self.chat: shown(turns), self.box: {"text": "", "files": []}}
        words = ""
        try:
            async with aclosing(following(ticket)) as changes:  # type: ignore[type-var]
                async for _ in changes:
                    words = ticket.words.strip()
                    said = [*turns, Turn("assistant", words)] if words else turns
                    yield {self.chat: shown(said), self.status: status(answering(ticket))}
        except DroppedError:
            words = ticket.words.strip()
            if not words or run.replaced:
                raise
            yield {self.status: status(f"Stopped after {ticket.steps} tokens.")}
        session.turns = [*turns, Turn("assistant", words or "(no words)")]
        yield {self.chat: shown(session.turns)}

    async def _example(
        self, example: list[str], asking: dict[str, Any] | None, session: Session, *fields: Any
    ) -> AsyncIterator[Updates]:
        """About the pictures that are there, or else the one that was drawn."""
        files = [*(asking or {}).get("files", [])]
        if not files and not any(turn.images for turn in session.turns):
            if session.chosen is None:
                yield {self.status: status("Drop a picture here, or draw one, to ask about it.", wrong=True)}
                return
            files = [str(session.chosen.path)]
        full = {"text": str(example[0]), "files": files}
        async with aclosing(self._ask(full, session, *fields)) as updates:  # type: ignore[type-var]
            async for update in updates:
                yield update

    def _stop(self, session: Session) -> None:
        session.stop("ask")

    def _new(self, session: Session) -> Updates:
        session.begin("ask").stop()
        session.turns = []
        empty = gr.update(value={"text": "", "files": []}, submit_btn=True, stop_btn=False)
        return {
            self.chat: [],
            self.status: status(),
            self.box: empty,
            self.carry: gr.update(interactive=False),
        }

    def _taken(self, photo: dict[str, Any] | None, asking: dict[str, Any] | None) -> Updates:
        """A photograph goes into the question; both come as the browser sent them."""
        asking = asking or {}
        files = [file["path"] for file in asking.get("files") or []]
        if photo and photo.get("path"):
            files.append(photo["path"])
        return {self.box: {"text": asking.get("text") or "", "files": files}, self.camera: None}

    # -- checks -----------------------------------------------------------------------------------

    def _checked(self, words: str, files: list[str], before: list[Turn]) -> str:
        limits = self._engine.limits
        if not words:
            raise ValueError("write a question first")
        pictures = len(files) + sum(len(turn.images) for turn in before)
        if pictures > limits.images:
            raise ValueError(
                f"a conversation holds at most {limits.images} pictures, this one would have {pictures}; "
                "start a new conversation"
            )
        length = len(words) + sum(len(turn.content) for turn in before)
        if length > limits.characters:
            raise ValueError(
                f"the conversation has {length:,} characters; at most {limits.characters:,} are read"
            )
        return words

    def _messages(self, turns: list[Turn], config: ImageConfig) -> list[Message]:
        messages: list[Message] = []
        for turn in turns:
            pictures = [self._picture(file, config) for file in turn.images]
            message = {"role": turn.role, "content": turn.content}
            messages.append(message | {"images": pictures} if pictures else message)
        return messages

    def _picture(self, file: str, config: ImageConfig) -> Image.Image:
        path = Path(file)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{path.name} is no longer here; send it again") from error
        try:
            return read(data, config, self._engine.limits)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error


def _alone(turns: list[Turn]) -> Turn:
    """The last question with the latest pictures."""
    pictures = next((turn.images for turn in reversed(turns) if turn.images), [])
    return Turn("user", turns[-1].content, pictures)


def shown(turns: list[Turn]) -> list[dict[str, Any]]:
    """A conversation as Gradio shows it: each turn's pictures, then its words."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages += [
            {"role": turn.role, "content": {"path": file, "alt_text": "a picture that was sent"}}
            for file in turn.images
        ]
        messages.append({"role": turn.role, "content": turn.content})
    return messages


def last_answer(session: Session) -> str:
    answers = [turn.content for turn in session.turns if turn.role == "assistant"]
    return answers[-1] if answers else ""
