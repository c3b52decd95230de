"""Post-processing of a noisy release: each estimate against the dense formula, and against the truth it is of."""

import numpy as np
import pytest
import torch
from plain_trainers import facts_of, run
from plain_trainers import one_thread as _one_thread  # noqa: F401
from scipy import sparse, stats

from recsys_fed.trainers.spectral import Spectral
from recsys_fed.trainers.subspace import DIAGONAL_SHARE, agreeing, direction_weights, smooth, without_diagonal


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
        noisy = [c + noise_std**2 * np.eye(n) for c in covariances]
        pairs = list(zip(covariances, noisy, columns.T, strict=True))
        likelihood = sum(stats.multivariate_normal.logpdf(a, cov=total) for _, total, a in pairs)
        fits.append((likelihood, np.array([c @ np.linalg.solve(total, a) for c, total, a in pairs]).T))
    estimate = max(fits, key=lambda fit: fit[0])[1]
    return estimate @ np.linalg.svd(table, full_matrices=False)[2]


@pytest.mark.parametrize("noise_std", [0.1, 1.0, 10.0])
def test_smoothing_is_the_posterior_mean_of_the_most_likely_prior(noise_std):
    features = normal(25, 4, seed=7)
    table = features @ normal(4, 3, seed=8) + normal(25, 3, seed=9)
    found = smooth(table, features=features, noise_std=noise_std)
    np.testing.assert_allclose(found, plain_smoothed(table, features, noise_std), rtol=1e-8, atol=1e-10)


def test_smoothing_by_what_the_rows_depend_on_comes_nearer_to_the_truth():
    features = normal(300, 5, seed=10)
    truth = features @ normal(5, 4, seed=11) + 0.3 * normal(300, 4, seed=12)
    noisy = truth + 2 * normal(300, 4, seed=13)
    error = float((smooth(noisy, features=features, noise_std=2.0) - truth).norm())
    assert error < 0.4 * float((noisy - truth).norm())
    # Features that say nothing must not do harm: the prior's scales are fitted.
    foreign = smooth(noisy, features=normal(300, 5, seed=14), noise_std=2.0)
    assert float((foreign - truth).norm()) < float((noisy - truth).norm())


@pytest.mark.parametrize(
    ("table", "features", "noise_std"),
    [(normal(5, 2), normal(5, 3), 0.0), (normal(5, 2), torch.zeros(5, 3).double(), 1.0),
     (normal(5, 2), normal(5, 0), 1.0), (normal(5, 0), normal(5, 3), 1.0)],
)  # fmt: skip
def test_without_noise_or_features_there_is_nothing_to_smooth(table, features, noise_std):
    assert torch.equal(smooth(table, features=features, noise_std=noise_std), table)


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


@pytest.mark.parametrize("strength", [0.5, 2.0, 6.0])
def test_directions_count_by_how_far_they_stand_out_of_the_noise(strength):
    """One planted direction of a large matrix; of noise alone sigma^2 is hardly above the number of rows."""
    n_rows, k = 3_000, 30
    rng = np.random.default_rng(int(10 * strength))
    planted = np.outer(unit(rng.standard_normal(n_rows)), np.eye(k)[0]) * strength * n_rows**0.5
    singular = np.linalg.svd(planted + rng.standard_normal((n_rows, k)), compute_uv=False)
    weights = direction_weights(torch.from_numpy(singular), n_rows=n_rows)
    assert float(weights[0]) == pytest.approx((strength**2 / (1 + strength**2)) ** 0.4, abs=0.12)
    assert float(weights[3:].max()) < 0.6
    assert torch.equal(direction_weights(torch.zeros(2).double(), n_rows=5), torch.zeros(2).double())


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("featured", [False, True])
def test_directions_are_weighed_under_noise_and_without_features_only(featured):
    matrices = [(np.random.default_rng(0).random((300, 60)) < 0.2).astype(float)]
    features = sparse.csr_matrix(np.eye(3)[np.arange(60) % 3]) if featured else None
    for noise in (0.0, 2.0):
        facts = facts_of(60, declared_users=300, noise_level=noise or 1e-3, features=features)
        useful = run(Spectral(), facts, matrices, noise_multiplier=noise)[-1].useful
        assert bool((useful < 1).any()) is (noise > 0 and not featured)
        assert 0 <= float(useful.min()) <= float(useful.max()) <= 1
