"""A guarantee refuses what cannot be promised and says truthfully what is."""

import math
import re

import pytest

from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.accounting import epsilon_spent
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import Guarantee, check_delta, guarantee_of


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0},
        {"epsilon": -1.0},
        {"epsilon": math.nan},
        {"delta": 0.0},
        {"delta": 1.0},
        {"unit": "record"},
        {"neighbouring_relation": "replace-one-user"},
        {"max_silos_per_user": 0},
    ],
)
def test_impossible_promises_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Guarantee(**{"epsilon": 1.0, **wrong})


@pytest.mark.parametrize("n_users", [1000, 6040, 100_000, 10**9])
def test_delta_must_be_below_one_over_users(n_users):
    check_delta(0.999 / n_users, n_users=n_users)
    with pytest.raises(ConfigurationError, match=rf"1 / n_users = {re.escape(f'{1 / n_users:g}')}.*smaller"):
        check_delta(1 / n_users, n_users=n_users)


def test_a_delta_is_below_that_of_one_user_at_least():
    check_delta(0.5, n_users=1)
    for delta, n_users in ((0.0, 10), (1.0, 1), (1e-6, 0)):
        with pytest.raises(ConfigurationError):
            check_delta(delta, n_users=n_users)


def test_decimal_delta_equal_to_the_bound_is_refused():
    with pytest.raises(ConfigurationError):
        check_delta(1e-5, n_users=100_000)


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 2.302585092994046, 8.0, 16.0, 50.0])
def test_sentence_never_understates_the_factor(epsilon):
    sentence = Guarantee(epsilon=epsilon, delta=1e-6).sentence()
    said = float(re.search(r"factor of at most ([\d.,e+]+),", sentence)[1].replace(",", ""))
    assert math.exp(epsilon) <= said * (1 + 1e-12)
    assert said <= 1.01 * math.exp(epsilon)
    assert f"epsilon = {epsilon:g}, delta = 1e-06" in sentence
    assert "all interactions of one user" in sentence


@pytest.mark.parametrize(
    ("epsilon", "factor"),
    [
        (0.1, "1.11"),
        (4.6, "99.5"),
        (6.9, "993"),
        (6.907, "1,000"),
        (6.909, "1,010"),
        (20.7, "978,000,000"),
        (20.73, "1.01e+09"),
    ],
)
def test_the_factor_is_rounded_up_to_three_figures(epsilon, factor):
    assert f"a factor of at most {factor}, beyond" in Guarantee(epsilon=epsilon).sentence()


def test_the_factor_is_a_power_where_few_could_read_it():
    assert "at most e^701, " in Guarantee(epsilon=701.0).sentence()
    assert "at most 1.02e+304, " in Guarantee(epsilon=700.0).sentence()


def test_a_configuration_promises_what_it_says():
    config = FederationConfig(epsilon=3.0, delta=1e-7, max_silos_per_user=2)
    assert guarantee_of(config) == Guarantee(epsilon=3.0, delta=1e-7, max_silos_per_user=2)


def test_the_sentence_says_who_sees_what_and_of_which_silos():
    one, two = Guarantee(epsilon=1.0), Guarantee(epsilon=1.0, max_silos_per_user=2)
    assert one.sentence().startswith("For anybody who sees everything that ever leaves a silo, whatever")
    assert "all interactions of one user in it or none" in one.sentence()
    assert two.sentence(seen="what left").startswith("For anybody who sees what left up to 2 silos, whatever")
    assert "all interactions of one user in all of them or none" in two.sentence()
    assert "leaves a silo may reveal any interaction of any user in it" in Guarantee(epsilon=math.inf).sentence()


def test_infinite_epsilon_is_called_no_protection():
    guarantee = Guarantee(epsilon=math.inf)
    assert not guarantee.protects
    assert guarantee.sentence().startswith("There is no privacy protection")


def test_sentence_exists_where_the_factor_overflows():
    assert "e^1000" in Guarantee(epsilon=1000.0).sentence()


def test_user_in_several_silos_pays_in_each():
    once = [PrivacyEvent(noise_multiplier=2.0)]
    thrice = Guarantee(epsilon=8.0, max_silos_per_user=3).over_silos(once)
    # Three Gaussians with multiplier 2 are one with multiplier 2 / sqrt(3).
    merged = [PrivacyEvent(noise_multiplier=2.0 / math.sqrt(3))]
    assert epsilon_spent(thrice, delta=1e-6) == pytest.approx(epsilon_spent(merged, delta=1e-6), rel=1e-6)
    kinds = Guarantee(epsilon=8.0, max_silos_per_user=3).over_silos_kinds(
        [PrivacyEvent(noise_multiplier=2.0, steps=5, slack=2.0**-60), PrivacyEvent(noise_multiplier=2.0, steps=1)]
    )
    assert kinds == (PrivacyEvent(noise_multiplier=2.0, steps=18, slack=3 * 2.0**-60),)
    assert "3 silos" in Guarantee(epsilon=8.0, max_silos_per_user=3).sentence()
