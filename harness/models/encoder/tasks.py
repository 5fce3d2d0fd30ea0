"""Fine-tuning every arm on every labelled task, by the one training loop: jobs, material, and the family of its models.

arms/<arm>/tasks/<task>/ holds a task's model like that of any training; of several stages the earlier ones stand
beside it as <task>-1, <task>-2.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import ARM, Student, Train
from harness.labelled import read_items
from harness.models.encoder import labels
from harness.models.encoder.augment import augmented
from harness.models.encoder.family import FAMILY as ENCODER
from harness.models.encoder.load import load_encoder, load_for_classes
from harness.models.families import Family
from harness.models.load import LoadedModel
from harness.models.sources import model_digest
from harness.progress import Report, say
from harness.resources import resolve_file
from harness.rundir import RunDir, Stage
from harness.task_table import Augment, Task, Tune
from harness.train.batches import Row
from harness.train.material import Material
from harness.train.objective import LAYER_TERMS, Objective
from harness.train.stage import Job

if TYPE_CHECKING:
    from harness.stages import Run

WATCHED = 64  # held-out texts that are looked at while it trains; bench scores all


@dataclass(frozen=True)
class TaskJob(Job):
    """One stage of one arm's fine-tuning on one task.

    `start_dir` is the arm's model, or that of the stage before; `teacher_dir` the fine-tuned teacher, where a term
    needs it; `writer_dir` the teacher's masked LM, where new texts are made.
    """

    arm: str = ""
    task: Task | None = None
    part: str = ""
    augment: Augment | None = None
    writer_dir: Path | None = None

    @property
    def family(self) -> Family:
        return FAMILY

    def stage(self, run: RunDir) -> Stage:
        base = super().stage(run)
        assert self.task is not None
        config = base.config | {"task": self.task.model_dump(mode="json", exclude={"data", "tokens", "lr", "terms"})}
        inputs = dict(base.inputs)
        if self.augment is not None and self.writer_dir is not None:
            config["augment"] = self.augment.model_dump(mode="json")
            inputs["writer"] = model_digest(self.writer_dir)
        return replace(
            base, name=f"train/{self.arm} on {self.part}", folder=folder_of(run, self.arm, self.part), config=config,
            inputs=inputs,
        )  # fmt: skip


def folder_of(run: RunDir, arm: str, part: str) -> Path:
    """Where a task's model of an arm lies, or one of its stages."""
    return run.arm(arm) / "tasks" / part


def parts_of(task: Task, tune: tuple[Tune, ...]) -> list[tuple[str, Tune]]:
    """The stages of an arm's fine-tuning with their names, the last one called as the task."""
    stages = list(tune) or [Tune()]
    names = [f"{task.name}-{number}" for number in range(1, len(stages))] + [task.name]
    return list(zip(names, stages, strict=True))


def task_jobs(run: "Run", arm: str) -> list[Any]:
    """Functions that make the jobs of an arm's fine-tuning, in order; each needs what those before it left."""
    tune = () if arm == run.study.teacher.name else run.student(arm).tune

    def job(task: Task, part: str, stage: Tune, before: str | None) -> TaskJob:
        train = train_of(task, stage)
        start = folder_of(run.dir, arm, before) / "model" if before else run.model_dir(arm)
        teacher = None
        if train.terms.weights.keys() - {"ce"}:
            teacher = folder_of(run.dir, run.study.teacher.name, task.name) / "model"
        seed = None if arm == run.study.teacher.name else run.student(arm).seed
        student = Student(name=f"{arm}-{part}", start=ARM + arm, train=train, seed=seed)
        corpus = resolve_file(task.data, Path.cwd())
        writer = run.teacher_dir if stage.augment else None
        return TaskJob(run.study, student, teacher, corpus, run.dir.root, start, arm, task, part, stage.augment, writer)

    found = []
    for task in run.study.task:
        before = None
        for part, stage in parts_of(task, tune):
            found.append(lambda task=task, part=part, stage=stage, before=before: job(task, part, stage, before))
            before = part
    return found


def train_of(task: Task, stage: Tune) -> Train:
    """How one stage trains: the task's settings with the stage's own in their place."""
    return Train(
        corpus=task.data,
        tokens=stage.tokens or task.tokens,
        terms=stage.terms or task.terms,
        lr=stage.lr or task.lr,
        warmup=task.warmup,
        decay="linear",
        final_lr=0.0,
        weight_decay=task.weight_decay,
        betas=(0.9, 0.999),
        row_tokens=task.row_tokens,
        accumulate=task.accumulate,
        evaluate_every=100,
        evaluate_chats=WATCHED,
        checkpoint_every=100,
    )


def prepare(job: TaskJob, progress: Report) -> tuple[LoadedModel, LoadedModel | None, Material, dict[str, Any]]:
    """The arm with a head of the task's classes, the fine-tuned teacher where a term needs it, and the texts."""
    assert job.task is not None
    assert job.start_dir is not None
    items = read_items(job.corpus, job.task)
    classes = len(items.classes)
    student = load_for_classes(job.start_dir, classes, job.own_seed("head"))
    longest = min(job.task.max_tokens, job.task.row_tokens, student.model.config.max_position_embeddings)
    documents, held_out = (
        labels.documents_of(student.tokenizer, some, longest) for some in (items.train, items.held_out)
    )
    how: dict[str, Any] = {"start": job.student.start, "classes": list(items.classes), "texts": len(documents)}
    if job.augment is not None:
        assert job.writer_dir is not None
        writer = load_encoder(job.writer_dir)
        new = augmented(documents, writer.model, writer.tokenizer, job.augment, job.own_seed("augment"), progress)
        how["new_texts"] = len(new)
        say(f"{job.student.name}: {len(new)} new texts beside {len(documents)}")
        documents = [*documents, *new]
    teacher = None
    if job.teacher_dir is not None:
        teacher = load_encoder(job.teacher_dir)
        for parameter in teacher.model.parameters():
            parameter.requires_grad_(False)
    how["parameters"] = student.model.num_parameters()
    return student, teacher, Material(documents, held_out), how


def objective(
    job: TaskJob,
    student: LoadedModel,
    teacher: LoadedModel | None,
    how: dict[str, Any],
    plan: list[list[Row]],
    stuff: Material,
    precision: str,
    progress: Report,
) -> tuple[Objective, dict[str, Any]]:
    from harness.train.stage import layer_terms

    layers = layer_terms(job, student, teacher, how) if set(LAYER_TERMS) & job.config.terms.weights.keys() else None
    made = Objective(job.config.terms, vocabulary=len(how["classes"]), chunk=0, precision=precision, layers=layers)
    return made, {"classes": how["classes"]}


FAMILY = replace(
    ENCODER,
    name="encoder with labels",
    prepare=prepare,
    objective=objective,
    held_out=labels.held_out,
    heads=lambda student, teacher, objective: (None, None),
    draw=labels.draw,
    backward=labels.backward,
    evaluate=labels.evaluate,
    merit=labels.merit,
)
