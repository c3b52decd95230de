"""Attacks that a lawyer asks about: was this person in the data, and what did this person do?

*Membership inference* from the released item embeddings alone: does the model know this history too well? One half of
a history is folded in and the other half is ranked; the score is how far the second half stands above all items, in
standard deviations. A model that has learned a person's co-occurrences by heart scores them higher. How well scores
tell members from others is said as AUC and advantage, each with an interval.

*Reconstruction* of a person's history: from what one silo sends, and from a list that the person is shown. The
attacker on updates knows everybody else of the silo and takes the known part off the item counts that it sees; what
is left is the person's own contribution, plus noise, plus whatever other silos are mixed in. Item i is scored by

    log p_i / (1 - p_i) + (r_i c - c^2 / 2) / v_i,   c = 1 / sqrt(length of the history)

with r_i what is left, v_i the variance of noise and of other silos on it, and p_i how popular the item is in the
silo: Bayes' rule for one item. The attacker knows the length of the history and names that many items.

An audited run is attacked beside the same run without noise as reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.stats import norm, rankdata

from recsys_fed import checks
from recsys_fed.audit._audited_run import AuditedRun
from recsys_fed.audit._mechanism import Mechanism, quiet
from recsys_fed.errors import ConfigurationError
from recsys_fed.evaluation.ranking import top_items
from recsys_fed.federation.messages import Request
from recsys_fed.federation.release import SiloUsers
from recsys_fed.models.histories import histories_of
from recsys_fed.models.items import ItemEmbeddings, scores, user_vectors

_LEAST = 4
_BATCH = 512
Rows = npt.NDArray[np.float64]
# First release number of replays of attacks, apart from those of checks.
_RELEASE = 50_000


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A figure with the limits of its two-sided interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class _Separation:
    """AUC (0.5: coin tossing) and advantage (true less false positive rate; 0: coin tossing).

    The advantage is that of the threshold that is best on one half of the scores, measured on the other half.
    """

    auc: _Figure
    advantage: _Figure
    members: int
    others: int

    def to_record(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)


def _separation(
    members: npt.NDArray[np.float64], others: npt.NDArray[np.float64], *, confidence: float = 0.95
) -> _Separation:
    """Separation of two groups of scores, four of each or more.

    AUC by rank sums with DeLong's variance (1988); ties count half.
    """
    checks.fraction(confidence=confidence)
    if min(len(members), len(others)) < _LEAST:
        raise ConfigurationError(f"Expected {_LEAST} scores of each kind, got {len(members)} and {len(others)}.")
    z = float(norm.ppf((1 + confidence) / 2))
    return _Separation(
        auc=_auc(members, others, z=z),
        advantage=_advantage(members, others, z=z),
        members=len(members),
        others=len(others),
    )


def _mean_figure(values: npt.NDArray[np.float64], *, confidence: float = 0.95) -> _Figure:
    """Mean over people with a normal interval."""
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    half = float(norm.ppf((1 + confidence) / 2)) * spread / len(values) ** 0.5
    return _Figure(value=mean, low=mean - half, high=mean + half)


def _auc(members: npt.NDArray[np.float64], others: npt.NDArray[np.float64], *, z: float) -> _Figure:
    n, m = len(members), len(others)
    ranks = rankdata(np.concatenate([members, others]))
    # Placement of each score among those of the other group.
    above = (ranks[:n] - rankdata(members)) / m
    below = 1 - (ranks[n:] - rankdata(others)) / n
    value = float(above.mean())
    half = z * float(np.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / m))
    return _Figure(value=value, low=max(0.0, value - half), high=min(1.0, value + half))


def _advantage(members: npt.NDArray[np.float64], others: npt.NDArray[np.float64], *, z: float) -> _Figure:
    candidates = np.unique(np.concatenate([members[::2], others[::2]]))
    rates = [np.mean(members[::2] >= t) - np.mean(others[::2] >= t) for t in candidates]
    threshold = candidates[int(np.argmax(rates))]
    hits, alarms = members[1::2] >= threshold, others[1::2] >= threshold
    value = float(hits.mean() - alarms.mean())
    half = z * float(np.sqrt(hits.var() / len(hits) + alarms.var() / len(alarms)))
    return _Figure(value=value, low=max(-1.0, value - half), high=min(1.0, value + half))


def _membership_scores(model: ItemEmbeddings, histories: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """One score a person, float64 [n_users]; a history of fewer than two items scores 0."""
    found = np.zeros(histories.shape[0])
    for start in range(0, histories.shape[0], _BATCH):
        part = histories[start : start + _BATCH].tocsr()
        first, second = _halves(part)
        for folded, ranked in ((first, second), (second, first)):
            found[start : start + part.shape[0]] += _standing(model, folded, ranked) / 2
    return found


def _membership(
    models: Mapping[str, ItemEmbeddings], groups: Mapping[str, tuple[sparse.csr_matrix, sparse.csr_matrix]]
) -> dict[str, dict[str, _Separation]]:
    """Separation of members and others by model and by group of people (members, others)."""
    return {
        name: {
            group: _separation(_membership_scores(model, members), _membership_scores(model, others))
            for group, (members, others) in groups.items()
        }
        for name, model in models.items()
    }


def _halves(matrix: sparse.csr_matrix) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Every second interaction of each user, and the others."""
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr))
    halves = []
    for parity in (0, 1):
        half = matrix.copy()
        half.data = (place % 2 == parity).astype(np.float32)
        half.eliminate_zeros()
        halves.append(half)
    return halves[0], halves[1]


