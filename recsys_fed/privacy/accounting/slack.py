"""What is left of delta once the events have taken what they cost outright."""

import math
from collections.abc import Iterable

from recsys_fed.privacy.events import PrivacyEvent


def delta_left(events: Iterable[PrivacyEvent], *, delta: float) -> float:
    """Return delta less the slack of all events; 0 or below means that no epsilon is enough.

    Reason: but for an event of probability `slack`, which does not depend on the data, each release is the mechanism
    that its event describes. If those compose to (epsilon, delta - sum of slacks), the releases are
    (epsilon, delta)-differentially private by the union bound, chosen adaptively or not.
    """
    return delta - math.fsum(event.slack for event in events)
