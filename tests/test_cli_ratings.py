"""Ratings through the command line: the target, the scale, a fit without a split, and predictions."""

import csv
import json

import numpy as np
import pytest
from command_line import run_command

SMALL = ("--silos", "2", "--threads", "1")
# Zeros are ratings: the best two dimensions leave a mean squared error of .026.
CELLS = {"a": (0, 1, 1), "b": (0, 1, 0), "c": (1, 0, 1), "d": (1, 1, 1)}


def write(path, rows, columns=("user", "item", "rating")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture
def stars(tmp_path):
    """Ratings of 60 users with levels for 20 items with means, on five stars."""
    rng = np.random.default_rng(0)
    levels, means = rng.normal(3, 0.5, 60), rng.normal(0, 0.8, 20)
    rows = [
        (f"u{u}", f"i{i}", int(np.clip(round(levels[u] + means[i] + rng.normal(0, 0.4)), 1, 5)))
        for u in range(60)
        for i in rng.permutation(20)[:12]
    ]
    return write(tmp_path / "stars.csv", rows)


def test_a_small_table_is_fitted_at_rank_two_without_biases(tmp_path):
    table = write(tmp_path / "cells.csv", [(u, f"i{i}", x) for u, row in CELLS.items() for i, x in enumerate(row)])
    run = tmp_path / "run"
    settings = ("lowest=0", "highest=1", "biases=false", "regularization=1e-6")
    code, out, err = run_command(
        "simulate", "--data", table, "--target", "rating", "--epsilon", "inf", "--silos", "1", "--threads", "1",
        "--embedding-dim", "2", "--split", "none", "--output", run, "--json",
        *(part for setting in settings for part in ("--set", f"ratings.{setting}")),
    )  # fmt: skip
    assert code == 0, err
    record = json.loads(out)
    assert record["metrics"]["rmse"] ** 2 <= 0.03
    squares = []
    for row in CELLS.values():
        given = ",".join(f"i{i}={x}" for i, x in enumerate(row))
        code, out, err = run_command("predict", "--run", run, "--user-ratings", given, "i0", "i1", "i2", "--json")
        assert code == 0, err
        squares += [(found["rating"] - x) ** 2 for found, x in zip(json.loads(out)["predictions"], row, strict=True)]
    assert np.mean(squares) <= 0.03


def test_held_out_ratings_are_predicted_better_than_by_the_users_own_means(stars, tmp_path):
    arguments = ("simulate", "--data", stars, "--target", "rating", "--epsilon", "8", *SMALL)
    code, out, err = run_command(*arguments, "--metrics", "precision,f1,map,auc,rmse", "--output", tmp_path, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert {"rmse", "mae", "precision@20", "f1@20", "map@20", "auc"} <= set(record["metrics"])
    assert record["metrics"]["rmse"] < record["ratings"]["user_mean"]["overall"]["rmse"]
    assert record["trainer"] == "ratings"
    # Nothing is spent on metrics of rankings.
    assert record["private_metrics"] == {}
    code, out, _ = run_command(*arguments)
    assert code == 0
    assert "RMSE, own mean" in out
    code, out, _ = run_command("report", tmp_path)
    assert code == 0
    assert "Errors of predicted ratings" in (tmp_path / "report.html").read_text()


def test_dp_sgd_trains_a_model_of_ratings_too(stars, tmp_path):
    code, out, err = run_command(
        "simulate", "--data", stars, "--target", "rating", "--trainer", "dp-sgd", "--rounds", "3", "--epsilon", "inf",
        *SMALL, "--output", tmp_path, "--json",
    )  # fmt: skip
    assert code == 0, err
    record = json.loads(out)
    assert record["trainer"] == "dp-sgd" and record["rounds"] == 3
    assert record["ratings"]["model"]["overall"]["rmse"] < record["ratings"]["user_mean"]["overall"]["rmse"]
    code, out, err = run_command("predict", "--run", tmp_path, "--user-ratings", "i0=5,i1=4", "i2", "--json")
    assert code == 0, err
    assert 1 <= json.loads(out)["predictions"][0]["rating"] <= 5


def test_a_comparison_shows_what_joining_brings(stars, tmp_path):
    arguments = ("--data", stars, "--target", "rating", "--epsilons", "1,100", "--seeds", "2", *SMALL)
    code, out, err = run_command("compare", *arguments, "--json", "--output", tmp_path)
    assert code == 0, err
    lines = {
        (line["method"], line["epsilon"]): line["errors"]["overall"]["rmse"] for line in json.loads(out)["lines"]
    }
    own = lines["own mean", "inf"]["mean"]
    assert lines["local-only", "inf"]["mean"] < own
    assert lines["global, user-only", 100.0]["mean"] < lines["global, user-only", 1.0]["mean"] < own
    assert lines["ratings, pooled, no privacy", "inf"]["mean"] < own
    assert lines["biased MF, pooled", "inf"]["mean"] < own
    assert run_command("report", tmp_path)[0] == 0
    assert "RMSE by groups of users and items" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metrics", "rmse"), "Expected target = rating for the metrics rmse and mae"),
        (
            ("--target", "rating", "--trainer", "torch"),
            "Expected trainer = ratings or dp-sgd for target = rating, got torch",
        ),
        (("--target", "rating", "--trainer", "dp-sgd", "--loss", "bpr"), "Expected loss to be one of squared-error"),
        (("--target", "next", "--trainer", "ratings"), "Expected target = rating for the trainer ratings, got next"),
        (("--target", "rating", "--columns", "value="), "Expected interactions with ratings for target = rating"),
        (("--target", "rating", "--set", "ratings.lowest=9"), "Expected lowest < highest"),
        (("--split", "none", "--held-out", "validation", "--metrics", "nothing"), "Expected metrics to be one of"),
    ],
)
def test_what_cannot_be_is_refused(stars, arguments, message):
    code, out, err = run_command("simulate", "--data", stars, *SMALL, *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("given", ["i0", "i0=", "i0=much", "=3", "i0=nan"])
def test_ratings_that_are_none_are_refused(stars, tmp_path, given):
    code, _, err = run_command("predict", "--run", tmp_path, "--user-ratings", given, "i1")
    assert code == 2
    assert "Expected --user-ratings as ITEM=VALUE" in err


def test_a_model_that_orders_items_predicts_no_ratings(stars, tmp_path):
    run = tmp_path / "ranks"
    assert run_command("simulate", "--data", stars, "--trainer", "popularity", *SMALL, "--output", run)[0] == 0
    code, _, err = run_command("predict", "--run", run, "--user-ratings", "i0=3", "i1")
    assert code == 2
    assert "Expected a model of ratings" in err
