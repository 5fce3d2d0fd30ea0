"""`viva rehearse`: the whole study with raters who do not exist, through the real pages, into a folder of its own.

The web process is the one that people would meet; only the kind under which it enters raters is another, and it is told
that through its pipe, where no visitor can reach. The rehearsal has its own study.db: the study's is not opened.
"""

import contextlib
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, RunError
from harness.progress import bar, say
from harness.records import dump_json, write_atomic
from harness.rehearsal.raters import Simulated, World, make_raters, make_world, true_fractions
from harness.rehearsal.session import Stage, go
from harness.rehearsal.visitor import StoppedError, Visitor
from harness.rundir import RunDir
from harness.serving import child
from harness.serving.process import Handle, calibrate, serving
from harness.stages import Run

if TYPE_CHECKING:
    from studyapp.store import Study

AT_ONCE = 4
"""Simulated raters who are at work at the same time, where chats are not live."""
FEWEST = 4
"""Raters by default at least: from so many on, one of each kind of careless rater is among them."""
ACTOR = "rehearsal"


@dataclass(frozen=True)
class Wish:
    """How to rehearse: raters (None: as many as the cells need), seed, true fractions as on the command line."""

    raters: int | None = None
    seed: int = 0
    fractions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rehearsed:
    """What came of it: the folder, the report, the raters by character, and the true fraction of every student."""

    root: Path
    report: Path
    characters: dict[str, int]
    fractions: dict[str, float]


def rehearse(run: Run, wish: Wish, out: Path | None = None) -> Rehearsed:
    """Rehearse a study into `out` (default: beside its run directory); what an earlier rehearsal left there goes.

    Raises RunError while there are no answers to rate or where the pages refuse a rater, ConfigError for a wish that
    cannot be met.
    """
    from reports.planning import DEFAULTS

    study = run.study
    if run.dir.rehearsal.exists():
        raise ConfigError(f"{run.dir.root} is a rehearsal itself", hint="name the study file, or its run directory")
    if wish.raters is not None and not 1 <= wish.raters <= 2000:
        raise ConfigError(f"--raters is {wish.raters}", hint="it lies between 1 and 2000")
    controls = [student.name for student in study.student if student.control_of]
    fractions = true_fractions(wish.fractions, study.arms, controls, DEFAULTS.true_ratio)
    root = out or run.dir.root.with_name(f"{run.dir.root.name}-rehearsal")
    model = {name: getattr(DEFAULTS, name) for name in ("mu_t", "s_r", "s_s", "s_ra", "s_sa", "s_e", "s_rs")}
    twin = Run(study, RunDir(root))
    with _new_folder(run, twin), twin.dir.lock("rate"):
        _prepare(twin)
        world = make_world(DEFAULTS, fractions, [scenario.id for scenario in run.scenarios], wish.seed)
        raters = make_raters(wish.raters or raters_needed(run), world, wish.seed)
        facts = {"seed": wish.seed, "raters": len(raters), "fractions": fractions, "model": model}
        write_atomic(twin.dir.rehearsal, dump_json(facts))
        _run(twin, world, raters)
    with twin.dir.lock():
        report = _report(twin, facts)
    characters: list[str] = [rater.character for rater in raters]
    counted = {one: characters.count(one) for one in dict.fromkeys(characters)}
    return Rehearsed(root, report, counted, {arm: fractions[arm] for arm in study.arms[1:]})


def raters_needed(run: Run) -> int:
    """How many raters give every cell its ratings, with a tenth more for what those leave open who leave early."""
    rate, scenarios = run.study.rate, len(run.scenarios)
    cells = scenarios * (len(run.study.arms) if rate.crossing == "between" else 1)
    needed = cells * rate.ratings_per_cell / min(rate.scenarios_per_rater, scenarios)
    return max(FEWEST, math.ceil(1.1 * math.ceil(needed)))


@contextlib.contextmanager
def _new_folder(run: Run, twin: Run) -> Iterator[None]:
    """The rehearsal's run directory: what the study's has, but for raters and what they said."""
    root = twin.dir.root
    if root.resolve() == run.dir.root.resolve():
        raise ConfigError(f"{root} is the study's own run directory", hint="name another folder with --out")
    if root.exists() and any(path.name[0] != "." for path in root.iterdir()) and not twin.dir.rehearsal.exists():
        raise RunError(f"{root} holds something else than a rehearsal", hint="name another folder with --out")
    with twin.dir.lock("rehearse"):
        # first: were this stopped in between, it would still be known for what it is
        write_atomic(twin.dir.rehearsal, dump_json({}))
        for path in (twin.dir.report, *root.glob("study.db*"), *(root / part for part in ("answers", "bench", "arms"))):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        write_atomic(twin.dir.study, twin.study.to_toml())
        if run.dir.blinding.exists():
            shutil.copy(run.dir.blinding, twin.dir.blinding)  # its mode too: only the owner may read it
        for folder in (run.dir.answers, run.dir.root / "bench"):
            if folder.is_dir():
                shutil.copytree(folder, root / folder.name)
        for arm in run.study.arms:
            _copy_arm(run.dir.arm(arm), twin.dir.arm(arm))
        yield


