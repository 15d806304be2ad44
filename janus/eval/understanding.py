"""What all benchmarks of questions about pictures share: reading their data, putting their questions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from janus.eval.benchmark import (
    Answers,
    Item,
    Line,
    Mode,
    Progress,
    Samples,
    Scored,
    caveats,
    check_mode,
    refused,
)
from janus.eval.fixtures import SMALL, WHOLE, FixtureScene, fixture_scenes
from janus.eval.folder import PICTURES
from janus.eval.pictures import Pictures
from janus.eval.profiles import Form, ProfileName, profile_of
from janus.eval.tables import Row, Source, write_tsv

FIXTURE, OWN = "the package's fixture", "the package's own questions about scenes of the embedded world"


class Understanding:
    """A benchmark whose answers are text.

    mode: the published rules with their quirks, or mended ones.  profile: how questions are put.
    """

    kind: Literal["answer", "picture"] = "answer"
    each = 1
    name: ClassVar[str]
    files: ClassVar[Mapping[str, str]] = {}  # MD5 or SHA-256 of published files, and what they are
    published_by: ClassVar[str] = "others"  # whose rules published numbers are by
    accepts: ClassVar[Sequence[str]]  # patterns of data files in a folder
    form: ClassVar[Form]  # of the question, if the sample has no `form` of its own

    def __init__(self, mode: Mode = "official", profile: ProfileName = "pro") -> None:
        check_mode(mode)
        self.mode, self.profile = mode, profile_of(profile)

    # -- what each benchmark has of its own

    def sample(self, row: Row) -> Line:
        """A row in this benchmark's own form: `id` (text, only once), `question`, `pictures` and more.

        Raises ValueError saying what is wrong with it.
        """
        raise NotImplementedError

    def chosen(self, rows: Sequence[Row], source: Path) -> Sequence[Row]:
        """Those of a data set's rows that are asked, put together from several where that is how it comes."""
        return rows

    def completed(self, lines: Sequence[Line], rows: Sequence[Row]) -> tuple[Line, ...]:
        """The samples in rows, with those that are made from them."""
        return tuple(lines)

    def check(self, lines: Sequence[Line]) -> Iterator[str]:
        """What is wrong with the samples as a whole."""
        return iter(())

    def group(self, sample: Line) -> str:
        """Samples of one group are scored together, so that `--limit` takes them together."""
        return str(sample["id"])

    def score(self, answers: Answers, on_progress: Progress | None = None) -> Scored:
        raise NotImplementedError

    def fixture(self, scenes: Sequence[FixtureScene]) -> list[Line]:
        """Rows of its official TSV file about scenes of the embedded world."""
        raise NotImplementedError

    # -- what they share

    @property
    def settings(self) -> Line:
        return {"profile": self.profile.name}

    def samples(
        self,
        data: Path | None,
        fixture: bool,
        images: Path | None = None,
        on_progress: Progress | None = None,
    ) -> Samples:
        """The samples in the files at `data`, pictures in files of their own in `images` or beside them.

        Without `data`: questions about scenes of the embedded world, few of them for the `fixture`.
        on_progress: bytes of the data that are read, of all.

        Raises ValueError naming every row that cannot be used and why, every id that is there twice, and
        what is wrong with the whole.
        """
        pictures = Pictures()
        if data is not None:
            source = Source(data, self.accepts, pictures, images)
            rows = source.rows(on_progress)
            pairs = self.pairs(rows, data)
            lines = self.completed([line for _, line in pairs], rows)
            known = source.known(self.files)
            published = all(known) and not list(self.lacking(lines))
            named = [name or file.name for name, file in zip(known, source.files, strict=True)]
            title = ", ".join(dict.fromkeys(named))
            numbers = tuple(row.number for row, _ in pairs if row.number is not None)
            return Samples(title, lines, published, pictures, numbers)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{self.name}.tsv"
            write_tsv(file, self.fixture(fixture_scenes(SMALL if fixture else WHOLE)))
            rows = Source(file, self.accepts, pictures).rows()
            lines = self.completed([line for _, line in self.pairs(rows, file)], rows)
        return Samples(FIXTURE if fixture else OWN, lines, False, pictures)

    def lacking(self, lines: Sequence[Line]) -> Iterator[str]:
        """Parts of the published data that are not there, each by its name; scores may do without."""
        return iter(())

    def limited(self, lines: Sequence[Line], limit: int) -> Sequence[Line]:
        """The first `limit`, and what belongs to their groups, in the order of the file."""
        groups = {self.group(line) for line in lines[:limit]}
        return [line for line in lines if self.group(line) in groups]

    def prompt(self, sample: Line) -> str:
        return self.profile.text(
            self.name,
            sample.get("form", self.form),
            sample["question"],
            sample.get("options"),
            sample.get("hint", ""),
        )

    def prepare(self) -> None:
        """Nothing is needed."""

    def verdict(
        self,
        answers: Answers,
        index: int,
        *,
        read: str | None,
        expected: str,
        score: float,
        reason: str,
        tags: Mapping[str, str],
        cluster: str = "",
    ) -> Line:
        """The verdict on the answer to one sample, by its index."""
        sample = answers.samples[index]
        line: Line = {
            "item": Item(index, 0).key,
            "id": sample["id"],
            "tags": dict(tags),
            "prompt": self.prompt(sample),
            "pictures": [f"{PICTURES}/{name}" for name in sample["pictures"]],
            "answer": answers.text(index),
            "read": read,
            "expected": expected,
            "score": score,
            "reason": reason,
        }
        return line | {"cluster": cluster} if cluster else line

    def caveat(self, answers: Answers, *more: str) -> str:
        """What keeps a score from being a published number's equal; `more` that the benchmark knows of."""
        data = "" if answers.published else f"not the published data ({answers.title})"
        return caveats(self.mode, data, *more, by=self.published_by)

    def pairs(self, rows: Sequence[Row], source: Path, shown: bool = True) -> list[tuple[Row, Line]]:
        """Rows that are asked, and their samples.

        shown: whether they need pictures; answers that are there already do not.  Raises ValueError naming
        what is wrong.
        """
        pairs: list[tuple[Row, Line]] = []
        seen: dict[str, str] = {}
        wrong: list[str] = []
        for number, row in enumerate(self.chosen(rows, source)):
            row.number = number if row.number is None else row.number
            try:
                if row.problem:
                    raise ValueError(row.problem)
                line = self.sample(row)
                if shown and not line["pictures"]:
                    raise ValueError("no picture")
                if line["id"] in seen:
                    raise ValueError(f"the id {line['id']!r} again, which {seen[line['id']]} has")
            except ValueError as error:
                wrong.append(f"{row.where}: {error}")
                continue
            seen[line["id"]] = row.where
            pairs.append((row, line))
        wrong += self.check([line for _, line in pairs]) if not wrong else ()
        if wrong:
            raise refused(source, wrong, len(pairs))
        if not pairs:
            raise ValueError(f"{source} has no samples")
        return pairs
