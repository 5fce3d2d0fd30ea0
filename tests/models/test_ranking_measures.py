"""The measures of rankings are those of ir-measures, which information retrieval takes its numbers from."""

import random

import pytest

from harness.models.ranker.measures import NAMES, measures

ir = pytest.importorskip("ir_measures", reason="ir-measures is not installed")
THEIRS = {
    **{f"{ours}@{cut}": theirs @ cut for ours, theirs in (("ndcg", ir.nDCG), ("precision", ir.P), ("recall", ir.R))
       for cut in (3, 5, 10)},
    "map": ir.AP,
}  # fmt: skip


@pytest.mark.parametrize("relevant", [1, 2, 7])
def test_a_list_is_as_good_as_they_say(relevant: int) -> None:
    rng = random.Random(relevant)
    ranks = {f"u{number}": rng.sample(range(1, 31), relevant) for number in range(20)}
    wanted = [ir.Qrel(user, str(rank), 1) for user, places in ranks.items() for rank in places]
    lists = [ir.ScoredDoc(user, str(rank), -float(rank)) for user in ranks for rank in range(1, 31)]
    found = {(one.query_id, one.measure): one.value for one in ir.iter_calc(THEIRS.values(), wanted, lists)}
    assert set(THEIRS) == set(NAMES)
    for user, places in ranks.items():
        ours = measures(places)
        for name, measure in THEIRS.items():
            assert ours[name] == pytest.approx(found[user, measure], abs=1e-4), (user, name)  # theirs has four digits
