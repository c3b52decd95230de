"""What operators do wrong, or meet: one sentence that says what is the matter and what to do, before it happens."""

import contextlib
import os
import socket
import sqlite3
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command_line import run_command
from deployment_kit import deployed

from recsys_fed import flower
from recsys_fed.deployment import serving
from recsys_fed.deployment._standing import standing_of
from recsys_fed.deployment.checking import check_silo
from recsys_fed.deployment.federation import AUTHORITY, FederationFolder
from recsys_fed.deployment.serving import serve_federation
from recsys_fed.deployment.serving_silo import serve_silo
from recsys_fed.deployment.training import only_training
from recsys_fed.errors import ConfigurationError, EngineError
from recsys_fed.files import file_lock
from recsys_fed.flower import Answer, ask_flower, free_port, scale_timeout, wait_until
from recsys_fed.silo.settings import read_silo_settings


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    return deployed(tmp_path_factory.mktemp("federation"), port=free_port())


def refusal_of_serving(folder, **how):
    with pytest.raises((ConfigurationError, EngineError)) as caught, serve_federation(folder, say=list, **how):
        pass
    return str(caught.value)


def test_a_server_with_an_expired_certificate_says_so_at_once(there, monkeypatch):
    folder = there.federation
    monkeypatch.setattr(serving, "expiry", lambda _: datetime.now(UTC) - timedelta(days=2))
    said = refusal_of_serving(folder, insecure=False)
    assert "has expired on" in said
    assert f"recsys-fed federation renew-certificate {folder.path}" in said


def test_an_expired_certificate_is_named_as_such_by_who_asks(there):
    """What a silo's check and a waiting server say."""
    import ssl

    error = ssl.SSLCertVerificationError()
    error.verify_message = "certificate has expired"

    class Expired:
        def __init__(self, *_, **__):
            raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flower, "HTTPSConnection", Expired)
        said = flower.healthy("127.0.0.1", 1, authority=there.federation.public / AUTHORITY)
        assert said == "its certificate does not hold: certificate has expired"
        assert said in standing_of(read_silo_settings(there.silos[0]), passphrase=None).reason


def test_a_port_that_is_taken_is_named(there):
    folder = there.federation
    port = int(folder.settings().address.rsplit(":", 1)[1])
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert f"Expected port {port} of 127.0.0.1 to be free" in refusal_of_serving(folder, insecure=False)


def test_a_second_server_or_silo_is_told_of_the_first(there):
    folder, settings = there.federation, read_silo_settings(there.silos[0])
    folder.flower_home.mkdir(exist_ok=True)
    with file_lock(folder.flower_home / "serve.lock"):
        said = refusal_of_serving(folder, insecure=False)
    assert said.startswith(f"The federation in {folder.path} is served already, by process {os.getpid()}.")
    home = Path(settings.folder) / "flower"
    home.mkdir(exist_ok=True)
    with file_lock(home / "serve.lock"), pytest.raises(ConfigurationError, match="is served already, by process"):
        serve_silo(settings, insecure=False, passphrase=None, say=list)


