"""The family of rankers: models that score all items for a user, learnt from interactions and from a larger ranker."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import Shape, Train
from harness.errors import ConfigError, SourceError
from harness.models.families import Family
from harness.models.load import LoadedModel, quiet_libraries
from harness.models.ranker import passes
from harness.models.ranker.bench import bench
from harness.models.ranker.costs import facts, measured
from harness.models.ranker.interactions import Interactions, read_interactions
from harness.models.ranker.sasrec import SasRec, SasRecConfig
from harness.progress import Report
from harness.ranker_table import RankerTable
from harness.resources import staging
from harness.train import sharding
from harness.train.batches import Row
from harness.train.material import Material

if TYPE_CHECKING:
    from harness.train.stage import Job

ITEMS = "items.json"
TEXTS = ("text_column", "group_column", "texts", "cache", "lora")  # settings of models that read texts


@dataclass(frozen=True)
class Catalogue:
    """The names of the items by number: what a tokenizer is to models of texts."""

    items: tuple[str, ...]


def load(directory: Path) -> LoadedModel:
    """A ranker's directory: the model in eval mode and its catalogue. Raises SourceError for any other directory."""
    try:
        kind = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind != SasRecConfig.model_type:
            raise SourceError(
                f"{directory} holds a model of type {kind!r}, which is no ranker", hint="take one that Viva trained"
            )
        catalogue = Catalogue(tuple(json.loads((directory / ITEMS).read_text(encoding="utf-8"))))
        with quiet_libraries():
            model = SasRec.from_pretrained(directory, use_safetensors=True, local_files_only=True)
    except SourceError:
        raise
    except Exception as error:  # a damaged file makes these libraries raise many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"cannot load the ranker in {directory}: {reason}", hint="is it whole?") from error
    if len(catalogue.items) != model.config.vocab_size:
        raise SourceError(
            f"{directory} names {len(catalogue.items)} items and scores {model.config.vocab_size}", hint="is it whole?"
        )
    return LoadedModel(model.eval(), catalogue)


