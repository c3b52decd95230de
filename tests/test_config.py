"""Configuration: keys survive every way of writing them, and what means nothing is refused by name."""

import math
import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_fed.config import FederationConfig, SimulationConfig, check_run_keys, columns_of, flat, parse, read_toml
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.settings_file import to_toml
from recsys_fed.trainers.dp_sgd import DPSGD

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"

# Every character that a file can hold: quotes, backslashes, control characters, characters beyond 16 bits.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
awkward = st.sampled_from(['"', "\\", "\n\t\r", "\x00\x7f", "'''", "é", "\U000e0001", "\U0001f600", "#", "= 1"])
words = st.one_of(texts, awkward)
integers = st.integers(0, 2**62)
dp_sgd = st.fixed_dictionaries(
    {},
    optional={
        "schedule": words,
        "learning_rate": st.floats(allow_nan=False),
        "local_steps": st.integers(-5, 2**62),
        "anything": st.booleans(),
    },
)
federations = st.builds(
    FederationConfig,
    trainer=st.sampled_from(["spectral", "dp-sgd"]),
    epsilon=st.one_of(st.floats(min_value=0, exclude_min=True), st.just(math.inf)),
    delta=st.floats(0, 1, exclude_min=True, exclude_max=True),
    rounds=integers,
    embedding_dim=integers,
    noise=st.sampled_from(["per-silo", "distributed"]),
    silos=st.integers(0, 2**62),
    declared_users=st.integers(1, 2**62),
    item_features=st.booleans(),
    catalogue=words,
    seed=integers,
    device=words,
    threads=integers,
    output=words,
    dp_sgd=dp_sgd,
)
simulations = st.builds(
    SimulationConfig,
    data=words,
    columns=st.sampled_from(["", "user=a,item=b", 'user="x y",value=\\v']),
    split=words,
    test_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
    partition=words,
    skew=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    min_value=st.floats(allow_nan=False),
)


@settings(max_examples=60, deadline=None)
@given(federation=federations, simulation=simulations)
def test_flat_keys_of_both_parts_are_parsed_back(federation, simulation):
    keys = flat(federation) | flat(simulation)
    check_run_keys(keys)
    assert parse(FederationConfig, keys) == federation
    assert parse(SimulationConfig, keys) == simulation


@settings(max_examples=100, deadline=None)
@given(federation=federations, simulation=simulations)
def test_what_is_written_as_toml_is_read_back(tmp_path_factory, federation, simulation):
    path = tmp_path_factory.mktemp("run") / "config.toml"
    path.write_text(to_toml(flat(federation) | flat(simulation)), encoding="utf-8", newline="")
    keys = read_toml(path)
    assert parse(FederationConfig, keys) == federation
    assert parse(SimulationConfig, keys) == simulation


def test_a_text_that_no_file_can_hold_is_refused():
    with pytest.raises(ConfigurationError, match="data"):
        to_toml({"data": "folder\udce9"})


def test_nested_tables_and_dotted_keys_are_the_same(tmp_path):
    nested, dotted = tmp_path / "nested.toml", tmp_path / "dotted.toml"
    nested.write_text('epsilon = 2\n[dp-sgd]\nschedule = "local"\nlocal-steps = 3\n')
    dotted.write_text('epsilon = 2.0\ndp-sgd.schedule = "local"\ndp-sgd.local-steps = 3\n')
    configs = [parse(FederationConfig, read_toml(path)) for path in (nested, dotted)]
    assert configs[0] == configs[1]
    assert configs[0].dp_sgd == {"schedule": "local", "local_steps": 3}
    assert (configs[0].epsilon, type(configs[0].epsilon)) == (2.0, float)


@pytest.mark.parametrize(
    "text",
    ["surprise = 1", "embedding_dim = 3", "schedule = 'local'", "[spectral]\nx = 1", "[dp-sgd]\n[epsilon]\na=1"],
)
def test_a_key_that_nothing_reads_is_refused_by_name(tmp_path, text):
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    key = text.split()[-3] if "[" not in text else {"s": "spectral.x", "d": "epsilon.a"}[text[1]]
    with pytest.raises(ConfigurationError, match=f"got '{key}', which nothing reads"):
        read_toml(path)


