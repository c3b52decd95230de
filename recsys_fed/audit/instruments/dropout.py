"""Dropout: where noise is split over silos, a round that completes has all of it, whoever is missing."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from recsys_fed.audit.instruments.finding import Finding
from recsys_fed.audit.instruments.noise_scale import empty_silo, scale_findings
from recsys_fed.audit.instruments.residuals import Bench
from recsys_fed.audit.mechanisms.mechanism import SUM, promised_deviation
from recsys_fed.errors import PrivacyError

_LEAST_SILOS = 2


def dropout(bench: Bench) -> Iterator[Finding]:
    """Empty silos of which more and more do not answer: the noise on every sum that the server accepts."""
    if bench.request.noise_inside:
        return
    silos = max(bench.silos, _LEAST_SILOS)
    shared = replace(bench.request, noise_share=min(bench.request.noise_share, 1 / silos))
    schedule = replace(bench.schedule, config=replace(bench.schedule.config, silos=silos))
    nobody, promised = [empty_silo(bench)] * silos, promised_deviation(shared)
    for lost in sorted({0, 1, silos // 2}):
        try:
            sums = [
                bench.mechanism.observed(schedule, shared, nobody, release=2 * number, lost=range(lost))[SUM]
                for number in range(bench.repetitions)
            ]
        except PrivacyError:
            # The round is not accepted, so nothing is seen.
            continue
        name = f"sum of which {lost} of {silos} silos are missing"
        yield next(scale_findings(np.array(sums) / promised, stage=bench.request.stage, name=name))
