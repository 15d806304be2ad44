"""Art and paint of the eighty classes: tables that agree, archives checked, colours that read as asked.

Nothing here needs the network; the archives are made on the spot.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from janus.data import art
from janus.data.paint import (
    colour_icon,
    dominant_colour,
    from_oklab,
    oklab,
    painted_part,
    recolour,
    things_table,
)

# evaluation/object_names.txt of https://github.com/djghosh13/geneval, in its order
GENEVAL = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl,
banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch,
potted plant, bed, dining table, toilet, tv, laptop, computer mouse, tv remote, computer keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
"""
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]
TABLE = art.art_table()


def _styles(name: str) -> set[str]:
    """Styles that may hold a drawing of a class, going by the table."""
    emoji = {style for style, package in TABLE["packages"].items() if package["kind"] == "emoji"}
    found: set[str] = set()
    for drawing in TABLE["classes"][name]:
        style, _, rest = drawing.rpartition(":")
        left_out = {s for s in emoji if f"{s}:{rest}" in TABLE["left_out"]}
        found |= {style} if style else emoji - left_out
    return found


def test_the_classes_and_colours_are_genevals() -> None:
    things = things_table()
    assert list(TABLE["classes"]) == list(things["classes"]) == [name.strip() for name in GENEVAL.split(",")]
    assert list(things["colours"]) == COLOURS
    assert len({entry["zh"] for entry in things["classes"].values()}) == 80


def test_every_class_has_art_to_draw_and_more_to_see() -> None:
    held_out = things_table()["held_out_style"]
    for name, entry in things_table()["classes"].items():
        styles = _styles(name) - {held_out}
        assert len(styles) >= 2 or name == "baseball glove", name  # one icon is all there is of gloves
        style, drawing = entry["draw"].split(":")
        assert style in styles, name
        assert {entry["draw"], drawing} & set(TABLE["classes"][name]), name
        assert entry["draw"] not in TABLE["left_out"], name


def test_the_table_says_nothing_in_vain() -> None:
    named = {drawing for drawings in TABLE["classes"].values() for drawing in drawings}
    bare = {drawing.rpartition(":")[2] for drawing in named}
    for key in [*TABLE["drawings"], *TABLE["left_out"]]:
        style, _, drawing = key.rpartition(":")
        assert key in named or drawing in bare, key
        assert not style or style in TABLE["packages"], key
    icons = {style for style, package in TABLE["packages"].items() if package["kind"] == "icons"}
    for name, drawings in TABLE["classes"].items():
        assert len(drawings) == len(set(drawings)), name
        styles = {drawing.rpartition(":")[0] for drawing in drawings} - {""}
        assert styles <= set(TABLE["packages"]), name
        assert bool(styles & icons) == (name in TABLE["icon_colours"]), name


