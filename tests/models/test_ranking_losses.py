"""The ranker's losses and weights against plain float64 formulas; measures against counts by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.models.ranker import losses
from harness.models.ranker.measures import NAMES, average_precision, measures, ndcg, precision, recall


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_loss_on_observed_items_is_binary_cross_entropy() -> None:
    positive_N, negative_NS = drawn(4), drawn(4, 3, seed=1)
    counted_NS = torch.tensor([[True, True, False]] * 4)
    found = losses.observed_loss(positive_N, negative_NS, counted_NS)
    for n in range(4):
        expected = -math.log(sigmoid(positive_N[n])) - sum(
            math.log(1 - sigmoid(negative_NS[n, s])) for s in range(3) if counted_NS[n, s]
        )
        assert float(found[n]) == pytest.approx(expected, rel=1e-12)


def test_the_ranking_loss_is_the_weighted_sum_of_log_sigmoids() -> None:
    scores_NK, weight_NK = drawn(4, 5), drawn(4, 5, seed=1).abs()
    found = losses.ranking_loss(scores_NK, weight_NK)
    for n in range(4):
        expected = -sum(float(weight_NK[n, k]) * math.log(sigmoid(scores_NK[n, k])) for k in range(5))
        assert float(found[n]) == pytest.approx(expected, rel=1e-12)


def test_gradients_are_those_of_the_losses() -> None:
    positive_N, negative_NS, counted = drawn(3).requires_grad_(), drawn(3, 4, seed=1).requires_grad_(), drawn(3, 4) > 0
    assert torch.autograd.gradcheck(lambda p, n: losses.observed_loss(p, n, counted), (positive_N, negative_NS))
    weight_NK = drawn(3, 4, seed=2).abs()
    assert torch.autograd.gradcheck(lambda s: losses.ranking_loss(s, weight_NK), (negative_NS,))


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 10.0])
def test_weights_by_place_fall_exponentially_and_sum_to_one(sharpness: float) -> None:
    raw = [math.exp(-r / sharpness) for r in range(1, 11)]
    found = losses.place_weights(10, sharpness)
    assert found.tolist() == pytest.approx([one / sum(raw) for one in raw], rel=1e-6)


def test_a_large_sharpness_weighs_all_places_alike_and_a_small_one_the_first_alone() -> None:
    assert losses.place_weights(4, 1e9).tolist() == pytest.approx([0.25] * 4)
    assert losses.place_weights(4, 0.01).tolist() == pytest.approx([1.0, 0, 0, 0])


def test_what_the_student_places_too_low_weighs_and_nothing_else() -> None:
    rank_NK = torch.tensor([[1, 2, 3], [4, 1, 500]])
    found = losses.discrepancy_weights(rank_NK, 0.1)
    assert found[0].tolist() == [0, 0, 0]  # every item stands where the teacher has it
    assert found[1].tolist() == pytest.approx([math.tanh(0.1 * 3), 0.0, math.tanh(0.1 * 497)])


def test_hybrid_weights_are_the_products_and_sum_to_one_when_asked() -> None:
    place_K, off_NK = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]])
    plain = losses.hybrid_weights(place_K, off_NK, normalise=False)
    assert plain.tolist() == [pytest.approx([0, 0.15, 0.1]), [0, 0, 0]]
    assert losses.hybrid_weights(place_K, off_NK, normalise=True).tolist() == [pytest.approx([0, 0.6, 0.4]), [0, 0, 0]]


def test_ranks_are_places_in_the_sorted_list() -> None:
    scores_NV = drawn(5, 40)
    item_NK = torch.tensor([[0, 7, 39]] * 5)
    found = losses.ranks_of(scores_NV, item_NK)
    for n in range(5):
        order = (-scores_NV[n]).argsort().tolist()
        assert found[n].tolist() == [order.index(item) + 1 for item in item_NK[n].tolist()]


def test_ranks_from_a_sample_are_the_ranks_when_the_sample_is_everything_and_near_them_else() -> None:
    scores_NV, items = drawn(3, 400), 400
    item_NK = torch.tensor([[0, 7, 39]] * 3)
    exact_NK = losses.ranks_of(scores_NV, item_NK)
    mine_NK = scores_NV.gather(1, item_NK)
    whole_NK = losses.sampled_ranks(scores_NV, mine_NK, items)
    assert (whole_NK - exact_NK).abs().max() <= 1
    some = torch.from_numpy(np.random.default_rng(0).integers(items, size=(3, 100)))
    near_NK = losses.sampled_ranks(scores_NV.gather(1, some), mine_NK, items)
    # Three standard errors of a share of 100.
    assert ((near_NK - exact_NK).abs() <= 3 * 0.05 * items).all()
    assert not torch.equal(near_NK, exact_NK)


def test_measures_by_hand() -> None:
    """Relevant items on places 1, 4 and 20."""
    ranks = [4, 1, 20]
    assert precision(ranks, 3) == pytest.approx(1 / 3)
    assert precision(ranks, 5) == pytest.approx(2 / 5)
    assert recall(ranks, 5) == pytest.approx(2 / 3)
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(ranks, 5) == pytest.approx((1 + 1 / math.log2(5)) / best)
    assert ndcg([1, 2, 3, 4, 5, 6], 3) == pytest.approx(1.0)
    assert average_precision(ranks) == pytest.approx((1 / 1 + 2 / 4 + 3 / 20) / 3)


@given(st.integers(1, 60))
def test_with_one_relevant_item_the_measures_are_functions_of_its_rank(rank: int) -> None:
    found = measures([rank])
    assert tuple(found) == NAMES
    assert found["map"] == pytest.approx(1 / rank)
    for cut in (3, 5, 10):
        inside = rank <= cut
        assert found[f"recall@{cut}"] == float(inside)
        assert found[f"precision@{cut}"] == pytest.approx(inside / cut)
        assert found[f"ndcg@{cut}"] == pytest.approx(inside / math.log2(1 + rank))
