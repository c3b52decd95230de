"""What a silo knows of its users and of a request, as effects on items beside the score. Private to the silo.

    r(u, i, c) = score(u, i) + sum_k w_k f_k(value of attribute k of u, i) + sum_j w_j f_j(value of context j in c, i)

An effect says how much more often users (or interactions) of a value are with an item than all are:

    f(a, i) = log((n_ai + KAPPA) / (E_ai + KAPPA)),    E_ai = n_a. n_.i / n_..

with n_ai sums over the silo's histories, in which one of n interactions counts n^-1/2, in units of the mean
interaction. KAPPA interactions are the prior: what is seldom has no effect. Where nothing is known there is none. A
constant orders nothing, so there is none either. The weights w are chosen on users who were not fitted to
(`choice.choose_fusion`), in standard deviations of the score.

Each value has an effect for every item: an attribute times an item is of second order, and of full rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys_fed.errors import ConfigurationError

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.object_]
KAPPA = 10.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """What a silo knows beside its histories, csr [n_users, n_items]. Private to the silo.

    Attributes:
        attributes: name -> value of each user, object array of str [n_users]; "" where it is not known.
        contexts: name -> value of each interaction, beside the entries of the histories, [n_interactions].

    Raises:
        ConfigurationError: a name is both.
    """

    attributes: Mapping[str, Texts] = field(default_factory=dict)
    contexts: Mapping[str, Texts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        both = self.attributes.keys() & self.contexts.keys()
        if both:
            raise ConfigurationError(f"Expected attributes and contexts of different names, got {min(both)} as both.")

    @property
    def names(self) -> tuple[str, ...]:
        """Attributes, then contexts."""
        return (*self.attributes, *self.contexts)

    def values(self, name: str) -> tuple[str, ...]:
        """Those that occur, in order."""
        column = self.attributes[name] if name in self.attributes else self.contexts[name]
        return tuple(sorted({text for text in column if text}))


@dataclass(frozen=True, kw_only=True, eq=False)
class Effects:
    """Of one attribute or context: values, and what each adds to the scores of items, float32 [n_values, n_items]."""

    values: tuple[str, ...]
    table: npt.NDArray[np.float32]

    def of(self, values: Sequence[str] | Texts) -> npt.NDArray[np.float32]:
        """What is added for each of the values given, [n, n_items]; nothing for one that was not fitted."""
        place = {value: row for row, value in enumerate(self.values)}
        rows = np.array([place.get(value, len(place)) for value in values], dtype=np.int64)
        return np.vstack([self.table, np.zeros((1, self.table.shape[1]), dtype=np.float32)])[rows]


def fit_effects(histories: sparse.csr_matrix, told: Told, name: str, *, users: npt.NDArray[np.int64]) -> Effects:
    """The effects f of one attribute or context on the histories of some users, with a weight of 1.

    Guarantees: none. They depend on the silo's users without noise and must never leave the silo.

    Args:
        histories: csr [n_users, n_items] of all that is told of. told: see there. name: of which.
        users: rows that are fitted to, each once.
    """
    values = told.values(name)
    place = {value: row for row, value in enumerate(values)}
    sizes = np.diff(histories.indptr)
    row = np.repeat(np.arange(histories.shape[0]), sizes)
    known = told.attributes[name][row] if name in told.attributes else told.contexts[name]
    code = np.array([place.get(text, -1) for text in known], dtype=np.int64)
    counted = np.isin(row, users) & (code >= 0)
    weight = sizes[row[counted]] ** -0.5
    counts = sparse.csr_matrix(
        (weight, (code[counted], histories.indices[counted])), shape=(len(values), histories.shape[1])
    ).toarray()
    counts /= weight.mean() if len(weight) else 1.0
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / max(counts.sum(), 1.0)
    return Effects(values=values, table=np.log((counts + KAPPA) / (expected + KAPPA)).astype(np.float32))


@dataclass(frozen=True, kw_only=True, eq=False)
class Fusion:
    """Effects with their weights, in the units of the score that they are added to. Private to the silo.

    Attributes:
        effects: by name of the attribute or context.
    """

    effects: Mapping[str, Effects]

    def add_to(self, scores: Floats, told: Mapping[str, Sequence[str] | Texts]) -> Floats:
        """Scores [n, n_items] with the effects of what is told: name -> n values. Other names add nothing."""
        for name, effects in self.effects.items():
            if name in told:
                scores = scores + effects.of(told[name])
        return scores


def fit_fusion(
    histories: sparse.csr_matrix, told: Told, weights: Mapping[str, float], *, spread: float
) -> Fusion | None:
    """Effects of all users by the weights that were chosen, for scores of this spread; None where none was taken."""
    users = np.arange(histories.shape[0])
    found: dict[str, Effects] = {}
    for name, weight in weights.items():
        effects = fit_effects(histories, told, name, users=users)
        found[name] = Effects(values=effects.values, table=np.float32(weight * spread) * effects.table)
    return Fusion(effects=found) if found else None
