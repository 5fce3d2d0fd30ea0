"""The family of encoders: masked texts, read both ways; scored by masked-LM perplexity and by labelled tasks."""

from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError
from harness.models.encoder import costs, passes
from harness.models.encoder.bench import bench
from harness.models.encoder.load import load_encoder
from harness.models.encoder.masking import Masking, documents_of
from harness.models.encoder.students import check_teacher, make_student
from harness.models.families import Family
from harness.models.load import LoadedModel
from harness.progress import Report
from harness.texts import is_text_corpus, read_text_corpus
from harness.train.batches import Row
from harness.train.evaluate import nearness
from harness.train.material import Material
from harness.train.objective import LAYER_TERMS, Objective, check_vocabularies, counts, vocabulary_size

if TYPE_CHECKING:
    from harness.train.stage import Job

TERMS = ("ce", "kd", *LAYER_TERMS)


def prepare(job: "Job", progress: Report) -> tuple[LoadedModel, LoadedModel | None, Material, dict[str, Any]]:
    """The untrained student, its teacher (None for the teacher itself), what it learns on, and how it was made."""
    config, teacher = job.config, None
    if config.lora:
        raise ConfigError('train.lora is not for family = "encoder"', hint="drop it")
    if job.teacher_dir is None:
        assert job.start_dir is not None
        student = load_encoder(job.start_dir)
        how: dict[str, Any] = {"start": "its source", "parameters": student.model.num_parameters()}
        return student, None, material(job, student.tokenizer, student.model), how
    teacher = load_encoder(job.teacher_dir)
    check_teacher(teacher.model)
    for parameter in teacher.model.parameters():
        parameter.requires_grad_(False)
    if job.start_dir:
        student = load_encoder(job.start_dir)
        how = {"start": job.student.start, "parameters": student.model.num_parameters()}
        check_vocabularies(teacher.tokenizer, student.tokenizer)
    else:
        assert job.student.shape is not None
        student, how = make_student(teacher, job.student.shape, job.student.start, job.own_seed("start"))
    needed = config.terms.weights.keys() - {"ce"}
    stuff = material(job, student.tokenizer, student.model)
    return student, teacher if needed else None, stuff, how


def material(job: "Job", tokenizer: Any, model: Any) -> Material:
    """A corpus of plain texts, in pieces that the model can see at once."""
    config = job.config
    if not is_text_corpus(job.corpus):
        raise ConfigError(f"{job.corpus} holds chats, and encoders read texts", hint="give a table or a file of texts")
    longest = min(config.row_tokens, model.config.max_position_embeddings)
    train, held = read_text_corpus(job.corpus, config.text_column, config.group_column, config.texts)
    return Material(
        documents_of(tokenizer, train, longest), documents_of(tokenizer, held[: config.evaluate_chats], longest)
    )


def objective(
    job: "Job",
    student: LoadedModel,
    teacher: LoadedModel | None,
    how: dict[str, Any],
    steps: list[list[Row]],
    stuff: Material,
    precision: str,
    progress: Report,
) -> tuple[Objective, dict[str, Any]]:
    """The objective with its masks; nothing more for the manifest than how much is hidden."""
    from harness.train.stage import layer_terms

    masking = Masking.of(student.tokenizer)
    made = Objective(
        terms=job.config.terms,
        vocabulary=vocabulary_size(student.tokenizer),
        chunk=job.config.chunk_tokens,
        precision=precision,
        layers=layer_terms(job, student, teacher, how),
        masking=masking,
    )
    return made, {"masked": masking.share}


def save(*args: Any) -> None:
    from harness.train.stage import save_model

    save_model(*args)


FAMILY = Family(
    name="encoder",
    terms=frozenset(TERMS),
    load=load_encoder,
    prepare=prepare,
    objective=objective,
    held_out=passes.held_out,
    heads=passes.heads_of,
    draw=passes.draw,
    counts=counts,
    backward=passes.backward,
    evaluate=passes.evaluate,
    merit=nearness,
    save=save,
    bench=bench,
    cost_facts=costs.facts,
    cost_measured=costs.measured,
)
