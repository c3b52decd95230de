"""Awkward data and wrong settings: a defined result, or one clear error before anything is trained."""

import math
import sys
from pathlib import Path

import pytest
from small_run import DATA, small_run

from recsys_fed.errors import (
    CalibrationError,
    ConfigurationError,
    DataError,
    DataFormatError,
    DataNotFoundError,
    EngineError,
)
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.simulation import runner

PAIRS = [(user, item) for user in range(12) for item in range(9) if (user * 7 + item * 5) % 3]


def table(tmp_path: Path, rows, header: str = "user,item") -> str:
    path = tmp_path / "table.csv"
    path.write_text(header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("trainer", ["spectral", "dp-sgd"])
@pytest.mark.parametrize(("silos", "keys"), [(12, {}), (10, {"partition": "dirichlet", "skew": 0.05})])
def test_silos_with_one_user_or_none_take_part(trainer, silos, keys, tmp_path):
    """An empty silo must look like any other: it releases noise for the same price."""
    record = small_run(
        tmp_path, data=table(tmp_path, PAIRS), silos=silos, trainer=trainer, rounds=3, split="auto", **keys
    )
    assert record["refused"] == []
    assert len(set(record["epsilon_spent"].values())) == 1
    assert len(record["epsilon_spent"]) == silos
    assert all(math.isfinite(value) for value in record["metrics"].values())
    # Three rounds for the model, one for the metrics.
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 4 * silos


@pytest.mark.parametrize("trainer", ["spectral", "dp-sgd"])
@pytest.mark.parametrize("epsilon", [8.0, math.inf])
def test_a_user_with_every_item_is_a_user_like_others(trainer, epsilon, tmp_path):
    rows = PAIRS + [(99, item) for item in range(9)]
    record = small_run(data=table(tmp_path, rows), trainer=trainer, rounds=3, epsilon=epsilon)
    assert record["n_users"] == 13
    assert all(math.isfinite(value) for value in record["metrics"].values())


@pytest.mark.parametrize("trainer", ["spectral", "dp-sgd"])
@pytest.mark.parametrize("epsilon", [8.0, math.inf])
def test_items_that_nobody_has_stay_in_the_catalogue(trainer, epsilon, tmp_path):
    record = small_run(
        tmp_path, data="generated:users=40,items=300,interactions=3", trainer=trainer, rounds=3, epsilon=epsilon
    )
    assert record["n_items"] == 300
    model = load_item_embeddings(tmp_path / "item_embeddings.safetensors")
    assert model.n_items == 300
    assert model.vectors.isfinite().all()


@pytest.mark.parametrize("trainer", ["spectral", "dp-sgd"])
def test_more_dimensions_than_items_are_cut_to_the_items(trainer, tmp_path):
    record = small_run(data=table(tmp_path, PAIRS), trainer=trainer, rounds=3, embedding_dim=99)
    assert record["embedding_dim"] <= 9


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("trainer", ["spectral", "dp-sgd"])
def test_one_dimension_is_enough(trainer, dim):
    assert small_run(trainer=trainer, rounds=3, embedding_dim=dim)["embedding_dim"] == dim


def test_one_item_has_nothing_to_be_held_out(tmp_path):
    with pytest.raises(DataError, match="test item"):
        small_run(data=table(tmp_path, [(user, "only") for user in range(9)]))


@pytest.fixture
def untrained(monkeypatch):
    """Fail if training begins."""
    monkeypatch.setattr(runner, "_train", lambda *_args, **_options: pytest.fail("training began"))


@pytest.mark.parametrize("split", ["auto", "leave-last-out"])
def test_nothing_to_test_on_is_said_before_training(split, untrained, tmp_path):
    data = table(tmp_path, [(user, user % 4, user) for user in range(9)], header="user,item,time")
    with pytest.raises(DataError, match="at least one user with a test item"):
        small_run(data=data, split=split)


def test_ratings_that_are_no_numbers_are_counted_and_cost_no_row_that_is_not_compared_with_one(tmp_path):
    rows = [(user, item, "nan" if (user, item) == PAIRS[0] else 3) for user, item in PAIRS]
    record = small_run(data=table(tmp_path, rows, header="user,item,rating"))
    assert (record["data_findings"], record["data_notes"]) == ({}, {"missing value": 1})
    assert record["n_interactions"] == len(PAIRS)
    record = small_run(data=table(tmp_path, rows, header="user,item,rating"), min_value=3.0)
    assert record["data_findings"] == {"below the minimum value": 1}
    assert record["n_interactions"] == len(PAIRS) - 1


WRONG = {
    "epsilon zero": ({"epsilon": 0.0}, ConfigurationError, "epsilon > 0"),
    "epsilon below zero": ({"epsilon": -1.0}, ConfigurationError, "epsilon > 0"),
    "epsilon NaN": ({"epsilon": math.nan}, ConfigurationError, "epsilon > 0 .* got nan"),
    "delta zero": ({"delta": 0.0}, ConfigurationError, "delta"),
    "delta for fewer users": ({"delta": 1 / 120}, ConfigurationError, "n_users = 120"),
    "delta NaN": ({"delta": math.nan}, ConfigurationError, "delta"),
    "trainer": ({"trainer": "als"}, ConfigurationError, "dp-sgd, popularity, ratings, spectral, torch, got 'als'"),
    "noise": ({"noise": "none"}, ConfigurationError, "distributed, per-silo, got 'none'"),
    "engine": ({"engine": "ray"}, ConfigurationError, "flower, in-process, got 'ray'"),
    "partition": ({"partition": "x"}, ConfigurationError, "dirichlet, equal, zipf, got 'x'"),
    "split": ({"split": "x"}, ConfigurationError, "per-user-random, got 'x'"),
    "device": ({"device": "abacus"}, ConfigurationError, "device .* got 'abacus'"),
    "no silo": ({"silos": 0}, ConfigurationError, "silos"),
    "negative seed": ({"seed": -1}, ConfigurationError, "seed"),
    "no threads": ({"threads": -1}, ConfigurationError, "threads"),
    "no parallel silos": ({"parallel_silos": 0}, ConfigurationError, "parallel_silos"),
    "times that are not there": ({"split": "given"}, DataError, "come with a split"),
    "no such path": ({"data": "nowhere/at-all.csv"}, DataNotFoundError, "nowhere/at-all.csv"),
    "no such set": ({"data": "ml-7m"}, DataNotFoundError, "Names: ml-1m"),
    "generator": ({"data": "generated:users=0"}, ConfigurationError, "n_users"),
    "columns": ({"columns": "who=me"}, ConfigurationError, "ROLE"),
}


@pytest.mark.parametrize(("keys", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_refused_before_training(keys, error, message, untrained):
    with pytest.raises(error, match=message):
        small_run(**{"data": DATA, **keys})


PLANS = {
    "one round": ({"rounds": 1}, ConfigurationError, "rounds >= 2"),
    "one round of dp-sgd": ({"rounds": 1, "trainer": "dp-sgd"}, ConfigurationError, "rounds"),
    "unknown schedule": ({"trainer": "dp-sgd", "dp-sgd.schedule": "x"}, ConfigurationError, "local, synchronous"),
    "unknown setting": ({"trainer": "dp-sgd", "dp-sgd.depth": 3}, ConfigurationError, "depth"),
    "split noise of local steps": (
        {"trainer": "dp-sgd", "dp-sgd.schedule": "local", "noise": "distributed"},
        ConfigurationError,
        "noise = per-silo with the local schedule",
    ),
    "epsilon too small to resolve": ({"epsilon": 1e-9}, CalibrationError, "epsilon"),
    "declared users that delta does not allow": ({"declared-users": 10**7}, ConfigurationError, "n_users = 10000000"),
}


@pytest.mark.parametrize(("keys", "error", "message"), PLANS.values(), ids=PLANS)
def test_plans_that_cannot_be_are_refused_before_any_release(keys, error, message, tmp_path):
    with pytest.raises(error, match=message):
        small_run(tmp_path, **keys)
    assert not (tmp_path / "events.jsonl").exists()
    assert not (tmp_path / "item_embeddings.safetensors").exists()


@pytest.mark.parametrize("header", ["a,b", "user,b", "1,2"])
def test_a_table_without_its_columns_is_refused(header, tmp_path):
    with pytest.raises(DataFormatError, match=r"a column for .* Name it"):
        small_run(data=table(tmp_path, PAIRS, header=header))


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="Expected output to be a folder"):
        small_run(tmp_path / "file")


def test_flowers_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"recsys-fed\[flower\]"):
        small_run(engine="flower")


def test_a_failed_run_leaves_no_model_of_an_earlier_one(tmp_path):
    small_run(tmp_path)
    with pytest.raises(ConfigurationError):
        small_run(tmp_path, rounds=1)
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {"item_embeddings.safetensors", "metrics.json", "events.jsonl"}
