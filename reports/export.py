"""Files beside the page: tidy ratings with arms' names as CSV and Parquet, and the table of results for LaTeX."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.load import Source
from reports.numbers import p_value, span
from reports.stats.cells import Floats, Ints
from reports.tidy import MEASURES, Tidy

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    *("kind", "rater", "scenario", "category", "mode", "language", "arm", "position", "place", *MEASURES, "seconds"),
    "created_at",
)


def ratings_table(ratings: Mapping[str, Tidy]) -> "pa.Table":
    """All ratings of all kinds as one table, codes resolved, missing values null. Comments are left out."""
    import pyarrow as pa

    return pa.concat_tables([_table(kind, tidy) for kind, tidy in ratings.items()])


def _table(kind: str, tidy: Tidy) -> "pa.Table":
    import pyarrow as pa

    n = len(tidy.rater)
    nothing = np.full(n, np.nan)

    # all from buffers, since pa.array imports pandas first, which takes as long as the rest of a small report
    def texts(names: Sequence[str]) -> Any:
        coded = [name.encode() for name in names]
        ends = np.cumsum([0, *map(len, coded)]).astype(np.int32)
        there = np.packbits(np.array([bool(name) for name in names], dtype=np.bool_), bitorder="little")
        return pa.StringArray.from_buffers(len(coded), *map(pa.py_buffer, (ends, b"".join(coded), there)))

    def labels(codes: Ints, names: Sequence[str]) -> Any:
        known = texts(names)
        places = pa.Array.from_buffers(pa.int32(), n, [None, pa.py_buffer(codes.astype(np.int32))])
        return pa.DictionaryArray.from_arrays(places, known).cast(pa.string())

    def numbers(values: Floats, kind: Any, dtype: type[np.generic]) -> Any:
        there = ~np.isnan(values)
        bits = pa.py_buffer(np.packbits(there, bitorder="little"))
        return pa.Array.from_buffers(kind, n, [bits, pa.py_buffer(np.where(there, values, 0).astype(dtype))])

    columns = {
        "kind": labels(np.zeros(n, dtype=np.int64), [kind]),
        "rater": labels(tidy.rater, tidy.raters),
        "scenario": labels(tidy.scenario, tidy.scenarios),
        "category": labels(tidy.scenario, tidy.category),  # one label a scenario
        "mode": labels(tidy.mode, tidy.modes),
        "language": labels(tidy.language, tidy.languages),
        "arm": labels(tidy.arm, tidy.arms),
        "position": numbers(tidy.position, pa.int32(), np.int32),
        "place": numbers(tidy.place, pa.int16(), np.int16),
        **{name: numbers(tidy.values.get(name, nothing), pa.int16(), np.int16) for name in MEASURES},
        "seconds": numbers(tidy.seconds, pa.float64(), np.float64),
        "created_at": texts(tidy.time or ("",) * n),
    }
    return pa.table({name: columns[name] for name in COLUMNS})


def write_ratings(ratings: Mapping[str, Tidy], folder: Path) -> list[Path]:
    """Write ratings.csv and ratings.parquet; nothing where there is no rating."""
    if not ratings:
        return []
    import pyarrow.csv
    import pyarrow.parquet

    table = ratings_table(ratings)
    paths = [folder / "ratings.csv", folder / "ratings.parquet"]
    new = [path.with_suffix(path.suffix + ".new") for path in paths]
    options = pyarrow.csv.WriteOptions(quoting_style="needed", quoting_header="none")
    pyarrow.csv.write_csv(table, new[0], options)
    pyarrow.parquet.write_table(table, new[1], compression="zstd")
    for one, path in zip(new, paths, strict=True):
        one.replace(path)
    return paths


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
