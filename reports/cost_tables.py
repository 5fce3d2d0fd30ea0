"""Costs as a reader sees them: rows of the table of arms, every prompt length and batch, and 'x smaller, y faster'."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.compare import Cell, Row
from reports.costs import TIMED, cost, size_of, speed_of
from reports.load import Source
from reports.numbers import NBSP, NONE, joined, percent, plain_number, scaled, seconds, times


@dataclass(frozen=True)
class Claim:
    """What a paper says of its student: times smaller (parameters) and times faster than its teacher, and where."""

    name: str
    smaller: float
    faster: float
    text: str
    source: str


CLAIMS = (
    Claim("DistilBERT", 1 / 0.6, 1.63, "40 % smaller, 1.63× faster", "Sanh et al. 2019, arXiv 1910.01108, table 3"),
    Claim("TinyBERT", 7.5, 9.4, "7.5× smaller, 9.4× faster", "Jiao et al. 2020, arXiv 1909.10351, abstract"),
)
CLAIMS_NOTE = "Both are encoders against BERT-base, measured on other tasks and machines: a scale, not a competitor."


@dataclass(frozen=True)
class _Cost:
    key: str
    label: str
    show: Callable[[float | None], str]
    ratio: Callable[[float | None], str]
    better: str
    of_cell: bool = False  # depends on prompt, output and batch


def _bytes(value: float | None) -> str:
    return scaled(value, "B")


def _joules(value: float | None) -> str:
    return scaled(value, "J") if value is None or value >= 1000 else f"{plain_number(value)}{NBSP}J"


def _grams(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{plain_number(value)}{NBSP}g" if value >= 0.1 else f"{plain_number(1000 * value)}{NBSP}mg"


COSTS = (
    _Cost("parameters", "Parameters", scaled, percent, "lower"),
    _Cost("parameters_without_embeddings", "… without embeddings", scaled, percent, "lower"),
    _Cost("bytes_on_disk", "Size on disk", _bytes, percent, "lower"),
    _Cost("bytes_in_memory", "Weights in memory", _bytes, percent, "lower"),
    _Cost("peak_memory_bytes", "Peak memory", _bytes, percent, "lower"),
    _Cost("peak_gpu_memory_bytes", "Peak memory of the GPU", _bytes, percent, "lower"),
    _Cost("flops_per_token", "Operations a written token", scaled, percent, "lower", True),
    _Cost("tokens_per_second", "Tokens a second", plain_number, times, "higher", True),
    _Cost("time_to_first_token_seconds", "Time to first token", seconds, times, "lower", True),
    _Cost("joules_per_1000_tokens", "Energy of 1,000 tokens", _joules, times, "lower", True),
    _Cost("co2_g_per_1000_tokens", "CO2 of 1,000 tokens", _grams, times, "lower", True),
    _Cost("price_per_million_tokens", "Price of a million tokens", plain_number, times, "lower", True),
)
ENERGY = ("joules_per_1000_tokens", "co2_g_per_1000_tokens")


def cost_rows(source: Source, arms: Mapping[str, Any]) -> list[Row]:
    """Size, speed, memory and energy of all arms; what no arm has is left out. `arms` as in report.json."""
    rows = []
    for item in COSTS:
        costs = [arms[arm]["costs"] for arm in source.arms]
        if not any(cost(one, item.key) is not None for one in costs):
            continue
        kinds = {energy_kind(one) for one in costs if item.key in ENERGY and cost(one, item.key) is not None}
        notes = [_conditions(costs)] if item.of_cell else []
        notes += [next(iter(kinds))] if len(kinds) == 1 else []
        if item.key == ENERGY[1]:
            notes.append(f"at {source.grid:g} g a kWh")
        if item.key == "price_per_million_tokens":
            notes.append(f"at {source.price:g} an hour")
        cells = tuple(_number(item, one, at > 0, len(kinds) > 1) for at, one in enumerate(costs))
        rows.append(
            Row(label_of(item, no_writing(costs)), ", ".join(note for note in notes if note), item.better, cells)
        )
    return rows


READING = "Time of a reading"
"""What the time to the first token is called where arms write nothing."""


def label_of(item: _Cost, reading: bool) -> str:
    """What a cost is called; `reading`: where arms write nothing."""
    return READING if reading and item.key == TIMED[1] else item.label


def no_writing(costs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the arms write nothing: what is timed is a reading of the prompts."""
    outputs = [one["conditions"].get("output_tokens") for one in costs if one.get("conditions")]
    return bool(outputs) and all(one == 0 for one in outputs)


def energy_kind(costs: Mapping[str, Any]) -> str:
    """'measured' or 'estimated'."""
    return str((costs.get("energy_source") or {}).get("kind", ""))


def _number(item: _Cost, costs: Mapping[str, Any], against: bool, mixed: bool) -> Cell:
    """A cost of one arm; `against` the teacher, and saying how its energy is known where arms are `mixed`."""
    value = cost(costs, item.key)
    ratio = (costs.get("of_teacher") or {}).get(item.key) if against and value is not None else None
    text = "" if ratio is None else item.ratio(ratio)
    limits = (costs.get("of_teacher_interval") or {}).get(item.key)
    if limits and text:
        text += f"; {_range(limits)}"
    return Cell(item.show(value), text, energy_kind(costs) if mixed and value is not None else "")


