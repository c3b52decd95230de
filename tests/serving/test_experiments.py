"""Experiments: assignment, a test that may be looked at, and the report from what the service logged."""

import itertools
import math
import time

import numpy as np
import pytest
from command_line import json_of, run_command
from serving_kit import add_version, made_application, made_release, made_service
from starlette.testclient import TestClient

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving.experiment import _pair_chance, assign_variant, experiment_report
from recsys_fed.serving.history import Event
from recsys_fed.serving.sequential_test import _log_wealths, compare_arms, largest_log_wealth
from recsys_fed.serving.settings import Variant, serving_settings
from simulations.serving.peeking import claims

ARMS = (Variant(name="control", share=3.0), Variant(name="new", share=1.0))
TABLE = {
    "name": "trial",
    "window-hours": 1.0,
    "variants": [{"name": "control"}, {"name": "new", "diversity": 0.5}],
}


def test_assignment_follows_shares_and_depends_on_key_and_experiment():
    users = [f"user-{number}" for number in range(8_000)]
    arms = {
        name: np.array([assign_variant(user, ARMS, experiment=name, key=key).name == "new" for user in users])
        for name, key in (("a", b"k"), ("b", b"k"), ("c", b"other"))
    }
    assert abs(arms["a"].mean() - 0.25) < 0.02
    assert abs(np.corrcoef(arms["a"], arms["b"])[0, 1]) < 0.05
    assert [assign_variant(user, ARMS, experiment="a", key=b"k").name == "new" for user in users] == arms[
        "a"
    ].tolist()
    assert (arms["a"] != [assign_variant(user, ARMS, experiment="a", key=b"z").name == "new" for user in users]).any()


def test_looking_after_every_user_claims_nothing_where_nothing_differs():
    found = claims(tests=200, users=800, rates=(0.2, 0.2), level=0.05, seed=3)
    assert found["anytime"] <= 0.05
    assert found["z-test at every look"] > 0.15  # what peeking does to a test that does not allow it


@pytest.mark.parametrize("share", [0.5, 0.3])
@pytest.mark.parametrize("rates", [(0.3, 0.3), (0.2, 0.7)])
def test_against_the_true_difference_the_expected_wealth_is_one(share, rates):
    difference = np.array([rates[1] - rates[0]])
    for n in (1, 3, 5):
        expected = 0.0
        for arms in itertools.product((False, True), repeat=n):
            for outcomes in itertools.product((0.0, 1.0), repeat=n):
                chance = 1.0
                for arm, outcome in zip(arms, outcomes, strict=True):
                    rate = rates[int(arm)]
                    chance *= (share if arm else 1.0 - share) * (rate if outcome else 1.0 - rate)
                now, _ = _log_wealths(np.array(arms), np.array(outcomes), difference, share=share, level=0.05)
                expected += chance * math.exp(now[0])
        assert expected == pytest.approx(1.0, abs=1e-9)


def test_a_difference_is_found_and_inside_the_interval():
    rng = np.random.default_rng(1)
    treated = rng.uniform(size=4_000) < 0.5
    outcomes = (rng.uniform(size=4_000) < np.where(treated, 0.3, 0.2)).astype(float)
    found = compare_arms(treated, outcomes, share=0.5, level=0.05)
    assert found.significant and found.low > 0.0
    assert found.low <= 0.1 <= found.high
    turned = compare_arms(~treated, outcomes, share=0.5, level=0.05)
    assert turned.high < 0.0


def test_the_interval_holds_at_every_look_and_always_has_what_is_observed():
    rng = np.random.default_rng(11)
    looks, missed = (50, 200, 800, 1_800), 0
    for _ in range(60):
        treated = rng.uniform(size=looks[-1]) < 0.5
        outcomes = (rng.uniform(size=looks[-1]) < np.where(treated, 0.4, 0.2)).astype(float)
        found = [compare_arms(treated[:n], outcomes[:n], share=0.5, level=0.05) for n in looks]
        missed += not all(pair.low <= 0.2 <= pair.high for pair in found)
        assert all(pair.low < pair.means[1] - pair.means[0] < pair.high for pair in found)
    assert missed <= 8  # 3 are expected at most; 9 or more of 60 have a chance of .004 at level .05


