"""DPG-Bench's prompts and questions: the official files, and prompts of the package's own in their form."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from janus.data.facts import Facts
from janus.data.wording_en import NUMBERS, article, describe, plural
from janus.eval.benchmark import Line, Samples, refused
from janus.eval.fixtures import fixture_scenes
from janus.eval.pictures import Pictures
from janus.eval.tables import Row, Source

FILE, PROMPTS = "dpg_bench.csv", "prompts"
OFFICIAL = "DPG-Bench's prompts"
# Of dpg_bench.csv: the name of its content in the official repository's git, at commit 3c228f1.
OFFICIAL_BLOB = "98457fc9901943f51ff9a30367250fc292533bed"
# Of the 1,065 prompts/*.txt: their names and texts, each followed by a line break, in the order of the names.
OFFICIAL_PROMPTS = "ac29a6a527506f2275ea9635385643ede44c923a244b32113ebd050df429ae8d"
COLUMNS = (
    "item_id",
    "text",
    "keywords",
    "proposition_id",
    "dependency",
    "category_broad",
    "category_detailed",
    "tuple",
    "question_natural_language",
)
SMALL, WHOLE = 6, 120  # prompts of the fixture, and of the package's own


def read_data(path: Path) -> Samples:
    """The questions of dpg_bench.csv, or of the one in a folder, and the prompts in the folder beside it.

    A prompt that has no file there is taken from the column `text`.

    Raises ValueError naming every bad row and what is wrong with it.
    """
    source = Source(path, (FILE,), Pictures())
    if len(source.files) > 1:
        raise ValueError(f"{path} has {source.files[0]} and {source.files[1]}; give one of them")
    [file] = source.files
    blob = _blob(file.read_bytes())
    texts = {text.stem: text for text in sorted((file.parent / PROMPTS).glob("*.txt"))}
    prompts = {name: _read(text) for name, text in texts.items()}
    samples: dict[str, Line] = {}
    wrong = []
    for place, row in enumerate(source.rows()):
        try:
            if row.problem:
                raise ValueError(row.problem)
            name, question = row.cells["item_id"], _question(row, place)
            _check_name(name)
            prompt = prompts.get(name, row.cells["text"].strip())
            if not prompt:
                raise ValueError(f"there is neither {PROMPTS}/{name}.txt nor a text")
        except (ValueError, KeyError) as error:
            what = f"there is no column {error}" if isinstance(error, KeyError) else error
            wrong.append(f"{row.where}: {what}")
            continue
        sample = samples.setdefault(name, {"id": name, "prompt": prompt, "questions": []})
        sample["questions"].append(question)
    if blob != OFFICIAL_BLOB:
        wrong += [f"{PROMPTS}/{name}.txt: no row asks about it" for name in prompts if name not in samples]
    if wrong:
        raise refused(file, wrong, sum(len(sample["questions"]) for sample in samples.values()))
    if not samples:
        raise ValueError(f"{file} has no questions")
    published = (blob, _digest(prompts)) == (OFFICIAL_BLOB, OFFICIAL_PROMPTS)
    return Samples(OFFICIAL if published else f"prompts of {file.name}", tuple(samples.values()), published)


def own_data(fixture: bool) -> Samples:
    """Prompts about scenes of the embedded world, written in the official form and read as official ones."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_text(as_csv(own_rows(SMALL if fixture else WHOLE)), encoding="utf-8")
        lines = read_data(path).lines
    return Samples("the package's fixture" if fixture else "the package's own prompts", lines)


def own_rows(count: int) -> list[dict[str, str]]:
    """Of dpg_bench.csv, about the first `count` scenes."""
    rows = []
    for one in fixture_scenes(count):
        text = f"a picture of {describe(one.facts)}"
        for number, (parents, about, question) in enumerate(_asked(one.facts), 1):
            kind, detail = about.split(" (")[0].split(" - ")
            row = {
                "item_id": f"scene{one.number}",
                "text": text,
                "keywords": ", ".join(one.facts.counts),
                "proposition_id": str(number),
                "dependency": ",".join(map(str, parents)) or "0",
                "category_broad": kind,
                "category_detailed": detail,
                "tuple": about,
                "question_natural_language": question,
            }
            rows.append(row)
    return rows


def as_csv(rows: Sequence[dict[str, str]]) -> str:
    """The file, as pandas writes it."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _asked(facts: Facts) -> Iterator[tuple[list[int], str, str]]:
    """Parents, tuple and question of all that a scene's description says; things come first."""
    names = list(facts.counts)
    for name, count in facts.counts.items():
        asked = f"Is there {article(name)}" if count == 1 else f"Are there any {plural(name)}"
        yield [], f"entity - whole ({name})", f"{asked} in the picture?"
    for name, count in facts.counts.items():
        if count > 1:
            asked = f"Are there exactly {NUMBERS[count]} {plural(name)}?"
            yield [names.index(name) + 1], f"other - count ({name}, =={count})", asked
    for name, colour in facts.uniform.items():
        asked = f"Is the {name} {colour}?" if facts.counts[name] == 1 else f"Are the {plural(name)} {colour}?"
        yield [names.index(name) + 1], f"attribute - color ({name}, {colour})", asked
    if facts.together is not None:
        one, where, other = facts.together
        parents = [names.index(one) + 1, names.index(other) + 1]
        about = f"relation - spatial ({one}, {other}, {where})"
        yield parents, about, f"Is the {one} {where} the {other}?"


def _question(row: Row, place: int) -> Line:
    """Raises ValueError for what the official script breaks at, KeyError where a column is missing."""
    cells = row.cells
    number, parents = cells["proposition_id"], cells["dependency"]
    if not re.fullmatch(r"\s*[0-9]+\s*", number):
        raise ValueError(f"proposition_id must be a whole number, not {number!r}")
    if not re.fullmatch(r"\s*[0-9]+\s*(,\s*[0-9]+\s*)*", parents):
        raise ValueError(f"dependency must be numbers of questions with commas between, not {parents!r}")
    about, text = cells["tuple"].strip(), cells["question_natural_language"].strip()
    if not about or not text:
        raise ValueError(f"there must be a tuple and a question, not {about!r} and {text!r}")
    return {
        "row": place,
        "number": int(number),
        "parents": [int(parent) for parent in parents.split(",")],
        "about": about,
        "text": text,
    }


def _check_name(name: str) -> None:
    """Pictures are given as files of this name."""
    if not name or re.search(r'[/\\:*?"<>|\x00-\x1f]', name) or name.strip(". ") != name:
        raise ValueError(f"item_id must be fit for the name of a file, not {name!r}")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {file}: {error}") from error


def _blob(data: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _digest(prompts: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{name}\n{text}\n" for name, text in prompts.items()).encode()).hexdigest()
