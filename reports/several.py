"""`viva report A B`: several studies side by side, and each student pooled over them (random effects)."""

import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ConfigError
from harness.records import dump_json, write_atomic
from reports import figures, numbers
from reports.document import build
from reports.load import load
from reports.numbers import NBSP, NONE, fraction_text, percent, plain_number, plural, signed, span
from reports.render import Paths, csv_uri, template
from reports.stats.meta import pool
from reports.tidy import MEASURES
from reports.wording_warnings import MEASURE_NAMES

SCHEMA = 2
POOLED = "every study's student"
NOTE = (
    "Pooled: mean of log fractions with weights by their variance within and between studies (Paule, Mandel 1982), "
    "interval by Hartung and Knapp (2001). Studies count as the samples: they should differ in raters. Modes and "
    "crossings are never pooled with each other."
)


def write_several(roots: Sequence[Path], out: Path) -> Paths:
    """Compare run directories and write report.html, report.md and report.json into `out`.

    Raises ConfigError for one study named twice, RunError for a folder without a study.
    """
    resolved = [root.resolve() for root in roots]
    twice = next((root for at, root in enumerate(resolved) if root in resolved[:at]), None)
    if twice:
        raise ConfigError(f"{twice} is named twice", hint="name each study once: it would count as two")
    report = compare(roots)
    picture = _picture(report)
    view = {
        **{"report": report, "title": "Viva report: several studies", "pictures": [picture] if picture else []},
        **{"header": HEADER, "lines": _lines(report), "pooled_header": POOLED_HEADER, "pooled": _pooled_lines(report)},
        **{"note": NOTE, "csv_uri": csv_uri, "num": numbers},
    }
    out.mkdir(parents=True, exist_ok=True)
    paths = Paths(out / "report.html", out / "report.md", out / "report.json")
    write_atomic(paths.html, template("several.html.j2").render(view))
    write_atomic(paths.md, template("several.md.j2").render(view))
    write_atomic(paths.json, dump_json(report))
    return paths


def compare(roots: Sequence[Path]) -> dict[str, Any]:
    """Every study's students and what they keep, and students pooled over studies, as plain values."""
    studies = [_study(root, label) for root, label in zip(roots, _labels(roots), strict=True)]
    pooled = [one for measure in MEASURES for one in _pool(studies, measure)]
    return {"schema": SCHEMA, "studies": studies, "pooled": pooled, "headline": _headline(studies, pooled)}


def _labels(roots: Sequence[Path]) -> list[str]:
    """A short name for each study: the folder's, with its parent's where two are alike."""
    names = [root.resolve().name for root in roots]
    return [
        f"{root.resolve().parent.name}/{name}" if names.count(name) > 1 else name
        for root, name in zip(roots, names, strict=True)
    ]


def _study(root: Path, label: str) -> dict[str, Any]:
    source = load(root)
    report = build(source)
    students = {}
    for arm in source.students:
        block = report["arms"][arm]
        students[arm] = {
            "role": block["role"],
            "parameters": block["costs"].get("of_teacher", {}).get("parameters"),
            **{measure: _measure(block[measure]) for measure in MEASURES if block.get(measure, {}).get("fraction")},
        }
    return {
        "label": label,
        "name": source.name,
        "teacher": source.teacher,
        "mode": report["mode"],
        "crossing": source.facts.crossing,
        "margin": source.margin,
        "margin_before_ratings": report["study"]["margin_before_ratings"],
        "seed": source.seed,
        "n": report["n"],
        "blinding": {arm: one["verdict"] for arm, one in report["blinding"].items()},
        "students": students,
        "headline": report["headline"],
    }


def _measure(block: dict[str, Any]) -> dict[str, Any]:
    kept = {key: block[key] for key in ("fraction", "fraction_rescaled", "difference", "non_inferiority")}
    return kept | {"n": block["n"]}


def _pool(studies: Sequence[dict[str, Any]], measure: str) -> list[dict[str, Any]]:
    """Students of one name over studies of one mode and crossing; all students where each study has just one."""
    found = []
    for key in dict.fromkeys((one["mode"], one["crossing"]) for one in studies):
        alike = [one for one in studies if (one["mode"], one["crossing"]) == key]
        rated = [{arm: s for arm, s in one["students"].items() if measure in s} for one in alike]
        names = dict.fromkeys(arm for students in rated for arm in students)
        groups = {name: [students[name][measure] for students in rated if name in students] for name in names}
        mains = [[s for s in students.values() if s["role"] == "student"] for students in rated]
        mains = [one for one in mains if one]
        if not any(len(group) > 1 for group in groups.values()) and all(len(one) == 1 for one in mains):
            groups[POOLED] = [one[0][measure] for one in mains]
        for name, group in groups.items():
            for what in ("fraction", "fraction_rescaled"):
                one = _pool_one([block[what] for block in group])
                if one:
                    found.append({"student": name, "measure": measure, "what": what, "mode": key[0],
                                  "crossing": key[1], **one})  # fmt: skip
    return found


