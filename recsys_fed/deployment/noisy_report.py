"""The counts of an experiment with noise that a ledger pays for, for readers who are to learn of nobody's outcome.

    released    users and successes of each variant, integers [n_variants, 2], plus N_Z(0, 2 noise_multiplier^2)

Unit: a user. Neighbouring relation: one user more or less. Sensitivity: a user is counted in one variant, that of the
first list, as one user and at most one success (`serving.experiment`), so the table changes by sqrt(2) in L2 at most.
Assumptions: bits of the operating system's generator; `Ledger.charge` refuses what goes beyond the limit, before
anything is counted. The ledger is one of its own: the silo's ledger holds what models cost, under other bytes.

What is compared and estimated from exact figures is not in it.
"""

import math
import secrets
from hashlib import sha256
from typing import Any

import numpy as np

from recsys_fed import checks
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.privacy.discrete_gaussian import discrete_gaussian
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.random_bits import RandomBits, secret_key
from recsys_fed.serving.experiment import experiment_report
from recsys_fed.serving.settings import ExperimentSettings
from recsys_fed.serving.store import FeedbackStore
from recsys_fed.signing import canonical, parse_canonical
from recsys_fed.versions import versions

_SENSITIVITY = math.sqrt(2.0)


def noisy_report(
    store: FeedbackStore, settings: ExperimentSettings, *, ledger: Ledger, noise_multiplier: float
) -> dict[str, Any]:
    """Charge a report, then count and add noise; every call is a release of its own.

    Returns:
        Experiment, rewards and window; of each variant noisy users and successes, which may be negative; the standard
        deviation of the noise; epsilon and delta of all that the ledger has ever charged.

    Raises:
        BudgetExceededError: it would cost more than is left; nothing was counted.
        PrivacyError: the ledger is not open with its key, or is a simulation's.
    """
    checks.positive(noise_multiplier=noise_multiplier)
    event = ReleaseEvent(
        noise_multiplier=noise_multiplier,
        released="experiment counts",
        l2_clip_norm=_SENSITIVITY,
        clipping="flat",
        round=0,
        stage="experiment",
        noise_source="operating-system",
        trainer="experiment",
    )
    run = f"experiment-{secrets.token_hex(8)}"
    request = sha256(canonical({"experiment": settings.name, "run": run})).hexdigest()
    ledger.charge(event, run=run, request=request, code_version=versions()["recsys-fed"])
    exact = experiment_report(store, settings)
    counts = np.array([[arm["users"], arm["successes"]] for arm in exact["variants"]], dtype=np.int64)
    deviation = noise_multiplier * _SENSITIVITY
    noisy = counts + discrete_gaussian(counts.shape, standard_deviation=deviation, bits=RandomBits(secret_key()))
    spending = ledger.spending()
    record = {
        **{name: exact[name] for name in ("experiment", "rewards", "window_hours")},
        "variants": [
            {"variant": arm["variant"], "users": users, "successes": successes}
            for arm, (users, successes) in zip(exact["variants"], noisy.tolist(), strict=True)
        ],
        "standard_deviation": deviation,
        "epsilon_spent": spending.epsilon,
        "delta": spending.guarantee.delta,
    }
    return parse_canonical(ledger.settle(run=run, request=request, payload=canonical(record)))
