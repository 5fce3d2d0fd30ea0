"""What every arm costs, as a fraction of the teacher's: sizes exactly, times and energy from paired rounds.

Arms are measured in turns, so each round gives one ratio to the teacher; their geometric mean has Student's t interval
over rounds. It speaks of this machine as it was then. CO2 and money follow from what the study file states.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reports.load import Source
from reports.numbers import of_teacher
from reports.seeds import of_logs

EXACT = ("parameters", "parameters_without_embeddings", "bytes_on_disk", "bytes_in_memory", "flops_per_token")
ONCE = ("peak_memory_bytes", "peak_gpu_memory_bytes")  # measured once, at the end
TIMED = ("tokens_per_second", "time_to_first_token_seconds", "joules_per_1000_tokens")
STATED = ("co2_g_per_1000_tokens", "price_per_million_tokens")
JOULES = 3.6e6  # of a kWh
FEWER_BITS = 0.8  # bytes on disk shrank by so much more than parameters: these have fewer bits
CELL = ("prompt", "output", "batch")


def cost(costs: Mapping[str, Any], key: str) -> float | None:
    """A cost as one number: the median where it was measured several times, None where it was not."""
    value = costs.get(key)
    if isinstance(value, dict):
        value = value.get("median")
    return float(value) if isinstance(value, (int, float)) else None


def costs_json(source: Source, arm: str) -> dict[str, Any]:
    """An arm's costs as they were measured and as fractions of the teacher's; docs/report.md names the fields."""
    mine, teachers = source.costs.get(arm, {}), source.costs.get(source.teacher, {})
    if not mine:
        return {}
    found = {key: value for key, value in mine.items() if key not in ("rounds", "teacher_rounds", "viva")}
    found["cells"] = [_cell(source, arm, cell) for cell in mine.get("cells") or []]
    head = found["cells"][0] if found["cells"] else {}
    found |= {key: head.get(key) for key in STATED}
    ratios = {key: of_teacher(cost(mine, key), cost(teachers, key)) for key in (*EXACT, *ONCE, *TIMED)}
    intervals = {key: one for key, one in (head.get("of_teacher") or {}).items() if one}
    ratios |= {key: one["estimate"] for key, one in intervals.items()}
    if not same_energy(mine, teachers):
        ratios["joules_per_1000_tokens"] = None
    found["of_teacher"] = {key: value for key, value in ratios.items() if value is not None}
    found["of_teacher_interval"] = {key: one for key, one in intervals.items() if one["low"] is not None}
    return found


def speed_of(costs: Mapping[str, Any]) -> dict[str, Any] | None:
    """How many times faster than the teacher, from a block `costs` of report.json: `estimate`, `low`, `high`, `by`.

    By tokens a second; of arms that write nothing, by the time of one reading. None where neither is known.
    """
    ratios, limits = costs.get("of_teacher") or {}, costs.get("of_teacher_interval") or {}
    rate, time = TIMED[:2]
    if ratios.get(rate):
        known = limits.get(rate) or {"low": None, "high": None}
        return {"estimate": ratios[rate], "low": known["low"], "high": known["high"], "by": rate}
    if not ratios.get(time):
        return None
    known = limits.get(time)
    low, high = (1 / known["high"], 1 / known["low"]) if known else (None, None)
    return {"estimate": 1 / ratios[time], "low": low, "high": high, "by": time}


def size_of(costs: Mapping[str, Any]) -> tuple[float, str] | None:
    """A student's size as a fraction of the teacher's, and by what: parameters, or bytes on disk where quantised."""
    ratios = costs.get("of_teacher") or {}
    by_count, by_bytes = ratios.get("parameters"), ratios.get("bytes_on_disk")
    if by_bytes and by_count and by_bytes < FEWER_BITS * by_count:
        return by_bytes, "bytes_on_disk"
    return (by_count, "parameters") if by_count else (by_bytes, "bytes_on_disk") if by_bytes else None


def same_energy(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two arms' energy is known in the same way, as far as both say; only then may it be compared."""
    mine, others = one.get("energy_source"), other.get("energy_source")
    return not mine or not others or bool(mine == others)


def _cell(source: Source, arm: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    """One prompt length and batch: its spreads, CO2 and money where they are stated, ratios to the teacher."""
    mine = source.costs[arm]
    rounds = _rounds(mine.get("rounds"), cell)
    found: dict[str, Any] = {**cell, **dict.fromkeys(STATED)}
    joules = cost(cell, "joules_per_1000_tokens")
    if source.grid is not None and joules is not None:
        found["co2_g_per_1000_tokens"] = joules / JOULES * source.grid
    rounds_written = [one for one in rounds if one.get("tokens")]
    if source.price is not None and rounds_written:
        each = sorted(_seconds(one) / one["tokens"] for one in rounds_written)
        found["price_per_million_tokens"] = source.price / 3600 * 1e6 * each[len(each) // 2]
    if arm != source.teacher:
        found["of_teacher"] = _ratios(rounds, _rounds(mine.get("teacher_rounds"), cell), mine, source)
    return found


def _rounds(rounds: Sequence[Mapping[str, Any]] | None, cell: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in rounds or [] if all(one.get(key) == cell.get(key) for key in CELL)]


def _seconds(one: Mapping[str, Any]) -> float:
    """Seconds for all tokens of one measurement."""
    rest = one["tokens"] - one["batch"]
    return float(one["first_seconds"] + (rest / one["tokens_per_second"] if rest else 0.0))


def _ratios(
    mine: Sequence[Mapping[str, Any]], teachers: Sequence[Mapping[str, Any]], costs: Mapping[str, Any], source: Source
) -> dict[str, Any]:
    """Geometric means over rounds of the ratios to the teacher, with their intervals; None where there are none."""
    at = {one["round"]: one for one in teachers}
    pairs = [(one, at[one["round"]]) for one in mine if one["round"] in at]
    found: dict[str, Any] = {}
    for key, name in zip(TIMED, ("tokens_per_second", "first_seconds", "joules"), strict=True):
        known = [(a[name], b[name]) for a, b in pairs if a.get(name) and b.get(name)]
        if key == TIMED[-1] and not same_energy(costs, source.costs.get(source.teacher, {})):
            known = []
        found[key] = of_logs([math.log(a / b) for a, b in known]) if known else None
    return found