def _pool_one(fractions: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    known = [one for one in fractions if one and one["se"]]
    if len(known) < 2:
        return None
    pooled = pool(np.array([one["estimate"] for one in known]), np.array([one["se"] for one in known]))
    return None if pooled is None else asdict(pooled)


def _headline(studies: Sequence[dict[str, Any]], pooled: Sequence[dict[str, Any]]) -> str:
    first = next((one for one in pooled if one["measure"] == "satisfaction" and one["what"] == "fraction"), None)
    n = sum(one["n"]["ratings"] for one in studies)
    if first is None:
        return (
            f"{plural(len(studies), 'study').replace('studys', 'studies')}, {plural(n, 'rating')}: no student was "
            "rated in two of them in the same mode, so nothing is pooled."
        )
    return (
        f"Over {first['n']} studies {first['student']} keeps {percent(first['estimate'])} (95{NBSP}% interval "
        f"{span(first['low'], first['high'])}) of the teacher's satisfaction; {percent(first['i2'])} of the variance "
        f"is between studies; n{NBSP}={NBSP}{plural(n, 'rating')}."
    )


HEADER = (
    *("study", "student", "mode", "satisfaction kept", "moved to zero", "difference, points"),
    *("goal achievement kept", "n", "blinding"),
)
POOLED_HEADER = (
    *("student", "scale", "pooled", "a further study", "SD between (log)", "between studies", "p, no difference"),
    "studies",
)


def _lines(report: dict[str, Any]) -> list[tuple[str, ...]]:
    lines = []
    for study in report["studies"]:
        for arm, one in study["students"].items():
            block, goal = one.get("satisfaction"), one.get("goal_achievement")
            diff = block["difference"] if block else None
            limits = (
                "" if diff is None or diff["low"] is None else f" ({signed(diff['low'])} to {signed(diff['high'])})"
            )
            n = NONE
            if block:
                counts = block["fraction"]
                n = f"{plural(counts['n_raters'], 'rater')}, {plural(counts['n_cells'], 'cell')}"
            lines.append(
                (
                    study["label"],
                    arm + (" (control)" if one["role"] == "control" else ""),
                    study["mode"] or NONE,
                    fraction_text(block["fraction"] if block else None),
                    fraction_text(block["fraction_rescaled"] if block else None),
                    f"{signed(diff['estimate'])}{limits}" if diff else NONE,
                    fraction_text(goal["fraction"] if goal else None),
                    n,
                    study["blinding"].get(arm, NONE),
                )
            )
    return lines


def _pooled_lines(report: dict[str, Any]) -> list[tuple[str, ...]]:
    lines = []
    for one in report["pooled"]:
        scale = MEASURE_NAMES[one["measure"]] + (", moved to zero" if one["what"] == "fraction_rescaled" else "")
        further = NONE if one["next_low"] is None else span(one["next_low"], one["next_high"])
        lines.append(
            (
                one["student"],
                scale,
                f"{percent(one['estimate'])} ({span(one['low'], one['high'])})",
                further,
                plain_number(one["tau"]),
                percent(one["i2"]),
                numbers.p_value(one["p"]),
                str(one["n"]),
            )
        )
    return lines


def _picture(report: dict[str, Any]) -> figures.Picture | None:
    """A forest of satisfaction: every study's students, then what is pooled."""
    names = list(dict.fromkeys(arm for study in report["studies"] for arm in study["students"]))
    rows = [
        (f"{arm}\n{study['label']}", 1 + names.index(arm), one["satisfaction"]["fraction"])
        for arm in names
        for study in report["studies"]
        if (one := study["students"].get(arm)) and one.get("satisfaction")
    ]
    for one in report["pooled"]:
        if one["measure"] == "satisfaction" and one["what"] == "fraction":
            counts = {"n_cells": None, "n_raters": None}
            rows.append((f"{one['student']}\npooled", 0, {**one, **counts}))
    if not rows:
        return None
    margin = report["studies"][0]["margin"]
    title = "Fraction of the teacher's satisfaction in each study, and pooled"
    return figures.forest(rows, margin, key=f"several-{zlib.crc32(title.encode()):x}", title=title)
