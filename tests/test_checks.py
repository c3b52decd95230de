"""Checks take what is in range, and name the argument, the range and the value otherwise."""

import math

import pytest

from recsys_fed import checks
from recsys_fed.errors import ConfigurationError, RecsysFedError

NAN, INF = math.nan, math.inf
CASES = {
    checks.positive: ([1e-300, 1, 2.5], [0, -1.0, NAN, INF, -INF]),
    checks.positive_or_inf: ([1e-300, 1, INF], [0, -1.0, NAN, -INF]),
    checks.non_negative: ([0, 0.0, 2.5], [-1e-9, NAN, INF, -INF]),
    checks.probability: ([1e-9, 0.5, 1, 1.0], [0, -0.1, 1.0000001, NAN, INF]),
    checks.fraction: ([1e-9, 0.5, 0.999], [0, 1, 1.0, -0.1, NAN, INF]),
}


@pytest.mark.parametrize(
    ("check", "value"), [(check, value) for check, (taken, _) in CASES.items() for value in taken]
)
def test_values_in_range_are_taken(check, value):
    check(argument=value)


@pytest.mark.parametrize(
    ("check", "value"), [(check, value) for check, (_, refused) in CASES.items() for value in refused]
)
def test_values_out_of_range_are_refused_with_name_and_value(check, value):
    with pytest.raises(ConfigurationError, match=rf"^Expected .*some_argument.*, got {value}\.$"):
        check(some_argument=value)


@pytest.mark.parametrize("check", CASES)
def test_every_value_is_looked_at(check):
    with pytest.raises(ConfigurationError, match="second"):
        check(first=0.5, second=NAN)


def test_integers_are_integers_and_at_least_the_minimum():
    checks.at_least(2, count=2)
    checks.at_least(-3, count=-3)
    for wrong in (1, 2.0, True, "3", None, NAN):
        with pytest.raises(ConfigurationError, match="count to be an integer >= 2, got"):
            checks.at_least(2, count=wrong)
    with pytest.raises(ConfigurationError, match="got True"):
        checks.at_least(0, count=True)


def test_names_are_among_those_allowed():
    checks.one_of(("red", "blue"), colour="red")
    with pytest.raises(ConfigurationError, match="Expected colour to be one of blue, red, got 'green'"):
        checks.one_of(("red", "blue"), colour="green")


def test_the_error_is_a_value_error_of_this_library():
    assert issubclass(ConfigurationError, RecsysFedError)
    assert issubclass(ConfigurationError, ValueError)
