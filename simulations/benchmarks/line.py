"""One measured figure, and whether it keeps its bar."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Line:
    """A figure; smaller is better wherever there is a bar.

    Attributes:
        name: what was measured.
        value: the figure.
        unit: its unit.
        bar: the figure must stay below it; None where nothing is promised.
    """

    name: str
    value: float
    unit: str
    bar: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the figure is below its bar; None without one. NaN holds nothing."""
        return None if self.bar is None else self.value < self.bar

    def to_dict(self) -> dict[str, object]:
        """The line as JSON values."""
        return {
            "name": self.name,
            "value": float(f"{self.value:.4g}"),
            "unit": self.unit,
            "bar": self.bar,
            "holds": self.holds,
        }
