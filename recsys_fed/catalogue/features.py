"""Public features of items: categories, decade of release and words, as one sparse matrix.

Everything here is computed from the public catalogue alone: it costs no privacy, and every silo and the
server arrive at the same matrix.
"""

import re
from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.catalogue.words import tf_idf
from recsys_fed.checks import at_least, non_negative
from recsys_fed.config import FEATURE_KINDS

# The year at the end of a title such as "Toy Story (1995)".
_YEAR = re.compile(r"\((1[89]\d\d|20\d\d)\)\s*$")


def public_features(
    catalogue: Catalogue,
    *,
    max_terms: int = 20_000,
    category_weight: float = 1.0,
    decade_weight: float = 0.5,
    text_weight: float = 0.5,
    vector_weight: float = 0.5,
    kinds: Collection[str] = FEATURE_KINDS,
) -> sparse.csr_matrix | None:
    """Features of all items, or None for a catalogue that has no public columns (or nothing in them).

    Blocks side by side: categories, multi-hot, with a row divided by the root of its number of categories; the
    decade of the year in the title, one-hot; words, TF-IDF of title and text; vectors, the catalogue's text
    vectors less their mean. A row of each block has norm 0 (nothing known) or that block's weight.

    Args:
        catalogue: the public items.
        max_terms: the most words, those in most items first.
        category_weight: norm of the block of categories.
        decade_weight: norm of the block of decades.
        text_weight: norm of the block of words.
        vector_weight: norm of the block of text vectors.
        kinds: which of the blocks there are, of `FEATURE_KINDS`.

    Returns:
        csr float32 [n_items, n_features], deterministic, no empty columns.
    """
    at_least(1, max_terms=max_terms)
    non_negative(category_weight=category_weight, decade_weight=decade_weight, text_weight=text_weight)
    non_negative(vector_weight=vector_weight)
    blocks: dict[str, Callable[[], sparse.csr_matrix]] = {
        "categories": lambda: category_weight * _categories(catalogue),
        "decades": lambda: decade_weight * _decades(catalogue),
        "words": lambda: text_weight * tf_idf(documents(catalogue), max_terms=max_terms),
        "vectors": lambda: vector_weight * _vectors(catalogue),
    }
    nothing = sparse.csr_matrix((catalogue.n_items, 0), dtype=np.float32)
    chosen = [make() for kind, make in blocks.items() if kind in kinds]
    features = sparse.hstack([nothing, *chosen], format="csr", dtype=np.float32)
    features.eliminate_zeros()
    used = np.unique(features.indices)
    return features[:, used] if len(used) else None


def _categories(catalogue: Catalogue) -> sparse.csr_matrix:
    entries = [sorted(set(entry)) for entry in catalogue.categories or ()]
    sizes = np.array([len(entry) for entry in entries], dtype=np.int64)
    names, codes = np.unique(
        np.array([name for entry in entries for name in entry], dtype=object), return_inverse=True
    )
    rows = np.repeat(np.arange(len(entries)), sizes)
    weights = np.repeat(1.0 / np.sqrt(np.maximum(sizes, 1)), sizes)
    return _block(weights, rows, codes, shape=(catalogue.n_items, len(names)))


def _decades(catalogue: Catalogue) -> sparse.csr_matrix:
    found = [_YEAR.search(title) for title in catalogue.titles or ()]
    rows = np.array([row for row, match in enumerate(found) if match], dtype=np.int64)
    years = np.array([int(match.group(1)) for match in found if match], dtype=np.int64)
    decades, codes = np.unique(years // 10, return_inverse=True)
    return _block(np.ones(len(rows)), rows, codes, shape=(catalogue.n_items, len(decades)))


def documents(catalogue: Catalogue) -> list[str]:
    """Title and text of each item as one document; empty where nothing is known."""
    nothing = ("",) * catalogue.n_items
    pairs = zip(catalogue.titles or nothing, catalogue.texts or nothing, strict=True)
    return [f"{title} {text}" for title, text in pairs]


def _vectors(catalogue: Catalogue) -> sparse.csr_matrix:
    """Text vectors less their mean, rows of norm 1; an item without a text stays zero."""
    if catalogue.text_vectors is None:
        return sparse.csr_matrix((catalogue.n_items, 0), dtype=np.float32)
    there = catalogue.text_vectors.any(axis=1)
    vectors = np.zeros(catalogue.text_vectors.shape)
    vectors[there] = catalogue.text_vectors[there] - catalogue.text_vectors[there].mean(axis=0)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return sparse.csr_matrix((vectors / np.maximum(norms, 1e-12)).astype(np.float32))


def _block(
    weights: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    *,
    shape: tuple[int, int],
) -> sparse.csr_matrix:
    return sparse.csr_matrix((weights, (rows, columns)), shape=shape, dtype=np.float32)
