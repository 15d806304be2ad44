"""The tab that draws: pictures appear as they are drawn, and stay with their settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from janus.api import Janus
from janus.config import DrawingConfig
from janus.requests import Drawing
from janus.serve.engine import Engine
from janus.serve.models import Models
from janus.serve.page_door import folder_of_files
from janus.serve.page_session import Run, Session, Shot, asked, following, loading
from janus.serve.page_style import PICK, about, hollow, shots, status, strip, tiles
from janus.serve.page_told import drawing as told_drawing
from janus.serve.page_told import drawn, sentence
from janus.serve.tickets import DroppedError

EXAMPLES = (
    "a photo of a red car",
    "a photo of two dogs",
    "a photo of a clock above a book",
    "a photo of a pizza left of a cup",
    "a photo of a banana and an umbrella",
    "a photo of four oranges",
)
MOST = 8  # pictures at once
Updates = dict[Any, Any]


class DrawTab:
    """Its parts; `connect` says what they do."""

    def __init__(
        self, engine: Engine, models: Models, session: gr.State, model: gr.Dropdown, usual: DrawingConfig
    ) -> None:
        self._engine, self._models = engine, models
        self._session, self._model = session, model
        with gr.Row(elem_id="draw-grid"):
            with gr.Column(elem_id="draw-words"):
                self._words()
            with gr.Column(elem_id="draw-stage"):
                self._stage()
            with gr.Column(elem_id="draw-more"):
                self._settings(usual)

    def _words(self) -> None:
        self.prompt = gr.Textbox(
            label="What to draw",
            placeholder="a photo of ...",
            max_lines=6,
            autofocus=True,
            elem_id="draw-prompt",
            html_attributes=gr.InputHTMLAttributes(enterkeyhint="go"),
        )
        with gr.Row(elem_classes="pair"):
            self.draw = gr.Button("Draw", variant="primary", elem_id="draw-go")
            self.stop = gr.Button("Stop", interactive=False, elem_id="draw-stop", elem_classes="stops")
        self.examples = gr.Dataset(
            components=[gr.Textbox(visible=False)],
            samples=[[example] for example in EXAMPLES],
            label="Try",
            type="values",
            layout="gallery",
            elem_id="draw-examples",
            elem_classes="chips",
        )

    def _settings(self, usual: DrawingConfig) -> None:
        self.n = gr.Slider(
            1, min(MOST, self._engine.limits.n), 1, step=1, label="Pictures", elem_id="draw-n", buttons=[]
        )
        self.seed = gr.Textbox(
            label="Seed",
            info="The same seed draws the same picture again",
            placeholder="a fresh one each time",
            max_lines=1,
            elem_id="draw-seed",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
        )
        self.guidance = gr.Slider(
            1,
            12,
            usual.guidance,
            step=0.5,
            label="Guidance",
            info="1 is none; more holds closer to the words",
            buttons=[],
        )
        self.temperature = gr.Slider(
            0,
            2,
            usual.temperature,
            step=0.05,
            label="Temperature",
            info="More varies more, and errs more",
            buttons=[],
        )

    def _stage(self) -> None:
        self.status = gr.HTML(status(), elem_id="draw-status")
        self.stage = gr.HTML(
            hollow("Nothing drawn yet", "Write what you would like to see, or press one of the examples."),
            js_on_load=PICK,
            elem_id="draw-pictures",
        )
        self.about = gr.HTML(elem_id="draw-about")
        with gr.Row(visible=False, elem_classes="acts") as self.acts:
            self.again = gr.Button("Again", size="sm", elem_id="draw-again")
            self.vary = gr.Button("Vary", size="sm", elem_id="draw-vary")
            self.carry = gr.Button("Ask about it", size="sm", elem_id="draw-carry")
            self.download = gr.DownloadButton("Download", size="sm", elem_id="draw-download")
        self.strip = gr.HTML(js_on_load=PICK, elem_id="draw-strip")

    def connect(self, **private: Any) -> None:
        """`private` are arguments of every event."""
        fields = [self._session, self._model, self.prompt, self.n, self.seed, self.guidance, self.temperature]
        outputs = [
            *(self.prompt, self.n, self.seed, self.guidance, self.temperature),
            *(self.status, self.stage, self.about, self.acts, self.download, self.strip, self.stop),
        ]
        gr.on([self.draw.click, self.prompt.submit], self._draw, fields, outputs, **private)
        self.again.click(self._again, fields, outputs, **private)
        self.vary.click(self._vary, fields, outputs, **private)
        self.examples.click(self._example, [self.examples, *fields], outputs, **private)
        self.stop.click(self._stop, self._session, None, **private)
        for pictures in (self.stage, self.strip):
            pictures.select(
                self._pick, self._session, [self.stage, self.about, self.download, self.acts], **private
            )

    # -- what the buttons do ----------------------------------------------------------------------

    async def _draw(
        self,
        session: Session,
        name: str,
        prompt: str,
        n: int,
        seed: str,
        guidance: float,
        temperature: float,
    ) -> AsyncIterator[Updates]:
        run = session.begin("draw")
        try:
            words = checked_prompt(prompt, self._engine.limits.characters)
            way: dict[str, Any] = {"guidance": float(guidance), "temperature": float(temperature)}
            drawing = Drawing(words, int(n), seed_of(seed), **way)
            yield {self.stop: gr.update(interactive=True), self.status: status("Asking for a place ...")}
            async with aclosing(self._drawn(session, run, name, drawing)) as updates:  # type: ignore[type-var]
                async for update in updates:
                    if run.replaced:
                        return
                    yield update
        except Exception as error:
            if not run.replaced:
                yield {self.status: status(sentence(error), wrong=True)}
        finally:
            run.stop()
        if not run.replaced:
            yield {self.stop: gr.update(interactive=False)}

    async def _drawn(self, session: Session, run: Run, name: str, drawing: Drawing) -> AsyncIterator[Updates]:
        model: Janus | None = None
        async for model, share in loading(self._models, name):
            if model is None:
                yield {self.status: status(f"Loading {name}: {share:.0%}", share)}
        if run.stopped:
            yield {self.status: status("Stopped before it began.")}
            return
        assert model is not None
        ticket = await asked(self._engine, model, drawing, run, previews=True)
        yield {
            self.stage: tiles([], drawing.n),
            self.about: "",
            self.acts: gr.update(visible=False),
            self.seed: gr.update(placeholder=f"a fresh one each time; last: {ticket.job.seeds[0]}"),
        }
        shown = 0
        try:
            async with aclosing(following(ticket)) as changes:  # type: ignore[type-var]
                async for _ in changes:
                    done = ticket.steps / ticket.most if ticket.steps else None
                    update: Updates = {self.status: status(told_drawing(ticket), done)}
                    if ticket.shown != shown:
                        shown = ticket.shown
                        update[self.stage] = await asyncio.to_thread(tiles, ticket.previews, drawing.n)
                    yield update
        except DroppedError:
            yield {self.status: status(f"Stopped at {ticket.steps} of {ticket.most} steps.")}
            return
        made = await asyncio.to_thread(session.keep, ticket.pictures, folder_of_files())
        session.add(made)
        yield self._shown(session) | {
            self.status: status(drawn(ticket)),
            self.strip: strip(session.shots, session.chosen),
        }

    def _shown(self, session: Session) -> Updates:
        """The pictures of the last drawing, one of them chosen; or an older one alone."""
        latest = session.shots[: session.latest]
        some = latest if session.chosen in latest else [shot for shot in [session.chosen] if shot]
        return {
            self.stage: shots(some, session.chosen),
            self.about: about(session.chosen),
            self.download: gr.update(value=str(session.chosen.path) if session.chosen else None),
            self.acts: gr.update(visible=session.chosen is not None),
        }

    def _pick(self, session: Session, event: gr.EventData) -> Updates:
        before = session.chosen
        found = [shot for shot in session.shots if shot.path.name == event.pick]
        if not found:
            return {self.about: about(before)}
        session.chosen = found[0]
        latest = session.shots[: session.latest]
        update = self._shown(session)
        if before in latest and session.chosen in latest:  # the mark was moved in the browser
            del update[self.stage]
        return update

    async def _again(self, session: Session, name: str, *fields: Any) -> AsyncIterator[Updates]:
        async with aclosing(self._from_chosen(session, name, 0, fields)) as updates:  # type: ignore[type-var]
            async for update in updates:
                yield update

    async def _vary(self, session: Session, name: str, *fields: Any) -> AsyncIterator[Updates]:
        step = max(session.latest, 1)
        async with aclosing(self._from_chosen(session, name, step, fields)) as updates:  # type: ignore[type-var]
            async for update in updates:
                yield update

    async def _from_chosen(
        self, session: Session, name: str, step: int, fields: tuple[Any, ...]
    ) -> AsyncIterator[Updates]:
        """With the prompt and settings of the chosen picture, from its seed or the next ones."""
        if session.chosen is None:
            yield {self.status: status("Draw a picture first.", wrong=True)}
            return
        own = session.chosen.settings
        latest = session.shots[: session.latest]
        first = latest[0].settings if session.chosen in latest else own
        n = session.latest if session.chosen in latest else 1
        seed = str(first["seed"] + (step if session.chosen in latest else bool(step)))
        yield {
            self.prompt: own["prompt"],
            self.n: n,
            self.seed: seed if str(fields[2] or "").strip() else gr.skip(),
            self.guidance: own["guidance"],
            self.temperature: own["temperature"],
        }
        drawn = self._draw(session, name, own["prompt"], n, seed, own["guidance"], own["temperature"])
        async with aclosing(drawn) as updates:  # type: ignore[type-var]
            async for update in updates:
                yield update

    async def _example(
        self, example: list[str], session: Session, name: str, _: str, *fields: Any
    ) -> AsyncIterator[Updates]:
        prompt = str(example[0])
        yield {self.prompt: prompt}
        async with aclosing(self._draw(session, name, prompt, *fields)) as updates:  # type: ignore[type-var]
            async for update in updates:
                yield update

    def _stop(self, session: Session) -> None:
        session.stop("draw")


def checked_prompt(prompt: str, most: int) -> str:
    """Raises ValueError where there is nothing to draw, or too much of it."""
    words = prompt.strip()
    if not words:
        raise ValueError("write what to draw first")
    if len(words) > most:
        raise ValueError(f"the prompt has {len(words):,} characters; at most {most:,} are read")
    return words


def seed_of(text: str) -> int | None:
    words = str(text or "").strip()
    if not words:
        return None
    if not words.isascii() or not words.isdigit() or int(words) >= 2**63:
        raise ValueError(f"a seed is a whole number from 0 to 2**63 - 1, not {words[:40]!r}")
    return int(words)


def shot_to_carry(session: Session) -> Shot:
    """Raises ValueError where there is none."""
    if session.chosen is None or not session.chosen.path.exists():
        raise ValueError("draw a picture first")
    return session.chosen
