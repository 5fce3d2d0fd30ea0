"""Numbers as a reader wants them: few digits, a unit, and the teacher's number as the measure of all."""

from typing import Any

NBSP = "\u00a0"
NONE = "–"


def percent(value: float | None, digits: int = 0) -> str:
    """0.931 -> '93 %'."""
    return NONE if value is None else f"{100 * value:.{digits}f}{NBSP}%".replace("-", "−")


def times(value: float | None) -> str:
    """1.7 -> '1.70×'; larger numbers with fewer digits."""
    if value is None:
        return NONE
    return f"{value:.2f}×" if value < 10 else f"{value:,.0f}×" if value < 1e7 else f"{plain_number(value)}×"


def plain_number(value: float | None) -> str:
    """About three significant digits, no exponent up to ten million."""
    if value is None:
        return NONE
    size = abs(value)
    if size >= 1e7:
        return f"{value:.2e}".replace("e+", "e")
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def scaled(value: float | None, unit: str = "") -> str:
    """134515008 -> '134.5 M': thousands as k, M, G, T."""
    if value is None:
        return NONE
    for factor, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.1f}{NBSP}{sign}{unit}"
    return f"{value:.0f}{NBSP}{unit}".strip()


def seconds(value: float | None) -> str:
    """0.213 -> '213 ms', 2.13 -> '2.13 s', 0.000213 -> '213 µs'."""
    if value is None:
        return NONE
    if value >= 1:
        return f"{value:.2f}{NBSP}s"
    if value < 1e-3:
        return f"{1e6 * value:.0f}{NBSP}µs"
    return f"{1000 * value:.{0 if value >= 0.01 else 1}f}{NBSP}ms"


def p_value(value: float | None) -> str:
    """Three decimals, and never zero."""
    return NONE if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def signed(value: float | None) -> str:
    """-0.591 -> '−0.59'."""
    return NONE if value is None else f"{value:+.2f}".replace("-", "−")


def span(low: float | None, high: float | None, digits: int = 0) -> str:
    """The two ends of an interval of a fraction: '88 to 98'."""
    if low is None or high is None:
        return NONE
    return f"{100 * low:.{digits}f} to {100 * high:.{digits}f}"


def fraction_text(fraction: dict[str, Any] | None) -> str:
    """A fraction with its interval, or why there is none."""
    if not fraction:
        return NONE
    text = percent(fraction["estimate"])
    if fraction["unbounded"]:
        return f"{text} (no bounded interval)"
    if fraction["low"] is None:
        return f"{text} (no interval)"
    return f"{text} ({span(fraction['low'], fraction['high'])})"


def of_teacher(value: float | None, teacher: float | None) -> float | None:
    """A number as a fraction of the teacher's; None where the teacher's is 0 or missing."""
    if value is None or not teacher:
        return None
    return value / teacher


def plural(n: int, word: str) -> str:
    """'1 rater', '2,480 ratings'."""
    return f"{n:,}{NBSP}{word}" + ("" if n == 1 else "s")


def joined(words: list[str]) -> str:
    """'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
