"""The train stage for one arm: build the model, train it, leave an ordinary model directory."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.chat import seed_for
from harness.config import MADE_HERE, Student, Study, Teacher, Train
from harness.errors import ConfigError, TrainingError
from harness.licences import check_licence
from harness.lineage import teacher_of, teachers_behind
from harness.models.families import Family, check_terms, family_of
from harness.models.fresh import fresh_model, train_tokenizer
from harness.models.load import LoadedModel, load_config_only, load_model, quiet_libraries
from harness.models.lora import adapt, merge
from harness.models.packed_weights import save_packed
from harness.models.pruning import make_student
from harness.models.quantize import seal, with_points
from harness.models.sources import model_digest
from harness.progress import Report, say
from harness.records import dump_json
from harness.resources import resolve_file, staging
from harness.rundir import RunDir, Stage, digest, now, sha256_file
from harness.texts import read_text_corpus
from harness.train import checkpoint, parallel
from harness.train.batches import Row, plan_digest, plan_steps
from harness.train.cached import Served, serve_from_cache
from harness.train.cross import Shared, shared_tokens
from harness.train.layers import LayerTerms
from harness.train.loop import Place, train
from harness.train.material import Material, material, text_material
from harness.train.objective import LAYER_TERMS, Objective, check_vocabularies, vocabulary_size
from harness.tune import keep_big_blocks

CALIBRATION_CHATS = 24  # documents of the training part on which importance is measured


@dataclass(frozen=True)
class Job:
    """What an arm's training is made of: part of the stage's key, so that any change trains anew.

    `teacher_dir` is None for the teacher that is trained here itself. `work` holds what students share: the cache of
    the teacher and its texts.
    """

    study: Study
    student: Student
    teacher_dir: Path | None
    corpus: Path
    work: Path
    start_dir: Path | None = None  # of a student that goes on from a model of its own, or from another arm

    @property
    def config(self) -> Train:
        assert self.student.train is not None
        return self.student.train

    def stage(self, run: RunDir) -> Stage:
        named = {"name", "source", "sha256", "licence", "control_of", "pool", "teacher"}  # who teaches is an input
        config = self.student.model_dump(mode="json", exclude=named)
        config["train"].pop("corpus")
        if self.student.quantize is None:
            config.pop("quantize")
        for habit in ("checkpoint_every", "track"):  # may change without changing what comes out
            config["train"].pop(habit)
        config |= {"seed": self.study.seed, "student_seed": self.student.seed, "system": self.study.system}
        inputs = {"corpus": sha256_file(self.corpus)}
        if self.teacher_dir:
            inputs["teacher"] = self.teacher_digest
        else:
            config["vocabulary"] = self.study.teacher.vocabulary
        if self.start_dir:
            inputs["start"] = model_digest(self.start_dir)
        explanations = self.config.terms.explanations
        if explanations is not None and explanations.weight:
            inputs["systems"] = sha256_file(resolve_file(explanations.systems, Path.cwd()))
        return Stage(f"train/{self.student.name}", run.arm(self.student.name), config, inputs)

    @property
    def teacher(self) -> Teacher:
        """Who teaches: the study's teacher, or another arm in its place."""
        return teacher_of(self.study, self.student)

    @property
    def family(self) -> Family:
        """What kind of models are trained."""
        return family_of(self.study.family)

    @property
    def teacher_digest(self) -> str:
        """What identifies the teacher: its files, and the server that answers for it where there is one."""
        assert self.teacher_dir is not None
        table = self.teacher
        files = model_digest(self.teacher_dir)
        return digest([files, table.endpoint, table.model]) if table.endpoint else files

    def own_seed(self, what: str) -> int:
        """A seed for one part of the training; arms with the same `seed` share it."""
        return seed_for(self.study.seed, what, *([self.student.seed] if self.student.seed is not None else []))


