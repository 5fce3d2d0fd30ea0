"""How near the student is to its teacher on held-out texts, while it trains."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from harness.models.attention import packed
from harness.train import parallel
from harness.train.batches import Batch, Row, to_batch
from harness.train.divergences import forward_kl
from harness.train.head import Head
from harness.train.objective import Objective, forward_precision

if TYPE_CHECKING:
    import torch


def evaluate(
    student: Any,
    teacher: Any,
    rows: Sequence[Row],
    objective: Objective,
    heads: tuple[Head | None, Head | None],
    batch_of: Callable[..., Batch] = to_batch,
) -> dict[str, float]:
    """Perplexity on held-out texts and, with a teacher, KL(teacher || student) in nats per token and the share of
    tokens at which both find the same one likeliest. Of several processes each brings `rows` of its own.

    Without a teacher at hand but with a cache, `kl` is that of the cache's coarsened distribution and `top1` compares
    with its likeliest token. Across tokenizers there is the perplexity alone.
    """
    import torch

    nll, kl, same, learnt = 0.0, 0.0, 0, 0
    asked = "uld" not in objective.terms.weights and (teacher is not None or objective.cache is not None)
    cut = objective.vocabulary
    training = student.training
    student.eval()
    with torch.inference_mode():
        for row in rows:
            batch = batch_of(row, device=next(student.parameters()).device)
            coarse = objective.cache.read(row.documents) if asked and teacher is None and objective.cache else None
            theirs = logits_by_chunks(teacher, batch, objective, heads[1]) if asked and coarse is None else None
            start = 0
            for logits_nV in logits_by_chunks(student, batch, objective, heads[0]):
                stop = start + len(logits_nV)
                student_nV = logits_nV[:, :cut].log_softmax(-1)
                nll -= float(student_nV.gather(1, batch.label_N[start:stop, None]).sum())
                if theirs is not None:
                    teacher_nV = next(theirs)[:, :cut].log_softmax(-1)
                    kl += float(forward_kl(student_nV, teacher_nV).sum())
                    same += int((student_nV.argmax(-1) == teacher_nV.argmax(-1)).sum())
                elif coarse is not None:
                    part = coarse.rows(start, stop)
                    kl += float(forward_kl(*part.pair(student_nV)).sum())
                    likeliest_n = part.index_NK.gather(1, part.logp_NK.argmax(-1, keepdim=True))[:, 0]
                    same += int((student_nV.argmax(-1) == likeliest_n).sum())
                start = stop
            learnt += start
    student.train(training)
    sums = parallel.add_up({"nll": nll, "kl": kl, "same": same, "learnt": learnt})
    found = {"perplexity": math.exp(min(sums["nll"] / sums["learnt"], 700.0))}
    return found | ({"kl": sums["kl"] / sums["learnt"], "top1": sums["same"] / sums["learnt"]} if asked else {})


def logits_by_chunks(model: Any, batch: Batch, objective: Objective, head: Head | None) -> Iterator["torch.Tensor"]:
    """Logits at the scored positions, some positions at a time, in float32 [n, V]."""
    with packed(model, batch.row.lengths), forward_precision(objective.precision, batch.ids_1T.device.type):
        given = {"input_ids": batch.ids_1T, "position_ids": batch.position_1T, "use_cache": False}
        if head is None:
            logits_NV = model(**given).logits[0][batch.keep_N]
        else:
            hidden_ND = head.taken(model.get_decoder()(**given).last_hidden_state[0][batch.keep_N])
    for start in range(0, len(batch.keep_N), objective.chunk or len(batch.keep_N)):
        stop = start + (objective.chunk or len(batch.keep_N))
        with forward_precision(objective.precision, batch.ids_1T.device.type):
            part = head.logits(hidden_ND[start:stop]) if head is not None else logits_NV[start:stop].float()
        yield part


def nearness(found: Mapping[str, float]) -> float:
    """What counts of an evaluation: the held-out kl or, without a teacher, the perplexity."""
    return found.get("kl", found["perplexity"])


@dataclass(frozen=True)
class Merit:
    """The evaluations so far: `at` by step, the best of them, and how many came since without being better."""

    at: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    best_step: int = 0
    best: float = math.inf
    waited: int = 0

    def after(
        self, step: int, found: Mapping[str, float], of: Callable[[Mapping[str, float]], float] = nearness
    ) -> "Merit":
        """With one more evaluation; `of` says what counts of it, lower being better."""
        value = of(found)
        at = {**self.at, step: found}
        if value < self.best:
            return Merit(at, step, value, 0)
        return replace(self, at=at, waited=self.waited + 1)


def figure_of_merit(lines: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, float]], float] = nearness) -> Merit:
    """The merit of the lines of a metrics log: what a resumed training knows of its past."""
    merit = Merit()
    for line in lines:
        if line["step"] > 0 and "eval" in line:
            merit = merit.after(line["step"], line["eval"], of)
    return merit
