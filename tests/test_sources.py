"""Users' own data: every form it may have is read, and whatever is wrong with it is said.

All pictures are made here, each of one colour that tells which it is.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from janus.data.records import BadRecord, Record, Skipped, StoredPicture
from janus.data.sources import Source, open_source

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
TURNS = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "An apple."}]
LINES: list[dict[str, Any]] = [
    {"image": "a.png", "caption": "a red apple"},
    {"image": "a.png", "question": "What is it?", "answer": "An apple."},
    {"text": "An apple is a fruit."},
    {"messages": TURNS},
    {"images": ["a.png", "sub/b.png"], "messages": TURNS, "id": 5},
]
KINDS = ["generation", "understanding", "text", "text", "understanding"]


def png(colour: tuple[int, int, int], side: int = 2) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def shard(path: Path, files: Sequence[tuple[str, str | bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in files:
            data = content if isinstance(content, bytes) else content.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def jsonl(*lines: Any) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def only(folder: Path, line: Any) -> Record:
    """What a source says of one line; another, good one lets it open."""
    write(folder, {"data.jsonl": jsonl(line, {"text": "good"})})
    return open_source(folder / "data.jsonl")[0]


def colours(record: Record) -> list[Any]:
    return [picture.load().getpixel((0, 0)) for picture in record.images]


def shown(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any, list[str]]]:
    """Turns with the names of their pictures."""
    return [(m["role"], m["content"], [picture.name for picture in m["images"]]) for m in messages]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures and lines of every kind, in two files, with what does not count between them."""
    first, second = jsonl(*LINES[:3]), "\ufeff" + jsonl(LINES[3]) + "\r\n  \n" + json.dumps(LINES[4])
    return write(
        tmp_path / "folder",
        {"a.png": png(RED), "sub/b.png": png(GREEN), "1.jsonl": first, "2.jsonl": second, "._1.jsonl": "{"},
    )


def test_a_folder_of_json_lines(folder: Path) -> None:
    source = open_source(folder)
    records = [source[i] for i in range(len(source))]
    assert [record.kind for record in records] == KINDS
    assert source.kinds == {"generation", "understanding", "text"}
    indices = [source.of_kind(kind).tolist() for kind in ("generation", "understanding", "text")]
    assert indices == [[0], [1, 4], [2, 3]]
    assert str(source.unusable) == "0 of 5 records skipped"
    assert [record.name for record in records] == [
        *(f"{folder}/1.jsonl:{number}" for number in (1, 2, 3)),
        *(f"{folder}/2.jsonl:{number}" for number in (1, 4)),
    ]
    assert records[0].caption == "a red apple"
    assert records[2].text == "An apple is a fruit."
    assert [colours(record) for record in records] == [[RED], [RED], [], [], [RED, GREEN]]
    for record, names in ((records[3], []), (records[1], ["a.png"]), (records[4], ["a.png", "sub/b.png"])):
        assert shown(record.messages) == [("user", "What is it?", names), ("assistant", "An apple.", [])]


def test_one_file_of_json_lines(folder: Path) -> None:
    source = open_source(str(folder / "1.jsonl"))
    assert [source[i].kind for i in range(len(source))] == KINDS[:3]
    assert open_source(folder / "2.jsonl").kinds == {"text", "understanding"}


def test_any_order_gives_the_same(folder: Path) -> None:
    source, again = open_source(folder), open_source(folder)
    forwards = [source[i] for i in range(len(source))]
    assert [again[i] for i in reversed(range(len(source)))] == forwards[::-1]
    for index in (-1, len(source)):
        with pytest.raises(IndexError, match="records are 0 to 4"):
            source[index]


def test_pictures_that_turns_name_stay_there(folder: Path) -> None:
    turns = [*TURNS, {"role": "user", "content": "And this?", "images": ["sub/b.png"]}, TURNS[1]]
    system = {"role": "system", "content": "Be brief."}
    record = only(folder, {"images": ["sub/b.png", "a.png"], "messages": [system, *turns]})
    assert [names for _, _, names in shown(record.messages)] == [[], ["a.png"], [], ["sub/b.png"], []]
    assert colours(record) == [RED, GREEN]
    assert colours(only(folder, {"messages": turns})) == [GREEN]
    parts = [{"type": "text", "text": "Here"}, {"type": "image"}]
    record = only(folder, {"image": "a.png", "messages": [{"role": "user", "content": parts}, TURNS[1]]})
    assert shown(record.messages)[0] == ("user", parts, ["a.png"])


