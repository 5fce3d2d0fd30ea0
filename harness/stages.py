"""From a study to its run directory: which stages there are, in which order, and what each is made of.

Every function here skips what is finished. Nothing heavy is imported until a stage has work to do, so that a run
whose stages are all finished is through in a second.
"""

import contextlib
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import MADE_HERE, Student, Study, Train
from harness.errors import ConfigError, RunError
from harness.lineage import in_order, start_arm, teacher_of
from harness.models.families import chats
from harness.progress import bar, duration, leads, say
from harness.records import Scenario, read_jsonl, write_atomic
from harness.resources import resolve_file
from harness.rundir import RunDir, Stage, digest, now, read_manifest, sha256_file
from harness.study_file import load_study

if TYPE_CHECKING:
    from harness.train.stage import Job


@dataclass(frozen=True)
class Run:
    """A study together with its run directory."""

    study: Study
    dir: RunDir

    @cached_property
    def teacher_dir(self) -> Path:
        """The teacher's model directory. Raises RunError for one that is trained here and is not finished yet."""
        from harness.models.sources import resolve_model

        if self.study.teacher.train is not None:
            return self.trained(self.study.teacher.name, "teacher")
        return resolve_model(self.study.teacher.source, Path.cwd(), self.study.teacher.sha256)

    @cached_property
    def scenarios(self) -> list[Scenario]:
        scenarios = read_jsonl(resolve_file(self.study.rate.scenarios, Path.cwd()), Scenario)
        if not scenarios:
            raise ConfigError(f"{self.study.rate.scenarios} holds no scenario", hint="write at least one")
        return scenarios

    @property
    def prepared(self) -> list[Scenario]:
        """The scenarios to which arms prepare answers: all that raters do not chat about live."""
        return [one for one in self.scenarios if (one.mode or self.study.rate.mode) != "live"]

    def model_dir(self, arm: str) -> Path:
        """The model directory of an arm. Raises RunError for a student that is not trained yet."""
        if arm == self.study.teacher.name:
            return self.teacher_dir
        student = self.student(arm)
        if student.source:
            from harness.models.sources import resolve_model

            return resolve_model(student.source, Path.cwd(), student.sha256)
        return self.trained(arm, "student")

    def start_dir(self, student: Student) -> Path:
        """The model directory that a student goes on from: another arm's, or that of a model of its own."""
        from harness.models.sources import resolve_model

        arm = start_arm(student)
        return resolve_model(student.start, Path.cwd()) if arm is None else self.model_dir(arm)

    def trained(self, arm: str, role: str) -> Path:
        """The model directory of an arm that is trained here. Raises RunError when that is not done yet."""
        path = self.dir.arm(arm) / "model"
        if not (self.dir.arm(arm) / "manifest.json").is_file() or not path.is_dir():
            raise RunError(f"the {role} {arm!r} is not trained yet", hint="run: viva train STUDY")
        return path

    def model_digest(self, arm: str) -> str:
        """What identifies an arm's weights; a trained student's hashes stand in its manifest already."""
        from harness.models.sources import model_digest

        path = self.model_dir(arm)
        manifest = read_manifest(self.dir.arm(arm) / "manifest.json")
        if manifest and path.parent == self.dir.arm(arm) and manifest.get("status") == "finished":
            return digest(manifest["outputs"])
        return model_digest(path)

    def student(self, name: str) -> Student:
        for student in self.study.student:
            if student.name == name:
                return student
        raise ConfigError(f"the study has no student {name!r}", hint=f"its arms are {', '.join(self.study.arms)}")