def test_the_art_may_be_shipped_and_is_credited() -> None:
    notice = " ".join((Path(__file__).parents[1] / "NOTICE").read_text(encoding="utf-8").split())
    allowed = {"Apache-2.0", "MIT", "ISC", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0"}
    for style, package in TABLE["packages"].items():
        assert package["licence"] in allowed, style
        name, version = package["npm"].rsplit("@", 1)
        assert f"{name} {version}" in notice, package["npm"]
        assert len(package["sha256"]) == 64
    assert len({package["sha256"] for package in TABLE["packages"].values()}) == len(TABLE["packages"])


def _archive(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


PACKAGE = {"npm": "some-art@1.0.0", "file": "some-art-1.0.0.tgz", "sha256": "0" * 64}


def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    _archive(tmp_path / PACKAGE["file"], {"package/icons.json": b"{}"})
    with pytest.raises(
        ValueError, match=r"some-art-1\.0\.0\.tgz has sha256 .* pinned some-art@1\.0\.0 has 0000"
    ):
        art.fetch_package(PACKAGE, tmp_path)


def _npm(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """`npm pack` that fails, or leaves a file that is not the pinned one."""

    def run(command: Sequence[str], cwd: str, **_: Any) -> None:
        assert list(command) == ["npm", "pack", "--loglevel=error", PACKAGE["npm"]]
        if error is not None:
            raise error
        (Path(cwd) / PACKAGE["file"]).write_bytes(b"something else")

    monkeypatch.setattr(subprocess, "run", run)


def test_what_can_go_wrong_with_fetching_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _npm(monkeypatch, FileNotFoundError("npm"))
    with pytest.raises(OSError, match=r"npm is not installed.*install Node"):
        art.fetch_package(PACKAGE, tmp_path)
    _npm(monkeypatch, subprocess.CalledProcessError(1, "npm", stderr="ENOTFOUND registry"))
    with pytest.raises(OSError, match=r"could not fetch some-art@1\.0\.0.*ENOTFOUND"):
        art.fetch_package(PACKAGE, tmp_path)
    _npm(monkeypatch, None)
    with pytest.raises(ValueError, match="has sha256"):
        art.fetch_package(PACKAGE, tmp_path)
    assert not list(tmp_path.iterdir())  # nothing half-made stays, the next try starts afresh


def _small_world(folder: Path) -> dict[str, Any]:
    """A table of two emoji sets and one icon set, with their archives: two squares, one big one small."""
    squares = '<path fill="{}" d="M16 16h64v32H16zM96 96h16v16H96z"/>'
    body = {"red-apple": {"body": squares.format("#f00")}, "pear": {"body": squares.format("#0f0")}}
    packed = {"width": 128, "height": 128, "icons": body}
    names = {"1f34e": "red-apple", "1f350": "pear"}
    noto = {
        "package/icons.json": json.dumps(packed).encode(),
        "package/chars.json": json.dumps(names).encode(),
    }
    frame = '<path fill-rule="evenodd" d="M2 2h20v20H2zM8 8h8v8H8z"/>'
    webp = io.BytesIO()
    Image.new("RGBA", (20, 10), (0, 0, 255, 255)).save(webp, "WEBP", lossless=True)
    archives = {
        "noto": ("emoji", noto),
        "three": ("emoji", {"package/assets/1f34e-fe0f.webp": webp.getvalue()}),
        "line": (
            "icons",
            {
                "package/icons.json": json.dumps(
                    {"width": 24, "height": 24, "icons": {"frame": {"body": frame}}}
                ).encode()
            },
        ),
    }
    packages = {}
    for style, (kind, files) in archives.items():
        _archive(folder / "npm" / f"{style}.tgz", files)
        digest = hashlib.sha256((folder / "npm" / f"{style}.tgz").read_bytes()).hexdigest()
        packages[style] = {"npm": f"{style}@1", "file": f"{style}.tgz", "sha256": digest, "kind": kind}
    return {
        "packages": packages,
        "classes": {"apple": ["🍎", "noto:🍐"], "window": ["line:frame"]},
        "left_out": ["three:🍐"],
        "drawings": {"noto:🍎": {"largest": True}, "🍐": {"part": [0.5, 0.5, 1, 1]}},
        "icon_colours": {"window": "#c08040"},
    }


def test_sprites_are_rendered_cut_coloured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    table = _small_world(tmp_path)
    first = art.load_sprites(tmp_path, table)
    assert [(s.name, s.key, s.pixels.shape) for s in first] == [
        ("apple", "noto:🍎", (64, 128, 4)),  # the largest piece alone
        ("apple", "noto:🍐", (128, 128, 4)),  # the small square alone
        ("apple", "three:🍎", (64, 128, 4)),
        ("window", "line:frame", (128, 128, 4)),
    ]
    assert [tuple(s.pixels[s.pixels.shape[0] // 2, 32]) for s in first[:3]] == [
        (255, 0, 0, 255),
        (0, 255, 0, 255),
        (0, 0, 255, 255),
    ]
    assert tuple(first[3].pixels[64, 20]) == (0xC0, 0x80, 0x40, 255)
    monkeypatch.setattr(art, "fetch_package", lambda *_: pytest.fail("kept files were not used"))
    again = art.load_sprites(tmp_path, table)
    assert all((a.pixels == b.pixels).all() for a, b in zip(first, again, strict=True))


def test_building_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    table = _small_world(tmp_path)
    (tmp_path / "npm" / "line.tgz").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"line\.tgz has sha256"):
        art.load_sprites(tmp_path, table)
    kept = {p.name.rsplit("-", 1)[0] for p in (tmp_path / "sprites").iterdir()}
    assert kept == {"noto", "three"}
    fetched: list[str] = []
    real = art.fetch_package

    def fetch(package: dict[str, str], folder: Path) -> Path:
        fetched.append(package["npm"])
        return real(package, folder)

    monkeypatch.setattr(art, "fetch_package", fetch)
    _small_world(tmp_path)
    table["packages"]["line"]["sha256"] = hashlib.sha256(
        (tmp_path / "npm" / "line.tgz").read_bytes()
    ).hexdigest()
    assert len(art.load_sprites(tmp_path, table)) == 4
    assert fetched == ["line@1"]


def test_an_icon_that_is_not_there_is_named(tmp_path: Path) -> None:
    table = _small_world(tmp_path)
    table["classes"]["window"] = ["line:pane"]
    pytest.importorskip("resvg_py")
    with pytest.raises(ValueError, match="line@1 has no 'pane'"):
        art.load_sprites(tmp_path, table)


@pytest.mark.parametrize(
    ("holes", "middle", "edge"),
    [
        ("light", (244, 238, 231), (192, 128, 64)),
        ("dark", (73, 49, 24), (192, 128, 64)),
        ("own", (192, 128, 64), (96, 64, 32)),
        ("open", None, (192, 128, 64)),
    ],
)
def test_icons_become_drawings(holes: Any, middle: tuple[int, ...] | None, edge: tuple[int, ...]) -> None:
    icon = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(icon)
    pen.rectangle((4, 4, 59, 59), fill=(0, 0, 0, 255))
    pen.rectangle((20, 20, 43, 43), fill=(0, 0, 0, 0))
    drawn = np.asarray(colour_icon(icon, (192, 128, 64), holes))
    assert drawn[0, 0, 3] == 0
    centre, line = drawn[36, 36], drawn[36, 16]
    assert tuple(line) == (*edge, 255)
    if middle is None:
        assert centre[3] == 0
    else:
        assert np.abs(centre.astype(int) - (*middle, 255)).max() <= 1


def test_oklab_there_and_back() -> None:
    assert oklab(np.array([255, 255, 255])) == pytest.approx([1, 0, 0], abs=1e-4)
    assert oklab(np.array([255, 0, 0])) == pytest.approx(
        [0.628, 0.2249, 0.1258], abs=1e-3
    )  # the author's table
    values = np.random.default_rng(0).integers(0, 256, (500, 3))
    assert np.abs(from_oklab(oklab(values)).astype(int) - values).max() <= 1


@pytest.mark.parametrize("colour", COLOURS)
def test_the_rule_names_the_ten_colours(colour: str) -> None:
    rgb = np.array(things_table()["colours"][colour]["rgb"])
    rng = np.random.default_rng(1)
    noisy = (rgb + rng.integers(-20, 21, (24, 24, 3))).clip(0, 255)
    mask = np.zeros((24, 24), bool)
    mask[4:20, 4:20] = True
    noisy[~mask] = (40, 200, 200)  # what is outside has no vote
    assert dominant_colour(noisy, mask) == colour
    noisy[4:10, 4:20] = (30, 30, 30) if colour != "black" else (230, 30, 30)  # three eighths of it
    assert dominant_colour(noisy, mask) == colour


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((255, 0, 0), "red"),
        ((160, 20, 30), "red"),
        ((0, 90, 20), "green"),
        ((120, 190, 250), "blue"),
        ((30, 50, 150), "blue"),
        ((90, 55, 30), "brown"),
        ((255, 190, 215), "pink"),
        ((210, 210, 210), "white"),
        ((90, 90, 90), "black"),
        ((110, 110, 110), "black"),  # grey has no vote, unless there is nothing else
        ((140, 140, 140), "white"),
    ],
)
def test_the_rule_on_other_shades(rgb: tuple[int, int, int], name: str) -> None:
    assert dominant_colour(np.full((4, 4, 3), rgb, np.uint8), np.ones((4, 4), bool)) == name


def test_the_rule_refuses_nothing_to_see() -> None:
    with pytest.raises(ValueError, match="empty"):
        dominant_colour(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match=r"\(3, 4\) does not fit"):
        dominant_colour(np.zeros((4, 4, 3), np.uint8), np.ones((3, 4), bool))


def _drawing(body: tuple[int, int, int]) -> np.ndarray:
    """A shaded disc with a highlight, a shadow, dark lines and a small detail in another colour."""
    picture = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((2, 2, 61, 61), fill=(*body, 255))
    pen.chord((2, 2, 61, 61), 20, 160, fill=(*(int(0.75 * v) for v in body), 255))
    pen.ellipse((16, 10, 28, 22), fill=(*(v + (255 - v) * 2 // 3 for v in body), 255))
    pen.line((20, 40, 44, 40), fill=(20, 20, 20, 255), width=2)
    pen.rectangle((40, 20, 47, 27), fill=(0, 170, 160, 255))
    return np.asarray(picture)


BODIES = [
    (220, 50, 40),
    (250, 190, 60),
    (140, 90, 60),
    (90, 120, 220),
    (190, 190, 195),
    (70, 72, 78),
    (250, 250, 250),
]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("body", BODIES)
def test_a_painted_drawing_reads_as_its_colour(body: tuple[int, int, int], colour: str) -> None:
    drawing = _drawing(body)
    painted = recolour(drawing, colour)
    assert (painted[..., 3] == drawing[..., 3]).all()
    assert dominant_colour(painted[..., :3], painted[..., 3] > 128) == colour
    lightness = oklab(painted[..., :3])[..., 0]
    assert lightness[32, 12] > lightness[56, 32]  # the shadow stays darker


@pytest.mark.parametrize("colour", ["white", "yellow", "red"])
def test_what_is_painted_has_a_darker_outline(colour: str) -> None:
    plain = np.zeros((48, 64, 4), np.uint8)
    plain[8:, 8:56] = (220, 50, 40, 255)  # down to the picture's edge
    lightness = oklab(recolour(plain, colour)[..., :3])[:, 30, 0]
    assert lightness[24] - lightness[8] > 0.05
    assert lightness[24] - lightness[47] > 0.05
    assert abs(lightness[24] - lightness[12]) < 1e-6


def test_painting_leaves_small_details_alone() -> None:
    drawing = _drawing((220, 50, 40))
    painted = recolour(drawing, "yellow")
    assert (painted[23, 43] == drawing[23, 43]).all()
    assert np.abs(painted[40, 32].astype(int) - drawing[40, 32]).max() < 30


def test_hints_say_what_is_painted() -> None:
    halves = np.zeros((10, 10, 4), np.uint8)
    halves[:6] = (220, 40, 40, 255)
    halves[6:] = (120, 120, 120, 255)
    for paint, top, bottom in [
        ((), 1, 1),
        ((29.0,), 1, 0),
        (("grey",), 0, 1),
        (("all",), 1, 1),
        ((29.0, "grey"), 1, 1),
    ]:
        mask = painted_part(halves, paint)  # type: ignore[arg-type]
        assert (mask[0, 0], mask[9, 0]) == (top, bottom), paint


def test_an_unknown_colour_is_refused() -> None:
    with pytest.raises(ValueError, match="no colour 'teal', there are red, "):
        recolour(_drawing((220, 50, 40)), "teal")
