"""Over seeds: arms that differ by their seed alone, pooled, and what the teacher adds to held-out perplexity.

A student and its control of one seed see the same tokens in the same order, so they are compared seed by seed: the
mean over seeds of log(student's perplexity / control's), with Student's t interval. Seeds are the samples here; the
interval speaks of other seeds of this training on this corpus, and of no other corpus.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtr, stdtrit

from reports.load import Source
from reports.numbers import NBSP, percent, plural, span

LEVEL = 0.95


def over_seeds(source: Source) -> list[dict[str, Any]]:
    """One entry for each pool of arms, smallest models first, as report.json holds it; docs/report.md names its fields.

    Arms that are not trained to their end, or without an evaluation on held-out text, are left out.
    """
    logs = {arm: evaluations(source.training.get(arm, [])) for arm in source.pools if _finished(source, arm)}
    pools: dict[str, list[str]] = {}
    for arm in source.arms:
        if logs.get(arm):
            pools.setdefault(source.pools[arm], []).append(arm)
    pairs = {student: control for control, student in source.controls.items() if logs.get(control)}
    found = [_pool(source, pool, arms, pairs, logs) for pool, arms in pools.items()]
    return sorted(found, key=lambda one: (one["parameters"] or math.inf, one["role"] == "control"))


def _finished(source: Source, arm: str) -> bool:
    return bool(source.manifests.get(arm, {}).get("train", {}).get("status") == "finished")


def evaluations(log: Sequence[Mapping[str, Any]]) -> dict[int, tuple[int, float]]:
    """Step -> (tokens seen, held-out perplexity) from the lines of metrics.jsonl."""
    return {
        int(line["step"]): (int(line.get("tokens", 0)), float(line["eval"]["perplexity"]))
        for line in log
        if line.get("eval") and line["eval"].get("perplexity")
    }


def _pool(
    source: Source,
    pool: str,
    arms: list[str],
    pairs: Mapping[str, str],
    logs: Mapping[str, dict[int, tuple[int, float]]],
) -> dict[str, Any]:
    last = {arm: logs[arm][max(logs[arm])] for arm in arms}
    paired = [arm for arm in arms if arm in pairs]
    against = {source.pools.get(pairs[arm], pairs[arm]) for arm in paired}
    control = None
    if paired and len(against) == 1:
        ends = {arm: math.log(logs[arm][max(logs[arm])][1]) for one in paired for arm in (one, pairs[one])}
        logs_of_ratio = [ends[arm] - ends[pairs[arm]] for arm in paired]
        ratio = of_logs(logs_of_ratio) | {"p": p_of_no_difference(logs_of_ratio)}
        control = {"pool": against.pop(), "arms": [pairs[arm] for arm in paired], "ratio": ratio}
    tokens = sorted(set.intersection(*(set(logs[arm]) for arm in arms)))
    return {
        "pool": pool,
        "role": "control" if any(arm in source.controls for arm in arms) else "student",
        "arms": arms,
        "parameters": _parameters(source, arms),
        "tokens": fmean(tokens for tokens, _ in last.values()),
        "perplexity": of_logs([math.log(value) for _, value in last.values()]),
        "control": control,
        "by_tokens": [
            {
                "tokens": fmean(logs[arm][step][0] for arm in arms),
                "perplexity": of_logs([math.log(logs[arm][step][1]) for arm in arms])["estimate"],
            }
            for step in tokens
            if step > 0
        ],
    }


def _parameters(source: Source, arms: Sequence[str]) -> int | None:
    """The size of the pool's models; None where a manifest does not say, or where they differ."""
    sizes = {(source.manifests.get(arm, {}).get("train", {}).get("student") or {}).get("parameters") for arm in arms}
    return sizes.pop() if len(sizes) == 1 else None


def of_logs(values: Sequence[float], level: float = LEVEL) -> dict[str, Any]:
    """exp of the mean of logarithms with Student's t interval; one value has no interval."""
    n, mean = len(values), fmean(values)
    found: dict[str, Any] = {"estimate": math.exp(mean), "low": None, "high": None, "n": n, "df": n - 1}
    if n > 1:
        half = float(stdtrit(n - 1, (1 + level) / 2)) * stdev(values) / math.sqrt(n)
        found |= {"low": math.exp(mean - half), "high": math.exp(mean + half)}
    return found


def p_of_no_difference(values: Sequence[float]) -> float | None:
    """Two-sided p of Student's t test that the mean is 0; None for one value, or for values that do not vary."""
    if len(values) < 2 or (sd := stdev(values)) == 0:
        return None
    return 2 * float(stdtr(len(values) - 1, -abs(fmean(values)) * math.sqrt(len(values)) / sd))


def verdict(one: Mapping[str, Any]) -> str | None:
    """What the seeds allow to say about the teacher's part in a pool's perplexity; None without a control."""
    if not one["control"]:
        return None
    ratio, other = one["control"]["ratio"], one["control"]["pool"]
    change = f"{percent(abs(1 - ratio['estimate']))} {'below' if ratio['estimate'] < 1 else 'above'} that of {other}"
    if ratio["low"] is None:
        return f"{one['pool']}: held-out perplexity {change}, in one seed; an interval needs a second."
    interval = f"95{NBSP}% interval of the ratio {span(ratio['low'], ratio['high'], 1)}{NBSP}%"
    clear = ratio["high"] < 1 or ratio["low"] > 1
    return f"{one['pool']}: held-out perplexity {change} ({interval}, n = {plural(ratio['n'], 'seed')})" + (
        "." if clear else "; the interval includes no difference."
    )