def teacher_job(study: Study, corpus: Path, work: Path, start_dir: Path | None = None) -> Job:
    """The job of a teacher that is trained: of random weights or from its source, with nobody to learn from."""
    table = study.teacher
    arm = Student(name=table.name, shape=table.shape, start=table.source or "scratch", train=table.train)
    return Job(study, arm, None, corpus, work, start_dir)


def train_arm(job: Job, stage: Stage, progress: Report) -> dict[str, Any]:
    """Train one arm and leave arms/<arm>/{model/, metrics.jsonl, manifest.json}; returns the manifest."""
    started = now()
    stage.folder.mkdir(parents=True, exist_ok=True)
    config = job.config
    tuned = keep_big_blocks()
    notes = licence_notes(job)
    progress(0, 0, "loading the teacher" if job.teacher_dir else "making a tokenizer and a model")
    family = job.family
    check_terms(family, config.terms.weights, job.student.name)
    if config.cache is not None and not family.cached:
        raise ConfigError(f"train.cache cannot serve family = {family.name!r}", hint="drop it: the teacher runs along")
    student, teacher, stuff, how = family.prepare(job, progress)
    table = job.student.quantize
    if table is not None and table.method == "points":
        student = LoadedModel(with_points(student.model, table), student.tokenizer)
    steps = plan_steps(
        stuff.documents,
        tokens=config.tokens,
        row_tokens=config.row_tokens,
        accumulate=config.accumulate,
        seed=job.own_seed("order"),
    )
    precision = choose_precision(config.precision)
    say(
        f"{job.student.name}: {how['parameters'] / 1e6:.1f}M parameters, {len(steps)} steps, {precision} forward"
        + (", allocator keeps big blocks" if tuned else "")
    )
    objective, facts = family.objective(job, student, teacher, how, steps, stuff, precision, progress)
    if config.gradient_checkpointing:
        student.model.activation_checkpointing_enable()
    summary = train(
        student.model,
        teacher.model if teacher and not job.teacher.endpoint else None,
        steps,
        stuff.held_out,
        config,
        objective,
        Place(stage.folder, stage.key),
        seed=job.own_seed("train"),
        end_of_turn=family.end(student.tokenizer),
        progress=progress,
        family=family,
        quantize=table,
    )
    parallel.unsplit(student.model)

    def finish() -> dict[str, Any]:
        model = merge(student.model) if config.lora else student.model
        model_dir = stage.folder / "model"
        coded = seal(model, table) if table is not None else {}
        family.save(LoadedModel(model, student.tokenizer), model_dir, model_card(job, how, summary, notes))
        if table is not None:
            how["quantized"] = save_packed(model, coded, table, model_dir)
        manifest = stage.finish(
            [*(path for path in model_dir.rglob("*") if path.is_file()), stage.folder / "metrics.jsonl"],
            started,
            student=how,
            licence_notes=notes,
            training={
                **summary,
                "precision": precision,
                "processes": parallel.world(),
                "plan": plan_digest(steps),
                "allocator_tuned": tuned,
                **facts,
            },
        )
        checkpoint.clear(stage.folder / "checkpoints")
        return manifest

    return parallel.by_main(finish)


def objective_of(
    job: Job,
    student: LoadedModel,
    teacher: LoadedModel | None,
    how: dict[str, Any],
    steps: list[list[Row]],
    stuff: Material,
    precision: str,
    progress: Report,
) -> tuple[Objective, dict[str, Any]]:
    """The objective of a model that writes, its cache filled, and what the manifest should know of it."""
    if teacher and not job.teacher.endpoint:  # from here on it is only read
        parallel.pack_teacher(teacher.model, precision, cached=job.config.cache is not None)
    served = serve(job, teacher, student, steps, stuff, precision, progress)
    objective = Objective(
        terms=job.config.terms,
        vocabulary=vocabulary_size((teacher or student).tokenizer),
        chunk=job.config.chunk_tokens,
        precision=precision,
        layers=layer_terms(job, student, teacher, how),
        cache=served.cache,
        shared=shared_of(job, student, teacher),
    )
    return objective, served.facts


