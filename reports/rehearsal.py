"""The report of a rehearsal: what people's ratings would give, from simulated ones, and marked as such throughout.

In report.json and ratings.csv simulated ratings stay what they are in every report: a kind of their own (`kinds` and
the column `kind`), which nothing pools with people's. Only the page, its Markdown and the table for LaTeX show them in
the places where people's will stand, so that the owner sees those places: each figure, table and sentence on them says
so.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.records import dump_json, write_atomic
from harness.rundir import RunDir
from reports import render
from reports.document import build
from reports.export import latex, write_ratings
from reports.figures import Picture
from reports.load import Source, load
from reports.numbers import fraction_text, joined, percent, plural

KIND = "simulated"
MARK = "simulated raters"
BANNER = "Rehearsal: every rating here is simulated. No person has rated, and nothing here is a result."
OF_RATINGS = {"people", "frontier", "validity"}
"""Sections of the page whose figures are made of ratings."""
NOT_OF_RATINGS = ("Benchmarks", "Costs", "Training", "Over seeds", "Provenance")
"""Headings of the parts that are made of measurements, whose tables stay unmarked."""
WORDS = {
    "Ratings by people": "Ratings by simulated raters",
    "people’s ratings": "simulated ratings",
    "people's ratings": "simulated ratings",
    "that people rated": "that simulated raters rated",
}
STYLE = """
.rehearsal { position: sticky; top: 0; z-index: 9; max-width: none; margin: 0; padding: .4rem .8rem; text-align: center;
  font-weight: 700; background: #8a4b00; color: #fff; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
caption.simulated { caption-side: top; text-align: left; font-style: italic; padding: .2rem 0; }
@media print { .rehearsal { position: fixed; left: 0; right: 0; } body { padding-top: 2.2rem; } }
"""


def write_rehearsal(run: RunDir, facts: dict[str, Any]) -> list[Path]:
    """Write the report of a rehearsed run directory and say which files it consists of, the page first.

    `facts` are the seed, the number of raters, the true fraction of each arm, the model's standard deviations. Raises
    RunError where nobody has rated.
    """
    source = replace(load(run.root), looks=())
    if KIND not in source.ratings:
        raise RunError("no simulated rater has rated anything", hint="rehearse again, with more raters")
    out = run.report
    out.mkdir(parents=True, exist_ok=True)
    kept = _as_kind(source, KIND)
    shown = replace(_as_kind(source, "person"), name=f"{source.name}, rehearsed with {MARK}")
    report = _marked_report(shown)
    view = _marked_view(render._view(shown, report, ""))
    ours = [{"text": text, "level": "warning"} for text in (BANNER, *_truth(shown, report, facts))]
    view["warnings"] = [*ours, *view["warnings"]]
    beside = write_ratings(kept.ratings, out)
    if table := latex(shown, report):
        write_atomic(out / "table.tex", f"% {BANNER}\n{table}".replace(r"\caption{", rf"\caption{{{BANNER} ", 1))
        beside.append(out / "table.tex")
    write_atomic(out / "report.html", mark_page(render.template("report.html.j2").render(view)))
    write_atomic(out / "report.md", mark_markdown(render.template("report.md.j2").render(view)))
    write_atomic(out / "report.json", dump_json(build(kept)))
    return [out / "report.html", out / "report.json", out / "report.md", *beside]


def _as_kind(source: Source, kind: str) -> Source:
    """What there is of simulated raters, under the name of a kind, and of nobody else."""
    extras = {kind: source.extras[KIND]} if KIND in source.extras else {}
    ratings, dates = {kind: source.ratings[KIND]}, {kind: source.dates[KIND]}
    return replace(source, ratings=ratings, dates=dates, extras=extras, judging=None)


def _marked_report(source: Source) -> dict[str, Any]:
    """The report as people's ratings would give it, its sentences marked."""
    report = build(source)
    report["headline"] = f"Rehearsal with {MARK}: {report['headline']}"
    report["methods"] = f"Rehearsal with {MARK}, not to be quoted. {report['methods']}"
    report["limitations"] = [BANNER, *report["limitations"]]
    return report


def _truth(source: Source, report: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """The fraction of each student that the simulated marks were drawn with, beside the one that was found."""
    lines = []
    for arm in source.students:
        found = report["arms"].get(arm, {}).get("satisfaction", {}).get("fraction")
        if arm in facts.get("fractions", {}) and found:
            drawn = percent(facts["fractions"][arm], 1)
            lines.append(f"{arm} {drawn} (found: {fraction_text(found)})")
    if not lines:
        return []
    n, seed = plural(facts["raters"], "rater"), facts["seed"]
    return [
        f"The marks of {n} were drawn (seed {seed}) with these fractions of the teacher's mean, then rounded to 1..5: "
        f"{joined(lines)}. Rounding at the ends of the scale, and raters without care, move what is found."
    ]


def _marked_view(view: dict[str, Any]) -> dict[str, Any]:
    """Mark the figures that are made of ratings, in their titles and in their data."""

    def marked(one: Picture) -> Picture:
        if render.SECTIONS.get(one.key, "people") not in OF_RATINGS:
            return one
        title = f"{one.title} ({MARK})"
        rows = tuple((*row, KIND) for row in one.rows)
        return replace(one, title=title, svg=_mark_picture(one.svg), header=(*one.header, "kind"), rows=rows)

    sections = {name: [marked(one) for one in pictures] for name, pictures in view["sections"].items()}
    modes = {mode: [marked(one) for one in pictures] for mode, pictures in view["mode_pictures"].items()}
    first = marked(view["first"]) if view["first"] else None
    return {**view, "first": first, "sections": sections, "mode_pictures": modes}


def _mark_picture(svg: str) -> str:
    """A figure with the mark in a corner, so that it keeps it where it is copied to."""
    box = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) [\d.]+"', svg)
    right = float(box[1]) - 3 if box else 3.0
    mark = f'<text x="{right:g}" y="9" text-anchor="end" font-size="8" fill="currentColor">{MARK}</text>'
    return f"{svg.removesuffix('</svg>')}{mark}</svg>"


def mark_page(html: str) -> str:
    """The page with a banner on every screen and every printed page, and a caption on each table about ratings."""
    head, body, rest = html.partition("<body>")
    head = head.replace("</style>", f"{STYLE}</style>", 1)
    parts = re.split(r"(?=<h2>)", rest)
    caption = f'\\g<0><caption class="simulated">{MARK.capitalize()}</caption>'
    marked = [
        part
        if part.startswith(tuple(f"<h2>{name}" for name in NOT_OF_RATINGS))
        else re.sub("<table[^>]*>", caption, part)
        for part in parts
    ]
    return f'{head}{body}\n<p class="rehearsal" role="note">{BANNER}</p>{_worded("".join(marked))}'


def mark_markdown(text: str) -> str:
    """The Markdown report with the same mark at its head and above each table about ratings."""
    title, _, rest = text.partition("\n")
    parts = re.split(r"(?m)^(?=## )", rest)
    mark = f"_{MARK.capitalize()}:_\n\n"
    marked = [
        part
        if part.startswith(tuple(f"## {name}" for name in NOT_OF_RATINGS))
        else re.sub(r"(?m)^(?=\|.*\| *\n+\|[-:| ]+\| *$)", mark, part)
        for part in parts
    ]
    return f"{title}\n\n> **{BANNER}**\n{_worded(''.join(marked))}"


def _worded(text: str) -> str:
    for people, simulated in WORDS.items():
        text = text.replace(people, simulated)
    return text
