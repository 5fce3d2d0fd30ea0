"""The layout of report.json as pydantic models: `python -m reports.report_schema` writes docs/report.schema.json.

Blocks that other commands define (scores, costs, paired comparisons, seeds, provenance) are open objects here; all that
is estimated from ratings is closed, so that a field nobody documented fails the tests.
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Open = dict[str, Any]


class Block(BaseModel):
    """An object with exactly the named fields."""

    model_config = ConfigDict(extra="forbid")


class Limits(Block):
    low: float | None
    high: float | None


class Bootstrap(Limits):
    draws: int


class Fraction(Block):
    """A ratio of means; limits are null without an interval, and also where it is unbounded."""

    estimate: float
    se: float | None
    df: float | None
    low: float | None
    high: float | None
    unbounded: bool
    delta: Limits | None
    bootstrap: Bootstrap | None
    floor_used: bool
    n_cells: int
    n_raters: int
    n_scenarios: int


class Adjusted(Block):
    p: float | None
    p_holm: float | None = None
    p_bh: float | None = None


class Difference(Adjusted):
    """In points of the scale, student minus teacher."""

    estimate: float
    se: float | None
    df: float | None
    low: float | None
    high: float | None
    bootstrap: Bootstrap | None = None


class NonInferiority(Adjusted):
    margin: float


class Equivalence(Adjusted):
    low: float
    high: float


class Without(Block):
    """The results without what one pre-stated rule leaves out."""

    fraction: Fraction | None
    fraction_rescaled: Fraction | None
    difference: Difference | None
    non_inferiority: NonInferiority | None
    ratings_left_out: int
    raters_left_out: int


class MixedLogit(Block):
    coef: float
    se: float
    low: float
    high: float
    p: float
    sd: dict[str, float]
    n: int
    n_raters: int


class OrderedLogit(Block):
    coef: float | None
    se: float | None
    se_model: float | None
    separation: bool


class Look(Block):
    n: int
    mean: float
    low: float
    high: float


class Sequence(Block):
    """Always-valid 95 % intervals; `path` is the one of the difference after each rater."""

    n_raters: int
    asymptotic: Open
    ratio: Open
    empirical_bernstein: Open
    path: list[Look]


class Measure(Block):
    """One arm on one scale; what compares with the teacher is there for students that were rated with it."""

    n: int
    mean: float | None
    sd: float | None
    top_share: float | None
    counts: list[int]
    fraction: Fraction | None = None
    fraction_rescaled: Fraction | None = None
    fraction_all: Fraction | None = None
    common: Open | None = None
    both_at_5: float | None = None
    category: dict[str, Fraction] = Field(default_factory=dict)
    language: dict[str, Fraction] = Field(default_factory=dict)
    difference: Difference | None = None
    non_inferiority: NonInferiority | None = None
    equivalence: Equivalence | None = None
    pairs: Open | None = None
    unpaired: Open | None = None
    effect: Open | None = None
    permutation: Open | None = None
    wilcoxon: Open | None = None
    ordered_logit: OrderedLogit | None = None
    mixed_logit: MixedLogit | None = None
    confidence_sequence: Sequence | None = None
    sensitivity: dict[str, Without] = Field(default_factory=dict)
    control: Open | None = None


class RatedArm(BaseModel):
    """An arm among ratings of one kind and mode."""

    model_config = ConfigDict(extra="allow")
    satisfaction: Measure | None = None
    goal_achievement: Measure | None = None


class Arm(RatedArm):
    role: Literal["teacher", "student", "control"]
    scores: list[Open]
    costs: Open
    overlap: Open | None


class Said(BaseModel):
    model_config = ConfigDict(extra="allow")
    code: str
    level: Literal["note", "warning"]
    text: str


class Slope(Block):
    estimate: float
    se: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    n_clusters: int


class Order(Block):
    quarters: list[Open]
    trend: Slope | None
    trend_by_arm: dict[str, Slope]
    page: Slope | None


class Bang(Block):
    n: int
    index: float
    se: float
    low: float
    high: float
    p: float | None
    correct: int
    wrong: int
    unsure: int
    verdict: Literal["held", "failed", "unclear", "reversed", "too few"]


class Count(Block):
    ratings: int
    raters: int
    scenarios: int


class Ratings(BaseModel):
    """Everything about ratings of one kind in one mode."""

    model_config = ConfigDict(extra="allow")
    arms: dict[str, RatedArm]
    n: Count
    mode: str | None
    reliability: dict[str, Open]
    bradley_terry: dict[str, Open]
    raters: Open | None = None
    order: Order | Open = Field(default_factory=dict)
    by_scenario: dict[str, dict[str, Open]] = Field(default_factory=dict)
    repeats: dict[str, Open]
    missing: Open
    live: dict[str, Open]
    warnings: list[Said]


class Study(Block):
    name: str
    teacher: str
    arms: list[str]
    controls: dict[str, str]
    margin: float
    margin_at: str | None
    margin_before_ratings: bool | None
    mode: str
    crossing: Literal["within", "between"]
    language: str | None
    seed: int
    purpose: str | None
    licence: str | None
    state: str | None
    closed_at: str | None
    planned: int | None


class Report(BaseModel):
    """report.json of one study."""

    model_config = ConfigDict(extra="allow")
    schema_: int = Field(alias="schema")
    study: Study
    headline: str
    methods: str
    limitations: list[str]
    arms: dict[str, Arm]
    n: Count
    mode: str | None
    modes: dict[str, Ratings]
    dates: dict[str, tuple[str, str]]
    reliability: dict[str, Open]
    bradley_terry: dict[str, Open]
    raters: Open | None
    order: Order | Open
    by_scenario: dict[str, dict[str, Open]]
    blinding: dict[str, Bang]
    repeats: dict[str, Open]
    checks: Open | None
    preference: Open | None
    missing: Open
    live: dict[str, Open]
    answers: dict[str, Open]
    calibration: dict[str, dict[str, Open]]
    seeds: list[Open]
    paired: list[Open]
    kinds: dict[str, Ratings]
    judges: Open | None
    looks: list[Open]
    warnings: list[Said]
    provenance: list[Open]


def schema_text() -> str:
    """The JSON Schema of report.json."""
    return json.dumps(Report.model_json_schema(by_alias=True), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    path = Path(__file__).parent.parent / "docs" / "report.schema.json"
    path.write_text(schema_text(), encoding="utf-8")
    print(path, file=sys.stderr)
