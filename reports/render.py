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
from reports import figures, numbers, wording
from reports.analysis import analyse
from reports.compare import Row, cost, cost_rows, costs_json, score_rows, scores_json
from reports.examples import choose
from reports.load import Source, load
from reports.numbers import of_teacher
from reports.tidy import MEASURES, read_csv

SCHEMA = 1
MARKS = {"judge": "ratings by models", "simulated": "simulated raters"}


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


def build(source: Source) -> dict[str, Any]:
    """report.json: numbers only, in full precision, the same for the same input."""
    kinds = {}
    for kind, tidy in source.ratings.items():
        kinds[kind] = analyse(tidy, margin=source.margin, seed=source.seed)
        if kind != "person":
            kinds[kind]["warnings"].insert(0, {"code": "not_people", "kind": kind})
    people = kinds.pop("person", None)
    order = [*source.arms, *(arm for arm in (people or {}).get("arms", {}) if arm not in source.arms)]
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "study": {
            "name": source.name,
            "teacher": source.teacher,
            "arms": order,
            "controls": source.controls,
            "margin": source.margin,
            "margin_fixed_by": source.blinded_since,
            "mode": source.mode,
            "seed": source.seed,
            "purpose": source.purpose,
            "licence": source.licence,
            "state": source.state,
        },
        "arms": {},
        "n": (people or {}).get("n", {"ratings": 0, "raters": 0, "scenarios": 0}),
        "dates": source.dates,
        "reliability": (people or {}).get("reliability", {}),
        "bradley_terry": (people or {}).get("bradley_terry", {}),
        "raters": (people or {}).get("raters"),
        "order": (people or {}).get("order", []),
        "by_scenario": (people or {}).get("by_scenario", {}),
        "blinding": {},
        "kinds": kinds,
        "looks": _looks(source, people),
        "warnings": [*(people or {"warnings": [{"code": "no_ratings"}]})["warnings"], *_study_warnings(source, people)],
        "provenance": _provenance(source),
    }
    for arm in order:
        block = dict((people or {}).get("arms", {}).get(arm, {}))
        block["role"] = "teacher" if arm == source.teacher else "control" if arm in source.controls else "student"
        block["scores"], block["costs"] = scores_json(source, arm), costs_json(source, arm)
        report["arms"][arm] = block
    for said in (report["warnings"], *(kind["warnings"] for kind in kinds.values())):
        for warning in said:
            warning["text"] = wording.warning_text(warning)
            warning["level"] = "note" if warning["code"] in wording.NOTES else "warning"
    report["headline"] = wording.headline(source, people)
    report["methods"] = wording.methods(source, people)
    report["limitations"] = wording.limitations(source, people)
    return report


def _looks(source: Source, people: dict[str, Any] | None) -> list[dict[str, Any]]:
    """How many ratings there were whenever a report showed results: what an early stop has to answer for."""
    looks = [dict(look) for look in source.looks]
    n = people["n"]["ratings"] if people else 0
    if n and (not looks or looks[-1]["ratings"] != n):
        looks.append({"ratings": n, "last": source.dates.get("person", ("", ""))[1]})
    return looks


def _study_warnings(source: Source, people: dict[str, Any] | None) -> list[dict[str, Any]]:
    said = []
    if people and source.state in ("open", "paused"):
        said.append({"code": "unblinded_open"})
    if people and source.looks and source.looks[0]["ratings"] < people["n"]["ratings"]:
        at = source.looks[0]["ratings"]
        said.append({"code": "looked_before", "at": at, "later": people["n"]["ratings"] - at})
    return said


def _provenance(source: Source) -> list[dict[str, Any]]:
    """One line a finished stage: when, by which code, on what machine."""
    lines = []
    for arm, stages in source.manifests.items():
        for stage, manifest in stages.items():
            git = manifest.get("git") or {}
            lines.append(
                {
                    "stage": manifest.get("stage", f"{stage}/{arm}"),
                    "status": manifest.get("status"),
                    "started": manifest.get("started"),
                    "finished": manifest.get("finished"),
                    "commit": git.get("commit"),
                    "dirty": git.get("dirty"),
                    "config_digest": manifest.get("config_digest"),
                    "versions": manifest.get("versions", {}),
                    "hardware": manifest.get("hardware", {}),
                    "outputs": {name: facts.get("sha256") for name, facts in (manifest.get("outputs") or {}).items()},
                }
            )
    return lines


