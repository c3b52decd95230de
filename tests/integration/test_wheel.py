"""The wheel holds one import name and runs where the checkout cannot be imported."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEN_LINES = """\
from recsys_fed import Dataset, Federation, Spectral

federation = Federation(Dataset.from_frame(df, user="customer", item="sku"), silos=5, secure_aggregation=True)
run = federation.train(Spectral(), epsilon=2, delta=1e-6, seed=0)
run.metrics["recall@20"]; run.guarantee.epsilon; run.model.recommend(["sku-17"], k=10); run.save("runs/mine")
"""
ALLOWED = ("pyproject.toml", "server", "client", "simulations")


def checked(*command: object, **options) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    checked(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel; dependencies come from the environment of the tests.

    The folder of dependencies is put on the path by hand: its .pth files, one of which would bring the
    checkout, are not read.
    """
    home = tmp_path_factory.mktemp("environment")
    checked(sys.executable, "-m", "venv", "--without-pip", home)
    python = home / "bin" / "python"
    (target,) = home.glob("lib/python*/site-packages")
    checked(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-compile", wheel,
    )  # fmt: skip
    dependencies = sysconfig.get_paths()["purelib"]
    (target / "dependencies.pth").write_text(f"{dependencies}\n")
    return home


@pytest.fixture
def run(installed, tmp_path):
    """Run a command of the environment from another folder."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"RECSYS_FED_OFFLINE": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    return lambda name, *arguments: checked(installed / "bin" / name, *arguments, cwd=tmp_path, env=environment)


def test_the_wheel_holds_one_import_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"recsys_fed"}
    carried = {name.split("/")[2] for name in names if name.startswith("recsys_fed/flower-app/")}
    assert carried == set(ALLOWED)
    tests = [
        name for name in names if "tests" in name.split("/") or name.split("/")[-1].startswith(("test_", "conftest"))
    ]
    assert not tests
    assert not [name for name in names if name.endswith((".parquet", ".csv", ".dat"))]


def test_the_wheel_carries_every_module_and_scenario(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (*ROOT.glob("recsys_fed/**/*.py"), *ROOT.glob("recsys_fed/**/py.typed")):
        assert path.relative_to(ROOT).as_posix() in names
    for path in (*ROOT.glob("server/*.py"), *ROOT.glob("client/*.py"), *ROOT.glob("simulations/scenarios/*.toml")):
        assert f"recsys_fed/flower-app/{path.relative_to(ROOT).as_posix()}" in names


def test_the_package_comes_from_the_wheel(run, installed):
    where = run("python", "-c", "import recsys_fed; print(recsys_fed.__file__)").strip()
    assert Path(where).resolve().is_relative_to(installed.resolve())
    code = "import importlib.util as u; print([n for n in ('server', 'client', 'simulations') if u.find_spec(n)])"
    assert run("python", "-c", code).strip() == "[]"


def test_the_ten_lines_run_from_the_wheel_as_they_stand(run, tmp_path):
    frame = """import pandas as pd
bought = [(c, f"sku-{(5 * c + 7 * i) % 40}") for c in range(120) for i in range(6)]
df = pd.DataFrame(bought, columns=["customer", "sku"])
"""
    shown = (
        """print(run.metrics["recall@20"] > 0, run.guarantee.epsilon, len(run.model.recommend(["sku-17"], k=10)))"""
    )
    (tmp_path / "mine.py").write_text(frame + TEN_LINES + shown)
    assert run("python", "mine.py").split() == ["True", "2.0", "10"]
    assert (tmp_path / "runs" / "mine" / "item_embeddings.safetensors").is_file()


def test_a_scenario_runs_from_the_wheel_by_its_name(run, tmp_path):
    data = "generated:users=90,items=30"
    record = json.loads(run("recsys-fed", "simulate", "quickstart", "--data", data, "--output", "out", "--json"))
    assert (record["n_users"], record["refused"]) == (90, [])
    assert (tmp_path / "out" / "item_embeddings.safetensors").is_file()


def test_flower_bundles_the_apps_from_the_wheel(run, installed, tmp_path):
    """Flower refuses app folders with a name that it does not like."""
    (apps,) = installed.glob("lib/python*/site-packages/recsys_fed/flower-app")
    run("python", "-c", "from flwr.cli.app import app; app()", "build", "--app", apps)
    (bundle,) = tmp_path.glob("*.fab")
    assert {"server/app.py", "client/app.py"} <= set(zipfile.ZipFile(bundle).namelist())