def test_a_difference_that_faded_is_seen_to_fade():
    """What a running intersection would leave is an interval that the users since contradict, or nothing."""
    rng = np.random.default_rng(12)
    treated = rng.uniform(size=9_000) < 0.5
    higher = treated & (np.arange(9_000) < 1_000)
    outcomes = (rng.uniform(size=9_000) < np.where(higher, 0.6, 0.2)).astype(float)
    early, late = (compare_arms(treated[:n], outcomes[:n], share=0.5, level=0.05) for n in (1_000, 9_000))
    assert early.low > 0.2 and late.significant and late.low < late.high < 0.2
    assert late.p_value <= early.p_value


def test_unequal_shares_and_outcomes_between_zero_and_one():
    rng = np.random.default_rng(2)
    treated = rng.uniform(size=6_000) < 0.2
    outcomes = np.clip(rng.beta(2, 5, size=6_000) + 0.05 * treated, 0, 1)
    found = compare_arms(treated, outcomes, share=0.2, level=0.05)
    assert found.low <= 0.05 <= found.high and found.significant
    with pytest.raises(ConfigurationError, match="outcomes"):
        compare_arms(treated, 2 * outcomes, share=0.2, level=0.05)


def test_wealth_never_shrinks_with_more_users_and_nothing_is_known_of_nobody():
    rng = np.random.default_rng(4)
    treated, outcomes = rng.uniform(size=500) < 0.5, rng.uniform(size=500)
    sizes = [0, 1, 50, 500]
    most = [largest_log_wealth(treated[:n], outcomes[:n], np.zeros(1), share=0.5, level=0.05)[0] for n in sizes]
    assert most[0] == 0.0 and most == sorted(most)
    nobody = compare_arms(treated[:0], outcomes[:0], share=0.5, level=0.05)
    assert nobody.p_value == 1.0 and (nobody.low, nobody.high) == (-1.0, 1.0) and nobody.means == (None, None)


def test_versions_side_by_side_and_the_report_counts_users_once(tmp_path):
    second = add_version(tmp_path, made_release(seed=1))
    table = {
        "name": "models",
        "variants": [{"name": "old", "model": "current"}, {"name": "other", "model": second}],
    }
    name = add_version(tmp_path, made_release(seed=2))
    gate, headers = made_application(tmp_path, experiment=table)
    with TestClient(gate) as client:
        seen = {}
        for user in range(40):
            record = client.post("/v1/recommendations", headers=headers["all"], json={"user": f"u{user}"}).json()
            seen.setdefault(record["variant"], set()).add(record["model"])
        assert seen == {"old": {name}, "other": {second}}


def filled(folder, users=3_000):
    """A service whose "new" users succeed twice as often; some lists are younger than the window."""
    # The key decides who is in which variant: with a new one each time the interval would miss .2 now and then.
    (folder / "service.key").write_bytes(bytes(32))
    service, rng, now = made_service(folder, experiment=TABLE), np.random.default_rng(8), time.time()
    with service.store.writing() as connection:
        for number in range(users):
            user, start = f"u{number}", now - 7_200.0 + number * 2.0
            variant = service.variant_of(user).name
            row = {
                "request": f"{number:x}", "user": user, "time": start, "model": "m", "experiment": "trial",
                "variant": variant, "item": "i1", "propensity": 0.5, "score": 1.0, "greedy_item": "i1",
                "greedy_score": 1.0, "greedy_propensity": 0.5,
            }  # fmt: skip
            service.store.log_exposures(connection, [row, row | {"time": start + 10.0}])
            if rng.uniform() < (0.4 if variant == "new" else 0.2):
                event = Event(user=user, item="i1", kind="buy", time=start + 60.0, request=row["request"])
                service.store.append(connection, event)
    service.close()


