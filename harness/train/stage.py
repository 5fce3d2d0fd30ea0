"""The train stage for one arm: build the student, train it, leave an ordinary model directory."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.chat import seed_for
from harness.config import Student, Study
from harness.corpus import read_corpus
from harness.errors import TrainingError
from harness.models.chat_format import encode_document
from harness.models.load import LoadedModel, load_model, quiet_libraries
from harness.models.sources import model_digest
from harness.models.students import (
    block_influence,
    check_shape,
    decoder_layers,
    from_layers,
    layers_by_rule,
    most_influential,
    scratch,
)
from harness.progress import Report, say
from harness.records import dump_json
from harness.resources import staging
from harness.rundir import RunDir, Stage, now, sha256_file
from harness.train import checkpoint
from harness.train.batches import Document, plan_digest, plan_steps
from harness.train.loop import train
from harness.train.objective import check_vocabularies, vocabulary_size
from harness.tune import keep_big_blocks

CALIBRATION_CHATS = 24  # chats of the training part on which block influence is measured


@dataclass(frozen=True)
class Job:
    """What a student's training is made of: part of the stage's key, so that any change trains anew."""

    study: Study
    student: Student
    teacher_dir: Path
    corpus: Path
    start_dir: Path | None = None  # of a student that goes on from a model of its own

    def stage(self, run: RunDir) -> Stage:
        config = self.student.model_dump(mode="json", exclude={"name", "source", "sha256", "control_of"})
        config["train"].pop("corpus")
        for habit in ("checkpoint_every",):  # may change without changing what comes out
            config["train"].pop(habit)
        config |= {"seed": self.study.seed, "system": self.study.system}
        inputs = {"teacher": model_digest(self.teacher_dir), "corpus": sha256_file(self.corpus)}
        if self.start_dir:
            inputs["start"] = model_digest(self.start_dir)
        return Stage(f"train/{self.student.name}", run.arm(self.student.name), config, inputs)


def train_arm(job: Job, stage: Stage, progress: Report) -> dict[str, Any]:
    """Train one student and leave arms/<arm>/{model/, metrics.jsonl, manifest.json}; returns the manifest."""
    started = now()
    stage.folder.mkdir(parents=True, exist_ok=True)
    config = job.student.train
    assert config is not None
    tuned = keep_big_blocks()
    progress(0, 0, "loading the teacher")
    teacher = load_model(job.teacher_dir)
    for parameter in teacher.model.parameters():
        parameter.requires_grad_(False)
    chats, held_out_chats = read_corpus(job.corpus)
    documents = [encode_document(teacher.tokenizer, chat, job.study.system) for chat in chats]
    held_out = [encode_document(teacher.tokenizer, chat, job.study.system) for chat in held_out_chats]
    student, how = build_student(job, teacher, documents, progress)
    check_vocabularies(teacher.tokenizer, student.tokenizer)
    steps = plan_steps(
        documents,
        tokens=config.tokens,
        row_tokens=config.row_tokens,
        accumulate=config.accumulate,
        seed=seed_for(job.study.seed, "order"),
    )
    precision = choose_precision(config.precision)
    say(
        f"{job.student.name}: {how['parameters'] / 1e6:.0f}M parameters, {len(steps)} steps, {precision} forward"
        + (", allocator keeps big blocks" if tuned else "")
    )
    summary = train(
        student.model,
        teacher.model,
        steps,
        held_out,
        config,
        folder=stage.folder,
        key=stage.key,
        seed=seed_for(job.study.seed, "train"),
        precision=precision,
        vocabulary=vocabulary_size(teacher.tokenizer),
        progress=progress,
    )
    model_dir = stage.folder / "model"
    save_model(student, model_dir, model_card(job, how, summary))
    manifest = stage.finish(
        [*model_dir.iterdir(), stage.folder / "metrics.jsonl"],
        started,
        student=how,
        training={**summary, "precision": precision, "plan": plan_digest(steps), "allocator_tuned": tuned},
    )
    checkpoint.clear(stage.folder / "checkpoints")
    return manifest


def build_student(
    job: Job, teacher: LoadedModel, documents: list[Document], progress: Report
) -> tuple[LoadedModel, dict[str, Any]]:
    """The untrained student and the facts of its making (layers kept, measured influence, parameters)."""
    how: dict[str, Any] = {"start": job.student.start}
    if job.start_dir:
        student = load_model(job.start_dir)
    else:
        assert job.student.shape is not None
        layers = job.student.shape.layers
        check_shape(teacher, layers)
        if job.student.start == "scratch":
            student = scratch(teacher, layers, seed_for(job.study.seed, "start"))
        elif job.student.start == "teacher-layers":
            have = len(decoder_layers(teacher.model))
            how["layers_kept"] = layers_by_rule(have, layers, job.student.shape.keep or "even")
            student = from_layers(teacher, how["layers_kept"])
        else:
            rows = [ids for ids, _ in documents[:CALIBRATION_CHATS]]
            note = "measuring block influence, chat {} of " + str(len(rows))
            influence = block_influence(teacher, rows, lambda done: progress(0, 0, note.format(done + 1)))
            kept = most_influential(influence, layers)
            how |= {"layers_kept": kept, "block_influence": influence}
            student = from_layers(teacher, kept)
    how["layers"] = len(decoder_layers(student.model))
    how["parameters"] = sum(parameter.numel() for parameter in student.model.parameters())
    return student, how


def choose_precision(wanted: str) -> str:
    """The precision of the forward pass: 'auto' takes bfloat16 on processors that multiply it in hardware.

    The choice follows the processor's features, not a timing, so that a resumed run and a control take the same.
    """
    import torch

    if wanted != "auto":
        return wanted
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


def model_card(job: Job, how: dict[str, Any], summary: dict[str, Any]) -> str:
    """README.md of a trained model: how it was made, from which teacher and under which licence."""
    teacher = job.study.teacher
    terms = dump_json(job.student.train.terms.model_dump(exclude_none=True)) if job.student.train else ""
    kept = f", teacher layers {how['layers_kept']}" if "layers_kept" in how else ""
    return (
        f"# {job.student.name}\n\n"
        f"A student of the study `{job.study.name}`, made with Viva.\n\n"
        f"- teacher: `{teacher.source}` (licence: {teacher.licence or 'not stated'})\n"
        f"- shape: {how['layers']} layers, {how['parameters']:,} parameters; start: {how['start']}{kept}\n"
        f"- training: {summary['tokens']:,} tokens in {summary['steps']} steps\n\n"
        f"Objective:\n\n```json\n{terms}```\n"
    )
