"""Masked rounds over messages: dropouts in every phase, second attempts, and what is charged for them."""

from dataclasses import replace

import numpy as np
import pytest
from masked_federation import MASKED, PHASES, SILOS, dropping, masked_run, plain_sum

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.secure_aggregation import errors as e
from recsys_fed.models.items import load_item_embeddings

EVERYBODY = set(range(SILOS))
ROOM = 20.0
ALL_NEEDED = replace(MASKED, secure_aggregation_threshold=SILOS)


def test_without_dropouts_the_server_gets_the_plain_sums_and_every_silo_pays_once_a_round(tmp_path):
    outcome = masked_run(tmp_path)
    assert outcome.totals["refused"] == []
    for number, (integers, n_silos) in outcome.sums.items():
        assert n_silos == SILOS
        np.testing.assert_array_equal(integers, plain_sum(outcome, number, EVERYBODY))
    for silo in EVERYBODY:
        charged = outcome.charged(silo)
        assert [body.event.round for body in charged] == [0, 1]
        sent = [event["payload"] for event in outcome.events if event["silo"] == f"silo-{silo}"]
        assert [body.payload for body in charged] == sent
        assert {body.event.noise_share for body in charged} == {1 / 2}
        assert not outcome.contexts[silo].state


@pytest.mark.parametrize("phase", PHASES)
def test_a_silo_that_drops_out_in_any_phase_is_done_without(phase, tmp_path):
    """Before its input was taken it is not in the sum; after that it is."""
    outcome = masked_run(tmp_path, dropping(phase, 2))
    missing = PHASES.index(phase) <= PHASES.index("train")
    for number, (integers, n_silos) in outcome.sums.items():
        survivors = EVERYBODY - {2} if missing else EVERYBODY
        assert n_silos == len(survivors)
        np.testing.assert_array_equal(integers, plain_sum(outcome, number, survivors))
    assert len(outcome.charged(2)) == (0 if missing else 2)
    assert all(line.startswith("silo-2: ") for line in outcome.totals["refused"])
    assert load_item_embeddings(outcome.folder / "item_embeddings.safetensors").n_items == 25


def consistent(outcome) -> None:
    """Every sum is the plain one of the inputs of its last attempt; the server's lines are what ledgers hold."""
    for number, (integers, n_silos) in outcome.sums.items():
        last = max(attempt for _, attempt in outcome.inputs[number])
        silos = {silo for silo, attempt in outcome.inputs[number] if attempt == last}
        assert n_silos == len(silos)
        np.testing.assert_array_equal(integers, plain_sum(outcome, number, silos, attempt=last))
    for silo in EVERYBODY:
        sent = [event["payload"] for event in outcome.events if event["silo"] == f"silo-{silo}"]
        assert sorted(body.payload for body in outcome.charged(silo)) == sorted(sent)


@pytest.mark.parametrize("phase", PHASES[:2])
def test_an_attempt_that_ends_before_the_inputs_costs_nothing(phase, tmp_path):
    """All are needed, and one is away for a moment."""
    outcome = masked_run(tmp_path, dropping(phase, 1, until=1), config=ALL_NEEDED)
    consistent(outcome)
    assert {attempt for _, attempt in outcome.inputs[0]} == {1}
    assert [len(outcome.charged(silo)) for silo in EVERYBODY] == [2] * SILOS
    assert any("attempt 0 is given up" in line for line in outcome.totals["refused"])


@pytest.mark.parametrize("phase", PHASES[:2])
def test_a_silo_that_is_needed_is_waited_for_and_no_attempt_before_it_is_back_costs(phase, tmp_path, monkeypatch):
    """All are needed, and one is away for longer than the attempts that may cost; others have paid for the first."""
    import server.app
    import server.masked_rounds

    pauses = []
    monkeypatch.setattr(server.app, "patience", lambda _: 600.0)
    monkeypatch.setattr(server.masked_rounds.time, "sleep", pauses.append)

    def between(silo, time, message, answer):
        kind = message.metadata.message_type
        gone = (kind == "train" and time == 0) or (kind == phase and 1 <= time < 8)
        if silo == 1 and gone:
            raise RuntimeError("no connection")
        return answer()

    outcome = masked_run(tmp_path, between, config=ALL_NEEDED, limit=ROOM)
    consistent(outcome)
    assert pauses[:6] == [1, 2, 4, 8, 16, 30]
    assert {attempt for _, attempt in outcome.inputs[0]} == {0, 8}
    assert [len(outcome.charged(silo)) for silo in EVERYBODY] == [3, 2, 3, 3], "once more, not more"


