"""Trainings of a deployed federation that build on earlier ones: found, proven to silos, resumed; and liars."""

import json
import re
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from command_line import run_command
from deployment_kit import CONFIG, deployed, train_in_process
from test_resuming_a_training import Crash, crashing_at

from client.deployed import forget_silos, open_deployed_silo
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.certificates.certificate import read_certificate, sign_certificate
from recsys_fed.certificates.earlier import joined
from recsys_fed.certificates.run import verify_run
from recsys_fed.config import FederationConfig, parse
from recsys_fed.deployment.federation import agreed_keys, terms_toml
from recsys_fed.deployment.notice import change_catalogue, change_terms
from recsys_fed.deployment.provisioning import change_keys
from recsys_fed.deployment.scheduling import epsilon_of_each
from recsys_fed.deployment.training import RUN_CONFIG, earlier_runs, new_training
from recsys_fed.errors import ConfigurationError, LedgerIntegrityError, ProtocolError
from recsys_fed.federation.kept_releases import RELEASES, read_earlier
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.settings_file import flatten, read_tables
from recsys_fed.signing import SigningKey, sha256
from recsys_fed.silo.settings import read_silo_settings

PLAIN = replace(CONFIG, secure_aggregation="off", most_earlier_trainings=2)
MASKED = replace(PLAIN, secure_aggregation="on")
_names = count(1)


@pytest.fixture(autouse=True)
def _opened_anew():
    forget_silos()
    yield
    forget_silos()


def begun(there, **more):
    """A new training that builds on all before it; its folder, under a name that sorts, and its settings."""
    made = new_training(there.federation, overrides={}, earlier=earlier_runs(there.federation, say=lambda _: None))
    training = made.rename(made.parent / f"20260101T{next(_names):06}")
    config = parse(FederationConfig, flatten(read_tables(training / RUN_CONFIG, what="a run")))
    return training, replace(config, **more)


def trained(there, **more):
    training, config = begun(there)
    train_in_process(there, training, config=config, training=training.name, **more)
    forget_silos()
    return training


def certificates(training):
    return [read_certificate(path.read_bytes()) for path in sorted((training / CERTIFICATES).iterdir())]


def shown(*trainings):
    """What a server sends silos of these trainings."""
    return [joined(path.read_bytes() for path in sorted((one / CERTIFICATES).iterdir())) for one in trainings]


def holds(training):
    found = verify_run(training / CERTIFICATES, events=training / EVENTS, model=training / EMBEDDINGS)
    return found.holds, found.problems


def page_of(federation):
    """The text of the page of a federation's life."""
    code, out, err = run_command("report", federation)
    assert code == 0, err
    return re.sub(r"<[^>]+>", "", Path(out.strip()).read_text())


@pytest.mark.parametrize("mode", ["masked", "ordered"])
def test_each_builds_on_those_before_it_and_every_certificate_says_so(tmp_path, mode):
    config = MASKED if mode == "masked" else replace(PLAIN, target="next")
    there = deployed(tmp_path, config=config)
    if mode == "ordered":
        for silo in there.silos:
            text = (silo / "silo.toml").read_text()
            (silo / "silo.toml").write_text(text.replace('item = "sku"', 'item = "sku"\ntime = "day"'))
    first, second = trained(there), trained(there)
    # The catalogue grows, and silos take its next version in.
    old = Catalogue.load(there.federation.public / "catalogue.parquet")
    ids = np.array([*old.item_ids, "new-1", "new-2"], dtype=object)
    Catalogue(item_ids=ids).save(tmp_path / "now.parquet")
    change_catalogue(there.federation, tmp_path / "now.parquet", passphrase=None)
    for silo in there.silos:
        grown = (there.federation.public / "catalogue.parquet").read_bytes()
        (silo / "federation" / "catalogue.parquet").write_bytes(grown)
    third = trained(there)
    tables = [sha256((one / RELEASES).read_bytes()) for one in (first, second, third)]
    for number, training in enumerate((first, second, third)):
        assert holds(training) == (True, ()), training
        assert {one.tables for one in certificates(training)} == {tables[number]}
        assert {one.earlier for one in certificates(training)} == {tuple(tables[:number])}
    stages = [json.loads(line)["stage"] for line in (second / EVENTS).read_text().splitlines()]
    assert "co-occurrence" not in stages
    assert load_item_embeddings(third / EMBEDDINGS).n_items == old.n_items + 2
    page = page_of(there.federation.path)
    for said in ("the catalogue has 52 items in place of 50", "What is next", "silo-1", "within its limit"):
        assert said in page, said
    with pytest.raises(ConfigurationError, match=r"at most 2 earlier.*most-earlier-trainings"):
        begun(there)


