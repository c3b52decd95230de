"""Search through faiss: int8 tables with exact re-ranking, and a graph for millions of items (`recsys-fed[ann]`)."""

from typing import Any

import numpy as np

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving.release import Floats, Release, Rows
from recsys_fed.serving.search import ExactSearch, Search, top_rows

# faiss's fastest int8 product takes tables whose width is a multiple of this.
_WIDTH = 64
_LEVELS = 127.0
# Candidates beyond the list, at first; and how often more may be taken before all scores are computed.
_SPARE, _ATTEMPTS = 100, 3
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
    """Candidates from int8 tables, scores from the real one; the answer is that of `ExactSearch`.

    With t_i = (v_i, b_i) and q = (u, 1), codes c_i and a scale a_k for each column, t_i is about a * c_i; and with
    codes p and a scale s, a * q is about s p. faiss computes s p c_i, which by Cauchy and Schwarz is off by at most

        e = max_i ||t_i - a * c_i|| ||q||  +  max_i ||c_i|| ||a * q - s p||

    So a list is exact if its last score is above the last candidate's quantised score + e; otherwise more candidates
    are taken, and in the end all scores.
    """

    def __init__(self, release: Release) -> None:
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
            best, scores = _ranked(self._release, vector, rows[0], k, without=without)
            if len(best) == k and scores[-1] > unit * quantised[0, -1] + slack:
                return best, scores
            wanted *= 4
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
