"""Unknown items mapped to known ones by their words: TF-IDF cosine over the public titles and categories."""

import math
import re
from collections import Counter
from functools import cached_property

import numpy as np

from recsys_fed.serving.release import Floats, Release

_WORD = re.compile(r"[^\W_]+")


class TitleIndex:
    """The words of a catalogue. It is public, so a match says nothing about any user."""

    def __init__(self, release: Release) -> None:
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


def similar(release: Release, row: int) -> Floats:
    """Cosine of every item's vector to that of `row`, float32 [n_items]; 0 where a vector is zero."""
    norms = np.maximum(release.norms * release.norms[row], np.finfo(np.float32).tiny)
    return np.asarray(release.vectors @ release.vectors[row] / norms, dtype=np.float32)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
