"""Terms between layers: hidden states, embeddings and attention of matched layers, student's to teacher's.

Every term is a loss per token, averaged over the matched layers and over features, heads or keys, so that its size
depends neither on the models' depth nor on the row. Attention is compared document by document: no matrix over all
pairs of a row is made.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.errors import ConfigError
from harness.models.attention import Rule, Seen, packed
from harness.terms import Terms
from harness.train.batches import Row
from harness.train.layer_map import Pairs, match_layers

RELATIONS = {"query": "queries", "key": "keys", "value": "values"}


@dataclass(frozen=True)
class View:
    """What one model showed of a row.

    `hidden`: hidden states [T, D] as transformers gives them: the embeddings, then what is behind each layer, of which
    the last is behind the final norm as well. `seen`: queries, keys and values of the layers that were asked for.
    """

    hidden: tuple[torch.Tensor, ...]
    seen: Seen


class LayerTerms(torch.nn.Module):
    """The terms `hidden`, `attention` and `embedding`, with their learnt projections.

    A projection (a matrix, student's width to teacher's) stands where widths differ: one for each matched pair of
    layers and one for the embeddings. They are this module's only parameters, trained along with the student and
    thrown away after; neither model is kept here.
    """

    def __init__(self, student: Any, teacher: Any, terms: Terms, kept: Sequence[int] | None, seed: int):
        """Match the layers of two models and check that the active terms can compare them.

        `kept` are the teacher's layers that the student was cut from, None where it was not. The projections' start
        follows from `seed` alone. Each model is run once, on two tokens, to see what it shows. Raises ConfigError
        where a term does not fit the models.
        """
        super().__init__()
        self.terms = terms
        depths = tuple(model.config.get_text_config().num_hidden_layers for model in (student, teacher))
        self.hidden_pairs = self._pairs("hidden", depths, kept)
        self.attention_pairs = self._pairs("attention", depths, kept)
        self.student_layers = sorted({first for first, _ in self.attention_pairs})
        self.teacher_layers = sorted({second for _, second in self.attention_pairs})
        self.hidden_wanted = bool(terms.weights.keys() & {"hidden", "embedding"})
        ours, theirs = _look(student, self.student_layers), _look(teacher, self.teacher_layers)
        self.heads = 0
        if self.attention_pairs:
            assert terms.attention is not None
            self.heads = terms.attention.heads or student.config.get_text_config().num_attention_heads
            check = _check_scores if terms.attention.kind == "scores" else _check_relations
            check(ours.seen, theirs.seen, self.attention_pairs, self.heads)
        generator = torch.Generator().manual_seed(seed)
        self.hidden_projections = torch.nn.ModuleList(
            _projection(ours.hidden[first + 1], theirs.hidden[second + 1], generator)
            for first, second in self.hidden_pairs
        )
        self.embedding_projection: torch.nn.Module = torch.nn.Identity()
        if "embedding" in terms.weights:
            self.embedding_projection = _projection(ours.hidden[0], theirs.hidden[0], generator)
        self.to(student.device)

    def _pairs(self, name: str, depths: tuple[int, ...], kept: Sequence[int] | None) -> Pairs:
        """The matched layers of a term; none where it is not active."""
        if name not in self.terms.weights:
            return []
        table = getattr(self.terms, name)
        layers = table.layers
        if layers is None:
            layers = "even" if table.kind == "scores" else "last"
        return match_layers(layers, depths[0], depths[1], kept, f"{name}.layers")

    def forward(self, row: Row, student: View, teacher: View) -> dict[str, torch.Tensor]:
        """Each active term, unweighted: the sum over the row's tokens of its loss per token, in float32.

        The output of the last layer is taken behind the final norm, on both sides. No gradient reaches the teacher.
        """
        like = (*student.hidden, *student.seen.query.values())[0]
        sums = {}
        with torch.autocast(like.device.type, enabled=False):
            if self.hidden_pairs:
                assert self.terms.hidden is not None
                losses = [
                    state_loss(
                        student.hidden[first + 1], teacher.hidden[second + 1], projection, self.terms.hidden.distance
                    )
                    for (first, second), projection in zip(self.hidden_pairs, self.hidden_projections, strict=True)
                ]
                sums["hidden"] = torch.stack(losses).mean(0).sum()
            if self.attention_pairs:
                sums["attention"] = self._attention(row, student.seen, teacher.seen)
            if "embedding" in self.terms.weights:
                assert self.terms.embedding is not None
                loss_T = state_loss(
                    student.hidden[0], teacher.hidden[0], self.embedding_projection, self.terms.embedding.distance
                )
                sums["embedding"] = loss_T.sum()
        return sums

    def _attention(self, row: Row, ours: Seen, theirs: Seen) -> torch.Tensor:
        assert self.terms.attention is not None
        relations = self.terms.attention.kind == "relations"
        losses = []
        start = 0
        for length in row.lengths:
            cut = slice(start, start + length)
            for first, second in self.attention_pairs:
                student, teacher = Heads.of(ours, first, cut), Heads.of(theirs, second, cut)
                loss_T = relations_loss(student, teacher, self.heads) if relations else scores_loss(student, teacher)
                losses.append(loss_T.sum())
            start += length
        return torch.stack(losses).sum() / len(self.attention_pairs)


@dataclass(frozen=True)
class Heads:
    """One layer's queries [H, T, d], keys and values [K, T, d] of one document, and how it compares them."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    rule: Rule

    @classmethod
    def of(cls, seen: Seen, layer: int, cut: slice) -> "Heads":
        """A document's part of what was seen of a layer."""
        query, key, value = (_wide(table[layer][:, cut]) for table in (seen.query, seen.key, seen.value))
        return cls(query, key, value, seen.rule[layer])


