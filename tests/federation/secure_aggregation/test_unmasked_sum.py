"""The unmasked sum is the plain sum, bit by bit, whoever drops out when; below the threshold there is none."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from masked_round import NEVER, UP, Round, identities, inputs_of, terms_of

from recsys_fed.federation.secure_aggregation.errors import TooFewSurvivorsError
from recsys_fed.federation.secure_aggregation.neighbours import Neighbourhood
from recsys_fed.federation.secure_aggregation.terms import least_threshold

STEPS = ("keys_step", "shares_step", "input_step", "confirmation_step", "unmasking_step")


@pytest.mark.parametrize(
    ("n", "changes"),
    [
        (3, {"entries": 1, "bits": 4}),
        (3, {"threshold": 3, "entries": 1000, "bits": 32}),
        (7, {"threshold": 6, "colluding": 3, "entries": 999, "bits": 39}),
        (32, {"threshold": 20, "bits": 8}),
        (33, {"threshold": 27, "colluding": 2, "bits": 17}),
        (100, {"threshold": 90, "entries": 70_000, "bits": 31}),
    ],
)
def test_everybody_stays(n: int, changes: dict[str, int]) -> None:
    terms = terms_of(identities(n), **changes)
    inputs = inputs_of(terms, seed=n)
    np.testing.assert_array_equal(Round(identities(n), terms).run(inputs), inputs.sum(0))


def test_a_sum_beyond_the_range_wraps_round_and_nothing_else() -> None:
    terms = terms_of(identities(3), bits=8, entries=3)
    inputs = np.array([[127, -128, 100], [1, -1, 100], [0, 0, 100]])
    np.testing.assert_array_equal(Round(identities(3), terms).run(inputs), [-128, 127, 44])


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_every_pattern_of_dropouts(n: int) -> None:
    """Each silo stays or misses the rest from any exchange on: 6^n patterns, as a tree of shared beginnings."""
    terms = terms_of(identities(n))
    inputs = inputs_of(terms, seed=n)
    assert sum(patterns_of(Round(identities(n), terms), inputs, frozenset(range(n)), 0)) == (NEVER + 1) ** n


def patterns_of(before: Round, inputs: np.ndarray, present: frozenset[int], step: int) -> Iterator[int]:
    """Check all patterns that go on from here; yields how many each leaf of the tree stands for."""
    for gone in subsets(present):
        stay = present - gone
        drops = {i: step for i in range(len(inputs)) if i not in stay}
        after = before.fork(drops)
        call = getattr(after, STEPS[step])
        arguments = [inputs] if STEPS[step] == "input_step" else []
        if len(stay) < before.terms.threshold:
            with pytest.raises(TooFewSurvivorsError):
                call(*arguments)
            yield (NEVER - step) ** len(stay)
        elif step == NEVER - 1:
            np.testing.assert_array_equal(call(), after.survivors(inputs))
            yield 1
        else:
            call(*arguments)
            yield from patterns_of(after, inputs, stay, step + 1)


def subsets(silos: frozenset[int]) -> Iterator[frozenset[int]]:
    for size in range(len(silos) + 1):
        yield from map(frozenset, combinations(sorted(silos), size))


def random_dropouts(trials: int, *, largest: int, seed: int) -> None:
    """Up to n - t dropouts at random exchanges, colluders and all, complete graphs and rings."""
    rng = np.random.default_rng(seed)
    for _ in range(trials):
        n = int(rng.integers(3, largest + 1))
        colluding = int(rng.integers(0, max(1, n // 4)))
        threshold = int(rng.integers(least_threshold(n, colluding), n + 1))
        terms = terms_of(identities(n), threshold=threshold, colluding=colluding, bits=int(rng.integers(8, 40)))
        gone = rng.choice(n, int(rng.integers(0, n - threshold + 1)), replace=False)
        drops = {int(i): int(rng.integers(0, NEVER)) for i in gone}
        inputs = inputs_of(terms, seed=int(rng.integers(2**32)))
        round_ = Round(identities(n), terms, drops=drops)
        np.testing.assert_array_equal(round_.run(inputs), round_.survivors(inputs))
        assert set(range(n)) - {i for i, step in drops.items() if step <= UP.index("input")} == {
            i for i in range(n) if identities(n)[i].public_key in round_.server.inputs.survivors
        }


def test_random_dropouts() -> None:
    random_dropouts(40, largest=12, seed=0)


@pytest.mark.soak
def test_random_dropouts_of_a_thousand_rounds() -> None:
    random_dropouts(970, largest=12, seed=1)
    random_dropouts(30, largest=60, seed=2)


@pytest.mark.soak
@pytest.mark.parametrize("n", [*range(3, 33, 4), 33, 40, 50, 64, 80, 100])
def test_every_size(n: int) -> None:
    terms = terms_of(identities(n), threshold=max(least_threshold(n, 0), n * 4 // 5))
    inputs = inputs_of(terms, seed=n)
    np.testing.assert_array_equal(Round(identities(n), terms).run(inputs), inputs.sum(0))


def test_a_secret_with_too_few_holders_left_stays_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small ring of four neighbours each, four of five holders must stay: who drops out decides."""
    narrow = Neighbourhood(degree=4, shares=4)
    monkeypatch.setattr("recsys_fed.federation.secure_aggregation.neighbours.neighbourhood", lambda **_: narrow)
    keys = identities(9)
    terms = terms_of(keys, threshold=7)
    inputs = inputs_of(terms)
    round_ = Round(keys, terms)
    round_.keys_step()
    round_.shares_step()
    round_.input_step(inputs)
    round_.confirmation_step()
    place = round_.server.inputs.roster.ring.places
    order = sorted(range(9), key=lambda i: place[keys[i].public_key])
    alone = round_.fork({order[0]: UP.index("unmasking")})
    np.testing.assert_array_equal(alone.unmasking_step(), inputs.sum(0))
    together = round_.fork({order[0]: UP.index("unmasking"), order[1]: UP.index("unmasking")})
    with pytest.raises(TooFewSurvivorsError, match="Expected 4 holders of silo"):
        together.unmasking_step()
