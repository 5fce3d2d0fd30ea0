"""`viva plan`: how many raters and scenarios a study needs, from a pilot's variance components or from defaults."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ConfigError
from reports.load import load
from reports.stats.cells import CannotEstimateError, common_cells
from reports.stats.components import components
from reports.stats.planning import Components, Crossing, power, raters_needed, scenarios_needed, simulate
from reports.tidy import Tidy
from reports.tidy_csv import read_kinds

DEFAULTS = Components(mu_t=3.9, true_ratio=0.97, s_r=0.45, s_s=0.4, s_ra=0.2, s_sa=0.25, s_e=0.8, s_rs=0.3)
"""What is assumed without a pilot: middling values of rating studies on a scale of 1 to 5."""
SCENARIOS = (10, 15, 20, 30, 40, 60, 80, 120)
MEANING = {
    "mu_t": "the teacher's mean rating",
    "true_ratio": "true fraction that the student keeps",
    "s_r": "SD of raters' severity",
    "s_s": "SD of scenarios' difficulty",
    "s_rs": "SD of what a rater makes of a scenario",
    "s_ra": "SD of how arms differ between raters",
    "s_sa": "SD of how arms differ between scenarios",
    "s_e": "SD of the rest",
}
FEW_RATERS, FEW_CELLS = 5, 30  # of a pilot, below which its components are a guess
CROSSINGS: tuple[Crossing, ...] = ("within", "between")


@dataclass(frozen=True)
class Wish:
    """What a study is to show, and how it is to be run."""

    margin: float = 0.90
    power: float = 0.80
    arms: int = 2
    per_rater: int = 20
    scenarios: int | None = None
    replications: int = 400
    seed: int = 0


@dataclass(frozen=True)
class Pilot:
    """Where the components come from: the pilot's numbers, or None in each place for the defaults."""

    model: Components = DEFAULTS
    name: str | None = None
    student: str | None = None
    n_raters: int | None = None
    n_scenarios: int | None = None
    n_cells: int | None = None


def read_pilot(path: Path, teacher: str | None, student: str | None, fraction: float | None) -> Pilot:
    """The components of a pilot: a run directory, or a CSV file of ratings with its teacher's name.

    `student` names the arm that is compared (default: the first that is no control); `fraction` replaces the pilot's
    own fraction as the true one. Raises ConfigError where the pilot does not determine them.
    """
    tidy, controls = _ratings(path, teacher)
    students = [arm for arm in tidy.arms[1:] if arm not in controls] or list(tidy.arms[1:])
    if student is not None and student not in tidy.arms[1:]:
        raise ConfigError(f"{path} has no ratings of an arm {student!r}", hint=f"it has {', '.join(tidy.arms[1:])}")
    if not students:
        raise ConfigError(f"{path} has ratings of the teacher only", hint="a plan needs a second arm")
    arm = student or students[0]
    ratings, _ = tidy.measure("satisfaction")
    try:
        cells = common_cells(ratings, tidy.arms.index(arm), 0)
        model = components(cells)
    except CannotEstimateError as error:
        raise ConfigError(
            f"{path} does not tell its variance components: {error}",
            hint="a pilot needs two raters who both rated two scenarios in both arms; or plan with the defaults",
        ) from None
    if fraction is not None:
        model = replace(model, true_ratio=fraction)
    return Pilot(model, path.name, arm, cells.n_raters, cells.n_scenarios, cells.n)


def _ratings(path: Path, teacher: str | None) -> tuple[Tidy, dict[str, str]]:
    if path.is_dir():
        source = load(path)
        if "person" not in source.ratings:
            raise ConfigError(f"{path} has no ratings by people yet", hint="plan without --pilot, from the defaults")
        tidy = source.ratings["person"]
        mode = source.mode if source.mode in tidy.modes else tidy.modes[0]
        return tidy.of_mode(mode), source.controls
    if teacher is None:
        raise ConfigError("a pilot's CSV file needs its teacher's name", hint="add --teacher NAME")
    kinds = read_kinds(path, teacher)
    tidy = kinds.get("person") or next(iter(kinds.values()))
    return tidy.of_mode(tidy.modes[0]), {}


def make_plan(pilot: Pilot, wish: Wish) -> dict[str, Any]:
    """The whole plan as plain values: what is assumed, raters for each number of scenarios, the check by simulation.

    Both crossings are asked to give the same number of ratings for each rater. Raises ConfigError for what cannot be
    planned.
    """
    _check(pilot.model, wish)
    sizes = (wish.scenarios,) if wish.scenarios else SCENARIOS
    rows = [_row(pilot.model, wish, size) for size in sizes]
    best = next((row for row in rows if row["within"]["raters"]), None)
    return {
        "assumed": asdict(pilot.model),
        "pilot": None if pilot.name is None else {key: value for key, value in asdict(pilot).items() if key != "model"},
        "wish": asdict(wish),
        "least_scenarios": scenarios_needed(pilot.model, wish.margin, wish.power),
        "rows": rows,
        "check": _simulated(pilot.model, wish, best) if best and wish.replications else [],
    }


def _check(model: Components, wish: Wish) -> None:
    for name, value, low, high in (("--margin", wish.margin, 0, 1), ("--power", wish.power, 0, 1)):
        if not low < value < high:
            raise ConfigError(f"{name} is {value:g}", hint="it lies between 0 and 1, such as 0.9")
    if model.true_ratio <= wish.margin:
        raise ConfigError(
            f"the true fraction {model.true_ratio:.3g} is not above the margin {wish.margin:g}: no study can show it",
            hint="name a lower margin, or with --fraction what you expect of the student",
        )
    if wish.per_rater < 1 or wish.arms < 2 or (wish.scenarios is not None and wish.scenarios < 2):
        raise ConfigError(
            f"{wish.per_rater} scenarios for each rater, {wish.arms} arms, {wish.scenarios} scenarios in all",
            hint="at least one for each rater, two arms and two scenarios",
        )


