"""A run directory -> everything the report is made of. Unblinding happens here and nowhere else."""

import contextlib
import json
import sqlite3
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.errors import RunError
from harness.records import Answer, read_jsonl
from harness.rundir import RunDir, read_manifest
from reports.items import Frame, read_frames
from reports.tidy import MEASURES, Tidy, make_tidy

KINDS = ("person", "judge", "simulated")
NO_SUITES = ("costs.json", "contamination.json", "manifest.json")


@dataclass(frozen=True)
class Source:
    """What a run directory holds for its report; parts that are not there yet are empty.

    `arms` begins with the teacher; `pools` names the pool of every arm that is one seed of several; `ratings` maps a
    kind of rater to its tidy ratings, never pooled; `scores`, `frames` (their items), `overlaps` (with the training
    corpus), `costs`, `training` and `manifests` are keyed by arm (manifests also by 'answers'). `grid` is in g of CO2
    per kWh, `price` in money per hour, where the study states them.
    """

    name: str
    arms: tuple[str, ...]
    controls: dict[str, str] = field(default_factory=dict)
    pools: dict[str, str] = field(default_factory=dict)
    margin: float = 0.90
    mode: str = "fixed"
    seed: int = 0
    purpose: str | None = None
    licence: str | None = None
    ratings: dict[str, Tidy] = field(default_factory=dict)
    dates: dict[str, tuple[str, str]] = field(default_factory=dict)
    state: str | None = None
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
    def teacher(self) -> str:
        return self.arms[0]

    @property
    def students(self) -> tuple[str, ...]:
        """The students that are no control first, since the report is about them."""
        rest = self.arms[1:]
        return (*(arm for arm in rest if arm not in self.controls), *(arm for arm in rest if arm in self.controls))


def load(root: Path) -> Source:
    """Read a run directory. Raises RunError for one without a study, or with ratings that cannot be attributed."""
    run = RunDir(root)
    study = _study(run.study)
    teacher = study.get("teacher", {}).get("name", "teacher")
    students = [student for student in study.get("student", []) if isinstance(student, dict)]
    arms = (teacher, *(str(student["name"]) for student in students))
    ratings, dates = _ratings(run, teacher)
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
        margin=float(study.get("report", {}).get("margin", 0.90)),
        mode=str(study.get("rate", {}).get("mode", "fixed")),
        seed=int(study.get("seed", 0)),
        purpose=study.get("purpose"),
        licence=study.get("teacher", {}).get("licence"),
        ratings=ratings,
        dates=dates,
        state=_state(run.db),
        scores={arm: bench[0] for arm, bench in benches.items()},
        frames={arm: bench[1] for arm, bench in benches.items()},
        overlaps={arm: _json(run.bench(arm) / "contamination.json") or {} for arm in arms},
        costs={arm: _json(run.bench(arm) / "costs.json") or {} for arm in arms},
        grid=table.get("grid_g_per_kwh"),
        price=table.get("price_per_hour"),
        training={arm: _metrics(run.arm(arm) / "metrics.jsonl") for arm in arms},
        manifests={**manifests, **({"answers": {"answers": answers_manifest}} if answers_manifest else {})},
        answers=tuple(read_jsonl(answers, Answer)) if answers.exists() else (),
        goals=_goals(run.db),
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


@contextlib.contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection | None]:
    """study.db for reading, None where there is none. The rating page may be writing meanwhile."""
    if not path.exists():
        yield None
        return
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def _query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with _read_only(path) as connection:
        if connection is None:
            return []
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # a database that is still empty
                return []
            raise RunError(f"{path} cannot be read: {error}", hint="try again in a moment") from None
        except sqlite3.DatabaseError as error:
            raise RunError(f"{path} is damaged: {error}", hint="restore it from a copy") from None


def _state(path: Path) -> str | None:
    rows = _query(path, "SELECT state FROM study")
    return str(rows[0][0]) if rows else None


def _goals(path: Path) -> dict[str, str]:
    return {str(row[0]): str(row[1]) for row in _query(path, "SELECT id, goal FROM scenario")}


def _ratings(run: RunDir, teacher: str) -> tuple[dict[str, Tidy], dict[str, tuple[str, str]]]:
    """Ratings of each kind with arm names in place of arm keys, and the times of the first and the last."""
    rows = _query(
        run.db,
        "SELECT kind, rater, scenario, category, arm_key, position, satisfaction, goal_achievement, created_at"
        " FROM tidy_ratings ORDER BY rater, position, scenario, arm_key",
    )
    if not rows:
        return {}, {}
    blinding = _json(run.blinding)
    if blinding is None or not isinstance(blinding.get("arms"), dict):
        raise RunError(
            f"{run.db} holds {len(rows)} ratings, but {run.blinding.name} is missing",
            hint="restore it from a copy: without it no rating can be attributed",
        )
    names: dict[str, str] = blinding["arms"]
    unknown = sorted({row[4] for row in rows} - set(names))
    if unknown:
        raise RunError(
            f"{run.db} rates an arm key that {run.blinding.name} does not know: {unknown[0]}",
            hint="the two files belong to different runs; restore the pair",
        )
    found, dates = {}, {}
    for kind in KINDS:
        chosen = [row for row in rows if row[0] == kind]
        if not chosen:
            continue
        columns = list(zip(*chosen, strict=True))
        found[kind] = make_tidy(
            columns[1],
            columns[2],
            [names[key] for key in columns[4]],
            dict(zip(MEASURES, columns[6:8], strict=True)),
            teacher=teacher,
            category=columns[3],
            position=columns[5],
            time=columns[8],
        )
        times = sorted(str(time) for time in columns[8] if time)
        dates[kind] = (times[0], times[-1]) if times else ("", "")
    return found, dates