def shared_of(job: Job, student: LoadedModel, teacher: LoadedModel | None) -> Shared | None:
    """Which tokens of two tokenizers the term uld compares by name; None without the term."""
    uld = job.config.terms.uld
    if teacher is None or uld is None or not uld.weight:
        return None
    return shared_tokens(student.tokenizer, teacher.tokenizer, uld.aligned)


def licence_notes(job: Job) -> list[str]:
    """What the teacher's licence has to say of this training. Raises ConfigError where it forbids it as it stands."""
    if job.teacher_dir is None:
        return []
    found = [check_licence(one.licence, job.study.purpose) for one in teachers_behind(job.study, job.student)]
    notes = list(dict.fromkeys(note for notes in found for note in notes))
    for note in notes:
        say(note)
    return notes


def prepare(job: Job, progress: Report) -> tuple[LoadedModel, LoadedModel | None, Material, dict[str, Any]]:
    """The untrained student, its teacher (None for the teacher itself), what it learns on, and how it was made."""
    config = job.config
    if job.teacher_dir is None:
        assert job.study.teacher.vocabulary is not None
        assert job.student.shape is not None
        texts, _ = read_text_corpus(job.corpus, config.text_column, config.group_column, config.texts)
        tokenizer = train_tokenizer((text.text for text in texts), job.study.teacher.vocabulary)
        student = fresh_model(tokenizer, job.student.shape, job.own_seed("start"))
        how = {"start": "scratch", "layers": job.student.shape.layers, "vocabulary": len(tokenizer)}
        how["parameters"] = sum(parameter.numel() for parameter in student.model.parameters())
        return student, None, text_material(job.corpus, config, tokenizer), how
    teacher = (load_config_only if job.teacher.endpoint else load_model)(job.teacher_dir)
    check_teacher_can(job)
    for parameter in teacher.model.parameters():
        parameter.requires_grad_(False)
    started = load_model(job.start_dir) if job.start_dir else None
    tokenizer = (started or teacher).tokenizer
    # The teacher writes its texts once, in the main process; the others read them.
    stuff = parallel.in_turn(
        lambda: material(
            job.corpus,
            config,
            tokenizer,
            teacher,
            job.teacher_digest,
            texts=job.work / "teacher-text",
            system=job.study.system,
            seed=job.study.seed,
            progress=progress,
        )
    )
    if started:
        student, how = started, {"start": job.student.start}
        how["parameters"] = sum(parameter.numel() for parameter in started.model.parameters())
    else:
        assert job.student.shape is not None
        rows = [document.ids for document in stuff.documents[:CALIBRATION_CHATS]]
        student, how = make_student(
            teacher, job.student.shape, job.student.start, rows, job.own_seed("start"), progress
        )
    if config.terms.weights.keys() & {"kd", "on_policy", *LAYER_TERMS}:
        check_vocabularies(teacher.tokenizer, student.tokenizer)
    if config.lora:
        if config.terms.weights.keys() == {"embedding"}:
            raise ConfigError("train.lora freezes the embeddings, and embedding is the only term", hint="add another")
        student = LoadedModel(adapt(student.model, config.lora, job.own_seed("adapters")), student.tokenizer)
        how["lora"] = config.lora.model_dump(mode="json")
    return student, teacher, stuff, how


def check_teacher_can(job: Job) -> None:
    """Raise ConfigError when a term needs the teacher's weights and only a server is there."""
    if not job.teacher.endpoint:
        return
    weights = job.config.terms.weights
    if job.student.start in MADE_HERE and job.student.start != "scratch":
        raise ConfigError(
            f'start = "{job.student.start}" needs the teacher\'s weights, and teacher.endpoint gives only its words',
            hint='take start = "scratch", or a source',
        )
    if "kd" in weights and job.config.cache is None:
        raise ConfigError(
            "a teacher at an endpoint is heard through a cache", hint="add [student.train.cache] with kind and k"
        )
    beyond = weights.keys() - {"ce", "kd"}
    if beyond:
        raise ConfigError(
            f"the terms {', '.join(sorted(beyond))} need the teacher's weights, and an endpoint gives only its words",
            hint="drop them, or give the teacher as a source",
        )


