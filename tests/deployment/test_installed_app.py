"""A silo runs the ClientApp that is installed, whatever app the server's operator submits."""

import importlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading

import pytest
from deployment_kit import deployed

from recsys_fed.deployment import warm_clientapp
from recsys_fed.deployment.warm_clientapp import SOCKET, _run_installed_app, write_program
from recsys_fed.errors import EngineError
from recsys_fed.simulation.flower_engine import load_apps


def test_flowers_program_runs_with_the_installed_app_and_unpacks_nothing(monkeypatch):
    cli = importlib.import_module("flwr.supernode.cli.flwr_clientapp")
    from flwr.supernode.runtime import run_clientapp as runtime

    for name in ("install_from_fab", "get_project_dir", "get_load_client_app_fn"):
        monkeypatch.setattr(runtime, name, getattr(runtime, name))
    seen = {}

    def instead_of_flower():
        import sys

        seen["arguments"] = sys.argv
        seen["unpacked"] = runtime.install_from_fab(b"the server's app", skip_prompt=True)
        load = runtime.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
        seen["app"] = load("another/app", "9.9", "hash of the server's app")

    monkeypatch.setattr(cli, "flwr_clientapp", instead_of_flower)
    monkeypatch.setattr("sys.argv", ["pytest"])
    _run_installed_app(["--token", "t"])
    assert seen == {"arguments": ["flwr-clientapp", "--token", "t"], "unpacked": None, "app": load_apps()[1]}

    monkeypatch.delattr(runtime, "install_from_fab")
    with pytest.raises(EngineError, match="install_from_fab"):
        _run_installed_app([])


def test_the_program_hands_its_arguments_over_and_says_whether_they_were_taken(tmp_path):
    folder = write_program(tmp_path / "bin")
    program = folder / "flwr-clientapp"
    assert stat.S_IMODE(program.stat().st_mode) == 0o700
    heard, path = [], tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(1)

        def answer():
            for reply in (b"+", b""):
                channel, _ = server.accept()
                with channel:
                    heard.append(json.loads(channel.makefile("rb").readline()))
                    channel.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        around = {**os.environ, SOCKET: str(path)}
        codes = [
            subprocess.run([program, "--token", "a b", "é"], env=around, check=False, timeout=60).returncode
            for _ in range(2)
        ]
        thread.join()
    assert heard == [["--token", "a b", "é"]] * 2
    assert codes == [0, 1]


@pytest.mark.parametrize("line", [b"", b"no json\n", b'{"a": 1}\n', b"[1]\n", b"[" + b"1," * 40_000 + b"1]\n"])
def test_calls_that_are_none_start_nothing(line, monkeypatch):
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("nothing may be started"))
    near, far = socket.socketpair()
    with near, far:
        sender = threading.Thread(target=lambda: (far.sendall(line), far.shutdown(socket.SHUT_WR)))
        sender.start()
        warm_clientapp._serve(near, far)
        near.close()
        sender.join()


@pytest.mark.soak
def test_a_fork_finds_everything_imported_and_no_thread_that_it_would_lose(tmp_path):
    """An import in a fork would be done again for every message; what a thread has locked would stay so for ever."""
    there = deployed(tmp_path)
    text = (
        "import sys, threading; from pathlib import Path; from recsys_fed.deployment.warm_clientapp import load\n"
        f"load(Path({str(there.silos[0])!r})); before = set(sys.modules)\n"
        "from flwr.supernode.cli.flwr_clientapp import flwr_clientapp\n"
        "import flwr.supernode.runtime.run_clientapp\n"
        "print(threading.active_count(), len(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["1", "0"], done.stderr


def test_a_silo_reads_without_pandas_and_knows_its_frames_where_a_source_makes_them():
    """In a process of its own, as pyarrow looks for pandas once."""
    text = (
        "import sys, numpy as np, pyarrow as pa; from recsys_fed.deployment.warm_clientapp import _keep_pandas_out\n"
        "_keep_pandas_out(); pa.array(np.arange(3)); pa.table({'a': [1]}); assert 'pandas' not in sys.modules\n"
        "import pandas as pd; from recsys_fed.data.dataset import Dataset\n"
        "frame = pd.DataFrame({'who': ['a', 'b', 'b'], 'what': pd.Categorical(['x', 'x', 'y']),"
        " 'grade': [1.5, None, 3.0], 'at': pd.to_datetime(['2020-01-03', '2020-01-02', '2020-01-01'])})\n"
        "read = Dataset.from_frame(frame, user='who', item='what', value='grade', time='at').interactions\n"
        "print(*read.user_ids[read.user], *read.item_ids[read.item], *read.value, *read.time // 10**9, sep=',')\n"
        "print(pa.table({'a': [1]}).to_pandas().a[0])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["a,b,b,x,x,y,1.5,nan,3.0,1578009600,1577923200,1577836800", "1"], done.stderr
