"""Scale of the noise: too little of it, or of another shape, in an empty silo and in an ordinary one."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, kstest

from recsys_fed.audit.instruments.finding import Finding
from recsys_fed.audit.instruments.inputs import nobody, silo_of
from recsys_fed.audit.instruments.residuals import Bench
from recsys_fed.federation.release import SiloUsers


def noise_scale(bench: Bench) -> Iterator[Finding]:
    """Releases of an empty silo, which are noise and nothing else, and of an ordinary silo less its sum."""
    numbers = range(0, 2 * bench.repetitions, 2)
    for name, users in (("empty silo", empty_silo(bench)), ("ordinary silo", bench.users)):
        residuals = bench.residuals(users, releases=list(numbers))
        yield from scale_findings(residuals, stage=bench.request.stage, name=name)


def empty_silo(bench: Bench) -> SiloUsers:
    """A silo without users over the same catalogue."""
    return silo_of(nobody(bench.users.histories.n_items))


def scale_findings(residuals: npt.NDArray[np.float64], *, stage: str, name: str) -> Iterator[Finding]:
    """Whether residuals of independent noise have deviation 1 or more, and a normal shape.

    n times their mean square is chi^2 with n degrees of freedom; more noise than promised is no breach. The shape is
    tested at the deviation that was found (at 8 grid steps and more the discrete Gaussian is normal to this test).
    """
    flat = residuals.ravel()
    found = float(np.sqrt(np.mean(flat**2)))
    yield Finding(
        instrument=f"scale of the noise, {name}",
        stage=stage,
        measured=found,
        promised=1.0,
        unit="promised standard deviations, at least",
        p_value=float(chi2.cdf(flat @ flat, len(flat))),
    )
    shape = kstest(flat / max(found, 1e-300), "norm")
    yield Finding(
        instrument=f"shape of the noise, {name}",
        stage=stage,
        measured=float(shape.statistic),
        promised=0.0,
        unit="distance of the distribution functions",
        p_value=float(shape.pvalue),
    )
