"""A run directory, or anybody's table of ratings -> the page, its Markdown and JSON, and the files beside them."""

import base64
import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.records import dump_json, write_atomic
from harness.rundir import RunDir
from reports import cost_tables, figures, numbers, pair_tables, published, wording, wording_validity, wording_warnings
from reports.compare import Cell, Row, score_rows
from reports.document import build
from reports.examples import choose
from reports.export import latex, write_ratings
from reports.judge_tables import judge_tables
from reports.load import Source, load
from reports.pictures import kind_pictures, mode_pictures, page_pictures
from reports.seeds import verdict
from reports.tidy import MEASURES
from reports.tidy_csv import read_kinds

SECTIONS = {
    **dict.fromkeys(
        ("forest", "distributions", "preferences", "scenarios", "forest-category", "forest-language"), "people"
    ),
    **dict.fromkeys(("retained", "calibration"), "benchmarks"),
    **{"smaller-faster": "costs", "frontier": "frontier", "training": "training", "seeds": "seeds"},
    "sequence": "validity",
}
"""Key of a figure -> the section it stands in."""
FIRST_COSTS = (
    *("Parameters", "Size on disk", "Peak memory", "Tokens a second", cost_tables.READING),
    "Energy of 1,000 tokens",
)
"""The costs of the first screen."""


@dataclass(frozen=True)
class Paths:
    """The files of a report: the three that are always there, and those beside them."""

    html: Path
    md: Path
    json: Path
    beside: tuple[Path, ...] = ()


def make(root: Path, *, rate_command: str) -> Paths:
    """Report on a run directory into its report/; `rate_command` is printed where ratings are missing.

    Raises RunError for a folder without a study, or with ratings that cannot be attributed to arms.
    """
    return _write(load(root), RunDir(root).report, rate_command)


def write_report(run: RunDir, rate_command: str) -> list[Path]:
    """The report stage's work: write the report and say which files it consists of."""
    paths = make(run.root, rate_command=rate_command)
    return [paths.html, paths.json, paths.md, *paths.beside]


def from_csv(path: Path, teacher: str, out: Path, *, margin: float = 0.90) -> Paths:
    """The human part of the report from anybody's tidy ratings (rater, scenario, arm, satisfaction, ...)."""
    kinds = read_kinds(path, teacher)
    first = next(iter(kinds.values()))
    arms = (teacher, *(arm for arm in dict.fromkeys(a for tidy in kinds.values() for a in tidy.arms) if arm != teacher))
    mode = max(first.modes, key=lambda name: (int((first.mode == first.modes.index(name)).sum()), name))
    dates = {
        kind: (min(times), max(times)) for kind, tidy in kinds.items() if (times := [one for one in tidy.time if one])
    }
    source = Source(name=path.stem, arms=arms, mode=mode, margin=margin, ratings=kinds, dates=dates)
    return _write(source, out, "")


def _write(source: Source, out: Path, rate_command: str) -> Paths:
    report = build(source)
    view = _view(source, report, rate_command)
    out.mkdir(parents=True, exist_ok=True)
    beside = write_ratings(source.ratings, out)
    if table := latex(source, report):
        write_atomic(out / "table.tex", table)
        beside.append(out / "table.tex")
    paths = Paths(out / "report.html", out / "report.md", out / "report.json", tuple(beside))
    # report.json goes last: it carries the looks, and must not tell of a report that was never written
    write_atomic(paths.html, template("report.html.j2").render(view))
    write_atomic(paths.md, template("report.md.j2").render(view))
    write_atomic(paths.json, dump_json(report))
    return paths


def _view(source: Source, report: dict[str, Any], rate_command: str) -> dict[str, Any]:
    """What the templates show."""
    people = report if report["n"]["ratings"] else None
    source = replace(source, arms=tuple(report["study"]["arms"]))
    pictures = page_pictures(source, report, people)
    first = pictures[0] if pictures else None
    sections: dict[str, list[figures.Picture]] = {name: [] for name in SECTIONS.values()}
    for one in pictures[1:]:
        sections[SECTIONS[one.key]].append(one)
    rule, examples = choose(source, people)
    return {
        "source": source,
        "report": report,
        "people": people,
        "title": f"Viva report: {source.name}",
        "rate_command": rate_command,
        "measures": [measure for measure in MEASURES if any(measure in arm for arm in report["arms"].values())],
        "measure_names": wording.MEASURE_NAMES,
        "kind_names": wording.KIND_NAMES,
        "not_people": wording.not_people(source),
        "mode_names": wording.MODE_NAMES,
        "first": first,
        "sections": sections,
        "rule": rule,
        "examples": examples,
        "csv_uri": csv_uri,
        "num": numbers,
        **_of_people(source, report, people),
        **_of_costs(source, report),
        **_of_benchmarks(source, report),
        **_of_making(source, report),
    }