def test_a_silo_that_stays_away_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    import itertools

    import server.app
    import server.masked_rounds

    clock = itertools.count(step=20)
    monkeypatch.setattr(server.app, "patience", lambda _: 600.0)
    monkeypatch.setattr(server.masked_rounds.time, "sleep", lambda _: None)
    monkeypatch.setattr(server.masked_rounds.time, "monotonic", lambda: next(clock))
    with pytest.raises(e.SecureAggregationError) as caught:
        masked_run(tmp_path, dropping("query.advertise", 1), config=ALL_NEEDED)
    assert [len(caught.value.outcome.charged(silo)) for silo in EVERYBODY] == [0] * SILOS


@pytest.mark.parametrize("phase", PHASES[2:])
def test_an_attempt_that_ends_after_inputs_left_is_charged_and_the_next_has_fresh_noise(phase, tmp_path):
    outcome = masked_run(tmp_path, dropping(phase, 1, 3, until=1), limit=ROOM)
    consistent(outcome)
    inputs = outcome.inputs[0]
    twice = {silo for silo, _ in inputs if {(silo, 0), (silo, 1)} <= inputs.keys()}
    assert len(twice) >= 2
    for silo in EVERYBODY:
        paid = [body.event.round for body in outcome.charged(silo)]
        assert paid.count(0) == sum(1 for key in inputs if key[0] == silo)
        requests = [body.request for body in outcome.charged(silo)]
        assert len(set(requests)) == len(requests)
    for silo in twice:
        assert (inputs[silo, 0] != inputs[silo, 1]).mean() > 0.9


def test_a_second_attempt_that_the_budget_has_no_room_for_is_refused_by_the_silos(tmp_path):
    """Their limit is what the run costs; two silos have left after the others sent their inputs.

    The error names that reason, and a third attempt, for which there is no more room, is not made.
    """
    with pytest.raises(e.TooFewSurvivorsError, match=r"BudgetExceededError: .* would") as caught:
        masked_run(tmp_path, dropping("query.confirm", 1, 3, first=1), limit=0.0)
    outcome = caught.value.outcome
    assert set(outcome.sums) == {0}
    assert [len(outcome.charged(silo)) for silo in EVERYBODY] == [2] * SILOS
    assert sum("is given up" in line for line in outcome.totals["refused"]) == 2
    assert len(outcome.events) == 2 * SILOS


@pytest.mark.parametrize(
    "phase", [phase if phase == "train" else pytest.param(phase, marks=pytest.mark.soak) for phase in PHASES]
)
def test_below_the_threshold_the_round_is_abandoned_and_nothing_is_unmasked(phase, tmp_path):
    with pytest.raises(e.TooFewSurvivorsError) as caught:
        masked_run(tmp_path, dropping(phase, 1, 3), limit=ROOM)
    outcome = caught.value.outcome
    assert outcome.sums == {}
    assert not (outcome.folder / "item_embeddings.safetensors").exists()
    # What was sent stays charged, and the server kept which bytes that were.
    sent = [(event["silo"], event["payload"]) for event in outcome.events]
    charged = [(f"silo-{silo}", body.payload) for silo in EVERYBODY for body in outcome.charged(silo)]
    assert sorted(sent) == sorted(charged)
    assert bool(charged) == (phase not in PHASES[:2])


def test_impossible_settings_are_refused_before_anything_is_asked(tmp_path):
    local = {"trainer": "dp-sgd", "dp_sgd": {"schedule": "local"}}
    for changes, says in (
        ({"secure_aggregation_threshold": 2}, "threshold of 3 to 4"),
        ({"secure_aggregation_threshold": 5}, "threshold of 3 to 4"),
        ({"secure_aggregation_colluders": 4}, "threshold"),
        ({"noise": "distributed"}, "noise = per-silo with secure aggregation"),
        ({"silos": 2}, "at least 3 silos"),
        (local, "local schedule"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            masked_run(tmp_path, config=replace(MASKED, **changes))
