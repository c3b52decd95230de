"""Environments that are not that of `make setup`: lowest versions, other Pythons, other people's pins.

Each is made anew, which needs the package registry, and some gigabytes where torch is in it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")
SECONDS = 3_000
TRAIN = ["simulate", "--data", "generated:users=150,items=40", "--silos", "3", "--output", "run", "--json"]
# Of examples/quickstart-pytorch in Flower's repository.
FLOWERS_EXAMPLE = [
    "flwr[simulation]>=1.27.0", "flwr-datasets[vision]>=0.6.0", "torch==2.8.0", "torchvision==0.23.0",
]  # fmt: skip

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not UV.is_file(), reason="needs uv")]


def run(*command: object, **options: object) -> str:
    hidden = {"PYTHONPATH", "VIRTUAL_ENV"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"RECSYS_FED_OFFLINE": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    done = subprocess.run(
        [str(part) for part in command],
        env=environment, capture_output=True, text=True, timeout=SECONDS, check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def place(tmp_path):
    """A folder that is taken away afterwards: it holds gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def train(home, place):
    """The record of a simulation by the command of an environment."""
    return json.loads(run(home / "bin" / "recsys-fed", *TRAIN, cwd=place))


def serve(home, place):
    """A service of the environment answers; its model is one that this environment's tests trained."""
    run(sys.executable, "-c", "from recsys_fed.cli import main; main()", *TRAIN, cwd=place)
    run(
        sys.executable,
        ROOT / "tests" / "integration" / "light_service.py",
        home / "bin" / "recsys-fed",
        place / "run",
    )


def lowest(extra, wheel, place):
    """An environment with the lowest versions that pyproject.toml allows."""
    home, named = place / "lowest", place / "lowest.txt"
    run(UV, "venv", "--python", "3.11", home)
    compiled = ["--resolution", "lowest-direct", "--python-version", "3.11", "--extra", extra]
    run(UV, "pip", "compile", *compiled, ROOT / "pyproject.toml", "--output-file", named)
    run(UV, "pip", "install", "--python", home, "-r", named)
    run(UV, "pip", "install", "--python", home, "--no-deps", wheel)
    return home


def test_the_lowest_versions_serve(wheel, place):
    serve(lowest("serving", wheel, place), place)


def test_the_lowest_versions_train(wheel, place):
    versions = train(lowest("train", wheel, place), place)["versions"]
    assert (versions["torch"].partition("+")[0], versions["numpy"]) == ("2.8.0", "2.1.0")


@pytest.mark.parametrize("version", ["3.12", "3.13"])
@pytest.mark.parametrize(("extra", "check"), [("serving", serve), ("train", train)])
def test_newer_pythons(version, extra, check, wheel, place):
    found = subprocess.run([UV, "python", "find", version], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"no Python {version} on this machine")
    run(UV, "venv", "--python", found.stdout.strip(), place / "newer")
    run(UV, "pip", "install", "--python", place / "newer", f"{wheel}[{extra}]")
    check(place / "newer", place)


@pytest.mark.parametrize("beside", [["torchvision"], FLOWERS_EXAMPLE], ids=["torchvision", "flowers-example"])
def test_it_installs_and_trains_beside_other_packages(beside, wheel, place):
    run(sys.executable, "-m", "venv", place / "beside")
    pip = [place / "beside" / "bin" / "python", "-m", "pip"]
    run(*pip, "install", "--quiet", *beside, f"{wheel}[train]")
    run(*pip, "check")
    run(place / "beside" / "bin" / "python", "-c", "import torchvision")
    assert train(place / "beside", place)["refused"] == []


def test_the_app_template_runs_on_nodes_that_have_this_library_alone(wheel, place):
    home, out = place / "node", place / "out"
    run(sys.executable, "-m", "venv", home)
    run(home / "bin" / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[train]")
    run(home / "bin" / "recsys-fed", "app", place / "shop", cwd=place)
    run(home / "bin" / "python", ROOT / "tests" / "integration" / "real_nodes.py", home / "bin", place / "shop", out)
    assert (out / "item_embeddings.safetensors").is_file()
    federation = json.loads((out / "federation.json").read_text())
    assert federation["refused"] == []
    assert len((out / "events.jsonl").read_text().splitlines()) == 2 * federation["rounds"]


LENSKIT = """
import runpy, sys
from lenskit.data import from_interactions_df
from lenskit.pipeline import topn_pipeline
found = runpy.run_path(sys.argv[1])
known, _ = found["shop"](users=150)
pipeline = topn_pipeline(found["FederatedScorer"](silos=3, epsilon=20.0), n=7)
pipeline.train(from_interactions_df(known))
model = pipeline.node("scorer").component.model
for user in (0, 4, 80):
    seen = known["item_id"][known["user_id"] == user].astype(str).tolist()
    ours = [one.item for one in model.recommend(seen, k=7)]
    theirs = pipeline.run("recommender", query=user)
    assert [str(item) for item in theirs.ids()] == ours, (user, ours, theirs.ids())
"""


def test_lenskit_recommends_what_the_released_model_does(wheel, place):
    run(sys.executable, "-m", "venv", place / "lenskit")
    python, example = place / "lenskit" / "bin" / "python", ROOT / "examples" / "model_for_lenskit.py"
    run(python, "-m", "pip", "install", "--quiet", "lenskit>=2025.8", f"{wheel}[train]")
    assert "federated in LensKit: NDCG 0." in run(python, example, cwd=place)
    run(python, "-c", LENSKIT, example, cwd=place)


def test_a_newcomer_gets_from_an_empty_folder_to_an_answer():
    told = run(sys.executable, ROOT / "tests" / "newcomer.py")
    assert "Joining pays for" in told and "s  in all" in told