def test_what_is_no_toml_or_not_there_is_refused(tmp_path):
    path = tmp_path / "scenario.toml"
    with pytest.raises(DataNotFoundError, match=r"scenario\.toml"):
        read_toml(path)
    for content in (b"epsilon = ", b"epsilon = 1\nepsilon = 2\n", b"data = '\xff'\n"):
        path.write_bytes(content)
        with pytest.raises(DataFormatError, match=r"scenario\.toml"):
            read_toml(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon", "8"), ("epsilon", True), ("epsilon", 10**400), ("rounds", 2.0), ("rounds", True),
        ("seed", "0"), ("item-features", 1), ("item-features", "true"), ("trainer", 1), ("output", None),
        ("silos", [3]),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_values_of_another_type_are_refused_by_name(key, value):
    with pytest.raises(ConfigurationError, match=f"Expected {key} of type"):
        parse(FederationConfig, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon", 0.0), ("epsilon", -1.0), ("epsilon", math.nan), ("delta", 0.0), ("delta", 1.0),
        ("delta", math.nan), ("rounds", -1), ("embedding-dim", -1), ("silos", -1), ("declared-users", 0),
        ("seed", -1), ("threads", -1), ("trainer", "als"), ("noise", "none"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(ConfigurationError, match=key.replace("-", "_")):
        parse(FederationConfig, {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("test-fraction", 0.0), ("test-fraction", 1.0), ("test-fraction", math.nan), ("skew", 0.0),
        ("skew", math.inf), ("columns", "customer=user"), ("min-value", math.nan),
    ],
)  # fmt: skip
def test_values_of_a_simulation_out_of_range_are_refused(key, value):
    with pytest.raises(ConfigurationError):
        parse(SimulationConfig, {key: value})


def test_infinite_epsilon_is_allowed():
    assert parse(FederationConfig, {"epsilon": math.inf}).epsilon == math.inf


def test_keys_of_other_parts_are_left_to_them():
    assert parse(FederationConfig, {"data": 3, "anything": 1}) == FederationConfig()
    assert parse(SimulationConfig, {"epsilon": "x"}) == SimulationConfig()


def test_columns_are_roles_with_names():
    assert columns_of("") == {}
    assert columns_of("user=customer,item=sku,time=a=b") == {"user": "customer", "item": "sku", "time": "a=b"}
    assert columns_of("user=0,item=1,kind=event") == {"user": "0", "item": "1", "kind": "event"}


def test_an_empty_name_switches_off_what_a_table_may_lack():
    assert columns_of("time=,value=,kind=") == {"time": "", "value": "", "kind": ""}
    config = SimulationConfig(columns="item=sku,time=")
    assert columns_of(parse(SimulationConfig, flat(config)).columns) == {"item": "sku", "time": ""}
    for text in ("user=", "user=a,item="):
        with pytest.raises(ConfigurationError, match="which no table can lack"):
            columns_of(text)


@pytest.mark.parametrize("text", ["user", "=sku", "customer=user", "user=a;item=b,x", "User=a"])
def test_columns_that_are_something_else_are_refused(text):
    with pytest.raises(ConfigurationError, match="Expected columns as ROLE=NAME"):
        columns_of(text)


def test_flowers_run_config_has_exactly_our_keys_and_defaults():
    """`flwr run --run-config` can override only keys that are there; a default there would win over ours."""
    record = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    nested = {
        f"{name}.{key}": v for name, table in record.items() if isinstance(table, dict) for key, v in table.items()
    }
    found = {key: value for key, value in record.items() if not isinstance(value, dict)} | nested
    trainer = {f"dp-sgd.{name.replace('_', '-')}": value for name, value in asdict(DPSGD()).items()}
    expected = flat(FederationConfig()) | flat(SimulationConfig()) | trainer
    assert {field.name for field in fields(DPSGD)} == set(asdict(DPSGD()))
    assert found.keys() == expected.keys()
    free = {"declared-users", "silos"}
    assert {key: found[key] for key in found.keys() - free} == {key: expected[key] for key in expected.keys() - free}
    # A whole number where a float is meant would turn every --run-config value of that key into a whole number.
    assert {key: type(value) for key, value in found.items()} == {key: type(v) for key, v in expected.items()}


@pytest.mark.parametrize(("earlier", "now"), [("own", "per-silo"), ("central", "distributed")])
def test_earlier_words_for_noise_are_read_and_noted(earlier, now):
    with pytest.warns(FutureWarning, match=f"noise = {earlier} is called {now} now"):
        config = parse(FederationConfig, {"noise": earlier})
    assert config == FederationConfig(noise=now)
    assert flat(config)["noise"] == now
