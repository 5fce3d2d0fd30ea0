"""The report's speed and memory, and its bootstrap beside what one would write with pandas and scipy.

    python benchmarks/report.py [--quick] [--only bootstrap million study growth] [--rounds N]

`bootstrap`: 10,000 pigeonhole draws of the satisfaction fraction of one student, 2,000 raters by 500 scenarios of which
each rater met 167, beside three ways of the same estimator in scipy.stats.bootstrap: a pandas groupby of weighted rows,
the table of ratings resampled by rows and columns, and weights counted with numpy, which is the least that a loop over
draws can do. One thread on every side; the others are timed on fewer draws, and their time for one draw is multiplied.
`million`: `viva report --ratings` on 1,000,000 ratings (2,000 raters, 500 scenarios, three arms, both scales), from the
start of the command, wall clock and peak memory; `study`: `viva report RUN` on a run directory with 3,000 ratings,
benchmarks, costs and training; `growth`: tables from 1,000 to 10,000,000 ratings (quick: to 1,000,000).

Each measurement is a process of its own; sides alternate and medians are compared. A line has `ours_cpu` and
`theirs_cpu` too: seconds of processor time, which other work on the machine disturbs less than the clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.rundir import hardware

ROOT = Path(__file__).resolve().parent.parent
RATERS, SCENARIOS, MET = 2_000, 500, 167  # a million ratings in three arms
ARMS = {"teacher": 3.9, "distilled": 3.75, "scratch": 3.0}
DRAWS = 10_000
SOME = {"ours": DRAWS, "pandas": 20, "table": 20, "numpy": 200}
"""Draws that are really made; the rest is extrapolated."""
THEIRS = {
    "pandas": ("a pandas groupby in scipy.stats.bootstrap", 50),
    "table": ("the table resampled in scipy.stats.bootstrap", 50),
    "numpy": ("weights by numpy in scipy.stats.bootstrap", None),
}
STUDY = """
schema = 1
name = "study"
[teacher]
source = "nowhere"
[[student]]
name = "distilled"
shape = { layers = 3 }
start = "importance"
[student.train]
corpus = "data:corpus/chat.jsonl"
tokens = 40_000
lr = 5e-4
terms = { kd = { weight = 1.0 } }
[[student]]
name = "scratch"
control_of = "distilled"
start = "scratch"
[bench]
suites = ["words", "sense", "facts"]
"""
STUDY_RATERS = 125  # 8 scenarios each in three arms: 3,000 ratings


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, to a million ratings: under ten minutes")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--rounds", type=int, help="measurements of each side (default 5; quick: 1)")
    parser.add_argument("--child", choices=list(SOME), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(draws(args.child)))
        return
    rounds = args.rounds or (1 if args.quick else 5)
    with tempfile.TemporaryDirectory() as folder:
        for part in args.only:
            for line in PARTS[part](Path(folder), rounds, args.quick):
                print(json.dumps(line), flush=True)
                cpu = f"(CPU {line['ours_cpu']:.3g} : {line['theirs_cpu'] or 0:.3g})" if line["ours_cpu"] else ""
                text = f"{line['name']:72} {line['ours']:9.3g} {line['theirs']:9.3g} {line['unit']:4}"
                print(f"{text} {line['ratio']:8.2f}  must {line['must']} {cpu}", file=sys.stderr)


def bootstrap(_: Path, rounds: int, __: bool) -> Iterator[dict[str, Any]]:
    """Ours and each of theirs in turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SOME}
    for _round in range(rounds):
        for name in SOME:
            child = [sys.executable, __file__, "--child", name]
            text = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True, env=environment(1)).stdout
            found[name].append(json.loads(text.splitlines()[-1]))
    ours = middle(found["ours"])
    for name, (text, must) in THEIRS.items():
        theirs = middle(found[name])
        yield line(f"{DRAWS:,} draws against {text}", ours, theirs, "s", must, DRAWS)