def serve(
    job: Job,
    teacher: LoadedModel | None,
    student: LoadedModel,
    steps: list[list[Row]],
    stuff: Material,
    precision: str,
    progress: Report,
) -> Served:
    """The filled cache of the teacher and the facts of its making; nothing where the study asks for none."""
    config = job.config
    if config.cache is None or teacher is None:
        return Served()
    if config.terms.kd is None or not config.terms.kd.weight:
        raise ConfigError("train.cache serves the term kd, and the objective has none", hint="drop one of both")
    return serve_from_cache(
        job.work / "teacher-cache",
        teacher,
        student,
        steps,
        stuff.held_out,
        config,
        teacher_digest=job.teacher_digest,
        table=job.teacher,
        seed=job.study.seed,
        precision=precision,
        progress=progress,
    )


def layer_terms(job: Job, student: LoadedModel, teacher: LoadedModel | None, how: dict[str, Any]) -> LayerTerms | None:
    """The layer-to-layer terms of the objective with their projections, None where there are none."""
    terms = job.config.terms
    if teacher is None or not any(name in terms.weights for name in LAYER_TERMS):
        return None
    return LayerTerms(student.model, teacher.model, terms, how.get("layers_kept"), job.own_seed("projections"))


def choose_precision(wanted: str) -> str:
    """The precision of the forward pass: 'auto' takes bfloat16 on processors that multiply it in hardware.

    The choice follows the processor's features, not a timing, so that a resumed run and a control take the same.
    """
    import torch

    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    features = torch.backends.cpu.get_cpu_capability()
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if features.startswith("AVX512") and capable else "float32"


def save_model(student: LoadedModel, target: Path, card: str) -> None:
    """Write a model directory that plain transformers opens, whole or not at all.

    Raises TrainingError when it cannot be written; the checkpoints stay.
    """
    from harness.errors import SourceError

    shutil.rmtree(target, ignore_errors=True)
    try:
        with staging(target, "saving the model") as part, quiet_libraries():
            student.model.save_pretrained(part)
            student.tokenizer.save_pretrained(part)
            (part / "README.md").write_text(card, encoding="utf-8")
    except SourceError as error:
        raise TrainingError(
            error.what, hint="make room and run the command again: it goes on at the last checkpoint"
        ) from error


def model_card(job: Job, how: dict[str, Any], summary: dict[str, Any], notes: list[str]) -> str:
    """README.md of a trained model: how it was made, from which teacher and under which licence."""
    teacher = job.teacher
    terms = dump_json(job.config.terms.model_dump(exclude_none=True))
    kept = f", teacher layers {how['layers_kept']}" if "layers_kept" in how else ""
    table = job.student.quantize
    bits = [f"- weights of {table.bits} bits, {table.scheme}; packed: packed/weights.safetensors"] if table else []
    lines = [
        f"- teacher: `{teacher.source}` (licence: {teacher.licence or 'not stated'})"
        if job.teacher_dir
        else f"- trained {'on from another model' if job.start_dir else 'from random weights'}, without a teacher",
        f"- parameters: {how['parameters']:,}; start: {how['start']}{kept}",
        f"- training: {summary['tokens']:,} tokens in {summary['steps']} steps",
        *bits,
        *(f"- {note}" for note in notes),
    ]
    return (
        f"# {job.student.name}\n\nA model of the study `{job.study.name}`, made with Viva.\n\n"
        + "\n".join(lines)
        + f"\n\nObjective:\n\n```json\n{terms}```\n"
    )
