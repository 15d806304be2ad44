"""What came of a run, for people: as Markdown, and as a page with every picture, answer and reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from janus.eval.benchmark import Line, Scored, Table

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #8884; vertical-align: top; }
.warning { border-left: .3rem solid #d80; padding-left: 1rem; font-weight: 600; }
.settings { color: #888; }
.verdict { display: grid; grid-template-columns: 10rem 1fr; gap: 1rem; padding: 1rem 0;
  border-bottom: 1px solid #8884; }
.verdict img { width: 10rem; height: auto; border-radius: .3rem; }
.verdict p { margin: .2rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.verdict .right { color: #2a2; } .verdict .wrong { color: #d33; }
@media (max-width: 40rem) { .verdict { grid-template-columns: 1fr; } }
"""
# Shows all verdicts, or only those that are wrong; the page needs nothing else from anywhere.
_SCRIPT = """
document.getElementById("only").addEventListener("change", (event) => {
  for (const one of document.querySelectorAll(".verdict[data-right='1']")) one.hidden = event.target.checked;
});
"""


def head(results: Line) -> tuple[str, list[str], list[str]]:
    """What was run, its settings, and the warnings that belong beside the score."""
    samples, settings = results["samples"], results["settings"]
    used, count = samples["used"], samples["count"]
    part = f"all {count}" if used == count else f"{used} of the {count}"
    title = f"{results['benchmark']} by the {results['mode']} rules, {part} samples of {samples['title']}"
    told = [f"{name}: {value}" for name, value in settings.items() if value is not None]
    warnings = [results["caveat"]] if results["caveat"] else []
    if not results["complete"]:
        errors = [f"{raw['item']}: {raw['error']}" for raw in results["errors"][:5]]
        why = f"  {len(results['errors'])} could not be answered: {'; '.join(errors)}." if errors else ""
        warnings.append(
            f"INCOMPLETE: of {results['expected']} {results['unit']}s expected, {results['answered']} were "
            f"answered, {results['parsed']} could be read and {results['scored']} are scored; there is no "
            f"overall score.{why}  Run the same command again to get the rest."
        )
    return title, told, warnings


def summary(results: Line, scored: Scored) -> str:
    """What a person reads first, as Markdown: the caveat, what is missing, the scores."""
    title, told, warnings = head(results)
    unread = results["answered"] - results["parsed"]
    notes = [*scored.notes]
    if unread:
        notes.append(f"{unread} of {results['answered']} answers could not be read.")
    parts = [title, "; ".join(told), *(f"**{warning}**" for warning in warnings)]
    return "\n\n".join([*parts, *map(markdown, scored.tables), *notes])


def report(results: Line, scored: Scored) -> str:
    """The whole report, as Markdown."""
    title = f"# {results['benchmark']}: {results['settings']['model']}"
    verdicts = Table("Every verdict", ("item", "asked", "answer", "score", "why"), list(_rows(scored)))
    return f"{title}\n\n{summary(results, scored)}\n\n{markdown(verdicts)}\n"


def page(results: Line, scored: Scored) -> str:
    """The whole report, as a page that needs no network; pictures are looked for beside it."""
    title, told, warnings = head(results)
    name = f"{results['benchmark']}: {results['settings']['model']}"
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f"<h1>{escape(name)}</h1><p>{escape(title)}</p>",
        *(f'<p class="warning">{escape(warning)}</p>' for warning in warnings),
        *map(_html, scored.tables),
        *(f"<p>{escape(note)}</p>" for note in scored.notes),
        f'<p class="settings">{escape("; ".join(told))}</p>',
        '<h2>Every verdict</h2><label><input type="checkbox" id="only"> only what is wrong</label>',
        *map(_verdict, scored.verdicts),
        f"<script>{_SCRIPT}</script></body></html>\n",
    ]
    return "\n".join(parts)


def _rows(scored: Scored) -> Iterator[list[str]]:
    for line in scored.verdicts:
        files = line.get("pictures", ())
        item = f"[{line['item']}]({files[0]})" if files else line["item"]
        yield [item, line["prompt"], _answer(line), f"{line['score']:.3g}", line["reason"]]


def _answer(line: Line) -> str:
    answer = line.get("answer")
    return "" if answer is None else str(answer)


def _verdict(line: Line) -> str:
    right = line["score"] == 1
    pictures = "".join(
        f'<a href="{escape(file)}"><img loading="lazy" src="{escape(file)}" alt=""></a>'
        for file in line.get("pictures", ())
    )
    told = [("answer", line.get("answer")), ("read as", line.get("read")), ("expected", line.get("expected"))]
    words = "".join(
        f"<p><b>{name}:</b> {escape(str(value))}</p>" for name, value in told if value is not None
    )
    mark = f'<span class="{"right" if right else "wrong"}">{line["score"]:.3g}</span>'
    reason = f"<p><b>why:</b> {escape(line['reason'])}</p>" if line["reason"] else ""
    tags = "; ".join(f"{name}: {value}" for name, value in line["tags"].items())
    return (
        f'<div class="verdict" data-right="{int(right)}"><div>{pictures}</div>'
        f"<div><p><b>{escape(line['item'])}</b> {mark} "
        f'<span class="settings">{escape(tags)}</span></p><p>{escape(line["prompt"])}</p>'
        f"{words}{reason}</div></div>"
    )


def markdown(table: Table) -> str:
    lines = [f"## {table.title}\n"] if table.title else []
    lines += [_cells(table.header), "|" + "---|" * len(table.header), *map(_cells, table.rows)]
    return "\n".join(lines)


def _cells(cells: Sequence[str]) -> str:
    safe = (cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(safe)} |"


def _html(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    title = f"<h2>{escape(table.title)}</h2>" if table.title else ""
    body = "".join(row(cells, "td") for cells in table.rows)
    return f"{title}<table><thead>{row(table.header, 'th')}</thead><tbody>{body}</tbody></table>"
