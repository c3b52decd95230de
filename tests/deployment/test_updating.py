"""Silos come, go and are kept up to date: signed notices, later terms and catalogues, and no key made anew."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deployment_kit import CONFIG, deployed, train_in_process

from client.deployed import forget_silos, open_deployed_silo
from recsys_fed.catalogue.items import Catalogue, catalogue_of_model, extend_catalogue
from recsys_fed.certificates.run import verify_run
from recsys_fed.deployment import updating
from recsys_fed.deployment.federation import CATALOGUE_PATH, FederationFolder
from recsys_fed.deployment.notice import change_catalogue, change_terms, publish, read_notice
from recsys_fed.deployment.provisioning import init_silo
from recsys_fed.deployment.roster import admit, revoke
from recsys_fed.deployment.updating import accept_update, fetch_update, pin_federation_key
from recsys_fed.errors import ConfigurationError, DataError, DataNotFoundError, LedgerIntegrityError, ProtocolError
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.silo.recommendations import open_recommender
from recsys_fed.silo.secret import Pseudonyms, SiloSecret
from recsys_fed.silo.settings import read_silo_settings
from recsys_fed.silo.state import StateFolder

MASKED = replace(CONFIG, secure_aggregation="on")


@pytest.fixture(autouse=True)
def _fetched_from_the_folder(monkeypatch):
    """The gate hands out files as they are; real processes do so in tests/integration."""

    def fetch(settings, path, *, passphrase):
        federation = Path(settings.folder).parent / "federation" / "public"
        return (federation / ("catalogue.parquet" if path == CATALOGUE_PATH else "notice.json")).read_bytes()

    monkeypatch.setattr(updating, "_fetch", fetch)
    forget_silos()
    yield
    forget_silos()


def update(silo, *, agree=True):
    settings = read_silo_settings(silo)
    found = fetch_update(settings, passphrase=None)
    if agree and found.is_news:
        accept_update(settings, found, passphrase=None)
    return found


def made(tmp_path, config=MASKED):
    there = deployed(tmp_path, config=config)
    publish(there.federation, passphrase=None)
    for silo in there.silos:
        update(silo)
    return there


def keys(there):
    return {path: path.read_bytes() for silo in there.silos for path in (silo / "keys").iterdir()}


def verified(folder):
    found = verify_run(folder / CERTIFICATES, events=folder / EVENTS, model=folder / EMBEDDINGS)
    assert found.holds, found.problems
    return found


def fourth(there):
    """A fourth silo with users of its own, admitted."""
    public, path = there.federation.public, there.federation.path.parent / "silo-3"
    table = (path.parent / "silo-0.csv").read_text().replace("patient-", "visitor-")
    (path.parent / "silo-3.csv").write_text(table)
    init_silo(
        path,
        federation=public,
        name="silo-3",
        epsilon=20.0,
        data={"source": "csv", "path": "../silo-3.csv", "user": "customer", "item": "sku"},
        extra={"threads": 1},
    )
    admit(there.federation, path / "silo-3.pub")
    publish(there.federation, passphrase=None)
    there.silos.append(path)
    return path


def more_items(there, tmp_path):
    old = Catalogue.load(there.federation.public / "catalogue.parquet")
    # Some of the old items are no longer on offer.
    ids = np.array([*old.item_ids[10:], *(f"new-{n}" for n in range(5))], dtype=object)
    Catalogue(item_ids=ids).save(tmp_path / "now.parquet")
    return old, tmp_path / "now.parquet"


def test_a_silo_joins_another_leaves_and_the_catalogue_grows_under_the_same_keys(tmp_path):
    there = made(tmp_path)
    before = keys(there)
    train_in_process(there, tmp_path / "first", config=MASKED, training="first")
    assert len(verified(tmp_path / "first").certificates) == 3

    new = fourth(there)
    config = change_terms(there.federation, {"silos": 4}, passphrase=None).settings().training
    # Who has not agreed refuses, and is charged nothing.
    config = replace(config, threads=1, seed=CONFIG.seed)
    old, items = more_items(there, tmp_path)
    change_catalogue(there.federation, items, passphrase=None)
    spent = Ledger.open(read_silo_settings(there.silos[0]).ledger).releases()
    for silo in there.silos:
        assert update(silo).is_news
        assert not update(silo).is_news
    train_in_process(there, tmp_path / "second", config=config, training="second")
    assert len(verified(tmp_path / "second").certificates) == 4
    assert Ledger.open(read_silo_settings(there.silos[0]).ledger).releases() > spent

    revoke(there.federation, "silo-1")
    config = change_terms(there.federation, {"silos": 3}, passphrase=None).settings().training
    config = replace(config, threads=1, seed=CONFIG.seed)
    gone = there.silos.pop(1)
    for silo in there.silos:
        assert set(update(silo).gone) == {"silo-1"}
    train_in_process(there, tmp_path / "third", config=config, training="third")
    assert len(verified(tmp_path / "third").certificates) == 3

    there.silos.append(gone)
    assert before.items() <= keys(there).items(), "no key was made anew"
    settings = read_silo_settings(there.silos[0])
    ledger = Ledger.open(settings.ledger)
    agreed = [(one.what, one.version) for one in ledger.agreements()]
    assert [one for one in agreed if one[0] != "roster"] == [("terms", 2), ("catalogue", 2), ("terms", 3)]
    assert verify_ledger(ledger).releases == 9
    assert Catalogue.load(settings.catalogue).item_ids[:50].tolist() == old.item_ids.tolist()
    assert open_deployed_silo(new).config.silos == 3


def test_nothing_is_taken_in_without_the_operators_word(tmp_path):
    there = made(tmp_path)
    silo = open_deployed_silo(there.silos[0])
    toml = (there.silos[0] / "silo.toml").read_text()
    change_terms(there.federation, {"epsilon": 3.0}, passphrase=None)
    change_catalogue(there.federation, more_items(there, tmp_path)[1], passphrase=None)
    found = update(there.silos[0], agree=False)
    assert found.terms == {"epsilon": (6.0, 3.0)} and found.catalogue
    assert open_deployed_silo(there.silos[0]) is silo
    assert (there.silos[0] / "silo.toml").read_text() == toml
    update(there.silos[0])
    again = open_deployed_silo(there.silos[0])
    assert (again.config.epsilon, again.catalogue.n_items) == (3.0, 55)
    # Of silo.toml the table [agreed] alone has changed.
    now = (there.silos[0] / "silo.toml").read_text()
    one, other = (text.split("[agreed]")[0] + text.split("[data]")[1] for text in (toml, now))
    assert one == other


def test_a_notice_that_is_forged_older_or_of_other_contents_is_refused(tmp_path):
    there = made(tmp_path)
    public = there.federation.public
    first = (public / "notice.json").read_bytes()
    change_terms(there.federation, {"epsilon": 3.0}, passphrase=None)
    update(there.silos[0])
    second = (public / "notice.json").read_bytes()
    (public / "notice.json").write_bytes(first)
    with pytest.raises(LedgerIntegrityError, match="older"):
        update(there.silos[0])
    record = json.loads(second)
    record["notice"]["roster"]["mallory"] = "0" * 64
    forged = json.dumps(record, sort_keys=True, separators=(",", ":"))
    (public / "notice.json").write_text(forged)
    with pytest.raises(LedgerIntegrityError, match="not signed"):
        update(there.silos[0])
    # Another federation's, signed well.
    other = deployed(tmp_path / "other", config=MASKED)
    (public / "notice.json").write_bytes((other.federation.public / "notice.json").read_bytes())
    with pytest.raises(LedgerIntegrityError, match="not signed"):
        update(there.silos[0])
    # One that lists everybody but this silo.
    (public / "notice.json").write_bytes(second)
    revoke(there.federation, "silo-0")
    publish(there.federation, passphrase=None)
    with pytest.raises(LedgerIntegrityError, match="lists this silo"):
        update(there.silos[0])
    (there.federation.admitted / "back.pub").write_text(next(there.federation.revoked.glob("*")).read_text())
    publish(there.federation, passphrase=None)
    update(there.silos[0])
    second = (public / "notice.json").read_bytes()
    # A catalogue that changes a row, and one that is not the notice's.
    (public / "notice.json").write_bytes(second)
    ids = Catalogue.load(public / "catalogue.parquet").item_ids
    Catalogue(item_ids=np.array([*ids[::-1], "one more"], dtype=object)).save(public / "catalogue.parquet")
    publish(there.federation, passphrase=None)
    with pytest.raises(DataError, match="begins with"):
        update(there.silos[0])
    assert Catalogue.load(there.silos[0] / "federation" / "catalogue.parquet").n_items == 50
    Catalogue(item_ids=ids).save(public / "catalogue.parquet")
    with pytest.raises(DataError, match="not that of the notice"):
        update(there.silos[0])


def test_what_a_ledger_says_for_ever_is_no_term_that_changes(tmp_path):
    there = made(tmp_path)
    for name, value in (("delta", 1e-7), ("declared-users", 300), ("max-silos-per-user", 2)):
        with pytest.raises(ConfigurationError, match=f"{name}.* for ever"):
            change_terms(there.federation, {name: value}, passphrase=None)
    assert there.federation.settings().terms_version == 1


def test_terms_that_a_silo_has_not_agreed_to_are_refused_by_it_and_charge_nothing(tmp_path):
    there = made(tmp_path, config=replace(CONFIG, secure_aggregation="off"))
    changed = change_terms(there.federation, {"metrics-epsilon": 0.5}, passphrase=None).settings().training
    update(there.silos[0])
    # Rounds go on without those that refuse.
    train_in_process(there, tmp_path / "run", config=replace(changed, threads=1), training="run")
    releases = [Ledger.open(read_silo_settings(silo).ledger).releases() for silo in there.silos]
    assert releases[0] > 0 and releases[1:] == [0, 0]


def test_while_a_catalogue_rolls_out_those_that_have_it_go_on(tmp_path):
    config = replace(CONFIG, secure_aggregation="off")
    there = made(tmp_path, config=config)
    change_catalogue(there.federation, more_items(there, tmp_path)[1], passphrase=None)
    for silo in there.silos[:2]:
        update(silo)
    with pytest.raises(ProtocolError, match="silo update"):
        train_in_process(there, tmp_path / "all", config=config, training="all")
    train_in_process(there, tmp_path / "two", config=config, training="two", minimum_silos=2)
    assert [c.terms.silo for c in verified(tmp_path / "two").certificates.values()] == ["silo-0", "silo-1"]
    assert Ledger.open(read_silo_settings(there.silos[2]).ledger).releases() == 0
    assert "silo-2" in (tmp_path / "two" / "federation.json").read_text()


def test_a_model_of_an_earlier_catalogue_goes_on_recommending(tmp_path):
    config = replace(CONFIG, secure_aggregation="off")
    there = made(tmp_path, config=config)
    train_in_process(there, tmp_path / "first", config=config, training="first")
    settings, secret = read_silo_settings(there.silos[0]), SiloSecret.load(there.silos[0] / "keys" / "secret.key")
    state = StateFolder(there.silos[0] / "state", secret)
    old = Catalogue.load(settings.catalogue)
    before = open_recommender(state, old, Pseudonyms(secret)).best([0, 1], 10)
    change_catalogue(there.federation, more_items(there, tmp_path)[1], passphrase=None)
    update(there.silos[0])
    now = Catalogue.load(settings.catalogue)
    after = open_recommender(state, now, Pseudonyms(secret))
    assert after.catalogue.content_hash == old.content_hash
    assert np.array_equal(before[0], after.best([0, 1], 10)[0])


def test_versions_of_a_catalogue_are_told_apart_by_their_hash():
    old = Catalogue(item_ids=np.array(["a", "b"], dtype=object), titles=("A", "B"))
    new = extend_catalogue(old, Catalogue(item_ids=np.array(["c", "a"], dtype=object), titles=("C", "changed")))
    assert new.item_ids.tolist() == ["a", "b", "c"] and new.titles == ("A", "B", "C")
    assert catalogue_of_model(new, content_hash=old.content_hash, n_items=2).content_hash == old.content_hash
    assert catalogue_of_model(new, content_hash=new.content_hash, n_items=3) is new
    for content_hash, n_items in ((old.content_hash, 1), ("0" * 64, 2), (new.content_hash[::-1], 3)):
        with pytest.raises(DataError, match="another"):
            catalogue_of_model(new, content_hash=content_hash, n_items=n_items)


def test_a_federation_and_silos_of_an_earlier_version_go_on(tmp_path):
    there = deployed(tmp_path, config=MASKED)
    # What was there before notices: neither a key nor a notice, nor versions in federation.toml.
    for folder in (there.federation.public, *(silo / "federation" for silo in there.silos)):
        for name in ("notice.json", "federation.pub"):
            (folder / name).unlink(missing_ok=True)
    there.federation.federation_key.unlink()
    path = there.federation.settings_file
    path.write_text("".join(line for line in path.open() if "-version" not in line))
    folder = FederationFolder(there.federation.path)
    settings = read_silo_settings(there.silos[0])
    with pytest.raises(DataNotFoundError, match="--federation-key"):
        fetch_update(settings, passphrase=None)
    publish(folder, passphrase=None)
    key = (folder.public / "federation.pub").read_text()
    pin_federation_key(settings, key)
    pin_federation_key(settings, key)
    with pytest.raises(ConfigurationError, match="another key"):
        pin_federation_key(settings, "0" * 64)
    found = fetch_update(settings, passphrase=None)
    assert not found.is_news
    assert read_notice(found.content, public_key=key.strip()).notice.version == 1


def test_a_notice_changes_only_with_what_it_says_and_has_a_fingerprint(tmp_path):
    there = deployed(tmp_path, config=MASKED)
    one, same = (publish(there.federation, passphrase=None) for _ in range(2))
    assert one == same and one.fingerprint() == same.fingerprint()
    assert len(one.fingerprint()) == 24
    other = change_terms(there.federation, {"epsilon": 1.0}, passphrase=None)
    assert (other.version, other.terms_version) == (one.version + 1, 2)
    assert other.fingerprint() != one.fingerprint()
