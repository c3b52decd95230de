"""A federation's life over processes with TLS: trainings build on one another, silos join and leave, the catalogue
grows, and no key is made anew."""

from dataclasses import replace

import numpy as np
import pytest
from deployment_kit import CONFIG, deployed
from real_federation import PATIENCE, RealFederation, wait_for

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.certificates.run import read_certificates
from recsys_fed.config import SimulationConfig
from recsys_fed.deployment.roster import missing_silos
from recsys_fed.deployment.training import progress_of
from recsys_fed.evaluation.protocol import evaluate_ranking
from recsys_fed.federation.kept_releases import RELEASES
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.flower import free_port
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.signing import sha256
from recsys_fed.silo.settings import read_silo_settings
from recsys_fed.simulation.runner import fold_in_scorer

DATA = SimulationConfig(data="generated:users=1500,items=200,interactions=30")
MASKED = replace(
    CONFIG, secure_aggregation="on", seed=0, declared_users=1500, embedding_dim=0, rounds=0, epsilon=2.0,
    most_earlier_trainings=10,
)  # fmt: skip


def keys(there):
    folders = (there.federation.path, *there.silos)
    return {path: path.read_bytes() for folder in folders for path in (folder / "keys").iterdir()}


def ran(federation, *arguments, code=0):
    done = federation.command(*arguments)
    assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}\n{federation.logs()}"
    return done.stdout + done.stderr


def trained(federation, there, *arguments):
    """One training to its end; its certificates hold."""
    wait_for(lambda: not missing_silos(there.federation), federation.process("server"))
    training = federation.finish(federation.train(*arguments), timeout=2 * PATIENCE)
    ran(federation, "privacy", "verify-run", training)
    return training, sorted(path.name.partition("-")[2] for path in (training / "certificates").iterdir())


def joined(federation, there, tmp_path):
    """A fourth silo, with users of its own."""
    path, table = there.silos[0].parent / "silo-3", tmp_path / "silo-3.csv"
    table.write_text((path.parent / "silo-0.csv").read_text().replace("patient-", "visitor-"))
    ran(
        federation, "silo", "init", path, "--federation", there.federation.public, "--name", "silo-3",
        "--epsilon", 20, "--path", table, "--columns", "user=customer,item=sku", "--threads", 1,
    )  # fmt: skip
    ran(federation, "federation", "admit", there.federation.path, path / "silo-3.pub")
    there.silos.append(path)
    return path


def recall(training, simulated):
    """Recall@20 of what was held out, among the items of the first catalogue."""
    model = load_item_embeddings(training / EMBEDDINGS)
    n_items = simulated.catalogue.n_items
    known = replace(
        model,
        vectors=model.vectors[:n_items],
        bias=model.bias[:n_items],
        history_weights=model.history_weights[:n_items],
        catalogue_hash=simulated.catalogue.content_hash,
    )
    found = evaluate_ranking(
        fold_in_scorer(known, simulated, device="cpu"), train=simulated.excluded, test=simulated.test, cutoffs=(20,)
    )
    return found.means()["recall@20"]


def check_what_each_built_on(simulated, *trainings):
    """All silos have signed it, also those for which others had to prove it; and the models are better for it."""
    tables = [sha256((folder / RELEASES).read_bytes()) for folder in trainings]
    for number, folder in enumerate(trainings):
        certificates, problems = read_certificates(folder / "certificates")
        assert not problems
        assert {one.earlier for one in certificates.values()} == {tuple(tables[:number])}
    first, *later = [recall(folder, simulated) for folder in trainings]
    assert all(quality > first for quality in later), (first, later)


@pytest.mark.soak
def test_three_trainings_a_silo_joins_one_leaves_and_the_catalogue_grows(tmp_path):
    there = deployed(tmp_path, config=MASKED, data=DATA, port=free_port())
    before = keys(there)
    federation = RealFederation(there, tmp_path / "logs")
    try:
        federation.start_all()
        for silo in there.silos:
            ran(federation, "silo", "roster", silo)
        first, names = trained(federation, there)
        assert names == ["silo-0.json", "silo-1.json", "silo-2.json"]

        # A silo joins, under new terms, and the catalogue grows; silos that serve are not started anew.
        new = joined(federation, there, tmp_path)
        ran(federation, "federation", "terms", there.federation.path, "--set", "silos=4")
        old = Catalogue.load(there.federation.public / "catalogue.parquet")
        ids = np.array([*old.item_ids[5:], "new-1", "new-2", "new-3"], dtype=object)
        Catalogue(item_ids=ids).save(tmp_path / "now.parquet")
        ran(federation, "federation", "catalogue", "update", there.federation.path, tmp_path / "now.parquet")
        assert "catalogue" in ran(federation, "silo", "check", there.silos[0], code=1)
        for silo in there.silos[:3]:
            assert "silos = 4" in ran(federation, "silo", "update", silo, code=1)
        for silo in there.silos:
            ran(federation, "silo", "update", silo, "--agree")
        federation.start_silo(3)
        second, names = trained(federation, there, "--continue")
        assert names == [f"silo-{index}.json" for index in range(4)]

        # A user leaves the first silo, and the second silo leaves the federation.
        user = (there.silos[0].parent / "silo-0.csv").read_text().splitlines()[1].split(",")[0]
        ran(federation, "silo", "opt-out", "add", there.silos[0], user, "--receipts", tmp_path / "receipts")
        ran(federation, "federation", "revoke", there.federation.path, "silo-1")
        ran(federation, "federation", "terms", there.federation.path, "--set", "silos=3")
        gone = there.silos.pop(1)
        for silo in there.silos:
            assert "(revoked)" in ran(federation, "silo", "update", silo, "--agree")
        third, names = trained(federation, there, "--continue")
        assert names == ["silo-0.json", "silo-2.json", "silo-3.json"]
        ran(federation, "silo", "recommend", there.silos[0], user, code=2)

        (receipt,) = (tmp_path / "receipts").iterdir()
        settings = read_silo_settings(there.silos[0])
        said = ran(federation, "privacy", "verify-receipt", receipt, "--ledger", settings.ledger)
        assert first.name in said and second.name in said and third.name not in said
        there.silos.append(gone)
        assert before.items() <= keys(there).items(), "no key was made anew"
        models = [load_item_embeddings(folder / EMBEDDINGS) for folder in (first, second, third)]
        assert [model.n_items for model in models] == [old.n_items, old.n_items + 3, old.n_items + 3]
        agreed = [(one.what, one.version) for one in Ledger.open(settings.ledger).agreements()]
        assert [one for one in agreed if one[0] != "roster"] == [("terms", 2), ("catalogue", 2), ("terms", 3)]
        check_what_each_built_on(there.simulated, first, second, third)
        of_old, of_new = (Ledger.open(read_silo_settings(one).ledger) for one in (there.silos[0], new))
        rounds = [progress_of(folder)["rounds"] for folder in (first, second, third)]
        assert verify_ledger(of_old).releases == sum(rounds) and of_new.releases() == sum(rounds[1:])
    finally:
        federation.stop()