def draws(side: str) -> dict[str, float]:
    """Seconds that 10,000 draws take on one side, by the clock and of the processor."""
    from reports.stats.bootstrap import pigeonhole
    from reports.stats.cells import Cells

    rng = np.random.default_rng(20)
    rater = np.repeat(np.arange(RATERS), MET)
    scenario = np.argsort(rng.random((RATERS, SCENARIOS)), axis=1)[:, :MET].ravel().astype(np.int64)
    student, teacher = (marks(rng, rater, scenario, mean) for mean in (3.75, 3.9))
    if side == "ours":
        cells = Cells(rater, scenario, student, teacher)
        pigeonhole(cells, np.random.default_rng(1), 100)
        return timed(lambda: pigeonhole(cells, np.random.default_rng(1), DRAWS), DRAWS)
    from scipy.stats import bootstrap as scipy_bootstrap

    statistic = STATISTICS[side](rater, scenario, student, teacher)
    levels, n = (np.arange(RATERS), np.arange(SCENARIOS)), SOME[side]
    options = {"vectorized": False, "method": "percentile", "n_resamples": n, "rng": np.random.default_rng(1)}
    statistic(*levels)
    return timed(lambda: scipy_bootstrap(levels, statistic, **options), n)


def of_pandas(rater: Any, scenario: Any, student: Any, teacher: Any) -> Callable[..., float]:
    import pandas as pd

    rows = pd.DataFrame({"rater": rater, "scenario": scenario, "student": student, "teacher": teacher})
    long = rows.melt(["rater", "scenario"], ["student", "teacher"], "arm", "value")

    def statistic(raters: Any, scenarios: Any) -> float:
        of_rater, of_scenario = (pd.Series(drawn).value_counts() for drawn in (raters, scenarios))
        weight = long.rater.map(of_rater).fillna(0) * long.scenario.map(of_scenario).fillna(0)
        sums = (long.value * weight).groupby(long.arm).sum() / weight.groupby(long.arm).sum()
        return float(sums["student"] / sums["teacher"])

    return statistic


def of_table(rater: Any, scenario: Any, student: Any, teacher: Any) -> Callable[..., float]:
    tables = np.full((2, RATERS, SCENARIOS), np.nan)
    tables[:, rater, scenario] = student, teacher

    def statistic(raters: Any, scenarios: Any) -> float:
        mine, its = (np.nanmean(table[np.ix_(raters, scenarios)]) for table in tables)
        return float(mine / its)

    return statistic


def of_numpy(rater: Any, scenario: Any, student: Any, teacher: Any) -> Callable[..., float]:
    def statistic(raters: Any, scenarios: Any) -> float:
        weight = np.bincount(raters, minlength=RATERS)[rater] * np.bincount(scenarios, minlength=SCENARIOS)[scenario]
        return float((weight @ student) / (weight @ teacher))

    return statistic


STATISTICS = {"pandas": of_pandas, "table": of_table, "numpy": of_numpy}


def marks(rng: np.random.Generator, rater: Any, scenario: Any, mean: float) -> Any:
    severe, easy = rng.normal(0, 0.45, int(rater.max()) + 1), rng.normal(0, 0.4, int(scenario.max()) + 1)
    return np.clip(np.rint(mean + severe[rater] + easy[scenario] + rng.normal(0, 0.8, len(rater))), 1, 5)


def timed(work: Callable[[], Any], done: int) -> dict[str, float]:
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    scale = DRAWS / done
    return {"clock": scale * (time.perf_counter() - clock), "cpu": scale * (time.process_time() - cpu)}


def million(folder: Path, rounds: int, _: bool) -> Iterator[dict[str, Any]]:
    path = table(folder, RATERS, MET)
    found = middle([command(folder, ["--ratings", str(path), "--teacher", "teacher"]) for _round in range(rounds)])
    n = len(ARMS) * RATERS * MET
    yield line("report of 1,000,000 ratings, three arms", found, {"clock": 20.0}, "s", 1, n)
    peak = {"clock": found["peak"], "cpu": None}
    yield line("its peak memory", peak, {"clock": 1.5}, "GB", 1, n)


def study(folder: Path, rounds: int, _: bool) -> Iterator[dict[str, Any]]:
    sys.path.insert(0, str(ROOT / "tests" / "reports"))
    from fixture_study import make_study

    run = make_study(folder / "study", raters=STUDY_RATERS)
    (run / "study.toml").write_text(STUDY)
    found = []
    for _round in range(rounds):
        (run / "report" / "manifest.json").unlink(missing_ok=True)  # else the report is there already
        found.append(command(folder, [str(run)]))
    yield line("report of a study of 3,000 ratings", middle(found), {"clock": 3.0}, "s", 1, 3_000)


