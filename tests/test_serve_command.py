"""`janus serve`: where it listens, what it tells, and how it stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from janus.cli import main
from janus.serve.command import _keys, _names
from tests.served import post, question


@contextmanager
def _running(*arguments: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The server's address and process."""
    command = [sys.executable, "-m", "janus", "serve", "--api-only", "--port", "0", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+(?=/v1)", line)
        assert found, line + process.communicate()[1]
        yield found.group(), process
    finally:
        process.kill()
        process.communicate()


def _model(folder: Path) -> list[str]:
    return ["--model", str(folder), "--device", "cpu", "--dtype", "float32"]


def test_the_first_signal_lets_it_finish_what_it_accepted(folder: Path) -> None:
    """While it does, it goes on listening, and refuses what is new with 503."""
    with _running(*_model(folder)) as (url, process):
        asked = question(max_tokens=300, stream=True)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=60) as answer:
            lines = answer.iter_lines()
            while '"content":"' not in next(lines):
                pass
            process.terminate()
            while (health := httpx.get(f"{url}/health")).status_code == 200:
                pass
            assert (health.status_code, health.json()) == (503, {"status": "stopping"})
            refused = post(url, "images/generations", prompt="a cup")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
            rest = list(lines)
        assert "data: [DONE]" in rest
        assert any('"finish_reason":"length"' in line for line in rest)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_the_second_signal_ends_it_at_once(folder: Path) -> None:
    with _running(*_model(folder)) as (url, process):
        asked = question(max_tokens=2000, stream=True)
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            while httpx.get(f"{url}/health").status_code == 200:
                pass
            process.send_signal(signal.SIGINT)
            assert process.wait(5) == 128 + signal.SIGINT
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)


def test_models_by_name_keys_and_the_warning(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "my model"
    other.symlink_to(folder)
    with _running(*_model(folder), "--model", str(other), "--host", "0.0.0.0") as (url, process):
        cards = httpx.get(f"{url}/v1/models").json()["data"]
        assert [(card["id"], card["state"]) for card in cards] == [
            (folder.name, "ready"),
            ("my-model", "on disk"),
        ]
        answer = post(url, "chat/completions", **question(model="my-model", max_tokens=2))
        assert answer.json()["model"] == "my-model"
        assert httpx.get(f"{url}/v1/models/my-model").json()["state"] == "ready"
        process.terminate()
        assert "warning: whoever reaches 0.0.0.0" in process.communicate(timeout=20)[1]
    given = ["--host", "0.0.0.0", "--limit", "tokens=5"]
    with _running(*_model(folder), *given, JANUS_API_KEYS="a, b") as (url, process):
        status = [
            httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code
            for key in ("a", "b", "a,", "c")
        ]
        assert status == [200, 200, 401, 401]
        client = httpx.Client(headers={"Authorization": "Bearer a"})
        long = client.post(f"{url}/v1/chat/completions", json=question(max_tokens=6))
        assert (long.status_code, "may be 5 here" in long.json()["error"]["message"]) == (400, True)
        process.terminate()
        assert "warning" not in process.communicate(timeout=20)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "0 to 65535"),
        (["--host", "no.such.host.invalid"], "no address 'no.such.host.invalid'"),
        (["--host", "192.0.2.1"], "can't listen at 192.0.2.1:8000"),
        (["--key", " "], "must not be empty"),
        (["--queue", "0"], "waiting must be at least 1"),
        (["--time-limit", "0"], "seconds must be at least 1"),
        (["--limit", "tokens=0"], "tokens must be at least 1"),
        (["--limit", "waiting=3"], "'waiting=3' must be one of body, pixels"),
        (["--limit", "tokens=many"], "then = and a number"),
        (["--model", "a", "--model", "b", "--revision", "main"], "belong to one --model"),
        (["--model", "missing-folder", "--offline"], "missing-folder"),
    ],
)
def test_mistakes_are_one_clear_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = [] if arguments[1] == "70000" or arguments[0] == "--host" else ["--port", "0"]
    assert main(["serve", "--api-only", *port, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_taken_port_is_told_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "--model", "no-such-model"]) == 2
    assert f"can't listen at 127.0.0.1:{port}: Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "more", "names"),
    [
        ("127.0.0.1", [], {"localhost", "127.0.0.1", "[::1]"}),
        ("::1", [], {"localhost", "127.0.0.1", "[::1]"}),
        ("localhost", ["me.example"], {"localhost", "127.0.0.1", "[::1]", "me.example"}),
        ("0.0.0.0", [], set()),
        ("0.0.0.0", ["me.example"], {"localhost", "127.0.0.1", "[::1]", "0.0.0.0", "me.example"}),
    ],
)
def test_at_home_it_has_only_its_own_names(host: str, more: list[str], names: set[str]) -> None:
    assert set(_names(host, more)) == names


def test_keys_come_from_both_places() -> None:
    assert _keys(["a"], " b,c\nd ") == {"a", "b", "c", "d"}
    assert _keys([], "") == frozenset()


def test_the_root_file_is_the_command() -> None:
    file = Path(__file__).parent.parent / "app.py"
    done = subprocess.run([sys.executable, str(file), "--help"], capture_output=True, text=True, check=True)
    assert "janus serve --open" in done.stdout


def test_without_the_packages_of_the_page(folder: Path, tmp_path: Path) -> None:
    """A folder that hides Gradio stands for its absence."""
    (tmp_path / "gradio.py").write_text("raise ModuleNotFoundError('no', name='gradio')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-m", "janus", "serve", "--port", "0", *_model(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 2
    assert 'the page needs gradio: pip install "janus-pro[app]"' in done.stderr
    with _running(*_model(folder), PYTHONPATH=path) as (url, _):
        assert httpx.get(f"{url}/health").status_code == 200


def test_the_page_starts_without_stubs_of_gradios_components() -> None:
    """They are made from the components' sources, which nobody else reads."""
    code = (
        "import inspect, pathlib\n"
        "from janus.serve.app import _no_stubs\n"
        "whole = pathlib.Path.read_text\n"
        "def read(path, *given, **named):\n"
        "    print(path)\n"
        "    return whole(path, *given, **named)\n"
        "pathlib.Path.read_text = read\n"
        "with _no_stubs():\n"
        "    import janus.serve.page\n"
        "import gradio\n"
        "assert inspect.getfile(gradio.Textbox).endswith('textbox.py')\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [line for line in made.stdout.splitlines() if "gradio" in line and "components" in line]
