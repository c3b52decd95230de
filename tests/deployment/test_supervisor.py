"""The process that watches a federation's SuperLink for months is small: it loads nothing that computes."""

import subprocess
import sys

HEAVY = {"torch", "pandas", "scipy", "numpy", "pyarrow", "flwr", "sqlalchemy"}


def test_serving_a_federation_loads_nothing_that_computes():
    code = (
        "import sys, recsys_fed.cli, recsys_fed.deployment.serving, recsys_fed.report.deployment; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert "recsys_fed.deployment.roster" in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())
