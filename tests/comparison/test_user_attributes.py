"""Groups of users by attributes: read from tables of users, measured for every method, the worst one named."""

import numpy as np
import pytest
from command_line import json_of, run_command

from recsys_fed.certificates.certificate import read_certificate
from recsys_fed.data.readers.users import parse_attribute_columns, read_attributes
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.evaluation.groups import groups_of, worst_group
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS

IDS = np.array(["1", "2", "3", "9"], dtype=object)


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("1::F::1::10\n2::M::56::16\n3::F::25::15\n", "sex=1,age=2"),
        ("3|F|25|x\n2|M|56|y\n1|F|1|z\n", "sex=1,age=2"),
        ("name,age,user,gender\nx,1,1,F\ny,56,2,M\nz,25,3,F\n", "sex=gender,age=age"),
    ],
)
def test_tables_of_users_are_read_by_their_ids(tmp_path, text, columns):
    (tmp_path / "users").write_text(text)
    found = read_attributes(tmp_path / "users", parse_attribute_columns(columns), IDS)
    assert found["sex"].tolist() == ["F", "M", "F", ""] and found["age"].tolist() == ["1", "56", "25", ""]
    groups = [(name, value, inside.tolist()) for name, value, inside in groups_of(found)]
    assert groups[0] == ("sex", "F", [True, False, True, False])
    assert [value for name, value, _ in groups if name == "age"] == ["1", "25", "56"]


def test_ages_become_bands_of_ten(tmp_path):
    (tmp_path / "users").write_text("".join(f"{age}|{age}\n" for age in range(8, 40)))
    ages = read_attributes(tmp_path / "users", {"age": "1"}, np.array(["8", "19", "20"], dtype=object))["age"]
    assert ages.tolist() == ["0 to 9", "10 to 19", "20 to 29"]


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataNotFoundError):
        read_attributes(tmp_path / "nowhere", {"age": "1"}, IDS)
    (tmp_path / "users").write_text("1::F\n")
    with pytest.raises(DataFormatError, match="columns 7"):
        read_attributes(tmp_path / "users", {"age": "7"}, IDS)
    with pytest.raises(DataFormatError, match="none of them"):
        read_attributes(tmp_path / "users", {"age": "1"}, IDS[1:])
    for text in ("", "age", "age=", "=1", "age=1,age=2"):
        with pytest.raises(ConfigurationError):
            parse_attribute_columns(text)


def test_small_groups_are_not_called_the_worst():
    groups = {"a": {"n_users": 29, "mean": 0.1}, "b": {"n_users": 30, "mean": 0.2}, "c": {"n_users": 90, "mean": 0.3}}
    assert worst_group(groups) == "b"
    assert worst_group({"a": groups["a"], "c": groups["c"]}) is None


def test_a_simulation_weighs_users_by_a_rule_and_measures_groups(tmp_path):
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((40, 12)) < 0.5)
    (tmp_path / "t.csv").write_text("user,item\n" + "".join(f"u{u},{i}\n" for u, i in zip(users, items, strict=True)))
    (tmp_path / "users.csv").write_text("user,sex\n" + "".join(f"u{u},{'F' if u % 2 else 'M'}\n" for u in range(40)))
    arguments = ["simulate", "--data", tmp_path / "t.csv", "--silos", 2, "--threads", 1, "--trainer", "popularity",
                 "--no-secure-aggregation", "--epsilon", "inf", "--test-fraction", 0.3]  # fmt: skip
    asked = ["--user-attributes", tmp_path / "users.csv", "--attribute-columns", "sex=sex"]
    models = {}
    for rule in ("", "sex:F=1,M=1", "sex:F=1,M=0.5"):
        output = tmp_path / f"run{len(models)}"
        # With the last rule groups are reported, too.
        weighed = ["--user-weights", rule] if rule else []
        weighed += ["--metric-groups", "sex:F,M"] if "0.5" in rule else []
        code, out, err = run_command(*arguments, *asked, *weighed, "--output", output, "--json")
        assert code == 0, err
        record = json_of(out)
        groups = record["by_attribute"]["sex"]["groups"]
        whole = sum(one["n_users"] * one["ndcg@20"] for one in groups.values())
        assert whole / sum(one["n_users"] for one in groups.values()) == pytest.approx(record["metrics"]["ndcg@20"])
        assert record.get("user_weights", "") == rule
        models[rule] = (output / EMBEDDINGS).read_bytes()
        certificates = [read_certificate(path.read_bytes()) for path in (output / CERTIFICATES).iterdir()]
        names = {f"ndcg@20, sex {value}" for value in "FM"} if "0.5" in rule else set()
        assert {name for name in record["private_metrics"] if name.startswith("ndcg@20,")} == names
        for name in names:
            # Without noise, but for rounding, the silos' sums say what the simulator sees.
            told = record["private_metrics"][name]["value"]
            assert told == pytest.approx(groups[name[-1]]["ndcg@20"], abs=1e-3)
        assert {one.user_weights for one in certificates} == {rule} and len(certificates) == 2
    assert models[""] == models["sex:F=1,M=1"] != models["sex:F=1,M=0.5"]
    code, _, err = run_command("report", output)
    page = (output / "report.html").read_text()
    assert code == 0 and "What users count in training: sex:F=1,M=0.5" in page and "Users by sex" in page
    code, _, err = run_command(*arguments, "--user-weights", "sex:F=1")
    assert code == 2 and "--attribute-columns sex=COLUMN" in err