def fresh_ranker(data: Interactions, shape: Shape, table: RankerTable, seed: int) -> LoadedModel:
    """A SASRec of the whole shape with random weights drawn from `seed` alone. Raises ConfigError for a bad shape."""
    import torch

    layers, hidden, heads, mlp = shape.layers, shape.hidden, shape.heads, shape.mlp
    if layers is None or hidden is None or heads is None or mlp is None:
        raise ConfigError("a ranker needs layers, hidden, heads and mlp", hint="name them all in shape")
    if shape.kv_heads is not None or shape.keep is not None:
        raise ConfigError("shape.kv_heads and shape.keep do nothing for a ranker", hint="drop them")
    if hidden % heads:
        raise ConfigError(f"hidden = {hidden} does not split into heads = {heads}", hint=f"take a multiple of {heads}")
    config = SasRecConfig(
        vocab_size=len(data.items),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=mlp,
        max_position_embeddings=table.window,
        dropout=table.dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SasRec(config)
    return LoadedModel(model.eval(), Catalogue(data.items))


def prepare(job: "Job", progress: Report) -> tuple[LoadedModel, LoadedModel | None, Material, dict[str, Any]]:
    """The untrained student, its teacher (None for the teacher itself), what it learns on, and how it was made.

    The teacher gets no gradient. Raises ConfigError for settings that mean nothing to a ranker, and for models whose
    items are not those of the interactions.
    """
    config = job.config
    table = config.ranker or RankerTable()
    _check(job, config, table)
    progress(0, 0, "reading the interactions")
    data = read_interactions(job.corpus, table)
    teacher = load(job.teacher_dir) if job.teacher_dir else None
    if teacher:
        teacher.model.requires_grad_(False)
        check_items(teacher, data, str(job.teacher_dir))
    if job.start_dir:
        student = load(job.start_dir)
        check_items(student, data, str(job.start_dir))
    else:
        assert job.student.shape is not None
        student = fresh_ranker(data, job.student.shape, table, job.own_seed("start"))
    how = {
        "start": job.student.start,
        "layers": student.model.config.num_hidden_layers,
        "items": len(data.items),
        "users": len(data.histories),
        "parameters": sum(parameter.numel() for parameter in student.model.parameters()),
    }
    window = student.model.config.max_position_embeddings
    stuff = Material(data.documents(window), data.validation())  # type: ignore[arg-type]  (queries are held out)
    return student, teacher, stuff, how


def check_items(model: LoadedModel, data: Interactions, name: str) -> None:
    """Raise ConfigError unless the model scores these very items."""
    ours, theirs = data.items, model.tokenizer.items
    if ours != theirs:
        apart = len(set(ours) ^ set(theirs))
        raise ConfigError(
            f"{name} scores {len(theirs)} items and the interactions hold {len(ours)}, {apart} of them in one alone",
            hint="teacher and students need the same corpus and the same ranker.least",
        )


def _check(job: "Job", config: Train, table: RankerTable) -> None:
    idle = [name for name in TEXTS if getattr(config, name) is not None]
    if config.gradient_checkpointing:
        idle.append("gradient_checkpointing")
    if idle:
        raise ConfigError(f"{job.student.name}: train.{idle[0]} does nothing for a ranker", hint="drop it")
    if job.teacher_dir and job.teacher.endpoint:
        raise ConfigError("a ranker's teacher cannot be at an endpoint", hint="give its directory as source")
    if job.student.start in ("teacher-layers", "importance"):
        raise ConfigError(
            f'{job.student.name}: a ranker cannot start by "{job.student.start}"',
            hint='take start = "scratch", "arm:NAME" or the directory of a ranker',
        )
    if config.row_tokens <= table.window:
        raise ConfigError(
            f"row_tokens = {config.row_tokens} has no room for a window of {table.window} items and the next one",
            hint=f"raise row_tokens above {table.window}, or lower ranker.window",
        )
    if sharding.asked():
        raise ConfigError("rankers are not sharded over processes", hint="launch without FSDP")


def objective(
    job: "Job",
    student: LoadedModel,
    teacher: LoadedModel | None,
    how: dict[str, Any],
    steps: list[list[Row]],
    material: Material,
    precision: str,
    progress: Report,
) -> tuple[passes.RankerObjective, dict[str, Any]]:
    """The objective, and what the manifest should know of it. Raises ConfigError for a list that is too long."""
    config, ranking = job.config, job.config.terms.ranking
    items, window = student.model.config.vocab_size, student.model.config.max_position_embeddings
    if ranking is not None and ranking.weight and ranking.k > items - window - 1:
        raise ConfigError(
            f"ranking.k = {ranking.k}, and of {items} items as few as {items - window - 1} are not observed",
            hint="lower ranking.k or ranker.window",
        )
    first = round(ranking.hybrid_from * len(steps)) if ranking is not None else 0
    found = passes.RankerObjective(
        terms=config.terms,
        vocabulary=items,
        precision=precision,
        table=config.ranker or RankerTable(),
        hybrid_step=first,
    )
    epoch = sum(len(document.ids) for document in material.documents)
    return found, {"epochs": round(sum(len(row.ids) for step in steps for row in step) / epoch, 2)}


def save(student: LoadedModel, target: Path, card: str) -> None:
    """Write a model directory that `SasRec.from_pretrained` opens, whole or not at all."""
    shutil.rmtree(target, ignore_errors=True)
    with staging(target, "saving the model") as part, quiet_libraries():
        student.model.save_pretrained(part)
        (part / ITEMS).write_text(json.dumps(student.tokenizer.items, ensure_ascii=False) + "\n", encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")


FAMILY = Family(
    name="ranker",
    terms=frozenset(("ce", "ranking")),
    load=load,
    prepare=prepare,
    objective=objective,
    held_out=passes.held_out,
    heads=lambda student, teacher, objective: None,
    draw=passes.draw,
    counts=passes.counts,
    backward=passes.backward,
    evaluate=passes.evaluate,
    merit=passes.merit,
    save=save,
    bench=bench,
    cost_facts=facts,
    cost_measured=measured,
)
