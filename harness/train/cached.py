"""The teacher's cache in the service of one training: filled for its plan, opened, and its bias measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import Teacher, Train
from harness.errors import ConfigError
from harness.models.load import LoadedModel
from harness.progress import Report, say
from harness.train import parallel
from harness.train.batches import Document, Row, pack
from harness.train.material import documents_in
from harness.train.objective import vocabulary_size

if TYPE_CHECKING:
    from harness.train.cache import TeacherCache


BIAS_ROWS = 8  # of held-out texts on which the bias is measured


@dataclass(frozen=True)
class Served:
    """An open cache, and what the manifest should know of it."""

    cache: "TeacherCache | None" = None
    facts: dict[str, Any] = field(default_factory=dict)


def serve_from_cache(
    folder: Path,
    teacher: LoadedModel,
    student: LoadedModel,
    steps: Sequence[Sequence[Row]],
    held_out: Sequence[Document],
    config: Train,
    *,
    teacher_digest: str,
    table: Teacher,
    seed: int,
    precision: str,
    progress: Report,
) -> Served:
    """Fill the cache with what the plan needs and is not there yet, and open it.

    A teacher behind an endpoint is asked for the held-out texts too, since nobody else can judge them. Elsewhere the
    bias of the coarsened signal is measured on held-out texts, before the first step.
    """
    from harness.train import cache, fill, prompt_logprobs

    assert config.cache is not None
    assert config.terms.kd is not None
    temperature = config.terms.kd.temperature
    if config.cache.kind == "sampled" and config.terms.kd.divergence != "forward_kl":
        raise ConfigError(
            f'cache.kind = "sampled" is unbiased for forward_kl alone; the divergence is {config.terms.kd.divergence}',
            hint='take kind = "top-k", or divergence = "forward_kl"',
        )
    vocabulary = vocabulary_size(teacher.tokenizer)
    key = cache.cache_key(teacher_digest, cache.tokenizer_digest(teacher.tokenizer), temperature, config.cache)
    documents = documents_in(steps)
    if table.endpoint:
        documents += [row_document for row in pack(held_out[: config.evaluate_chats], config.row_tokens)
                      for row_document in row.documents]  # fmt: skip
        prompt_logprobs.fill_from_server(
            folder, table.endpoint, table.model, documents, cache=config.cache, temperature=temperature,
            vocabulary=vocabulary, key=key, rank=parallel.rank(), world=parallel.world(), progress=progress,
        )  # fmt: skip
    else:
        fill.fill(
            folder, teacher, documents, cache=config.cache, temperature=temperature, vocabulary=vocabulary, key=key,
            seed=seed, rank=parallel.rank(), world=parallel.world(), progress=progress,
        )  # fmt: skip
    parallel.wait()
    opened = cache.open_cache(folder, key)
    facts: dict[str, Any] = {"cache": {"key": key, **config.cache.model_dump(mode="json", exclude_none=True)}}
    facts["cache"] |= opened.facts(documents)
    if not table.endpoint:
        rows = pack(held_out[: config.evaluate_chats], config.row_tokens)[:BIAS_ROWS]
        bias = fill.coarse_bias(teacher, student, rows, config.terms.kd, config.cache, vocabulary, seed)
        facts["cache"]["bias"] = bias
        say("cache: " + ", ".join(f"{name} {value:.4g}" for name, value in bias.items()))
    return Served(opened, facts)
