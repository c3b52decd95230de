"""Server and silos as real processes over TLS with authenticated nodes; data in Parquet, SQLite and PostgreSQL."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from deployment_kit import CONFIG, DATA, SILOS, USER, deployed, silo_tables
from postgres_server import new_database
from real_federation import RealFederation, log_lines

from recsys_fed.certificates.run import verify_run
from recsys_fed.deployment.authority import make_authority
from recsys_fed.deployment.federation import AUTHORITY, split_address
from recsys_fed.deployment.processes import free_port, healthy
from recsys_fed.deployment.provisioning import init_silo
from recsys_fed.deployment.roster import admit, revoke, synchronise
from recsys_fed.federation.outcome import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.simulation.runner import Simulation, simulate

# Flower takes about five seconds for each exchange of messages: as few as will do.
CONFIG = replace(CONFIG, rounds=2)


def with_databases(there, tables) -> None:
    """Let silo 0 read a folder of Parquet files, silo 1 SQLite, silo 2 a real PostgreSQL server."""
    sources = Path(there.federation.path).parent / "sources"
    (sources / "parquet").mkdir(parents=True)
    half = len(tables[0]) // 2
    tables[0][:half].to_parquet(sources / "parquet" / "a.parquet")
    tables[0][half:].to_parquet(sources / "parquet" / "b.parquet")
    with sqlite3.connect(sources / "purchases.sqlite") as connection:
        tables[1].to_sql("purchases", connection, index=False)
    url = new_database()
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    tables[2].to_sql("purchases", engine, index=False)
    engine.dispose()
    query = 'query = "SELECT customer, sku, day FROM purchases"\nblock-rows = 100\n'
    columns = 'user = "customer"\nitem = "sku"\n'
    for silo, data in zip(
        there.silos,
        [
            f'source = "parquet"\npath = "{sources / "parquet"}"\n{columns}',
            f'source = "sqlite"\nurl = "{sources / "purchases.sqlite"}"\n{query}{columns}',
            f'source = "postgresql"\nurl = "{url}"\n{query}{columns}',
        ],
        strict=True,
    ):
        path = silo / "silo.toml"
        head, _, _ = path.read_text().partition("[data]")
        path.write_text(f"{head}[data]\n{data}")


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Three running silos of a seeded federation; the seed is what makes the model comparable."""
    folder = tmp_path_factory.mktemp("real")
    there = deployed(folder, config=CONFIG, simulated=True, port=free_port())
    with_databases(there, silo_tables()[1])
    running = RealFederation(there, folder / "logs")
    try:
        running.start_all()
        yield running
    finally:
        running.stop()


def test_the_model_is_that_of_the_in_process_engine_whoever_knocks(federation, tmp_path):
    there = federation.there
    training = federation.train("--json")
    refused_meanwhile(federation, tmp_path)
    folder = federation.finish(training)

    simulation = Simulation(federation=CONFIG, data=DATA, declare_users=False)
    simulate(simulation, output=tmp_path / "simulation")
    one, other = (load_item_embeddings(path / EMBEDDINGS) for path in (folder, tmp_path / "simulation"))
    for name in ("vectors", "bias", "history_weights"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    found = verify_run(folder / CERTIFICATES, events=folder / EVENTS, model=folder / EMBEDDINGS)
    assert found.holds, found.problems
    assert len(found.certificates) == SILOS
    finished = [line for line in log_lines(folder / "log.jsonl") if line["event"] == "round finished"]
    assert [line["answered"] for line in finished] == [SILOS] * CONFIG.rounds
    # What the server's operator submitted as an app was never unpacked in a silo, let alone run.
    assert list(there.federation.flower_home.glob("apps/*"))
    assert not any(list(silo.glob("flower/apps/*")) for silo in there.silos)

    listed = federation.command(
        "silo", "recommend", there.silos[2], f"{USER}{there.simulated.users_of_silo[2][0]:04}"
    )
    assert listed.returncode == 0, listed.stderr
    assert federation.command("silo", "recommend", there.silos[2], "nobody").returncode == 2


def refused_meanwhile(federation, folder) -> None:
    """A plain-text connection, another authority, a key that nobody admitted, and one that was revoked."""
    there = federation.there
    root, settings = there.federation.path, there.federation.settings()
    port = split_address(settings.address)[1]
    assert healthy("127.0.0.1", port, authority=None), "plain text must not be answered"
    make_authority(folder / "other.key", folder / "other.pem", name="another")
    assert "certificate" in healthy("127.0.0.1", port, authority=folder / "other.pem").lower()
    for name, revoked in (("stranger", False), ("former", True)):
        silo = folder / name
        data = {"source": "csv", "path": str(root.parent / "silo-0.csv"), "user": "customer", "item": "sku"}
        init_silo(silo, federation=there.federation.public, name=name, epsilon=8.0, data=data)
        if revoked:
            admit(there.federation, silo / f"{name}.pub")
            synchronise(there.federation, say=list)
            revoke(there.federation, name)
            synchronise(there.federation, say=list)
        answer = activated(silo, settings.address)
        assert answer in {401, 412}, f"{name}: {answer}"


def activated(silo, address) -> int:
    """The status with which Flower answers a SuperNode of this silo's key."""
    import httpx
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    key = load_ssh_private_key((silo / "keys" / "node.key").read_bytes(), None)
    client = FleetHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=(silo / "federation" / AUTHORITY).read_bytes(),
        interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
    )
    try:
        client.ActivateNode(
            ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=30)
        )
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    finally:
        client.close()
    return 200
