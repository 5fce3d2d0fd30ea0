"""What three well-known papers say of their students: the reference rows beside this study's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reports.costs import size_of, speed_of
from reports.load import Source
from reports.numbers import NONE, fraction_text, percent, plural, times
from reports.wording_kept import LIKELIHOOD, kept_of, likelihood_kept, of_what, short


@dataclass(frozen=True)
class Published:
    """A published student: times smaller and faster than its teacher, what it keeps, of what, and how that is known."""

    name: str
    smaller: float
    faster: float | None
    kept: float
    of: str
    control: str
    uncertainty: str
    source: str


PUBLISHED = (
    Published(
        name="Gemma 2 9B, of 27B",
        smaller=1 / 0.34,
        faster=None,
        kept=4.04 / 4.20,
        of="satisfaction, 4.04 of 4.20, people in multi-turn chats (95 % moved to zero)",
        control="another pair, 2B: 67.7 distilled, 60.3 from scratch (mean of 3 benchmarks)",
        uncertainty="500 scenarios; neither raters nor an interval are stated",
        source="Team Gemma 2024, arXiv 2408.00118",
    ),
    Published(
        name="DistilBERT, of BERT-base",
        smaller=1 / 0.6,
        faster=1.63,
        kept=77.0 / 79.5,
        of="GLUE, 77.0 of 79.5",
        control="none",
        uncertainty="medians of five runs; no interval",
        source="Sanh et al. 2019, arXiv 1910.01108",
    ),
    Published(
        name="TinyBERT4, of BERT-base",
        smaller=7.5,
        faster=9.4,
        kept=77.0 / 79.5,
        of="GLUE, 77.0 of 79.5",
        control="same size without distillation: 70.2",
        uncertainty="no interval",
        source="Jiao et al. 2020, arXiv 1909.10351",
    ),
)
HEADER = ("student", "smaller", "faster", "keeps", "of what", "against a control", "how sure", "source")
NOTE = (
    "The papers measure other tasks on other machines, so the rows are a scale and no ranking. A fraction of a score "
    "that starts above zero (a rating from 1, an accuracy at chance) flatters every student."
)


def lines(source: Source, report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each student and control that was rated, or scored, then the published ones; none without such."""
    rows = [row for row in (_own(source, report, arm) for arm in source.students) if row]
    if not rows:
        return []
    return rows + [
        (one.name, times(one.smaller), times(one.faster), percent(one.kept), one.of, one.control, one.uncertainty,
         one.source)
        for one in PUBLISHED
    ]  # fmt: skip


def _own(source: Source, report: Mapping[str, Any], arm: str) -> tuple[str, ...] | None:
    block = report["arms"].get(arm, {})
    found = _rated(block) or _scored(source, report, arm)
    if not found:
        return None
    size, speed = size_of(block["costs"]), speed_of(block["costs"])
    role = f"control of {source.controls[arm]}" if arm in source.controls else f"of {source.teacher}"
    return (
        f"{arm}, {role} (this study)",
        (times(1 / size[0]) + (" on disk" if size[1] == "bytes_on_disk" else "")) if size else NONE,
        times(speed["estimate"]) if speed else NONE,
        *found,
        "report.json",
    )


def _rated(block: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What is kept of satisfaction, of what, against a control, how sure."""
    measure = block.get("satisfaction", {})
    fraction = measure.get("fraction")
    if not fraction:
        return None
    control = measure.get("control")
    against = "none"
    if control:
        against = f"{control['arm']}: {control['estimate']:+.2f} points".replace("-", "−")
    sure = f"{fraction['n_raters']} raters, {fraction['n_scenarios']} scenarios; 95 % interval"
    return fraction_text(fraction), "satisfaction", against, sure


def _scored(source: Source, report: Mapping[str, Any], arm: str) -> tuple[str, ...] | None:
    """The same of benchmark scores, else of the likelihood of a text."""
    own = source.controls.items()
    for of in (kept_of, likelihood_kept):
        kept = of(report, arm)
        if kept:
            others = [f"{control}: {short(one)}" for control, student in own if student == arm
                      and (one := of(report, control))]  # fmt: skip
            unit, what = ("item", of_what(kept)) if of is kept_of else ("document", LIKELIHOOD)
            sure = f"{plural(kept['n'], unit)}; " + ("no interval" if kept["low"] is None else "95 % interval")
            return short(kept), what, "; ".join(others) or "none", sure
    return None
