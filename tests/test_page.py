"""The page, in the system's Chromium: draws, stops, asks, compares, changes model, and errs in sentences.

Screens are written into out/screens/.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from janus import Janus
from janus.model import JanusModel
from janus.requests import Drawing
from janus.serve.engine import Engine
from janus.serve.models import Models
from janus.serve.tickets import ClosingError, Ticket, TooManyError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: the page is not driven", allow_module_level=True)
pytest.importorskip("gradio", reason="Gradio is not installed: there is no page")
pytest.importorskip("playwright", reason="Playwright is not installed: the page is not driven")

from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright  # noqa: E402

from janus.serve import page_told  # noqa: E402
from janus.serve.app import Options, create_app  # noqa: E402
from janus.serve.page_sheet import values_of  # noqa: E402

if TYPE_CHECKING:
    import uvicorn

SCREENS = Path(__file__).parent.parent / "out" / "screens"
DESKTOP, PHONE = (1280, 860), (390, 844)


@dataclass
class Site:
    """A server whose steps can be slowed."""

    url: str
    engine: Engine
    step: float = 0.0  # seconds that each code of a picture, or token of an answer, takes longer

    def idle(self) -> bool:
        """Whether the engine has nothing to do, soon."""
        end = time.monotonic() + 15
        while self.engine.rows or self.engine.waiting:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    import uvicorn

    broken = tmp_path_factory.mktemp("models") / "broken"
    broken.mkdir()
    models = Models(
        [None, str(folder), str(broken)],
        lambda source, on_bytes: Janus.from_pretrained(source, device="cpu", on_bytes=on_bytes),
    )
    engine = Engine()
    own = Site("", engine)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("image_logits", "text_logits"):
            patch.setattr(JanusModel, name, _slowed(getattr(JanusModel, name), own))
        app = create_app(engine, models, Options())
        server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        own.url = _address(server)
        yield own
        own.step = 0.0
        server.should_exit = True
        thread.join(30)


def _slowed(plain: Callable[..., torch.Tensor], site: Site) -> Callable[..., torch.Tensor]:
    def slow(model: JanusModel, hidden: torch.Tensor) -> torch.Tensor:
        threading.Event().wait(site.step)
        return plain(model, hidden)

    return slow


def _address(server: uvicorn.Server) -> str:
    end = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.02)
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=15_000)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opener:
    """Opens pages that may speak to their own server only, and must not err."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser, self._url = browser, url
        self._contexts: list[BrowserContext] = []
        self._asked: set[str] = set()  # hosts
        self._wrong: list[str] = []
        self._working: set[Request] = set()  # what buttons do arrives through these

    def __call__(self, size: tuple[int, int] = DESKTOP, scheme: Any = "light") -> Page:
        context = self._browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
        )
        self._contexts.append(context)
        page = context.new_page()
        page.on("request", self._begun)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)
        page.on("pageerror", lambda error: self._wrong.append(str(error)))
        page.on("console", lambda line: self._wrong.append(line.text) if line.type == "error" else None)
        page.goto(self._url)
        expect(page.locator("#model-note")).to_contain_text("Ready")
        self.settle(page)
        return page

    def settle(self, page: Page) -> None:
        """Until what the buttons do is done: a button that works does not work twice.

        Chromium does not always tell that a stream has ended; three seconds are enough then.
        """
        end = time.monotonic() + 3
        while self._working and time.monotonic() < end:
            page.wait_for_timeout(10)
        self._working.clear()

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        assert self._asked - {"", urlsplit(self._url).netloc} == set()
        assert self._wrong == []

    def _begun(self, request: Request) -> None:
        self._asked.add(urlsplit(request.url).netloc)
        if "/queue/data" in request.url:
            self._working.add(request)

    def _ended(self, request: Request) -> None:
        self._working.discard(request)


@pytest.fixture
def opened(site: Site, browser: Browser) -> Iterator[Opener]:
    site.step = 0.0
    opener = Opener(browser, site.url)
    yield opener
    site.step = 0.0
    opener.close()


def _draw(page: Page, prompt: str = "a photo of two dogs") -> None:
    page.locator("#draw-prompt textarea").fill(prompt)
    page.keyboard.press("Enter")
    expect(page.locator("#draw-status")).to_contain_text("tokens/s")
    expect(page.locator("#draw-about")).to_contain_text(prompt)
    expect(page.locator("#draw-pictures .shot").first).to_be_visible()


