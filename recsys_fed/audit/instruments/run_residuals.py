"""The same tests on a run that took place: what is left of its releases when the known sums are taken off."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recsys_fed.audit.instruments.finding import Finding
from recsys_fed.audit.instruments.independence import correlation_finding
from recsys_fed.audit.instruments.noise_scale import scale_findings
from recsys_fed.audit.mechanisms.mechanism import promised_deviation
from recsys_fed.federation.messages import Request

Integers = npt.NDArray[np.int64]
RunResiduals = Sequence[tuple[Request, Mapping[str, npt.NDArray[np.float64]]]]


def residuals_of_run(
    rounds: Iterable[tuple[Request, Mapping[str, Integers], Mapping[str, Integers]]],
) -> RunResiduals:
    """By round and view, in promised deviations: from what was asked, what was seen, and the sums without noise.

    Rounds without noise, and rounds of local steps, whose sums follow from their noise, are left out.
    """
    return [
        (request, {view: (seen[view] - sums[view]) / promised_deviation(request) for view in seen})
        for request, seen, sums in rounds
        if request.noise_multiplier and not request.noise_inside
    ]


def run_findings(residuals: RunResiduals) -> Iterator[Finding]:
    """Scale and shape in every round, over all views; independence between views and between rounds alike."""
    alike: defaultdict[tuple[str, tuple[int, ...], str], list[npt.NDArray[np.float64]]] = defaultdict(list)
    for request, by_view in residuals:
        stage = f"round {request.round}: {request.stage}"
        tables = list(by_view.values())
        yield from scale_findings(np.array(tables), stage=stage, name="the run itself")
        if len(tables) > 1:
            pairs = list(pairwise(tables))
            yield correlation_finding(pairs, stage=stage, name="silos, the run itself")
        for view, table in by_view.items():
            alike[(view, table.shape, request.stage)].append(table)
    in_turn = [pair for tables in alike.values() for pair in pairwise(tables)]
    if in_turn:
        yield correlation_finding(in_turn, stage="all rounds alike", name="rounds, the run itself")
