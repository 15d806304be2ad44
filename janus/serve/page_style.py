"""How the page looks: theme, style sheet, the few lines of script, and pieces of HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import gradio as gr
from PIL import Image

from janus.serve.page_session import Shot

_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

CSS = Path(__file__).with_name("page.css")

# Escape presses the Stop button that can be pressed.
JS = """
() => {
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    const stops = document.querySelectorAll('.stops, #ask-box .stop-button');
    for (const stop of stops) {
      const button = stop.matches('button') ? stop : stop.querySelector('button');
      if (button && !button.disabled && button.offsetParent) button.click();
    }
  });
}
"""

# A click on a picture chooses it; the mark moves at once, and the focus stays where it is.
PICK = """
element.addEventListener('click', (event) => {
  const shot = event.target.closest('[data-pick]');
  if (!shot) return;
  for (const one of document.querySelectorAll('[data-pick]'))
    one.setAttribute('aria-pressed', one.dataset.pick === shot.dataset.pick);
  trigger('select', {pick: shot.dataset.pick});
});
"""


def theme() -> gr.themes.Base:
    """Fonts of the visitor's own system; nothing is loaded from elsewhere."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=_FONT,
        font_mono=_MONO,
    )


def status(words: str = "", share: float | None = None, *, wrong: bool = False) -> str:
    """A line that screen readers read when it changes; with a share, a bar below."""
    bar = "" if share is None else f'<div class="bar"><i style="width:{100 * share:.1f}%"></i></div>'
    if wrong:
        return f'<div class="status wrong" role="alert">{html.escape(words)}</div>'
    return f'<div class="status" role="status"><span>{html.escape(words)}</span>{bar}</div>'


def hollow(title: str, words: str) -> str:
    return f'<div class="hollow"><b>{html.escape(title)}</b>{html.escape(words)}</div>'


def tiles(pictures: Sequence[Image.Image], count: int) -> str:
    """Pictures that are being drawn; before the first preview, `count` empty places."""
    inside = [f'<div class="tile"><img alt="being drawn" src="{inline(p)}"></div>' for p in pictures]
    return _stage(inside or ['<div class="tile empty"></div>'] * count)


def shots(some: Sequence[Shot], chosen: Shot | None) -> str:
    return _stage([_shot(shot, shot is chosen) for shot in some])


def strip(some: Sequence[Shot], chosen: Shot | None) -> str:
    if not some:
        return ""
    inside = "".join(_shot(shot, shot is chosen) for shot in some)
    return f'<div class="strip"><h2>Drawn so far</h2><div>{inside}</div></div>'


def about(shot: Shot | None) -> str:
    if shot is None:
        return ""
    prompt = html.escape(str(shot.settings["prompt"]))
    return f'<div class="about"><b>{prompt}</b><span>{html.escape(shot.told)}</span></div>'


def inline(picture: Image.Image) -> str:
    """For pictures that change many times a second: no file, no second request."""
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=85, method=0)
    return f"data:image/webp;base64,{base64.b64encode(data.getbuffer()).decode()}"


def _stage(inside: Sequence[str]) -> str:
    across = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3}.get(len(inside), 4)
    style = f"--across:{across};--most:{across}"
    return f'<div class="stage of{min(across, 3)}" style="{style}">{"".join(inside)}</div>'


def _shot(shot: Shot, chosen: bool) -> str:
    what = html.escape(f"{shot.settings['prompt']}, seed {shot.settings['seed']}", quote=True)
    return (
        f'<button type="button" class="shot" data-pick="{html.escape(shot.path.name, quote=True)}" '
        f'aria-pressed="{str(chosen).lower()}" title="{what}">'
        f'<img alt="{what}" src="gradio_api/file={quote(str(shot.path))}"></button>'
    )
