"""The ClientApp answers within its own limits and says nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from driven_silo import CONFIG, DATA, drive
from flwr.app import ConfigRecord, RecordDict

from client import app as client_module
from client import state as silo_module
from recsys_fed.data.simulated import simulated_federation
from recsys_fed.errors import LedgerError
from recsys_fed.federation import wire
from recsys_fed.federation.messages import PLAN, PROTOCOL, Update, payload_of
from recsys_fed.federation.release import release_event
from recsys_fed.federation.schedule import advance, begin, request
from recsys_fed.federation.wire import (
    Invitation,
    greeting_from_records,
    invitation_to_records,
    request_to_records,
    update_from_records,
    update_to_records,
)
from recsys_fed.privacy.accounting import epsilon_spent


def planned(ask):
    """The schedule that a server which knows this silo alone would begin."""
    return begin(CONFIG, greeting_from_records(ask("query").content), None)


def run_all(ask):
    """Ask for the whole plan; the last request and the schedule at the end."""
    schedule = planned(ask)
    while schedule.round < len(schedule.stages):
        asked = request(schedule)
        update = update_from_records(ask("train", request_to_records(asked)).content)
        schedule = advance(schedule, asked, [update])
    return schedule, asked


def zero(asked):
    """An update of a silo without noise or users."""
    event = release_event(asked, noise_source="seeded-simulation")
    total = np.zeros(asked.shape, dtype=np.int32)
    return Update(silo="silo-1", total=total, event=event, catalogue_hash=asked.catalogue_hash, nonce="0")


def refused(reply) -> str:
    """The reason of an error reply, which carries nothing else."""
    assert reply.has_error()
    assert not reply.has_content()
    return reply.error.reason


def test_the_whole_plan_is_answered_and_charged():
    def main(ask):
        schedule, _ = run_all(ask)
        return schedule, ask.spent()

    schedule, events = drive(main)
    assert len(events) == len(schedule.stages) == 3
    assert 0.98 * CONFIG.epsilon <= epsilon_spent(events, delta=CONFIG.delta) <= CONFIG.epsilon


def test_one_round_too_many_is_refused():
    def main(ask):
        _, asked = run_all(ask)
        before = ask.spent()
        reason = refused(ask("train", request_to_records(replace(asked, round=3))))
        return reason, before, ask.spent()

    reason, before, after = drive(main)
    assert reason.startswith("ProtocolError: Expected one of the 3 rounds of the plan, got 3.")
    assert before == after


def test_rounds_never_go_back():
    """Not to an earlier one, nor to the same one in other words, however much budget is left."""

    def main(ask):
        schedule, requests = planned(ask), []
        while schedule.round < len(schedule.stages):
            requests.append(request(schedule))
            update = update_from_records(ask("train", request_to_records(requests[-1])).content)
            schedule = advance(schedule, requests[-1], [update])
        before = ask.spent()
        last = requests[-1]
        again = replace(last, tables={name: table.clone() for name, table in last.tables.items()})
        again.tables["subspace"][0, 0] += 1.0
        reasons = [refused(ask("train", request_to_records(one))) for one in (*requests[:-1], again)]
        return reasons, before, ask.spent()

    reasons, before, after = drive(main)
    assert all("Expected a round after round 3 of this training" in reason for reason in reasons)
    assert len(reasons) == 3
    assert before == after


def test_a_silo_that_was_away_in_a_round_goes_on_with_the_next():
    def main(ask):
        schedule = planned(ask)
        first = ask("train", request_to_records(request(schedule)))
        schedule = advance(schedule, request(schedule), [update_from_records(first.content)])
        later = request(advance(schedule, request(schedule), [zero(request(schedule))]))
        return ask("train", request_to_records(later)), [event.round for event in ask.spent()]

    reply, rounds = drive(main)
    assert not reply.has_error()
    assert rounds == [0, 2]


@pytest.mark.parametrize("weaker", [0.0, 0.2])
def test_too_little_noise_is_refused(weaker):
    def main(ask):
        asked = request(planned(ask))
        reply = ask("train", request_to_records(replace(asked, noise_multiplier=weaker * asked.noise_multiplier)))
        return refused(reply), ask.spent()

    reason, events = drive(main)
    assert "ProtocolError: Expected noise_multiplier" in reason
    assert events == ()


def test_a_training_that_the_ledger_has_no_room_for_is_refused():
    """Two trainings of the agreed price in a ledger that has room for one."""

    def main(ask):
        first = request(planned(ask))
        run_all(ask)
        before = ask.spent()
        ask.context.run_config["training"] = "another"
        reason = refused(ask("train", request_to_records(first)))
        return reason, before, ask.spent()

    reason, before, after = drive(main)
    assert reason.startswith("BudgetExceededError: Expected a release within the limit epsilon 2 ")
    assert before == after


def test_a_smaller_share_of_the_noise_than_agreed_is_refused():
    def main(ask):
        asked = request(planned(ask))
        shares = {share: ask("train", request_to_records(replace(asked, noise_share=share))) for share in (0.99, 0.5)}
        return [refused(reply) for reply in shares.values()], ask.spent()

    reasons, events = drive(main)
    assert all("ProtocolError: Expected noise_share 1.0" in reason for reason in reasons)
    assert events == ()


def test_the_agreed_share_of_the_noise_is_allowed_and_no_other():
    config = replace(CONFIG, noise="distributed", secure_aggregation_colluders=0)

    def main(ask):
        asked = request(begin(config, greeting_from_records(ask("query").content), None))
        others = [ask("train", request_to_records(replace(asked, noise_share=share))) for share in (0.49, 1.0)]
        return [refused(reply) for reply in others], ask("train", request_to_records(asked))

    reasons, half = drive(main, config)
    assert all("Expected noise_share 0.5" in reason for reason in reasons)
    assert not half.has_error()


def test_another_catalogue_is_refused():
    def main(ask):
        asked = request(planned(ask))
        return refused(ask("train", request_to_records(replace(asked, catalogue_hash="c0ffee")))), ask.spent()

    reason, events = drive(main)
    assert "ProtocolError: Expected a request about the catalogue" in reason
    assert events == ()


def test_nonsense_is_refused_by_its_name():
    def main(ask):
        replies = [ask("train"), ask("train", RecordDict({"request": ConfigRecord({"protocol": 1})}))]
        return [refused(reply) for reply in replies]

    assert all(reason.startswith("ProtocolError: ") for reason in drive(main))


def test_a_table_with_the_wrong_rows_gives_nothing():
    def main(ask):
        asked = request(planned(ask))
        tables = {"head": torch.tensor([24, 25]), "damping": torch.ones(2), "direction": torch.ones(2)}
        tables["subspace"] = torch.ones(2, 3)
        return ask("train", request_to_records(replace(asked, stage="subspace", tables=tables, shape=(2, 3))))

    assert drive(main).has_error()


def leaking_of_the_ledger(*_args, **_options):
    raise LedgerError("a disk that is full")


def leaking(*_args, **_options):
    raise RuntimeError("user 910001 rated 12 items")


def test_the_text_of_an_exception_stays_in_the_silo(monkeypatch, caplog):
    monkeypatch.setattr(client_module, "request_from_records", leaking)
    reason = drive(lambda ask: refused(ask("train", request_to_records(request(planned(ask))))))
    assert "910001" not in reason
    assert "RuntimeError" not in reason
    assert "log" in reason
    assert "910001" in caplog.text


def test_a_computation_that_fails_is_charged_and_answered_for_nobody(monkeypatch, caplog):
    """Whether it fails may depend on users: the answer, its size and its price do not."""

    def main(ask):
        asked = request_to_records(request(planned(ask)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(silo_module.SimulatedSilo, "users", leaking)
            reply = ask("train", asked)
        return reply, ask("train", asked), ask.spent()

    def well(ask):
        return ask("train", request_to_records(request(planned(ask))))

    failed, again, spent = drive(main)
    good = drive(well)
    assert not failed.has_error()
    assert len(spent) == 1
    assert "910001" in caplog.text
    totals = [update_from_records(reply.content) for reply in (failed, again, good)]
    assert np.array_equal(totals[0].total, totals[1].total), "what has left is not computed again"
    assert totals[0].total.shape == totals[2].total.shape
    assert totals[0].event == totals[2].event
    assert wire.payload_bytes(failed.content) == wire.payload_bytes(good.content)


def test_nothing_private_is_read_before_the_charge(monkeypatch):
    """A release whose charge fails computes nothing."""
    monkeypatch.setattr(silo_module.SimulatedSilo, "users", leaking)

    def main(ask):
        asked = request(planned(ask))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(silo_module.Ledger, "_append", leaking_of_the_ledger)
            return refused(ask("train", request_to_records(asked))), ask.spent()

    reason, events = drive(main)
    assert "log" in reason
    assert events == ()


def test_a_silo_that_dies_between_charge_and_answer_is_charged_once():
    def main(ask):
        asked = request_to_records(request(planned(ask)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(silo_module, "answer", leaking)
            refused(ask("train", asked))
        before = ask.spent()
        return before, ask("train", asked), ask.spent()

    before, reply, after = drive(main)
    assert not reply.has_error()
    assert len(before) == 1
    assert before == after


def test_an_answer_that_is_lost_after_it_was_kept_is_sent_again():
    """The silo dies between the answer and the message: asked again, it sends what it has paid for."""

    def main(ask):
        asked = request_to_records(request(planned(ask)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client_module, "update_to_records", leaking)
            refused(ask("train", asked))
        before = [entry.hash for entry in ask.ledger().entries()]
        once, again = (update_from_records(ask("train", asked).content) for _ in range(2))
        return before, [*ask.ledger().entries()], once, again

    before, entries, once, again = drive(main)
    assert before == [entry.hash for entry in entries]
    assert [entry.kind for entry in entries] == ["genesis", "release"]
    assert entries[1].body.payload == once.nonce == again.nonce
    assert np.array_equal(once.total, again.total)


def test_a_node_that_is_not_simulated_is_refused():
    """Its noise would come from a seed that the server knows."""
    assert "could not answer" in refused(drive(lambda ask: ask("query"), node_config={"some": "node"}))


def test_a_greeting_does_not_depend_on_the_silos_users(monkeypatch):
    """They are not even read: at delta = 0.04 a silo of 25 users or more would have something to say."""
    monkeypatch.setattr(silo_module.SimulatedSilo, "users", leaking)
    reply = drive(lambda ask: ask("query"), replace(CONFIG, delta=0.04, declared_users=20))
    assert not reply.has_error()


def test_a_server_that_computes_another_plan_is_refused_with_both_versions(monkeypatch):
    def main(ask):
        invitation = invitation_to_records(Invitation())
        good = ask("query", invitation)
        invitation["invitation"] = ConfigRecord({"protocol": PROTOCOL, "plan": "2.9"})
        asked = replace(request(planned(ask)), plan="2.9")
        return (
            good,
            [refused(ask("query", invitation)), refused(ask("train", request_to_records(asked)))],
            ask.spent(),
        )

    good, reasons, spent = drive(main)
    assert not good.has_error()
    assert all(f"plan {PLAN}" in reason and "'2.9'" in reason for reason in reasons)
    assert spent == ()


def test_silos_add_different_noise_in_each_round():
    # The first two rounds of a plan have shapes of their own.
    config = replace(CONFIG, rounds=4)

    def main(ask):
        agreed = greeting_from_records(ask("query").content)
        schedule, totals = begin(config, agreed, None), []
        for _ in range(4):
            asked = request(schedule)
            totals.append(update_from_records(ask("train", request_to_records(asked)).content))
            schedule = advance(schedule, asked, totals[-1:])
        return totals[2:]

    first, second = drive(main, config)
    assert first.total.shape == second.total.shape
    assert (first.total != second.total).mean() > 0.9
    assert first.nonce != second.nonce


def test_equal_requests_give_equal_bytes():
    def main(ask):
        return ask("train", request_to_records(request(planned(ask))))

    once, again = drive(main), drive(main)
    assert (
        update_to_records(update_from_records(once.content))["total"]
        == update_to_records(update_from_records(again.content))["total"]
    )


def test_the_greeting_is_about_the_catalogue():
    catalogue = simulated_federation(DATA, silos=2, seed=0).dataset.catalogue
    greeting = greeting_from_records(drive(lambda ask: ask("query")).content)
    assert (greeting.silo, greeting.catalogue_hash, greeting.n_items) == ("silo-0", catalogue.content_hash, 25)


def test_the_same_request_gets_the_same_bytes_and_is_charged_once():
    def main(ask):
        asked = request_to_records(request(planned(ask)))
        replies = [ask("train", asked).content for _ in range(3)]
        return replies, ask.spent()

    replies, events = drive(main)
    assert len({payload_of(update_from_records(reply)) for reply in replies}) == 1
    assert len(events) == 1
