"""Independence of the noise: between releases, between silos, and between the entries of one table."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, norm

from recsys_fed.audit.instruments.finding import Finding
from recsys_fed.audit.instruments.noise_scale import empty_silo
from recsys_fed.audit.instruments.residuals import Bench

_RELEASES = 4
_SILOS = 3

Table = npt.NDArray[np.float64]


def independence(bench: Bench) -> Iterator[Finding]:
    """The same request four times in a row, of three silos; noise that comes back shows as a correlation."""
    nobody, stage = empty_silo(bench), bench.request.stage
    by_silo = [bench.residuals(nobody, releases=range(_RELEASES), silo=silo) for silo in range(_SILOS)]
    in_turn = [(one, two) for one, two in pairwise(by_silo[0])]
    yield correlation_finding(in_turn, stage=stage, name="releases")
    across = [(one[0], two[0]) for one, two in pairwise(by_silo)]
    yield correlation_finding(across, stage=stage, name="silos")
    # A silo's release against another silo's later one: keys that differ by silo + release only.
    shifted = [(one[number + 1], two[number]) for one, two in pairwise(by_silo) for number in range(2)]
    yield correlation_finding(shifted, stage=stage, name="silos one release apart")
    yield from entries_findings(by_silo[0], stage=stage)


def correlation_finding(pairs: list[tuple[Table, Table]], *, stage: str, name: str) -> Finding:
    """The largest correlation of two tables: normal with deviation 1 / sqrt(entries) if they share nothing."""
    found = [(_correlation(one, two), one.size) for one, two in pairs]
    worst, size = max(found, key=lambda pair: abs(pair[0]))
    p_value = min(1.0, len(found) * float(2 * norm.sf(abs(worst) * np.sqrt(size))))
    return Finding(
        instrument=f"independence of the noise between {name}",
        stage=stage,
        measured=worst,
        promised=0.0,
        unit="correlation",
        p_value=p_value,
    )


def entries_findings(residuals: Table, *, stage: str) -> Iterator[Finding]:
    """Whether entries of a table share noise: sums over columns have the variance of independent entries."""
    _, rows, columns = residuals.shape
    for name, axis, length in (("rows", 1, rows), ("columns", 2, columns)):
        if length == 1:
            continue
        sums = residuals.sum(axis=axis).ravel()
        square = float(sums @ sums) / length / float(np.mean(residuals**2))
        p_value = 2 * min(float(chi2.sf(square, len(sums))), float(chi2.cdf(square, len(sums))))
        yield Finding(
            instrument=f"independence of the noise between {name}",
            stage=stage,
            measured=square / len(sums),
            promised=1.0,
            unit="variance of sums over that of independent entries",
            p_value=min(1.0, p_value),
        )
    neighbours = [(residuals[:, :-1].ravel(), residuals[:, 1:].ravel())] if rows > 1 else []
    if neighbours:
        yield correlation_finding(neighbours, stage=stage, name="neighbouring rows")


def _correlation(one: Table, two: Table) -> float:
    left, right = one.ravel(), two.ravel()
    length = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / length if length else 0.0