def _settings(page: Page, button: str = "#draw-download") -> tuple[Image.Image, dict[str, Any]]:
    with page.expect_download() as download:
        page.locator(button).click()
    picture = Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert picture.format == "PNG"
    return picture, json.loads(picture.info["janus"])


def _shown_in(page: Page, where: str) -> str:
    return page.locator(f"{where} .status").inner_text()


# -- drawing --------------------------------------------------------------------------------------


def test_a_picture_appears_as_it_is_drawn(site: Site, opened: Opener) -> None:
    page = opened()
    site.step = 0.04
    page.locator("#draw-prompt textarea").fill("a photo of a red car")
    page.keyboard.press("Enter")
    expect(page.locator("#draw-pictures .tile img")).to_be_visible()
    steps = re.match(r"(\d+) of 64 steps", _shown_in(page, "#draw-status"))
    assert steps is not None
    assert int(steps[1]) < 64
    assert page.locator("#draw-pictures .shot").count() == 0
    expect(page.locator("#draw-status")).to_contain_text(re.compile(r"1 picture in .* s, \d+ tokens/s"))
    expect(page.locator("#draw-pictures .shot")).to_be_visible()
    expect(page.locator("#draw-strip .shot")).to_have_count(1)


@pytest.mark.parametrize("by", ["button", "key"])
def test_stop_keeps_what_there_is(site: Site, opened: Opener, by: str) -> None:
    page = opened()
    site.step = 0.15
    page.locator("#draw-prompt textarea").fill("a photo of a cat")
    page.locator("#draw-go").click()
    expect(page.locator("#draw-pictures .tile img")).to_be_visible()
    if by == "button":
        page.locator("#draw-stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator("#draw-status")).to_contain_text(re.compile(r"Stopped at \d+ of 64 steps"))
    expect(page.locator("#draw-pictures .tile img")).to_be_visible()
    expect(page.locator("#draw-stop")).to_be_disabled()
    assert site.idle()


@pytest.mark.parametrize("by", ["an example", "the same button"])
def test_a_new_drawing_takes_the_place_of_the_old(site: Site, opened: Opener, by: str) -> None:
    page = opened()
    site.step = 0.15
    page.locator("#draw-prompt textarea").fill("a photo of a cat")
    page.locator("#draw-go").click()
    expect(page.locator("#draw-pictures .tile img")).to_be_visible()
    seed = page.locator("#draw-seed input, #draw-seed textarea")
    first = seed.get_attribute("placeholder") or ""
    assert "last" in first
    if by == "an example":
        page.get_by_role("button", name="a photo of four oranges").click()
    else:
        page.locator("#draw-prompt textarea").fill("a photo of four oranges")
        page.locator("#draw-go").click()
    expect(seed).not_to_have_attribute("placeholder", first)
    site.step = 0.0
    expect(page.locator("#draw-about")).to_contain_text("four oranges")
    expect(page.locator("#draw-prompt textarea")).to_have_value("a photo of four oranges")
    expect(page.locator("#draw-strip .shot")).to_have_count(1)


def test_who_closes_the_page_drops_the_drawing(site: Site, opened: Opener) -> None:
    page = opened()
    site.step = 0.3
    page.locator("#draw-prompt textarea").fill("a photo of a cat")
    page.keyboard.press("Enter")
    expect(page.locator("#draw-status")).to_contain_text("of 64 steps")
    page.close()
    assert site.idle()


def test_downloads_carry_their_settings_and_can_be_drawn_again(opened: Opener) -> None:
    page = opened()
    page.locator("#draw-n input[type=number]").fill("2")
    page.locator("#draw-seed input, #draw-seed textarea").fill("70")
    _draw(page)
    opened.settle(page)
    first, settings = _settings(page)
    assert settings["prompt"] == "a photo of two dogs"
    assert (settings["seed"], settings["guidance"], settings["temperature"]) == (70, 1.0, 0.25)
    page.locator("#draw-pictures .shot").nth(1).click()
    expect(page.locator("#draw-about")).to_contain_text("seed 71")
    assert _settings(page)[1]["seed"] == 71
    page.locator("#draw-again").click()
    expect(page.locator("#draw-strip .shot")).to_have_count(4)
    again, settings = _settings(page)
    assert settings["seed"] == 70
    opened.settle(page)
    assert again.tobytes() == first.tobytes()
    page.locator("#draw-vary").click()
    expect(page.locator("#draw-strip .shot")).to_have_count(6)
    expect(page.locator("#draw-about")).to_contain_text("seed 72")
    opened.settle(page)
    page.locator("#draw-strip .shot").last.click()
    expect(page.locator("#draw-about")).to_contain_text("seed 71")
    expect(page.locator("#draw-pictures .shot")).to_have_count(1)


# -- asking ---------------------------------------------------------------------------------------


def test_one_click_carries_a_picture_over_and_another_an_answer_back(opened: Opener) -> None:
    page = opened()
    page.locator("#draw-seed input, #draw-seed textarea").fill("1")
    _draw(page)
    page.locator("#draw-carry").click()
    question = page.locator("#ask-box textarea")
    expect(question).to_have_value("What is in the picture?")
    expect(question).to_be_focused()
    page.keyboard.press("Enter")
    chat = page.locator("#ask-chat")
    expect(chat.locator(".bot .message-content")).to_have_text("two dogs")
    expect(chat.locator(".user img")).to_have_count(1)
    opened.settle(page)
    question.fill("How many dogs are there?")
    page.keyboard.press("Enter")
    expect(chat.locator(".bot .message-content").nth(1)).to_have_text("two")
    opened.settle(page)
    page.locator("#ask-carry").click()
    expect(page.locator("#draw-prompt textarea")).to_have_value("two")
    expect(page.locator("#draw-prompt textarea")).to_be_focused()
    page.get_by_role("tab", name="Ask").click()
    page.locator("#ask-new").click()
    expect(chat.locator(".message-content")).to_have_count(0)


def test_pictures_are_sent_and_an_answer_can_be_stopped(
    site: Site, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened()
    page.get_by_role("tab", name="Ask").click()
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "a.png")
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "b.jpg")
    page.locator("#ask-box input[type=file]").set_input_files([tmp_path / "a.png", tmp_path / "b.jpg"])
    expect(page.locator("#ask-box .thumbnail-item")).to_have_count(2)
    tokens = site.engine.submit
    monkeypatch.setattr(site.engine, "submit", lambda *given, **more: _talkative(tokens(*given, **more)))
    site.step = 0.2
    page.locator("#ask-box textarea").fill("What is in the pictures?")
    page.keyboard.press("Enter")
    expect(page.locator("#ask-chat .user img")).to_have_count(2)
    expect(page.locator("#ask-chat .bot .message-content")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#ask-status")).to_contain_text(re.compile(r"Stopped after \d+ token"))
    expect(page.locator("#ask-chat .bot .message-content")).to_be_visible()
    assert site.idle()


def _talkative(ticket: Ticket) -> Ticket:
    """Its words are there at once, and its end is far."""
    ticket.words = "A picture of "
    return ticket


# -- comparing ------------------------------------------------------------------------------------


def test_a_sheet_compares_seeds_or_guidance(opened: Opener) -> None:
    page = opened()
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-values input, #compare-values textarea").fill("3, 5-6")
    page.locator("#compare-go").click()
    expect(page.locator("#compare-status")).to_contain_text("3 pictures")
    sheet, settings = _settings(page, "#compare-download")
    assert settings["compared"] == ["seed 3", "seed 5", "seed 6"]
    assert sheet.width > 3 * 96
    opened.settle(page)
    page.get_by_label("Guidance", exact=True).check()
    expect(page.locator("#compare-values input, #compare-values textarea")).to_have_value("1, 2, 3, 5")
    page.locator("#compare-go").click()
    expect(page.locator("#compare-status")).to_contain_text("4 pictures")
    assert _settings(page, "#compare-download")[1]["compared"][3] == "guidance 5"


def test_values_are_numbers_and_ranges() -> None:
    assert values_of("1, 3 5.5;1", 16, whole=False) == [1, 3, 5.5]
    assert values_of("0-2, 9", 16, whole=True) == [0, 1, 2, 9]
    for text, whole, words in [
        ("", True, "write the values"),
        ("0-16", True, "17 pictures; at most 16"),
        ("7-3", True, "not a range"),
        ("a", True, "'a' is not a value"),
        ("1-3", False, "'1-3' is not a value"),
        ("0-99999999999999", True, "not a range"),
    ]:
        with pytest.raises(ValueError, match=re.escape(words)):
            values_of(text, 16, whole=whole)


# -- models and mistakes --------------------------------------------------------------------------


def _choose(page: Page, name: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=re.compile(name)).click()


def test_another_model_is_loaded_and_a_broken_one_is_told(site: Site, opened: Opener) -> None:
    page = opened()
    _choose(page, "broken")
    expect(page.locator("#model-note [role=alert]")).to_contain_text("broken")
    expect(page.locator("#model input")).to_have_value(re.compile("janus-embedded"))
    _choose(page, "^model")
    expect(page.locator("#model-note")).to_contain_text("Ready. It draws 32 × 32 pixels")
    expect(page.locator("#model input")).to_have_value(re.compile("model · ready"))
    _draw(page, "a red apple")
    picture, settings = _settings(page)
    assert picture.size == (32, 32)
    assert settings["guidance"] == 5


def test_mistakes_are_told_in_sentences(
    site: Site, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened()
    alert = page.locator("#draw-status [role=alert]")
    page.locator("#draw-go").click()
    expect(alert).to_have_text("Write what to draw first.")
    opened.settle(page)
    page.locator("#draw-prompt textarea").fill("a cup")
    page.locator("#draw-seed input, #draw-seed textarea").fill("-1")
    page.locator("#draw-go").click()
    expect(alert).to_contain_text("not '-1'")
    opened.settle(page)
    page.locator("#draw-seed input, #draw-seed textarea").fill("")
    for error, words in [
        (TooManyError(7), "The server is busy; come back in 7 s."),
        (ClosingError("the server is about to stop"), "The server is about to stop."),
        (RuntimeError("inner secret"), "Something went wrong on the server; its log says what."),
    ]:
        monkeypatch.setattr(site.engine, "submit", _raising(error))
        page.locator("#draw-go").click()
        expect(alert).to_have_text(words)
        opened.settle(page)
    monkeypatch.undo()
    page.get_by_role("tab", name="Ask").click()
    page.locator("#ask-box textarea").press("Enter")
    expect(page.locator("#ask-status [role=alert]")).to_contain_text("Write a question first.")
    opened.settle(page)
    (tmp_path / "a.png").write_text("no picture")
    page.locator("#ask-box input[type=file]").set_input_files(tmp_path / "a.png")
    page.locator("#ask-box textarea").fill("What is it?")
    page.locator("#ask-box textarea").press("Enter")
    expect(page.locator("#ask-status [role=alert]")).to_contain_text("A.png")
    expect(page.locator("#ask-box textarea")).to_have_value("What is it?")
    expect(page.locator("#ask-chat .message-content")).to_have_count(0)


def _raising(error: Exception) -> Callable[..., Any]:
    def submit(*given: Any, **more: Any) -> Any:
        raise error

    return submit


def test_the_place_in_the_queue_is_told(janus: Janus) -> None:
    request = Drawing("a cup", n=2, seed=0)
    ticket = Ticket(janus, request, janus.prepare(request), True)
    told = []
    for place in (1, 2, 3, 11, 22, 103):
        ticket.place = place
        told.append(page_told.drawing(ticket).split()[0])
    assert told == ["1st", "2nd", "3rd", "11th", "22nd", "103rd"]
    ticket.state, ticket.place, ticket.begun = "running", 0, time.monotonic() - 10
    ticket.steps, ticket.new_tokens, ticket.most = 16, 32, 64
    assert page_told.drawing(ticket) == "16 of 64 steps · 3 tokens/s · 30 s left"


# -- what strangers may not -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../etc/passwd", "https://example.com/a.png", "/proc/self/environ", 5, None]
)
def test_a_file_that_was_not_sent_is_refused(site: Site, path: Any) -> None:
    config = httpx.get(f"{site.url}/config", trust_env=False).json()
    ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
    asking = next(d for d in config["dependencies"] if [ids["ask-box"], "submit"] in d["targets"])
    sent = {"text": "Hi", "files": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    data = [sent if part == ids["ask-box"] else None for part in asking["inputs"]]
    with httpx.Client(base_url=f"{site.url}/gradio_api", trust_env=False, timeout=20) as client:
        body = {"data": data, "fn_index": asking["id"], "session_hash": f"stranger{path}"}
        assert client.post("/queue/join", json=body).status_code == 200
        events = client.get("/queue/data", params={"session_hash": body["session_hash"]}).text
    assert "That file was not sent to this page." in events
    assert "root:" not in events


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=https://example.com/",
        "gradio_api/file=http://127.0.0.1/",
        "gradio_api/proxy=http://127.0.0.1/",
        "gradio_api/info",
        "gradio_api/openapi.json",
        "gradio_api/vibe-code",
        "gradio_api/runs",
        "monitoring",
    ],
)
def test_what_the_page_does_not_need_is_not_there(site: Site, path: str) -> None:
    assert httpx.get(f"{site.url}/{path}", trust_env=False).status_code == 404