def open_run(study_path: Path, run_path: Path | None = None) -> Run:
    """The run of a study file, or of a run directory given in its place.

    Writes the resolved study.toml. Raises RunError for a directory that belongs to another study.
    """
    if study_path.is_dir():
        if not (study_path / "study.toml").is_file():
            raise RunError(f"{study_path} is not a run directory: it has no study.toml", hint="name a study file")
        run_path, study_path = study_path, study_path / "study.toml"
    study = load_study(study_path)
    run = RunDir(run_path or Path("runs") / study.name)
    text = study.to_toml()
    if run.study.is_file():
        earlier = load_study(run.study)
        if (earlier.name, earlier.teacher.source) != (study.name, study.teacher.source):
            raise RunError(
                f"{run.root} holds the run of another study: {earlier.name!r} with teacher {earlier.teacher.source}",
                hint="name another folder with --run, or another study",
            )
        if run.study.read_text(encoding="utf-8") == text:
            return Run(study, run)
    elif run.root.is_dir() and any(path.name[0] != "." for path in run.root.iterdir()):
        raise RunError(f"{run.root} is not empty and not a run directory", hint="name another folder with --run")
    try:
        run.root.mkdir(parents=True, exist_ok=True)
        write_atomic(run.study, text)
    except OSError as error:
        raise RunError(
            f"cannot write to {run.root}: {error.strerror}", hint="name another folder with --run"
        ) from error
    return Run(study, run)


def train_stage(run: Run, only: Sequence[str] = ()) -> None:
    """Train every model that is trained here and not finished, the teacher first, each student after those it needs.

    `only` names some students; what they need is trained with them.

    Several processes (accelerate launch) train together; the main process returns, the others end here.
    """
    for name in only:
        if run.student(name).source is not None:
            raise ConfigError(f"the student {name!r} has a source and no train", hint="there is nothing to train")
    from harness.models.sources import resolve_model
    from harness.train import parallel
    from harness.train.stage import Job, teacher_job

    def student_job(student: Student) -> Job:
        assert student.train is not None
        teacher_dir = run.model_dir(teacher_of(run.study, student).name)
        start_dir = None if student.start in MADE_HERE else run.start_dir(student)
        corpus = resolve_file(student.train.corpus, Path.cwd())
        return Job(run.study, student, teacher_dir, corpus, run.dir.root, start_dir)

    table = run.study.teacher
    if table.train is not None:
        corpus = resolve_file(table.train.corpus, Path.cwd())
        start = resolve_model(table.source, Path.cwd(), table.sha256) if table.source else None
        _train(run, teacher_job(run.study, corpus, run.dir.root, start))
    for student in in_order(run.study, only):
        if student.train is None:
            if student.quantize is not None:
                parallel.by_main(lambda student=student: _quantize(run, student))
            continue
        # In turn: what is fetched or converted is in the cache for the other processes.
        _train(run, parallel.in_turn(lambda student=student: student_job(student)))
    if run.study.task:
        from harness.models.encoder.tasks import task_jobs

        for arm in (table.name, *(only or run.study.arms[1:])):
            for make in task_jobs(run, arm):
                _train(run, parallel.in_turn(make))
    parallel.stop()


def _train(run: Run, job: "Job") -> None:
    from harness.train.stage import train_arm

    stage = job.stage(run.dir)
    with _shown(stage.name.replace("/", " ", 1), stage) as progress:
        if progress:
            with _failing(stage, now()):
                train_arm(job, stage, progress)


def _quantize(run: Run, student: Student) -> None:
    from harness.train.quantize_arm import quantize_arm, quantize_stage

    start = run.start_dir(student)
    stage = quantize_stage(student, start, run.dir)
    with _shown(f"quantize {student.name}", stage) as progress:
        if progress:
            with _failing(stage, now()):
                quantize_arm(run.study, student, start, stage)


