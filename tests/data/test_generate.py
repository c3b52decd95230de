import numpy as np
import pytest
from scipy.sparse.linalg import svds

from recsys_fed.data.generate import generate
from recsys_fed.data.silo import histories
from recsys_fed.data.split import split
from recsys_fed.errors import ConfigurationError


def _recall_at_20(score, train, test):
    score = np.where(train.toarray() > 0, -np.inf, score)
    top = np.argpartition(-score, 20, axis=1)[:, :20]
    hits = np.take_along_axis(test.toarray(), top, axis=1).sum(axis=1)
    relevant = np.asarray(test.sum(axis=1)).ravel()
    return float((hits[relevant > 0] / relevant[relevant > 0]).mean())


def test_a_model_that_finds_the_structure_beats_popularity():
    dataset = generate(n_users=1_500, n_items=600, mean_interactions=50, n_groups=12, seed=3)
    mask = split(dataset, rng=np.random.default_rng(0))
    train, test = (histories(dataset.interactions, dataset.catalogue, m) for m in (~mask, mask))
    popularity = np.tile(np.asarray(train.sum(axis=0)).ravel(), (train.shape[0], 1))
    u, s, vt = svds(train.astype(np.float64), k=12, v0=np.ones(min(train.shape)))
    by_popularity = _recall_at_20(popularity, train, test)
    by_structure = _recall_at_20((u * s) @ vt, train, test)
    by_chance = 20 / 600
    assert by_popularity > 2 * by_chance
    assert by_structure > 1.3 * by_popularity


def test_the_seed_decides():
    def items(seed):
        return generate(n_users=50, n_items=40, mean_interactions=5, seed=seed).interactions.item.tolist()

    assert items(1) == items(1)
    assert items(1) != items(2)


def test_activity_and_popularity_have_long_tails():
    interactions = generate(n_users=4_000, n_items=4_000, mean_interactions=60).interactions
    sizes = np.bincount(interactions.user, minlength=4_000)
    # MovieLens-1M: mean / median = 165 / 96 = 1.72.
    assert sizes.mean() == pytest.approx(60, rel=0.1)
    assert sizes.mean() / np.median(sizes) == pytest.approx(1.72, rel=0.1)
    assert sizes.min() >= 1
    counts = np.sort(np.bincount(interactions.item, minlength=4_000))[::-1]
    assert counts[:400].sum() > 0.35 * counts.sum()
    assert counts[:400].sum() < 0.9 * counts.sum()


def test_nobody_has_an_item_twice_and_times_are_times():
    interactions = generate(n_users=300, n_items=50, mean_interactions=15).interactions
    pairs = interactions.user.astype(np.int64) * 50 + interactions.item
    assert len(np.unique(pairs)) == len(pairs)
    assert interactions.time.min() > 10**18
    assert interactions.time.max() < 4 * 10**18


def test_categories_name_the_planted_groups():
    dataset = generate(n_users=2_000, n_items=100, mean_interactions=20, n_groups=4, seed=5)
    first = np.array([entry[0] for entry in dataset.catalogue.categories], dtype=object)
    assert len(set(first)) == 4
    train = histories(dataset.interactions, dataset.catalogue)
    together = (train.T @ train).toarray()
    np.fill_diagonal(together, 0)
    counts = np.asarray(train.sum(axis=0)).ravel()
    lift = together / np.outer(counts, counts)
    same = first[:, None] == first[None, :]
    np.fill_diagonal(same, False)
    assert lift[same].mean() > 1.2 * lift[~same].mean()


@pytest.mark.parametrize(("n_users", "n_items"), [(1, 1), (5, 1), (1, 30), (3, 2)])
def test_the_smallest_sizes_work(n_users, n_items):
    dataset = generate(n_users=n_users, n_items=n_items, mean_interactions=3)
    assert dataset.catalogue.n_items == n_items
    assert set(dataset.interactions.user.tolist()) == set(range(n_users))


def test_more_groups_than_names_and_items_are_fine():
    assert len(set(generate(n_users=5, n_items=60, n_groups=60).catalogue.categories)) >= 60
    assert generate(n_users=5, n_items=10, n_groups=60).catalogue.n_items == 10


def test_bad_sizes_are_refused():
    with pytest.raises(ConfigurationError, match="n_users to be an integer >= 1, got 0"):
        generate(n_users=0)
    with pytest.raises(ConfigurationError, match="mean_interactions > 0, got 0"):
        generate(mean_interactions=0)


def test_a_large_catalogue_gets_the_interactions_asked_for():
    dataset = generate(n_users=2_000, n_items=27_000, mean_interactions=145)
    assert len(dataset.interactions) > 250_000
