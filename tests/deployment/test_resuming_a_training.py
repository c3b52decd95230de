"""A server that crashes at any message goes on with the same model, and silos are charged once for each round."""

import json
from dataclasses import replace

import pytest
from deployment_kit import CONFIG, SILOS, deployed, train_in_process

from client.deployed import forget_silos, open_deployed_silo
from recsys_fed.certificates.run import verify_run
from recsys_fed.deployment import training
from recsys_fed.deployment.training import RUN_CONFIG, stop_trainings
from recsys_fed.errors import EngineError
from recsys_fed.federation.inprocess import InProcessGrid
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS, LOG, STOP
from recsys_fed.federation.run_files import FILE as CHECKPOINT
from recsys_fed.ledger.verification import verify_ledger

PLAIN = replace(CONFIG, secure_aggregation="off", minimum_silos=1)
# Of greeting, three rounds and conclusion, each sent (even) and then answered (odd).
MOMENTS = (1, 2, 5, 6, 9)


class Crash(BaseException):
    """The server is gone."""


def crashing_at(moment: int):
    """A Grid that ends the server before it sends its n-th batch of messages, or once it was answered."""
    seen = iter(range(100))

    class CrashingGrid(InProcessGrid):
        def push_messages(self, messages):
            if next(seen) == moment:
                raise Crash
            numbers = super().push_messages(messages)
            if next(seen) == moment:
                raise Crash
            return numbers

    return CrashingGrid


@pytest.fixture(autouse=True)
def _opened_anew():
    forget_silos()
    yield
    forget_silos()


def releases(there) -> list[int]:
    return [open_deployed_silo(silo).ledger.releases() for silo in there.silos]


def test_wherever_the_server_crashes_the_model_and_the_charges_are_the_same(tmp_path):
    there = deployed(tmp_path, config=PLAIN, simulated=True)
    train_in_process(there, tmp_path / "whole", config=PLAIN, training="whole")
    expected = (tmp_path / "whole" / EMBEDDINGS).read_bytes()
    for moment in MOMENTS:
        forget_silos()
        again = deployed(tmp_path / f"{moment}", config=PLAIN, simulated=True)
        output = tmp_path / f"{moment}" / "training"
        with pytest.raises(Crash):
            train_in_process(again, output, config=PLAIN, grid=crashing_at(moment))
        train_in_process(again, output, config=PLAIN, resume=True)
        assert (output / EMBEDDINGS).read_bytes() == expected, moment
        assert releases(again) == [3] * SILOS, moment
        assert len((output / EVENTS).read_text().splitlines()) == 3 * SILOS
        found = verify_run(output / CERTIFICATES, events=output / EVENTS, model=output / EMBEDDINGS)
        assert found.holds, (moment, found.problems)


def test_a_run_whose_operator_asks_for_it_ends_after_a_round_and_no_silo_pays_twice(tmp_path):
    there = deployed(tmp_path, config=replace(CONFIG, epsilon=6.0))
    output = tmp_path / "training"
    output.mkdir()

    class AskedToStop(InProcessGrid):
        def push_messages(self, messages):
            # In the first round already; the last round of a run that goes on is not held up by it.
            (output / STOP).touch()
            return super().push_messages(messages)

    for rounds in (1, 2):
        with pytest.raises(EngineError, match=f"has stopped it after round {rounds} of 3"):
            train_in_process(there, output, config=CONFIG, grid=AskedToStop, resume=rounds > 1)
        assert releases(there) == [rounds] * SILOS
    train_in_process(there, output, config=CONFIG, grid=AskedToStop, resume=True)
    assert releases(there) == [3] * SILOS
    assert verify_run(output / CERTIFICATES, events=output / EVENTS, model=output / EMBEDDINGS).holds


class Flowers:
    """Flower's runs as `stop_trainings` sees them: one goes on until it is stopped, or ends by itself."""

    def __init__(self, monkeypatch):
        self.runs, self.stopped, self.ends = ["7"], [], lambda: False
        for name in ("_expect_served", "prepare_flower"):
            monkeypatch.setattr(training, name, lambda *_: None)
        monkeypatch.setattr(training, "_unfinished_runs", lambda _: [] if self.ends() else self.runs)
        monkeypatch.setattr(training, "ask_flower", lambda command, _: self.stopped.append(command[2]))


