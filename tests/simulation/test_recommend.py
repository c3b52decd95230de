"""Recommendations for a history typed in by hand, from the files of a run."""

import shutil

import numpy as np
import pytest
import torch
from small_run import small_run

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.models.items import load_item_embeddings
from recsys_fed.simulation.recommender import recommend_from_run

N_ITEMS = 40


@pytest.fixture(scope="module", params=["spectral", "dp-sgd"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rounds = 0 if request.param == "spectral" else 8
    small_run(folder, trainer=request.param, rounds=rounds, epsilon=float("inf"))
    return folder


def listed(result) -> list[str]:
    return [row["item"] for row in result["recommendations"]]


def test_the_list_is_long_enough_ordered_and_new(run):
    result = recommend_from_run(run, ["3", "5", "8"], k=7)
    scores = [row["score"] for row in result["recommendations"]]
    assert len(set(listed(result))) == 7
    assert not {"3", "5", "8"} & set(listed(result))
    assert scores == sorted(scores, reverse=True)
    assert [row["rank"] for row in result["recommendations"]] == list(range(1, 8))


def test_titles_come_from_the_catalogue(run):
    catalogue = Catalogue.load(run / "catalogue.parquet")
    result = recommend_from_run(run, ["3"], k=3)
    for row in result["history"] + result["recommendations"]:
        assert row["title"] == catalogue.titles[int(row["item"])] != ""
    assert [row["item"] for row in result["history"]] == ["3"]


def test_scores_are_those_of_the_model_by_hand(run):
    """v_i u + b_i, with u as the model's own fold-in prescribes."""
    model = load_item_embeddings(run / "item_embeddings.safetensors")
    rows = torch.tensor([3, 5])
    vectors, weights = model.vectors.double()[rows], model.history_weights.double()[rows]
    user = vectors.T @ weights
    if model.fold_in.kind == "projection":
        user = user / weights.norm()
    else:
        gramian = model.fold_in.unobserved_weight * model.vectors.double().T @ model.vectors.double()
        normal = gramian + (vectors.T * weights) @ vectors
        normal += model.fold_in.regularization * torch.eye(len(user), dtype=torch.float64)
        user = torch.linalg.solve(normal, user)
    expected = model.vectors.double() @ user + model.bias.double()
    expected[rows] = -torch.inf
    result = recommend_from_run(run, ["5", "3"], k=N_ITEMS)
    got = {int(row["item"]): row["score"] for row in result["recommendations"]}
    assert len(got) == N_ITEMS - 2
    np.testing.assert_allclose([got[item] for item in sorted(got)], expected[sorted(got)], atol=1e-5)
    assert int(expected.argmax()) == int(listed(result)[0])


def test_a_history_changes_the_list(run):
    assert listed(recommend_from_run(run, ["3", "5"])) != listed(recommend_from_run(run, ["30", "31"]))


def test_an_empty_history_ranks_by_popularity(run):
    model = load_item_embeddings(run / "item_embeddings.safetensors")
    result = recommend_from_run(run, [], k=5)
    assert result["history"] == []
    assert listed(result) == [str(row) for row in model.bias.argsort(descending=True, stable=True)[:5].tolist()]


def test_an_item_given_twice_counts_once(run):
    assert recommend_from_run(run, ["3", "3"]) == recommend_from_run(run, ["3"])


def test_a_longer_list_than_there_are_items_ends_with_them(run):
    assert len(listed(recommend_from_run(run, ["3"], k=1000))) == N_ITEMS - 1


def test_a_history_of_everything_leaves_nothing(run):
    assert listed(recommend_from_run(run, [str(item) for item in range(N_ITEMS)])) == []


def test_unknown_items_are_named(run):
    with pytest.raises(ConfigurationError, match="unknown ones: film-9, 40"):
        recommend_from_run(run, ["3", "film-9", "40"])


def test_an_empty_list_is_refused(run):
    with pytest.raises(ConfigurationError, match="k to be an integer >= 1"):
        recommend_from_run(run, ["3"], k=0)


def test_model_and_catalogue_must_belong_together(run, tmp_path):
    shutil.copy(run / "item_embeddings.safetensors", tmp_path)
    ids = np.array([str(item) for item in range(N_ITEMS)], dtype=object)
    Catalogue(item_ids=ids).save(tmp_path / "catalogue.parquet")
    with pytest.raises(DataFormatError, match="catalogue that the model"):
        recommend_from_run(tmp_path, ["3"])


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DataNotFoundError, match="Train first"):
        recommend_from_run(tmp_path, ["3"])
    with pytest.raises(DataNotFoundError):
        recommend_from_run(tmp_path / "nowhere", ["3"])


def test_new_items_are_ranked_by_their_features(tmp_path):
    run = tmp_path / "run"
    small_run(run, epsilon=float("inf"), data="generated:users=300,items=40,interactions=15")
    catalogue = Catalogue.load(run / "catalogue.parquet")
    kinds = [entry[0] for entry in catalogue.categories]
    liked = kinds[0]
    history = [item for item, kind in zip(catalogue.item_ids, kinds, strict=True) if kind == liked][:4]
    other = next(kind for kind in kinds if kind != liked)
    path = tmp_path / "new.csv"
    path.write_text(f"item,title,categories\nnew-1,One,{liked}\nnew-2,Two,{other}\n0,known,{other}\n")
    found = recommend_from_run(run, history, k=40, new_items=path)["recommendations"]
    place = {row["item"]: row["rank"] for row in found if row["new"]}
    assert set(place) == {"new-1", "new-2"}
    assert place["new-1"] < place["new-2"]
    before = recommend_from_run(run, history, k=40)["recommendations"]
    assert [row["item"] for row in found if not row["new"]][:30] == [row["item"] for row in before][:30]


def test_new_items_need_features(tmp_path):
    run = tmp_path / "run"
    table = tmp_path / "t.csv"
    table.write_text("user,item\n" + "".join(f"{u},{i}\n" for u in range(40) for i in range(u % 3, 30, 3)))
    small_run(run, data=str(table))
    (tmp_path / "new.csv").write_text("item,title\nx,Title\n")
    with pytest.raises(ConfigurationError, match="ids only"):
        recommend_from_run(run, ["3"], new_items=tmp_path / "new.csv")
