"""Protocols by name: what they fix stays fixed, parts do not overlap, and validation never sees a test item."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recsys_fed.config import SimulationConfig
from recsys_fed.data.protocols import PROTOCOLS, apply_protocol, protocol_of
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.data.sources import Request, read
from recsys_fed.data.split import drop_lower_values, parts_of
from recsys_fed.errors import ConfigurationError, DataFormatError

U_DATA = "\n".join(
    f"{user}\t{item}\t{rating}\t{time}"
    for user, item, rating, time in [
        # User 1: items 10, 11, 12, 13 are good ones; 12 and 13 at one time, 13 in the later row. 14 is bad and last.
        (1, 10, 5, 100), (1, 12, 4, 300), (1, 14, 2, 900), (1, 11, 4, 200), (1, 13, 5, 300),
        # User 2 has two good ones: too few to hold two out. User 3 has a bad one only.
        (2, 10, 4, 5), (2, 11, 5, 6), (2, 14, 1, 7), (3, 14, 3, 1),
    ]
)  # fmt: skip


@pytest.fixture
def small_100k(tmp_path):
    (tmp_path / "u.data").write_text(U_DATA + "\n")
    return str(tmp_path)


def items_of(federation, matrix, user):
    ids = federation.catalogue.item_ids
    row = federation.dataset.interactions.user_ids.tolist().index(user)
    return set(ids[matrix[row].indices].tolist())


def test_leave_two_out_takes_the_last_of_the_good_ones_and_the_one_before_it(small_100k):
    config = SimulationConfig(data=small_100k, protocol="ml-100k")
    test, validation = (
        simulated_federation(replace(config, held_out=part), silos=1, seed=0) for part in ("test", "validation")
    )
    assert items_of(test, test.test, "1") == {"13"}
    assert items_of(validation, validation.test, "1") == {"12"}
    for federation in (test, validation):
        assert items_of(federation, federation.train, "1") == {"10", "11"}
        assert items_of(federation, federation.train, "2") == {"10", "11"}
        assert items_of(federation, federation.train, "3") == set()
        assert federation.test.nnz == 1
        # Items that nobody rated well are still candidates.
        assert set(federation.catalogue.item_ids) == {"10", "11", "12", "13", "14"}
    # By the time of the test item the validation item is known; before, the test item is one like others.
    assert items_of(test, test.excluded, "1") == {"10", "11", "12"}
    assert items_of(validation, validation.excluded, "1") == {"10", "11"}


def test_of_a_split_with_a_test_part_validation_is_cut_from_the_rest_and_the_seed_decides():
    config = SimulationConfig(data="generated:users=80,items=60,interactions=20", test_fraction=0.2)
    test, validation = (
        simulated_federation(replace(config, held_out=part), silos=1, seed=4) for part in ("test", "validation")
    )
    assert validation.test.nnz == pytest.approx(0.2 * test.train.nnz, rel=0.1)
    assert (validation.train + validation.test != test.train).nnz == 0
    assert validation.test.multiply(test.test).nnz == validation.train.multiply(test.test).nnz == 0
    again = simulated_federation(replace(config, held_out="validation", skew=2.0), silos=1, seed=4)
    assert (again.test != validation.test).nnz == 0
    assert again is not validation


@pytest.mark.parametrize("method", ["per-user-random", "leave-last-out", "leave-two-out", "global-temporal"])
@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_parts_do_not_overlap_and_all_is_repeated_under_the_seed(method, held_out):
    dataset = read_generated()
    config = SimulationConfig(split=method, held_out=held_out)
    one, other = (parts_of(dataset, config, rng=np.random.default_rng(3)) for _ in range(2))
    total = one.train.astype(int) + one.held_out + one.unranked
    assert total.max() == 1
    assert one.held_out.any()
    for name in ("train", "held_out", "unranked"):
        assert (getattr(one, name) == getattr(other, name)).all()


def read_generated():
    from recsys_fed.data.generate import generate

    return generate(n_users=50, n_items=40, mean_interactions=10, n_groups=3, seed=2)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_once_followed_changes_nothing_more(name):
    config = apply_protocol(SimulationConfig(protocol=name))
    assert apply_protocol(config) == config
    assert protocol_of(config) is PROTOCOLS[name]
    assert all(getattr(config, key) == value for key, value in PROTOCOLS[name].keys.items())
    assert config.data.endswith(PROTOCOLS[name].given_split)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ml-100k", {"split": "per-user-random"}, "split = 'leave-two-out' under the protocol ml-100k"),
        ("ml-100k", {"min_value": 3.0}, "min-value = 4.0"),
        ("ncf", {"data": "ml-1m#random90"}, "#ncf under the protocol ncf"),
        ("best", {}, "protocol to be one of ml-100k, ncf, random90, ultragcn"),
    ],
)
def test_what_a_protocol_fixes_cannot_be_said_otherwise(name, change, message):
    with pytest.raises(ConfigurationError, match=message):
        apply_protocol(SimulationConfig(protocol=name, **change))


def test_without_a_protocol_the_configuration_stays():
    config = SimulationConfig(split="leave-last-out", min_value=2.0)
    assert apply_protocol(config) is config
    assert protocol_of(config) is None


def test_interactions_without_values_cannot_be_kept_by_value():
    with pytest.raises(ConfigurationError, match="no min_value for interactions without values"):
        drop_lower_values(read_generated(), 4.0)


@pytest.fixture
def ncf_folder(tmp_path):
    """Users 1 and 2, movies 661, 914 and 1193; the paper's items are 1193, 661, one without ratings, 914."""
    frame = pd.DataFrame(
        {
            "user_id": [1, 1, 2, 2], "movie_id": [1193, 661, 914, 661], "rating": [5, 3, 4, 4],
            "time_rank": [0, 1, 0, 1], "ncf_test": [False, True, True, False], "random90_test": False,
        }
    )  # fmt: skip
    frame.to_parquet(tmp_path / "ratings.parquet")
    folder = tmp_path / "ncf"
    folder.mkdir()
    (folder / "ncf_item_to_movie_id.csv").write_text("ncf_item,movie_id\n0,1193\n1,661\n2,5\n3,914\n")
    (folder / "ml-1m.test.negative").write_text("(0,1)\t3\t2\n(1,3)\t0\t0\n")
    return tmp_path


