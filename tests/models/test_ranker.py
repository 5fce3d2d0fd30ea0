"""Rankers: what they see, what a step computes, what they are asked, how they are kept on the disk."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import Shape
from harness.errors import ConfigError, SourceError
from harness.models.load import LoadedModel
from harness.models.ranker import passes
from harness.models.ranker.family import FAMILY, check_items, fresh_ranker, load, save
from harness.models.ranker.interactions import Interactions, Query
from harness.models.ranker.passes import Drawn, RankerObjective
from harness.models.ranker.queries import ask
from harness.ranker_table import RankerTable
from harness.terms import Ce, Ranking, Terms
from harness.train.batches import Document, Row
from tests.models.rankers import tiny_ranker

BOTH = Terms(ce=Ce(weight=0.5), ranking=Ranking(weight=2.0, k=4, hybrid_from=0.5))


def rows(*histories: Sequence[int]) -> Row:
    return Row(tuple(Document(tuple(history), (True,) * len(history)) for history in histories))


HISTORIES = ([3, 9, 4, 1, 22], [7, 2], [5, 6, 7, 8, 9, 10, 11])


def objective(terms: Terms, **changes: Any) -> RankerObjective:
    return RankerObjective(terms=terms, vocabulary=30, **({"hybrid_step": 5} | changes))


def step(
    student: LoadedModel, teacher: LoadedModel | None, given: Sequence[Row], wanted: RankerObjective, number: int
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The parts of a step's loss, and its gradients."""
    student.model.zero_grad()
    drawn = FAMILY.draw(given, number, student.model, wanted, seed=11, end=-1)
    totals: dict[str, int] = {}
    for one in drawn:
        for name, count in FAMILY.counts(one, wanted.terms).items():
            totals[name] = totals.get(name, 0) + count
    parts: dict[str, float] = {}
    for one in drawn:
        found = FAMILY.backward(student.model, teacher and teacher.model, one, wanted, totals, None, "cpu")
        parts = {name: parts.get(name, 0.0) + value for name, value in found.items()}
    return parts, {name: p.grad.clone() for name, p in student.model.named_parameters() if p.grad is not None}


def test_scores_see_what_came_before_and_nothing_that_comes_after() -> None:
    model = tiny_ranker().model
    ids = torch.tensor([[3, 9, 4, 1, 22]])
    logits = model(ids).logits
    later = model(torch.tensor([[3, 9, 4, 0, 0]])).logits
    assert torch.allclose(logits[:, :3], later[:, :3], atol=1e-6)
    earlier = model(torch.tensor([[8, 9, 4, 1, 22]])).logits
    assert not torch.allclose(logits[:, 2:], earlier[:, 2:], atol=1e-3)


def test_scores_of_some_items_are_those_of_all() -> None:
    model = tiny_ranker().model
    with torch.no_grad():
        model.popularity.normal_()
    hidden_ND = model.hidden(torch.tensor([[3, 9, 4]]))[0]
    item_NK = torch.tensor([[0, 29], [4, 4], [7, 1]])
    assert torch.allclose(model.score_some(hidden_ND, item_NK), model.score(hidden_ND).gather(1, item_NK), atol=1e-5)


@pytest.mark.parametrize("number", [4, 5])
def test_a_step_is_what_the_paper_writes(number: int) -> None:
    """In plain loops: positions, negatives, the teacher's list without what is observed, weights, sums."""
    student, teacher = tiny_ranker(), tiny_ranker(hidden=16, seed=3)
    row = rows(*HISTORIES)
    wanted = objective(BOTH)
    parts, _ = step(student, teacher, [row], wanted, number)
    negatives = Drawn(row, number, 11).items(0, 3, 30)

    def nll(score: float) -> float:
        return math.log1p(math.exp(-score))

    ce = ranking = 0.0
    at = 0
    place = [math.exp(-r) / sum(math.exp(-q) for q in range(1, 5)) for r in range(1, 5)]
    for history in HISTORIES:
        ours_TV = student.model(torch.tensor([history[:-1]])).logits[0].detach().double()
        theirs_TV = teacher.model(torch.tensor([history[:-1]])).logits[0].detach()
        for t, target in enumerate(history[1:]):
            ours = ours_TV[t].tolist()
            ce += nll(ours[target]) + sum(nll(-ours[j]) for j in negatives[at].tolist() if j != target)
            at += 1
            free = [j for j in theirs_TV[t].argsort(descending=True).tolist() if j not in history[: t + 2]][:4]
            weight = place
            if number >= 5:
                rank = [1 + sum(other > ours[j] for other in ours) for j in free]
                raw = [
                    w * max(math.tanh(0.1 * (q - r)), 0) for r, (w, q) in enumerate(zip(place, rank, strict=True), 1)
                ]
                weight = [one / sum(raw) if sum(raw) else 0.0 for one in raw]
            ranking += sum(w * nll(ours[j]) for w, j in zip(weight, free, strict=True))
    assert parts["ce"] == pytest.approx(ce / at, rel=1e-5)
    assert parts["ranking"] == pytest.approx(ranking / at, rel=1e-5)


