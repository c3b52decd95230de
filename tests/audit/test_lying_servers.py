"""Whatever a server sends to two silos that differ by one user: like answers, and sums one clip norm apart."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from scipy import sparse

from recsys_fed.audit._hostile_requests import (
    RULES,
    _honest_requests,
    _HostileServer,
    _neighbours,
    broken_copies_caught,
    hostile_requests,
)
from recsys_fed.audit._neighbouring_silos import NeighbouringSilos
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import FederationConfig
from recsys_fed.federation.noise_split import resolve_masking
from recsys_fed.federation.wire import Invitation, blob_to_records, invitation_to_records, request_to_records
from recsys_fed.simulation.flower_engine import load_apps

N_ITEMS = 24
CATALOGUE = Catalogue(item_ids=np.array([f"sku-{n}" for n in range(N_ITEMS)], dtype=object))
ORDINARY = sparse.csr_matrix((np.random.default_rng(0).random((12, N_ITEMS)) < 0.3).astype(np.float32))
BASE = FederationConfig(silos=3, declared_users=90, embedding_dim=3, epsilon=4.0, secure_aggregation="off", threads=1)
DP_SGD = replace(BASE, trainer="dp-sgd", rounds=4)
CONFIGS = {
    "spectral": BASE,
    "spectral, masked": replace(BASE, secure_aggregation="on"),
    "popularity": replace(BASE, trainer="popularity"),
    **{f"dp-sgd, {loss}": replace(DP_SGD, dp_sgd={"loss": loss}) for loss in ("implicit-als", "softmax", "bpr")},
    "dp-sgd, adaptive, masked": replace(DP_SGD, secure_aggregation="on", dp_sgd={"clipping": "adaptive"}),
    "dp-sgd, local, sampled": replace(
        DP_SGD, rounds=3, dp_sgd={"schedule": "local", "local_steps": 2, "sampling_probability": 0.5, "loss": "bce"}
    ),
}
# Sequences for each configuration, of about ten requests each: 400 requests in all, and 10,000 for the long test.
FEW, MANY, STEPS = 5, 150, 10


@cache
def server(name: str) -> _HostileServer:
    load_apps()
    requests = _honest_requests(resolve_masking(CONFIGS[name], simulated=True), CATALOGUE, ORDINARY)
    return _HostileServer(honest=requests)


class LyingServer(RuleBasedStateMachine):
    """Asks a pair of silos anything, in any order, for trainings of any name."""

    configuration = "spectral"

    @initialize(more=st.sampled_from(_neighbours(ORDINARY)))
    def open_silos(self, more):
        from client.state import SimulatedSilo

        self.folder = tempfile.TemporaryDirectory()
        self.server = server(self.configuration)
        self.silos = NeighbouringSilos(
            config=resolve_masking(CONFIGS[self.configuration], simulated=True),
            catalogue=CATALOGUE,
            ordinary=ORDINARY,
            more=more,
            folder=Path(self.folder.name),
            silo=SimulatedSilo,
        )

    @rule(
        kind=st.sampled_from(sorted(RULES)),
        seed=st.integers(0, 2**32),
        run=st.sampled_from(["training", "another", "a-third", "", "../x"]),
        masked=st.booleans(),
        count=st.integers(2, 4),
    )
    def requests(self, kind, seed, run, masked, count):
        rng = np.random.default_rng(seed)
        for _ in range(count):
            self.silos.ask("train", RULES[kind](rng, self.server.honest), run=run, masked=masked)

    @rule(number=st.integers(0, 5), run=st.sampled_from(["training", "another"]))
    def honest_request(self, number, run):
        asked = self.server.honest[min(number, len(self.server.honest) - 1)]
        self.silos.ask("train", request_to_records(asked), run=run, masked=True)

    @rule(kind=st.sampled_from(["query", "query.conclude", "query.advertise", "query.share", "query.unmask"]))
    def other_message(self, kind):
        records = (
            invitation_to_records(Invitation()) if kind == "query" else blob_to_records("conclusion", b"no model")
        )
        self.silos.ask(kind, records)

    @invariant()
    def nothing_tells_the_silos_apart(self):
        if hasattr(self, "silos"):
            assert self.silos.breaches == []
            assert self.silos.largest <= 1 + 1e-9

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()


def tried(name: str, examples: int) -> None:
    machine = type("LyingServer", (LyingServer,), {"configuration": name})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_that_a_server_sends_tells_neighbouring_silos_apart(name):
    tried(name, FEW)


@pytest.mark.soak
@pytest.mark.parametrize("name", CONFIGS)
def test_ten_thousand_requests_tell_neighbouring_silos_apart_no_more(name):
    tried(name, MANY)


def test_the_instrument_says_what_it_tried_and_found():
    record = hostile_requests(resolve_masking(BASE, simulated=True), CATALOGUE, ORDINARY, count=60, seed=3)
    assert (record["name"], record["tried"], record["breached"], record["breaches"]) == (
        "hostile-requests",
        60,
        0,
        [],
    )
    assert "nothing told them apart" in record["found"]
    assert sum(record["rules"].values()) == 60
    assert record["answered"] > 10, "what is refused shows nothing of the sums"
    assert record["refused"] > 10
    assert 0.5 < record["largest_move"] <= 1 + 1e-9
    assert "who cannot be read" in record["users_more"]


def test_the_instrument_catches_silos_that_are_broken():
    caught = broken_copies_caught(resolve_masking(BASE, simulated=True), CATALOGUE, ORDINARY, count=200, seed=5)
    assert caught == {"validation off": True, "charge after computing": True, "unbounded grid": True}
