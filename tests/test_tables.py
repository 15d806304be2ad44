"""Data files as benchmarks publish them, and what becomes of broken ones."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from janus.eval.pictures import Pictures
from janus.eval.tables import Row, Source, write_tsv


def picture(shade: int = 0, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((40, 30), 50 + shade).convert("RGB").save(stream, kind)
    return stream.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


RED, BLUE = picture(1), picture(2, "JPEG")


def read(path: Path, *accepts: str, images: Path | None = None) -> tuple[list[Row], Pictures]:
    pictures = Pictures()
    return Source(path, accepts, pictures, images).rows(), pictures


def tsv(path: Path, rows: list[dict[str, Any]]) -> Path:
    write_tsv(path, rows)
    return path


def test_a_tsv_with_pictures(tmp_path: Path) -> None:
    """As VLMEvalKit writes it: a short image cell is the index of the row with the picture."""
    rows, pictures = read(
        tsv(
            tmp_path / "a.tsv",
            [
                {"index": 1, "image": "3", "question": 'a "quoted"\tcell\nof two lines', "hint": "nan"},
                {"index": 2, "image": text(RED), "question": "b", "hint": ""},
                {"index": 3, "image": text(BLUE), "question": "c", "hint": "look"},
                {"index": 1000002, "image": "2", "question": "d", "hint": ""},
                {"index": 5, "image": f"['{text(RED)}', '{text(BLUE)}']", "question": "e", "hint": ""},
            ],
        )
    )
    assert [row.problem for row in rows] == [""] * 5
    assert [[pictures[name] for name in row.pictures] for row in rows] == [
        [BLUE],
        [RED],
        [BLUE],
        [RED],
        [RED, BLUE],
    ]
    assert rows[0].cells == {"index": "1", "question": 'a "quoted"\tcell\nof two lines', "hint": ""}
    assert rows[3].where == "a.tsv, row 4"
    assert len(pictures) == 2
    assert {Path(name).suffix for name in pictures} == {".png", ".jpg"}


def test_every_bad_row_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tsv(
        tmp_path / "a.tsv",
        [
            {"index": 1, "image": text(RED)},
            {"index": 2, "image": text(b"no picture at all, whatever its cell may say about that")},
            {"index": 3, "image": "!" * 80},
            {"index": 4, "image": "77"},
            {"index": 5, "image": text(BLUE[: len(BLUE) // 2])},
        ],
    )
    with path.open("a") as file:
        file.write("6\n")
    rows, _ = read(path)
    assert rows[0].problem == ""
    assert rows[1].problem.startswith("the image is not a picture: 55 bytes that begin with b'no picture a")
    assert rows[2].problem.startswith("the image is not base64")
    assert rows[3].problem == "the image is '77', neither base64 nor the index of a row with one"
    assert rows[4].problem.startswith("the image is a damaged picture (")
    assert rows[5].problem == "1 cells, the header has 2; is the file cut off?"
    assert len(rows) == 6


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95, 0.999])
def test_a_tsv_that_is_cut_off_anywhere_is_noticed(tmp_path: Path, share: float) -> None:
    whole = tsv(tmp_path / "a.tsv", [{"index": i, "question": "q", "image": text(RED)} for i in range(9)])
    data = whole.read_bytes()
    cut = tmp_path / "cut.tsv"
    cut.write_bytes(data[: int(len(data) * share)])
    assert [row for row in read(cut)[0] if row.problem]


def test_a_tsv_that_is_cut_off_in_a_quoted_cell(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('index\tquestion\n1\tfine\n2\t"not fin')
    with pytest.raises(ValueError, match=r"a\.tsv breaks off after row 1 .*cut off"):
        read(tmp_path / "a.tsv")


def test_reading_leaves_the_limit_of_csv_cells_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    noise = Image.effect_noise((512, 512), 90)
    stream = io.BytesIO()
    noise.save(stream, "PNG")
    rows, pictures = read(tsv(tmp_path / "a.tsv", [{"index": 1, "image": text(stream.getvalue())}]))
    assert len(text(stream.getvalue())) > before
    assert pictures[rows[0].pictures[0]] == stream.getvalue()
    assert csv.field_size_limit() == before


def test_parquet_with_pictures_in_any_columns(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(
        [
            {"id": "1", "image_1": {"bytes": RED, "path": None}, "image_2": {"bytes": BLUE, "path": "b"}},
            {"id": "2", "image_1": {"bytes": RED, "path": None}, "image_2": None},
            {"id": "3", "image_1": {"bytes": b"?", "path": None}, "image_2": None},
        ]
    )
    parquet.write_table(table, tmp_path / "test-00000.parquet")
    rows, pictures = read(tmp_path, "test-*.parquet")
    assert [[pictures[name] for name in row.pictures] for row in rows] == [[RED, BLUE], [RED], []]
    assert rows[0].cells == {"id": "1"}
    assert rows[2].problem.startswith("image_1 is not a picture")
    data = (tmp_path / "test-00000.parquet").read_bytes()
    (tmp_path / "test-00000.parquet").write_bytes(data[:-20])
    with pytest.raises(ValueError, match="cannot be read after row 0"):
        read(tmp_path, "test-*.parquet")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}]),
        ('{"a": 1}\n', [{"a": 1}]),
        ('{"x": {"a": 1}, "y": {"a": 2}}', [{"id": "x", "a": 1}, {"id": "y", "a": 2}]),
        ('{"questions": [{"a": 1}], "question_type": {}}', [{"a": 1}]),
    ],
)
def test_json_in_all_its_forms(tmp_path: Path, content: str, found: list[Any]) -> None:
    (tmp_path / "a.json").write_text(content)
    assert [row.cells for row in read(tmp_path / "a.json")[0]] == found


def test_bad_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}\n[2]\n{"a": ')
    rows, _ = read(tmp_path / "a.json")
    assert [row.problem for row in rows] == [
        "",
        "not a JSON object: '[2]'",
        "not JSON: '{\"a\": '; is the file cut off?",
    ]
    assert rows[2].where == "a.json, line 3"


def test_pictures_beside_the_data(tmp_path: Path) -> None:
    (tmp_path / "val2014" / "deep").mkdir(parents=True)
    (tmp_path / "val2014" / "deep" / "one.png").write_bytes(RED)
    (tmp_path / "two.jpg").write_bytes(BLUE)
    (tmp_path / "bad.jpg").write_bytes(b"?")
    (tmp_path / "a.json").write_text("{}")
    (row,), pictures = read(tmp_path / "a.json")
    assert pictures[row.picture("two.jpg")] == BLUE
    assert pictures[row.picture("one.png")] == RED
    for name, words in (
        ("none.png", "there is no picture none.png"),
        ("bad.jpg", "bad.jpg is not a picture"),
        ("../two.jpg", "must lie in"),
        ("/etc/passwd", "must lie in"),
    ):
        with pytest.raises(ValueError, match=words):
            row.picture(name)
    (tmp_path / "one.png").mkdir()
    (row,), pictures = read(tmp_path / "a.json", images=tmp_path / "val2014")
    assert pictures[row.picture("one.png")] == RED
    (tmp_path / "val2014" / "one.png").write_bytes(BLUE)
    (tmp_path / "val2014" / "other").mkdir()
    (tmp_path / "val2014" / "other" / "two.png").write_bytes(BLUE)
    (tmp_path / "val2014" / "deep" / "two.png").write_bytes(RED)
    (row,), _ = read(tmp_path / "a.json", images=tmp_path / "val2014")
    with pytest.raises(ValueError, match=r"two\.png may be .*; give the right folder with --images"):
        row.picture("two.png")


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no "):
        read(tmp_path / "none.tsv")
    with pytest.raises(ValueError, match=r"has no file that fits POPE\.tsv or x"):
        read(tmp_path, "POPE.tsv", "x")
    (tmp_path / "a.xml").write_text("")
    with pytest.raises(ValueError, match="must be a file of"):
        read(tmp_path / "a.xml")
    (tmp_path / "a.tsv").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        read(tmp_path / "a.tsv")
    (tmp_path / "b.tsv").write_bytes(b"a\tb\n\xff\xfe\t1\n")
    with pytest.raises(ValueError, match=r"cannot read .*b\.tsv"):
        read(tmp_path / "b.tsv")


ANY = st.fixed_dictionaries(
    {"a": st.text(st.characters(codec="utf-8", exclude_characters="\r")), "b": st.text("nax1\t\n\"' ")}
)


@settings(max_examples=50, deadline=None)
@given(st.lists(ANY, min_size=1, max_size=5))
def test_any_text_survives_a_tsv(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, str]]
) -> None:
    rows, _ = read(tsv(tmp_path_factory.mktemp("any") / "a.tsv", lines))
    empty = ("nan", "")
    assert [row.cells for row in rows] == [
        {key: "" if value in empty else value for key, value in line.items()} for line in lines
    ]
    assert json.dumps([row.where for row in rows])