def test_rows_one_by_one_are_the_same_step_as_one_row() -> None:
    student, teacher = tiny_ranker(), tiny_ranker(hidden=16, seed=3)
    together = step(student, teacher, [rows(*HISTORIES)], objective(BOTH), 7)
    apart = step(student, teacher, [rows(history) for history in HISTORIES], objective(BOTH), 7)
    assert apart[0] == pytest.approx(together[0], rel=1e-5)
    for name, gradient in together[1].items():
        assert torch.allclose(apart[1][name], gradient, rtol=1e-4, atol=1e-7), name


def test_a_ranking_weight_of_zero_is_the_control_bit_for_bit() -> None:
    student, teacher = tiny_ranker(), tiny_ranker(hidden=16, seed=3)
    off = Terms(ce=Ce(), ranking=Ranking(weight=0.0))
    with_term = step(student, teacher, [rows(*HISTORIES)], objective(off), 7)
    control = step(student, None, [rows(*HISTORIES)], objective(Terms(ce=Ce())), 7)
    assert with_term[0] == control[0]
    assert all(torch.equal(with_term[1][name], gradient) for name, gradient in control[1].items())


def test_the_gradient_is_the_slope_of_the_weighted_loss() -> None:
    student, teacher = tiny_ranker(), tiny_ranker(hidden=16, seed=3)
    student.model.double()
    wanted = objective(BOTH, hybrid_step=9)  # ranks would jump under the finite difference
    _, gradients = step(student, teacher, [rows(*HISTORIES)], wanted, 2)
    weight = student.model.items.weight

    def loss() -> float:
        parts, _ = step(student, teacher, [rows(*HISTORIES)], wanted, 2)
        return 0.5 * parts["ce"] + 2.0 * parts["ranking"]

    for place in ((9, 0), (22, 5)):
        ends = []
        for shift in (1e-3, -2e-3):
            with torch.no_grad():
                weight[place] += shift
            ends.append(loss())
        with torch.no_grad():
            weight[place] += 1e-3
        assert float(gradients["items.weight"][place]) == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=2e-3, abs=1e-5)


def test_what_is_drawn_follows_from_seed_step_and_history_alone() -> None:
    whole = Drawn(rows(*HISTORIES), 4, 11).items(0, 3, 30)
    assert (Drawn(rows(*HISTORIES[1:]), 4, 11).items(0, 3, 30) == whole[4:]).all()
    for other in (Drawn(rows(*HISTORIES), 5, 11), Drawn(rows(*HISTORIES), 4, 12)):
        assert (other.items(0, 3, 30) != whole).any()
    assert (Drawn(rows(*HISTORIES), 4, 11).items(1, 3, 30) != whole).any()


def test_the_teacher_reads_each_history_once_and_learns_nothing() -> None:
    student, teacher = tiny_ranker(), tiny_ranker(hidden=16, seed=3)
    wanted = objective(BOTH)
    step(student, teacher, [rows(*HISTORIES)], wanted, 1)
    again = step(student, None, [rows(*HISTORIES)], wanted, 2)  # it is not asked a second time
    assert again[0].keys() == {"ce", "ranking"}
    assert len(wanted.top) == 3
    assert all(parameter.grad is None for parameter in teacher.model.parameters())


def test_ranks_estimated_from_a_sample_change_the_weights_a_little() -> None:
    student, teacher = tiny_ranker(), tiny_ranker(hidden=16, seed=3)
    exact, _ = step(student, teacher, [rows(*HISTORIES)], objective(BOTH), 7)
    some = BOTH.model_copy(update={"ranking": BOTH.ranking.model_copy(update={"samples": 200})})  # type: ignore[union-attr]
    sampled, _ = step(student, teacher, [rows(*HISTORIES)], objective(some), 7)
    assert sampled["ce"] == exact["ce"]
    assert sampled["ranking"] != exact["ranking"]
    assert sampled["ranking"] == pytest.approx(exact["ranking"], rel=0.1)