IMAGE = {"type": "image"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["<image>\nWhat?", "An apple."], [([IMAGE, {"type": "text", "text": "What?"}], ["a.png"])]),
        (["What?\n<image>", "An apple."], [([{"type": "text", "text": "What?"}, IMAGE], ["a.png"])]),
        (["What?", "It is <image>."], [("What?", ["a.png"])]),
        (
            ["Hi <image>", "Hi", "<image>and?", "So."],
            [
                ([{"type": "text", "text": "Hi"}, IMAGE], ["a.png"]),
                ([IMAGE, {"type": "text", "text": "and?"}], ["sub/b.png"]),
            ],
        ),
        (["Hi", "Hi"], [("Hi", [])]),
    ],
)
def test_conversations_of_llava(
    folder: Path, values: list[str], expected: list[tuple[Any, list[str]]]
) -> None:
    turns = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    names = [name for _, places in expected for name in places]
    pictures = {"image": names[0]} if len(names) == 1 else {"images": names}
    record = only(folder, {"id": "x", "model": "", "conversations": turns} | pictures)
    assert record.kind == ("understanding" if names else "text")
    asked = [("user", content, places) for content, places in expected]
    assert shown(record.messages)[::2] == asked
    assert shown(record.messages)[1::2] == [("assistant", answer, []) for answer in values[1::2]]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ([], "not a JSON object: besides image or images a line has caption, text, "),
        ({"image": "a.png", "captoin": "x", "url": ""}, "unknown fields: captoin, url; besides image"),
        ({"image": "a.png"}, "fields that do not go together: image; besides image"),
        ({"image": "a.png", "caption": "x", "text": "x"}, "do not go together: caption, image, text; "),
        ({"image": "a.png", "images": [], "caption": "x"}, "do not go together: caption, image, images; "),
        ({"image": "a.png", "question": "x"}, "do not go together: image, question; "),
        ({"image": "a.png", "caption": " "}, "no words: .* not ' '"),
        ({"image": "a.png", "caption": ["x"]}, r"no words: .* not \['x'\]"),
        ({"image": None, "caption": "x"}, "expected a path or a list of paths, not None"),
        ({"caption": "x"}, "a caption needs one picture, not 0"),
        ({"images": ["a.png", "a.png"], "caption": "x"}, "a caption needs one picture, not 2"),
        ({"image": "a.png", "text": "x"}, "wrong pictures: a text has none"),
        ({"text": 5}, "no words: .* not 5"),
        ({"image": "../b.png", "caption": "x"}, r"path outside the folder: \.\./b.png; paths start at "),
        ({"image": "/b.png", "caption": "x"}, "path outside the folder: /b.png"),
        ({"images": ["a/../../b.png"], "messages": TURNS}, "path outside the folder"),
        ({"messages": "x"}, "wrong messages: expected a list of objects, not 'x'"),
        ({"messages": []}, "the last must be the assistant's"),
        ({"messages": TURNS[:1]}, "the last must be the assistant's"),
        ({"messages": TURNS[1:]}, "has role 'assistant' where 'user' is due"),
        ({"messages": [{"role": "human", "content": "x"}, TURNS[1]]}, "accepted are .*'user', 'assistant'"),
        ({"messages": [{"role": "user", "text": "x"}, TURNS[1]]}, "unknown text; a turn has role, content"),
        ({"messages": [{"role": "user"}, TURNS[1]]}, "must be a dict with 'role' and 'content'"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": ""}]}, "no words: .* not ''"),
        ({"messages": [TURNS[0], TURNS[1] | {"images": ["a.png"]}]}, "only user messages can have them"),
        ({"messages": [TURNS[0] | {"images": [1]}, TURNS[1]]}, r"list of paths, not \[1\]"),
        ({"image": "a.png", "question": " ", "answer": "x"}, "the user's message needs some text"),
        ({"conversations": [{"from": "human", "value": "<image>"}]}, "the last must be the assistant's"),
        ({"conversations": [{"from": "bing", "value": "x"}]}, "a turn has from, human or gpt, and value"),
        (
            {"conversations": [{"from": "human", "value": "a <image>"}, {"from": "gpt", "value": "x"}]},
            "0 images for 1 image parts",
        ),
        ({"text": "\ud800"}, "not JSON: .*surrogates not allowed"),
    ],
)
def test_wrong_lines_are_explained(tmp_path: Path, line: Any, complaint: str) -> None:
    write(tmp_path, {"data.jsonl": json.dumps(line) + "\n" + jsonl({"text": "good"})})
    source = open_source(tmp_path)
    assert source.kinds == {"text"}
    with pytest.raises(BadRecord, match=rf"data\.jsonl:1: .*{complaint}"):
        source[0]
    assert source[1].text == "good"


