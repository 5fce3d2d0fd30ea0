"""What three well-known papers say of their students: the reference rows beside this study's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reports.load import Source
from reports.numbers import NONE, fraction_text, percent, times


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
    """A row for each student of this study that was rated, then the published ones; none without such a student."""
    mine = [arm for arm in source.students if arm not in source.controls]
    rows = [row for row in (_own(source, report, arm) for arm in mine) if row]
    if not rows:
        return []
    return rows + [
        (one.name, times(one.smaller), times(one.faster), percent(one.kept), one.of, one.control, one.uncertainty,
         one.source)
        for one in PUBLISHED
    ]  # fmt: skip


def _own(source: Source, report: Mapping[str, Any], arm: str) -> tuple[str, ...] | None:
    block = report["arms"].get(arm, {})
    measure = block.get("satisfaction", {})
    fraction = measure.get("fraction")
    if not fraction:
        return None
    ratios = block["costs"].get("of_teacher", {})
    control = measure.get("control")
    against = "none"
    if control:
        against = f"{control['arm']}: {control['estimate']:+.2f} points".replace("-", "−")
    size = ratios.get("parameters")
    return (
        f"{arm}, of {source.teacher} (this study)",
        times(1 / size) if size else NONE,
        times(ratios.get("tokens_per_second")),
        fraction_text(fraction),
        "satisfaction",
        against,
        f"{fraction['n_raters']} raters, {fraction['n_scenarios']} scenarios; 95 % interval",
        "report.json",
    )
