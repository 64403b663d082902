"""Formatting of numbers in tables, summaries and pages, with significant digits on any scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

MISSING = "–"
SMALL = 0.01  # numbers below it get more decimals
TINY = 1e-4  # below it they are written with an exponent
HUGE = 1e15  # from here on float64 has no decimals left
RESOLUTION = 4  # significant digits of the distance between numbers that are rounded alike


def format_numbers(values: Sequence[float | None], decimals: int = 3, *, signed: bool = False) -> list[str]:
    """Format numbers that are read together, such as an estimate and its interval, with the same decimals.

    Args:
        values: The numbers; None and NaN are written as a dash.
        decimals: Decimals of numbers between 0.01 and 1e15, and significant digits of the largest number below 0.01.
        signed: Whether positive numbers have a plus sign.

    Returns:
        A text for each number.
    """
    magnitudes = [abs(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(magnitudes, default=0.0)
    kind = f".{decimals}f"
    if 0 < largest < TINY:
        kind = f".{max(0, decimals - 1)}e"
    elif 0 < largest < SMALL:
        kind = f".{decimals - 1 - math.floor(math.log10(largest))}f"
    elif largest >= HUGE:
        kind = f".{decimals}e"
    sign = "+" if signed else ""
    return [MISSING if value is None or math.isnan(value) else f"{value:{sign}{kind}}" for value in values]


def format_number(value: float | None, decimals: int = 3, *, signed: bool = False) -> str:
    """Format one number.

    Args:
        value: The number; None and NaN are written as a dash.
        decimals: As in `format_numbers`.
        signed: Whether positive numbers have a plus sign.

    Returns:
        The text.
    """
    return format_numbers([value], decimals, signed=signed)[0]


def format_interval(pair: Sequence[float] | None, decimals: int = 2, separator: str = "–") -> str:
    """Format the two ends of an interval with the same number of decimals.

    Args:
        pair: Lower and upper end, or None.
        decimals: As in `format_numbers`.
        separator: Text between the ends.

    Returns:
        The text; a dash where there is no interval.
    """
    return MISSING if pair is None else separator.join(format_numbers(list(pair), decimals))


def format_difference(value: float, low: float, high: float) -> str:
    """Format a signed difference and its interval.

    Args:
        value: The difference.
        low: Lower end.
        high: Upper end.

    Returns:
        A text such as `+0.120 [+0.020, +0.210]`.
    """
    middle, lower, upper = format_numbers([value, low, high], signed=True)
    return f"{middle} [{lower}, {upper}]"


def rounded_alike(values: Sequence[float]) -> list[float]:
    """Round numbers so that their differences keep four significant digits, to at least four decimals.

    Args:
        values: The numbers.

    Returns:
        The rounded numbers.
    """
    return [round(value, _decimals(values)) for value in values]


def format_alike(values: Sequence[float]) -> list[str]:
    """Format numbers of one distribution so that close values can be told apart.

    Args:
        values: The numbers.

    Returns:
        One text per number.
    """
    decimals = _decimals(values)
    small = 0 < max((abs(value) for value in values), default=0.0) < TINY
    if small:
        return [f"{value:.{RESOLUTION}g}" for value in values]
    return [_without_zeros(f"{value:.{decimals}f}") if abs(value) < HUGE else f"{value!r}" for value in values]


def format_labels(labels: Mapping[str, float]) -> list[tuple[str, str]]:
    """Format the distribution of labels.

    Args:
        labels: Counts of classes, or quantiles of a number and the fraction of zeros.

    Returns:
        Pairs of name and text.
    """
    quantiles = [name for name in labels if isinstance(labels[name], float) and not name.startswith("share ")]
    formatted = dict(zip(quantiles, format_alike([labels[name] for name in quantiles]), strict=True))
    return [(str(name), formatted.get(name) or f"{value:g}") for name, value in labels.items()]


def _decimals(values: Sequence[float]) -> int:
    spread = (max(values) - min(values)) if len(values) else 0.0
    spread = spread or max(map(abs, values), default=0.0)
    return max(RESOLUTION, RESOLUTION - math.floor(math.log10(spread))) if spread > 0 else RESOLUTION


def _without_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_duration(seconds: float) -> str:
    """Format a duration.

    Args:
        seconds: The duration.

    Returns:
        Seconds below two minutes, minutes below two hours, otherwise hours.
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
