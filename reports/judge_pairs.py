"""A judge's comparisons of two answers: who wins, by which fraction, and what swapping the positions does."""

import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reports.judge_records import Judging, Pairing
from reports.stats import judges as stats
from reports.stats.cells import Floats, Ints, aligned
from reports.tidy import Tidy


@dataclass(frozen=True)
class Compared:
    """Comparisons of one arm with another, one row a scenario seen in both orders [n].

    `after` are verdicts with the arm shown second, `before` with it shown first: 1 the arm won, -1 it lost, 0 a tie.
    Score tables [n, 2] hold the arm's score and the other's; `longer` is 1 where the arm's answer is the longer one.
    """

    scenarios: tuple[str, ...]
    after: Ints
    before: Ints
    scores_after: Floats
    scores_before: Floats
    longer: Ints

    @property
    def outcome(self) -> Ints:
        """1 or -1 where both orders name the same winner, else a tie."""
        return np.where(self.after == self.before, self.after, 0)

    @property
    def scores(self) -> Floats:
        return (self.scores_after + self.scores_before) / 2


def compared(pairings: Iterable[Pairing], arm: str, against: str) -> Compared:
    """The comparisons of two arms; scenarios seen in one order only are left out."""
    orders: dict[str, dict[str, Pairing]] = {}
    for one in pairings:
        if {one.first, one.second} == {arm, against}:
            orders.setdefault(one.scenario, {})[one.first] = one
    both = {scenario: found for scenario, found in sorted(orders.items()) if len(found) == 2}

    def won(one: Pairing) -> int:
        return 0 if one.winner == "tie" else 1 if (one.winner == "first") == (one.first == arm) else -1

    def scores(one: Pairing) -> tuple[float, float]:
        return (one.score_first, one.score_second) if one.first == arm else (one.score_second, one.score_first)

    after, before = ([found[name] for found in both.values()] for name in (against, arm))
    return Compared(
        tuple(both),
        np.array([won(one) for one in after], dtype=np.int64),
        np.array([won(one) for one in before], dtype=np.int64),
        np.array([scores(one) for one in after], dtype=np.float64).reshape(-1, 2),
        np.array([scores(one) for one in before], dtype=np.float64).reshape(-1, 2),
        np.array([np.sign(one.length_first - one.length_second) for one in before], dtype=np.int64),
    )


def over_pairings(judging: Judging, people: Tidy | None, arms: tuple[str, ...], seed: int) -> list[dict[str, Any]]:
    """One block for each judge that compared, as report.json holds them under `judges.pairwise`."""
    found = []
    for judge in judging.judges("pairwise"):
        own = [one for one in judging.pairings if one.judge == judge]
        pairs = [(arm, against) for at, against in enumerate(arms) for arm in arms[at + 1 :]]
        blocks, every = [], []
        for arm, against in pairs:
            rows = compared(own, arm, against)
            if rows.scenarios:
                words = [judge, arm, against]
                rng = np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in words)])
                blocks.append(pair_json(rows, arm, against, rng) | {"people": _people(rows, people, arm, against)})
                every.append(rows)
        block: dict[str, Any] = {"judge": judge, "pairs": blocks, "swap": swap_json(every), "own": None}
        block["one_order_only"] = len(own) - 2 * sum(len(rows.scenarios) for rows in every)
        if people is not None:
            block["own"] = _favour(own, people, arms, judging.own.get(judge, ()))
        found.append(block)
    return found


def pair_json(rows: Compared, arm: str, against: str, rng: np.random.Generator) -> dict[str, Any]:
    """One pair of arms: outcomes over both orders and in each, sums of scores, longer answers."""
    orders = {}
    for name, verdict, scores in (
        ("shown_second", rows.after, rows.scores_after),
        ("shown_first", rows.before, rows.scores_before),
    ):
        orders[name] = {**_shares(verdict), "fraction": asdict(stats.sum_fraction(scores[:, 0], scores[:, 1], rng))}
    return {
        "arm": arm,
        "against": against,
        "n": len(rows.scenarios),
        **_shares(rows.outcome),
        "fraction": {"judge_only": True, **asdict(stats.sum_fraction(rows.scores[:, 0], rows.scores[:, 1], rng))},
        "orders": orders,
        "swap": swap_json([rows]),
        "longer_wins": asdict(stats.longer_wins(rows.outcome, rows.longer)),
    }


def swap_json(many: list[Compared]) -> dict[str, Any] | None:
    """What swapping positions does, over one or several pairs of arms; scenarios of one name are one cluster."""
    if not many:
        return None
    names = {name: at for at, name in enumerate(sorted({name for rows in many for name in rows.scenarios}))}
    scenario = np.array([names[name] for rows in many for name in rows.scenarios], dtype=np.int64)
    # By place: shown first, the arm's win is the first place's; shown second, it is the second's.
    forward = np.concatenate([rows.before for rows in many])
    backward = -np.concatenate([rows.after for rows in many])
    lead = np.concatenate([(_lead(rows.scores_before) - _lead(rows.scores_after)) / 2 for rows in many])
    found = stats.swap(forward, backward, lead, scenario)
    return None if found is None else asdict(found)


def _lead(scores: Floats) -> Floats:
    return np.asarray(scores[:, 0] - scores[:, 1])


def _shares(outcome: Ints) -> dict[str, float]:
    return {
        "win": float(np.mean(outcome > 0)),
        "tie": float(np.mean(outcome == 0)),
        "loss": float(np.mean(outcome < 0)),
    }


def _signs(people: Tidy, arm: str, against: str) -> dict[str, float]:
    """Which of two arms people rate higher in the mean, by scenario: 1, 0 or -1, over common cells."""
    if arm not in people.arms or against not in people.arms or not people.has("satisfaction"):
        return {}
    cells = aligned(people.measure("satisfaction")[0], people.arms.index(arm), people.arms.index(against))
    sums = np.bincount(cells.scenario, cells.student - cells.teacher)
    return {people.scenarios[one]: float(np.sign(round(sums[one], 9))) for one in np.unique(cells.scenario)}


def _people(rows: Compared, people: Tidy | None, arm: str, against: str) -> dict[str, Any] | None:
    """How often judge and people prefer the same answer, of scenarios that both decided."""
    signs = {} if people is None else _signs(people, arm, against)
    known = [(one, signs[name]) for one, name in zip(rows.outcome, rows.scenarios, strict=True) if name in signs]
    if not known:
        return None
    decided = np.array([float(one == sign) for one, sign in known if one and sign])
    same = stats.clustered_mean(decided, np.arange(len(decided), dtype=np.int64))
    return {"n": len(known), "undecided": len(known) - len(decided), "same": asdict(same)}


def _favour(own: list[Pairing], people: Tidy, arms: tuple[str, ...], mine: tuple[str, ...]) -> dict[str, Any] | None:
    """By how much more often a judge than people lets its own arm win (wins less losses, over both orders)."""
    gaps, where = [], []
    for arm in mine:
        for against in arms:
            if against in mine or arm not in arms:
                continue
            rows = compared(own, arm, against)
            signs = _signs(people, arm, against)
            for at, name in enumerate(rows.scenarios):
                if name in signs:
                    gaps.append((rows.after[at] + rows.before[at]) / 2 - signs[name])
                    where.append(name)
    if not gaps:
        return None
    codes = {name: at for at, name in enumerate(sorted(set(where)))}
    found = stats.clustered_mean(np.array(gaps), np.array([codes[name] for name in where], dtype=np.int64))
    return {"arms": list(mine), **asdict(found)}
