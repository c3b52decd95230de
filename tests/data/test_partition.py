import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.simulated import METHODS, _group_items, _group_users, dirichlet, equal, partition, zipf
from recsys_fed.errors import ConfigurationError


def _rng(seed=0):
    return np.random.default_rng(seed)


def _checkerboard(n_users=40, n_items=12):
    """Even users like even items, odd users odd ones."""
    matrix = (np.arange(n_users)[:, None] + np.arange(n_items)[None, :]) % 2 == 0
    return sparse.csr_matrix(matrix.astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(
    n_users=st.integers(12, 30),
    n_silos=st.integers(1, 12),
    method=st.sampled_from(sorted(METHODS)),
    alpha=st.sampled_from([1e-3, 1.0, 1e6]),
)
def test_every_user_is_in_exactly_one_silo(n_users, n_silos, method, alpha):
    matrix = _checkerboard(n_users)
    silos = partition(matrix, method=method, n_silos=n_silos, rng=_rng(), alpha=alpha)
    assert len(silos) == n_silos
    assert all(silo.dtype == np.int64 and (np.diff(silo) > 0).all() for silo in silos)
    assert np.sort(np.concatenate(silos)).tolist() == list(range(n_users))


@pytest.mark.parametrize("method", [equal, zipf])
def test_silos_are_empty_only_if_there_are_too_few_users(method):
    assert [len(silo) for silo in method(2, n_silos=4, rng=_rng())] == [1, 1, 0, 0]
    assert min(len(silo) for silo in method(7, n_silos=7, rng=_rng())) == 1


def test_equal_silos_differ_by_one_user_at_most():
    assert sorted(len(silo) for silo in equal(11, n_silos=4, rng=_rng())) == [2, 3, 3, 3]


def test_zipf_sizes_follow_the_law():
    sizes = [len(silo) for silo in zipf(11_000, n_silos=4, rng=_rng(), exponent=1.0)]
    assert sizes == pytest.approx([5_280, 2_640, 1_760, 1_320], abs=3)
    assert [len(silo) for silo in zipf(100, n_silos=4, rng=_rng(), exponent=0.0)] == [25] * 4


def test_the_seed_decides_who_goes_where():
    first, again, other = (
        [part.tolist() for part in partition(_checkerboard(), n_silos=3, rng=_rng(seed))] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_small_alpha_parts_the_tastes_and_a_large_one_mixes_them():
    groups = np.arange(4_000) % 4

    def unevenness(alpha):
        silos = dirichlet(groups, n_silos=5, rng=_rng(), alpha=alpha)
        counts = np.array([np.bincount(groups[silo], minlength=4) for silo in silos])
        return np.abs(counts / 1_000 - 0.2).max()

    assert unevenness(1e4) < 0.06
    assert unevenness(0.05) > 0.5


def test_tastes_come_from_the_first_category_where_there_are_any():
    ids = np.array(["a", "b", "c"], dtype=object)
    catalogue = Catalogue(item_ids=ids, categories=(("x", "y"), ("y",), ("x",)))
    groups = _group_items(_checkerboard(2, 3), catalogue, rng=_rng())
    assert groups.tolist() == [0, 1, 0]
    histories = sparse.csr_matrix(np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=np.float32))
    # Overall three of five interactions are in x: one of two in x is a taste for y.
    assert _group_users(histories, groups).tolist() == [0, 1, 1, 0]


def test_without_categories_the_interactions_tell_the_tastes_apart():
    matrix = _checkerboard()
    groups = _group_items(matrix, None, rng=_rng())
    assert len(set(groups[::2])) == len(set(groups[1::2])) == 1
    assert groups[0] != groups[1]
    tastes = _group_users(matrix, groups)
    assert len(set(tastes[::2])) == len(set(tastes[1::2])) == 1
    assert tastes[0] != tastes[1]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_as_many_silos_as_users_are_the_most(method):
    assert len(partition(_checkerboard(7), method=method, n_silos=7, rng=_rng())) == 7
    with pytest.raises(ConfigurationError, match=r"has 7 users; got 8 silos. Ask for 7 silos or fewer"):
        partition(_checkerboard(7), method=method, n_silos=8, rng=_rng())


def test_no_user_at_all_is_for_others_to_judge():
    assert [len(silo) for silo in partition(_checkerboard(0), n_silos=1, rng=_rng())] == [0]


def test_bad_settings_are_refused():
    with pytest.raises(ConfigurationError, match="one of dirichlet, equal, zipf"):
        partition(_checkerboard(), method="fair", n_silos=2, rng=_rng())
    with pytest.raises(ConfigurationError, match="n_silos to be an integer >= 1, got 0"):
        partition(_checkerboard(), n_silos=0, rng=_rng())
    with pytest.raises(ConfigurationError, match="alpha > 0, got 0"):
        partition(_checkerboard(), method="dirichlet", n_silos=2, rng=_rng(), alpha=0.0)
    with pytest.raises(ConfigurationError, match="exponent >= 0, got -1"):
        partition(_checkerboard(), method="zipf", n_silos=2, rng=_rng(), exponent=-1.0)
