"""Users who made their histories public: at no cost, weighed by their error, and refused where they would not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import run_by_hand
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue, PublicUsers
from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation import _public_users as module
from recsys_fed.federation._public_users import histories_of_public_users, with_public_users
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.schedule import begin, item_embeddings, planned_request
from recsys_fed.models.histories import histories_of

N_ITEMS = 60
IDS = np.array([f"i{item}" for item in range(N_ITEMS)], dtype=object)


def planted(n_users, seed=0):
    rng = np.random.default_rng(seed)
    likely = np.where(np.arange(N_ITEMS) % 3 == (np.arange(n_users) % 3)[:, None], 0.4, 0.05)
    return sparse.csr_matrix((rng.random((n_users, N_ITEMS)) < likely).astype(np.float32))


def with_users(train):
    of_item = tuple(tuple(column.nonzero()[0].tolist()) for column in train.toarray().T)
    return Catalogue(
        item_ids=IDS, public_users=PublicUsers(of_item=of_item, consent=("public for research",) * train.shape[0])
    )


def test_their_histories_are_those_of_the_catalogue():
    train = planted(7)
    found = histories_of_public_users(with_users(train))
    np.testing.assert_array_equal(found.matrix().toarray(), train.toarray())
    assert histories_of_public_users(Catalogue(item_ids=IDS)) is None


def test_the_mean_is_weighed_by_both_errors():
    total, public = torch.full((2, 5), 10.0), torch.full((2, 5), 1.0)
    # t^2 = 4 (100 / 20)^2 20 / 10 = 200, s^2 = 50: the public estimate of 5 counts 50 / 250.
    mean, std = with_public_users(total, 50**0.5, public=public, users=20, declared_users=100, l2_clip_norm=1.0)
    torch.testing.assert_close(mean, torch.full((2, 5), 0.8 * 10.0 + 0.2 * 5.0, dtype=torch.float64))
    assert std == pytest.approx((50 * 200 / 250) ** 0.5)
    assert with_public_users(total, 0.0, public=public, users=20, declared_users=100, l2_clip_norm=1.0) == (
        total,
        0.0,
    )


def test_the_standard_deviation_is_that_of_the_error(monkeypatch):
    """Users who each add a vector of norm 1 in a random direction: an even spread, so without the factor."""
    monkeypatch.setattr(module, "_SPREAD_SQUARED", 1.0)
    rng, n_users, n_public, entries, noise = np.random.default_rng(0), 4_000, 100, 400, 8.0
    terms = rng.standard_normal((n_users, entries))
    terms /= np.linalg.norm(terms, axis=1, keepdims=True)
    errors = []
    for _ in range(20):
        some = terms[rng.choice(n_users, n_public, replace=False)].sum(axis=0)
        noisy = terms.sum(axis=0) + noise * rng.standard_normal(entries)
        mean, std = with_public_users(
            torch.from_numpy(noisy), noise, public=torch.from_numpy(some), users=n_public, declared_users=n_users,
            l2_clip_norm=1.0,
        )  # fmt: skip
        errors.append(mean.numpy() - terms.sum(axis=0))
    assert std < 0.95 * noise
    assert np.std(errors) == pytest.approx(std, rel=0.05)


CONFIG = FederationConfig(silos=1, epsilon=1.0, delta=1e-4, declared_users=900, secure_aggregation="off")


def schedule_of(catalogue, config=CONFIG):
    greeting = Greeting(silo="silo-0", catalogue_hash=catalogue.content_hash, n_items=N_ITEMS)
    return begin(config, greeting, catalogue)


def test_they_cost_nothing_and_silos_are_asked_the_same():
    plain, helped = schedule_of(Catalogue(item_ids=IDS)), schedule_of(with_users(planted(30)))
    assert helped.noise_multiplier == plain.noise_multiplier
    for number in range(len(plain.stages)):
        first, second = planned_request(plain, number), planned_request(helped, number)
        assert vars(second) | {"catalogue_hash": ""} == vars(first) | {"catalogue_hash": ""}
    assert helped.facts.catalogue_hash != plain.facts.catalogue_hash


def test_they_help_where_the_budget_is_small():
    silo, aside = planted(900, seed=1), planted(200, seed=2)
    truth = np.arange(N_ITEMS) % 3

    def groups_told_apart(catalogue):
        done, _ = run_by_hand(schedule_of(catalogue, replace(CONFIG, epsilon=0.3)), [histories_of(silo)])
        model = item_embeddings(done)
        vectors = model.vectors.numpy() * model.history_weights.numpy()[:, None]
        alike = np.corrcoef(vectors @ vectors.T)
        return alike[truth[:, None] == truth].mean() - alike[truth[:, None] != truth].mean()

    assert groups_told_apart(with_users(aside)) > groups_told_apart(Catalogue(item_ids=IDS)) + 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "rating"}, "ratings"),
        ({"target": "next"}, "order"),
        ({"trainer": "dp-sgd", "dp_sgd": {"schedule": "local"}}, "dp-sgd"),
    ],
)
def test_trainings_that_they_do_not_fit_say_so(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        schedule_of(with_users(planted(30)), replace(CONFIG, epsilon=8.0, **settings))
