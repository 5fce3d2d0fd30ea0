"""Files beside the page: tidy ratings with arms' names as CSV and Parquet, and the table of results for LaTeX."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.records import write_atomic
from reports.load import Source
from reports.numbers import p_value, span
from reports.tidy import MEASURES, Tidy

COLUMNS = (
    *("kind", "rater", "scenario", "category", "mode", "language", "arm", "position", "place", *MEASURES, "seconds"),
    "created_at",
)
WHOLE = ("position", "place", *MEASURES)


def tidy_columns(ratings: Mapping[str, Tidy]) -> dict[str, list[Any]]:
    """All ratings of all kinds as columns, codes resolved; a missing value is None. Comments are left out."""
    found: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for kind, tidy in ratings.items():
        n = len(tidy.rater)
        found["kind"] += [kind] * n
        found["rater"] += [tidy.raters[one] for one in tidy.rater]
        found["scenario"] += [tidy.scenarios[one] for one in tidy.scenario]
        found["category"] += [tidy.category[one] or None for one in tidy.scenario]
        found["mode"] += [tidy.modes[one] or None for one in tidy.mode]
        found["language"] += [tidy.languages[one] or None for one in tidy.language]
        found["arm"] += [tidy.arms[one] for one in tidy.arm]
        for name in ("position", "place", "seconds"):
            found[name] += _values(getattr(tidy, name), whole=name in WHOLE)
        for name in MEASURES:
            found[name] += _values(tidy.values[name], whole=True) if name in tidy.values else [None] * n
        found["created_at"] += [one or None for one in tidy.time] if tidy.time else [None] * n
    return found


def _values(column: Any, *, whole: bool) -> list[Any]:
    return [None if math.isnan(one) else int(one) if whole else one for one in column.tolist()]


def write_ratings(ratings: Mapping[str, Tidy], folder: Path) -> list[Path]:
    """Write ratings.csv and ratings.parquet; nothing where there is no rating."""
    if not ratings:
        return []
    columns = tidy_columns(ratings)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomic(folder / "ratings.csv", buffer.getvalue())
    return [folder / "ratings.csv", _parquet(columns, folder / "ratings.parquet")]


def _parquet(columns: dict[str, list[Any]], path: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {name: pa.int16() if name in MEASURES or name == "place" else pa.int32() for name in WHOLE}
    types["seconds"] = pa.float64()
    table = pa.table({name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()})
    new = path.with_suffix(".new")
    pq.write_table(table, new, compression="zstd")
    new.replace(path)
    return path


def latex(source: Source, report: Mapping[str, Any]) -> str:
    """A booktabs table of every student's fractions, differences and tests; '' where nobody was compared."""
    rows = []
    for measure, name in (("satisfaction", "Satisfaction"), ("goal_achievement", "Goal achievement")):
        mine = [(arm, report["arms"].get(arm, {}).get(measure, {})) for arm in source.students]
        mine = [(arm, block) for arm, block in mine if block.get("fraction")]
        if mine:
            rows.append(rf"\multicolumn{{8}}{{l}}{{\emph{{{name}}}}} \\")
        rows += [_latex_row(arm, block) for arm, block in mine]
    if not rows:
        return ""
    margin = f"{100 * report['study']['margin']:.0f}"
    n = report["n"]
    caption = (
        f"Fraction of the teacher's mean rating that each student keeps, in \\%, with 95\\% intervals (raters and "
        f"scenarios as samples); zero: scale moved to zero; $\\Delta$: difference in points; $p$: no difference, and "
        f"non-inferiority at {margin}\\%, both after Holm. {n['raters']} raters, {n['scenarios']} scenarios, "
        f"{n['ratings']} ratings of {_tex(source.name)}."
    )
    head = r"Student & kept & zero & $\Delta$ & $p$ & $p_{\mathrm{NI}}$ & raters & cells \\"
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        r"\begin{tabular}{lrrrrrrr}",
        *(r"\toprule", head, r"\midrule", *rows, r"\bottomrule"),
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(arm: str, block: Mapping[str, Any]) -> str:
    diff, test, kept = block["difference"], block["non_inferiority"], block["fraction"]
    limits = "" if diff["low"] is None else f" [{diff['low']:.2f}, {diff['high']:.2f}]"
    cells = (
        _tex(arm),
        _kept(kept),
        _kept(block.get("fraction_rescaled")),
        f"${diff['estimate']:.2f}${limits}".replace("[-", "[$-$").replace(", -", ", $-$"),
        _tex(p_value(diff["p_holm"])),
        _tex(p_value(test["p_holm"])),
        str(kept["n_raters"]),
        str(kept["n_cells"]),
    )
    return " & ".join(cells) + r" \\"


def _kept(fraction: Mapping[str, Any] | None) -> str:
    if not fraction:
        return "--"
    limits = "" if fraction["low"] is None else f" [{span(fraction['low'], fraction['high'], 1)}]"
    return f"{100 * fraction['estimate']:.1f}{limits}"


def _tex(text: str) -> str:
    """Text with TeX's own characters escaped."""
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
             "–": "--", "−": "$-$", "\u00a0": "~"}  # fmt: skip
    return "".join(named.get(one, f"\\{one}" if one in "&%$#_{}" else one) for one in text)