def test_a_server_without_its_gate_is_ended(there, monkeypatch):
    """A Flower that the gate's hook does not fit: it answers what nobody may ask."""
    monkeypatch.setattr(serving, "gate_command", lambda _: [sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(serving, "healthy", lambda *_, **__: "")
    monkeypatch.setattr(serving, "ask", lambda *_, **__: Answer(status=200))
    assert "Expected the gate in front of Flower to refuse" in refusal_of_serving(there.federation, insecure=False)


def test_two_trainings_at_once_are_refused(there, monkeypatch):
    monkeypatch.setattr("recsys_fed.deployment.training.healthy", lambda *_, **__: "")
    folder = there.federation
    folder.flower_home.mkdir(exist_ok=True)
    with file_lock(folder.flower_home / "training.lock"), pytest.raises(EngineError) as caught, only_training(folder):
        pass
    assert f"Process {os.getpid()} trains with this federation." in str(caught.value)
    assert f"recsys-fed federation stop {folder.path}" in str(caught.value)


def test_a_lock_is_gone_with_its_block(tmp_path):
    with file_lock(tmp_path / "lock") as first, file_lock(tmp_path / "lock") as second:
        assert (first, second) == ("", str(os.getpid()))
    with file_lock(tmp_path / "lock") as third:
        assert third == ""


@pytest.mark.parametrize(
    ("text", "status"), [('{"detail": "This node key is not admitted."}', 401), ("no JSON", 401)]
)
def test_a_silo_that_is_not_admitted_reads_what_to_do(there, monkeypatch, text, status):
    monkeypatch.setattr("recsys_fed.deployment._standing.ask", lambda *_, **__: Answer(status=status, text=text))
    found = {finding.name: finding for finding in check_silo(there.silos[0], data=False)}["federation"]
    assert not found.good
    assert "does not take this silo's messages" in found.detail
    assert "Hand silo-0.pub to its operator" in found.detail


def test_a_command_of_flower_that_hangs_is_an_error_of_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(flower, "scale_timeout", lambda seconds: 0.2)
    with pytest.raises(EngineError, match=r"^`flwr -c .*` did not answer within 0 s. Is the machine overloaded"):
        ask_flower([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)


def test_waits_grow_with_the_load_and_name_their_reason(monkeypatch):
    cores = os.cpu_count()
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    assert scale_timeout(10) == 10
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0 * cores, 0.0, 0.0))
    assert scale_timeout(10) == 40
    monkeypatch.setattr(flower, "scale_timeout", lambda _: 0.0)
    with flower.running([sys.executable, "-c", "import time; time.sleep(600)"], environment=os.environ) as process:
        with pytest.raises(EngineError, match=r"^Expected three silos within 0 s: north is offline\."):
            wait_until(lambda: "north is offline", process, seconds=1, what="three silos")
        assert wait_until(lambda: "", process, seconds=1, what="three silos") is None


@pytest.mark.parametrize("name", ["a/../b", "..", ".", "a/b", "a\nb", "/etc/x"])
def test_a_silo_with_an_impossible_name_leaves_nothing_behind(there, tmp_path, name):
    code, _, err = init(tmp_path / "silo", there, "--name", name, "--path", there.silos[0].parent / "silo-0.csv")
    assert code == 2
    assert "ConfigurationError" in err and "Traceback" not in err
    assert not (tmp_path / "silo").exists()


def test_a_silo_that_fails_half_way_leaves_what_was_there(there, tmp_path, monkeypatch):
    (tmp_path / "silo").mkdir()
    (tmp_path / "silo" / "purchases.csv").write_text("mine")

    def fails(*_, **__):
        raise ConfigurationError("Expected the ledger to be made.")

    monkeypatch.setattr("recsys_fed.deployment.provisioning.Ledger.create", fails)
    how = ("--name", "north", "--path", there.silos[0].parent / "silo-0.csv")
    assert init(tmp_path / "silo", there, *how)[0] == 2
    assert [path.name for path in (tmp_path / "silo").iterdir()] == ["purchases.csv"]
    monkeypatch.undo()
    assert init(tmp_path / "silo", there, *how)[0] == 0


def init(path, there, *arguments):
    return run_command(
        "silo", "init", path, "--federation", there.federation.public, "--epsilon", 8,
        "--columns", "user=customer,item=sku", *arguments,
    )  # fmt: skip


def test_a_password_on_the_command_line_is_not_kept(there, tmp_path):
    database = ("--source", "postgresql", "--query", "SELECT 1", "--name", "north")
    code, _, err = init(tmp_path / "silo", there, *database, "--url", "postgresql://reader:s3cret@db/shop")
    assert code == 2
    assert "~/.pgpass" in err and "s3cret" not in err
    assert not (tmp_path / "silo").exists()
    assert init(tmp_path / "silo", there, *database, "--url", "postgresql://reader@db/shop")[0] == 0


def test_more_silos_than_the_terms_are_for_are_noticed(there, tmp_path):
    folder = FederationFolder(there.federation.path)
    assert len(list(folder.admitted.glob("*.pub"))) == folder.settings().training.silos
    init(tmp_path / "silo", there, "--name", "fourth", "--path", there.silos[0].parent / "silo-0.csv")
    code, out, err = run_command("federation", "admit", folder.path, tmp_path / "silo" / "fourth.pub")
    assert code == 0
    assert "4 silos are admitted, the terms are for 3" in " ".join((out + err).split())
    run_command("federation", "revoke", folder.path, "fourth")


def test_a_database_that_refuses_says_why_to_the_silos_operator(there, tmp_path):
    from recsys_fed.data.readers._database import query_blocks
    from recsys_fed.data.readers.blocks import Reading
    from recsys_fed.errors import DataFormatError

    path = tmp_path / "shop.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE purchases (customer, sku)")
    data = Reading(source="sqlite", url=str(path), query="SELECT customer, sku FROM purchase")
    for changed, reason in (
        (data, "no such table: purchase"),
        (replace(data, query="SELECT client FROM purchases"), "no such column: client"),
    ):
        with pytest.raises(DataFormatError, match=reason):
            list(query_blocks(changed, usual=(), needed=()))
