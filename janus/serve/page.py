"""The web page: draw, ask, compare, on the server's own engine.  It needs no network beyond its own host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import gradio as gr
from fastapi import FastAPI

from janus.serve.engine import Engine
from janus.serve.models import OWN, Models
from janus.serve.page_ask import ABOUT_IT, AskTab, last_answer
from janus.serve.page_compare import CompareTab
from janus.serve.page_door import Door, Page, folder_of_files, forget_files
from janus.serve.page_draw import DrawTab, shot_to_carry
from janus.serve.page_session import Session, loading
from janus.serve.page_style import CSS, JS, status, theme
from janus.serve.page_told import sentence

# Handlers wait in the engine's queue, which tells places, not in Gradio's; and they are no second API.  A
# button that is pressed again begins again: by itself Gradio's page loses the press until it has heard of the
# last one's end.
_EVENT: dict[str, Any] = {
    "concurrency_limit": None,
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
}
_TO_QUESTION = "() => setTimeout(() => document.querySelector('#ask-box textarea')?.focus(), 150)"
_TO_PROMPT = "() => setTimeout(() => document.querySelector('#draw-prompt textarea')?.focus(), 150)"


def build(engine: Engine, models: Models) -> gr.Blocks:
    """The page for `mount`, with the default model in memory."""
    folder_of_files()
    with Page(title="Janus", analytics_enabled=False, delete_cache=(600, 4 * 3600), fill_width=True) as page:
        session = gr.State(Session(), delete_callback=Session.end)
        with gr.Row(elem_id="head"):
            gr.HTML(
                '<div id="brand"><h1>Janus<span>.</span></h1>'
                "<p>One model that draws pictures and answers questions about them</p></div>"
            )
            with gr.Column(elem_id="model-box"):
                model = gr.Dropdown(
                    _menu(models),
                    value=models.default,
                    label="Model",
                    container=False,
                    filterable=False,
                    interactive=True,
                    elem_id="model",
                )
                note = gr.HTML(status(), elem_id="model-note")
        with gr.Tabs(selected="draw") as tabs:
            with gr.Tab("Draw", id="draw"):
                draw = DrawTab(engine, models, session, model, models.get().config.drawing)
            with gr.Tab("Ask", id="ask"):
                ask = AskTab(engine, models, session, model, follow=_follows(models.default))
            with gr.Tab("Compare", id="compare"):
                compare = CompareTab(engine, models, session, model)
        draw.connect(**_EVENT)
        ask.connect(**_EVENT)
        compare.connect(draw.temperature, draw.guidance, **_EVENT)
        _carry_over(tabs, session, draw, ask)

        choose = _chooser(models, model, note, draw, ask)
        chosen = [model, note, draw.guidance, draw.temperature, ask.follow]
        model.input(choose, [session, model], chosen, **_EVENT)
        page.load(choose, [session, model], chosen, **_EVENT)
        page.load(lambda own: own, session, session, **_EVENT)  # Gradio ends only states that it was given
    page.queue(default_concurrency_limit=None, api_open=False)
    page.has_launched = True  # its checks of files are off before
    return page


def mount(
    app: FastAPI, engine: Engine, models: Models, *, auth: Callable[[str, str], bool] | None = None
) -> FastAPI:
    """Put the page at "/", below every route that `app` has already.

    `auth` says whether a name and a password may enter.
    """
    app = gr.mount_gradio_app(
        app,
        build(engine, models),
        path="/",
        footer_links=[],
        run_history=False,
        auth=auth,
        auth_message="Any user name, and one of the server's keys as the password." if auth else None,
        allowed_paths=[],
        show_error=False,
        max_file_size=engine.limits.body,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css_paths=CSS,
        js=JS,
    )
    app.router.lifespan_context = _forgetting(app.router.lifespan_context)
    mounted: Any = app.router.routes[-1]
    mounted.app = Door(mounted.app)
    return app


def _forgetting(lifespan: Any) -> Any:
    """The same, and at its end no file of a visitor stays."""

    @asynccontextmanager
    async def longer(app: FastAPI) -> AsyncIterator[Any]:
        folder_of_files()
        try:
            async with lifespan(app) as state:
                yield state
        finally:
            forget_files()

    return longer


def _menu(models: Models) -> list[tuple[str, str]]:
    words = {"ready": " · ready", "loading": " · loading", "on disk": ""}
    return [(name + words[models.state(name)[0]], name) for name in models.names]


def _follows(name: str) -> bool:
    """Whether a model understands a conversation: ours was taught single questions only."""
    return name != OWN


def _chooser(
    models: Models, model: gr.Dropdown, note: gr.HTML, draw: DrawTab, ask: AskTab
) -> Callable[[Session, str], Any]:
    async def choose(own: Session, name: str) -> AsyncIterator[dict[Any, Any]]:
        """Load it, and set the fields to its own settings."""
        try:
            async for loaded, share in loading(models, name):
                if loaded is None:
                    yield {note: status(f"Loading {name}: {share:.0%}", share)}
                    continue
                own.model, side, drawing = name, loaded.config.vq.image_size, loaded.config.drawing
                yield {
                    model: gr.update(choices=_menu(models)),
                    note: status(f"Ready. It draws {side} × {side} pixels."),
                    draw.guidance: drawing.guidance,
                    draw.temperature: drawing.temperature,
                    ask.follow: _follows(name),
                }
        except Exception as error:
            before = own.model or models.default
            yield {
                model: gr.update(choices=_menu(models), value=before),
                note: status(sentence(error), wrong=True),
            }

    return choose


def _carry_over(tabs: gr.Tabs, session: gr.State, draw: DrawTab, ask: AskTab) -> None:
    def to_ask(own: Session) -> dict[Any, Any]:
        try:
            shot = shot_to_carry(own)
        except ValueError as error:
            return {draw.status: status(sentence(error), wrong=True)}
        return {
            tabs: gr.Tabs(selected="ask"),
            ask.box: {"text": ABOUT_IT, "files": [str(shot.path)]},
        }

    def to_draw(own: Session) -> dict[Any, Any]:
        return {tabs: gr.Tabs(selected="draw"), draw.prompt: last_answer(own)}

    asked = draw.carry.click(to_ask, session, [tabs, ask.box, draw.status], **_EVENT)
    asked.then(None, js=_TO_QUESTION)
    drawn = ask.carry.click(to_draw, session, [tabs, draw.prompt], **_EVENT)
    drawn.then(None, js=_TO_PROMPT)