def test_the_report_of_the_command(tmp_path):
    folder, settings = tmp_path / "service", tmp_path / "serving.toml"
    folder.mkdir()
    filled(folder)
    settings.write_text(
        '[experiment]\nname = "trial"\nwindow-hours = 1.0\n'
        '[[experiment.variants]]\nname = "control"\n[[experiment.variants]]\nname = "new"\ndiversity = 0.5\n'
    )
    plot = tmp_path / "trial.png"
    arguments = ("silo", "experiment", "report", "--settings", settings, "--state", folder)
    code, out, err = run_command(*arguments, "--json", "--plot", plot)
    assert code == 0, err
    record = json_of(out)
    users = {arm["variant"]: arm["users"] for arm in record["variants"]}
    # 7,200 s ago until now, one user every 2 s, a window of an hour: the first 1,800 count.
    assert abs(sum(users.values()) - 1_800) <= 10
    pair = record["comparisons"][0]
    assert pair["significant"] and pair["low"] > 0 and pair["low"] <= 0.2 <= pair["high"]
    assert record["off_policy"]["ips"]["value"] == pytest.approx(2 * record["off_policy"]["shown"]["value"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    code, out, _ = run_command(*arguments)
    assert code == 0 and "they differ" in out
    assert "u17" not in out


def test_settings_refuse_what_makes_no_experiment():
    with pytest.raises(ConfigurationError, match="two or more"):
        serving_settings({"experiment": {"name": "x", "variants": [{"name": "a"}]}})
    with pytest.raises(ConfigurationError, match="two or more"):
        serving_settings({"experiment": {"name": "x", "variants": [{"name": "a"}, {"name": "a"}]}})
    with pytest.raises(ConfigurationError, match="nonsense"):
        serving_settings({"api": {"nonsense": 1}})
    with pytest.raises(ConfigurationError, match="TLS"):
        serving_settings({"api": {"host": "0.0.0.0"}})  # noqa: S104


def shown_first(service, user, *, start, variant):
    row = {
        "request": "ab", "user": user, "time": start, "model": "m", "experiment": "trial", "variant": variant,
    }  # fmt: skip
    with service.store.writing() as connection:
        service.store.log_exposures(connection, [row])


def bought(service, user, *, happened, received, key="k"):
    event = Event(user=user, item="i1", kind="buy", time=happened, received=received, key=key)
    service.writer.append(event).result()


def report_of(service, **options):
    return experiment_report(service.store, service.settings.experiment, **options)


def successes(service, **options):
    return sum(arm["successes"] for arm in report_of(service, **options)["variants"])


def test_another_share_moves_nobody_who_was_there(tmp_path):
    asked, users = [], [f"u{number}" for number in range(60)]
    for shares in ((1.0, 1.0), (1.0, 9.0), (50.0, 1.0)):
        arms = [{"name": "new", "share": shares[0]}, {"name": "control", "share": shares[1]}]
        (tmp_path / "tokens.json").unlink(missing_ok=True)
        gate, headers = made_application(tmp_path, experiment={"name": "trial", "variants": arms})
        with TestClient(gate) as client:
            ask = lambda user: client.post("/v1/recommendations", headers=headers["all"], json={"user": user})  # noqa: B023, E731
            answers = [ask(user).json() for user in users for _ in range(2)]
        asked.append([answer["variant"] for answer in answers])
    assert asked[0] == asked[1] == asked[2] and len(set(asked[0])) == 2


def test_the_report_takes_each_users_chance_as_it_was(tmp_path):
    start = time.time() - 86_400.0
    chances = [(-math.inf, {"a": 1.0, "b": 1.0}), (start, {"a": 1.0, "b": 1.0}), (start + 100, {"a": 1.0, "b": 3.0})]
    assert _pair_chance(chances, start + 50, "b", "a") == 0.5
    assert _pair_chance(chances, start + 150, "b", "a") == 0.75
    assert _pair_chance([(-math.inf, {"a": 1.0})], start, "b", "a") == 0.0
    # Nothing differs, and the share changed from 1 in 2 to 1 in 10: no difference is claimed.
    rng = np.random.default_rng(6)
    share = np.where(np.arange(4_000) < 2_000, 0.5, 0.1)
    rates = np.where(np.arange(4_000) < 2_000, 0.1, 0.5)  # the later ones buy more, in either arm
    treated, outcomes = rng.uniform(size=4_000) < share, (rng.uniform(size=4_000) < rates).astype(float)
    assert not compare_arms(treated, outcomes, share=share, level=0.05).significant
    assert compare_arms(treated, outcomes, share=0.3, level=0.05).significant  # as one share for all would have it


def test_what_comes_late_changes_nobody_who_was_counted(tmp_path):
    service = made_service(tmp_path, experiment=TABLE)
    start = time.time() - 10 * 3_600.0
    for user in ("in-time", "late", "before", "aside-later", "aside-early"):
        shown_first(service, user, start=start, variant="new")
    bought(service, "in-time", happened=start + 60, received=start + 61)
    bought(service, "late", happened=start + 60, received=start + 3_601)
    bought(service, "before", happened=start - 60, received=start + 61)
    bought(service, "aside-later", happened=start + 60, received=start + 61)
    bought(service, "aside-early", happened=start + 60, received=start + 61)
    assert successes(service) == 3
    # Put aside after the window has closed: it counted, and goes on counting; before, it never did.
    service.writer.put_aside("aside-later", since=0.0).result()
    service.writer.put_aside("aside-early", since=0.0).result()
    with service.store.writing() as connection:
        connection.exec_driver_sql(f"UPDATE events SET aside = {start + 100} WHERE \"user\" = 'aside-early'")
    assert successes(service) == 2
    assert {arm["variant"]: arm["users"] for arm in report_of(service)["variants"]} == {"control": 0, "new": 5}
    service.close()


def test_the_variant_is_that_of_the_first_list(tmp_path):
    service = made_service(tmp_path, experiment=TABLE)
    start = time.time() - 10 * 3_600.0
    shown_first(service, "u", start=start, variant="new")
    shown_first(service, "u", start=start + 5, variant="control")
    assert {arm["variant"]: arm["users"] for arm in report_of(service)["variants"]} == {"control": 0, "new": 1}
    service.close()


def test_noisy_counts_are_charged_before_anything_is_counted(tmp_path, monkeypatch):
    folder, settings = tmp_path / "service", tmp_path / "serving.toml"
    folder.mkdir()
    filled(folder, users=2_500)
    settings.write_text(
        '[experiment]\nname = "trial"\nwindow-hours = 1.0\n'
        '[[experiment.variants]]\nname = "control"\n[[experiment.variants]]\nname = "new"\n'
    )
    ledger, key = str(tmp_path / "own.sqlite"), tmp_path / "own.key"
    made = ("privacy", "create", ledger, "--key", key, "--silo", "s", "--epsilon", 1.0, "--declared-users", 10_000)
    code, _, err = run_command(*made)
    assert code == 0, err
    arguments = ("silo", "experiment", "report", "--settings", settings, "--state", folder, "--noise", 10.0)
    assert run_command(*arguments)[0] == 2  # nothing without a ledger
    code, out, err = run_command(*arguments, "--ledger", ledger, "--key", key)
    assert code == 0, err
    record = json_of(out)
    exact = json_of(
        run_command("silo", "experiment", "report", "--settings", settings, "--state", folder, "--json")[1]
    )
    assert record["standard_deviation"] == pytest.approx(10.0 * math.sqrt(2.0)) and "comparisons" not in record
    for noisy, true in zip(record["variants"], exact["variants"], strict=True):
        assert abs(noisy["users"] - true["users"]) < 100 and abs(noisy["successes"] - true["successes"]) < 100
    # Once more is beyond the limit in the end: then nothing is counted.
    from recsys_fed.deployment import noisy_report as room
    from recsys_fed.errors import BudgetExceededError
    from recsys_fed.ledger.ledger import Ledger
    from recsys_fed.signing import SigningKey

    opened, service = Ledger.open(ledger, key=SigningKey.load(key)), made_service(folder, experiment=TABLE)
    assert opened.releases() == 1 and 0.05 < record["epsilon_spent"] <= 1.0
    counted = []
    monkeypatch.setattr(room, "experiment_report", lambda *_: counted.append(1))
    with pytest.raises(BudgetExceededError):
        room.noisy_report(service.store, service.settings.experiment, ledger=opened, noise_multiplier=0.5)
    assert counted == [] and opened.releases() == 1
    service.close()


def test_one_user_changes_the_counts_by_no_more_than_the_noise_is_made_for(tmp_path):
    """The plain oracle of the sensitivity: each user out in turn, the exact counts move by sqrt(2) at most."""
    from recsys_fed.deployment.noisy_report import _SENSITIVITY

    service = made_service(tmp_path, experiment=TABLE)
    start = time.time() - 10 * 3_600.0
    for number in range(6):
        for place in range(3):
            shown_first(service, f"u{number}", start=start + number + place, variant=("new", "control")[place % 2])
        for key in range(number):
            bought(service, f"u{number}", happened=start + 60, received=start + 61, key=f"k{key}")
    counts = lambda: np.array([[arm["users"], arm["successes"]] for arm in report_of(service)["variants"]])  # noqa: E731
    for number in range(6):
        before = counts()
        service.writer.forget(f"u{number}").result()
        assert 0 < np.linalg.norm(counts() - before) <= _SENSITIVITY + 1e-12
    service.close()