def bench_stage(run: Run, only: Sequence[str] = ()) -> None:
    """Score every arm (or those named in `only`) on the study's suites, then measure what they cost, side by side.

    Raises RunError at the end where something failed for an arm; everything else is finished by then.
    """
    for arm in only:
        if arm != run.study.teacher.name:
            run.student(arm)
    shared: dict[str, Any] = {}
    broken: list[RunError] = []
    arms = [arm for arm in run.study.arms if not only or arm in only]
    for arm in arms:
        stage = Stage(f"bench/{arm}", run.dir.bench(arm), _bench_config(run), _bench_inputs(run, arm))
        try:
            with _shown(f"bench {arm}", stage) as progress:
                if progress:
                    _bench(run, arm, stage, progress, shared)
        except RunError as error:
            say(f"bench {arm}: {error.what}")
            broken.append(error)
    try:
        _costs(run, arms)
    except RunError as error:
        broken.append(error)
    if broken:
        what = "; ".join(dict.fromkeys(error.what for error in broken))
        raise RunError(what, hint=broken[0].hint) from broken[0]


COSTS = {"cost_rounds", "cost_prompts", "cost_batches", "cost_output", "grid_g_per_kwh", "price_per_hour"}


def _bench_config(run: Run) -> dict[str, Any]:
    return run.study.bench.model_dump(mode="json", exclude=COSTS) | {"system": run.study.system}


def _bench_inputs(run: Run, arm: str) -> dict[str, str]:
    from harness.bench.suite_files import suite_digest

    inputs = {"model": run.model_digest(arm), "teacher": run.model_digest(run.study.teacher.name)}
    corpus = bench_corpus(run.study)
    if corpus:
        inputs["corpus"] = sha256_file(corpus[1])
    trained = _trained_on(run, arm)
    if trained:
        inputs["trained on"] = sha256_file(trained[1])
    for task in run.study.task:
        manifest = read_manifest(run.dir.arm(arm) / "tasks" / task.name / "manifest.json") or {}
        inputs[f"task {task.name}"] = digest([manifest.get("outputs"), task.model_dump(mode="json")])
    return inputs | {f"suite {suite.name}": suite_digest(suite) for suite in run.study.bench.all_suites}


def bench_corpus(study: Study) -> tuple[Train, Path] | None:
    """The corpus whose held-out part `words` scores, and how it is read: that of the first student trained here."""
    for student in study.student:
        if student.train:
            return student.train, resolve_file(student.train.corpus, Path.cwd())
    return None


def _trained_on(run: Run, arm: str) -> tuple[Train, Path] | None:
    train = run.study.teacher.train if arm == run.study.teacher.name else run.student(arm).train
    return None if train is None else (train, resolve_file(train.corpus, Path.cwd()))


def _bench(run: Run, arm: str, stage: Stage, progress: Any, shared: dict[str, Any]) -> None:
    from harness.models.families import family_of
    from harness.tune import keep_big_blocks

    keep_big_blocks()
    started = now()
    with _failing(stage, started):
        stage.finish(family_of(run.study.family).bench(run, arm, stage, progress, shared), started)


def bench_texts(run: Run, arm: str, stage: Stage, progress: Any, shared: dict[str, Any]) -> list[Path]:
    """Score an arm that writes on the study's suites, and look for their items in its corpus; returns the files."""
    from harness.bench.job import study_job
    from harness.bench.stage import bench_arm
    from harness.bench.training_overlap import note_overlaps, texts_of, training_corpus

    models = digest([stage.inputs["model"], stage.inputs["teacher"]])
    job = study_job(run.study, stage.folder, run.model_dir(arm), run.teacher_dir, bench_corpus(run.study), key=models)
    outputs = bench_arm(job, progress, shared)
    if trained := _trained_on(run, arm):
        progress(0, 0, "looking for its items in the training corpus")
        outputs.append(note_overlaps(stage.folder, training_corpus(*trained), texts_of(job)))
    return outputs


def _costs(run: Run, arms: Sequence[str]) -> None:
    """What the arms cost, measured in turns beside the teacher; those whose costs are known are left out."""
    from harness.bench.costs import Settings, bench_costs

    table = run.study.bench
    names = dict.fromkeys([run.study.teacher.name, *arms])
    output = table.cost_output if chats(run.study.family) else 0
    settings = Settings(table.cost_prompts, table.cost_batches, output, table.cost_rounds, family=run.study.family)
    with bar("costs") as progress:
        bench_costs(
            {arm: run.dir.bench(arm) for arm in names},
            {arm: run.model_dir(arm) for arm in names},
            {arm: run.model_digest(arm) for arm in names},
            settings,
            progress,
        )


