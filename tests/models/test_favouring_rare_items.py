"""Recommending rarer items: the same users, other scores, nothing where nothing is asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import json_of, run_command
from scipy import sparse

from recsys_fed.config import FederationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.schedule import begin
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import FoldIn, ItemEmbeddings, favour_rare_items, scores, user_vectors

N_ITEMS = 30


def model():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(N_ITEMS, 4, generator=generator) * torch.linspace(0, 3, N_ITEMS)[:, None]
    return ItemEmbeddings(
        vectors=vectors, bias=torch.rand(N_ITEMS, generator=generator),
        history_weights=torch.rand(N_ITEMS, generator=generator), fold_in=FoldIn(kind="projection"),
        catalogue_hash="c",
    )  # fmt: skip


HISTORIES = sparse.random(6, N_ITEMS, density=0.4, random_state=1, format="csr", data_rvs=np.ones)


def test_a_share_of_nothing_is_the_model_itself():
    given = model()
    assert favour_rare_items(given, 0.0) is given


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_scores_are_divided_by_the_length_of_rows(share):
    given = replace(model(), bias=torch.zeros(N_ITEMS))
    users = histories_of(HISTORIES.astype(np.float32))
    before = scores(given, user_vectors(given, users))
    found = favour_rare_items(given, share)
    after = scores(found, user_vectors(found, users))
    lengths = given.vectors.norm(dim=1)
    expected = before / torch.where(lengths > 0, lengths, 1.0) ** share
    # A user's vector is divided by the length of the weights, which is one factor a user.
    factor = (after * expected).sum(1, keepdim=True) / expected.square().sum(1, keepdim=True)
    torch.testing.assert_close(after, factor * expected, rtol=1e-4, atol=1e-5)
    assert (factor > 0).all()


def test_an_empty_history_keeps_its_order_and_a_rare_item_comes_nearer():
    given = model()
    found = favour_rare_items(given, 0.5)
    assert torch.equal(found.bias.argsort(), given.bias.argsort())
    ratio = found.vectors.norm(dim=1)[1:] / given.vectors.norm(dim=1)[1:]
    assert torch.equal(ratio.argsort(descending=True), given.vectors.norm(dim=1)[1:].argsort())


def test_what_is_no_sum_of_rows_is_refused_before_the_first_round():
    with pytest.raises(ConfigurationError, match="long-tail"):
        favour_rare_items(replace(model(), fold_in=FoldIn(kind="ridge")), 0.5)
    config = FederationConfig(trainer="dp-sgd", silos=1, declared_users=100, delta=1e-4, long_tail=0.5)
    with pytest.raises(ConfigurationError, match="long-tail"):
        begin(config, Greeting(silo="s", catalogue_hash="c", n_items=N_ITEMS), None)
    with pytest.raises(ConfigurationError, match="long_tail"):
        FederationConfig(long_tail=1.0)


def test_a_run_covers_more_of_the_catalogue():
    run = ("simulate", "--data", "generated:users=1500,items=400,interactions=30,groups=8,seed=3", "--epsilon", "inf",
           "--trainer", "spectral", "--silos", 1, "--threads", 1, "--json")  # fmt: skip
    covered = [json_of(run_command(*run, "--long-tail", share)[1])["metrics"]["coverage@20"] for share in (0, 0.5)]
    assert covered[1] > 1.1 * covered[0]
