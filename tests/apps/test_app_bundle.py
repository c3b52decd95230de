"""What `flwr build` packs for others: the two thin apps and nothing else."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from recsys_fed.simulation.flower_engine import app_folder

ALLOWED = re.compile(r"pyproject\.toml|\.info/[A-Z]+|(server|client)/\w+\.py")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """The .fab of the checkout, built elsewhere."""
    folder = tmp_path_factory.mktemp("bundle")
    flwr = Path(sys.executable).parent / "flwr"
    environment = {**os.environ, "FLWR_HOME": str(folder / "home"), "FLWR_TELEMETRY_ENABLED": "0"}
    environment["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    done = subprocess.run(
        [str(flwr), "build", "--app", str(app_folder())],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.fab")
    return built


def test_the_bundle_is_small_and_holds_the_two_apps_only(bundle):
    assert bundle.stat().st_size < 120_000
    names = zipfile.ZipFile(bundle).namelist()
    assert {"pyproject.toml", "server/app.py", "client/app.py", "client/state.py"} <= set(names)
    assert [name for name in names if not ALLOWED.fullmatch(name)] == []


def test_the_bundle_holds_every_module_of_the_apps(bundle):
    names = zipfile.ZipFile(bundle).namelist()
    for app in ("server", "client"):
        assert {n for n in names if n.startswith(app)} == {
            f"{app}/{p.name}" for p in (app_folder() / app).glob("*.py")
        }
