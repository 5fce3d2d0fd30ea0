"""A run directory -> everything the report is made of. Unblinding happens here and nowhere else."""

import contextlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.models.families import CAUSAL_LM
from harness.records import Answer, read_jsonl
from harness.rundir import RunDir, read_manifest
from reports.database import KINDS, RATINGS, Database, Extras, Facts, tidy_of
from reports.items import Frame, read_frames
from reports.judge_records import Judging, read_judging
from reports.tidy import Tidy

NO_SUITES = ("costs.json", "contamination.json", "manifest.json")


@dataclass(frozen=True)
class Source:
    """What a run directory holds for its report; parts that are not there yet are empty.

    `arms` begins with the teacher; `pools` names the pool of every arm that is one seed of several; `chats` says
    whether the models write, so that people can rate them; `ratings` maps a kind of rater to its tidy ratings, never
    pooled, and `extras` to what else it was asked; `judging` holds model judges; `facts` are those of study.db, whose
    margin counts where it has one; `scores`, `frames` (their items), `overlaps` (with the training corpus), `costs`,
    `training` and `manifests` are keyed by arm (manifests also by 'answers'). `grid` is in g of CO2 per kWh, `price` in
    money per hour, where the study states them.
    """

    name: str
    arms: tuple[str, ...]
    controls: dict[str, str] = field(default_factory=dict)
    pools: dict[str, str] = field(default_factory=dict)
    margin: float = 0.90
    mode: str = "fixed"
    chats: bool = True
    seed: int = 0
    purpose: str | None = None
    licence: str | None = None
    ratings: dict[str, Tidy] = field(default_factory=dict)
    dates: dict[str, tuple[str, str]] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    extras: dict[str, Extras] = field(default_factory=dict)
    judging: Judging | None = None
    margin_in_file: float | None = None
    scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    frames: dict[str, list[Frame]] = field(default_factory=dict)
    overlaps: dict[str, dict[str, Any]] = field(default_factory=dict)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    grid: float | None = None
    price: float | None = None
    training: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: tuple[Answer, ...] = ()
    goals: dict[str, str] = field(default_factory=dict)
    looks: tuple[dict[str, Any], ...] = ()

    @property
    def state(self) -> str | None:
        return self.facts.state

    @property
    def teacher(self) -> str:
        return self.arms[0]

    @property
    def students(self) -> tuple[str, ...]:
        """The students that are no control first, since the report is about them."""
        rest = self.arms[1:]
        return (*(arm for arm in rest if arm not in self.controls), *(arm for arm in rest if arm in self.controls))


@dataclass(frozen=True)
class _Rated:
    """Ratings, dates of the first and the last, and what else was asked, by kind of rater."""

    ratings: dict[str, Tidy]
    dates: dict[str, tuple[str, str]]
    extras: dict[str, Extras]


def load(root: Path) -> Source:
    """Read a run directory. Raises RunError for one without a study, or with ratings that cannot be attributed."""
    run = RunDir(root)
    study = _study(run.study)
    teacher = study.get("teacher", {}).get("name", "teacher")
    students = [student for student in study.get("student", []) if isinstance(student, dict)]
    arms = (teacher, *(str(student["name"]) for student in students))
    in_file = study.get("report", {}).get("margin", 0.90)
    db = Database(run.db)
    facts = db.facts()
    rated = _ratings(run, db, facts, teacher)
    manifests = {arm: _manifests(run, arm) for arm in arms}
    table = study.get("bench", {})
    suites = [*table.get("suites", []), *(str(suite.get("name")) for suite in table.get("suite", []))]
    benches = {arm: bench_results(run.bench(arm), suites) for arm in arms}
    answers_manifest = read_manifest(run.answers / "manifest.json")
    answers = run.answers / "answers.jsonl"
    return Source(
        name=str(study.get("name", root.name)),
        arms=arms,
        controls={student["name"]: student["control_of"] for student in students if student.get("control_of")},
        pools={student["name"]: str(student["pool"]) for student in students if student.get("pool")},
        margin=float(in_file) if facts.margin is None else facts.margin,
        margin_in_file=float(in_file),
        mode=str(study.get("rate", {}).get("mode", "fixed")),
        chats=study.get("family", CAUSAL_LM) == CAUSAL_LM,
        seed=int(study.get("seed", 0)),
        purpose=study.get("purpose"),
        licence=study.get("teacher", {}).get("licence"),
        ratings=rated.ratings,
        dates=rated.dates,
        facts=facts,
        extras=rated.extras,
        judging=read_judging(db, _names(run), study),
        scores={arm: bench[0] for arm, bench in benches.items()},
        frames={arm: bench[1] for arm, bench in benches.items()},
        overlaps={arm: _json(run.bench(arm) / "contamination.json") or {} for arm in arms},
        costs={arm: _json(run.bench(arm) / "costs.json") or {} for arm in arms},
        grid=table.get("grid_g_per_kwh"),
        price=table.get("price_per_hour"),
        training={arm: _metrics(run.arm(arm) / "metrics.jsonl") for arm in arms},
        manifests={**manifests, **({"answers": {"answers": answers_manifest}} if answers_manifest else {})},
        answers=tuple(read_jsonl(answers, Answer)) if answers.exists() else (),
        goals=db.goals(),
        looks=tuple((_json(run.report / "report.json") or {}).get("looks", ())),
    )