def state_loss(
    student_TD: torch.Tensor,
    teacher_TE: torch.Tensor,
    projection: Callable[[torch.Tensor], torch.Tensor],
    distance: str,
) -> torch.Tensor:
    """Distance per token [T] of two states, the student's behind its projection to the teacher's width.

    `mse` is the mean over features of the squared difference (TinyBERT, Jiao et al. 2020, eq. 8 and 9), `cosine` is
    1 - cosine (DistilBERT, Sanh et al. 2019).
    """
    ours_TE, theirs_TE = projection(_wide(student_TD)), _wide(teacher_TE).detach()
    if distance == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(ours_TE, theirs_TE, dim=-1)
    loss_T: torch.Tensor = (ours_TE - theirs_TE).square().mean(-1)
    return loss_T


def scores_loss(student: Heads, teacher: Heads) -> torch.Tensor:
    """Mean squared difference per query [T] of the scores before the softmax (TinyBERT, Jiao et al. 2020, eq. 7).

    Averaged over heads and over the keys that both sides see: those of the document, for models that write the earlier
    ones within both windows.
    """
    allowed_TT = _allowed(student, teacher)
    ours_HTT = student.rule.scores(student.query, student.key)
    theirs_HTT = teacher.rule.scores(teacher.query, teacher.key).detach()
    square_TT = (ours_HTT - theirs_HTT).square().mean(0)
    return square_TT.masked_fill(~allowed_TT, 0).sum(-1) / allowed_TT.sum(-1)


def relations_loss(student: Heads, teacher: Heads, heads: int) -> torch.Tensor:
    """KL(teacher || student) per token [T] of self-attention relations (MiniLMv2, Wang et al. 2021, eq. 3 to 6).

    Queries, keys and values are each related to themselves, over the keys that both sides see, in relation heads cut
    anew from all heads side by side; the mean of the three relations and of the relation heads.
    """
    allowed_TT = _allowed(student, teacher)
    losses = []
    for name in RELATIONS:
        ours_RTT = _relation(getattr(student, name), heads, allowed_TT)
        theirs_RTT = _relation(getattr(teacher, name), heads, allowed_TT).detach()
        losses.append((theirs_RTT.exp() * (theirs_RTT - ours_RTT)).sum(-1).mean(0))
    return torch.stack(losses).mean(0)