def test_with_keys_the_page_asks_for_one(janus: Janus) -> None:
    engine = Engine()
    app = create_app(
        engine, Models([None], lambda source, on_bytes: janus), Options(keys=frozenset({"open"}))
    )
    client = TestClient(app)
    locked = [("GET", "config"), ("GET", "gradio_api/file=/etc/passwd"), ("POST", "gradio_api/upload")]
    for method, path in locked:
        assert client.request(method, f"/{path}").status_code == 401
    assert client.post("/login", data={"username": "me", "password": "shut"}).status_code == 400
    assert client.post("/login", data={"username": "me", "password": "open"}).status_code == 200
    assert client.get("/config").status_code == 200
    engine.close(10)


def test_it_opens_with_the_settings_of_its_model(janus: Janus) -> None:
    """Who is quick draws before the page has asked for them."""
    engine = Engine()
    app = create_app(engine, Models([None], lambda source, on_bytes: janus), Options())
    parts = [part["props"] for part in TestClient(app).get("/config").json()["components"]]
    labelled = [props for props in reversed(parts) if props.get("label")]  # the first of a name counts
    values = {props["label"]: props.get("value") for props in labelled}
    drawing = janus.config.drawing
    assert (values["Guidance"], values["Temperature"]) == (drawing.guidance, drawing.temperature)
    assert values["Remember the conversation"] is False
    engine.close(10)