def _of_people(source: Source, report: dict[str, Any], people: dict[str, Any] | None) -> dict[str, Any]:
    """Ratings: their tables, sentences and checks."""
    students, measures = source.students, MEASURES if people else ()
    return {
        "rating_rows": _rating_rows(source, report["arms"]),
        "verdicts": {measure: wording.verdicts(source, report, measure) for measure in measures},
        "judge_tables": judge_tables(report["judges"]),
        "kind_pictures": {kind: kind_pictures(source, kind, block) for kind, block in report["kinds"].items()},
        "mode_pictures": {mode: mode_pictures(source, mode, block) for mode, block in report["modes"].items()},
        "warnings": wording_warnings.gathered(report["warnings"]),
        "gathered": wording_warnings.gathered,
        "margin_text": wording.margin_text(source, report),
        "preference_texts": wording.preference_texts(report.get("preference")),
        "sensitivity_header": wording_validity.SENSITIVITY_HEADER,
        "sensitivity": {
            measure: wording_validity.sensitivity_lines(report["arms"], students, measure) for measure in measures
        },
        "mode_sensitivity": {
            mode: wording_validity.sensitivity_lines(block["arms"], students, "satisfaction")
            for mode, block in report["modes"].items()
        },
        "blinding_lines": wording_validity.blinding_lines(report),
        "validity_texts": wording_validity.validity_texts(report, students, wording.MEASURE_NAMES) if people else [],
        "gap_texts": wording_validity.gap_lines(report["arms"], students, "satisfaction") if people else [],
        "live_lines": wording_validity.live_lines(report),
        "answer_lines": wording_validity.answer_lines(report),
        "published_header": published.HEADER,
        "published_lines": published.lines(source, report),
        "published_note": published.NOTE,
    }


def _of_costs(source: Source, report: dict[str, Any]) -> dict[str, Any]:
    rows = cost_tables.cost_rows(source, report["arms"])
    return {
        "cost_rows": rows,
        "first_costs": [row for row in rows if row.label in FIRST_COSTS],
        "cost_header": cost_tables.cell_header(source, report["arms"]),
        "cost_lines": cost_tables.cell_lines(source, report["arms"]),
        "cost_verdicts": cost_tables.smaller_faster(source, report["arms"]),
        "cost_claims": cost_tables.claim_lines(),
        "cost_claims_note": cost_tables.CLAIMS_NOTE,
        "energy_sources": _energy_sources(report["arms"]),
    }


def _of_benchmarks(source: Source, report: dict[str, Any]) -> dict[str, Any]:
    """Scores and their comparisons; `first_scores` has the first score of each suite, for the first screen."""
    rows = score_rows(source, report["arms"])
    keys = dict.fromkeys((one["suite"], one["metric"]) for arm in source.arms for one in report["arms"][arm]["scores"])
    seen: set[str] = set()
    suites = [not (suite in seen or seen.add(suite)) for suite, _ in keys]
    return {
        "score_rows": rows,
        "first_scores": [row for row, suite in zip(rows, suites, strict=True) if suite],
        "pair_tables": pair_tables.tables(report["paired"]),
        "pair_header": pair_tables.HEADER,
        "pair_help": pair_tables.HELP,
        "overlap_header": pair_tables.OVERLAP_HEADER,
        "overlap_lines": pair_tables.overlap_lines(report["arms"]),
        "overlap_n": next((one["overlap"]["n"] for one in report["arms"].values() if one["overlap"]), None),
        "pair_verdicts": pair_tables.said_of_pairs(report["paired"], source.teacher),
        "seed_verdicts": [text for text in map(verdict, report["seeds"]) if text],
    }


def _of_making(source: Source, report: dict[str, Any]) -> dict[str, Any]:
    return {
        "makings": wording.makings(report["provenance"]),
        "versions": _merged(report["provenance"], "versions"),
        "hardware": _merged(report["provenance"], "hardware"),
    }


def _rating_rows(source: Source, arms: dict[str, Any]) -> list[Row]:
    """Mean ratings and fractions as rows of the table of arms."""
    rows = []
    for measure in MEASURES:
        blocks = [arms.get(arm, {}).get(measure, {}) for arm in source.arms]
        if not any(block.get("n") for block in blocks):
            continue
        name = wording.MEASURE_NAMES[measure].capitalize()
        means = [
            Cell(numbers.plain_number(block["mean"]), note=f"n{numbers.NBSP}={numbers.NBSP}{block['n']:,}")
            if block.get("n")
            else Cell(numbers.NONE)
            for block in blocks
        ]
        kept = [
            Cell(numbers.percent(1)) if index == 0 else Cell(numbers.fraction_text(b.get("fraction")))
            for index, b in enumerate(blocks)
        ]
        rows += [
            Row(f"{name}, mean", "1 to 5", "higher", tuple(means)),
            Row(f"{name}, fraction kept", f"95{numbers.NBSP}% interval", "higher", tuple(kept)),
        ]
    return rows


def _energy_sources(arms: dict[str, Any]) -> list[str]:
    """How the arms' energy is known, each way once: 'measured (RAPL: ...)'."""
    sources = [block["costs"].get("energy_source") for block in arms.values()]
    return list(dict.fromkeys(f"{one['kind']} ({one['how']})" for one in sources if one))


def _merged(lines: list[dict[str, Any]], key: str) -> dict[str, str]:
    """Facts of all stages' manifests, each with every value that occurs."""
    values: dict[str, set[str]] = {}
    for line in lines:
        for name, value in line[key].items():
            values.setdefault(name, set()).add(str(value))
    return {name: ", ".join(sorted(found)) for name, found in sorted(values.items())}


def csv_uri(picture: figures.Picture) -> str:
    """A figure's data as a CSV file inside a link."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows([picture.header, *picture.rows])
    return "data:text/csv;base64," + base64.b64encode(buffer.getvalue().encode()).decode()


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=lambda name: bool(name and ".html" in name),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "percent": numbers.percent,
        "scaled": numbers.scaled,
        "fraction": numbers.fraction_text,
        "number": numbers.plain_number,
        "p": numbers.p_value,
        "signed": numbers.signed,
        "md": lambda text: str(text).replace("|", "\\|").replace("\n", " "),
    }
    environment.filters.update(filters)
    return environment


def template(name: str) -> Any:
    return _environment().get_template(name)
