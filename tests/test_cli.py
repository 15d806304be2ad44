"""The command: what it prints, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from janus import Janus, gallery
from janus.cli import main


@pytest.fixture
def model(folder: Path) -> list[str]:
    return ["--model", str(folder), "--device", "cpu", "--dtype", "float32"]


def test_generate_writes_pictures_that_remember(
    model: list[str], janus: Janus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["generate", "a red/apple!", "-n", "2", "--seed", "4", "-o", str(out), *model]) == 0
    names = ["a-red-apple-4.png", "a-red-apple-5.png", "sheet.png"]
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == names
    picture = Image.open(out / names[1])
    stored = json.loads(picture.info["janus"])
    assert (stored["prompt"], stored["seed"], stored["guidance"]) == ("a red/apple!", 5, 5.0)
    assert picture.tobytes() == janus.generate_images("a red/apple!", seed=5)[0].tobytes()
    assert Image.open(out / "sheet.png").size == (68, 32)


def test_generate_never_overwrites(model: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        assert main(["generate", "a cup", "--seed", "0", "-o", str(tmp_path), *model]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-cup-0-2.png", "a-cup-0.png"]


def test_chat_prints_the_answer(
    model: list[str], janus: Janus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (20, 30), "green").save(photo)
    assert main(["chat", str(photo), "What is it?", "--max-tokens", "8", *model]) == 0
    assert capsys.readouterr().out.strip() == janus.chat("What is it?", [photo], max_tokens=8)


def test_interactive_chat_keeps_the_conversation(
    model: list[str], janus: Janus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: Iterator[str] = iter(["Hi", "And now?", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    assert main(["chat", "--interactive", "--max-tokens", "6", *model]) == 0
    first = janus.chat("Hi", max_tokens=6)
    turns = [("user", "Hi"), ("assistant", first), ("user", "And now?")]
    second = janus.chat([{"role": role, "content": words} for role, words in turns], max_tokens=6)
    assert capsys.readouterr().out.split() == f"{first} {second}".split()


def test_info_counts_parameters(folder: Path, janus: Janus, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder)]) == 0
    report = capsys.readouterr().out
    assert f"{sum(p.numel() for p in janus.model.parameters()):,}" in report
    assert "model.safetensors" in report
    assert "3 of 8 routed" in report
    assert main(["info", "janus-pro-7b"]) == 0
    assert "7,420,368,523" in capsys.readouterr().out


def test_convert_says_what_it_did(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(folder), str(tmp_path / "copy"), "--layout", "official"]) == 0
    assert str(tmp_path / "copy") in capsys.readouterr().out
    assert Janus.from_pretrained(tmp_path / "copy").config == Janus.from_pretrained(folder).config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chat", "missing.png", "What?"], "missing.png"),
        (["chat"], "give a question"),
        (["generate", ""], "empty"),
        (["generate", "a cup", "--size", "512"], "draw 32x32 pixels, not 512x512"),
        (["generate", "a cup", "--temperature", "-1"], "temperature"),
    ],
)
def test_mistakes_are_one_clear_line(
    model: list[str], arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] == "generate":
        arguments = [*arguments, "-o", str(tmp_path / "out")]
    assert main([*arguments, *model]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.png"))


def test_an_output_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "out"
    assert main(["generate", "a cup", "--model", "no-such-model", "-o", str(target)]) == 2
    error = capsys.readouterr().err  # found out before the model is even looked for
    assert f"cannot write into the folder {target}" in error


def test_a_full_disk_leaves_no_half_picture(tmp_path: Path) -> None:
    """The operating system's own limit on file size stands in for the full disk."""
    code = f"""
import resource
from PIL import Image
from janus.gallery import save_pictures
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    save_pictures([Image.effect_noise((64, 64), 80)], {str(tmp_path)!r})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"cannot write {tmp_path / 'picture-0.png'}" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_needs_pictures() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        gallery.contact_sheet([])


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("info", "chat", "generate", "convert", "bench"):
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        assert f"  janus {verb} " in capsys.readouterr().out
