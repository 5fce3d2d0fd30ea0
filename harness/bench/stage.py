"""The bench stage for one arm: every suite, each finished file kept when the rest fails or is stopped."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench import words
from harness.bench.backends import attach, backend_arguments, check_backend, check_chat_template, make_lm
from harness.bench.documents import read_chats, read_documents
from harness.bench.job import Job
from harness.bench.resume import Kept
from harness.bench.suite_files import own_files
from harness.bench.suites import Suite, first_line, load_suite
from harness.benchmarks import OF_TEXTS, RESERVED, WORDS, SuiteTable
from harness.errors import ConfigError, RunError
from harness.models.load import LoadedModel, load_model
from harness.records import Chat, dump_json, write_atomic
from harness.rundir import sha256_file
from harness.texts import Text

Report = Callable[[int, int, str], None]
Shared = dict[str, Suite]
"""Loaded suites by name, for the next arm: they depend on the study alone."""


@dataclass
class _Arm:
    """The arm's models, each loaded when it is first needed."""

    job: Job
    say: Callable[[str], None]

    @functools.cached_property
    def student(self) -> LoadedModel:
        return load_model(self.job.model_dir, only_read=True)

    @functools.cached_property
    def teacher(self) -> LoadedModel | None:
        teacher_dir = self.job.teacher_dir
        if teacher_dir is None or teacher_dir.resolve() == self.job.model_dir.resolve():
            return self.student if teacher_dir else None
        return load_model(teacher_dir, only_read=True)

    @functools.cached_property
    def args(self) -> dict[str, Any]:
        job = self.job
        if job.backend == "viva":
            return {"dtype": "float32"}
        return backend_arguments(job.backend, job.backend_args, job.model_dir, job.folder.name)

    @functools.cached_property
    def lm(self) -> Any:
        return make_lm(self.job.backend, self.args, lambda: self.student, seed=self.job.seed, say=self.say)

    def load(self, tables: Sequence[SuiteTable]) -> None:
        """Load what the suites need: a model that cannot be loaded breaks more than a suite."""
        for table in tables:
            _ = self.student if self.job.local(table) else self.lm


def bench_arm(job: Job, progress: Report | None = None, shared: Shared | None = None) -> list[Path]:
    """Benchmark one arm and leave the files in its folder; returns their paths.

    Writes for each suite `<suite>.json` and `samples_<suite>.jsonl`, the JSON last: it says that
    the suite is finished. A suite of tasks goes on at the item at which it was stopped. `progress(done, total, note)`
    counts items over everything that is left to do.

    Raises ConfigError at once for suites that do not exist or cannot be asked of this model, and RunError at the end
    when a suite or a task failed, naming it; everything else is finished by then.
    """
    _distinct(job.suites)
    check_backend(job.backend)
    report = progress or (lambda done, total, note: None)
    broken: dict[str, Exception] = {}
    todo = [table for table in job.suites if not _finished(job.results(table), job.key_of(table))]
    shared = {} if shared is None else shared
    sizes: dict[str, int] = {}
    for table in todo:
        report(0, 1, f"loading {table.name}")
        if table.chat_template:
            check_chat_template(Path(job.backend_args.tokenizer or job.model_dir), table.name)
        try:
            sizes[table.name] = _size(job, table, shared)
        except ConfigError:
            raise
        except Exception as error:
            broken[table.name] = error
    job.folder.mkdir(parents=True, exist_ok=True)
    _run(job, [table for table in todo if table.name in sizes], sizes, shared, report, broken)
    if broken:
        raise _incomplete(job.folder.name, broken)
    return list(_outputs(job))


def _distinct(suites: Sequence[SuiteTable]) -> None:
    names = [table.name for table in suites]
    for name in names:
        if names.count(name) > 1 or name in RESERVED:
            raise ConfigError(f"two results would be called {name}", hint="rename one of the suites")


def _size(job: Job, table: SuiteTable, shared: Shared) -> int:
    """Load a suite and say how many items or documents it has."""
    limit = job.limit_of(table)
    if table.what == WORDS:
        return job.held.first(limit).size
    if table.texts:
        return len(_chats(job, table) or _texts(job, table))
    if table.name not in shared:
        shared[table.name] = load_suite(table, job.base, trust_code=job.trust_code)
    return shared[table.name].size(limit)


