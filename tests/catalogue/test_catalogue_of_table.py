"""A catalogue from a product list, as an operator has it."""

import numpy as np
import pandas as pd
import pytest
from command_line import run_command

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.readers.products import catalogue_of_table
from recsys_fed.errors import ConfigurationError, DataError, DataFormatError, DataNotFoundError, MissingColumnError

TABLE = pd.DataFrame(
    {
        "sku": ["007", "b", "c"],
        "name": ["Lamp, small", "Chair", ""],
        "section": ["home|light", "home", ""],
        "about": ["A lamp.", "", "Unnamed."],
    }
)
COLUMNS = {"item": "sku", "title": "name", "categories": "section", "text": "about"}
EXPECTED = Catalogue(
    item_ids=np.array(["007", "b", "c"], dtype=object),
    titles=("Lamp, small", "Chair", ""),
    categories=(("home", "light"), ("home",), ()),
    texts=("A lamp.", "", "Unnamed."),
)


def test_csv_tsv_and_parquet_give_one_catalogue_in_the_tables_order(tmp_path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    TABLE.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    lists = TABLE.assign(section=[["home", "light"], ["home"], None], name=["Lamp, small", "Chair", None])
    lists.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.tsv", "t.parquet"):
        assert catalogue_of_table(tmp_path / name, COLUMNS).content_hash == EXPECTED.content_hash, name
    assert catalogue_of_table(tmp_path / "t.csv", {"item": "sku", "title": ""}).titles is None


def test_what_is_no_product_list_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    with pytest.raises(DataNotFoundError):
        catalogue_of_table(path, COLUMNS)
    TABLE.assign(sku=["a", "", "c"]).to_csv(path, index=False)
    with pytest.raises(DataFormatError, match="line 3"):
        catalogue_of_table(path, COLUMNS)
    TABLE.assign(sku="a").to_csv(path, index=False)
    with pytest.raises(DataError, match="twice"):
        catalogue_of_table(path, COLUMNS)
    with pytest.raises(DataFormatError, match="price"):
        catalogue_of_table(path, {"item": "price"})
    TABLE.rename(columns={"sku": "thing"}).to_csv(path, index=False)
    with pytest.raises(MissingColumnError, match="a column for item"):
        catalogue_of_table(path, {"title": "name"})
    with pytest.raises(ConfigurationError):
        catalogue_of_table(path, {"item": "sku", "user": "name"})


def test_the_command_writes_it_once(tmp_path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    made = tmp_path / "catalogue.parquet"
    arguments = ("catalogue", made, "--table", tmp_path / "t.csv", "--columns", "item=sku,title=name")
    assert run_command(*arguments)[0] == 0
    assert Catalogue.load(made).titles == EXPECTED.titles
    assert run_command(*arguments)[0] == 2


def test_options_that_do_not_go_together_are_refused(tmp_path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    made = tmp_path / "catalogue.parquet"
    assert run_command("catalogue", made, "--table", tmp_path / "t.csv", "--data", "ml-100k")[0] == 2
    assert run_command("catalogue", made, "--data", "ml-100k", "--columns", "item=sku")[0] == 2
    assert not made.exists()
