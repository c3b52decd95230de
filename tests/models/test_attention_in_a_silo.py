"""Self-attention as a silo's own choice: added where it wins on the silo's users, and sealed."""

import math

import numpy as np
import pytest
import torch
from ordered_lists import N_ITEMS, histories_in_order

from recsys_fed.models import self_attention
from recsys_fed.models.items import FoldIn, ItemEmbeddings
from recsys_fed.models.self_attention import AttentionSettings, SelfAttention, fit_self_attention
from recsys_fed.personalisation import next_item
from recsys_fed.personalisation.next_item import NextRecipe, choose_next, fit_next_item_model, hold_out_latest
from recsys_fed.silo._own_model import pack_model, unpack_model

TINY = AttentionSettings(embedding_dim=4, layers=1, heads=1, dropout=0.0, length=5, epochs=1)


def released():
    return ItemEmbeddings(
        vectors=torch.randn(N_ITEMS, 3, generator=torch.Generator().manual_seed(0)), bias=torch.zeros(N_ITEMS),
        history_weights=torch.ones(N_ITEMS), fold_in=FoldIn(kind="projection", half_life=1.0), catalogue_hash="c",
    )  # fmt: skip


def shuffled(n_users=80):
    rng = np.random.default_rng(0)
    return histories_in_order([rng.permutation(N_ITEMS)[:4].tolist() for _ in range(n_users)])


def test_items_start_from_the_released_vectors_in_the_scale_of_a_random_start():
    vectors = released().vectors
    for dim in (4, 2):
        model = SelfAttention(N_ITEMS, AttentionSettings(embedding_dim=dim, heads=1, layers=1))
        before = model.items.weight.detach().clone()
        model.start_from(vectors)
        columns, after = min(dim, 3), model.items.weight.detach()
        expected = vectors * (0.02 / vectors.square().mean().sqrt())
        torch.testing.assert_close(after[:-1, :columns], expected[:, :columns])
        assert torch.equal(after[:, columns:], before[:, columns:])
        assert torch.equal(after[-1], before[-1])
    one, other = (fit_self_attention(shuffled(), TINY, start=start) for start in (vectors, None))
    assert not torch.equal(one.items.weight, other.items.weight)


@pytest.mark.parametrize("knows", [True, False])
def test_it_is_added_where_it_wins_on_the_silos_users_and_nowhere_else(knows, monkeypatch):
    """Users at random, of whom nothing can be known; attention knows what comes, or nothing."""
    held = hold_out_latest(shuffled(), rng=np.random.default_rng(0))
    answers = held.wanted.matrix().toarray() if knows else np.random.default_rng(1).random((80, N_ITEMS))

    def scores(model, histories):
        return torch.from_numpy(answers[: histories.n_users]).float()

    monkeypatch.setattr(next_item, "attention_scores", scores)
    plain, found = choose_next(held, released()), choose_next(held, released(), attention=TINY)
    tried = {recipe.attention_weight for recipe in found.validation} - {0.0}
    assert len(tried) > 1
    if knows:
        assert found.recipe.attention_weight
        assert found.recipe.name == "silo-trusted"
        assert found.validation[found.recipe] > plain.validation[plain.recipe]
    else:
        assert found.recipe == plain.recipe
    assert not any(recipe.attention_weight for recipe in plain.validation)


@pytest.mark.parametrize("own_weight", [0.0, 2.0, math.inf])
def test_its_scores_are_added_and_what_is_sealed_gives_the_same(own_weight):
    histories, model = shuffled(), released()
    recipe = NextRecipe(own_weight=own_weight, ease_weight=0.3, attention_weight=2.0)
    fitted = fit_next_item_model(histories, model, recipe, attention=TINY)
    without = fit_next_item_model(histories, model, NextRecipe(own_weight=own_weight, ease_weight=0.3))
    attention, spread = fitted.attention
    added = 2.0 * self_attention.attention_scores(attention, histories).numpy() / spread
    rest = fitted.scores(histories) - added
    # The released model alone is not divided by its spread.
    scale = fitted.spreads[0] if not own_weight else 1.0
    np.testing.assert_allclose(rest * scale, without.scores(histories), rtol=1e-5, atol=1e-6)
    opened = unpack_model(pack_model(fitted), model)
    assert opened.recipe == fitted.recipe
    np.testing.assert_allclose(opened.scores(histories), fitted.scores(histories), rtol=1e-6)
