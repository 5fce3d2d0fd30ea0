"""What a student's training minimises: a weighted sum of terms, each the mean over the step's tokens it speaks of.

`backward_row` is one forward and backward pass of the whole objective over one packed row. Where the model's head can
be taken apart, head and token losses go by chunks (head.py); `chunk_tokens = 0` is the plain path that the fast one is
tested against.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError
from harness.models.attention import Seen, packed
from harness.terms import Divergence, Terms
from harness.train import cross
from harness.train.batches import KINDS, Batch, Row
from harness.train.divergences import DIVERGENCES
from harness.train.head import Head, backward_by_chunks, head_of
from harness.train.layers import LayerTerms, View
from harness.train.slopes import coarse_slope, divergence_slope, knobs_of, nll_slope

if TYPE_CHECKING:
    import torch

    from harness.models.encoder.masking import Masking
    from harness.train.cache import TeacherCache
    from harness.train.signals import Coarse

NLL_TERMS = dict(zip(KINDS, ("ce", "sequence", "explanations"), strict=True))
"""The cross-entropy term of each kind of document."""
LAYER_TERMS = ("hidden", "attention", "embedding")


@dataclass(frozen=True)
class Objective:
    """The terms and what they are computed with.

    `vocabulary` is the number of tokens that the tokenizer knows: models that share it may be padded to different
    sizes, and what is behind takes no part in the comparison. `cache` serves `kd` in the teacher's place. `chunk` is
    the number of positions that go through the head at once, 0 for the plain path. `in_step`: models are split over
    processes, so every row has to run the same passes, whatever it needs of them. `masking` says which tokens an
    encoder predicts.
    """

    terms: Terms
    vocabulary: int
    chunk: int = 512
    precision: str = "float32"
    layers: LayerTerms | None = None
    cache: "TeacherCache | None" = None
    shared: "cross.Shared | None" = None
    in_step: bool = False
    masking: "Masking | None" = None

    @property
    def every_token(self) -> bool:
        """Whether prompts are learnt as well."""
        return self.terms.ce is not None and self.terms.ce.weight > 0 and self.terms.ce.tokens == "all"


def counts(row: Row, terms: Terms) -> dict[str, int]:
    """How many tokens of a row each active term speaks of: what its sum is divided by, over the whole step."""
    if row.on_policy:
        return {"on_policy": row.learnt}
    found = {name: 0 for name in terms.weights if name != "on_policy"}
    for document in row.documents:
        every = terms.ce is not None and terms.ce.tokens == "all" and document.kind == "corpus"
        own = NLL_TERMS[document.kind]
        if own in found:
            found[own] += len(document.ids) - 1 if every else len(document.scored)
        if "kd" in found:
            found["kd"] += len(document.scored)
        for name in LAYER_TERMS:
            if name in found:
                found[name] += len(document.ids)
        if "uld" in found and document.pair:
            found["uld"] += len(document.pair.student_at)
    return found


def divergence_of(student_logp_NM: "torch.Tensor", teacher_logp_NM: "torch.Tensor", table: Divergence) -> Any:
    """The table's divergence per token [N], between log-probabilities that are at its temperature already.

    With `t_squared` the result is multiplied by T² (Hinton et al. 2015, section 2), so that the gradient keeps its
    size as T changes; tools differ in this, so 'temperature 2' alone names no objective.
    """
    loss_N = DIVERGENCES[table.divergence](student_logp_NM, teacher_logp_NM, **knobs_of(table))
    return loss_N * table.temperature**2 if table.t_squared else loss_N


def kd_loss(student_NV: "torch.Tensor", teacher_NV: "torch.Tensor", table: Divergence) -> "torch.Tensor":
    """Divergence per token [N] between logits [N, V], both divided by the temperature."""
    loss_N: torch.Tensor = divergence_of(
        (student_NV / table.temperature).log_softmax(-1), (teacher_NV / table.temperature).log_softmax(-1), table
    )
    return loss_N


@dataclass(frozen=True)
class TeacherSays:
    """The teacher's view of a row: logits of a chunk on demand or a cached signal, and its layers where asked for."""

    hidden_ND: "torch.Tensor | None" = None
    head: Head | None = None
    logits_NV: "torch.Tensor | None" = None
    coarse: "Coarse | None" = None
    view: View | None = None

    def logits(self, start: int, stop: int) -> "torch.Tensor":
        if self.logits_NV is not None:
            return self.logits_NV[start:stop]
        assert self.head is not None
        assert self.hidden_ND is not None
        return self.head.logits(self.hidden_ND[start:stop])