def _standing(model: ItemEmbeddings, folded: sparse.csr_matrix, ranked: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    table = scores(model, user_vectors(model, histories_of(folded))).double().numpy()
    sizes = np.diff(ranked.indptr)
    own = np.asarray(ranked.multiply(table).sum(axis=1)).ravel() / np.maximum(sizes, 1)
    spread = np.maximum(table.std(axis=1), 1e-12)
    return np.asarray(np.where((sizes > 0) & (np.diff(folded.indptr) > 0), (own - table.mean(axis=1)) / spread, 0.0))


@dataclass(frozen=True, kw_only=True)
class _Recovered:
    """Share of the histories' items that are named, and AUC over all items; means over people."""

    share: _Figure
    auc: _Figure
    people: int

    def to_record(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class _KnownSilo:
    """What the attacker knows: the silo's other users, and how many silos are mixed into what it sees.

    Attributes:
        others: csr, histories of the silo's other users.
        mixed_silos: silos whose unknown users are in the sum as well.
    """

    others: sparse.csr_matrix
    mixed_silos: int = 0

    @property
    def prior(self) -> Rows:
        """log odds of each item in a history of this silo, smoothed."""
        held = np.asarray(self.others.sum(axis=0)).ravel()
        share = (held + 0.5) / (self.others.shape[0] + 1.0)
        return np.asarray(np.log(share / (1 - np.minimum(share, 1 - 1e-6))))

    def left_over(self, seen: Rows, *, known: Rows) -> Rows:
        """What is left of counts [n_items] without the known users, and without what other silos probably add."""
        return np.asarray(seen - known * (1 + self.mixed_silos))

    def variance(self, noise: float) -> Rows:
        """Of what is left, [n_items]: noise, and chance in which users other silos have."""
        lengths = np.maximum(np.diff(self.others.indptr), 1)
        squares = np.asarray(self.others.multiply(1 / lengths[:, None]).sum(axis=0)).ravel()
        # An item that the silo does not have may be in others: half a user of the usual length has it.
        squares = squares + 0.5 * float(np.mean(1 / lengths))
        # The estimate of n silos from one has their variance and n^2 times that of one.
        return np.asarray(noise**2 + squares * self.mixed_silos * (1 + self.mixed_silos) + 1e-6)


def _from_counts(silo: _KnownSilo, left: Rows, *, length: int, noise: float) -> Rows:
    """Score of each item, [n_items]."""
    size = 1 / max(length, 1) ** 0.5
    return np.asarray(silo.prior + (left * size - size**2 / 2) / silo.variance(noise))


def _from_lists(model: ItemEmbeddings, histories: sparse.csr_matrix, *, k: int) -> Rows:
    """Score of each item from the k items that each person is shown, [n_users, n_items].

    The person's vector follows from the own history, which stays in the silo; the attacker sees the list and the
    model, and ranks items by their likeness to it. Shown items are not in the history.
    """
    table = scores(model, user_vectors(model, histories_of(histories)))
    dense = np.asarray(histories.todense(), dtype=bool)
    table[np.nonzero(dense)] = -np.inf
    shown = top_items(table, k).numpy()
    vectors = model.vectors.double().numpy()
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    guesses = vectors[shown].mean(axis=1) @ vectors.T
    np.put_along_axis(guesses, shown, -np.inf, axis=1)
    return np.asarray(guesses)


def _compare_with_histories(guesses: Rows, histories: sparse.csr_matrix) -> _Recovered:
    """Compare scores [n_users, n_items] with the histories; as many items are named as the history has."""
    shares, areas = [], []
    for row in range(histories.shape[0]):
        own = histories.indices[histories.indptr[row] : histories.indptr[row + 1]]
        if not len(own) or len(own) == histories.shape[1]:
            continue
        order = np.argsort(-guesses[row], kind="stable")[: len(own)]
        shares.append(len(np.intersect1d(order, own)) / len(own))
        ranks = rankdata(guesses[row])
        others = histories.shape[1] - len(own)
        areas.append((ranks[own].sum() - len(own) * (len(own) + 1) / 2) / (len(own) * others))
    return _Recovered(share=_mean_figure(np.array(shares)), auc=_mean_figure(np.array(areas)), people=len(shares))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Victims:
    """People who are in nobody's data but join the first silo one at a time.

    Attributes:
        histories: csr, theirs.
        silos: csr histories of every silo's users.
    """

    histories: sparse.csr_matrix
    silos: Sequence[sparse.csr_matrix]


def attacks_on(
    run: AuditedRun, reference: AuditedRun, mechanism: Mechanism, *, people: int, list_length: int
) -> dict[str, Any]:
    """The record of all attacks: membership, reconstruction from updates, reconstruction from lists."""
    placed = run.placed
    train = placed.federation.train
    victims = _Victims(
        histories=placed.withheld[:people],
        silos=[train[rows] for rows in placed.others],
    )
    models = {"as deployed": run.model, "without noise": reference.model}
    inside = placed.canaries.included
    members = train[np.concatenate(placed.others)][: placed.withheld.shape[0]]
    groups = {
        "canaries": (
            placed.canaries.histories[np.flatnonzero(inside)],
            placed.canaries.histories[np.flatnonzero(~inside)],
        ),
        "ordinary users": (members, placed.withheld),
    }
    found = _membership(models, groups)
    updates = _from_updates(run.rounds[0].request, mechanism, victims)
    lists = {
        name: _compare_with_histories(_from_lists(model, victims.histories, k=list_length), victims.histories)
        for name, model in models.items()
    }
    return {
        "membership": {
            name: {group: one.to_record() for group, one in groups.items()} for name, groups in found.items()
        },
        "reconstruction_from_update": {name: one.to_record() for name, one in updates.items()},
        "reconstruction_from_lists": {name: one.to_record() for name, one in lists.items()},
        "popularity_guessing": _popularity_guessing(victims).to_record(),
    }


def _from_updates(request: Request, mechanism: Mechanism, victims: _Victims) -> dict[str, _Recovered]:
    """Reconstruction from the item counts of one silo, or from the sum over all silos, with and without noise.

    Noise is whole in the silo's own message, and once in the sum, as under secure aggregation.
    """
    asked = replace(request, noise_share=1.0)
    known = _KnownSilo(others=victims.silos[0])
    mixed = replace(known, mixed_silos=len(victims.silos) - 1)
    elsewhere = sum(
        mechanism.release(quiet(asked), _count_items(users), silo=index).astype(np.float64)
        for index, users in enumerate(victims.silos[1:], start=1)
    )
    found = {}
    for name, silo, noisy in (
        ("one silo's update, without noise", known, False),
        ("one silo's update, with noise", known, True),
        ("the sum over silos, without noise", mixed, False),
        ("the sum over silos, with noise", mixed, True),
    ):
        guesses = _guesses(asked, mechanism, victims, silo=silo, elsewhere=elsewhere, noisy=noisy)
        found[name] = _compare_with_histories(guesses, victims.histories)
    return found


def _guesses(
    request: Request, mechanism: Mechanism, victims: _Victims, *, silo: _KnownSilo, elsewhere: Any, noisy: bool
) -> Any:
    """Scores [n_people, n_items]; each person joins the silo in a release of its own."""
    base = _count_items(silo.others)
    known = mechanism.release(quiet(request), base)[:, 0] * request.grid_step
    asked = request if noisy else quiet(request)
    noise = request.mechanism.standard_deviation * request.grid_step if noisy else request.grid_step
    mixed = np.asarray(elsewhere)[:, 0] * request.grid_step if silo.mixed_silos else 0.0
    rows = []
    for person in range(victims.histories.shape[0]):
        history = victims.histories[person]
        joined = _count_items(sparse.vstack([silo.others, history], format="csr"))
        seen = mechanism.release(asked, joined, release=_RELEASE + person)[:, 0] * request.grid_step
        left = silo.left_over(np.asarray(seen + mixed, dtype=np.float64), known=np.asarray(known, dtype=np.float64))
        rows.append(_from_counts(silo, left, length=history.nnz, noise=noise))
    return np.array(rows)


def _count_items(matrix: sparse.csr_matrix) -> SiloUsers:
    return SiloUsers(histories=histories_of(matrix))


def _popularity_guessing(victims: _Victims) -> _Recovered:
    """The items that most users of the silo have, for everybody."""
    prior = _KnownSilo(others=victims.silos[0]).prior
    return _compare_with_histories(np.tile(prior, (victims.histories.shape[0], 1)), victims.histories)
