"""What an instrument found, with the probability of such a finding if the mechanism is right."""

from dataclasses import asdict, dataclass
from typing import Any

# Chance that a whole set of instruments flags a mechanism that is right, shared equally by its tests.
FAMILY_ERROR = 1e-3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One test.

    Attributes:
        instrument: which one.
        stage: of the release that was tested.
        measured, promised: the figure and what it should be (or be at most, or at least), in `unit`.
        unit: of both.
        p_value: chance of a figure at least as far off if the mechanism is right; 0 or 1 where chance has no part.
    """

    instrument: str
    stage: str
    measured: float
    promised: float
    unit: str
    p_value: float

    def flagged(self, tests: int) -> bool:
        """Whether the figure is too far off for one of `tests` tests."""
        return self.p_value < FAMILY_ERROR / max(tests, 1)

    def to_record(self, tests: int) -> dict[str, Any]:
        """All fields and the verdict as JSON values."""
        return asdict(self) | {"flagged": self.flagged(tests)}


def flagged(findings: list[Finding]) -> list[Finding]:
    """Those that a set of instruments flags."""
    return [finding for finding in findings if finding.flagged(len(findings))]
