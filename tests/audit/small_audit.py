"""A small audited run, and audits of it by replay with fresh coins and keys."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from scipy import sparse

from recsys_fed.audit._audited_run import canary_data, deployed_mechanism, run_with_canaries
from recsys_fed.audit._replays import Outcome, Replay, attackable, directions
from recsys_fed.audit.audit import AuditSettings, _stand
from recsys_fed.audit.bounds import bounds_of, plan_guesses
from recsys_fed.audit.checks._conformance import conformance
from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.federation.release import SiloUsers
from recsys_fed.models.histories import histories_of

DATA = "generated:users=400,items=400,interactions=15"


class SmallAudit:
    """One run with canaries, whose requests are replayed as often as a test likes."""

    def __init__(self, *, epsilon, canaries=200, data=DATA, silos=3, **settings):
        torch.set_num_threads(1)
        self.folder = Path(mkdtemp(prefix="recsys-fed-audit-"))
        # Without item features, so that pairs are released: with few users they start from features.
        config = FederationConfig(epsilon=epsilon, silos=silos, threads=1, item_features=False, **settings)
        config, placed = canary_data(
            config,
            SimulationConfig(data=data),
            count=canaries,
            withhold=60,
            folder=self.folder,
            rng=np.random.default_rng(11),
        )
        self.run = run_with_canaries(config, placed, folder=self.folder)
        self.mechanism = deployed_mechanism(self.run, key=1)
        self.stand = _stand(self.run, AuditSettings(runs=30))
        self.others = self.run.users(canaries=False)
        histories = placed.canaries.histories
        self.directions = [
            directions(one.request, self.mechanism.trainer, histories)
            for one in self.run.rounds
            if attackable(one.request)
        ]

    def mechanism_with(self, number, breakage=None):
        """The mechanism, or a broken copy, with keys of its own."""
        mechanism = replace(self.mechanism, key=1_000 + number)
        return mechanism if breakage is None else breakage.of(mechanism)

    def bounds(self, number, *, breakage=None, null=False):
        """Bounds of one audit by replay: fresh coins, fresh keys."""
        placed, config = self.run.placed, self.run.config
        included = np.random.default_rng([17, number]).random(len(placed.canaries)) < 0.5
        audit = Replay(
            name="replay",
            mechanism=self.mechanism_with(number, breakage),
            users=self.others if null else self._users(included),
            others=self.others,
            silo_of_canary=placed.silo_of_canary,
            loses_silos=breakage is not None and breakage.loses_silos,
        )
        attacked = [one for one in self.run.rounds if attackable(one.request)]
        for found, played in zip(self.directions, attacked, strict=True):
            audit = audit.then(found, played)
        made = plan_guesses(len(included), epsilon=config.epsilon, delta=config.delta)
        return bounds_of(audit.scores, included, made=made, delta=config.delta)

    def outcome(self, number, breakage=None):
        """Bounds and checks of one audit by replay."""
        mechanism = self.mechanism_with(number, breakage)
        return Outcome(
            name=breakage.name if breakage else "as deployed",
            bounds=self.bounds(number, breakage=breakage),
            findings=tuple(conformance(mechanism, self.stand)),
            claimed=self.run.config.epsilon,
        )

    def _users(self, included):
        placed = self.run.placed
        train, test = placed.federation.train, placed.federation.test
        users = []
        for index, rows in enumerate(placed.others):
            joined = placed.canaries.histories[np.flatnonzero(included & (placed.silo_of_canary == index))]
            histories = sparse.vstack([train[rows], joined], format="csr")
            held = sparse.vstack([test[rows], sparse.csr_matrix(joined.shape, dtype=np.float32)], format="csr")
            users.append(SiloUsers(histories=histories_of(histories), test=held))
        return users


@lru_cache(maxsize=8)
def small_audit(epsilon, canaries=200, **settings):
    """One run a process."""
    return SmallAudit(epsilon=epsilon, canaries=canaries, **settings)
