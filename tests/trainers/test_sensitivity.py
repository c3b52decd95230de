"""Adding or removing one user changes what a silo half computes by at most the clip norm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_trainers import from_dense
from plain_trainers import one_thread as _one_thread  # noqa: F401

from recsys_fed.trainers import popularity
from recsys_fed.trainers.dp_sgd import DPSGD, GRADIENT
from recsys_fed.trainers.popularity import PopularItems
from recsys_fed.trainers.rank_one import RankOneContributions, clipped_sum
from recsys_fed.trainers.registry import Auto
from recsys_fed.trainers.spectral import COOCCURRENCE, SUBSPACE, Spectral
from recsys_fed.trainers.subspace import orthonormal

HOW = {"unobserved_weight": 0.3, "regularization": 1.0, "learning_rate": 0.1}
# Rounding of sums in float32: a part in a million of what is summed.
SLACK = 2e-6


def history(kind, n_items, rng):
    """One user's row: nothing, one item, everything, or some of it."""
    row = np.zeros(n_items)
    if kind == "one item":
        row[rng.integers(n_items)] = 1
    elif kind == "all items":
        row[:] = 1
    elif kind == "some items":
        row[:] = rng.random(n_items) < 0.4
    return row


kinds = st.sampled_from(["empty", "one item", "all items", "some items"])


@st.composite
def neighbours(draw):
    """A silo without and with one user, and tables that a server might send: [n_items] from 1 to 12."""
    n_items = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    others = [history(draw(kinds), n_items, rng) for _ in range(draw(st.integers(0, 4)))]
    user = history(draw(kinds), n_items, rng)
    place = draw(st.integers(0, len(others)))
    without = np.array(others).reshape(len(others), n_items)
    together = np.insert(without, place, user, axis=0)
    # Popularity from level to steep: on level popularity, who has everything is parallel to it.
    counts = torch.from_numpy(rng.pareto(1.0, n_items) * draw(st.sampled_from([0.0, 1e-3, 1.0])) + 1.0)
    return without, together, counts, rng


def spectral_tables(counts, rng):
    known = popularity.NoisyPopularity(counts=counts, head=torch.arange(len(counts)))
    dim = min(3, len(counts))
    return {
        "head": known.head,
        "damping": known.damping.float(),
        "direction": known.direction.float(),
        "subspace": orthonormal(
            torch.from_numpy(rng.standard_normal((len(counts), dim))), against=known.direction
        ).float(),
    }


def cooccurrence_tables(counts, rng):
    tables = spectral_tables(counts, rng)
    del tables["subspace"]
    return tables


def gradient_tables(counts, rng):
    return {
        "head": torch.arange(len(counts)),
        "vectors": torch.from_numpy(rng.standard_normal((len(counts), 3))).float(),
    }


TRAINERS = {
    "counts": (Spectral(), popularity.STAGE, lambda counts, rng: {}),
    "popularity": (PopularItems(), popularity.STAGE, lambda counts, rng: {}),
    "auto, counts": (Auto(), popularity.STAGE, lambda counts, rng: {}),
    "auto, subspace": (Auto(), SUBSPACE, spectral_tables),
    "spectral": (Spectral(), SUBSPACE, spectral_tables),
    "co-occurrence": (Spectral(), COOCCURRENCE, cooccurrence_tables),
    "gradient": (DPSGD(), GRADIENT, gradient_tables),
}


@pytest.mark.parametrize("name", TRAINERS)
@settings(max_examples=150, deadline=None)
@given(silo=neighbours(), l2_clip_norm=st.sampled_from([0.5, 1.0, 20.0]))
def test_one_user_more_or_less_changes_the_sum_by_at_most_the_clip_norm(name, silo, l2_clip_norm):
    without, together, counts, rng = silo
    trainer, stage, tables_of = TRAINERS[name]
    tables, settings = tables_of(counts, rng), HOW | {"l2_clip_norm": l2_clip_norm}
    one, other = (
        trainer.contribution(stage, tables, from_dense(matrix), settings=settings).double()
        for matrix in (without, together)
    )
    assert (other - one).norm() <= l2_clip_norm * (1 + SLACK * len(together) + 2e-5)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), exponent=st.floats(-9, 0), size=st.floats(-18, 6))
def test_parts_that_cancel_do_not_break_the_bound(seed, exponent, size):
    """x_u almost along the popularity: what is left of the two parts is little, or rounding alone."""
    rng = np.random.default_rng(seed)
    n_items = int(rng.integers(2, 60))
    direction = np.abs(rng.standard_normal(n_items)) + 0.1
    direction /= np.linalg.norm(direction)
    values = torch.from_numpy(direction * (1 + 10**exponent * rng.standard_normal(n_items))).float()
    basis = torch.from_numpy(direction).float()[:, None]
    batch = RankOneContributions(
        histories=from_dense(np.ones((1, n_items))),
        values=values,
        basis=basis,
        coefficients=-(values @ basis).reshape(1, 1),
        right=torch.from_numpy(rng.standard_normal((1, 3)) * 10**size).float(),
    )
    for mode in ("flat", "automatic"):
        assert clipped_sum(batch, l2_clip_norm=1.0, mode=mode).double().norm() <= 1 + 1e-4


hostile = st.sampled_from([0.0, 1e-45, 1e-39, 1e-30, 1e-20, 1.0, 1e10, 1e20, 1e38, float("inf"), float("nan")])


@pytest.mark.parametrize("name", ["spectral", "co-occurrence", "gradient"])
@settings(max_examples=300, deadline=None)
@given(silo=neighbours(), scales=st.tuples(hostile, hostile, hostile), first_only=st.booleans())
def test_tables_of_a_hostile_server_do_not_break_the_bound(name, silo, scales, first_only):
    """What a user adds stays bounded, and finite where it was finite without the user."""
    without, together, counts, rng = silo
    trainer, stage, tables_of = TRAINERS[name]
    tables = tables_of(counts, rng)
    for scale, key in zip(scales, [key for key in tables if key != "head"], strict=False):
        tables[key] = tables[key].clone()
        tables[key][: 1 if first_only else None] *= scale
    one, other = (
        trainer.contribution(stage, tables, from_dense(matrix), settings=HOW | {"l2_clip_norm": 1.0}).double()
        for matrix in (without, together)
    )
    assert torch.equal(one.isfinite(), other.isfinite())
    assert (other - one).nan_to_num(0.0).norm() <= 1 + 1e-3
