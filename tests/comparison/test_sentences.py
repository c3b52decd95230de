"""What a silo is told follows from its paired intervals."""

import pytest

from recsys_fed.comparison.record import Gain, Interval, sentence


def gain(epsilon, low, high):
    change = Interval(mean=(low + high) / 2, low=low, high=high)
    return Gain(epsilon=epsilon, change=change, alone=0.2, joined=0.2 + change.mean)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.03, "joining pays by +0.0200"),
        (-0.03, -0.01, "joining does not pay, it costs -0.0200"),
        (-0.01, 0.03, "joining does not pay for sure, +0.0100"),
        (0.0, 0.0, "joining does not pay for sure, +0.0000"),
    ],
)
def test_the_sentence_follows_the_interval(low, high, said):
    text = sentence("silo-3", [gain(1.0, -1.0, 1.0), gain(8.0, low, high)])
    assert text.startswith(f"silo-3: {said}")
    assert f"{low:+.4f} to {high:+.4f}" in text
    assert "at epsilon 8" in text


@pytest.mark.parametrize(
    ("lows", "least"), [((-0.1, -0.1, 0.1), 8), ((-0.1, 0.1, 0.1), 4), ((0.1, -0.1, 0.1), 8), ((0.1, 0.1, 0.1), 2)]
)
def test_the_least_budget_is_one_from_which_on_all_pay(lows, least):
    gains = [gain(epsilon, low, 0.3) for epsilon, low in zip((2.0, 4.0, 8.0), lows, strict=True)]
    assert f"it pays from epsilon {least} on" in sentence("s", gains)


def test_a_silo_without_test_items_says_so():
    assert "nothing can be said" in sentence("silo-0", [])
