"""`viva bench --compare A B`: two arms' benchmarks against each other, as a table for a terminal."""

from pathlib import Path

from harness.errors import RunError
from reports.load import Source, bench_results, load
from reports.pair_tables import HELP, tables, terminal
from reports.paired import Bench, compare_arms, overlapping

WIDTH = 110


def compare(root: Path, one: str, other: str) -> str:
    """The differences of arm `other` from arm `one` in every score that both have.

    Each is the name of an arm of the run in `root`, or a folder of results, such as `runs/NAME/bench/ARM`. Raises
    RunError for one without results, and where the two have no score in common.
    """
    source = load(root)
    first, second = (_bench(source, name) for name in (one, other))
    if first.name == second.name:
        first, second = (Bench(name, bench.scores, bench.frames) for name, bench in ((one, first), (other, second)))
    marked = overlapping(source, one) | overlapping(source, other)
    found = compare_arms(first, second, seed=source.seed, teacher=source.teacher, marked=marked)
    if not found["rows"]:
        raise RunError(
            f"{one} and {other} have no score in common that can be compared item by item",
            hint="bench both on the same suites",
        )
    return "\n\n".join([*map(terminal, tables([found])), _wrapped(HELP)])


def _bench(source: Source, name: str) -> Bench:
    if name in source.arms:
        scores, frames, where = source.scores[name], source.frames[name], f"the arm {name!r}"
    else:
        if not Path(name).is_dir():
            raise RunError(
                f"there are no benchmark results of {name!r}",
                hint=f"name one of {', '.join(source.arms)}, or a folder of results such as runs/NAME/bench/ARM",
            )
        (scores, frames), where = bench_results(Path(name)), name
    if not frames:
        raise RunError(f"{where} holds no samples to compare", hint="run viva bench first")
    return Bench(name if name in source.arms else Path(name).name, scores, frames)


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, WIDTH)
