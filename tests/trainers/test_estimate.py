"""Post-processing of a noised release: each estimate against the dense formula, and against the truth it is of."""

import numpy as np
import pytest
import torch
from plain_trainers import facts_of, run
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import sparse, stats

from recsys_fed.trainers.spectral import Spectral, size
from recsys_fed.trainers.subspace import DIAGONAL_SHARE, agreeing, reliability, smoothed, without_diagonal


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def basis(rows, columns, *, seed=0):
    return torch.linalg.qr(normal(rows, columns, seed=seed)).Q


def test_the_diagonal_takes_its_share_of_the_trace_and_follows_occurrence():
    asked, occurrence = basis(30, 4), normal(30, seed=1).abs()
    factors = normal(30, 6, seed=2)
    table = factors @ (factors.T @ asked)
    left = without_diagonal(table, asked=asked, occurrence=occurrence)
    assert float((asked * left).sum()) == pytest.approx((1 - DIAGONAL_SHARE) * float((asked * table).sum()))
    ratio = (table - left) / asked
    torch.testing.assert_close(ratio / ratio[0], (occurrence / occurrence[0])[:, None].expand(30, 4))
    # The scale of occurrence does not matter.
    torch.testing.assert_close(without_diagonal(table, asked=asked, occurrence=7 * occurrence), left)


@pytest.mark.parametrize("occurrence", [0.0, 1.0])
def test_noise_alone_has_no_diagonal_to_take_away(occurrence):
    asked = basis(10, 3)
    table = -asked if occurrence else normal(10, 3, seed=4)
    counts = torch.full((10,), occurrence, dtype=torch.float64)
    assert torch.equal(without_diagonal(table, asked=asked, occurrence=counts), table)


def test_directions_of_negative_eigenvalues_do_not_agree():
    vectors = basis(20, 3, seed=5)
    matrix = vectors @ torch.diag(torch.tensor([5.0, -2.0, 1.0], dtype=torch.float64)) @ vectors.T
    asked = basis(20, 3, seed=6)
    table = matrix @ asked
    left = torch.linalg.svd(table, full_matrices=False).U
    asked = left  # a second iteration, from the first one's basis
    table = matrix @ asked
    left = torch.linalg.svd(table, full_matrices=False).U
    signs = torch.stack([u @ matrix @ u for u in left.T])
    assert agreeing(left, table, asked=asked).tolist() == (signs > 0).tolist()
    assert sorted(agreeing(left, table, asked=asked).tolist()) == [False, True, True]


def plain_smoothed(table, features, noise_std):
    """The same model with dense covariances and scipy's densities."""
    table, features = table.numpy(), features.numpy()
    n = len(table)
    columns = table @ np.linalg.svd(table, full_matrices=False)[2].T
    outer = features @ features.T
    outer *= n / np.trace(outer)
    levels = np.maximum((columns**2).mean(axis=0) - noise_std**2, 0.02 * noise_std**2)
    fits = []
    for share in (0.1, 0.2, 0.35, 0.5, 0.7, 0.9):
        covariances = [level * ((1 - share) * outer + share * np.eye(n)) for level in levels]
        noised = [c + noise_std**2 * np.eye(n) for c in covariances]
        pairs = list(zip(covariances, noised, columns.T, strict=True))
        likelihood = sum(stats.multivariate_normal.logpdf(a, cov=total) for _, total, a in pairs)
        fits.append((likelihood, np.array([c @ np.linalg.solve(total, a) for c, total, a in pairs]).T))
    estimate = max(fits, key=lambda fit: fit[0])[1]
    return estimate @ np.linalg.svd(table, full_matrices=False)[2]


@pytest.mark.parametrize("noise_std", [0.1, 1.0, 10.0])
def test_smoothing_is_the_posterior_mean_of_the_most_likely_prior(noise_std):
    features = normal(25, 4, seed=7)
    table = features @ normal(4, 3, seed=8) + normal(25, 3, seed=9)
    found = smoothed(table, features=features, noise_std=noise_std)
    np.testing.assert_allclose(found, plain_smoothed(table, features, noise_std), rtol=1e-8, atol=1e-10)


