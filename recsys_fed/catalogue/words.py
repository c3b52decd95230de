"""TF-IDF of short documents: small, deterministic, and linear in the text."""

import re
from array import array
from collections import defaultdict
from collections.abc import Sequence
from itertools import count

import numpy as np
import numpy.typing as npt
from scipy import sparse

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
    words, counts = _count(documents)
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


def _count(documents: Sequence[str]) -> tuple[list[str], sparse.csr_matrix]:
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
