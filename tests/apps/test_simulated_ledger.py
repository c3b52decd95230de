"""The ledger of a simulated silo: kept over runs, found again with its key, and started where only the key is."""

from client.state import KEY, LEDGER, simulated_ledger
from recsys_fed.config import FederationConfig, SimulationConfig

CONFIG = FederationConfig(epsilon=2.0)


def test_another_run_finds_the_ledger_and_its_limit(tmp_path):
    kept = SimulationConfig(ledgers=str(tmp_path), epsilon_limit=3.0)
    first, key = simulated_ledger("silo-0", CONFIG, kept, run="1")
    later = SimulationConfig(ledgers=str(tmp_path), epsilon_limit=30.0)
    again, same = simulated_ledger("silo-0", CONFIG, later, run="2")
    assert first.terms() == again.terms()
    assert again.terms().guarantee.epsilon == 3.0
    assert again.terms().simulated
    assert key.public_key == same.public_key
    assert (tmp_path / "silo-0" / KEY).stat().st_mode & 0o777 == 0o600


def test_a_crash_between_the_key_and_the_ledger_leaves_a_silo_that_can_start(tmp_path):
    simulation = SimulationConfig(ledgers=str(tmp_path))
    _, key = simulated_ledger("silo-0", CONFIG, simulation, run="1")
    (tmp_path / "silo-0" / LEDGER).unlink()
    ledger, again = simulated_ledger("silo-0", CONFIG, simulation, run="2")
    assert again.public_key == key.public_key == ledger.terms().public_key
