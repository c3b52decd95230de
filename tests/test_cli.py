"""The command: precedence of flags, JSON on standard output alone, and errors in one line with exit code 2."""

import json
import re
import subprocess
import sys
import tomllib

import pytest

from recsys_fed import cli

DATA = "generated:users=90,items=30,interactions=8"
SMALL = ["--data", DATA, "--silos", "2", "--threads", "1"]


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `recsys-fed` in this process: exit code, standard output, standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["recsys-fed", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recsys-fed", "simulate", *SMALL, "--output", str(folder)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    assert stopped.value.code == 0
    return folder


def strict_json(text: str) -> dict:
    """JSON as the standard has it: no NaN and no Infinity."""
    return json.loads(text, parse_constant=pytest.fail)


def test_importing_the_command_is_cheap():
    code = "import recsys_fed.cli, sys; sys.exit(bool({'torch', 'flwr', 'pandas', 'opacus'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("epsilon", ["8", "inf"])
def test_json_stands_alone_on_standard_output(command, epsilon):
    code, out, err = command("simulate", *SMALL, "--epsilon", epsilon, "--json")
    assert code == 0
    record = strict_json(out)
    assert record["epsilon"] == ("inf" if epsilon == "inf" else 8.0)
    assert "generated" in err


def test_people_get_a_table(command, tmp_path):
    code, out, _ = command("simulate", *SMALL, "--output", tmp_path / "out")
    assert code == 0
    for part in ("recall@20", "popularity", "not privatised", "epsilon spent by each silo", str(tmp_path / "out")):
        assert part in out
    assert (tmp_path / "out" / "item_embeddings.safetensors").is_file()


def test_without_privacy_it_says_so_before_and_after(command):
    code, out, err = command("simulate", *SMALL, "--epsilon", "inf")
    assert code == 0
    assert "nothing is private" in out
    assert "nothing is private" in err


def test_with_privacy_it_does_not_say_so(command):
    _, out, err = command("simulate", *SMALL)
    assert "nothing is private" not in out + err


def scenario(tmp_path, **keys):
    path = tmp_path / "scenario.toml"
    lines = {"data": DATA, "silos": 2, "threads": 1, "seed": 3} | keys
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
    return path


def test_flags_come_before_the_scenario_and_it_before_defaults(command, tmp_path):
    path = scenario(tmp_path, epsilon=4.0, noise="distributed")
    with path.open("a") as file:
        file.write('[dp-sgd]\nschedule = "local"\n')
    code, out, _ = command("simulate", path, "--epsilon", "2", "--json", "--output", tmp_path / "out")
    assert code == 0
    record = strict_json(out)
    assert (record["epsilon"], record["noise"], record["seed"], record["delta"]) == (2.0, "distributed", 3, 1e-6)
    config = tomllib.loads((tmp_path / "out" / "config.toml").read_text())
    assert (config["silos"], config["epsilon"], config["dp-sgd"]) == (2, 2.0, {"schedule": "local"})


@pytest.mark.parametrize("declared", [None, 500])
def test_declared_users_come_from_the_data_unless_said(command, tmp_path, declared):
    keys = {} if declared is None else {"declared-users": declared}
    _, out, _ = command("simulate", scenario(tmp_path, **keys), "--json")
    assert strict_json(out)["declared_users"] == (declared or 90)


def test_every_flag_of_a_run_reaches_it(command, tmp_path):
    flags = {
        "data": DATA, "split": "leave-last-out", "silos": 2, "partition": "zipf", "skew": 0.5, "trainer": "dp-sgd",
        "epsilon": 3.0, "delta": 1e-5, "rounds": 3, "embedding-dim": 2, "noise": "distributed", "declared-users": 80,
        "device": "cpu", "threads": 1, "seed": 9, "engine": "in-process",
    }  # fmt: skip
    given = [part for name, value in flags.items() for part in (f"--{name}", value)]
    words = ("--schedule", "synchronous", "--loss", "bce", "--no-item-features", "--evaluate-users", 7)
    code, out, _ = command("simulate", *given, *words, "--output", tmp_path, "--json")
    assert code == 0
    # Recall@20 of one user is a fraction of few items: seven users give another mean than all.
    everybody = command("simulate", *given, *words[:-2], "--json")[1]
    assert strict_json(out)["metrics"] != strict_json(everybody)["metrics"]
    config = tomllib.loads((tmp_path / "config.toml").read_text())
    assert {name: config[name] for name in flags} == flags
    assert config["item-features"] is False
    assert config["dp-sgd"] == {"schedule": "synchronous", "loss": "bce"}


def test_secure_aggregation_is_a_flag(command, tmp_path):
    flags = ("--secure-aggregation", "--secure-aggregation-threshold", 3, "--secure-aggregation-colluders", 1)
    code, out, _ = command("simulate", scenario(tmp_path, silos=3), *flags, "--output", tmp_path / "out", "--json")
    assert code == 0
    record = strict_json(out)
    assert record["secure_aggregation"] == {"threshold": 3, "colluding": 1}
    assert "at least 3 silos" in record["noise_note"]
    code, out, _ = command("privacy", "verify-run", tmp_path / "out", "--json")
    assert (code, strict_json(out)["masked"]) == (0, {"threshold": 3, "colluding": 1})
    assert "sums of at least 3 silos" in command("privacy", "verify-run", tmp_path / "out")[1]
    _, out, _ = command("simulate", tmp_path / "out" / "config.toml", "--no-secure-aggregation", "--json")
    assert strict_json(out)["secure_aggregation"] is None


def test_config_toml_is_a_scenario(command, run_folder, tmp_path):
    code, _, _ = command("simulate", run_folder / "config.toml", "--output", tmp_path)
    assert code == 0
    for name in ("item_embeddings.safetensors", "config.toml", "events.jsonl"):
        assert (tmp_path / name).read_bytes() == (run_folder / name).read_bytes(), name


ERRORS = {
    "no such data": (["--data", "nowhere.csv"], "DataNotFoundError: "),
    "bad setting": (["--epsilon", "-1"], "ConfigurationError: Expected epsilon > 0"),
    "bad name": (["--trainer", "x"], "ConfigurationError: Expected trainer"),
    "NaN": (["--epsilon", "nan"], "ConfigurationError: Expected epsilon > 0"),
    "impossible plan": (["--rounds", "1"], "ConfigurationError: Expected rounds >= 2"),
    "out of reach": (["--epsilon", "1e-9"], "CalibrationError: "),
    "brackets": (["--data", "[red]gone[/].csv"], "DataNotFoundError: There is no data set at '[red]gone[/].csv'"),
}


@pytest.mark.parametrize(("flags", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_are_one_line_and_exit_code_2(command, flags, message):
    code, out, err = command("simulate", *SMALL, *flags, "--json")
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith(message)


@pytest.mark.parametrize("flags", [["--rounds", "2.5"], ["--epsilon", "much"], ["--no-such-flag"]])
def test_flags_of_another_type_are_refused(command, flags):
    code, out, err = command("simulate", *SMALL, *flags)
    assert (code, out) == (2, "")
    assert flags[0] in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epsilonn = 8", "DataFormatError|ConfigurationError.*epsilonn"),
        ("epsilon = ", "DataFormatError: Expected TOML"),
        ('epsilon = "8"', "ConfigurationError: Expected epsilon of type float"),
        ("rounds = true", "ConfigurationError: Expected rounds of type int"),
    ],
)
def test_scenarios_with_mistakes_are_refused(command, tmp_path, text, message):
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    code, _, err = command("simulate", path)
    assert code == 2
    assert re.search(message, err)


def test_a_scenario_that_does_not_exist_is_refused(command):
    code, _, err = command("simulate", "no-such-scenario")
    assert code == 2
    assert "Cannot find a scenario file at no-such-scenario" in err


def test_recommend_prints_titles_and_json(command, run_folder):
    code, out, _ = command("recommend", "--run", run_folder, "--history", "3, 5", "-k", "4", "--json")
    assert code == 0
    result = strict_json(out)
    assert [row["item"] for row in result["history"]] == ["3", "5"]
    assert len(result["recommendations"]) == 4
    code, out, _ = command("recommend", "--run", run_folder, "--history", "3,5")
    assert code == 0
    assert all(row["title"] in out for row in result["recommendations"])
    code, out, _ = command("recommend", "--run", run_folder, "--history", '"3"', "--history", "5,", "--json")
    assert [row["item"] for row in strict_json(out)["history"]] == ["3", "5"]


@pytest.mark.parametrize(
    ("history", "k", "message"),
    [
        ("999", "3", "unknown ones: 999"),
        ("3", "0", "k to be an integer >= 1"),
        ('3, "a,b"', "3", "unknown ones: a,b"),
        ('"say ""a"""', "3", 'unknown ones: say "a"'),
        ('3,"a', "3", "An id that holds a comma or a quote is written"),
        ('3,"a"b', "3", "An id that holds a comma or a quote is written"),
    ],
)
def test_recommend_refuses_what_it_does_not_know(command, run_folder, history, k, message):
    code, out, err = command("recommend", "--run", run_folder, "--history", history, "-k", k)
    assert (code, out) == (2, "")
    assert message in err


def test_recommend_without_a_run_is_refused(command, tmp_path):
    code, _, err = command("recommend", "--run", tmp_path, "--history", "3")
    assert code == 2
    assert "Train first" in err
