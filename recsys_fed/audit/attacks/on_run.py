"""All attacks on one audited run, against the same run without noise as reference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from recsys_fed.audit.attacks.membership import membership
from recsys_fed.audit.attacks.reconstruction import KnownSilo, Recovered, from_counts, from_lists, recovered
from recsys_fed.audit.audited_run import AuditedRun
from recsys_fed.audit.mechanisms.mechanism import Mechanism, quiet
from recsys_fed.federation.messages import Request
from recsys_fed.federation.release import SiloUsers
from recsys_fed.models.histories import histories_of

# First release number of replays of attacks, apart from those of instruments.
_RELEASE = 50_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Victims:
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
    victims = Victims(
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
    found = membership(models, groups)
    updates = from_updates(run.rounds[0].request, mechanism, victims)
    lists = {
        name: recovered(from_lists(model, victims.histories, k=list_length), victims.histories)
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


def from_updates(request: Request, mechanism: Mechanism, victims: Victims) -> dict[str, Recovered]:
    """Reconstruction from the item counts of one silo, or from the sum over all silos, with and without noise.

    Noise is whole in the silo's own message, and once in the sum, as under secure aggregation.
    """
    asked = replace(request, noise_share=1.0)
    known = KnownSilo(others=victims.silos[0])
    mixed = replace(known, mixed_silos=len(victims.silos) - 1)
    elsewhere = sum(
        mechanism.release(quiet(asked), _counted(users), silo=index).astype(np.float64)
        for index, users in enumerate(victims.silos[1:], start=1)
    )
    found = {}
    for name, silo, noised in (
        ("one silo's update, without noise", known, False),
        ("one silo's update, with noise", known, True),
        ("the sum over silos, without noise", mixed, False),
        ("the sum over silos, with noise", mixed, True),
    ):
        guesses = _guesses(asked, mechanism, victims, silo=silo, elsewhere=elsewhere, noised=noised)
        found[name] = recovered(guesses, victims.histories)
    return found


def _guesses(
    request: Request, mechanism: Mechanism, victims: Victims, *, silo: KnownSilo, elsewhere: Any, noised: bool
) -> Any:
    """Scores [n_people, n_items]; each person joins the silo in a release of its own."""
    base = _counted(silo.others)
    known = mechanism.release(quiet(request), base)[:, 0] * request.grid_step
    asked = request if noised else quiet(request)
    noise = request.mechanism.standard_deviation * request.grid_step if noised else request.grid_step
    mixed = np.asarray(elsewhere)[:, 0] * request.grid_step if silo.mixed_silos else 0.0
    rows = []
    for person in range(victims.histories.shape[0]):
        history = victims.histories[person]
        joined = _counted(sparse.vstack([silo.others, history], format="csr"))
        seen = mechanism.release(asked, joined, release=_RELEASE + person)[:, 0] * request.grid_step
        left = silo.left_over(np.asarray(seen + mixed, dtype=np.float64), known=np.asarray(known, dtype=np.float64))
        rows.append(from_counts(silo, left, length=history.nnz, noise=noise))
    return np.array(rows)


def _counted(matrix: sparse.csr_matrix) -> SiloUsers:
    return SiloUsers(histories=histories_of(matrix))


def _popularity_guessing(victims: Victims) -> Recovered:
    """The items that most users of the silo have, for everybody."""
    prior = KnownSilo(others=victims.silos[0]).prior
    return recovered(np.tile(prior, (victims.histories.shape[0], 1)), victims.histories)