def backward_row(
    student: Any,
    teacher: Any,
    batch: Batch,
    objective: Objective,
    totals: Mapping[str, int],
    heads: tuple[Head | None, Head | None],
) -> dict[str, float]:
    """One forward and backward pass over a row; returns each term's part of the step's loss, unweighted.

    The gradient of sum(weight * sum over tokens / totals[term]) is added to the student's. `totals` counts the whole
    step, so that 8 accumulated rows of 1 are the same as one of 8. A term of weight 0 is not computed at all, so that
    kd_weight = 0 is the control bit for bit. `heads` are those of student and teacher (`heads_of`). `teacher` may be
    None when no term needs it or a cache serves.
    """
    import torch

    active = counts(batch.row, objective.terms)
    scale = {name: objective.terms.weights[name] / totals[name] for name in active if totals[name]}
    says = ask_teacher(teacher, batch, objective, active, heads[1])
    sums: dict[str, torch.Tensor] = {}

    def add(parts: Mapping[str, torch.Tensor]) -> None:
        for name, value in parts.items():
            sums[name] = sums.get(name, 0) + value.detach()

    def slope(logits_nV: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        parts, grad_nV = token_slopes(logits_nV, start, stop, batch, says, objective, active, scale)
        add(parts)
        return grad_nV

    layers = objective.layers if not batch.row.on_policy else None
    seen = Seen()
    wanted = layers.student_layers if layers else ()
    # The backward pass stays inside: layers that are recomputed must see the same documents.
    with packed(student, batch.row.lengths, seen, wanted):
        with forward_precision(objective.precision, batch.ids_1T.device.type):
            states_wanted = layers is not None and layers.hidden_wanted
            hidden_TD, logits_TV, states = _forward(student, batch, heads[0], states_wanted)
        rest: dict[str, torch.Tensor] = {}
        if layers and says.view:
            rest |= layers(batch.row, View(states, seen), says.view)
        if "uld" in active:
            places = cross.student_positions(batch.row)
            logits_MV = heads[0].logits(hidden_TD[places]) if heads[0] else logits_TV[places].float()
            with forward_precision(objective.precision, batch.ids_1T.device.type):
                teacher_MV = cross.teacher_logits(teacher, batch.row)
            assert objective.terms.uld is not None
            rest["uld"] = cross.uld_sum(logits_MV, teacher_MV, objective.terms.uld.temperature, objective.shared)
        add(rest)
        roots = [_weighted(rest, scale, hidden_TD if hidden_TD is not None else logits_TV)] if rest else []
        if not active.keys() <= rest.keys() and len(batch.keep_N):
            if heads[0]:
                kept_ND = heads[0].taken(hidden_TD[batch.keep_N])
                with forward_precision(objective.precision, batch.ids_1T.device.type):
                    grad_ND = backward_by_chunks(kept_ND, heads[0], objective.chunk, slope)
                torch.autograd.backward([kept_ND, *roots], [grad_ND, *([None] * len(roots))])
                roots = []
            else:
                parts = token_sums(logits_TV[batch.keep_N].float(), batch, says, objective, active)
                add(parts)
                roots.append(_weighted(parts, scale, logits_TV))
        if objective.in_step:
            roots.append(0.0 * logits_TV.sum())  # a backward pass that does not begin at the end misses split layers
        if roots:
            torch.stack(roots).sum().backward()
    return {name: float(value) / totals[name] for name, value in sums.items() if totals[name]}


def _forward(student: Any, batch: Batch, head: Head | None, states: bool) -> tuple[Any, Any, Any]:
    """Last hidden states [T, D] or, without a head, logits [T, V]; and all hidden states where asked for."""
    given = {"input_ids": batch.ids_1T, "position_ids": batch.position_1T, "use_cache": False}
    out = (student.get_decoder() if head else student)(**given, output_hidden_states=states)
    all_states = tuple(state_1TD[0] for state_1TD in out.hidden_states) if states else ()
    return (out.last_hidden_state[0], None, all_states) if head else (None, out.logits[0], all_states)


def ask_teacher(
    teacher: Any, batch: Batch, objective: Objective, active: Mapping[str, int], head: Head | None
) -> TeacherSays:
    """What the active terms need of the teacher: from the cache where there is one, else by its forward pass."""
    import torch

    coarse = None
    if "kd" in active and objective.cache is not None:
        coarse = objective.cache.read(batch.row.documents)
    layers = objective.layers if not batch.row.on_policy else None
    in_step = objective.in_step and teacher is not None and "on_policy" in objective.terms.weights
    if not (layers or "on_policy" in active or ("kd" in active and coarse is None) or in_step):
        return TeacherSays(coarse=coarse)
    seen = Seen()
    with (
        torch.no_grad(),
        packed(teacher, batch.row.lengths, seen, layers.teacher_layers if layers else ()),
        forward_precision(objective.precision, batch.ids_1T.device.type),
    ):
        hidden_TD, logits_TV, states = _forward(teacher, batch, head, bool(layers and layers.hidden_wanted))
        taught_N = batch.keep_N[batch.taught_N]
        return TeacherSays(
            hidden_ND=head.taken(hidden_TD[taught_N]) if head else None,
            head=head,
            logits_NV=None if head else logits_TV[taught_N].float(),
            coarse=coarse,
            view=View(states, seen) if layers else None,
        )


def token_sums(
    logits_NV: "torch.Tensor", batch: Batch, says: TeacherSays, objective: Objective, active: Mapping[str, int]
) -> dict[str, "torch.Tensor"]:
    """The token terms of a row, unweighted and summed, from the student's logits at the scored positions: the plain
    form, for autograd."""
    import torch

    found: dict[str, torch.Tensor] = {}
    for name in ("kd", "on_policy"):
        if name not in active or not bool(batch.taught_N.any()):
            continue
        table: Divergence = getattr(objective.terms, name)
        logp_NM = (logits_NV[batch.taught_N, : objective.vocabulary] / table.temperature).log_softmax(-1)
        if name == "kd" and says.coarse is not None:
            logp_NM, teacher_NM = says.coarse.pair(logp_NM)
        else:
            teacher_NV = says.logits(0, len(logp_NM))[:, : objective.vocabulary]
            teacher_NM = (teacher_NV / table.temperature).log_softmax(-1)
        found[name] = divergence_of(logp_NM, teacher_NM, table).sum()
    mine = _nll_terms(active)
    if mine:
        nll_N = torch.nn.functional.cross_entropy(logits_NV, batch.label_N, reduction="none")
        found |= {name: nll_N[batch.kind_N == code].sum() for code, name in mine}
    return found


def token_slopes(
    logits_nV: "torch.Tensor",
    start: int,
    stop: int,
    batch: Batch,
    says: TeacherSays,
    objective: Objective,
    active: Mapping[str, int],
    scale: Mapping[str, float],
) -> tuple[dict[str, "torch.Tensor"], "torch.Tensor"]:
    """The same for the positions from `start` to `stop`, with the gradient of the weighted objective by the logits in
    closed form."""
    import torch

    found: dict[str, torch.Tensor] = {}
    grad_nV: torch.Tensor | None = None
    mine = _nll_terms(active)
    if mine:
        kind_n = batch.kind_N[start:stop]
        weight_n = torch.zeros(len(kind_n), device=logits_nV.device)
        for code, name in mine:
            weight_n[kind_n == code] = scale.get(name, 0.0)
        nll_n, grad_nV = nll_slope(logits_nV, batch.label_N[start:stop], weight_n)
        found |= {name: nll_n[kind_n == code].sum() for code, name in mine}
    for name in ("kd", "on_policy"):
        taught_n = batch.taught_N[start:stop]
        first = int(batch.taught_N[:start].sum())
        last = first + int(taught_n.sum())
        if name not in active or first == last:
            continue
        table: Divergence = getattr(objective.terms, name)
        every = last - first == stop - start
        own_nV = (logits_nV if every else logits_nV[taught_n])[:, : objective.vocabulary]
        if name == "kd" and says.coarse is not None:
            loss_n, slope_nV = coarse_slope(own_nV, says.coarse.rows(first, last), table)
        else:
            loss_n, slope_nV = divergence_slope(own_nV, says.logits(first, last)[:, : objective.vocabulary], table)
        found[name] = loss_n.sum()
        slope_nV.mul_(scale.get(name, 0.0))
        if grad_nV is None and slope_nV.shape == logits_nV.shape:
            grad_nV = slope_nV
        else:
            grad_nV = torch.zeros_like(logits_nV) if grad_nV is None else grad_nV
            rows = slice(None) if every else taught_n.nonzero()[:, 0]
            grad_nV[rows, : objective.vocabulary] += slope_nV
    return found, torch.zeros_like(logits_nV) if grad_nV is None else grad_nV


def _nll_terms(active: Mapping[str, int]) -> list[tuple[int, str]]:
    """The active cross-entropy terms, each with the code in KINDS of its documents."""
    return [(code, NLL_TERMS[kind]) for code, kind in enumerate(KINDS) if NLL_TERMS[kind] in active]


def _weighted(parts: Mapping[str, "torch.Tensor"], scale: Mapping[str, float], like: "torch.Tensor") -> "torch.Tensor":
    """The objective: the terms' sums, each times its weight over its count."""
    import torch

    if not parts:
        return 0.0 * like.sum()
    return torch.stack([scale.get(name, 0.0) * value for name, value in parts.items()]).sum()


def heads_of(student: Any, teacher: Any, chunk: int) -> tuple[Head | None, Head | None]:
    """The heads of student and teacher for the chunked path; None for whoever has to run its own forward."""
    if not chunk:
        return None, None
    return head_of(student), head_of(teacher) if teacher is not None else None


@contextmanager
def forward_precision(precision: str, device: str = "cpu") -> Iterator[None]:
    """The forward pass in bfloat16 where asked; weights, their gradients and the losses stay in float32."""
    import torch

    with torch.autocast(device, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext():
        yield


def vocabulary_size(tokenizer: Any) -> int:
    """One more than the largest token id that the tokenizer can give."""
    return 1 + max(tokenizer.get_vocab().values())


def check_vocabularies(teacher: Any, student: Any) -> None:
    """Raise ConfigError unless both tokenizers give the same meaning to the same ids.

    Compared is the tokenizers' content, not `vocab_size`: padding of the embedding matrix differs between models
    that share a tokenizer.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    different = sum(1 for token, index in theirs.items() if ours.get(token) != index)
    raise ConfigError(
        f"teacher and student vocabularies differ: {len(theirs)} and {len(ours)} tokens, {different} of the "
        "teacher's tokens have another id or none in the student",
        hint="token distillation needs one tokenizer: take the term uld, or cut the student from the teacher",
    )


def mean_losses(parts: Sequence[Mapping[str, float]], terms: Terms) -> dict[str, float]:
    """A step's losses from its rows' parts: each term, and `loss`, their weighted sum."""
    names = {name for part in parts for name in part}
    sums = {name: sum(part.get(name, 0.0) for part in parts) for name in sorted(names)}
    return {"loss": sum(terms.weights[name] * value for name, value in sums.items()), **sums}
