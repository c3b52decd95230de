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
from recsys_fed.federation.schedule import advance, begin, request
from recsys_fed.federation.update import payload_of
from recsys_fed.federation.wire import (
    greeting_from_records,
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
    assert reason.startswith("BudgetExceededError: Expected a release within the limit epsilon 2 ")
    assert before == after


@pytest.mark.parametrize("weaker", [0.0, 0.2])
def test_too_little_noise_is_refused(weaker):
    def main(ask):
        asked = request(planned(ask))
        reply = ask("train", request_to_records(replace(asked, noise_multiplier=weaker * asked.noise_multiplier)))
        return refused(reply), ask.spent()

    reason, events = drive(main)
    assert "BudgetExceededError" in reason
    assert events == ()


def test_a_smaller_share_of_the_noise_than_agreed_is_refused():
    def main(ask):
        asked = request(planned(ask))
        shares = {share: ask("train", request_to_records(replace(asked, noise_share=share))) for share in (0.99, 0.5)}
        return [refused(reply) for reply in shares.values()], ask.spent()

    reasons, events = drive(main)
    assert all("ProtocolError: Expected a noise share of at least 1.0" in reason for reason in reasons)
    assert events == ()


def test_the_agreed_share_of_the_noise_is_allowed_and_no_less():
    def main(ask):
        asked = request(planned(ask))
        less = refused(ask("train", request_to_records(replace(asked, noise_share=0.49))))
        return less, ask("train", request_to_records(replace(asked, noise_share=0.5)))

    less, half = drive(main, replace(CONFIG, noise="central"))
    assert "at least 0.5" in less
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


def leaking(*_args, **_options):
    raise RuntimeError("user 910001 rated 12 items")


def test_the_text_of_an_exception_stays_in_the_silo(monkeypatch, caplog):
    monkeypatch.setattr(silo_module, "answer", leaking)
    reason = drive(lambda ask: refused(ask("train", request_to_records(request(planned(ask))))))
    assert "910001" not in reason
    assert "RuntimeError" not in reason
    assert "log" in reason
    assert "910001" in caplog.text


def test_a_computation_that_fails_stays_charged_and_is_made_up_for():
    """Whether it fails may depend on the data, so it costs what the release would have cost, and no more."""

    def main(ask):
        asked = request_to_records(request(planned(ask)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(silo_module, "answer", leaking)
            refused(ask("train", asked))
        before = ask.spent()
        return before, ask("train", asked), ask.spent()

    before, reply, after = drive(main)
    assert len(before) == 1
    assert not reply.has_error()
    assert after == before


def test_nothing_private_is_read_before_the_charge(monkeypatch):
    """A release that the ledger refuses, and one whose charge fails, compute nothing."""
    computed = []
    monkeypatch.setattr(silo_module, "answer", lambda *given, **_: computed.append(given))

    def main(ask):
        asked = request(planned(ask))
        first = ask("train", request_to_records(replace(asked, noise_multiplier=0.0)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(silo_module.Ledger, "_append", leaking)
            second = ask("train", request_to_records(asked))
        return refused(first), refused(second), ask.spent()

    first, second, events = drive(main)
    assert first.startswith("BudgetExceededError")
    assert "log" in second
    assert (events, computed) == ((), [])


def test_an_answer_that_is_lost_after_the_charge_stays_charged_once():
    """The silo dies between the charge and the message: asked again, it sends what it has paid for."""

    def main(ask):
        asked = request_to_records(request(planned(ask)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client_module, "update_to_records", leaking)
            refused(ask("train", asked))
        before = [entry.hash for entry in ask.ledger().entries()]
        update = update_from_records(ask("train", asked).content)
        return before, [*ask.ledger().entries()], update

    before, entries, update = drive(main)
    assert before == [entry.hash for entry in entries]
    assert [entry.kind for entry in entries] == ["genesis", "release"]
    assert entries[1].draw == update.nonce


def test_a_node_that_is_not_simulated_is_refused():
    """Its noise would come from a seed that the server knows."""
    assert "could not answer" in refused(drive(lambda ask: ask("query"), node_config={"some": "node"}))


def test_delta_must_suit_the_silos_own_users():
    """Without a word about how many they are."""
    reason = refused(drive(lambda ask: ask("query"), replace(CONFIG, delta=0.04)))
    assert not any(letter.isdigit() for letter in reason)


def test_silos_add_different_noise_in_each_round():
    def main(ask):
        asked = request(planned(ask))
        return [
            update_from_records(ask("train", request_to_records(replace(asked, round=number))).content).total
            for number in (0, 1)
        ]

    first, second = drive(main)
    assert (first != second).mean() > 0.9


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


def test_a_round_is_answered_once_in_whatever_words_it_is_asked_for():
    """Two answers with the same noise would give the noise away: their difference has none."""

    def main(ask):
        asked = replace(request(planned(ask)), noise_multiplier=10.0)
        asks = [
            replace(asked, round=number, settings={"unobserved_weight": weight})
            for number, weight in ((1, 0.3), (1, 0.4), (0, 0.3), (2, 0.4))
        ]
        return [ask("train", request_to_records(one)) for one in asks], ask.spent()

    (first, again, back, later), events = drive(main)
    for reply in (again, back):
        assert refused(reply).startswith("ProtocolError: Expected a round after round 2 of this training, got round ")
    assert len(events) == 2
    first, later = (update_from_records(reply.content) for reply in (first, later))
    assert first.nonce != later.nonce
    assert np.corrcoef(first.total.ravel(), later.total.ravel())[0, 1] < 0.9
    assert np.count_nonzero(first.total == later.total) < len(first.total) / 2
