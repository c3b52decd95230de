"""`flwr run` on the checkout as its users type it, with a SuperLink of its own on loopback."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest
from own_package import install_own_trainer, path_with

from recsys_fed.models.items import load_item_embeddings

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SECONDS = 240

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Flower's engine needs ray"),
]


@pytest.fixture
def environment(tmp_path):
    """Flower's settings: a home of its own, no reports, no installation at run time; and somebody's own trainer."""
    installed = tmp_path / "installed"
    installed.mkdir()
    install_own_trainer(installed)
    return {
        **os.environ,
        "PYTHONPATH": path_with(installed, ROOT),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@pytest.fixture
def superlink(environment, tmp_path):
    """A SuperLink on a free port of the loopback interface, named in Flower's own configuration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    command = [BIN / "flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--disable-runtime-dependency-installation"]
    with (tmp_path / "superlink.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
        try:
            wait_for(port, process)
            yield "here"
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            time.sleep(0.2)
        finally:
            connection.close()
    pytest.fail("the SuperLink did not start")


def flwr_run(superlink, environment, output, *, more=""):
    """`flwr run .` in the checkout; the folder that the run leaves."""
    run_config = f'data="generated:users=200,items=60" output="{output}" silos=3 declared-users=200 threads=1 {more}'
    done = subprocess.run(
        [
            BIN / "flwr", "run", ".", superlink, "--stream", "--run-config", run_config,
            "--federation-config", "num-supernodes=3 client-resources-num-cpus=1",
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )  # fmt: skip
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert (output / "item_embeddings.safetensors").is_file(), log
    return json.loads((output / "federation.json").read_text())


def test_flwr_run_trains_a_model(superlink, environment, tmp_path):
    output = tmp_path / "out"
    federation = flwr_run(superlink, environment, output)
    assert load_item_embeddings(output / "item_embeddings.safetensors").n_items == 60
    assert federation["refused"] == []
    assert len((output / "events.jsonl").read_text().splitlines()) == 3 * federation["rounds"]
    assert not list(ROOT.glob("*.fab"))


def test_flwr_run_trains_with_a_trainer_of_another_package(superlink, environment, tmp_path):
    """Its settings travel as the one text that Flower's run config has a key for."""
    output = tmp_path / "out"
    own = "trainer='bestsellers' trainer-settings='power = 0.75'"
    assert flwr_run(superlink, environment, output, more=own)["refused"] == []
    (first, *_) = map(json.loads, (output / "events.jsonl").read_text().splitlines())
    assert first["trainer"] == "bestsellers"
    model = load_item_embeddings(output / "item_embeddings.safetensors")
    assert model.n_items == 60 and not model.vectors.any() and model.bias.any()
