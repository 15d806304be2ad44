"""The tab that compares: one prompt at several guidance values or seeds, on one labelled sheet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr
from PIL import Image

from janus.api import Janus
from janus.requests import Drawing
from janus.serve.engine import Engine
from janus.serve.models import Models
from janus.serve.page_door import folder_of_files
from janus.serve.page_draw import checked_prompt, seed_of
from janus.serve.page_session import Run, Session, asked, following, loading
from janus.serve.page_sheet import sheet, values_of
from janus.serve.page_style import hollow, inline, status
from janus.serve.page_told import place, sentence
from janus.serve.tickets import DroppedError, Ticket

GUIDANCE, SEEDS = "guidance", "seeds"
USUAL = {GUIDANCE: "1, 2, 3, 5", SEEDS: "0-7"}
Updates = dict[Any, Any]


class CompareTab:
    """Its parts; `connect` says what they do."""

    def __init__(self, engine: Engine, models: Models, session: gr.State, model: gr.Dropdown) -> None:
        self._engine, self._models = engine, models
        self._session, self._model = session, model
        self.prompt = gr.Textbox(
            "a photo of a bird and a boat",
            label="What to draw",
            max_lines=3,
            elem_id="compare-prompt",
            html_attributes=gr.InputHTMLAttributes(enterkeyhint="go"),
        )
        with gr.Row():
            self.by = gr.Radio(
                [("Guidance", GUIDANCE), ("Seeds", SEEDS)],
                value=SEEDS,
                label="Compare",
                elem_id="compare-by",
                min_width=220,
            )
            self.values = gr.Textbox(
                USUAL[SEEDS], label="Values", max_lines=1, elem_id="compare-values", min_width=160
            )
            self.seed = gr.Textbox(
                label="Seed of all",
                placeholder="a fresh one",
                max_lines=1,
                visible=False,
                min_width=160,
                elem_id="compare-seed",
            )
        with gr.Row(elem_classes="pair"):
            self.go = gr.Button("Compare", variant="primary", elem_id="compare-go")
            self.stop = gr.Button("Stop", interactive=False, elem_id="compare-stop", elem_classes="stops")
        self.status = gr.HTML(status(), elem_id="compare-status")
        self.sheet = gr.HTML(
            hollow("One prompt, side by side", "Each picture carries its value below it."),
            elem_id="compare-sheet",
        )
        with gr.Row(visible=False, elem_classes="acts") as self.acts:
            self.download = gr.DownloadButton("Download the sheet", size="sm", elem_id="compare-download")

    def connect(self, temperature: gr.Slider, guidance: gr.Slider, **private: Any) -> None:
        """Other settings are those of the tab that draws; `private` are arguments of every event."""
        fields = [self._session, self._model, self.prompt, self.by, self.values, self.seed]
        outputs = [self.status, self.sheet, self.acts, self.download, self.stop]
        gr.on(
            [self.go.click, self.prompt.submit, self.values.submit],
            self._compare,
            [*fields, guidance, temperature],
            outputs,
            **private,
        )
        self.stop.click(self._stop, self._session, None, **private)
        self.by.input(self._other, self.by, [self.values, self.seed], **private)

    # -- what the buttons do ----------------------------------------------------------------------

    async def _compare(
        self,
        session: Session,
        name: str,
        prompt: str,
        by: str,
        text: str,
        seed: str,
        guidance: float,
        temperature: float,
    ) -> AsyncIterator[Updates]:
        run = session.begin("compare")
        try:
            words = checked_prompt(prompt, self._engine.limits.characters)
            values = values_of(text, self._engine.limits.n, whole=by == SEEDS)
            one_seed = seed_of(seed)
            if one_seed is None:
                one_seed = random.SystemRandom().randrange(2**31)
            ways = [
                (int(value), float(guidance)) if by == SEEDS else (one_seed, float(value)) for value in values
            ]
            drawings = [Drawing(words, 1, s, guidance=g, temperature=float(temperature)) for s, g in ways]
            labels = [f"seed {s}" if by == SEEDS else f"guidance {g:g}" for s, g in ways]
            yield {
                self.stop: gr.update(interactive=True),
                self.status: status("Asking for places ..."),
                self.acts: gr.update(visible=False),
            }
            async with aclosing(self._drawn(session, run, name, drawings, labels)) as updates:  # type: ignore[type-var]
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

    async def _drawn(
        self, session: Session, run: Run, name: str, drawings: Sequence[Drawing], labels: Sequence[str]
    ) -> AsyncIterator[Updates]:
        model: Janus | None = None
        async for model, share in loading(self._models, name):
            if model is None:
                yield {self.status: status(f"Loading {name}: {share:.0%}", share)}
        assert model is not None
        title = drawings[0].prompt
        tickets = [await asked(self._engine, model, drawing, run, previews=True) for drawing in drawings]
        seen = -1
        try:
            async with aclosing(_together(tickets)) as changes:  # type: ignore[type-var]
                async for _ in changes:
                    update: Updates = {self.status: _progress(tickets)}
                    made = sum(ticket.shown + ticket.over for ticket in tickets)
                    if made != seen:
                        seen = made
                        update[self.sheet] = await asyncio.to_thread(_live, title, labels, tickets)
                    yield update
        except DroppedError:
            steps, most = _steps(tickets)
            yield {self.status: status(f"Stopped at {steps} of {most} steps.")}
            return
        whole = sheet(title, labels, [ticket.pictures[0] for ticket in tickets])
        whole.info.update(prompt=title, seed=drawings[0].seed, compared=[*labels])
        whole.info["temperature"] = drawings[0].temperature
        if len({drawing.guidance for drawing in drawings}) == 1:
            whole.info["guidance"] = drawings[0].guidance
        (kept,) = await asyncio.to_thread(session.keep, [whole], folder_of_files())
        yield {
            self.status: status(f"{len(tickets)} pictures"),
            self.sheet: await asyncio.to_thread(_live, title, labels, tickets),
            self.download: gr.update(value=str(kept.path)),
            self.acts: gr.update(visible=True),
        }

    def _stop(self, session: Session) -> None:
        session.stop("compare")

    def _other(self, by: str) -> Updates:
        return {
            self.values: USUAL[GUIDANCE if by == GUIDANCE else SEEDS],
            self.seed: gr.update(visible=by == GUIDANCE),
        }


async def _together(tickets: Sequence[Ticket]) -> AsyncIterator[None]:
    """Whenever one has something new, until all are over.  Raises the first error; leaving drops all."""
    news = asyncio.Event()

    async def follow(ticket: Ticket) -> None:
        try:
            async with aclosing(following(ticket)) as changes:  # type: ignore[type-var]
                async for _ in changes:
                    news.set()
        finally:
            news.set()

    tasks = [asyncio.create_task(follow(ticket)) for ticket in tickets]
    try:
        while True:
            await news.wait()
            news.clear()
            yield
            for task in tasks:
                if task.done():
                    task.result()
            if all(task.done() for task in tasks):
                return
            await asyncio.sleep(0.1)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _live(title: str, labels: Sequence[str], tickets: Sequence[Ticket]) -> str:
    made = [ticket.pictures or ticket.previews for ticket in tickets]
    pictures: list[Image.Image | None] = [some[0] if some else None for some in made]
    drawn = sheet(title, labels, pictures)
    return f'<div class="sheet"><img alt="{", ".join(labels)}" src="{inline(drawn)}"></div>'


def _steps(tickets: Sequence[Ticket]) -> tuple[int, int]:
    return sum(ticket.steps for ticket in tickets), sum(ticket.most for ticket in tickets)


def _progress(tickets: Sequence[Ticket]) -> str:
    if all(ticket.state == "waiting" for ticket in tickets):
        return status(place(min(tickets, key=lambda ticket: ticket.place)))
    steps, most = _steps(tickets)
    ready = sum(ticket.state == "done" for ticket in tickets)
    return status(f"{steps} of {most} steps · {ready} of {len(tickets)} pictures ready", steps / most)
