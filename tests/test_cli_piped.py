"""Commands whose output is piped, at 80 columns or on terminals without UTF-8: whole tables, pure JSON, progress."""

import os
import re

import numpy as np
import pytest
from command_line import json_of, run_command, run_in_a_child

DATA = "generated:users=90,items=30,interactions=8"
SMALL = ["--data", DATA, "--silos", 2, "--threads", 1]
TITLE = "Café – “Ⅻ” ±"


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A run on a table, with titles that few terminals can show."""
    folder = tmp_path_factory.mktemp("piped")
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((60, 20)) < 0.4)
    rows = "".join(f"{user},i{item}\n" for user, item in zip(users, items, strict=True))
    (folder / "t.csv").write_text("customer,product\n" + rows, encoding="utf-8")
    products = "".join(f"i{item},{TITLE} {item}\n" for item in range(20))
    (folder / "p.csv").write_text("item,title\n" + products, encoding="utf-8")
    assert run_command("catalogue", folder / "c.parquet", "--table", folder / "p.csv")[0] == 0
    code, _, err = run_command(
        "simulate", "--data", folder / "t.csv", "--columns", "user=customer,item=product", "--item-catalogue",
        folder / "c.parquet", "--silos", 2, "--threads", 1, "--output", folder / "run",
    )  # fmt: skip
    assert code == 0, err
    return folder


def commands_of(folder):
    ledger = folder / "run" / "ledgers" / "silo-0" / "ledger.sqlite"
    return {
        "simulate": (["simulate", *SMALL], ["metric", "spectral", "exact popularity"]),
        "recommend": (
            ["recommend", "--run", folder / "run", "--history", "i1,i2"],
            ["rank", "item", "title", "score", TITLE],
        ),
        "plan": (
            ["privacy", "plan", "--epsilon", 2, "--silos", 5, "--secure-aggregation"],
            ["stage", "rounds", "noise multiplier", "noise on the sum: per-silo", "distributed", "item counts"],
        ),
        "simulate-budget": (
            ["privacy", "simulate-budget", "--epsilon-per-run", 3, "--silos", 2, "--every", "30 days"],
            ["run", "date", "epsilon in all", "left", "refused"],
        ),
        "status": (
            ["privacy", "status", ledger],
            ["delta", "epsilon spent", "limit", "left", "PLD", "releases", "epsilon of the run alone"],
        ),
        "log": (
            ["privacy", "log", ledger, "--epsilon"],
            ["number", "time (UTC)", "round", "what", "noise multiplier", "epsilon until then", "terms of silo-0"],
        ),
        "verify-run": (
            ["privacy", "verify-run", folder / "run"],
            ["silo", "key", "releases", "epsilon of this run", "in all", "limit", "silo-1"],
        ),
    }


@pytest.mark.parametrize("name", ["simulate", "recommend", "plan", "simulate-budget", "status", "log", "verify-run"])
def test_tables_in_a_pipe_are_whole(places, name):
    line, texts = commands_of(places)[name]
    code, out, err = run_command(*line)
    assert code == 0, err
    assert "…" not in out
    for text in texts:
        assert text in out, text


def test_compare_in_a_pipe_shows_every_method_and_says_how_far_it_is():
    code, out, err = run_command("compare", *SMALL, "--epsilons", 4)
    assert code == 0, err
    assert "…" not in out
    methods = ("popularity (not private)", "local-only (nothing is released)", "global, silo-trusted")
    groups = ("method", "light users", "heavy users", "frequent items", "rare items", "Recall@20", "NDCG@20")
    for text in (*methods, *groups):
        assert text in out, text
    assert re.search(r"^step 1 of 6: training, spectral: epsilon 4, seed 0$", err, re.MULTILINE)
    assert "step" not in out


def test_simulate_in_a_pipe_says_how_far_it_is_beside_pure_json():
    code, out, err = run_command("simulate", *SMALL, "--json")
    assert code == 0
    assert json_of(out)["n_silos"] == 2
    assert err.splitlines()[0] == "step 1 of 3: load"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0"}, marks=pytest.mark.soak),
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.soak),
    ],
    ids=["ascii", "C locale", "latin-1"],
)
def test_a_terminal_without_utf8_gets_no_traceback(places, environment):
    commands = commands_of(places)
    recommend = [*commands["recommend"][0], "--json"]
    lines = [*(line for line, _ in commands.values()), ["--help"], ["simulate", *SMALL, "--json"], recommend]
    done, errors = run_in_a_child(lines, env={**os.environ, "PYTHONUTF8": "0", **environment})
    err = errors.decode("latin-1")
    assert "Traceback" not in err, err
    assert "Error" not in err, err
    codes, before = zip(*done, strict=True)
    assert codes == (0,) * len(lines)
    json_of(before[-2].decode("ascii"))
    assert json_of(before[-1].decode("ascii"))["recommendations"][0]["title"].startswith(TITLE)
    bars = before[list(commands).index("simulate-budget")].decode("ascii")
    assert "###" in bars
    assert "..." in bars
    assert "?" not in bars


@pytest.mark.parametrize("command", ["simulate", "compare", "audit"])
def test_more_silos_than_users_is_refused_before_anything_is_done(command, tmp_path):
    code, out, err = run_command(command, "--data", DATA, "--silos", 100_000, "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "the data set has 90 users; got 100,000 silos. Ask for 90 silos or fewer" in err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_audit_takes_columns(places, tmp_path):
    line = ["audit", "--data", places / "t.csv", "--silos", 100_000, "--output", tmp_path / "out"]
    assert "has 60 users" in run_command(*line, "--columns", "user=customer,item=product")[2]
    code, _, err = run_command(*line, "--columns", "user=nobody,item=product")
    assert code == 2
    assert "nobody" in err
