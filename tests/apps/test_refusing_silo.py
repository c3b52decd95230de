"""A silo whose ledger has no more refuses by its type; the run goes on with the others and the right noise."""

import json
from pathlib import Path

import pytest

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.federation import schedule as schedule_module
from recsys_fed.federation.run_files import FEDERATION
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.simulation import runner
from recsys_fed.simulation.flower_engine import load_apps

SILOS = 3
ENOUGH, ONE_RUN = 30.0, 2.0


def simulated(ledgers: Path, output: Path, *, limit: float, seed: int) -> dict:
    """A run over ledgers that are kept; `limit` is that of the ledgers that it starts."""
    # Without metrics: their small release would still fit into what is left.
    config = FederationConfig(
        silos=SILOS, rounds=3, embedding_dim=3, epsilon=2.0, metrics_epsilon=0.0, threads=1, seed=seed
    )
    data = SimulationConfig(
        data="generated:users=90,items=25,interactions=8", ledgers=str(ledgers), epsilon_limit=limit
    )
    return runner.simulate(runner.Simulation(federation=config, data=data), output=output)


def ledger_of(ledgers: Path, silo: int) -> Ledger:
    return Ledger.open(str(ledgers / f"silo-{silo}" / "ledger.sqlite"))


def exported(ledgers: Path, silo: int) -> bytes:
    return b"".join(entry.line() + b"\n" for entry in ledger_of(ledgers, silo).entries())


def limited(folder: Path, ledgers: Path) -> None:
    """Ledgers of which silo 1's holds out for one run, and the others' for many; one run is behind them."""
    simulated(folder / "spare", folder / "spare-run", limit=ONE_RUN, seed=0)
    simulated(ledgers, folder / "run-0", limit=ENOUGH, seed=0)
    for file in (ledgers / "silo-1").iterdir():
        file.unlink()
    for file in (folder / "spare" / "silo-1").iterdir():
        (ledgers / "silo-1" / file.name).write_bytes(file.read_bytes())


@pytest.fixture(scope="module")
def second_run(tmp_path_factory):
    """The second run over the same ledgers: its folder, what the server stepped with, the ledger before and after."""
    folder = tmp_path_factory.mktemp("refusing")
    ledgers, output = folder / "ledgers", folder / "run-1"
    load_apps()
    limited(folder, ledgers)
    steps = []
    honest = schedule_module.noise_on_total
    with pytest.MonkeyPatch.context() as patch:

        def seen(asked, n_updates):
            noise = honest(asked, n_updates)
            steps.append((asked, n_updates, noise))
            return noise

        patch.setattr(schedule_module, "noise_on_total", seen)
        before = exported(ledgers, 1)
        record = simulated(ledgers, output, limit=ENOUGH, seed=1)
    return record, output, ledgers, before, steps


def test_the_refusal_reaches_the_servers_record_by_its_type(second_run):
    record, output, *_ = second_run
    refused = json.loads((output / FEDERATION).read_text())["refused"]
    assert len(refused) == record["rounds"] >= 3
    assert all("BudgetExceededError: Expected a release within the limit epsilon 2 " in reason for reason in refused)
    assert record["refused"] == refused


def test_the_refusing_silos_ledger_is_unchanged(second_run):
    _, _, ledgers, before, _ = second_run
    assert exported(ledgers, 1) == before
    assert verify_ledger(ledger_of(ledgers, 1)).spending.epsilon <= ONE_RUN


def test_the_run_goes_on_with_the_others_and_their_noise(second_run):
    record, output, _, _, steps = second_run
    assert {silo for silo, _ in record["epsilon_spent"].items()} == {"silo-0", "silo-2"}
    assert load_item_embeddings(output / "item_embeddings.safetensors").n_items == 25
    assert len(steps) >= 3
    for asked, n_updates, noise in steps:
        assert n_updates == SILOS - 1
        # Rounding to the grid adds up to 1% to the sensitivity, which the noise makes up for.
        plain = asked.noise_multiplier * asked.l2_clip_norm * (SILOS - 1) ** 0.5
        assert plain <= noise <= 1.01 * plain


def test_the_others_have_paid_for_both_runs(second_run):
    record, _, ledgers, _, _ = second_run
    for silo in (0, 2):
        ledger = ledger_of(ledgers, silo)
        runs = {entry.body.run for entry in ledger.entries() if entry.kind == "release"}
        assert len(runs) == 2
        in_all = verify_ledger(ledger).spending.epsilon
        assert record["epsilon_spent"][f"silo-{silo}"] < in_all <= ENOUGH
        assert [ledger.spending(run=run).epsilon for run in runs] == pytest.approx([2.0, 2.0], rel=0.02)


def test_a_silo_that_refused_signs_that_it_released_nothing(second_run):
    _, output, ledgers, _, _ = second_run
    certificates = [
        json.loads(path.read_bytes())["certificate"] for path in sorted((output / "certificates").iterdir())
    ]
    assert [len(certificate["releases"]) > 0 for certificate in certificates] == [True, False, True]
    assert certificates[1]["epsilon_of_run"] == {"pld": 0.0, "prv": 0.0, "rdp": 0.0}
    assert certificates[1]["head"]["hash"] == ledger_of(ledgers, 1).head().hash