def _copy_arm(source: Path, target: Path) -> None:
    """What the report reads of an arm's training; its model is large, and only pointed to."""
    if not source.is_dir():
        return
    target.mkdir(parents=True)
    for name in ("manifest.json", "metrics.jsonl"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    if (source / "model").is_dir():
        (target / "model").symlink_to((source / "model").resolve(), target_is_directory=True)


def _prepare(twin: Run) -> None:
    from harness.rating import prepare

    prepare(twin)


def _run(twin: Run, world: World, raters: list[Simulated]) -> None:
    """Start the servers, let all raters through, close the study."""
    from studyapp import store, store_owner_acts

    db = twin.dir.db
    facts = store.study(db)
    at_once = twin.study.rate.at_once if facts.live else AT_ONCE
    with contextlib.ExitStack() as stack:
        models = None
        if facts.live:
            with bar("models") as progress:
                models = stack.enter_context(serving(twin.dir.root, at_once, progress))
            with bar("pace") as progress:
                store.set_pace(db, calibrate(models, progress))
        say("opening the rating page for simulated raters (a few seconds)")
        url = stack.enter_context(_page(db, models))
        paths = _ways_in(db, facts, len(raters))
        stage = Stage(db, twin.study.arms, world, _arms_of_keys(twin))
        with bar("rehearsal") as progress:
            _all(url, facts, paths, stage, raters, at_once, progress)
    store_owner_acts.set_state(db, "close", ACTOR)


@contextlib.contextmanager
def _page(db: Path, models: Handle | None) -> Iterator[str]:
    """The real web process on a free port; yields its address. It enters whoever joins as simulated."""
    order: dict[str, Any] = {"db": str(db.absolute()), "host": "127.0.0.1", "port": 0, "root_path": ""}
    order["kind"] = "simulated"
    if models is not None:
        order |= {"address": models.address, "secret": models.secret}
    process = child.start("studyapp", order)
    try:
        told = next(child.lines(process), {"error": "the rating page did not start", "hint": "see its messages above"})
        if "error" in told:
            raise RunError(told["error"], hint=told["hint"])
        yield told["ready"]
    finally:
        child.end(process)


def _ways_in(db: Path, facts: "Study", raters: int) -> list[str]:
    """Where each rater joins: the open page, or an invitation of their own."""
    from studyapp import store_owner_acts

    if facts.open_join:
        return ["/join"] * raters
    most = store_owner_acts.MAX_INVITES
    tokens: list[str] = []
    while len(tokens) < raters:
        tokens += store_owner_acts.invite(db, min(most, raters - len(tokens)), ACTOR, "rehearsal")
    return [f"/join/{token}" for token in tokens]


def _arms_of_keys(twin: Run) -> dict[str, str]:
    from harness.blinding import arm_keys

    return {key: arm for arm, key in arm_keys(twin.dir.blinding, twin.study.arms).items()}


def _all(
    url: str,
    facts: "Study",
    paths: list[str],
    stage: Stage,
    raters: list[Simulated],
    at_once: int,
    progress: Callable[[int, int, str], None],
) -> None:
    """All raters: they join in their order, so that the same seed gives the same study; then they rate side by side."""
    stop, done, lock = threading.Event(), [0], threading.Lock()
    visitors = [
        Visitor(url, f"rater{rater.number}", panels=facts.panels, live=facts.live, stop=stop) for rater in raters
    ]
    total = len(raters) * facts.items

    def page_done(pages: int = 1) -> None:
        with lock:
            done[0] += pages
            progress(done[0], total, f"{len(raters)} simulated raters")

    pool = ThreadPoolExecutor(at_once)
    try:
        for visitor, path in zip(visitors, paths, strict=True):
            visitor.join(path)
        ids = stage.rater_ids()
        futures = [
            pool.submit(go, visitor, rater, stage, row, facts.items, page_done)
            for visitor, rater, row in zip(visitors, raters, ids, strict=True)
        ]
        for future in as_completed(futures):
            with contextlib.suppress(StoppedError):
                future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        for visitor in visitors:
            visitor.close()


def _report(twin: Run, facts: dict[str, Any]) -> Path:
    """The report of the rehearsal: the one that people's ratings would give, marked on every page."""
    from reports.rehearsal import write_rehearsal

    with bar("report") as progress:
        progress(0, 0, "reading the rehearsal, drawing figures")
        return write_rehearsal(twin.dir, facts)[0]
