"""The deployed apps in one process: own settings, own noise, own limits, and what a silo keeps."""

import json
from dataclasses import replace

import numpy as np
import pytest
from deployment_kit import CONFIG, DATA, SEED, SILOS, USER, deployed, train_in_process
from flwr.app import Context, Message, RecordDict

from client.context import open_silo
from client.deployed import forget_silos, open_deployed_silo
from recsys_fed.certificates.run import verify_run
from recsys_fed.deployment.checking import check_silo
from recsys_fed.errors import BudgetExceededError, ConfigurationError, PrivacyError, ProtocolError
from recsys_fed.federation.release import raise_it
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.verification import verify_ledger
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.privacy.noise import SystemNoise
from recsys_fed.silo.settings import read_silo_settings
from recsys_fed.simulation.runner import Simulation, simulate

# Entries of a vector that nobody meets by chance: 12 bytes.
LONG_ENOUGH = 3


@pytest.fixture(autouse=True)
def _opened_anew():
    forget_silos()
    yield
    forget_silos()


def test_seeded_silos_give_the_model_of_the_simulation(tmp_path):
    there = deployed(tmp_path, simulated=True)
    train_in_process(there, tmp_path / "training")
    simulate(
        Simulation(federation=CONFIG, data=DATA, declare_users=False),
        output=tmp_path / "simulation",
    )
    one, other = (load_item_embeddings(tmp_path / run / EMBEDDINGS) for run in ("training", "simulation"))
    for name in ("vectors", "bias", "history_weights"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


def test_silos_weigh_their_users_by_the_rule_that_they_agreed_to(tmp_path):
    config, rule = replace(CONFIG, user_weights="sex:F=1,M=0.25"), tmp_path / "users.csv"
    there, sexes = deployed(tmp_path, config=config, simulated=True), ["M", "F", "F"]
    with pytest.raises(ConfigurationError, match=r"Expected sex in columns of \[attributes\]"):
        open_deployed_silo(there.silos[0])
    of_users = [(str(name), sexes[row % 3]) for row, name in enumerate(there.simulated.user_ids)]
    rule.write_text("user,sex\n" + "".join(f"{name},{sex}\n" for name, sex in of_users))
    # Silos know their users under other ids.
    rows = [f"{USER}{row:04},{sex}\n" for row, (_, sex) in enumerate(of_users)]
    (tmp_path / "own.csv").write_text("user,sex\n" + "".join(rows))
    for silo in there.silos:
        path = silo / "silo.toml"
        path.write_text(path.read_text() + '\n[attributes]\npath = "../own.csv"\ncolumns = "sex=sex"\n')
    weights = open_deployed_silo(there.silos[0]).users("a-training").weights
    assert set(weights) == {1.0, 0.25}
    checked = {found.name: found.detail for found in check_silo(there.silos[0], reach=False)}
    assert f"{(weights == 0.25).sum()} users count 0.25; {(weights == 1).sum()} users count 1" in checked["data"]
    train_in_process(there, tmp_path / "training", config=config)
    weighed = replace(DATA, user_attributes=str(rule), attribute_columns="sex=sex")
    simulate(Simulation(federation=config, data=weighed, declare_users=False), output=tmp_path / "simulation")
    one, other = (load_item_embeddings(tmp_path / run / EMBEDDINGS) for run in ("training", "simulation"))
    assert np.array_equal(one.vectors, other.vectors)
    assert all('"user_weights":"sex:F=1,M=0.25"' in path.read_text()
               for path in (tmp_path / "training" / CERTIFICATES).iterdir())  # fmt: skip


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_real_silos_draw_from_the_operating_system_and_keep_ledgers(tmp_path, mode):
    config = replace(CONFIG, secure_aggregation=mode)
    there = deployed(tmp_path, config=config)
    train_in_process(there, tmp_path / "training", config=config)
    events = [json.loads(line) for line in (tmp_path / "training" / EVENTS).read_text().splitlines()]
    assert len(events) == 3 * SILOS
    assert {event["noise_source"] for event in events} == {"operating-system"}
    # Three deployed silos mask their rounds unless somebody says otherwise.
    assert {event["threshold"] > 0 for event in events} == {mode == "auto"}
    found = verify_run(
        tmp_path / "training" / CERTIFICATES,
        events=tmp_path / "training" / EVENTS,
        model=tmp_path / "training" / EMBEDDINGS,
    )
    assert found.holds, found.problems
    for silo in there.silos:
        settings = read_silo_settings(silo)
        ledger = Ledger.open(settings.ledger)
        assert not ledger.terms().simulated
        assert verify_ledger(ledger).releases == 3
        assert {entry.body.run for entry in ledger.entries() if entry.kind == "release"} == {"a-training"}


def test_a_real_ledger_refuses_seeded_noise(tmp_path):
    there = deployed(tmp_path, config=replace(CONFIG, secure_aggregation="off"))
    path = there.silos[0] / "silo.toml"
    path.write_text(
        path.read_text().replace('name = "silo-0"', 'name = "silo-0"\nsimulated-seed = 1\nsimulated-index = 0')
    )
    with pytest.raises(ConfigurationError, match="Expected simulated False"):
        open_deployed_silo(there.silos[0])
    # Even behind that check: the ledger itself looks at each event.
    path.write_text(path.read_text().replace("simulated-seed = 1\nsimulated-index = 0\n", ""))
    silo = open_deployed_silo(there.silos[0])
    assert isinstance(silo.randomness(0).noise, SystemNoise)
    first, second = (silo.randomness(0).noise.integers((8,), standard_deviation=1e6) for _ in range(2))
    assert not np.array_equal(first, second)
    seeded = replace(silo, settings=replace(silo.settings, simulated_seed=1, simulated_index=0), index=0)
    asked = requests_of(there, tmp_path)[0]
    with pytest.raises(PrivacyError, match="operating system"):
        seeded.release(asked, run="another", on_failure=raise_it)


def test_how_many_trainings_may_begin_stands_in_silo_toml_from_the_start(tmp_path):
    path = deployed(tmp_path).silos[0] / "silo.toml"
    assert "trainings = 3\n" in path.read_text()
    assert "per-days = 7.0\n" in path.read_text()
    for wrong in ("trainings = -1", "trainings = 0.5"):
        path.write_text(path.read_text().replace("trainings = 3", wrong))
        with pytest.raises(ConfigurationError, match="trainings"):
            read_silo_settings(path)
        path.write_text(path.read_text().replace(wrong, "trainings = 3"))
    for wrong in ("per-days = 0.0", "per-days = 1e9"):
        path.write_text(path.read_text().replace("per-days = 7.0", wrong))
        with pytest.raises(ConfigurationError, match=r"per[-_]days"):
            read_silo_settings(path)
        path.write_text(path.read_text().replace(wrong, "per-days = 7.0"))


def test_a_node_is_simulated_or_deployed_never_both(tmp_path):
    there = deployed(tmp_path)
    for node_config in ({}, {"partition-id": 0, "num-partitions": 1, "silo": str(there.silos[0])}):
        with pytest.raises(ConfigurationError, match="neither or both"):
            open_silo(Context(1, 2, node_config, RecordDict(), {}))
    # A server's run configuration has no say in which silo is opened, nor in its data.
    run_config = {"silo": "/etc/passwd", "data": "/etc/passwd", "ledgers": "/etc", "seed": 3}
    silo = open_silo(Context(1, 2, {"silo": str(there.silos[0])}, RecordDict(), run_config))
    assert silo.name == "silo-0"
    assert silo.config.seed == 0


def requests_of(there, tmp_path):
    """The requests of a training with these silos."""
    from recsys_fed.federation.wire import request_from_records
    from recsys_fed.simulation.flower_engine import load_apps

    client, seen = load_apps()[1], []

    def recording(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train":
            seen.append(request_from_records(message.content))
        return client(message, context)

    train_in_process(there, tmp_path / "recorded", config=replace(CONFIG, secure_aggregation="off"), app=recording)
    return seen


def test_what_was_not_agreed_to_is_refused_and_charges_nothing(tmp_path):
    there = deployed(tmp_path, config=replace(CONFIG, secure_aggregation="off"))
    first = requests_of(there, tmp_path)[0]
    silo = open_deployed_silo(there.silos[0])
    before = silo.ledger.releases()
    with pytest.raises(ProtocolError, match="trainer 'spectral' of the agreed plan"):
        silo.check_request(replace(first, trainer="dp-sgd"), run="a-run")
    with pytest.raises(ProtocolError, match="catalogue"):
        silo.check_request(replace(first, catalogue_hash="0" * 64), run="a-run")
    with pytest.raises(ProtocolError, match="noise_share"):
        silo.check_request(replace(first, noise_share=0.5), run="a-run")
    # Less noise than the agreed epsilon allows: within the ledger's limit of 20, above the 6 of a training.
    with pytest.raises(ProtocolError, match="noise_multiplier"):
        silo.release(replace(first, noise_multiplier=0.4), run="cheap", on_failure=raise_it)
    with pytest.raises(ProtocolError, match="agreed epsilon 6"):
        silo.release(replace(first, epsilon=9.0), run="dear", on_failure=raise_it)
    assert silo.ledger.releases() == before
    # The same request again is the same bytes, and no charge.
    one, other = (silo.release(first, run="again", on_failure=raise_it) for _ in range(2))
    assert np.array_equal(one.total, other.total)
    assert silo.ledger.releases() == before + 1


def test_a_server_cannot_evade_the_price_of_a_training_by_naming_another(tmp_path):
    """As many trainings begin in a week as silo.toml says, whatever they are called."""
    there = deployed(tmp_path, config=replace(CONFIG, secure_aggregation="off"))
    first = requests_of(there, tmp_path)[0]
    silo = open_deployed_silo(there.silos[0])
    assert (silo.settings.trainings, silo.settings.per_days) == (3, 7.0)
    for name in ("second", "third"):
        silo.release(first, run=name, on_failure=raise_it)
    with pytest.raises(BudgetExceededError, match=r"at most 3 trainings to begin in 7 days.*per-days"):
        silo.release(first, run="fourth", on_failure=raise_it)
    assert [entry.body.run for entry in silo.ledger.entries() if entry.kind == "release"][-2:] == ["second", "third"]


def test_what_a_silo_keeps_and_logs_names_no_user(tmp_path):
    there = deployed(tmp_path)
    train_in_process(there, tmp_path / "training")
    kept = [path for silo in there.silos for path in silo.rglob("*") if path.is_file()]
    kept += [path for path in (tmp_path / "training").rglob("*") if path.is_file()]
    assert any(path.suffix == ".sealed" for path in kept)
    for path in kept:
        assert USER.encode() not in path.read_bytes(), path
    vectors = open_deployed_silo(there.silos[0]).state.users().vectors.numpy()
    # Users whose items have no vectors have zeros, which many a file holds; a user of one item has its vector.
    released = (tmp_path / "training" / EMBEDDINGS).read_bytes()
    secret = [row.tobytes() for row in vectors if np.count_nonzero(row) >= LONG_ENOUGH]
    secret = [row for row in secret if row not in released]
    assert len(secret) > len(vectors) / 2
    for path in kept:
        content = path.read_bytes()
        assert not any(row in content for row in secret), path
    assert SEED == 5


def test_a_silo_is_opened_once_whether_its_folder_or_its_file_is_named(tmp_path):
    silo = deployed(tmp_path).silos[0]
    assert open_deployed_silo(silo) is open_deployed_silo(silo / "silo.toml")
    assert open_deployed_silo(silo / ".." / silo.name) is open_deployed_silo(silo)


def test_a_schedule_that_a_silo_agreed_to_is_kept_whatever_the_server_asks(tmp_path):
    config = replace(CONFIG, secure_aggregation="off")
    there = deployed(tmp_path, config=config)
    for silo in there.silos:
        path = silo / "silo.toml"
        text = path.read_text().replace("trainings = 3", "trainings = 0")
        path.write_text(text + "\n[schedule]\ntrainings = 12\nspacing-days = 30\nepsilon = 18.0\n")
    train_in_process(there, tmp_path / "first", config=config, training="first")
    with pytest.raises(ProtocolError):
        train_in_process(there, tmp_path / "second", config=config, training="second")
    assert [Ledger.open(read_silo_settings(silo).ledger).releases() for silo in there.silos] == [3] * 3
    for wrong in ("trainings = 12", "spacing-days = 30", "epsilon = 18.0"):
        text = path.read_text()
        path.write_text(text.replace(wrong, "epsilom = 3.0" if "epsilon" in wrong else ""))
        with pytest.raises(ConfigurationError, match=r"\[schedule\]"):
            read_silo_settings(path)
        path.write_text(text)
