"""A run directory, or anybody's table of ratings -> report.html, report.md and report.json."""

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
from reports import cost_tables, figures, numbers, pair_tables, wording
from reports.compare import Cell, Row, score_rows
from reports.document import build
from reports.examples import choose
from reports.load import Source, load
from reports.pictures import kind_pictures, page_pictures
from reports.seeds import verdict
from reports.tidy import MEASURES, read_csv


@dataclass(frozen=True)
class Paths:
    """The three files of a report."""

    html: Path
    md: Path
    json: Path


def make(root: Path, *, rate_command: str) -> Paths:
    """Report on a run directory into its report/; `rate_command` is printed where ratings are missing.

    Raises RunError for a folder without a study, or with ratings that cannot be attributed to arms.
    """
    return _write(load(root), RunDir(root).report, rate_command)


def write_report(run: RunDir, rate_command: str) -> list[Path]:
    """The report stage's work: write the report and say which files it consists of."""
    paths = make(run.root, rate_command=rate_command)
    return [paths.html, paths.json, paths.md]


def from_csv(path: Path, teacher: str, out: Path) -> Paths:
    """The human part of the report from anybody's tidy ratings (rater, scenario, arm, satisfaction, ...)."""
    tidy = read_csv(path, teacher)
    return _write(Source(name=path.stem, arms=tidy.arms, mode="", ratings={"person": tidy}), out, "")


def _write(source: Source, out: Path, rate_command: str) -> Paths:
    report = build(source)
    view = _view(source, report, rate_command)
    out.mkdir(parents=True, exist_ok=True)
    paths = Paths(out / "report.html", out / "report.md", out / "report.json")
    # report.json goes last: it carries the looks, and must not tell of a report that was never written
    write_atomic(paths.html, _template("report.html.j2").render(view))
    write_atomic(paths.md, _template("report.md.j2").render(view))
    write_atomic(paths.json, dump_json(report))
    return paths


def _view(source: Source, report: dict[str, Any], rate_command: str) -> dict[str, Any]:
    """What the templates show."""
    people = {**report, "n": report["n"]} if report["n"]["ratings"] else None
    source = replace(source, arms=tuple(report["study"]["arms"]))
    benchmarks, costs = score_rows(source, report["arms"]), cost_tables.cost_rows(source, report["arms"])
    pictures = page_pictures(source, report, people)
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
        "rating_rows": _rating_rows(source, report["arms"]),
        "cost_rows": costs,
        "score_rows": benchmarks,
        "first": pictures[0] if pictures else None,
        "pictures": pictures[1:],
        "kind_pictures": {kind: kind_pictures(source, kind, block) for kind, block in report["kinds"].items()},
        "rule": rule,
        "examples": examples,
        "makings": wording.makings(report["provenance"]),
        "versions": _merged(report["provenance"], "versions"),
        "hardware": _merged(report["provenance"], "hardware"),
        "warnings": wording.gathered(report["warnings"]),
        "gathered": wording.gathered,
        "cost_header": cost_tables.CELL_HEADER,
        "cost_lines": cost_tables.cell_lines(source, report["arms"]),
        "cost_verdicts": cost_tables.smaller_faster(source, report["arms"]),
        "cost_claims": cost_tables.claim_lines(),
        "cost_claims_note": cost_tables.CLAIMS_NOTE,
        "energy_sources": _energy_sources(report["arms"]),
        "pair_tables": pair_tables.tables(report["paired"]),
        "pair_header": pair_tables.HEADER,
        "pair_help": pair_tables.HELP,
        "overlap_header": pair_tables.OVERLAP_HEADER,
        "overlap_lines": pair_tables.overlap_lines(report["arms"]),
        "overlap_n": next((one["overlap"]["n"] for one in report["arms"].values() if one["overlap"]), None),
        "pair_verdicts": pair_tables.said_of_pairs(report["paired"], source.teacher),
        "seed_verdicts": [text for text in map(verdict, report["seeds"]) if text],
        "verdicts": {measure: wording.verdicts(source, people, measure) for measure in MEASURES} if people else {},
        "csv_uri": _csv_uri,
        "num": numbers,
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


def _csv_uri(picture: figures.Picture) -> str:
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


def _template(name: str) -> Any:
    return _environment().get_template(name)
