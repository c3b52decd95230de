"""Rings of neighbours: the bounds hold where they can be simulated, and colluding silos cannot cut them."""

from collections.abc import Collection
from itertools import combinations

import numpy as np
import pytest

from recsys_fed.federation.secure_aggregation import neighbours
from recsys_fed.federation.secure_aggregation.errors import TooFewSurvivorsError
from recsys_fed.federation.secure_aggregation.neighbours import (
    Neighbourhood,
    Ring,
    check_spread,
    neighbourhood,
    ring_of,
)


def names(n: int) -> list[str]:
    return [f"{i:064x}" for i in range(n)]


def test_up_to_32_silos_everybody_is_a_neighbour() -> None:
    for n in (3, 10, 32):
        found = neighbourhood(n_silos=n, threshold=n // 2 + 1, colluding=0)
        assert (found.degree, found.shares) == (n - 1, n // 2 + 1)
    assert neighbourhood(n_silos=100, threshold=80, colluding=0).degree < 99


def test_neighbours_are_mutual_as_many_as_said_and_decided_by_the_seed() -> None:
    silos = names(100)
    ring = ring_of(silos, seed=b"a", threshold=80, colluding=5)
    for silo in silos:
        neighbours = ring.neighbours(silo)
        assert len(neighbours) == ring.neighbourhood.degree
        assert silo not in neighbours
        assert all(silo in ring.neighbours(other) for other in neighbours)
    assert ring_of(reversed(silos), seed=b"a", threshold=80, colluding=5) == ring
    assert ring_of(silos, seed=b"b", threshold=80, colluding=5).order != ring.order


@pytest.mark.parametrize(("n", "threshold", "colluding"), [(40, 32, 4), (60, 41, 6), (100, 80, 10), (200, 150, 0)])
def test_declared_colluders_never_hold_enough_shares(n: int, threshold: int, colluding: int) -> None:
    found = neighbourhood(n_silos=n, threshold=threshold, colluding=colluding)
    assert found.shares > colluding
    assert found.shares <= found.degree + 1
    assert found.privacy_failure < 2**-40
    assert found.completion_failure < 2**-30


def test_the_bounds_are_those_of_a_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """With failures allowed that a simulation can see, it sees no more of them than the bounds say, and some."""
    n, threshold, colluding = 60, 48, 0
    strict = neighbourhood(n_silos=n, threshold=threshold, colluding=colluding)
    monkeypatch.setattr(neighbours, "PRIVACY_FAILURE", 0.2)
    monkeypatch.setattr(neighbours, "COMPLETION_FAILURE", 0.2)
    found = neighbourhood.__wrapped__(n_silos=n, threshold=threshold, colluding=colluding)
    assert found.degree < strict.degree
    rng, half, trials = np.random.default_rng(0), found.degree // 2, 1000
    leaks = stuck = 0
    for _ in range(trials):
        place = rng.permutation(n)
        corrupt, alive = place < n // 3, rng.permutation(n) < threshold
        steps = [*range(-half, 0), *range(1, half + 1)]
        around = [np.roll(corrupt, step) for step in steps]
        leaks += bool((np.sum(around, axis=0)[~corrupt] >= found.shares).any())
        left = np.sum([np.roll(alive, step) for step in steps], axis=0)
        stuck += bool((left < found.shares).any())
    assert 0 < leaks <= (found.privacy_failure + 0.03) * trials
    assert 0 < stuck <= (found.completion_failure + 0.03) * trials


def test_survivors_that_pass_hang_together_without_any_colluders() -> None:
    """All ways to take c silos away from a small ring, against a plain search through the graph."""
    rng = np.random.default_rng(0)
    ring = Ring(order=tuple(names(12)), neighbourhood=Neighbourhood(degree=4, shares=2))
    passed = refused = 0
    for _ in range(300):
        colluding = int(rng.integers(0, 3))
        survivors = {silo for silo in ring.order if rng.random() < 0.75}
        try:
            check_spread(ring, survivors, colluding=colluding)
        except TooFewSurvivorsError:
            refused += 1
            continue
        passed += 1
        for removed in subsets_of(sorted(survivors), colluding):
            assert connected(ring, survivors - set(removed))
    assert passed > 30
    assert refused > 30


def subsets_of(silos: list[str], size: int) -> list[tuple[str, ...]]:
    return list(combinations(silos, size))


def connected(ring: Ring, silos: Collection[str]) -> bool:
    left, queue = set(silos), [next(iter(silos))]
    while queue:
        at = queue.pop()
        if at in left:
            left.discard(at)
            queue += ring.neighbours(at) & left
    return not left


def test_a_ring_in_two_pieces_is_refused() -> None:
    ring = Ring(order=tuple(names(12)), neighbourhood=Neighbourhood(degree=4, shares=2))
    gone = {ring.order[i] for i in (0, 1, 6, 7)}
    assert not connected(ring, set(ring.order) - gone)
    with pytest.raises(TooFewSurvivorsError, match="2 silos in a row"):
        check_spread(ring, set(ring.order) - gone, colluding=0)
    check_spread(ring, set(ring.order) - {ring.order[0]}, colluding=0)
    with pytest.raises(TooFewSurvivorsError):
        check_spread(ring, set(ring.order) - {ring.order[0]}, colluding=2)