def test_smoothing_by_what_the_rows_depend_on_comes_nearer_to_the_truth():
    features = normal(300, 5, seed=10)
    truth = features @ normal(5, 4, seed=11) + 0.3 * normal(300, 4, seed=12)
    noised = truth + 2 * normal(300, 4, seed=13)
    error = float((smoothed(noised, features=features, noise_std=2.0) - truth).norm())
    assert error < 0.4 * float((noised - truth).norm())
    # Features that say nothing must not do harm: the prior's scales are fitted.
    foreign = smoothed(noised, features=normal(300, 5, seed=14), noise_std=2.0)
    assert float((foreign - truth).norm()) < float((noised - truth).norm())


@pytest.mark.parametrize(
    ("table", "features", "noise_std"),
    [(normal(5, 2), normal(5, 3), 0.0), (normal(5, 2), torch.zeros(5, 3).double(), 1.0),
     (normal(5, 2), normal(5, 0), 1.0), (normal(5, 0), normal(5, 3), 1.0)],
)  # fmt: skip
def test_without_noise_or_features_there_is_nothing_to_smooth(table, features, noise_std):
    assert torch.equal(smoothed(table, features=features, noise_std=noise_std), table)


def test_items_outside_the_head_are_ranked_by_their_public_features():
    rng = np.random.default_rng(0)
    n_items, group, kinds = 90, np.arange(90) % 3, np.arange(400) % 3
    often = np.where(np.arange(n_items) < 50, 0.5, 0.02)
    matrix = ((group == kinds[:, None]) & (rng.random((400, n_items)) < often)).astype(float)
    facts = facts_of(n_items, features=sparse.csr_matrix(np.eye(3)[group]), declared_users=400, noise_level=300.0)
    states = run(Spectral(), facts, [matrix])
    model = Spectral().item_embeddings(states[-1])
    rare = np.setdiff1d(np.arange(50, n_items), states[-1].popularity.head.numpy())
    assert len(rare) >= 30
    for kind in range(3):
        user = model.vectors[torch.from_numpy(np.flatnonzero(group == kind)[:5])].sum(0)
        public = (model.vectors[rare] @ user).numpy()
        assert public[group[rare] == kind].min() > public[group[rare] != kind].max()


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0, 6.0])
def test_reliability_is_how_near_a_direction_is_to_the_truth(strength):
    """One planted direction of a large matrix, of a strength relative to the level from which it can be seen."""
    n_rows, k, noise_std = 3_000, 30, 0.7
    aspect, found = k / n_rows, []
    rng = np.random.default_rng(int(10 * strength))
    for _ in range(10):
        truth = rng.standard_normal(n_rows)
        truth /= np.linalg.norm(truth)
        right = np.zeros(k)
        right[0] = strength * aspect**0.25 * noise_std * n_rows**0.5
        noisy = np.outer(truth, right) + noise_std * rng.standard_normal((n_rows, k))
        left, singular, _ = np.linalg.svd(noisy, full_matrices=False)
        said = reliability(torch.from_numpy(singular), n_rows=n_rows, noise_std=noise_std)
        found.append((float(said[0]), float((left[:, 0] @ truth) ** 2)))
        # What is noise alone is hardly above the edge, if at all.
        assert float(said[3:].max()) < 0.1
    said, true = np.mean(found, axis=0)
    assert abs(said - true) < (0.12 if strength <= 1 else 0.03)


def test_where_the_noise_is_large_directions_count_less_and_elsewhere_as_before():
    matrices = [(np.random.default_rng(0).random((300, 60)) < 0.2).astype(float)]
    for level, weighted in ((1e-3, False), (2.0, True)):
        facts = facts_of(60, declared_users=300, noise_level=level)
        assert size(facts).weighted is weighted
        useful = run(Spectral(), facts, matrices, noise_multiplier=level)[-1].useful
        between = (useful > 0) & (useful < 1)
        assert bool(between.any()) is weighted
        assert float(useful.max()) <= 1
