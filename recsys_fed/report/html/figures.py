"""Numbers as the pages show them."""

import math
from typing import Any


def number(value: Any, digits: int = 3) -> str:
    """A figure with so many decimals; "inf" and missing ones as they are."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return "inf" if math.isinf(value) else f"{value:,.{digits}f}"


def interval(figure: dict[str, float], digits: int = 2) -> str:
    """A figure with its limits."""
    return f"{figure['value']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def finite(value: Any) -> float | None:
    """A number that a chart can hold, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
