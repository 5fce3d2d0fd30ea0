"""Coverage of the satisfaction fraction's 95 % interval on simulated studies, beside intervals that think naively.

    python benchmarks/coverage.py [--quick] [--studies N] [--seed 20]

Ratings are drawn on the whole-numbered scale of 1 to 5 with effects of rater, scenario, rater by scenario, rater by arm
and scenario by arm; the true fraction is that of the rounded and clipped scale, computed exactly. Every study goes
through the functions that the report uses. Each line of the output is one comparison: `ours` is the share of studies
whose default interval holds the truth, `theirs` that of intervals which take every cell for independent, `ratio` how
many times nearer to 0.95 ours is (Monte Carlo error added to both). The table for docs/statistics.md goes to stderr.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtr

sys.path.insert(0, str(Path(__file__).parent.parent))

from reports.stats.bootstrap import multinomial_weights, percentile, pigeonhole, pigeonhole_all
from reports.stats.cells import Cells, Floats, Ratings, collapse, common_cells
from reports.stats.fraction import Estimate, fraction, fraction_all, t_quantile
from reports.stats.tests import difference, non_inferiority

BATCH = 100  # studies drawn at once
DRAWS = 1_000  # of each bootstrap
NORMAL = 1.959963984540054


@dataclass(frozen=True)
class Design:
    """A kind of study: its size, the latent means and SDs, and who rates what.

    `per_rater`: scenarios for each rater, None for all; `uneven`: raters give from 15 % to all of them, some scenarios
    are rated more than others, and a tenth of the ratings is missing; `between`: one arm in each cell.
    """

    name: str
    raters: int
    scenarios: int
    mean_t: float = 3.9
    mean_s: float = 3.4
    rater: float = 0.4
    scenario: float = 0.4
    both: float = 0.3
    rater_arm: float = 0.25
    scenario_arm: float = 0.25
    rest: float = 0.75
    per_rater: int | None = None
    uneven: bool = False
    between: bool = False

    @property
    def spread(self) -> float:
        """SD of one latent rating over raters and scenarios."""
        parts = (self.rater, self.scenario, self.both, self.rater_arm, self.scenario_arm, self.rest)
        return math.sqrt(sum(one**2 for one in parts))

    def truth(self) -> tuple[float, float]:
        """The true means of student and teacher on the rounded scale: 1 + sum over k of P(latent > k + 1/2)."""
        steps = np.arange(1, 5) + 0.5
        means = [1 + float(np.sum(ndtr((mean - steps) / self.spread))) for mean in (self.mean_s, self.mean_t)]
        return means[0], means[1]


DESIGNS = (
    Design("20 x 20", 20, 20),
    Design("20 x 20, arms alike to all", 20, 20, rater_arm=0.0, scenario_arm=0.0),
    Design("40 x 50", 40, 50),
    Design("40 x 50, each rates 25", 40, 50, per_rater=25),
    Design("30 x 40, unbalanced", 30, 40, uneven=True),
    Design("20 x 20, ceiling", 20, 20, mean_t=5.1, mean_s=4.6),
    Design("8 x 30", 8, 30),
    Design("40 x 40, each rates 20, between", 40, 40, per_rater=20, between=True),
)
MUST = (0.93, 0.97)


def studies(design: Design, count: int, rng: np.random.Generator) -> Iterator[Ratings]:
    """Simulated studies, many at once: teacher 0, student 1."""
    r, s = design.raters, design.scenarios
    for start in range(0, count, BATCH):
        b = min(BATCH, count - start)

        def normal(*shape: int, b: int = b) -> Floats:
            return rng.standard_normal((b, *shape))

        shared = design.rater * normal(r, 1) + design.scenario * normal(1, s) + design.both * normal(r, s)
        values, there = [], _there(design, b, rng)
        for mean in (design.mean_t, design.mean_s):
            own = design.rater_arm * normal(r, 1) + design.scenario_arm * normal(1, s) + design.rest * normal(r, s)
            values.append(np.clip(np.round(mean + shared + own), 1, 5))
        for at in range(b):
            rows = [np.nonzero(there[arm, at]) for arm in (0, 1)]
            yield collapse(
                np.concatenate([rows[0][0], rows[1][0]]),
                np.concatenate([rows[0][1], rows[1][1]]),
                np.repeat([0, 1], [len(rows[0][0]), len(rows[1][0])]),
                np.concatenate([values[arm][at][rows[arm]] for arm in (0, 1)]),
            )[0]


def _there(design: Design, b: int, rng: np.random.Generator) -> np.ndarray:
    """Which cells were rated in which arm [2, b, R, S]."""
    r, s = design.raters, design.scenarios
    if design.uneven:
        share = rng.uniform(0.15, 1.0, (b, r, 1)) * rng.uniform(0.5, 1.0, (b, 1, s))
        cell = rng.random((b, r, s)) < share
        return np.stack([cell & (rng.random((b, r, s)) < 0.9) for _ in "ts"])
    order = np.argsort(rng.random((b, r, s)), axis=2).argsort(axis=2)
    each = design.per_rater or s
    if design.between:
        return np.stack([order < each // 2, (order >= each // 2) & (order < each)])
    return np.stack([order < each] * 2)


def naive(cells: Cells, rng: np.random.Generator, bootstrap: bool) -> dict[str, tuple[float, float]]:
    """Intervals of the ratio that take cells for independent, or only raters for the sample."""
    m1, m0 = float(cells.student.mean()), float(cells.teacher.mean())
    ratio, n = m1 / m0, cells.n
    psi = (cells.student - ratio * cells.teacher) / (m0 * n)
    found = {"iid pairs": NORMAL * math.sqrt(n / (n - 1) * float(psi @ psi))}
    by_rater = np.bincount(cells.rater, psi)
    g = len(by_rater)
    found["raters only"] = t_quantile(g - 1, 0.95) * math.sqrt(g / (g - 1) * float(by_rater @ by_rater))
    limits = {name: (ratio - half, ratio + half) for name, half in found.items()}
    if bootstrap:
        w = multinomial_weights(rng, DRAWS, n).astype(np.float64)
        limits["iid bootstrap"] = percentile((w @ cells.student) / (w @ cells.teacher))
    return limits


def measure(design: Design, count: int, resampled: int, seed: int) -> dict[str, float]:
    """Share of studies whose interval holds the truth, by method; bootstraps on the first `resampled` studies only."""
    rng, boot = np.random.default_rng([seed, len(design.name)]), np.random.default_rng(seed)
    m1, m0 = design.truth()
    ratio = m1 / m0
    held: dict[str, list[bool]] = {}

    def note(name: str, limits: tuple[float, float], true: float = ratio) -> None:
        held.setdefault(name, []).append(bool(limits[0] <= true <= limits[1]))

    for at, ratings in enumerate(studies(design, count, rng)):
        found, shifted = _estimates(design, ratings)
        note("default", (found.low, found.high))
        note("delta", (found.delta_low, found.delta_high))
        note("moved to zero", (shifted.low, shifted.high), (m1 - 1) / (m0 - 1))
        diff = difference(found)
        note("difference", (diff.low, diff.high), m1 - m0)
        held.setdefault("false alarms", []).append(non_inferiority(found, ratio).p < 0.05)
        if at < resampled:
            drawn = (pigeonhole_all(ratings, 1, 0, boot, DRAWS) if design.between
                     else pigeonhole(common_cells(ratings, 1, 0), boot, DRAWS))  # fmt: skip
            note("pigeonhole", drawn.ratio())
        if design.between:
            note("iid pairs", _apart(ratings))
        else:
            for name, limits in naive(common_cells(ratings, 1, 0), boot, at < resampled).items():
                note(name, limits)
    return {name: float(np.mean(one)) for name, one in held.items()}


def _estimates(design: Design, ratings: Ratings) -> tuple[Estimate, Estimate]:
    if design.between:
        return fraction_all(ratings, 1, 0), fraction_all(ratings, 1, 0, shift=1)
    cells = common_cells(ratings, 1, 0)
    return fraction(cells), fraction(cells, shift=1)


def _apart(ratings: Ratings) -> tuple[float, float]:
    """The interval that takes all ratings of both arms for independent."""
    s, t = (ratings.value[ratings.arm == arm] for arm in (1, 0))
    ratio = float(s.mean() / t.mean())
    half = NORMAL * math.sqrt(s.var(ddof=1) / len(s) + ratio**2 * t.var(ddof=1) / len(t)) / float(t.mean())
    return ratio - half, ratio + half


COLUMNS = (
    *("default", "delta", "pigeonhole", "difference", "moved to zero", "false alarms"),
    *("raters only", "iid bootstrap", "iid pairs"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 studies of each kind: within ten minutes")
    parser.add_argument("--studies", type=int, help="studies of each kind (default: 10,000; quick: 2,000)")
    parser.add_argument("--seed", type=int, default=20, help="default: 20")
    args = parser.parse_args()
    count = args.studies or (2_000 if args.quick else 10_000)
    resampled = max(1, count // 5)
    machine = {"cpu": _processor(), "python": platform.python_version(), "numpy": np.__version__}
    print(f"| raters x scenarios | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}", file=sys.stderr)
    begun = time.monotonic()
    for design in DESIGNS:
        found = measure(design, count, resampled, args.seed)
        cells = [f"{found[name]:.3f}" if name in found else "" for name in COLUMNS]
        print(f"| {design.name} | {' | '.join(cells)} |", file=sys.stderr, flush=True)
        error = math.sqrt(0.95 * 0.05 / count)
        ours, theirs = found["default"], found["iid pairs"]
        line = {
            "name": f"coverage of nominal 95 %, {design.name}",
            **{"ours": ours, "theirs": theirs, "unit": "share of studies", "all": found},
            "ratio": (abs(theirs - 0.95) + error) / (abs(ours - 0.95) + error),
            **{"must": MUST, "aim": 0.95, "n": count, "n_resampled": resampled, "machine": machine},
        }
        print(json.dumps(line), flush=True)
    print(
        f"{count:,} studies of each kind, {resampled:,} for the bootstraps ({DRAWS:,} draws), seed {args.seed}; "
        f"Monte Carlo error {math.sqrt(0.95 * 0.05 / count):.3f} and {math.sqrt(0.95 * 0.05 / resampled):.3f}; "
        f"{time.monotonic() - begun:.0f} s",
        file=sys.stderr,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
