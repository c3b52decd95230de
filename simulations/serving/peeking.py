"""A/A and A/B tests that are looked at after every user: how often a difference is claimed."""

import math

import numpy as np

from recsys_fed.serving.sequential_test import largest_log_wealth


def claims(*, tests: int, users: int, rates: tuple[float, float], level: float, seed: int) -> dict[str, float]:
    """Share of tests that ever claim a difference: by the test of `anytime`, and by a plain z-test at every look."""
    rng = np.random.default_rng(seed)
    zero, ours, plain = np.zeros(1), 0, 0
    for _ in range(tests):
        treated = rng.uniform(size=users) < 0.5
        outcomes = (rng.uniform(size=users) < np.where(treated, rates[1], rates[0])).astype(np.float64)
        most = largest_log_wealth(treated, outcomes, zero, share=0.5, level=level)[0]
        ours += bool(most >= math.log(1.0 / level))
        plain += _z_ever(treated, outcomes)
    return {"anytime": ours / tests, "z-test at every look": plain / tests}


def _z_ever(treated: np.ndarray, outcomes: np.ndarray) -> bool:
    """Whether |z| > 1.96 at any look from the hundredth user on."""
    n1, n0 = np.cumsum(treated), np.cumsum(~treated)
    s1, s0 = np.cumsum(outcomes * treated), np.cumsum(outcomes * ~treated)
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = (s1 + s0) / (n1 + n0)
        z = (s1 / n1 - s0 / n0) / np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n0))
    return bool((np.abs(z[100:]) > 1.96).any())