def test_published_negatives_come_with_the_split_that_they_belong_to(ncf_folder):
    dataset = read(Request(path=ncf_folder, split="ncf"))
    ids = [*dataset.interactions.item_ids.tolist(), None]
    assert [[ids[code] for code in row] for row in dataset.test_negatives.tolist()] == [
        ["914", None],
        ["1193", "1193"],
    ]
    assert read(Request(path=ncf_folder, split="random90")).test_negatives is None
    federation = simulated_federation(SimulationConfig(data=str(ncf_folder), protocol="ncf"), silos=1, seed=0)
    rows = federation.catalogue.rows(["914", "1193"])
    assert federation.negatives.tolist() == [[rows[0], -1], [rows[1], rows[1]]]


def test_without_the_published_files_there_are_no_published_negatives(ncf_folder):
    (ncf_folder / "ncf" / "ml-1m.test.negative").unlink()
    assert read(Request(path=ncf_folder, split="ncf")).test_negatives is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0,1\t2", r"`\(user,item\) item item"),
        ("(0,1)", r"`\(user,item\) item item"),
        ("(0,1)\t9", "below 4 in row 1"),
        ("(0,1)\t1\n(1,3)\t1\t2", "1 negatives in row 2"),
    ],
)
def test_negatives_of_another_form_are_named(ncf_folder, line, message):
    (ncf_folder / "ncf" / "ml-1m.test.negative").write_text(line + "\n")
    with pytest.raises(DataFormatError, match=message):
        read(Request(path=ncf_folder, split="ncf"))


def test_the_published_negatives_are_those_of_the_held_out_items(real):
    """The trials of the paper's file name the items that the split holds out."""
    folder = real("ml-1m")
    federation = simulated_federation(SimulationConfig(data=str(folder), protocol="ncf"), silos=1, seed=0)
    assert federation.negatives.shape == (6_040, 99)
    assert (federation.negatives >= 0).all()
    lines = (folder / "ncf" / "ml-1m.test.rating").read_text().splitlines()
    movies = dict(
        line.split(",") for line in (folder / "ncf" / "ncf_item_to_movie_id.csv").read_text().splitlines()[1:]
    )
    ids = federation.catalogue.item_ids
    row_of_user = {name: row for row, name in enumerate(federation.dataset.interactions.user_ids.tolist())}
    for line in lines[::50]:
        user, item, *_ = line.split()
        row = federation.test[row_of_user[str(int(user) + 1)]]
        assert ids[row.indices].tolist() == [movies[item]]