def _view(source: Source, report: dict[str, Any], rate_command: str) -> dict[str, Any]:
    """What the templates show."""
    people = {**report, "n": report["n"]} if report["n"]["ratings"] else None
    source = replace(source, arms=tuple(report["study"]["arms"]))
    benchmarks, costs = score_rows(source), cost_rows(source)
    pictures = _pictures(source, report, people)
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
        "kind_pictures": {kind: _kind_pictures(source, kind, block) for kind, block in report["kinds"].items()},
        "rule": rule,
        "examples": examples,
        "versions": _merged(report["provenance"], "versions"),
        "hardware": _merged(report["provenance"], "hardware"),
        "csv_uri": _csv_uri,
        "num": numbers,
    }


def _rating_rows(source: Source, arms: dict[str, Any]) -> list[Row]:
    """Mean ratings and fractions as rows of the table of arms."""
    from reports.compare import Cell

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


def _pictures(source: Source, report: dict[str, Any], people: dict[str, Any] | None) -> list[figures.Picture]:
    """The figures of the page; the first one stands on the first screen."""
    index = {arm: at for at, arm in enumerate(source.arms)}
    found: list[figures.Picture] = []
    multiples = _multiples(source, index)
    if people:
        found += _rating_pictures(source, report["arms"], report["by_scenario"], source.margin, "")
        points = []
        for arm in source.students:
            fraction = report["arms"][arm].get("satisfaction", {}).get("fraction")
            size = of_teacher(
                cost(source.costs.get(arm, {}), "parameters"), cost(source.costs.get(source.teacher, {}), "parameters")
            )
            if fraction and size is not None:
                points.append((arm, index[arm], size, fraction))
        if points:
            found.append(figures.frontier(points, "parameters"))
    if multiples:
        found.append(figures.retained(multiples, source.arms))
    logs = [(arm, index[arm], log) for arm, log in source.training.items() if log]
    if logs:
        found.append(figures.training(logs))
    return found


def _rating_pictures(
    source: Source, arms: dict[str, Any], scenarios: dict[str, Any], margin: float, marked: str
) -> list[figures.Picture]:
    index = {arm: at for at, arm in enumerate(source.arms)}
    found = []
    rows = []
    for measure in MEASURES:
        for arm in source.students:
            fraction = arms.get(arm, {}).get(measure, {}).get("fraction")
            if fraction:
                rows.append((f"{arm}\n{wording.MEASURE_NAMES[measure]}", index[arm], fraction))
    if rows:
        found.append(figures.forest(rows, margin, marked=marked))
    bars = []
    for measure in MEASURES:
        for arm in source.arms:
            block = arms.get(arm, {}).get(measure, {})
            if block.get("n"):
                bars.append((f"{arm}\n{wording.MEASURE_NAMES[measure]}", block["counts"]))
    if bars:
        found.append(figures.distributions(bars, marked=marked))
    lines = [(arm, index[arm], [each["difference"] for each in by.values()]) for arm, by in scenarios.items() if by]
    if lines and not marked:
        found.append(figures.by_scenario(lines))
    return found


def _kind_pictures(source: Source, kind: str, block: dict[str, Any]) -> list[figures.Picture]:
    return _rating_pictures(source, block["arms"], {}, source.margin, f" ({MARKS[kind]})")


def _multiples(source: Source, index: dict[str, int]) -> list[tuple[str, list[tuple[int, float]]]]:
    """Rows of the figure of multiples: every score and cost that has one, with an arrow for the better direction."""
    from reports.compare import COSTS, METRICS

    rows: dict[str, list[tuple[int, float]]] = {}
    for arm in source.students:
        costs = costs_json(source, arm).get("of_teacher", {})
        for item in COSTS:
            if item.key in costs and item.key != "parameters_without_embeddings" and costs[item.key] > 0:
                arrow = "↑" if item.better == "higher" else "↓"
                rows.setdefault(f"{item.label} {arrow}", []).append((index[arm], costs[item.key]))
        for score in scores_json(source, arm):
            if score["retained"] is not None and score["retained"] > 0:
                arrow = "↑" if score.get("higher_is_better") else "↓"
                label = METRICS.get(score["metric"], score["metric"].replace("_", " "))
                label = f"{score['suite']}: {label}" if label[0].islower() else label
                rows.setdefault(f"{label} {arrow}", []).append((index[arm], score["retained"]))
    return list(rows.items())


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
        "fraction": numbers.fraction_text,
        "number": numbers.plain_number,
        "p": numbers.p_value,
        "md": lambda text: str(text).replace("|", "\\|").replace("\n", " "),
    }
    environment.filters.update(filters)
    return environment


def _template(name: str) -> Any:
    return _environment().get_template(name)
