"""Progress as a user sees it: a bar on a terminal, a line every few seconds in a log file."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

Report = Callable[[int, int, str], None]
"""Called by stages with what is done, the total (0: not known), and a short note ('loss 2.31, 214 tokens/s')."""

LINE_EVERY = 10.0  # seconds between lines where there is no terminal


def quiet(done: int, total: int, note: str) -> None:
    """A Report that shows nothing."""


def leads() -> bool:
    """Whether this process speaks to the user: of several that were launched together, the first."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """One line for the user, on stderr: stdout is kept for what a command answers."""
    if leads():
        print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """'42 s', '3 min 05 s' or '2 h 10 min'."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@contextlib.contextmanager
def bar(title: str) -> Iterator[Report]:
    """A progress display for one stage: percentage, done of total, note and remaining time."""
    if not leads():
        yield quiet
    elif sys.stderr.isatty():
        with _terminal(title) as report:
            yield report
    else:
        yield _lines(title)


@contextlib.contextmanager
def _terminal(title: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=None, note="")

        def report(done: int, total: int, note: str) -> None:
            progress.update(task, completed=done, total=total or None, note=note)

        yield report


def _lines(title: str) -> Report:
    begun = time.monotonic()
    first: list[int] = []
    last = begun

    def report(done: int, total: int, note: str) -> None:
        nonlocal last
        if not first:
            first.append(done)
        moment = time.monotonic()
        if moment - last < LINE_EVERY and (done < total or not total):
            return
        last = moment
        fresh = done - first[0]
        left = f", {duration((moment - begun) / fresh * (total - done))} left" if fresh and done < total else ""
        say(f"{title}: " + ", ".join(part for part in (f"{done}/{total}{left}" if total else "", note) if part))

    return report
