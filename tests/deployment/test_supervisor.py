"""The processes that watch a SuperLink or a SuperNode for months are small: they load little."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from recsys_fed.deployment.serving_silo import _pause
from recsys_fed.federation.admission import write_roster

HEAVY = {"torch", "pandas", "scipy", "numpy", "pyarrow", "flwr", "sqlalchemy"}


def test_serving_a_federation_loads_nothing_that_computes():
    code = (
        "import sys, recsys_fed.cli, recsys_fed.deployment.serving, recsys_fed.report.deployment; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert "recsys_fed.deployment.roster" in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())


def test_serving_a_silo_loads_nothing_that_trains_or_accounts():
    code = "import sys, recsys_fed.cli, recsys_fed.deployment.serving_silo; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert "recsys_fed.silo.settings" in done.stdout.split()
    # A silo's settings read dates as tables do, with pandas.
    assert not {"torch", "opacus", "scipy", "sqlalchemy", "flwr"} & set(done.stdout.split())


@pytest.mark.parametrize(("silos", "seconds"), [(None, 3.0), (3, 0.5), (10, 1.0), (100, 3.0)])
def test_silos_together_ask_the_server_ten_times_a_second_at_most(silos, seconds, tmp_path):
    roster = tmp_path / "roster.json"
    if silos:
        write_roster(roster, {f"silo-{number}": f"{number:064x}" for number in range(silos)})
    assert _pause(SimpleNamespace(roster=str(roster))) == seconds
