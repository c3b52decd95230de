"""The k best items by score, equal scores by lower row: exactly, in blocks of users, or with a library's help.

faiss (`recsys-fed[ann]`) gives int8 tables with exact re-ranking, and a graph for millions of items. Items that are
not in the catalogue are found by their words: TF-IDF cosine over the public titles and categories.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving.packed_model import Floats, PackedModel, Rows

# A row is folded into so many stripes; the maxima over stripes are few and bound the k-th best from below.
_STRIPES = 8
_BLOCK_USERS = 256


class Search(Protocol):
    """Finds the best rows of one user by v_i u + b_i."""

    def best(self, vector: Floats, k: int, *, without: Rows) -> tuple[Rows, Floats]:
        """The k best rows that are not in `without`, best first, and their exact scores."""


class ExactSearch:
    """All scores, then the best of them."""

    def __init__(self, release: PackedModel) -> None:
        self._release = release

    def best(self, vector: Floats, k: int, *, without: Rows) -> tuple[Rows, Floats]:
        """See `Search`."""
        scores = self._release.vectors @ vector
        scores += self._release.bias
        scores[without] = -np.inf
        rows = top_rows(scores, k)
        return rows, scores[rows]


def top_rows(scores: Floats, k: int) -> Rows:
    """The k best finite entries of `scores` [n], best first, equal ones by lower row; fewer if there are fewer."""
    n = len(scores)
    if k < n:
        width = n // _STRIPES
        if width > 4 * k:
            maxima = scores[: width * _STRIPES].reshape(_STRIPES, width).max(0)
            least = np.partition(maxima, width - k)[width - k]
        else:
            least = np.partition(scores, n - k)[n - k]
        rows = np.flatnonzero(scores >= least)
    else:
        rows = np.arange(n)
    rows = rows[np.isfinite(scores[rows])]
    # Rows ascend, so a stable sort leaves equal scores in the order of their rows.
    return rows[np.argsort(-scores[rows], kind="stable")[:k]]


def best_of_many(
    release: PackedModel, vectors: Floats, k: int, *, without: Sequence[Rows]
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The k best rows of many users: rows int64 [n_users, k] (-1 where a list is shorter) and scores [n_users, k].

    Args:
        release: the model.
        vectors: float32 [n_users, dim].
        k: length of the lists.
        without: for each user the rows that are left out.
    """
    n_users = len(vectors)
    rows = np.full((n_users, k), -1, dtype=np.int64)
    values = np.full((n_users, k), -np.inf, dtype=np.float32)
    for start in range(0, n_users, _BLOCK_USERS):
        stop = min(start + _BLOCK_USERS, n_users)
        scores = vectors[start:stop] @ release.vectors.T
        scores += release.bias
        left_out = without[start:stop]
        users = np.repeat(np.arange(stop - start), [len(own) for own in left_out])
        if len(users):
            scores[users, np.concatenate(left_out)] = -np.inf
        _best_of_block(scores, rows[start:stop], values[start:stop])
    return rows, values


def _best_of_block(scores: Floats, rows: npt.NDArray[np.int64], values: Floats) -> None:
    """Write the best of every row of `scores` [n, n_items] to `rows` and `values` [n, k]."""
    (n, n_items), k = scores.shape, rows.shape[1]
    width = n_items // _STRIPES
    if width <= 4 * k:
        for user in range(n):
            best = top_rows(scores[user], k)
            rows[user, : len(best)], values[user, : len(best)] = best, scores[user, best]
        return
    maxima = scores[:, : width * _STRIPES].reshape(n, _STRIPES, width).max(1)
    least = np.partition(maxima, width - k, axis=1)[:, width - k]
    flat = np.flatnonzero(scores >= least[:, None])
    users, items = np.divmod(flat, n_items)
    found = scores.ravel()[flat]
    kept = np.isfinite(found)
    users, items, found = users[kept], items[kept], found[kept]
    # By user, then score; `flat` ascends, so a stable sort leaves equal scores in the order of their rows.
    order = np.lexsort((-found, users))
    users, items, found = users[order], items[order], found[order]
    place = np.arange(len(users)) - np.searchsorted(users, users)
    listed = place < k
    rows[users[listed], place[listed]] = items[listed]
    values[users[listed], place[listed]] = found[listed]


# faiss's fastest int8 product takes tables whose width is a multiple of this.
_WIDTH = 64
_LEVELS = 127.0
# Candidates beyond the list, at first; and how often more may be taken before all scores are computed.
_SPARE, _ATTEMPTS = 100, 3
_LINKS, _BUILD_DEPTH, _SEARCH_DEPTH = 32, 80, 128


def search_of(release: PackedModel, how: str) -> Search:
    """The search of a setting: "exact", "int8" or "hnsw".

    Raises:
        ConfigurationError: faiss is needed and not installed.
    """
    kinds: dict[str, type[Any]] = {"exact": ExactSearch, "int8": _Int8Search, "hnsw": _GraphSearch}
    found: Search = kinds[how](release)
    return found


