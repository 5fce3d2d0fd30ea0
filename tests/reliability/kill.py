"""Kill the servers of a study at random moments while raters are at work, and see whether anything confirmed is lost.

    python -m tests.reliability.kill --times 200 [--seed 1] [--raters 6] [--crossing within]

A moment is a number of answers after the last restart, half of the times the next rating or joining after that, and a
fraction of a tenth of a second, all drawn from the seed; so it falls into the middle of the requests of several raters,
however fast the machine is. At each moment the page, the model server or both get SIGKILL. Then everything that raters
had been told is saved is looked for in the database, at half of the moments before the page has opened it again. At
some moments hours seem to have passed, so that what is not rated may go to other raters. Prints what it found as JSON.
"""

import argparse
import json
import os
import platform
import random
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from studyapp import store, store_owner_acts
from tests.reliability.ledger import Ledger
from tests.reliability.nursery import Nursery
from tests.reliability.rater import PANELS, PATIENCE, Rater
from tests.studyapp.small_study import make, scenarios

TARGETS = (("page",), ("models",), ("page", "models"))
PACE = {"cps": 400, "tick": 0.05, "delay": 0.1}
"""A live answer takes about a quarter of a second: many are under way at any moment."""

MOST_ANSWERS = 50
"""So many answers without a rating or joining are waited for."""


def run(
    folder: Path, times: int, *, seed: int = 1, raters: int = 6, crossing: str = "within", tell: Any = None
) -> dict[str, Any]:
    """Go through `times` kills; returns the figures, of which `faults` should be empty."""
    rng, ledger, stop = random.Random(seed), Ledger(), threading.Event()
    db = folder / "study.db"
    items = scenarios(6, turns=2, modes=("fixed", "live", "side-by-side"))
    settings: dict[str, Any] = {"crossing": crossing, "side": PANELS, "scenarios_per_rater": 4, "ratings_per_cell": 2}
    make(db, keys=("k-one", "k-two"), items=items, **settings)
    store.set_pace(db, PACE)
    nursery = Nursery(db, [0.0, 0.01])
    doors = [lambda: "/join", lambda: f"/join/{store_owner_acts.invite(db, 1, 'test')[0]}"]
    chairs = [Rater(nursery.url, f"r{n}", doors[n % 2], ledger, stop, seed * 1000 + n) for n in range(raters)]
    killed: Counter[str] = Counter()
    restarts: list[float] = []
    faults: list[str] = []
    extended = 0
    begun = time.perf_counter()
    try:
        nursery.start("models", "page")
        for chair in chairs:
            chair.start()
        for number in range(1, times + 1):
            _wait(ledger, rng.randint(1, 25), rng.uniform(0, 0.1), pressed=rng.random() < 0.5)
            target, early, hours = rng.choice(TARGETS), rng.random() < 0.5, rng.random() < 0.3
            nursery.kill(*target)
            killed[" and ".join(target)] += 1
            if early:
                faults += ledger.faults(db)
            if hours:
                _let_leases_end(db)
            if ledger.turned_away > extended:
                extended = ledger.turned_away
                store_owner_acts.extend(db, "test", ratings=1)
            restarts.append(nursery.start(*reversed(target)))
            if not early:
                faults += ledger.faults(db)
            if tell and (number % 10 == 0 or faults):
                tell(f"{number} of {times}: {len(ledger.submits)} submits, {ledger.cut} cut off, {len(faults)} faults")
            if faults:
                break
        _wait(ledger, 20, 0.0)  # all goes on after the last one
        with ledger.moved:
            ledger.moved.wait_for(ledger.has_all_kinds, PATIENCE)
    finally:
        stop.set()
        for chair in chairs:
            if chair.ident:
                chair.join(PATIENCE)
        nursery.close()
    faults += ledger.faults(db)
    facts = {"people": sum(chair.people for chair in chairs), "restart, median s": statistics.median(restarts)}
    return _figures(db, ledger, killed, faults, facts, time.perf_counter() - begun)


def _wait(ledger: Ledger, answers: int, seconds: float, *, pressed: bool = False) -> None:
    """Return when raters have got so many more answers (and with `pressed`, one rates or joins), and seconds later."""
    with ledger.moved:
        end = ledger.answers + answers
        assert ledger.moved.wait_for(lambda: ledger.answers >= end or ledger.surprises, PATIENCE), "raters are stuck"
        if pressed:  # nobody does for a while, if all wait for something to rate
            before, end = ledger.pressed, end + MOST_ANSWERS
            ledger.moved.wait_for(lambda: ledger.pressed > before or ledger.answers >= end, PATIENCE)
    time.sleep(seconds)


def _let_leases_end(db: Path) -> None:
    """As if hours had passed: what is not rated is its rater's until the next one joins, or they come back first."""
    with closing(sqlite3.connect(db, timeout=60)) as connection, connection:
        connection.execute("UPDATE assignment SET leased_until = '2020-01-01' WHERE done_at IS NULL")


def _figures(
    db: Path, ledger: Ledger, killed: Counter[str], faults: list[str], facts: dict[str, float], seconds: float
) -> dict[str, Any]:
    saved, silent, never = ledger.committed(db)
    with closing(sqlite3.connect(db)) as connection:
        count = "SELECT count(*) FROM assignment WHERE released_why = 'lease'"
        passed_on = connection.execute(count).fetchone()[0]
    return {
        "kills": sum(killed.values()),
        "killed": dict(killed),
        **{name: round(value, 2) for name, value in facts.items()},
        "answers": ledger.answers,
        "requests cut off": ledger.cut,
        "ratings acknowledged": saved,
        "ratings committed, acknowledgement cut off": silent,
        "ratings that never arrived": never,
        "replays refused": ledger.replayed,
        "messages acknowledged": sum(message.saved for message in ledger.messages),
        "live answers shown whole": sum(message.answered for message in ledger.messages),
        "items passed on to another rater": passed_on,
        "raters told that an item is not theirs now": ledger.too_late,
        "minutes": round(seconds / 60, 1),
        "faults": list(dict.fromkeys(faults)),
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--raters", type=int, default=6)
    parser.add_argument("--crossing", choices=["within", "between"], default="within")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="viva-kill-") as folder:

        def tell(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        found = run(Path(folder), args.times, seed=args.seed, raters=args.raters, crossing=args.crossing, tell=tell)
    print(json.dumps(found, indent=1))
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