@pytest.mark.parametrize("broken", [b'{"text": ', b"[" * 100_000, b'{"text": "\xff"}', b"\x00\x01"])
def test_broken_lines_shift_nothing(tmp_path: Path, broken: bytes) -> None:
    write(tmp_path, {"data.jsonl": b'{"text": "a"}\n' + broken + b'\n{"text": "b"}\n'})
    source = open_source(tmp_path)
    assert len(source) == 3
    assert source.of_kind("text").tolist() == [0, 2]
    assert str(source.unusable) == "1 of 3 records skipped: not JSON (1)"
    with pytest.raises(BadRecord, match=r"data\.jsonl:2: not JSON: "):
        source[1]
    assert source[2].text == "b"


def test_what_is_wrong_is_told_once_and_counted_each_time() -> None:
    skipped = Skipped(records=9)
    for name in "aab":
        skipped.add(BadRecord(name, "no text", "why"))
    assert str(skipped) == "3 of 9 records skipped: no text (3)"
    assert skipped.messages == ["a: no text: why", "b: no text: why"]


def test_pictures_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    write(tmp_path, {"text.jpg": "no picture", "cut.png": png(RED)[:-30], "bomb.png": png(RED, side=15)})
    for name, complaint in {
        "text.jpg": "unreadable picture: text.jpg: .*not a readable picture",
        "cut.png": "unreadable picture: cut.png: .*not a readable picture",
        "bomb.png": "unreadable picture: bomb.png: .*decompression bomb",
        "none.png": "missing picture: there is no .*none.png",
        ".": r"unreadable picture: \.: .*directory",
        "\0": "unreadable picture: .*null byte",
    }.items():
        record = only(tmp_path, {"image": name, "caption": "x"})
        with pytest.raises(BadRecord, match=rf"data\.jsonl:1: {complaint}"):
            record.images[0].load()


def test_a_folder_of_pictures_with_texts(tmp_path: Path) -> None:
    questions = json.dumps({"question": "What is it?", "answer": "An apple."}, indent=1)
    files = {"1.5 m.PNG": png(RED), "1.5 m.txt": "\ufeff一个苹果 🍎\n".encode(), "notes.md": b"x"}
    files |= {"1.6 m.png": png(GREEN), "1.6 m.json": questions.encode(), "2.png": png(BLUE), "3.txt": b"x"}
    files |= {"4.txt": b"\xff", "4.png": b"", "5.txt": b"x", "5.png": b"", "5.jpg": b"", ".6.txt": b"x"}
    write(tmp_path, files)
    source = open_source(tmp_path)
    assert (len(source), source.kinds) == (6, {"generation", "understanding"})
    assert source.of_kind("generation").tolist() == [0, 4]  # the latter's caption was not read yet
    assert str(source.unusable) == "3 of 6 records skipped: wrong pictures (2), no text (1)"
    assert (source[0].caption, colours(source[0])) == ("一个苹果 🍎", [RED])
    assert source[0].name == str(tmp_path / "1.5 m.txt")
    assert shown(source[1].messages)[0] == ("user", "What is it?", ["1.6 m.png"])
    assert colours(source[1]) == [GREEN]
    for index, complaint in {
        2: "2.png: no text: a picture needs a .txt or .json",
        3: "3.txt: wrong pictures: a caption needs one picture, not 0",
        4: "4.txt: not UTF-8",
        5: "5.txt: wrong pictures: a caption needs one picture, not 2",
    }.items():
        with pytest.raises(BadRecord, match=complaint):
            source[index]


