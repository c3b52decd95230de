"""`recsys-fed privacy` on ledgers: exit codes, JSON, the first bad entry, limits, and no password anywhere."""

import json
import re
import shutil
import sqlite3

import pytest
from command_line import json_of, run_command

DATA = ["--data", "generated:users=90,items=30,interactions=8", "--threads", "1"]


def privacy(*arguments):
    return run_command("privacy", *arguments)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A run of two silos whose ledgers have room for another one."""
    folder = tmp_path_factory.mktemp("simulated")
    code, _, err = run_command(
        "simulate", *DATA, "--silos", 2, "--epsilon", 2, "--epsilon-limit", 6,
        "--ledgers", folder / "ledgers", "--output", folder / "run", "--json",
    )  # fmt: skip
    assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def ledger(simulated):
    return simulated / "ledgers" / "silo-0" / "ledger.sqlite"


@pytest.fixture
def created(tmp_path):
    """A real silo's empty ledger with its key."""
    path, key = tmp_path / "clinic.sqlite", tmp_path / "clinic.key"
    code, out, _ = privacy(
        "create", path, "--key", key, "--silo", "clinic", "--epsilon", 3, "--declared-users", 5_000, "--json"
    )
    assert code == 0
    return path, key, json_of(out)


def test_create_makes_a_key_that_only_its_owner_reads(created):
    path, key, record = created
    assert key.stat().st_mode & 0o077 == 0
    assert record["terms"]["public_key"] in privacy("verify", path)[1]
    assert (record["terms"]["epsilon_limit"], record["terms"]["simulated"]) == (3.0, False)
    again = privacy("create", path, "--key", key, "--silo", "clinic", "--epsilon", 9, "--declared-users", 5_000)
    assert again[0] == 2
    assert "There is a ledger" in again[2]


def test_status_says_what_is_spent_and_left(ledger):
    code, out, _ = privacy("status", ledger, "--delta", "1e-4", "--json")
    assert code == 0
    record = json_of(out)
    here, elsewhere = record["spending"]
    assert 1.9 < here["epsilon"] <= 2 < here["epsilon_limit"] == 6.0
    assert here["epsilon_left"] == pytest.approx(6.0 - here["epsilon"])
    assert elsewhere["epsilon"] < here["epsilon"] < here["epsilon_rdp"]
    assert record["verified"] is False
    assert [run["releases"] for run in record["runs"]] == [record["releases"]]
    shown = privacy("status", ledger)[1]
    assert "nothing was verified" in shown
    assert "protects nobody" in shown


def test_log_lists_the_last_entries_and_what_was_spent_until_then(ledger):
    code, out, _ = privacy("log", ledger, "--last", 2, "--epsilon", "--json")
    assert code == 0
    entries = json_of(out)
    spent = json_of(privacy("status", ledger, "--json")[1])["spending"][0]["epsilon"]
    assert [entry["released"] for entry in entries] == ["item embeddings", "metric sums"]
    assert entries[0]["epsilon_until_then"] < entries[1]["epsilon_until_then"] == pytest.approx(spent, rel=1e-6)
    run = entries[0]["run"]
    assert {entry["run"] for entry in json_of(privacy("log", ledger, "--run", run, "--json")[1])} == {run}
    assert json_of(privacy("log", ledger, "--run", "another", "--json")[1]) == []
    assert "metric" in privacy("log", ledger)[1]


def test_ledger_export_and_certificates_verify(simulated, ledger, tmp_path):
    export = tmp_path / "silo.jsonl"
    assert privacy("export", ledger, "--output", export)[0] == 0
    assert privacy("export", ledger)[1].encode() == export.read_bytes()
    for place in (ledger, export):
        code, out, _ = privacy("verify", place, "--certificates", simulated / "run" / "certificates", "--json")
        record = json_of(out)
        assert (code, record["holds"], len(record["certificates_checked"])) == (0, True, 1)
    shutil.copy(export, tmp_path / "silo.txt")
    assert privacy("verify", tmp_path / "silo.txt", "--jsonl")[0] == 0
    assert privacy("verify", tmp_path / "silo.txt")[0] == 2


def test_the_first_bad_entry_is_named_with_exit_code_1(ledger, tmp_path):
    lines = privacy("export", ledger)[1].splitlines(keepends=True)
    lines[2] = lines[2].replace('"steps":1', '"steps":2')
    (tmp_path / "bad.jsonl").write_text("".join(lines))
    code, out, _ = privacy("verify", tmp_path / "bad.jsonl")
    assert code == 1
    assert "It does not hold" in out
    assert "entry 2" in out
    code, out, _ = privacy("verify", tmp_path / "bad.jsonl", "--json")
    assert (code, json_of(out)["holds"]) == (1, False)


def test_another_key_is_exit_code_1_and_no_key_at_all_2(ledger):
    code, out, _ = privacy("verify", ledger, "--public-key", "0" * 64)
    assert (code, "Expected the ledger of the key" in out) == (1, True)
    assert privacy("verify", ledger, "--public-key", "short")[0] == 2