def _chats(job: Job, table: SuiteTable) -> list[Chat]:
    """The chats of a suite of texts whose file holds chats; none for any other."""
    chats = read_chats(job.base / str(table.texts))
    if chats and (idle := table.given & set(OF_TEXTS)):
        raise ConfigError(f"{min(idle)} does nothing with the chats of {table.texts}", hint="leave it out")
    if chats and not job.local(table):
        raise ConfigError(
            f"backend = {job.backend!r} reads no chats, and {table.texts} holds chats", hint='take backend = "viva"'
        )
    return chats[: job.limit_of(table)]


def _texts(job: Job, table: SuiteTable) -> list[Text]:
    path = job.base / str(table.texts)
    return read_documents(path, table.split, table.text_column, table.group_column)[: job.limit_of(table)]


def _run(
    job: Job,
    tables: Sequence[SuiteTable],
    sizes: dict[str, int],
    shared: Shared,
    report: Report,
    broken: dict[str, Exception],
) -> None:
    """Run the suites one after another; what fails goes to `broken`."""
    notes: list[str] = []
    arm = _Arm(job, notes.append)
    total, before = max(1, sum(sizes.values())), 0
    arm.load(tables)
    for place, table in enumerate(tables):
        size = sizes[table.name]

        def on_done(done: int, requests: int, size: int = size, before: int = before, name: str = table.name) -> None:
            report(before + size * done // max(1, requests), total, notes[-1] if notes else name)

        before += size
        notes.clear()
        try:
            results, samples, failed = _outcome(job, table, arm, shared, on_done)
        except Exception as error:  # one broken suite among many: the others finish
            broken[table.name] = error
            continue
        broken |= {f"{table.name}, {task}": error for task, error in failed.items()}
        results["viva"] |= {"key": "" if failed else job.key_of(table), "notes": list(notes), "seed": job.seed}
        results["viva"] |= {"broken": {task: _reason(error) for task, error in failed.items()}} if failed else {}
        results["viva"]["files"] = {path.name: sha256_file(path) for path in own_files(table, job.base)}
        lines = (json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in samples)
        write_atomic(job.samples(table), "".join(lines))
        _write(job.results(table), results)
        if not failed:
            job.answers(table).unlink(missing_ok=True)
        if not any(map(job.local, tables[place + 1 :])):
            arm.__dict__.pop("teacher", None)  # nobody asks for it again, and it may be large


def _outcome(
    job: Job, table: SuiteTable, arm: _Arm, shared: Shared, on_done: Callable[[int, int], None]
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Exception]]:
    """(results, samples, what broke by task) of one suite."""
    if table.what == WORDS:
        held = job.held.first(job.limit_of(table))
        student, teacher = arm.student, arm.teacher if held.chats or held.texts else None
        return *words.run_words(held, student, teacher, on_done), {}
    if table.texts and (chats := _chats(job, table)):
        return *words.run_chats(table, chats, arm.student, arm.teacher, on_done), {}
    if table.texts and job.local(table):
        return *words.run_texts(table, _texts(job, table), arm.student, arm.teacher, on_done), {}
    attach(arm.lm, Kept(job.answers(table), job.key_of(table)), on_done)
    if table.texts:
        return *words.run_texts_by(table, _texts(job, table), arm.lm), {}
    from harness.bench.tasks import run_tasks

    suite = shared[table.name]
    model = {"name": job.folder.name, "backend": job.backend, "args": arm.args}
    results, samples, failed = run_tasks(arm.lm, suite, job.limit_of(table), model)
    results["viva"]["truncated"] = arm.lm.truncated
    return results, samples, {**suite.broken, **failed}


def _incomplete(name: str, broken: dict[str, Exception]) -> RunError:
    reasons = "; ".join(f"{what}: {_reason(error)}" for what, error in broken.items())
    hints = [hint for error in broken.values() if (hint := getattr(error, "hint", None))]
    rest = "everything else is finished and kept; run the command again to repeat only what failed"
    error = RunError(
        f"the bench of {name} is not complete. {reasons}", hint="\n  -> ".join([*dict.fromkeys(hints), rest])
    )
    error.__cause__ = next(iter(broken.values()))
    return error


def _reason(error: Exception) -> str:
    return str(getattr(error, "what", None) or first_line(error))


def _finished(path: Path, key: str) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return bool(found["viva"]["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(path: Path, value: dict[str, Any]) -> None:
    write_atomic(path, dump_json(value))


def _outputs(job: Job) -> Iterator[Path]:
    for table in job.suites:
        yield from (job.results(table), job.samples(table))
