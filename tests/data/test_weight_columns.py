"""Columns of weights: the same at every door, a row without a weight above zero is left out, kinds multiply."""

import numpy as np
import pandas as pd
import pytest
from doors import PSEUDONYMS, through_all

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.dataset import Dataset
from recsys_fed.data.interactions import id_array
from recsys_fed.silo.interactions import read_silo_data
from recsys_fed.silo.settings import DataSettings

ROWS = """user,item,kind,minutes
a,x,view,3
a,y,buy,3
a,z,buy,1e30
b,x,view,-1
b,y,buy,nan
b,z,buy,0
b,w,buy,
b,v,buy,many
b,u,rest,5
b,t,buy,2
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(ROWS)
    return path


def test_every_door_leaves_out_rows_without_a_weight_above_zero(table, tmp_path):
    found = through_all(table, columns="weight=minutes", folder=tmp_path / "blocks")
    assert {entry.item: entry.weight for entry in found.of("a")} == {"x": 3, "y": 3, "z": pytest.approx(1e30)}
    assert {entry.item: entry.weight for entry in found.of("b")} == {"u": 5, "t": 2}
    assert found.rules == {"no weight": 5}


def test_kinds_multiply_and_rows_of_other_kinds_are_of_other_kinds(table, tmp_path):
    found = through_all(table, columns="weight=minutes", kinds="view=0.1,buy=1", folder=tmp_path / "blocks")
    assert {entry.item: entry.weight for entry in found.of("a")} == {
        "x": pytest.approx(0.3),
        "y": 3,
        "z": pytest.approx(1e30),
    }
    assert [entry.item for entry in found.of("b")] == ["t"]
    assert found.rules == {"other kind": 1, "no weight": 5}


def test_a_column_called_weight_is_a_value_until_it_is_named_as_weight(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("user,item,weight\na,x,3\na,y,4\n")
    assert {(entry.value, entry.weight) for entry in through_all(path, folder=tmp_path / "one").of("a")} == {
        (3, None),
        (4, None),
    }
    named = through_all(path, columns="weight=weight,value=", folder=tmp_path / "two")
    assert {(entry.value, entry.weight) for entry in named.of("a")} == {(None, 3), (None, 4)}


def test_a_frame_has_weights_too():
    frame = pd.DataFrame({"user": ["a", "a"], "item": ["x", "y"], "minutes": [2.0, 0.5]})
    found = Dataset.from_frame(frame, user="user", item="item", weight="minutes").interactions
    assert found.weight.tolist() == [2.0, 0.5] and found.value is None


@pytest.mark.parametrize(("least", "held"), [(-1.0, {"y"}), (0.1, {"z"})])
def test_a_silo_holds_out_the_latest_hit_of_each_user(tmp_path, least, held):
    path = tmp_path / "events.csv"
    path.write_text("user,item,kind,time\na,x,buy,1\na,y,buy,2\na,z,view,3\nb,x,view,1\nb,y,view,2\n")
    data = DataSettings(
        path=str(path), kind="kind", time="time", kinds={"view": 0.1, "buy": 1.0}, hold_out="last", hit_weight=least
    )
    catalogue = Catalogue(item_ids=id_array(["x", "y", "z"]))
    silo = read_silo_data(data, catalogue, PSEUDONYMS)
    row = silo.users.tolist().index(PSEUDONYMS.of("a"))
    assert {str(catalogue.item_ids[item]) for item in silo.test[row].indices} == held
    # Who has no hit but one holds nothing out; nothing is lost.
    whole = silo.train + silo.test
    assert whole.nnz == 5 and np.array_equal(np.unique(whole.data), [1.0])