def test_a_stop_lets_the_round_under_way_end_unless_it_is_cut_off(tmp_path, monkeypatch):
    folder = deployed(tmp_path).federation
    own = folder.trainings / "20260101T000000-abc"
    own.mkdir(parents=True)
    (own / RUN_CONFIG).touch()
    flower, said = Flowers(monkeypatch), []

    def log(event):
        with (own / LOG).open("a") as file:
            file.write(json.dumps({"event": event}) + "\n")

    def stop(seconds=60.0):
        flower.stopped.clear(), said.clear()
        return stop_trainings(folder, say=said.append, patience=seconds)

    def server_ends_the_round(_):
        assert (own / STOP).exists()
        log("round finished")
        (own / CHECKPOINT).write_text("after it")
        flower.ends = lambda: True

    def pressed(_):
        raise KeyboardInterrupt

    # Silos are greeted: no round is under way.
    log("training started")
    assert (stop(), flower.stopped, (own / STOP).exists()) == (1, ["7"], False)
    # The line is not whole.
    whole = (own / LOG).read_text()
    (own / LOG).write_text(whole + '{"event": "round b')
    assert (stop(), flower.stopped) == (1, ["7"])
    (own / LOG).write_text(whole)
    # A round is: the server ends by itself after it.
    log("round begun")
    monkeypatch.setattr(training.time, "sleep", server_ends_the_round)
    assert (stop(), flower.stopped) == (1, [])
    assert "the round under way ends first" in said[0]
    # It does not come to its end in time; or somebody presses Ctrl-C; or wants no waiting.
    log("round begun")
    flower.ends = lambda: False
    monkeypatch.setattr(training.time, "sleep", lambda _: None)
    assert (stop(0.01), flower.stopped) == (1, ["7"])
    monkeypatch.setattr(training.time, "sleep", pressed)
    assert (stop(), flower.stopped, said[1]) == (1, ["7"], "the round is cut off")
    assert (stop(0.0), flower.stopped, len(said)) == (1, ["7"], 1)


def test_masked_rounds_go_on_at_the_price_of_the_interrupted_one(tmp_path):
    config = replace(CONFIG, epsilon=6.0)
    there = deployed(tmp_path, config=config)
    # The server dies when all masked inputs of the second round are charged; within the agreed epsilon of 6.
    asked = replace(config, epsilon=3.0)
    output = tmp_path / "training"
    with pytest.raises(Crash):
        train_in_process(there, output, config=asked, grid=crashing_at(2 + 10 + 5))
    train_in_process(there, output, config=asked, resume=True)
    assert releases(there) == [4] * SILOS
    for silo in there.silos:
        ledger = open_deployed_silo(silo).ledger
        verify_ledger(ledger)
        assert 3.0 < ledger.spending().epsilon < 6.0
    # What was charged for the interrupted round stands in the events too, as the certificates have it.
    assert len((output / EVENTS).read_text().splitlines()) == 4 * SILOS
    found = verify_run(output / CERTIFICATES, events=output / EVENTS, model=output / EMBEDDINGS)
    assert found.holds, found.problems


def test_a_silo_that_is_away_is_left_out_and_the_divisor_stays(tmp_path):
    there = deployed(tmp_path, config=PLAIN)
    from recsys_fed.simulation.flower_engine import load_apps

    client = load_apps()[1]

    def away(message, context):
        if message.metadata.message_type == "train" and "silo-1" in str(context.node_config["silo"]):
            raise RuntimeError("away")
        return client(message, context)

    train_in_process(there, tmp_path / "training", config=PLAIN, app=away)
    events = [json.loads(line) for line in (tmp_path / "training" / EVENTS).read_text().splitlines()]
    assert {event["silo"] for event in events} == {"silo-0", "silo-2"}
    assert releases(there) == [3, 0, 3]
    totals = json.loads((tmp_path / "training" / "federation.json").read_text())
    assert len(totals["refused"]) == 3
    assert (tmp_path / "training" / EMBEDDINGS).is_file()
