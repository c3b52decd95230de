"""The operators' commands, in this process: thin, with exit codes 0, 1 and 2."""

import json

import numpy as np
import pytest
from command_line import json_of, run_command

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.deployment.federation import FederationFolder
from recsys_fed.deployment.training import new_training
from recsys_fed.errors import ConfigurationError
from recsys_fed.silo.settings import read_silo_settings


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A federation of one silo with a few users."""
    monkeypatch.delenv("RECSYS_FED_PASSPHRASE", raising=False)
    Catalogue(item_ids=np.array(["a", "b", "c"], dtype=object)).save(tmp_path / "c.parquet")
    (tmp_path / "x.csv").write_text("who,what\nann,a\nann,b\nbob,c\n")
    made = run_command(
        "federation", "init", tmp_path / "federation", "--catalogue", tmp_path / "c.parquet", "--silos", 1,
        "--declared-users", 100, "--address", "127.0.0.1:1", "--epsilon", 2, "--set", "metrics-epsilon=0.0",
    )  # fmt: skip
    assert made[0] == 0, made
    joined = run_command(
        "silo", "init", tmp_path / "silo", "--federation", tmp_path / "federation" / "public", "--name", "north",
        "--epsilon", 5, "--source", "csv", "--path", tmp_path / "x.csv", "--columns", "user=who,item=what",
        "--set", "minimum-history=2", "--threads", 1,
    )  # fmt: skip
    assert joined[0] == 0, joined
    return tmp_path


def test_from_nothing_to_an_admitted_silo(folders):
    assert run_command("federation", "admit", folders / "federation", folders / "silo" / "north.pub")[0] == 0
    code, out, _ = run_command("federation", "status", folders / "federation", "--json")
    record = json_of(out)
    assert code == 0
    assert [silo["name"] for silo in record["silos"]] == ["north"]
    assert record["server"].startswith("does not answer")
    assert record["trainings"] == []
    assert run_command("federation", "status", folders / "federation")[0] == 0
    roster = folders / "federation" / "public" / "roster.json"
    code, _, err = run_command("silo", "roster", folders / "silo", roster)
    assert code == 0
    assert record["silos"][0]["ledger_key"] in err
    code, out, _ = run_command("silo", "check", folders / "silo", "--offline", "--json")
    assert code == 0
    assert {line["name"]: line["good"] for line in json_of(out)} == dict.fromkeys(
        ("settings", "keys", "ledger", "catalogue", "roster", "data"), True
    )
    code, out, _ = run_command("silo", "status", folders / "silo", "--json")
    record = json_of(out)
    assert (code, record["epsilon_spent"], record["epsilon_limit"], record["model"]) == (0, 0.0, 5.0, "")
    assert run_command("silo", "status", folders / "silo")[0] == 0
    # The server is not there: bad, and the exit code says so.
    assert run_command("silo", "check", folders / "silo")[0] == 1
    assert run_command("federation", "revoke", folders / "federation", "north")[0] == 0
    assert run_command("federation", "revoke", folders / "federation", "north")[0] == 2


def test_what_cannot_be_done_is_one_line_and_code_2(folders):
    federation, silo = folders / "federation", folders / "silo"
    for arguments in (
        ("federation", "train", federation),
        ("federation", "train", federation, "--resume"),
        ("federation", "train", federation, "--epsilon", 3),
        ("federation", "serve", federation, "--insecure"),
        ("federation", "admit", federation, silo / "silo.toml"),
        ("silo", "serve", silo, "--insecure"),
        ("silo", "recommend", silo, "ann"),
        ("silo", "export", silo, folders / "out.parquet"),
        ("silo", "check", folders / "nowhere", "--offline", "--json"),
        ("silo", "roster", silo, silo / "silo.toml"),
    ):
        code, _, err = run_command(*arguments)
        assert code == (1 if "check" in arguments else 2), (arguments, err)


def test_a_path_on_the_command_line_is_relative_to_where_it_is_typed(folders, monkeypatch):
    monkeypatch.chdir(folders)
    flags = ["--federation", "federation/public", "--epsilon", 5, "--columns", "user=who,item=what", "--threads", 1]
    for name, source in (
        ("files", ("--source", "csv", "--path", "x.csv")),
        ("database", ("--source", "sqlite", "--url", "x.db", "--query", "SELECT who, what FROM t")),
    ):
        assert run_command("silo", "init", f"elsewhere/{name}", "--name", name, *flags, *source)[0] == 0
        data = read_silo_settings(folders / "elsewhere" / name).data
        assert (data.path or data.url) == str(folders / source[3])


def test_a_training_is_within_the_terms_or_is_none(folders):
    federation = folders / "federation"
    run_command("federation", "admit", federation, folders / "silo" / "north.pub")
    # Nobody serves: a training that cannot begin leaves no folder for --resume to take up.
    code, _, err = run_command("federation", "train", federation)
    assert (code, "federation serve" in err) == (2, True)
    wrong = ({"epsilon": 3.0}, {"delta": 1e-7}, {"noise": "distributed"}, {"minimum-silos": 2})
    for overrides in wrong:
        with pytest.raises(ConfigurationError, match="Expected"):
            new_training(FederationFolder(federation), overrides=overrides)
    assert not list((federation / "trainings").iterdir())


def test_users_leave_by_name_or_by_a_table_and_come_back(folders, monkeypatch):
    silo = folders / "silo"
    monkeypatch.chdir(folders)
    (folders / "gone.csv").write_text("id,why\nbob,asked\n")
    assert run_command("silo", "opt-out", "add", silo)[0] == 2
    assert run_command("silo", "opt-out", "add", silo, "ann")[0] == 0
    assert run_command("silo", "opt-out", "add", silo, "--file", folders / "gone.csv", "--column", "id")[0] == 0
    code, out, _ = run_command("silo", "opt-out", "list", silo, "--json")
    names = [one["pseudonym"] for one in json_of(out)]
    assert code == 0 and len(names) == 2
    assert [line.split()[0] for line in run_command("silo", "opt-out", "list", silo)[1].splitlines()] == names
    receipt, ledger = folders / "receipts" / f"{names[0]}.json", silo / "ledger.sqlite"
    code, out, _ = run_command("privacy", "verify-receipt", receipt, "--ledger", ledger)
    assert code == 0 and out.startswith("it holds: silo north") and "No model" in out
    code, out, _ = run_command("privacy", "verify-receipt", receipt, "--json")
    assert code == 0 and json_of(out)["user"] == names[0]
    assert run_command("privacy", "verify-receipt", receipt, "--public-key", "0" * 64)[0] == 1
    # Nobody is left who may take part; then one is again.
    assert run_command("silo", "check", silo, "--offline")[0] == 1
    assert run_command("silo", "opt-out", "remove", silo, "ann")[0] == 0
    assert run_command("silo", "opt-out", "remove", silo, "ann")[0] == 2
    assert len(json_of(run_command("silo", "opt-out", "list", silo, "--json")[1])) == 1


def test_an_export_of_a_user_is_for_its_owner_only_and_never_written_over(folders):
    silo, output = folders / "silo", folders / "ann.json"
    assert run_command("silo", "export-user", silo, "ann", output)[0] == 0
    record = json.loads(output.read_text())
    assert [row["item"] for row in record["source"]] == ["a", "b"]
    assert (record["user"], record["takes_part"], record["state"], record["service"]) == ("ann", True, [], None)
    assert output.stat().st_mode & 0o777 == 0o600
    assert run_command("silo", "export-user", silo, "ann", output)[0] == 2