def test_a_continued_training_that_is_interrupted_ends_in_the_same_bytes(tmp_path):
    whole = deployed(tmp_path / "whole", config=PLAIN, simulated=True)
    first = trained(whole)
    training, config = begun(whole)
    train_in_process(whole, training, config=config, training="continued")
    expected = (training / EMBEDDINGS).read_bytes()
    forget_silos()
    again = deployed(tmp_path / "again", config=PLAIN, simulated=True)
    assert (trained(again) / RELEASES).read_bytes() == (first / RELEASES).read_bytes()
    training, config = begun(again)
    for moment in (1, 5):
        with pytest.raises(Crash):
            train_in_process(
                again, training, config=config, training="continued", resume=True, grid=crashing_at(moment)
            )
    # In between somebody changes what it builds on: it does not go on.
    path = first.parents[2] / "again" / "federation" / "trainings" / earlier_runs(again.federation, say=print)[0]
    kept = (path / RELEASES).read_bytes()
    (path / RELEASES).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(LedgerIntegrityError, match="changed later"):
        train_in_process(again, training, config=config, training="continued", resume=True)
    with pytest.raises(LedgerIntegrityError, match=path.name):
        begun(again)
    (path / RELEASES).write_bytes(kept)
    train_in_process(again, training, config=config, training="continued", resume=True)
    assert (training / EMBEDDINGS).read_bytes() == expected
    assert [open_deployed_silo(silo).ledger.releases() for silo in again.silos] == [6, 6, 6]


@pytest.fixture(scope="module")
def after_one(tmp_path_factory):
    """A federation with one training that is done."""
    forget_silos()
    there = deployed(tmp_path_factory.mktemp("after-one"), config=PLAIN)
    return there, trained(there)


def test_a_silo_believes_its_own_ledger_and_the_silos_of_its_roster_and_nobody_else(after_one, tmp_path):
    there, training = after_one
    silo = open_deployed_silo(there.silos[0])
    before = silo.ledger.releases()
    own, other, _ = certificates(training)

    def refused(evidence, match, run="next"):
        with pytest.raises(ProtocolError, match=match):
            silo.build_on(evidence, run=run)
        assert not (there.silos[0] / "state" / "earlier").exists()

    made_up, stranger = replace(other, tables="0" * 64), SigningKey.generate()
    by_stranger = replace(made_up, terms=replace(made_up.terms, public_key=stranger.public_key))
    signed = sign_certificate(by_stranger, stranger)
    refused([signed], "Nobody whom this silo knows")
    # Signed by a stranger under this silo's name, at a head of its ledger and at another one.
    for head in (own.head, replace(own.head, hash="1" * 64)):
        terms = replace(own.terms, public_key=stranger.public_key)
        refused([sign_certificate(replace(own, terms=terms, head=head), stranger)], "Nobody|does not prove")
    refused([shown(training)[0].replace(other.tables.encode(), b"0" * 64)], "not signed by its key")
    refused([joined([*shown(training), signed])], "name one training")
    refused(shown(training, training), "one by itself")
    refused(shown(training), "one by itself", run=training.name)
    refused([b""], "name one training")
    refused(shown(training) * 3, "at most 2")
    # What is true is believed, once, and the list stands for the whole of the training.
    silo.build_on(shown(training), run="next")
    assert silo.config_of("next").earlier_trainings == 1 and silo.config_of("other").earlier_trainings == 0
    with pytest.raises(ProtocolError, match="began with"):
        silo.build_on([], run="next")
    silo.check_earlier([own.tables], run="next")
    for digests in ([], ["0" * 64], [own.tables] * 2):
        with pytest.raises(ProtocolError, match="earlier releases"):
            silo.check_earlier(digests, run="next")
    assert silo.ledger.releases() == before


def test_who_was_not_there_needs_the_roster_and_new_keys_change_nothing(after_one):
    there, training = after_one
    newcomer = open_deployed_silo(there.silos[1])
    # As one that joined later: under another name, which none of the certificates has.
    newcomer = replace(newcomer, name="newcomer")
    newcomer.build_on(shown(training), run="of-a-newcomer")
    alone = replace(newcomer, settings=replace(newcomer.settings, roster=str(there.silos[1] / "none.json")))
    with pytest.raises(ProtocolError, match="silo roster"):
        alone.build_on(shown(training), run="of-one-alone")
    change_keys(there.silos[2], reason="lost laptop")
    forget_silos()
    renewed = open_deployed_silo(there.silos[2])
    own = [path.read_bytes() for path in (training / CERTIFICATES).iterdir() if "silo-2" in path.name]
    renewed.build_on([joined(own)], run="after-new-keys")
    assert renewed.config_of("after-new-keys").earlier_trainings == 1


