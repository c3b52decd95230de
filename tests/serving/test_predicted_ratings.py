"""/v1/ratings: the predictions of the model, from the log's ratings or from those given; a list is refused."""

import json

import numpy as np
import pytest
import torch
from serving_kit import made_application, made_release
from starlette.testclient import TestClient

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.interactions import id_array
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Histories, Signals
from recsys_fed.models.items import (
    FoldIn,
    ItemEmbeddings,
    predicted_ratings,
    save_item_embeddings,
    user_vectors,
)
from recsys_fed.serving.packed_model import read_packed_model
from recsys_fed.serving.packing import pack

MINE = {"i3": 5.0, "i7": 1.0, "i20": 4.0}
ASKED = ["i1", "i7", "i40", "nowhere"]


def rating_release():
    return made_release(kind="ratings", weights=np.ones(60, dtype=np.float32), lowest=1.0, highest=5.0)


def by_torch(release, rated, asked):
    rows = torch.tensor(sorted(release.row_of[item] for item in rated), dtype=torch.int32)
    values = torch.tensor([rated[release.item_ids[row]] for row in rows.tolist()], dtype=torch.float32)
    model = ItemEmbeddings(
        vectors=torch.from_numpy(release.vectors),
        bias=torch.from_numpy(release.bias),
        history_weights=torch.from_numpy(release.weights),
        fold_in=FoldIn(kind="ratings", lowest=1.0, highest=5.0),
        catalogue_hash="c",
    )
    starts = torch.tensor([0, len(rows)])
    own = Histories(items=rows, starts=starts, n_items=60, signals=Signals(value=values))
    wanted = torch.tensor([release.row_of[item] for item in asked], dtype=torch.int32)
    there = Histories(items=wanted, starts=torch.tensor([0, len(wanted)]), n_items=60)
    return model, predicted_ratings(model, user_vectors(model, own), there).tolist()


def post(client, headers, path, body):
    return client.post(path, json=body, headers=headers["all"])


def test_ratings_from_the_log_and_those_given_are_the_models_own(tmp_path):
    release = rating_release()
    application, headers = made_application(tmp_path, release)
    _, expected = by_torch(release, MINE, ASKED[:3])
    with TestClient(application) as client:
        given = post(client, headers, "/v1/ratings", {"items": ASKED, "ratings": MINE}).json()
        assert [one["item"] for one in given["ratings"]] == ASKED[:3] and given["unknown"] == ["nowhere"]
        assert [one["rating"] for one in given["ratings"]] == pytest.approx(expected, abs=1e-4)
        assert given["known_ratings"] == 3
        # The latest rating of an item counts; what is no rating does not.
        for item, kind, value in (
            ("i3", "rating", 2.0),
            *((i, "rating", v) for i, v in MINE.items()),
            ("i9", "buy", None),
        ):
            body = {"user": "u", "item": item, "kind": kind, "value": value}
            assert post(client, headers, "/v1/feedback", body).status_code == 200
        known = post(client, headers, "/v1/ratings", {"items": ASKED, "user": "u"}).json()
        assert known == given
        nobody = post(client, headers, "/v1/ratings", {"items": ["i1"], "user": "new"}).json()
        assert nobody["ratings"][0]["rating"] == pytest.approx(float(np.clip(release.bias[1], 1, 5)), abs=1e-4)
        both = {"items": ["i1"], "user": "u", "ratings": MINE}
        for wrong in ({"items": ["i1"]}, both, {"items": [], "user": "u"}, {"items": ["i1"], "ratings": {"i1": 1e9}}):
            assert post(client, headers, "/v1/ratings", wrong).status_code == 422


def test_a_model_of_ratings_gives_no_list_and_another_no_ratings(tmp_path):
    application, headers = made_application(tmp_path / "ratings", rating_release())
    with TestClient(application) as client:
        for path, body in (
            ("/v1/recommendations", {"user": "u"}),
            ("/v1/recommendations", {"history": ["i1"]}),
            ("/v1/explanation", {"user": "u", "item": "i1"}),
        ):
            answer = post(client, headers, path, body)
            assert 400 <= answer.status_code < 500 and "/v1/ratings" in json.dumps(answer.json())
        assert 400 <= post(client, headers, "/v1/recommendations/batch", {"users": ["u"]}).status_code < 500
        assert 400 <= client.get("/v1/similar", params={"item": "i1"}, headers=headers["all"]).status_code < 500
    application, headers = made_application(tmp_path / "lists")
    with TestClient(application) as client:
        answer = post(client, headers, "/v1/ratings", {"items": ["i1"], "user": "u"})
        assert 400 <= answer.status_code < 500 and "target" in json.dumps(answer.json())


def test_a_trained_model_of_ratings_is_packed_with_its_scale(tmp_path):
    release = rating_release()
    model, _ = by_torch(release, MINE, ["i1"])
    catalogue = Catalogue(item_ids=id_array(release.item_ids))
    catalogue.save(tmp_path / "catalogue.parquet")
    model = ItemEmbeddings(
        vectors=model.vectors,
        bias=model.bias,
        history_weights=model.history_weights,
        fold_in=model.fold_in,
        catalogue_hash=catalogue.content_hash,
    )
    save_item_embeddings(model, tmp_path / "model.safetensors")
    pack(tmp_path / "model.safetensors", tmp_path / "catalogue.parquet", tmp_path / "service")
    found = read_packed_model(next((tmp_path / "service" / "versions").iterdir()))
    assert (found.kind, found.lowest, found.highest) == ("ratings", 1.0, 5.0)
    np.save(tmp_path / "residual.npy", np.zeros((60, 60)))
    with pytest.raises(ConfigurationError, match="residual"):
        pack(
            tmp_path / "model.safetensors",
            tmp_path / "catalogue.parquet",
            tmp_path / "other",
            residual=tmp_path / "residual.npy",
        )
