"""Vectors of any origin: read from Parquet, several sets beside each other, public features like the others."""

import numpy as np
import pandas as pd
import pytest
from command_line import run_command

from recsys_fed.catalogue.features import add_vectors, public_features
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.data.interactions import id_array
from recsys_fed.errors import DataFormatError, DataNotFoundError

ITEMS = Catalogue(item_ids=id_array(["a", "b", "c", "d"]))


def written(path, items, vectors, name="image"):
    pd.DataFrame({"item": items, name: [list(one) for one in vectors]}).to_parquet(path)
    return path


def test_sets_count_alike_whatever_their_scale_and_length(tmp_path):
    rng = np.random.default_rng(0)
    image, sound = 1e3 * rng.standard_normal((3, 5)), 1e-3 * rng.standard_normal((4, 2))
    one = add_vectors(ITEMS, written(tmp_path / "image.parquet", ["c", "a", "other"], image))
    both = add_vectors(one, written(tmp_path / "sound.parquet", ["a", "b", "c", "d"], sound, name="sound"))
    assert both.text_vectors.shape == (4, 7) and both.content_hash != one.content_hash != ITEMS.content_hash
    # What no set knows of an item is zero; what it knows has norm 1.
    assert not both.text_vectors[[1, 3], :5].any()
    np.testing.assert_allclose(np.linalg.norm(both.text_vectors[:, 5:], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(both.text_vectors[[0, 2], :5], axis=1), 1, rtol=1e-5)
    centred = sound - sound.mean(0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(both.text_vectors[:, 5:], expected, rtol=1e-4)
    features = public_features(both, kinds=["vectors"])
    assert features.shape == (4, 7)


def test_what_is_no_table_of_vectors_is_refused(tmp_path):
    with pytest.raises(DataNotFoundError):
        add_vectors(ITEMS, tmp_path / "nowhere.parquet")
    (tmp_path / "text.parquet").write_text("item,image\n")
    cases = {
        "other items": (["x"], [[1.0]]),
        "twice": (["a", "a"], [[1.0], [2.0]]),
        "unequal": (["a", "b"], [[1.0], [2.0, 3.0]]),
        "not finite": (["a", "b"], [[1.0], [float("nan")]]),
    }
    paths = [written(tmp_path / f"{name}.parquet", *case) for name, case in cases.items()]
    pd.DataFrame({"item": ["a"], "number": [1.0]}).to_parquet(tmp_path / "flat.parquet")
    for path in (tmp_path / "text.parquet", tmp_path / "flat.parquet", *paths):
        with pytest.raises(DataFormatError):
            add_vectors(ITEMS, path)


def test_the_command_adds_several_sets(tmp_path):
    (tmp_path / "items.csv").write_text("item,title\na,One\nb,Two\nc,Three\n")
    first = written(tmp_path / "image.parquet", ["a", "b"], [[1.0, 2.0], [3.0, 1.0]])
    second = written(tmp_path / "graph.parquet", ["b", "c"], [[1.0], [2.0]], name="graph")
    output = tmp_path / "catalogue.parquet"
    code, out, err = run_command(
        "catalogue", output, "--table", tmp_path / "items.csv", "--vectors", first, "--vectors", second
    )
    assert code == 0 and "vectors of length 3" in out, err
    assert Catalogue.load(output).text_vectors.shape == (3, 3)