def test_a_silo_may_train_on_what_is_new_since_the_training_before(tmp_path):
    there = deployed(tmp_path, config=PLAIN)
    silo_toml, table = there.silos[0] / "silo.toml", tmp_path / "silo-0.csv"
    text = silo_toml.read_text().replace('item = "sku"', 'item = "sku"\ntime = "day"\ntrain-on = "new"')
    silo_toml.write_text(text)
    first = trained(there)
    items = Catalogue.load(there.federation.public / "catalogue.parquet").item_ids
    later = int(time.time()) + 60
    rows = [f"newcomer-{user},{item},{later}\n" for user in range(2) for item in items[:3]]
    old = table.read_text()
    table.write_text(old + "".join(rows))
    silo = open_deployed_silo(there.silos[0])
    silo.build_on(shown(first), run="second")
    new = silo.users("second").histories
    assert (new.n_users, len(new.items)) == (2, 6)
    # One that builds on nothing sees all, and so do users' vectors.
    everything = len(old.splitlines()) - 1 + 6
    assert len(silo.users("from-nothing").histories.items) == everything
    assert sum(len(histories.items) for _, histories in silo.data.parts()) == everything
    silo_toml.write_text(text.replace("time =", "value ="))
    with pytest.raises(ConfigurationError, match="train-on"):
        read_silo_settings(there.silos[0])


def test_a_server_that_claims_earlier_trainings_without_proof_gets_nothing(tmp_path):
    there = deployed(tmp_path, config=PLAIN)
    training = trained(there)
    # It sends requests of a plan that builds on one, and shows no certificate.
    from recsys_fed.federation import wire
    from recsys_fed.simulation.flower_engine import load_apps

    client = load_apps()[1]

    def silent(message, context):
        if message.metadata.message_type == "query" and "invitation" in message.content.config_records:
            message.content = wire.invitation_to_records(wire.Invitation())
        return client(message, context)

    output, config = begun(there)
    with pytest.raises(ProtocolError):
        train_in_process(there, output, config=config, training="unproven", app=silent)
    assert [open_deployed_silo(silo).ledger.releases() for silo in there.silos] == [3, 3, 3]
    lines = [json.loads(line) for line in (there.silos[0] / "log.jsonl").read_text().splitlines()]
    refused = [line for line in lines if line["event"] == "message refused"]
    assert {(line["training"], line["error"]) for line in refused} == {("unproven", "ProtocolError")}
    assert holds(training) == (True, ())


def test_what_a_new_training_builds_on_is_found_and_what_it_leaves_out_is_said(after_one):
    there, training = after_one
    folder, lines = there.federation, []
    assert earlier_runs(folder, say=lines.append) == [training]
    assert lines == [f"builds on 1 earlier trainings: {training.name}"]
    with pytest.raises(ConfigurationError, match="no complete training nothing"):
        earlier_runs(folder, until="nothing", say=lines.append)
    run_config, text = training / RUN_CONFIG, (training / RUN_CONFIG).read_text()
    run_config.write_text(text.replace('target = "auto"', 'target = "next"'))
    try:
        assert earlier_runs(folder, say=lines.append) == []
        assert "its target was another" in lines[-2]
    finally:
        run_config.write_text(text)
    moved = training / RELEASES
    content = moved.read_bytes()
    moved.unlink()
    try:
        assert earlier_runs(folder, say=lines.append) == []
        assert "kept no released tables" in lines[-2]
    finally:
        moved.write_bytes(content)
    # A catalogue that is no later version of the training's is refused.
    strangers = Catalogue(item_ids=np.array([f"other-{n}" for n in range(60)], dtype=object))
    config = replace(PLAIN, earlier_trainings=1, earlier=json.dumps([str(training)]))
    with pytest.raises(ConfigurationError, match="no later version"):
        read_earlier(config, strangers)


def test_the_terms_say_it_and_those_of_earlier_versions_say_nothing(tmp_path):
    there = deployed(tmp_path, config=replace(PLAIN, most_earlier_trainings=0))
    folder = there.federation
    assert "most-earlier-trainings" not in terms_toml(folder.settings())
    change_terms(folder, {"most-earlier-trainings": 7}, passphrase=None)
    assert agreed_keys(folder.settings().training)["most-earlier-trainings"] == 7
    code, _, err = run_command("federation", "train", folder.path, "T")
    assert code == 2 and "--continue" in err
    code, _, err = run_command("federation", "train", folder.path, "--continue", "--resume")
    assert code == 2 and "--resume alone" in err
    # Trainings that build on one another share what all may cost as those do that each start from nothing.
    each = epsilon_of_each(folder, 8.0, trainings=4, earlier=0)
    assert 2.0 < each < 4.1
