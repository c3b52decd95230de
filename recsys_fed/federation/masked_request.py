"""What ties the terms of a masked round to the request that it answers: the server makes them, silos check them."""

from collections.abc import Iterable

from recsys_fed.federation.secure_aggregation.errors import TermsError
from recsys_fed.federation.secure_aggregation.modulus import Modulus, modulus_for
from recsys_fed.federation.secure_aggregation.terms import RoundTerms
from recsys_fed.federation.update import Request, request_digest


def modulus_of(asked: Request, *, declared_users: int, n_silos: int) -> Modulus:
    """The bits that the sum over silos needs; `declared_users` are those of all silos together."""
    return modulus_for(
        declared_users=declared_users,
        clip_steps=asked.l2_clip_norm / asked.grid_step,
        n_silos=n_silos,
        noise_steps=asked.mechanism.standard_deviation,
        entries=asked.mechanism.entries,
    )


def round_terms(asked: Request, *, run: str, silos: Iterable[str], declared_users: int) -> RoundTerms:
    """Server: the terms of one attempt at a masked round among silos with these identity keys."""
    invited = tuple(sorted(silos))
    return RoundTerms(
        run=run,
        round=asked.round,
        attempt=asked.attempt,
        request=request_digest(asked),
        silos=invited,
        threshold=asked.threshold,
        colluding=asked.colluding,
        entries=asked.mechanism.entries,
        bits=modulus_of(asked, declared_users=declared_users, n_silos=len(invited)).bits,
    )


def check_terms_of(asked: Request, terms: RoundTerms) -> None:
    """Silo: the request must be the one that all silos of the round have agreed to answer.

    Raises:
        TermsError: it is another one.
    """
    facts: dict[str, tuple[object, object]] = {
        "request": (terms.request, request_digest(asked)),
        "round": (terms.round, asked.round),
        "attempt": (terms.attempt, asked.attempt),
        "threshold": (terms.threshold, asked.threshold),
        "number of colluding silos": (terms.colluding, asked.colluding),
        "number of entries": (terms.entries, asked.mechanism.entries),
    }
    for name, (expected, got) in facts.items():
        if expected != got:
            raise TermsError(f"Expected the {name} {expected} that all silos agreed to in this round, got {got}.")