SHARD: list[tuple[str, str | bytes]] = [
    ("000.jpg", png(RED)),
    ("000.txt", "a red apple"),
    ("000.json", '{"url": "passed over, as the text is the caption"}'),
    ("001.json", json.dumps({"messages": TURNS})),
    ("001.2.png", png(BLUE)),
    ("001.1.png", png(GREEN)),
    ("002.png", png(GREEN)),
    ("002.json", json.dumps({"image": "002.png", "caption": "苹果"})),
    ("003.json", json.dumps({"text": "An apple is a fruit."})),
]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./", "train.v1/", "苹果/" + "long" * 20 + "/"])
def test_a_shard(tmp_path: Path, form: int, prefix: str) -> None:
    path = shard(tmp_path / "a.tar", [(prefix + name, content) for name, content in SHARD], form)
    source = open_source(path)
    records = [source[i] for i in range(len(source))]
    assert source.kinds == {"generation", "understanding", "text"}
    assert [record.kind for record in records] == ["generation", "understanding", "generation", "text"]
    names = [record.name.removeprefix(f"{path}:{prefix}") for record in records]
    assert names == ["000.txt", "001.json", "002.json", "003.json"]
    assert [colours(record) for record in records] == [[RED], [BLUE, GREEN], [GREEN], []]
    assert [records[0].caption, records[2].caption] == ["a red apple", "苹果"]


def test_files_of_a_stem_may_lie_apart(tmp_path: Path) -> None:
    files = [*SHARD[::2], *SHARD[1::2], ("._000.txt", "x"), ("004.cls", "x"), ("005.meta.json", "{}")]
    source = open_source(shard(tmp_path / "a.tar", files))
    assert [source[i].kind for i in range(len(source))] == [
        "generation",
        "understanding",
        "generation",
        "text",
    ]


def test_wrong_records_in_a_shard(tmp_path: Path) -> None:
    files: list[tuple[str, str | bytes]] = [
        ("0.png", png(RED)),
        ("1.json", json.dumps({"image": "2.png", "caption": "x"})),
        ("1.png", png(RED)),
        ("2.txt", "x"),
        ("2.png", png(RED)),
        ("2.txt", "y"),
        ("3.json", json.dumps({"text": "x"})),
        ("3.png", png(RED)),
        ("4.txt", "good"),
        ("4.jpg", "no picture"),
    ]
    path = shard(tmp_path / "a.tar", files)
    source = open_source(path)
    assert source.kinds == {"generation"}
    for index, complaint in enumerate(
        [
            "0.png: no text",
            r"1.json: missing picture: 2.png; beside it are \['1.png'\]",
            "2.txt: same name twice: 2.txt, 2.txt, 2.png",
            "3.json: wrong pictures: a text has none",
        ]
    ):
        with pytest.raises(BadRecord, match=rf"a\.tar:{complaint}"):
            source[index]
    with pytest.raises(BadRecord, match=r"a\.tar:4.txt: unreadable picture: 4.jpg: "):
        source[4].images[0].load()


def test_many_shards(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        shard(tmp_path / f"t-{number:03}.tar", [("0.txt", f"{number}"), ("0.png", png(RED))])
    shard(tmp_path / "t-011.tar", [])
    for pattern, captions in {
        "": ["8", "9", "10"],
        "t-{009..011}.tar": ["9", "10"],
        "t-{0..0}{09..10}.tar": ["9", "10"],
    }.items():
        source = open_source(f"{tmp_path}/{pattern}")
        assert [source[i].caption for i in range(len(source))] == captions
    with pytest.raises(ValueError, match=r"there is no .*t-012\.tar, .*t-013\.tar$"):
        open_source(tmp_path / "t-{008..013}.tar")
    with pytest.raises(ValueError, match="a range must rise"):
        open_source(tmp_path / "t-{9..8}.tar")


def test_a_shard_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", SHARD)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    for size in [*range(0, end, 100), *range(0, end, 512), end]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a\.tar is truncated, damaged or not an uncompressed tar"):
            open_source(path)
    path.write_bytes(whole[:1024] + b"damage" + whole[1030:])
    with pytest.raises(ValueError, match=r"a\.tar is truncated, damaged"):
        open_source(path)


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, "holds no records; a source has .jsonl files, .tar shards, or pictures with"),
        ({"notes.md": "x", "sub/a.png": b"", "._a.png": b""}, "holds no records"),
        ({"data.jsonl": "\n\n"}, "holds no records"),
        (
            {"a.png": b"", "b.png": b""},
            r"2 of 2 records skipped: no text \(2\); the first is .*a.png: no text",
        ),
        ({"data.jsonl": "{\n{\n"}, r"2 of 2 records skipped: not JSON \(2\); the first is .*l:1: not JSON"),
        ({"a.jsonl": "", "a.tar": b""}, "holds both .jsonl and .tar files"),
        ({"a.tar": b"no tar"}, r"a\.tar is truncated, damaged or not an uncompressed tar file"),
    ],
)
def test_folders_of_no_use(tmp_path: Path, files: dict[str, str | bytes], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}.*{complaint}"):
        open_source(write(tmp_path, files))