def answer_stage(run: Run) -> None:
    """Let every arm answer every scenario that raters do not chat about live."""
    from harness import answers

    if not chats(run.study.family):
        say(f"answer: models of family = {run.study.family!r} do not chat, so there is nothing to rate")
        return
    scenarios = run.prepared
    if not scenarios:
        say("answer: raters chat live about every scenario, so there is nothing to prepare")
        return
    models = {arm: run.model_dir(arm) for arm in run.study.arms}
    digests = {arm: run.model_digest(arm) for arm in run.study.arms}
    stage = answers.answer_stage(run.study, run.dir, scenarios, digests)
    with _shown("answer", stage) as progress:
        if progress:
            with _failing(stage, now()):
                answers.answer_all(run.study, stage, scenarios, models, progress)


def report_stage(run: Run, rate_command: str) -> Path:
    """Write the report from what the run directory holds now; returns the HTML file."""
    rate_command = rate_command if chats(run.study.family) else ""
    manifests = sorted(path for path in run.dir.root.glob("*/**/manifest.json") if run.dir.report not in path.parents)
    inputs = {str(path.relative_to(run.dir.root)): sha256_file(path) for path in [*manifests, run.dir.study]}
    costs = sorted(run.dir.root.glob("bench/*/costs.json"))
    inputs |= {str(path.relative_to(run.dir.root)): sha256_file(path) for path in costs}
    inputs["ratings"] = ratings_digest(run.dir.db)
    stage = Stage("report", run.dir.report, {"rate_command": rate_command}, inputs)
    html = run.dir.report / "report.html"
    with _shown("report", stage) as progress:
        if progress:
            progress(0, 0, "reading the run, drawing figures")
            started = now()
            stage.folder.mkdir(parents=True, exist_ok=True)
            with _failing(stage, started):
                stage.finish(_report(run, rate_command), started)
    return html


def _report(run: Run, rate_command: str) -> list[Path]:
    """Write the files of the report; a rehearsal keeps its marks."""
    if run.dir.rehearsal.exists():
        from reports.rehearsal import write_rehearsal

        return write_rehearsal(run.dir, json.loads(run.dir.rehearsal.read_text(encoding="utf-8")))
    from reports.render import write_report

    return write_report(run.dir, rate_command=rate_command)


REPORTED = (
    *("study", "assignment", "tidy_ratings", "tidy_repeats", "tidy_checks", "tidy_preferences", "tidy_guesses"),
    *("tidy_live", "tidy_judges", "tidy_verdicts"),
)
"""Tables and views of study.db that a report is made of."""


def ratings_digest(db: Path) -> str:
    """A hash of what study.db holds for a report, so that it is made anew only when some of that has changed."""
    if not db.exists():
        return "none"
    found = hashlib.sha256()
    with contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        for name in REPORTED:
            if name in there:
                rows = sorted(map(repr, connection.execute(f"SELECT * FROM {name}")))
                found.update("\n".join([name, *rows, ""]).encode())
    return found.hexdigest()


@contextlib.contextmanager
def _shown(title: str, stage: Stage) -> Iterator[Any]:
    """Announce a stage: yields None when it is finished already, else a progress callable."""
    done = stage.finished()
    if done:
        say(f"{title}: finished {done['finished']}")
        yield None
        return
    begun = time.monotonic()
    with bar(title) as progress:
        yield progress
    say(f"{title}: done in {duration(time.monotonic() - begun)}")


@contextlib.contextmanager
def _failing(stage: Stage, started: str) -> Iterator[None]:
    """Leave a manifest with the error when a stage fails."""
    try:
        yield
    except Exception as error:
        if leads():
            stage.fail(started, str(error))
        raise