def test_a_cut_tail_is_found_with_the_certificates(simulated, ledger, tmp_path):
    lines = privacy("export", ledger)[1].splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_text("".join(lines[:-1]))
    assert privacy("verify", tmp_path / "cut.jsonl")[0] == 0
    code, out, _ = privacy("verify", tmp_path / "cut.jsonl", "--certificates", simulated / "run" / "certificates")
    assert (code, "its tail was cut off" in out) == (1, True)


def test_a_finished_run_verifies_and_a_tampered_one_does_not(simulated, tmp_path):
    code, out, _ = privacy("verify-run", simulated / "run", "--json")
    record = json_of(out)
    assert (code, record["holds"], record["problems"]) == (0, True, [])
    assert "what" not in record["guarantee_of_run"][:4]
    assert 1.9 < record["epsilon_of_run"] <= 2
    assert "the worst silo counts" in privacy("verify-run", simulated / "run")[1]
    shutil.copytree(simulated / "run", tmp_path / "run")
    with (tmp_path / "run" / "item_embeddings.safetensors").open("ab") as file:
        file.write(b"0")
    code, out, _ = privacy("verify-run", tmp_path / "run")
    assert code == 1
    assert out.count("another model") == 2
    assert privacy("verify-run", tmp_path)[0] == 2


def test_the_limit_rises_with_a_reason_and_never_below_what_is_spent(created, simulated):
    path, key, _ = created
    code, out, _ = privacy("set-limit", path, "--key", key, "--epsilon", 5, "--reason", "new consent", "--json")
    assert (code, json_of(out)["reason"], json_of(out)["epsilon_limit"]) == (0, "new consent", 5.0)
    assert json_of(privacy("status", path, "--json")[1])["spending"][0]["epsilon_limit"] == 5.0
    for reason, epsilon in ((" ", 6), ("fine", -1)):
        assert privacy("set-limit", path, "--key", key, "--epsilon", epsilon, "--reason", reason)[0] == 2
    silo = simulated / "ledgers" / "silo-1"
    code, _, err = privacy(
        "set-limit", silo / "ledger.sqlite", "--key", silo / "signing.key", "--epsilon", 0.5, "--reason", "less"
    )
    assert (code, "cannot be taken back" in err) == (2, True)
    assert privacy("verify", silo / "ledger.sqlite")[0] == 0


def test_another_silos_key_does_not_open_it(created, simulated):
    key = simulated / "ledgers" / "silo-0" / "signing.key"
    code, _, err = privacy("set-limit", created[0], "--key", key, "--epsilon", 9, "--reason", "x")
    assert (code, "KeyFileError" in err) == (2, True)


def test_a_passphrase_protects_the_key(created, tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_FED_PASSPHRASE", "a long one")
    path, key = tmp_path / "other.sqlite", tmp_path / "other.key"
    made = privacy("create", path, "--key", key, "--silo", "other", "--epsilon", 3, "--declared-users", 5_000)
    assert made[0] == 0
    assert "ENCRYPTED" in key.read_text()
    change = ("set-limit", path, "--key", key, "--epsilon", 4, "--reason", "x")
    assert privacy(*change)[0] == 0
    monkeypatch.delenv("RECSYS_FED_PASSPHRASE")
    assert privacy(*change)[0] == 2


def test_what_cannot_be_read_is_exit_code_2(tmp_path):
    nonsense = tmp_path / "nonsense.sqlite"
    nonsense.write_bytes(b"no database at all, but long enough to look at" * 40)
    empty = tmp_path / "empty.sqlite"
    sqlite3.connect(empty).close()
    for command in ("status", "log", "verify", "export"):
        for place in (tmp_path / "nowhere.sqlite", nonsense, empty):
            code, out, err = privacy(command, place)
            assert (code, out) == (2, ""), (command, place, out)
            assert re.match("(DataNotFoundError|LedgerError): (There is no|Cannot open|Ledger) ", err), err


def test_a_password_is_never_printed(tmp_path):
    url = "postgresql://silo:hunter2@127.0.0.1:1/ledger"
    for command in ("status", "verify", "log", "export"):
        code, out, err = privacy(command, url)
        assert code == 2
        assert "hunter2" not in out + err
        assert "127.0.0.1" in err or "psycopg" in err


def test_a_second_run_that_does_not_fit_is_refused_by_every_silo(simulated, tmp_path):
    ledgers = tmp_path / "ledgers"
    shutil.copytree(simulated / "ledgers", ledgers)
    before = {path: privacy("export", path)[1] for path in ledgers.glob("*/ledger.sqlite")}
    code, _, err = run_command("simulate", *DATA, "--silos", 2, "--epsilon", 8, "--ledgers", ledgers, "--json")
    assert code != 0
    assert "BudgetExceededError" in err
    # The counts alone may still fit; what would exceed is refused and nothing beyond the limit is spent.
    for path in before:
        assert json_of(privacy("status", path, "--json")[1])["spending"][0]["epsilon"] <= 6.0
        assert privacy("verify", path)[0] == 0


def test_every_command_says_its_exit_codes():
    code, out, _ = privacy("--help")
    assert code == 0
    assert "Exit code" in " ".join(out.split())
    assert json.dumps(out)