def growth(folder: Path, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Ten times the ratings against ten times the time, that of the smallest report taken off both."""
    start, before = None, None
    for exponent in range(3, 7 if quick else 8):
        n = 10**exponent
        raters, met = (round(n / 60), 20) if n < 100_000 else (round(n / 3 / MET), MET)
        path = table(folder, raters, met)
        arguments = ["--ratings", str(path), "--teacher", "teacher"]
        found = middle([command(folder, arguments) for _round in range(1 if n > 1_000_000 else rounds)])
        path.unlink()
        print(
            f"{n:>10,} ratings: {found['clock']:.2f} s, CPU {found['cpu']:.2f} s, {found['peak']:.2f} GB",
            file=sys.stderr,
        )
        start = start or found
        if before and before is not start and n > 100_000:
            more, less = ({key: one[key] - start[key] for key in ("clock", "cpu")} for one in (found, before))
            ten = {key: 10 * value for key, value in less.items()}
            yield line(f"{n:,} ratings against ten times {n // 10:,}", more, ten, "s", 0.9, n)
        before = found


def table(folder: Path, raters: int, met: int) -> Path:
    """Tidy ratings as a CSV file: each rater meets `met` scenarios in every arm."""
    import pyarrow as pa
    import pyarrow.csv

    rng = np.random.default_rng(raters)
    scenarios = SCENARIOS if met == MET else 50
    rater = np.repeat(np.arange(raters), met)
    parts = [rng.permuted(np.tile(np.arange(scenarios), (min(500, raters - at), 1)), axis=1)[:, :met].ravel()
             for at in range(0, raters, 500)]  # fmt: skip
    scenario = np.concatenate(parts)
    path = folder / f"ratings-{len(rater)}.csv"
    with pyarrow.csv.CSVWriter(path, schema()) as file:
        for place, (arm, mean) in enumerate(ARMS.items()):
            columns = [
                labels("r", rater),
                labels("s", scenario),
                pa.array([arm]).take(pa.array(np.zeros(len(rater), int))),
            ]
            columns += [pa.array(marks(rng, rater, scenario, mean).astype(np.int8)) for _scale in "ab"]
            columns += [labels("c", scenario % 5), pa.array(3 * (np.arange(len(rater)) % met) + place + 1)]
            columns += [pa.array(np.full(len(rater), 21.5))]
            file.write_table(pa.table(columns, schema()))
    return path


def schema() -> Any:
    import pyarrow as pa

    texts = {name: pa.string() for name in ("rater", "scenario", "arm")}
    numbers = {"satisfaction": pa.int8(), "goal_achievement": pa.int8()}
    rest = {"category": pa.string(), "position": pa.int64(), "seconds": pa.float64()}
    return pa.schema(list((texts | numbers | rest).items()))


def labels(prefix: str, codes: Any) -> Any:
    import pyarrow as pa

    return pa.array([f"{prefix}{one:05d}" for one in range(int(codes.max()) + 1)]).take(pa.array(codes))


def command(folder: Path, arguments: list[str]) -> dict[str, float]:
    """`viva report` as a user starts it: seconds by the clock, of the processor, and peak memory in GB."""
    out = [] if "--ratings" not in arguments else ["--out", str(folder / "out")]
    program = "import sys; from harness.cli import main; sys.exit(main())"
    clock = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program, "report", *arguments, *out], cwd=ROOT, env=environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - clock
    if status:
        raise SystemExit(f"viva report {' '.join(arguments)} failed")
    return {"clock": seconds, "cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss * 1024 / 1e9}


def environment(threads: int | None = None) -> dict[str, str]:
    """So many threads for matrix products; None: as a user has it who has set nothing."""
    given = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    clean = {key: value for key, value in os.environ.items() if key not in given}
    return clean if threads is None else {**clean, **dict.fromkeys(given, str(threads))}


def middle(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in found) for key in found[0]}


def line(
    name: str, ours: dict[str, Any], theirs: dict[str, Any], unit: str, must: float | None, n: int
) -> dict[str, Any]:
    return {
        **{"name": name, "ours": ours["clock"], "theirs": theirs["clock"], "unit": unit},
        **{"ratio": theirs["clock"] / ours["clock"], "must": must, "aim": must, "n": n},
        **{
            "ours_cpu": ours.get("cpu"),
            "theirs_cpu": theirs.get("cpu"),
            "machine": hardware(),
        },
    }


PARTS = {"bootstrap": bootstrap, "million": million, "study": study, "growth": growth}

if __name__ == "__main__":
    main()
