"""Histories that their owners made public: kept with the catalogue, never without a word of consent."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from command_line import run_command

from recsys_fed.catalogue.items import Catalogue, PublicUsers, drop_items, extend_catalogue
from recsys_fed.data.readers.products import add_public_users
from recsys_fed.errors import ConfigurationError, DataError, DataFormatError, DataNotFoundError, MissingColumnError

PUBLIC = PublicUsers(of_item=((0, 2), (), (1,)), consent=("to research", "to research", "to anything"))


def with_public_users(**changed):
    return Catalogue(item_ids=np.array(["a", "b", "c"], dtype=object), public_users=replace(PUBLIC, **changed))


def test_public_users_are_kept_with_their_consent_and_in_the_hash(tmp_path):
    catalogue = with_public_users()
    catalogue.save(tmp_path / "c.parquet")
    back = Catalogue.load(tmp_path / "c.parquet")
    assert (back.public_users.of_item, back.public_users.consent) == (PUBLIC.of_item, PUBLIC.consent)
    others = [with_public_users(of_item=((0, 1), (), (2,))), with_public_users(consent=("to research",) * 3)]
    hashes = {one.content_hash for one in (catalogue, *others, Catalogue(item_ids=catalogue.item_ids))}
    assert len(hashes) == 4
    assert "3 users with 3 interactions" in PUBLIC.sentence()
    assert "'to research' (2)" in PUBLIC.sentence()


def test_public_users_go_with_their_items():
    catalogue = with_public_users()
    more = extend_catalogue(catalogue, Catalogue(item_ids=np.array(["d"], dtype=object)))
    assert more.public_users.of_item == (*PUBLIC.of_item, ())
    assert drop_items(more, np.array([True, False, False, False])).public_users.of_item == ((), (1,), ())


@pytest.mark.parametrize(
    "changed",
    [
        {"consent": ("yes", " ", "yes")},
        {"of_item": ((2, 0), (), ())},
        {"of_item": ((3,), (), ())},
        {"of_item": ((), ())},
    ],
)
def test_public_users_without_consent_or_with_other_rows_are_refused(changed):
    with pytest.raises(DataError):
        with_public_users(**changed)


ITEMS = Catalogue(item_ids=np.array(["1", "2", "x"], dtype=object))
TABLE = pd.DataFrame(
    {
        "user_id": ["b", "a", "b", "b"],
        "item_id": ["1", "x", "gone", "x"],
        "consent": ["to all", "mail of 3 May", "to all", "to all"],
    }
)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_of_public_users_is_read(tmp_path, name):
    getattr(TABLE, "to_csv" if name == "t.csv" else "to_parquet")(tmp_path / name, index=False)
    found, ids = add_public_users(ITEMS, tmp_path / name)
    assert ids.tolist() == ["a", "b"]
    assert found.public_users.of_item == ((1,), (), (0, 1))
    assert found.public_users.consent == ("mail of 3 May", "to all")
    with pytest.raises(ConfigurationError, match="already"):
        add_public_users(found, tmp_path / name)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (TABLE.drop(columns="consent"), MissingColumnError, "without it the histories are private"),
        (TABLE.assign(consent=["to all", " ", "to all", "to all"]), DataFormatError, "consent in every row"),
        (TABLE.assign(user_id=["b", "", "b", "b"]), DataFormatError, "user in every row"),
        (TABLE[:0], DataFormatError, "at least one"),
    ],
)
def test_a_table_that_does_not_say_who_consented_is_refused(tmp_path, table, error, message):
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(error, match=message):
        add_public_users(ITEMS, tmp_path / "t.csv")
    with pytest.raises(DataNotFoundError):
        add_public_users(ITEMS, tmp_path / "other.csv")


def test_the_catalogue_command_adds_them_and_says_so(tmp_path):
    ITEMS.save(tmp_path / "c.parquet")
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    paths = ("--catalogue", tmp_path / "c.parquet", "--public-users", tmp_path / "t.csv")
    code, out, _ = run_command("catalogue", tmp_path / "public.parquet", *paths)
    assert code == 0
    assert "2 users with 3 interactions" in " ".join(out.split())
    assert "mail of 3 May" in out
    assert Catalogue.load(tmp_path / "public.parquet").public_users.n_users == 2


def test_a_simulation_uses_them_says_so_and_refuses_who_is_in_a_silo(tmp_path):
    data = "generated:users=300,items=80,interactions=20,groups=4,seed=1"
    run = ("simulate", "--data", data, "--silos", 2, "--epsilon", 2, "--delta", 1e-4, "--output", tmp_path / "run")
    run_command(*run)
    known = Catalogue.load(tmp_path / "run" / "catalogue.parquet").item_ids[:8].tolist()
    table = pd.DataFrame({"user": "v1", "item": known, "consent": "to research"})
    table.to_csv(tmp_path / "t.csv", index=False)
    code, out, err = run_command(*run, "--public-users", tmp_path / "t.csv")
    assert code == 0
    assert "1 users with 8 interactions, who are in no silo" in " ".join((out + err).split())
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["public_users"]["users"] == 1
    table.assign(user="0").to_csv(tmp_path / "other.csv", index=False)
    code, _, err = run_command(*run, "--public-users", tmp_path / "other.csv")
    assert code != 0
    assert "in no silo" in " ".join(err.split())
