"""The released model in other people's software: what ONNX Runtime and faiss compute is what we recommend."""

import json
from types import SimpleNamespace

import faiss
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from command_line import run_command
from learn_pages import LEARN, blocks_of

from recsys_fed import Catalogue, ItemEmbeddings, Recommender
from recsys_fed.errors import ConfigurationError, MissingExtraError
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.models.items import FoldIn, save_item_embeddings
from recsys_fed.signing import sha256
from recsys_fed.simulation.runner import CATALOGUE

N_ITEMS, DIM, K = 60, 7, np.array([12])
FOLD_INS = {
    "projection": FoldIn(kind="projection"),
    "projection with a half-life": FoldIn(kind="projection", half_life=2.5),
    "ridge": FoldIn(kind="ridge", unobserved_weight=0.3, regularization=2.0),
    "ridge with a half-life": FoldIn(kind="ridge", unobserved_weight=0.3, half_life=3.0),
    "ratings": FoldIn(kind="ratings", regularization=1.5, lowest=1.0, highest=5.0),
    "ratings with a half-life": FoldIn(kind="ratings", half_life=2.0, lowest=1.0, highest=5.0),
    "half-life in days": FoldIn(kind="projection", half_life_days=30.0),
}


def recommender(how, ids=tuple(f"sku-{n:02}" for n in range(N_ITEMS))):
    rng = torch.Generator().manual_seed(3)
    titles = tuple(f"Item {n}" for n in range(N_ITEMS))
    catalogue = Catalogue(item_ids=np.array(ids, dtype=object), titles=titles)
    model = ItemEmbeddings(
        vectors=torch.randn(N_ITEMS, DIM, generator=rng),
        bias=torch.randn(N_ITEMS, generator=rng),
        history_weights=torch.rand(N_ITEMS, generator=rng),
        fold_in=how,
        catalogue_hash=catalogue.content_hash,
    )
    return Recommender(embeddings=model, catalogue=catalogue, n_known=N_ITEMS)


def histories(rng):
    """Of several lengths, one of them empty, one with items several times."""
    drawn = [rng.permutation(N_ITEMS)[:size].tolist() for size in (1, 9, 4, 0, 2, 58)]
    return [*drawn, [5, 8, 5, 2, 8, 8]]


def filled(rows, fill, length, kind):
    return np.array([[*row, *[fill] * (length - len(row))] for row in rows], dtype=kind)