def _study(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path.parent} is no run directory: it has no study.toml", hint="name one with --run") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}", hint="run viva run again to write it anew") from None


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}", hint="delete it and run its stage again") from None
    return value if isinstance(value, dict) else None


def _manifests(run: RunDir, arm: str) -> dict[str, Any]:
    found = {
        "train": read_manifest(run.arm(arm) / "manifest.json"),
        "bench": read_manifest(run.bench(arm) / "manifest.json"),
    }
    return {stage: manifest for stage, manifest in found.items() if manifest}


def bench_results(folder: Path, suites: Sequence[str] = ()) -> tuple[list[dict[str, Any]], list[Frame]]:
    """Scores of an arm and their items in the study's order of suites; what the study does not name comes last."""
    place = {Path(suite).stem if "/" in suite else str(suite): at for at, suite in enumerate(suites)}
    scores: list[dict[str, Any]] = []
    frames: list[Frame] = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (place.get(path.stem, len(place)), path.stem)):
        if path.name not in NO_SUITES:
            results = _json(path) or {}
            scores += [_with_settings(score, results) for score in results.get("viva", {}).get("scores", [])]
            frames += read_frames(results, folder / f"samples_{path.stem}.jsonl", path.stem)
    return scores, frames


def _with_settings(score: dict[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """A score of a text with how the text was read: documents, tokens, context, stride."""
    config = (results.get("configs") or {}).get(score["suite"]) or {}
    part = next((name for name, one in config.items() if isinstance(one, dict) and "documents" in one
                 and score["metric"].startswith(f"{name}_")), None)  # fmt: skip
    settings = config.get(part) if part else config if score["metric"].startswith("text_") else None
    kept = ("text", "documents", "tokens", "context", "window", "stride")
    return {**score, "settings": {key: settings[key] for key in kept if key in settings}} if settings else score


def _metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a training log; a last line cut short by a kill is no error."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict) and "step" in line]


def _names(run: RunDir) -> dict[str, str]:
    """Arm key -> name of the arm; empty where nothing is blinded yet."""
    return dict((_json(run.blinding) or {}).get("arms") or {})


def _ratings(run: RunDir, db: Database, facts: Facts, teacher: str) -> _Rated:
    """Ratings of each kind with arm names in place of arm keys, and the times of the first and the last."""
    rows = db.ratings()
    names = _names(run)
    if not rows:
        return _Rated({}, {}, db.extras(names) if names else {})
    if not names:
        raise RunError(
            f"{run.db} holds {len(rows)} ratings, but {run.blinding.name} is missing",
            hint="restore it from a copy: without it no rating can be attributed",
        )
    key = RATINGS.index("arm_key")
    unknown = sorted({row[key] for row in rows} - set(names))
    if unknown:
        raise RunError(
            f"{run.db} rates an arm key that {run.blinding.name} does not know: {unknown[0]}",
            hint="the two files belong to different runs; restore the pair",
        )
    extras = db.extras(names)
    found, dates = {}, {}
    languages = dict(db.query("SELECT label, language FROM rater")) if "language" in db.columns("rater") else {}
    for kind in KINDS:
        chosen = [row for row in rows if row[0] == kind]
        if not chosen:
            continue
        tidy = tidy_of(chosen, names, teacher, facts.mode or "fixed", languages, facts.language)
        found[kind] = replace(tidy, marks=db.marked(tidy, kind, extras.get(kind, Extras()), facts.self_words))
        times = sorted(str(row[RATINGS.index("created_at")]) for row in chosen if row[RATINGS.index("created_at")])
        dates[kind] = (times[0], times[-1]) if times else ("", "")
    return _Rated(found, dates, extras)