def test_files_of_the_machine_are_not_given(site: Site) -> None:
    for path in ("/etc/passwd", str(Path(__file__)), "/etc/../etc/passwd", "//etc/passwd"):
        answer = httpx.get(f"{site.url}/gradio_api/file={path}", trust_env=False)
        assert answer.status_code in (403, 404)


# -- how it looks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_and_is_kept_as_screens(site: Site, opened: Opener, size: tuple[int, int]) -> None:
    kind = "desktop" if size == DESKTOP else "phone"
    SCREENS.mkdir(parents=True, exist_ok=True)
    page = opened(size)

    def keep(name: str) -> None:
        for scheme in ("light", "dark"):
            page.evaluate("scheme => document.body.classList.toggle('dark', scheme === 'dark')", scheme)
            page.wait_for_timeout(200)  # colours fade
            path = SCREENS / f"{name}-{kind}-{scheme}.png"
            page.screenshot(path=path, full_page=kind == "phone")
        page.evaluate("document.body.classList.remove('dark')")
        width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner

    keep("start")
    site.step = 0.03
    page.locator("#draw-n input[type=number]").fill("4")
    page.locator("#draw-seed input, #draw-seed textarea").fill("3")
    page.locator("#draw-prompt textarea").fill("a photo of a clock above a book")
    page.keyboard.press("Enter")
    expect(page.locator("#draw-status")).to_contain_text(re.compile("[2-5]. of 64"))
    keep("drawing")
    site.step = 0.0
    expect(page.locator("#draw-pictures .shot")).to_have_count(4)
    keep("draw")
    page.locator("#draw-carry").click()
    expect(page.locator("#ask-box textarea")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#ask-chat .bot .message-content")).to_be_visible()
    opened.settle(page)
    page.locator("#ask-box textarea").fill("What is at the top?")
    page.keyboard.press("Enter")
    expect(page.locator("#ask-chat .bot .message-content").nth(1)).to_be_visible()
    expect(page.locator("#ask-status")).to_contain_text(re.compile("tokens? in"))
    keep("ask")
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-go").click()
    expect(page.locator("#compare-status")).to_contain_text("8 pictures")
    opened.settle(page)
    keep("compare")
    page.locator("#compare-values input, #compare-values textarea").fill("0-99")
    page.locator("#compare-go").click()
    expect(page.locator("#compare-status [role=alert]")).to_be_visible()
    keep("mistake")


def test_it_is_dark_where_the_visitor_likes_it_dark(opened: Opener) -> None:
    page = opened(scheme="dark")
    expect(page.locator("body")).to_have_class(re.compile(r"\bdark\b"))