def _row(model: Components, wish: Wish, scenarios: int) -> dict[str, Any]:
    """Raters needed with so many scenarios, by crossing; `limit` is the power that no number of raters passes."""
    row: dict[str, Any] = {"scenarios": scenarios}
    for crossing in CROSSINGS:
        each = _each(wish, scenarios, crossing)
        needed = raters_needed(model, wish.margin, scenarios, each, wish.power, crossing=crossing, arms=wish.arms)
        found: dict[str, Any] = {
            "per_rater": each,
            "ratings_per_rater": each * (wish.arms if crossing == "within" else 1),
        }
        found["raters"] = needed
        found["ratings"] = None if needed is None else needed * found["ratings_per_rater"]
        at = math.inf if needed is None else needed
        one = power(model, wish.margin, at, scenarios, each, crossing=crossing, arms=wish.arms)
        found["power"], found["limit"] = (None, one.power) if needed is None else (one.power, None)
        row[crossing] = found
    return row


def _each(wish: Wish, scenarios: int, crossing: Crossing) -> int:
    """Scenarios for each rater: as many ratings in both crossings, as far as there are scenarios."""
    within = min(wish.per_rater, scenarios)
    return within if crossing == "within" else min(within * wish.arms, scenarios)


def _simulated(model: Components, wish: Wish, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The real test on simulated studies of a row: power at the true fraction, and size at the margin."""
    rng = np.random.default_rng(wish.seed)
    found = []
    for crossing in CROSSINGS:
        raters, each = row[crossing]["raters"], row[crossing]["per_rater"]
        if raters is None or raters * each > 20_000:
            continue
        shape = (wish.margin, raters, row["scenarios"], each, rng, wish.replications)
        options: dict[str, Any] = {"crossing": crossing, "arms": wish.arms}
        at_margin = replace(model, true_ratio=wish.margin)
        found.append(
            {
                "crossing": crossing,
                "raters": raters,
                "scenarios": row["scenarios"],
                "replications": wish.replications,
                "closed": row[crossing]["power"],
                "simulated": simulate(model, *shape, **options),
                "size": simulate(at_margin, *shape, **options),
            }
        )
    return found


def plan_text(plan: dict[str, Any]) -> str:
    """The plan for a terminal."""
    wish, pilot = plan["wish"], plan["pilot"]
    origin = (
        f"from {pilot['name']}: {pilot['student']} against its teacher, {pilot['n_raters']} raters, "
        f"{pilot['n_scenarios']} scenarios, {pilot['n_cells']} common cells"
        if pilot
        else "defaults, since there is no pilot (--pilot RUN or FILE.csv)"
    )
    lines = [f"Assumed: {origin}"]
    lines += [f"  {MEANING[name]:<42}{value:>6.2f}" for name in MEANING for value in [plan["assumed"][name]]]
    if pilot and (pilot["n_raters"] < FEW_RATERS or pilot["n_cells"] < FEW_CELLS):
        lines.append("  So small a pilot gives a guess: compare with the defaults.")
    lines += [
        "",
        f"Raters for {wish['power']:.0%} power to show more than {wish['margin']:.0%} of the teacher (one-sided 5 %), "
        f"{wish['arms']} arms",
        "             within: every arm for each scenario       between: one arm for each scenario",
        "  scenarios    raters  each rates        ratings         raters  each rates        ratings",
    ]
    for row in plan["rows"]:
        cells = "      ".join(_row_text(row[crossing]) for crossing in CROSSINGS)
        lines.append(f"  {row['scenarios']:>9}  {cells}".rstrip())
    lines += ["", *_advice(plan)]
    for one in plan["check"]:
        lines.append(
            f"Simulated {one['crossing']}, {one['raters']} raters x {one['scenarios']} scenarios, "
            f"{one['replications']} studies: power {one['simulated']:.3f} (closed form {one['closed']:.3f}), "
            f"false alarms at the margin {one['size']:.3f} (wanted 0.05)"
        )
    return "\n".join(lines)


def _row_text(one: dict[str, Any]) -> str:
    if one["raters"] is None:
        return f"{'never':>8}  power stops at {one['limit']:>4.0%}     "
    return f"{one['raters']:>8,}  {one['ratings_per_rater']:>10,}  {one['ratings']:>13,}"


def _advice(plan: dict[str, Any]) -> list[str]:
    least, rows = plan["least_scenarios"], plan["rows"]
    said = []
    if least is None:
        said.append("No number of scenarios up to 1,000 is enough: the true fraction is too close to the margin.")
    elif not any(row["within"]["raters"] for row in rows):
        said.append(
            f"More raters cannot replace scenarios: at least {least} scenarios are needed, however many rate them."
        )
    else:
        said.append(f"At least {least} scenarios are needed, however many people rate them.")
        some = [row for row in rows if row["within"]["ratings"]]
        cheap = min(some, key=lambda row: row["within"]["ratings"])
        said.append(
            f"Fewest ratings: {cheap['within']['raters']} raters x {cheap['scenarios']} scenarios, "
            f"{cheap['within']['ratings_per_rater']} ratings each, {cheap['within']['ratings']:,} in all."
        )
    return said
