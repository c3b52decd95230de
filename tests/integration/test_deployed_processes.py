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
from refused_peers import refused_meanwhile

from recsys_fed.certificates.run import verify_run
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.flower import free_port
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.simulation.runner import Simulation, simulate

# Flower takes about five seconds for each exchange of messages: as few as will do.
CONFIG = replace(CONFIG, rounds=2)


def with_databases(there, tables) -> None:
    """Silo 0 reads a folder of Parquet files, silo 1 SQLite and trains from disk, silo 2 a real PostgreSQL server."""
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
    columns, blocks = 'user = "customer"\nitem = "sku"\n', f'blocks = "{sources / "blocks"}"\n'
    for silo, data in zip(
        there.silos,
        [
            f'source = "parquet"\npath = "{sources / "parquet"}"\n{columns}',
            f'source = "sqlite"\nurl = "{sources / "purchases.sqlite"}"\n{query}{columns}{blocks}',
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


@pytest.mark.soak
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

    assert [path.name[:8] for path in (there.federation.path.parent / "sources" / "blocks").iterdir()] == ["serving-"]
    listed = federation.command(
        "silo", "recommend", there.silos[2], f"{USER}{there.simulated.users_of_silo[2][0]:04}"
    )
    assert listed.returncode == 0, listed.stderr
    assert federation.command("silo", "recommend", there.silos[2], "nobody").returncode == 2