def test_a_comparison_measures_groups_and_names_the_one_served_worst(tmp_path):
    # Users of class 0 have regular tastes; those of class 1 take anything.
    rng = np.random.default_rng(0)
    regular = np.arange(160) % 2 == 0
    likely = np.where(np.arange(48) % 3 == (np.arange(160) % 3)[:, None], 0.5, 0.03)
    users, items = np.nonzero(rng.random((160, 48)) < np.where(regular[:, None], likely, 0.2))
    (tmp_path / "t.csv").write_text("user,item\n" + "".join(f"u{u},{i}\n" for u, i in zip(users, items, strict=True)))
    (tmp_path / "users.csv").write_text(
        "user,taste\n" + "".join(f"u{u},{'regular' if regular[u] else 'any'}\n" for u in range(160))
    )
    arguments = ["compare", "--data", tmp_path / "t.csv", "--silos", 1, "--epsilons", "8", "--threads", 1,
                 "--test-fraction", 0.25, "--no-secure-aggregation", "--trainer", "popularity"]  # fmt: skip
    asked = ["--user-attributes", tmp_path / "users.csv", "--attribute-columns", "taste=taste"]
    code, out, err = run_command(*arguments, *asked, "--json")
    assert code == 0, err
    record = json_of(out)
    overall = {line["method"]: line["recall@20"]["mean"] for line in record["lines"] if line["epsilon"] == "inf"}
    for line in record["by_attribute"]["taste"]:
        groups = line["groups"]
        assert set(groups) == {"regular", "any"}
        assert all(one["low"] <= one["mean"] <= one["high"] for one in groups.values())
        if line["epsilon"] == "inf":
            total = sum(one["n_users"] for one in groups.values())
            whole = sum(one["n_users"] * one["mean"] for one in groups.values()) / total
            assert whole == pytest.approx(overall[line["method"]])
    pooled = next(line for line in record["by_attribute"]["taste"] if line["method"] == "pooled EASE")
    assert pooled["worst"] == "any"
    (fused,) = [one for one in record["fusion"] if one["epsilon"] == 8.0]
    assert fused["validation"]["gain"] >= 0 and fused["validation"]["n"] == 160
    lines = {line["method"]: line["ndcg@20"]["mean"] for line in record["lines"] if line["epsilon"] == 8.0}
    # Users have no context here, so requests are users, and the line is the table's figure.
    assert fused["test"]["with"] == pytest.approx(lines["global, silo-trusted, attributes"], abs=1e-6)
    assert fused["test"]["without"] == pytest.approx(lines["global, silo-trusted"], abs=1e-6)
    code, _, err = run_command(*arguments, "--context", "hour")
    assert code == 2 and "clock times" in err
    code, out, err = run_command(*arguments, *asked)
    assert code == 0 and "by taste" in out and "silo-trusted, attributes" in " ".join(out.split())
    assert code == 0 and "by taste" in out and "served worst" in " ".join(out.split()), err
    code, _, err = run_command(*arguments, *asked[:2])
    assert code == 2 and "together" in err
