"""`silo check` finds each thing that is wrong, before anything is sent."""

import pandas as pd
import pytest
from deployment_kit import deployed

from recsys_fed.deployment.checking import check_silo
from recsys_fed.silo.settings import read_silo_settings


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    return deployed(tmp_path_factory.mktemp("federation"))


def findings(path, **how):
    return {finding.name: finding for finding in check_silo(path, **how)}


def test_a_good_silo_is_good_but_for_a_server_that_is_not_there(there):
    found = findings(there.silos[0])
    assert [name for name, finding in found.items() if not finding.good] == ["federation"]
    assert "80 users" in found["data"].detail
    assert all(finding.good for finding in check_silo(there.silos[0], reach=False))


def test_it_counts_neighbours_whose_times_do_not_order_them(there):
    path, table = there.silos[2] / "silo.toml", there.silos[2].parent / "silo-2.csv"
    text, rows = path.read_text(), pd.read_csv(table)
    assert "one time" not in findings(there.silos[2], reach=False)["data"].detail
    try:
        path.write_text(text + 'time = "day"\n')
        assert "one time" not in findings(there.silos[2], reach=False)["data"].detail
        rows.assign(day=1_700_000_000).to_csv(table, index=False)
        pairs = len(rows) - rows["customer"].nunique()
        assert f"{pairs} pairs of a user's" in findings(there.silos[2], reach=False)["data"].detail
    finally:
        path.write_text(text)
        rows.to_csv(table, index=False)


def test_each_fault_is_found(there, tmp_path):
    settings = read_silo_settings(there.silos[1])
    text = (there.silos[1] / "silo.toml").read_text()
    faults = {
        "settings": text.replace("[data]", "[data]\nmisspelled = 1"),
        "data": text.replace('user = "customer"', 'user = "client"'),
        "keys": text.replace("[silo]", '[silo]\nsecret-key = "keys/none.key"'),
        "ledger": text.replace("[silo]", '[silo]\nledger = "none.sqlite"'),
        "catalogue": text.replace("catalogue.parquet", "none.parquet"),
        "roster": text.replace("roster.json", "none.json"),
    }
    for name, changed in faults.items():
        path = there.silos[1] / "silo.toml"
        path.write_text(changed)
        try:
            found = findings(there.silos[1], reach=False)
            assert changed != text
            assert not found[name].good, name
        finally:
            path.write_text(text)
    assert settings.name == "silo-1"


def test_a_key_that_others_can_read_is_not_good(there):
    key = there.silos[2] / "keys" / "secret.key"
    key.chmod(0o644)
    try:
        assert "chmod 600" in findings(there.silos[2], reach=False)["keys"].detail
    finally:
        key.chmod(0o600)
