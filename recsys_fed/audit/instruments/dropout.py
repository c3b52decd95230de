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
    shared = bench.request
    if not shared.masked:
        shared = replace(shared, noise_share=min(shared.noise_share, 1 / silos))
    schedule = replace(bench.schedule, config=replace(bench.schedule.config, silos=silos))
    nobody, promised = [empty_silo(bench)] * silos, promised_deviation(shared)
    for lost in sorted({0, 1, silos // 2, silos - (shared.threshold or silos)}):
        try:
            sums = [bench.mechanism.observed(schedule, shared, nobody, lost=range(lost))[SUM]]
        except PrivacyError:
            # The round is not accepted, so nothing is seen.
            continue
        # Whether a round is accepted does not depend on the noise: the others need no server.
        for number in range(2, 2 * bench.repetitions, 2):
            there = range(lost, silos)
            releases = [bench.mechanism.release(shared, nobody[n], silo=n, release=number) for n in there]
            sums.append(np.sum(releases, axis=0, dtype=np.int64))
        name = f"sum of which {lost} of {silos} silos are missing"
        yield next(scale_findings(np.array(sums) / promised, stage=bench.request.stage, name=name))