def test_paths_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no .*none\.jsonl"):
        open_source(tmp_path / "none.jsonl")
    write(tmp_path, {"a.csv": "x"})
    with pytest.raises(ValueError, match=r"a\.csv: a source is a folder, a \.jsonl file or a \.tar file"):
        open_source(tmp_path / "a.csv")


words = st.text(min_size=1).filter(str.strip)
lines = st.one_of(
    st.fixed_dictionaries({"image": st.just("a.png"), "caption": words}),
    st.fixed_dictionaries({"text": words}),
    st.fixed_dictionaries({"image": st.just("a.png"), "question": words, "answer": words}),
)


@given(st.lists(lines, min_size=1, max_size=8), st.booleans())
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path: Path, written: list[dict[str, str]], ascii_only: bool) -> None:
    text = "\n".join(json.dumps(line, ensure_ascii=ascii_only) for line in written)
    source = open_source(write(tmp_path, {"data.jsonl": text}) / "data.jsonl")
    assert len(source) == len(written)
    for index, line in enumerate(written):
        record = source[index]
        if record.kind == "understanding":
            question, answer = (turn["content"] for turn in record.messages)
            assert {"image": "a.png", "question": question, "answer": answer} == line
        else:
            assert {"caption": record.caption, "text": record.text} == {"caption": None, "text": None} | {
                key: value for key, value in line.items() if key != "image"
            }
        stored = [picture for picture in record.images if isinstance(picture, StoredPicture)]
        assert [picture.path for picture in stored] == [tmp_path / "a.png"] * ("image" in line)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["user", "assistant", "a.png", "<image>", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "images", "from", "value", "type"]), inner)
    ),
    max_leaves=12,
)
fields = ["image", "images", "caption", "text", "question", "answer", "messages", "conversations", "id"]


@given(st.dictionaries(st.sampled_from(fields), values, max_size=3) | values)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_line_is_a_record_or_a_bad_one(tmp_path: Path, line: Any) -> None:
    with suppress(BadRecord):
        record = only(tmp_path, line)
        assert all(isinstance(picture, StoredPicture) for picture in record.images)


def test_threads_and_processes_may_share_a_source(folder: Path) -> None:
    shard(folder.parent / "a.tar", SHARD)

    def read(source: Source) -> list[Any]:
        return [(record := source[i % len(source)], colours(record)) for i in range(60)]

    for where in (folder, folder.parent / "a.tar"):
        source = open_source(where)
        expected = read(source)
        with ThreadPoolExecutor(4) as executor:
            assert all(found == expected for found in executor.map(read, [source] * 4))
        assert read(pickle.loads(pickle.dumps(source))) == expected


def test_skipped_records_are_counted_by_reason(tmp_path: Path) -> None:
    skipped = Skipped(records=1204)
    assert str(skipped) == "0 of 1,204 records skipped"
    for number in range(24):
        skipped.add(BadRecord(f"a.jsonl:{number}", "not JSON" if number % 3 else "no words", "x" * 1000))
    assert str(skipped) == "24 of 1,204 records skipped: not JSON (16), no words (8)"
    assert len(skipped.messages) == 20
    assert skipped.messages[0] == "a.jsonl:0: no words: " + "x" * 500
    error = BadRecord("a.jsonl:1", "not JSON", "why")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a.jsonl:1: not JSON: why"