def _relation(given_HTd: torch.Tensor, heads: int, allowed_TT: torch.Tensor) -> torch.Tensor:
    """log softmax(A A^T / sqrt(d_r)) [R, T, T] of one document's heads, cut anew to `heads` relation heads."""
    length = given_HTd.shape[1]
    cut_RTd = given_HTd.transpose(0, 1).reshape(length, heads, -1).transpose(0, 1)
    score_RTT = cut_RTd @ cut_RTd.transpose(-1, -2) / math.sqrt(cut_RTd.shape[-1])
    # Not -inf, whose difference from itself is no number.
    return score_RTT.masked_fill(~allowed_TT, torch.finfo(score_RTT.dtype).min).log_softmax(-1)


def _allowed(student: Heads, teacher: Heads) -> torch.Tensor:
    """True where a query (row) sees a key (column) on both sides, [T, T]."""
    length, device = student.query.shape[1], student.query.device
    return student.rule.allowed(length, device) & teacher.rule.allowed(length, device)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In float32, or what is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _projection(student_TD: torch.Tensor, teacher_TE: torch.Tensor, generator: torch.Generator) -> torch.nn.Module:
    """A matrix from the student's width to the teacher's; nothing where they are equal.

    It starts orthogonal, times sqrt(wider / narrower) where the teacher is wider: a feature keeps its mean square.
    """
    ours, theirs = student_TD.shape[-1], teacher_TE.shape[-1]
    if ours == theirs:
        return torch.nn.Identity()
    # Made without a start, since Linear's own would draw from the global generator.
    linear = torch.nn.Linear(ours, theirs, bias=False, device="meta").to_empty(device="cpu")
    torch.nn.init.orthogonal_(linear.weight, gain=math.sqrt(max(1.0, theirs / ours)), generator=generator)
    return linear


def _look(model: Any, layers: Sequence[int]) -> View:
    """What a model shows of two tokens: the widths that it really has, whatever its configuration calls them."""
    seen, training = Seen(), model.training
    model.eval()
    with torch.no_grad(), packed(model, (2,), seen, layers):
        ids_1T = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        out = model(input_ids=ids_1T, use_cache=False, output_hidden_states=True)
    model.train(training)
    return View(tuple(state_1TD[0] for state_1TD in out.hidden_states), seen)


def _check_scores(ours: Seen, theirs: Seen, pairs: Pairs, heads: int) -> None:
    """Raise ConfigError unless both sides of every pair have as many heads."""
    for first, second in pairs:
        mine, its = len(ours.query[first]), len(theirs.query[second])
        if mine != its:
            raise ConfigError(
                f"attention by scores compares heads one by one, and the student's layer {first} has {mine}, the "
                f"teacher's layer {second} {its}",
                hint='set attention.kind = "relations", which cuts both sides to the same number of heads',
            )


def _check_relations(ours: Seen, theirs: Seen, pairs: Pairs, heads: int) -> None:
    """Raise ConfigError unless `heads` divides the width of queries, keys and values on both sides of every pair."""
    widths = {}
    for name, plural in RELATIONS.items():
        for pair in pairs:
            for whose, seen, layer in zip(("student", "teacher"), (ours, theirs), pair, strict=True):
                tensor_HTd = getattr(seen, name)[layer]
                widths[f"the {plural} of the {whose}'s layer {layer}"] = tensor_HTd.shape[0] * tensor_HTd.shape[2]
    common = math.gcd(*widths.values())
    fitting = [str(number) for number in range(1, common + 1) if common % number == 0]
    for what, width in widths.items():
        if width % heads:
            raise ConfigError(
                f"attention by relations cannot cut {what}, {width} wide, to {heads} heads",
                hint=f"set attention.heads to one of {', '.join(fitting)}, which divide every width",
            )