def _range(limits: Mapping[str, Any]) -> str:
    return " to ".join(f"{end:.2f}" if end < 100 else plain_number(end) for end in (limits["low"], limits["high"]))


def _conditions(costs: list[Mapping[str, Any]]) -> str:
    known = [one["conditions"] for one in costs if one.get("conditions", {}).get("prompt_tokens")]
    return f"prompt {known[0]['prompt_tokens']}, batch {known[0]['batch']}" if known else ""


CELL_HEADER = (
    *("prompt", "batch", "arm", "time to first token", "tokens a second", "energy of 1,000 tokens"),
    *("CO2 of 1,000", "price of a million"),
)


def cell_header(source: Source, arms: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the columns of `cell_lines`."""
    reading = no_writing([arms[arm]["costs"] for arm in source.arms])
    return tuple(READING.lower() if reading and name == "time to first token" else name for name in CELL_HEADER)


Parts = tuple[str, str]
"""What a cell of a table says, and below it in small letters the ratio to the teacher."""


def cell_lines(source: Source, arms: Mapping[str, Any]) -> list[tuple[Parts, ...]]:
    """A line for each prompt length, batch and arm: medians with quartiles, ratios to the teacher with intervals."""
    found: dict[tuple[int, int], list[tuple[Parts, ...]]] = {}
    for arm in source.arms:
        for cell in arms[arm]["costs"].get("cells") or []:
            head = [(str(cell["prompt"]), ""), (str(cell["batch"]), ""), (arm, "")]
            ratios = cell.get("of_teacher") or {}
            if "left_out" in cell:
                numbers = [(cell["left_out"], ""), *[(NONE, "")] * (len(CELL_HEADER) - 4)]
            else:
                numbers = [(_quartiles(cell.get(name), show), _ratio(ratios.get(name))) for name, show in SHOWN]
                numbers.append((_grams(cell["co2_g_per_1000_tokens"]), ""))
                numbers.append((plain_number(cell["price_per_million_tokens"]), ""))
            found.setdefault((cell["prompt"], cell["batch"]), []).append((*head, *numbers))
    return [line for lines in found.values() for line in lines]


SHOWN: tuple[tuple[str, Callable[[float | None], str]], ...] = (
    ("time_to_first_token_seconds", seconds),
    ("tokens_per_second", plain_number),
    ("joules_per_1000_tokens", _joules),
)


def _quartiles(spread: Mapping[str, Any] | None, show: Callable[[float | None], str]) -> str:
    if not spread:
        return NONE
    if "lower_quartile" not in spread:
        return show(spread["median"])
    return f"{show(spread['median'])} ({show(spread['lower_quartile'])} to {show(spread['upper_quartile'])})"


def _ratio(limits: Mapping[str, Any] | None) -> str:
    if not limits:
        return ""
    return f"{times(limits['estimate'])}" + ("" if limits["low"] is None else f" ({_range(limits)})")


def smaller_faster(source: Source, arms: Mapping[str, Any]) -> list[str]:
    """One sentence a student: how many times smaller and faster than the teacher, and what of its energy it needs."""
    said = []
    for arm in source.students:
        costs = arms[arm]["costs"]
        facts = []
        if size := size_of(costs):
            facts.append(f"{times_more(1 / size[0], 'smaller', 'larger')} ({SIZES[size[1]]})")
        if speed := speed_of(costs):
            limits = {key: speed[key] for key in ("low", "high")}
            if limits["low"] and speed["estimate"] < 1:
                limits = {"low": 1 / speed["high"], "high": 1 / speed["low"]}
            more = f"{_range(limits)}, " if limits["low"] else ""
            what = f"{SPEEDS[speed['by']]}, {_conditions([costs])}".rstrip(", ")
            facts.append(f"{times_more(speed['estimate'], 'faster', 'slower')} ({more}{what})")
        ratios = costs.get("of_teacher") or {}
        if ratios.get("joules_per_1000_tokens"):
            kind = energy_kind(costs)
            facts.append(f"at {times(ratios['joules_per_1000_tokens'])} the energy a token ({kind})")
        if facts:
            said.append(f"{arm} is {joined(facts)}.")
    return said


SIZES = {"parameters": "parameters", "bytes_on_disk": "bytes on disk"}
SPEEDS = {"tokens_per_second": "tokens a second", "time_to_first_token_seconds": "time of a reading"}


def times_more(ratio: float, more: str, less: str) -> str:
    """1.36 -> '1.36× smaller', 0.5 -> '2.00× larger'."""
    return f"{times(ratio)} {more}" if ratio >= 1 else f"{times(1 / ratio)} {less}"


def claim_lines() -> list[str]:
    """What DistilBERT and TinyBERT claim, with their sources."""
    return [f"{claim.name}: {claim.text} ({claim.source})." for claim in CLAIMS]