class Told(torch.nn.Module):
    """A ranker that gives the scores it was told."""

    def __init__(self, scores: list[float]):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.tensor(scores))
        self.config = type("Config", (), {"max_position_embeddings": 5})

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, 1)

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(len(hidden), -1).clone()


def test_the_rank_is_among_items_that_the_user_did_not_have() -> None:
    model = Told([0.9, 0.8, 0.7, 0.6, 0.5])
    ((rank, top),) = ask(model, [Query("u", (0, 2), 3)])
    assert rank == 2
    assert top == [1, 3, 4]


def test_ties_and_scores_that_are_no_numbers_count_against_the_target() -> None:
    assert next(ask(Told([0.5] * 5), [Query("u", (0,), 3)]))[0] == 4
    assert next(ask(Told([0.1, 0.2, math.nan, 0.3, 0.4]), [Query("u", (0,), 2)]))[0] == 4


def test_an_item_that_the_user_has_again_can_be_the_target() -> None:
    assert next(ask(Told([0.9, 0.8, 0.7]), [Query("u", (0, 1), 0)])) == (1, [0, 2])


def test_histories_of_all_lengths_are_asked_together_as_alone() -> None:
    model = tiny_ranker().model
    queries = [Query(str(n), tuple(range(1, 1 + n)), 25) for n in (1, 3, 6, 9)]  # the last is longer than the window
    together = list(ask(model, queries))
    assert together == [next(ask(model, [query])) for query in queries]
    short = Query("x", tuple(range(4, 10)), 25)
    assert torch.equal(*(model(torch.tensor([list(q.seen[-6:])])).logits for q in (queries[-1], short)))


def test_figures_on_held_out_users_are_means_of_measures() -> None:
    model = Told([0.9, 0.8, 0.7, 0.6, 0.5])
    rows_of = [(Query("a", (0,), 1),), (Query("b", (0,), 3),)]  # ranks 1 and 3
    found = passes.evaluate(model, None, rows_of, objective(BOTH), None)
    assert found == pytest.approx({"ndcg@10": (1 + 0.5) / 2, "recall@10": 1.0, "map": (1 + 1 / 3) / 2})
    assert passes.merit(found) < passes.merit({"ndcg@10": 0.5})


def test_a_ranker_comes_back_from_its_directory(tmp_path: Path) -> None:
    ranker = tiny_ranker(dropout=0.3)
    save(ranker, tmp_path / "model", "# card\n")
    again = load(tmp_path / "model")
    assert again.tokenizer == ranker.tokenizer
    assert not again.model.training
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(again.model(ids).logits, ranker.model(ids).logits)
    assert {path.suffix for path in (tmp_path / "model").iterdir()} == {".json", ".md", ".safetensors"}


def test_a_directory_that_is_no_ranker_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot load the ranker"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(SourceError, match="type 'llama', which is no ranker"):
        load(tmp_path)
    save(tiny_ranker(), tmp_path / "model", "")
    (tmp_path / "model" / "items.json").write_text('["a"]')
    with pytest.raises(SourceError, match="names 1 items and scores 30"):
        load(tmp_path / "model")


def test_models_of_other_items_are_refused() -> None:
    ranker = tiny_ranker(items=3)
    check_items(ranker, Interactions(("i0", "i1", "i2"), {}), "some")
    with pytest.raises(ConfigError, match="some scores 3 items and the interactions hold 2, 1 of them in one alone"):
        check_items(ranker, Interactions(("i0", "i1"), {}), "some")


def test_a_fresh_ranker_follows_from_its_seed_and_needs_its_whole_shape() -> None:
    data = Interactions(tuple("abcdef"), {})
    shape = Shape(layers=1, hidden=8, heads=2, mlp=8)
    one, same, other = (fresh_ranker(data, shape, RankerTable(), seed).model for seed in (1, 1, 2))
    assert torch.equal(one.items.weight, same.items.weight)
    assert not torch.equal(one.items.weight, other.items.weight)
    for bad, said in [
        (Shape(layers=1, hidden=8, heads=2), "needs layers, hidden, heads and mlp"),
        (Shape(layers=1, hidden=9, heads=2, mlp=8), "hidden = 9 does not split into heads = 2"),
        (Shape(layers=1, hidden=8, heads=2, mlp=8, kv_heads=1), "kv_heads"),
    ]:
        with pytest.raises(ConfigError, match=said):
            fresh_ranker(data, bad, RankerTable(), 0)
