"""The Python API: data in memory to a run, and what is refused on the way."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import sparse

import recsys_fed
from recsys_fed import DPSGD, Catalogue, Dataset, Federation, PopularItems, Run, Spectral
from recsys_fed.data.interactions import MISSING_TIME
from recsys_fed.data.locate import hold_dataset, open_dataset
from recsys_fed.errors import ConfigurationError, DataError, DataNotFoundError


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    customer = np.repeat(np.arange(120), 9)
    sku = 12 * (customer % 2) + rng.integers(0, 12, len(customer))
    return pd.DataFrame(
        {"customer": customer, "sku": [f"sku-{n}" for n in sku], "stars": rng.integers(1, 6, len(sku))}
    )


@pytest.fixture(scope="module")
def run(frame):
    federation = Federation(Dataset.from_frame(frame, user="customer", item="sku"), silos=3, secure_aggregation=True)
    return federation.train(Spectral(), epsilon=2, delta=1e-6, seed=0)


def test_a_frame_becomes_a_model_that_recommends(run, tmp_path):
    assert 0 < run.metrics["recall@20"] <= 1
    assert run.guarantee.epsilon == 2
    assert all(spent <= 2 for spent in run.epsilon_spent.values())
    assert run.verify().holds
    listed = run.model.recommend(["sku-3"], k=10)
    assert [found.rank for found in listed] == list(range(1, 11))
    assert "sku-3" not in {found.item for found in listed}
    assert [found.score for found in listed] == sorted((found.score for found in listed), reverse=True)
    saved = run.save(tmp_path / "mine")
    again = Run.load(saved)
    assert again.metrics == run.metrics
    assert again.model.recommend(["sku-3"], k=10) == listed
    with pytest.raises(ConfigurationError, match="There is a file or folder"):
        run.save(saved)


def test_the_model_is_arrays_too(run):
    ids, vectors, bias = run.model.to_numpy()
    assert vectors.shape == (len(ids), run.model.embeddings.embedding_dim) and bias.shape == (len(ids),)
    assert not run.model.fold_in([]).any()
    row = list(ids).index("sku-3")
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = directions @ directions[row]
    cosines[row] = -np.inf
    assert run.model.similar("sku-3", k=2)[0].item == ids[int(np.argmax(cosines))]
    with pytest.raises(ConfigurationError, match="unknown ones: nothing"):
        run.model.recommend(["nothing"])
    with pytest.raises(ConfigurationError):
        run.model.recommend(["sku-3"], k=0)


def test_equal_seeds_give_equal_models_and_the_command_line_gives_them_too(frame, tmp_path):
    frame.to_parquet(tmp_path / "t.parquet")
    dataset = Dataset.from_frame(frame, user="customer", item="sku")
    made = [Federation(dataset, silos=3).train(PopularItems(), epsilon=4.0, seed=5) for _ in range(2)]
    opened = Federation(tmp_path / "t.parquet", silos=3, settings={"columns": "user=customer,item=sku,value="})
    made.append(opened.train("popularity", epsilon=4.0, seed=5))
    blobs = [(one.folder / "item_embeddings.safetensors").read_bytes() for one in made]
    assert blobs[0] == blobs[1] == blobs[2]
    tool = str(Path(sys.executable).parent / "recsys-fed")
    command = [tool, "simulate", "--data", str(tmp_path / "t.parquet"), "--silos", "3"]
    command += [
        "--columns",
        "user=customer,item=sku,value=",
        "--trainer",
        "popularity",
        "--epsilon",
        "4",
        "--seed",
        "5",
    ]
    command += ["--no-secure-aggregation", "--output", str(tmp_path / "run"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "run" / "item_embeddings.safetensors").read_bytes() == blobs[0]
    assert json.loads(done.stdout)["metrics"] == made[0].metrics


def test_settings_of_a_trainer_are_its_fields(frame):
    federation = Federation(Dataset.from_frame(frame, user="customer", item="sku"), silos=2)
    run = federation.train(DPSGD(loss="bpr", negatives=4), epsilon=8.0, rounds=2, embedding_dim=3)
    assert run.record["embedding_dim"] == 3
    assert "dp-sgd.loss" in (run.folder / "config.toml").read_text().replace('"', "")


def test_data_in_memory_is_read_as_tables_are(frame):
    frame = frame.assign(when=pd.to_datetime("2024-01-31") + pd.to_timedelta(np.arange(len(frame)), unit="us"))
    frame.loc[0, "when"] = pd.NaT
    dataset = Dataset.from_frame(frame, user="customer", item="sku", value="stars", time="when")
    found = dataset.interactions
    assert found.time.dtype == np.int64
    assert (
        dataset.report.n_rows == len(frame) == dataset.report.n_kept + sum(f.count for f in dataset.report.findings)
    )
    assert (found.time == MISSING_TIME).sum() <= 1
    arrow = Dataset.from_arrow(
        pa.Table.from_pandas(frame), user="customer", item="sku", value="stars", time="when"
    ).interactions
    assert np.array_equal(arrow.time, found.time) and np.array_equal(arrow.value, found.value)
    matrix = sparse.csr_matrix(np.array([[0, 2.0], [3.0, 1.0]]))
    csr = Dataset.from_csr(matrix, item_ids=["a", "b"]).interactions
    pairs = zip(csr.user_ids[csr.user], csr.item_ids[csr.item], csr.value, strict=True)
    assert sorted(pairs) == [("0", "b", 2.0), ("1", "a", 3.0), ("1", "b", 1.0)]


@pytest.mark.parametrize("kind", ["arrow", "polars", "polars categories", "polars chunks", "duckdb"])
def test_frames_of_other_libraries_are_read_as_those_of_pandas(frame, kind):
    if kind == "arrow":
        other = pa.Table.from_pandas(frame)
    elif kind == "duckdb":
        other = pytest.importorskip("duckdb").sql("select * from frame")
    else:
        pl = pytest.importorskip("polars")
        other = pl.from_pandas(frame)
        if kind == "polars categories":
            other = other.with_columns(pl.col("sku").cast(pl.Categorical))
        elif kind == "polars chunks":
            other = pl.concat([other[:100], other[100:]], rechunk=False)
    columns = {"user": "customer", "item": "sku", "value": "stars"}
    expected, found = (Dataset.from_frame(one, **columns).interactions for one in (frame, other))
    for name in ("user", "item", "value", "user_ids", "item_ids"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def test_what_cannot_be_is_refused(frame, tmp_path):
    with pytest.raises(DataError, match="of pandas, Polars"):
        Dataset.from_frame([1, 2], user="customer", item="sku")
    with pytest.raises(DataError, match="once each"):
        Dataset.from_frame(frame, user="customer", item="thing")
    with pytest.raises(DataError, match="2 item_ids"):
        Dataset.from_csr(sparse.csr_matrix(np.ones((3, 2))), item_ids=["a"])
    dataset = Dataset.from_frame(frame, user="customer", item="sku")
    with pytest.raises(ConfigurationError, match="nothing reads"):
        Federation(dataset, settings={"silly": 1})
    with pytest.raises(ConfigurationError, match="in memory"):
        Federation(dataset, engine="flower")
    with pytest.raises(ConfigurationError, match="silos"):
        Federation(dataset, silos=1_000).train("popularity")
    with pytest.raises(DataNotFoundError):
        Run.load(tmp_path)


def test_the_catalogue_may_be_given(frame):
    catalogue = Catalogue(item_ids=np.array(["sku-1", "other"], dtype=object), titles=("One", "Other"))
    dataset = Dataset.from_frame(frame, user="customer", item="sku", catalogue=catalogue)
    assert dataset.catalogue is catalogue


def test_importing_the_package_loads_nothing_large():
    script = "import sys, recsys_fed; print(sorted({'torch', 'pandas', 'numpy', 'flwr', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    assert set(recsys_fed.__all__) <= set(dir(recsys_fed))
    for name in recsys_fed.__all__:
        assert (getattr(recsys_fed, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="nothing_here"):
        recsys_fed.nothing_here  # noqa: B018


def test_a_data_set_in_memory_is_meant_by_no_other():
    specs = set()
    for number in range(50):
        dataset = Dataset.from_csr(sparse.csr_matrix(np.ones((2, 2))), name=str(number))
        spec = hold_dataset(dataset)
        assert hold_dataset(dataset) == spec and open_dataset(spec) is dataset
        specs.add(spec)
    assert len(specs) == 50
    del dataset
    with pytest.raises(DataNotFoundError, match="it is gone"):
        open_dataset(spec)