class _Int8Search:
    """Candidates from int8 tables, scores from the real one; the answer is that of `ExactSearch`.

    With t_i = (v_i, b_i) and q = (u, 1), codes c_i and a scale a_k for each column, t_i is about a * c_i; and with
    codes p and a scale s, a * q is about s p. faiss computes s p c_i, which by Cauchy and Schwarz is off by at most

        e = max_i ||t_i - a * c_i|| ||q||  +  max_i ||c_i|| ||a * q - s p||

    So a list is exact if its last score is above the last candidate's quantised score + e; otherwise more candidates
    are taken, and in the end all scores.
    """

    def __init__(self, release: PackedModel) -> None:
        faiss = _faiss()
        table = _with_bias(release)
        self._release, self._exact = release, ExactSearch(release)
        self._scale = np.maximum(np.abs(table).max(0), np.finfo(np.float32).tiny) / _LEVELS
        codes = np.clip(np.rint(table / self._scale), -_LEVELS, _LEVELS).astype(np.float32)
        self._table_error = float(np.linalg.norm(table - codes * self._scale, axis=1).max())
        self._longest = float(np.linalg.norm(codes, axis=1).max())
        self._index = faiss.IndexScalarQuantizer(
            table.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        self._index.add(codes)

    def best(self, vector: Floats, k: int, *, without: Rows) -> tuple[Rows, Floats]:
        """See `Search`."""
        query = np.zeros(len(self._scale), dtype=np.float32)
        query[: len(vector)], query[len(vector)] = vector, 1.0
        scaled = query * self._scale
        unit = max(float(np.abs(scaled).max()), float(np.finfo(np.float32).tiny)) / _LEVELS
        codes = np.rint(scaled / unit).astype(np.float32)
        slack = self._table_error * float(np.linalg.norm(query))
        slack = 1.001 * (slack + self._longest * float(np.linalg.norm(scaled - unit * codes)))
        wanted = k + len(without) + _SPARE
        for _ in range(_ATTEMPTS):
            if wanted >= self._release.n_items // 4:
                break
            quantised, rows = self._index.search(codes[None], wanted)
            best, scores = _rank(self._release, vector, rows[0], k, without=without)
            if len(best) == k and scores[-1] > unit * quantised[0, -1] + slack:
                return best, scores
            wanted *= 4
        return self._exact.best(vector, k, without=without)


class _GraphSearch:
    """Candidates from a graph (HNSW, arXiv 1603.09320), real scores: fast, and a few items may be missed."""

    def __init__(self, release: PackedModel) -> None:
        faiss = _faiss()
        self._release = release
        self._index = faiss.IndexHNSWFlat(release.dim + 1, _LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = _BUILD_DEPTH
        self._index.add(np.column_stack((release.vectors, release.bias)))

    def best(self, vector: Floats, k: int, *, without: Rows) -> tuple[Rows, Floats]:
        """See `Search`."""
        query = np.append(vector, 1.0).astype(np.float32)[None]
        wanted = min(k + len(without) + _SPARE, self._release.n_items)
        self._index.hnsw.efSearch = max(_SEARCH_DEPTH, 2 * wanted)
        _, rows = self._index.search(query, wanted)
        return _rank(self._release, vector, rows[0][rows[0] >= 0], k, without=without)


def _rank(release: PackedModel, vector: Floats, rows: Rows, k: int, *, without: Rows) -> tuple[Rows, Floats]:
    """The k best of the candidates `rows` by their exact scores."""
    candidates = np.setdiff1d(rows, without)
    scores = release.vectors[candidates] @ vector + release.bias[candidates]
    best = top_rows(scores, k)
    return candidates[best], scores[best]


def _with_bias(release: PackedModel) -> Floats:
    """[V, b] with columns of zeros up to a width that is fast."""
    width = -(-(release.dim + 1) // _WIDTH) * _WIDTH
    table = np.zeros((release.n_items, width), dtype=np.float32)
    table[:, : release.dim], table[:, release.dim] = release.vectors, release.bias
    return table


def _faiss() -> Any:
    try:
        import faiss  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise ConfigurationError(
            'Expected faiss for search = "int8" or "hnsw": pip install "recsys-fed[ann]". Or set search = "exact".'
        ) from error
    faiss.omp_set_num_threads(1)
    return faiss


_WORD = re.compile(r"[^\W_]+")


class TitleIndex:
    """The words of a catalogue. It is public, so a match says nothing about any user."""

    def __init__(self, release: PackedModel) -> None:
        self._release = release

    @cached_property
    def _postings(self) -> dict[str, list[tuple[int, float]]]:
        """By word, the items that have it and the word's share of the item's norm."""
        bags = [Counter(_words(f"{title} {' '.join(kinds)}")) for title, kinds in self._texts()]
        documents = Counter(word for bag in bags for word in bag)
        self._idf = {word: 1.0 + math.log(len(bags) / count) for word, count in documents.items()}
        postings: dict[str, list[tuple[int, float]]] = {}
        for row, bag in enumerate(bags):
            weights = {word: count * self._idf[word] for word, count in bag.items()}
            norm = math.sqrt(sum(weight * weight for weight in weights.values()))
            for word, weight in weights.items():
                postings.setdefault(word, []).append((row, weight / norm))
        return postings

    def nearest(self, text: str) -> int | None:
        """The row whose words are nearest to the text; None if they share no word. Of equals the lower row."""
        found: dict[int, float] = {}
        for word, count in Counter(_words(text)).items():
            for row, share in self._postings.get(word, ()):
                found[row] = found.get(row, 0.0) + count * self._idf[word] * share
        return min(found, key=lambda row: (-found[row], row)) if found else None

    def _texts(self) -> list[tuple[str, tuple[str, ...]]]:
        return list(zip(self._release.titles, self._release.categories, strict=True))


def similar(release: PackedModel, row: int) -> Floats:
    """Cosine of every item's vector to that of `row`, float32 [n_items]; 0 where a vector is zero."""
    norms = np.maximum(release.norms * release.norms[row], np.finfo(np.float32).tiny)
    return np.asarray(release.vectors @ release.vectors[row] / norms, dtype=np.float32)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