@pytest.mark.parametrize("name", FOLD_INS)
def test_onnx_runtime_recommends_what_we_do(name, tmp_path):
    model, path, rng = recommender(FOLD_INS[name]), tmp_path / "model.onnx", np.random.default_rng(0)
    model.export(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows, ids = histories(rng), model.catalogue.item_ids
    length = max(map(len, rows)) + 2
    fed = {"history": filled(rows, -1, length, np.int64)}
    asked = [[ids[row] for row in history] for history in rows]
    if FOLD_INS[name].kind == "ratings":
        rows = rows[:-1]  # ratings are by item: no item is there twice
        stars = [rng.integers(1, 6, len(history)).tolist() for history in rows]
        asked = [dict(zip(history, values, strict=True)) for history, values in zip(asked, stars, strict=False)]
        fed = {"history": fed["history"][:-1], "ratings": filled(stars, np.nan, length, np.float32)}
    items, scores, every = session.run(["items", "scores", "all_scores"], fed | {"k": K})
    assert every.shape == (len(rows), N_ITEMS)
    for user, history in enumerate(asked):
        expected = model.recommend(history, k=12)
        there = len(expected)
        assert there == min(12, N_ITEMS - len(set(rows[user])))
        assert np.allclose(scores[user, :there], [one.score for one in expected], rtol=1e-5, atol=1e-5)
        assert [ids[row] for row in items[user, :there]] == [one.item for one in expected]
        assert np.isneginf(scores[user, there:]).all()
        assert set(np.flatnonzero(np.isneginf(every[user]))) == set(rows[user])


def test_where_in_a_row_the_fill_stands_does_not_matter(tmp_path):
    model, path = recommender(FOLD_INS["ridge with a half-life"]), tmp_path / "model.onnx"
    model.export(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    every = session.run(["all_scores"], {"history": np.array([[4, 9, 2, -1, -1], [-1, 4, -1, 9, 2]]), "k": K})[0]
    assert np.array_equal(every[0], every[1])
    with pytest.raises(Exception, match="out of data bounds"):
        session.run(["items"], {"history": np.array([[N_ITEMS]]), "k": K})


def test_a_user_whose_equations_overflow_gets_the_zero_vector_there_too(tmp_path):
    model = recommender(FOLD_INS["ridge"])
    model.embeddings.vectors[0] = 3e38
    assert not model.fold_in(["sku-00"]).any()
    model.export(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    every = session.run(["all_scores"], {"history": np.array([[0]]), "k": K})[0][0]
    assert np.array_equal(every[1:], model.embeddings.bias.numpy()[1:])


def test_the_neighbours_of_the_index_are_our_list(tmp_path):
    model = recommender(FOLD_INS["ridge"])
    model.export(tmp_path / "model.faiss")
    index = faiss.read_index(str(tmp_path / "model.faiss"))
    for history in (["sku-03", "sku-41"], ["sku-07"], []):
        query = np.append(model.fold_in(history), np.float32(1))[None]
        scores, rows = index.search(query, N_ITEMS)
        found = [
            (model.catalogue.item_ids[row], score)
            for row, score in zip(rows[0], scores[0], strict=True)
            if model.catalogue.item_ids[row] not in history
        ]
        expected = model.recommend(history, k=N_ITEMS)
        assert [item for item, _ in found] == [one.item for one in expected]
        assert np.allclose([score for _, score in found], [one.score for one in expected], rtol=1e-5, atol=1e-5)


def test_the_table_holds_the_model_and_says_whose_it_is(tmp_path):
    model = recommender(FOLD_INS["projection with a half-life"])
    model.export(tmp_path / "model.parquet")
    table = pq.read_table(tmp_path / "model.parquet")
    ids, vectors, bias = model.to_numpy()
    assert table["item"].to_pylist() == ids.tolist() and table["title"].to_pylist() == list(model.catalogue.titles)
    assert np.array_equal(np.stack(table["vector"].to_numpy()), vectors)
    assert np.array_equal(table["bias"].to_numpy(), bias)
    assert np.array_equal(table["history_weight"].to_numpy(), model.embeddings.history_weights.numpy())
    assert json.loads(table.schema.metadata[b"fold_in"])["half_life"] == 2.5
    assert table.schema.metadata[b"catalogue_hash"].decode() == model.catalogue.content_hash


def test_the_command_writes_the_model_that_certificates_name(tmp_path):
    model = recommender(FOLD_INS["projection"])
    save_item_embeddings(model.embeddings, tmp_path / EMBEDDINGS)
    model.catalogue.save(tmp_path / CATALOGUE)
    assert run_command("export", tmp_path, tmp_path / "model.onnx")[0] == 0
    told = onnxruntime.InferenceSession(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    assert told["model_sha256"] == sha256((tmp_path / EMBEDDINGS).read_bytes())
    assert json.loads(told["items"]) == model.catalogue.item_ids.tolist()
    code, _, error = run_command("export", tmp_path, tmp_path / "model.pickle")
    assert code == 2 and ".onnx, .faiss, .parquet" in " ".join(error.split())


def test_the_page_shows_programs_that_run(tmp_path, monkeypatch, capsys):
    model = recommender(FOLD_INS["ridge"], ids=[f"tea-{n}" for n in range(N_ITEMS)])
    monkeypatch.chdir(tmp_path)
    model.export("model.onnx")
    model.export("model.faiss")
    scorer, index = [block for block in blocks_of(LEARN.parent / "other-software.md") if "model." in block.text]
    found = {"run": SimpleNamespace(model=model)}
    exec(scorer.text, found)  # noqa: S102  (what the page says)
    expected = [one.item for one in model.recommend(["tea-1", "tea-2"], k=5)]
    assert str(expected) in capsys.readouterr().out
    exec(index.text, found)  # noqa: S102
    assert [model.catalogue.item_ids[row] for row in found["rows"][0] if row not in (1, 2)][:5] == expected


@pytest.mark.parametrize(("ending", "library", "extra"), [("onnx", "onnx", "export"), ("faiss", "faiss", "ann")])
def test_a_missing_library_is_an_error_that_says_what_to_install(ending, library, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(MissingExtraError, match=rf'pip install "recsys-fed\[{extra}\]"'):
        recommender(FOLD_INS["ridge"]).export(tmp_path / f"model.{ending}")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigurationError):
        recommender(FOLD_INS["ridge"]).export(tmp_path / "model")
