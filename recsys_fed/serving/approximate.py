"""Search through faiss: int8 tables with exact re-ranking, and a graph for millions of items (`recsys-fed[ann]`)."""

from typing import Any

import numpy as np

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving.release import Floats, Release, Rows
from recsys_fed.serving.search import ExactSearch, Search, top_rows

# faiss's fastest int8 product takes tables whose width is a multiple of this.
_WIDTH = 64
_LEVELS = 127.0
# Candidates beyond the list, at first; and how often they may be doubled before all scores are computed.
_SPARE, _DOUBLINGS = 50, 3
_LINKS, _BUILD_DEPTH, _SEARCH_DEPTH = 32, 80, 128


def search_of(release: Release, how: str) -> Search:
    """The search of a setting: "exact", "int8" or "hnsw".

    Raises:
        ConfigurationError: faiss is needed and not installed.
    """
    kinds: dict[str, type[Any]] = {"exact": ExactSearch, "int8": Int8Search, "hnsw": GraphSearch}
    found: Search = kinds[how](release)
    return found


class Int8Search:
    """Candidates from an int8 table, scores from the real one; the answer is that of `ExactSearch`.

    With codes c_i and a scale a_k for each column, v_i is about a * c_i, and by Cauchy and Schwarz the quantised
    score is off by at most e_i = ||(v_i, b_i) - a * c_i|| ||(u, 1)||. So a list is exact if its last score is at
    least the last candidate's quantised score plus the largest e_i; otherwise more candidates are taken.
    """

    def __init__(self, release: Release) -> None:
        faiss = _faiss()
        table = _with_bias(release)
        self._release, self._exact = release, ExactSearch(release)
        self._scale = np.maximum(np.abs(table).max(0), np.finfo(np.float32).tiny) / _LEVELS
        codes = np.clip(np.rint(table / self._scale), -_LEVELS, _LEVELS).astype(np.float32)
        self._error = float(np.linalg.norm(table - codes * self._scale, axis=1).max())
        self._index = faiss.IndexScalarQuantizer(
            table.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        self._index.add(codes)

    def best(self, vector: Floats, k: int, *, without: Rows) -> tuple[Rows, Floats]:
        """See `Search`."""
        query = np.zeros((1, len(self._scale)), dtype=np.float32)
        query[0, : len(vector)], query[0, len(vector)] = vector, 1.0
        # The last term is for the rounding of single-precision sums.
        slack = (self._error + 1e-5 * float(np.abs(self._release.bias).max())) * float(np.linalg.norm(query)) * 1.001
        wanted = k + len(without) + _SPARE
        for _ in range(_DOUBLINGS):
            if wanted >= self._release.n_items // 4:
                break
            quantised, rows = self._index.search(query * self._scale, wanted)
            best, scores = _ranked(self._release, vector, rows[0], k, without=without)
            if len(best) == k and scores[-1] >= quantised[0, -1] + slack:
                return best, scores
            wanted *= 2
        return self._exact.best(vector, k, without=without)


class GraphSearch:
    """Candidates from a graph (HNSW, arXiv 1603.09320), real scores: fast, and a few items may be missed."""

    def __init__(self, release: Release) -> None:
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
        return _ranked(self._release, vector, rows[0][rows[0] >= 0], k, without=without)


def _ranked(release: Release, vector: Floats, rows: Rows, k: int, *, without: Rows) -> tuple[Rows, Floats]:
    """The k best of the candidates `rows` by their exact scores."""
    candidates = np.setdiff1d(rows, without)
    scores = release.vectors[candidates] @ vector + release.bias[candidates]
    best = top_rows(scores, k)
    return candidates[best], scores[best]


def _with_bias(release: Release) -> Floats:
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
