"""The first round after counts of nobody, as the checks ask a mechanism for it, beside ordinary users."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import sparse

from recsys_fed.audit._mechanism import Mechanism
from recsys_fed.audit.checks._conformance import Stand, conformance
from recsys_fed.audit.checks._noise import flagged_findings
from recsys_fed.config import FederationConfig
from recsys_fed.federation.planning import PublicCatalogue, planned_schedule
from recsys_fed.federation.schedule import request
from recsys_fed.trainers.registry import configured_trainer

N_ITEMS = 60


def first_round(
    config: FederationConfig, *, change: Callable[[Any, np.random.Generator], Any] = lambda state, _: state
) -> Stand:
    """The round of the plan after the counts; `change` is made to the trainer's state before it."""
    schedule = planned_schedule(config, PublicCatalogue(n_items=N_ITEMS))
    rng = np.random.default_rng(0)
    counts = torch.from_numpy(100 * rng.random((N_ITEMS, 1)))
    state = schedule.trainer.step(schedule.state, schedule.stages[0], counts, noise_std=1.0, n_silos=2)
    schedule = replace(schedule, round=1, state=change(state, rng))
    ordinary = sparse.random(12, N_ITEMS, density=0.3, format="csr", rng=rng, dtype=np.float32)
    ordinary.data[:] = 1.0
    return Stand(rounds=[(schedule, request(schedule))], ordinary=ordinary, silos=2, delta=1e-6, public_seed=0)


def flagged_of(config: FederationConfig, stand: Stand, breakage=None):
    """What the checks flag of the deployed mechanism, or of a broken copy."""
    mechanism = Mechanism(trainer=configured_trainer(config), key=5)
    return flagged_findings(conformance(breakage.of(mechanism) if breakage else mechanism, stand))
