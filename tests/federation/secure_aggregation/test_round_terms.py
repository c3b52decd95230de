"""Terms of a round: one spelling, nothing out of range, and a silo keeps to what it insists on itself."""

from dataclasses import replace

import pytest
from masked_round import accepting, identities, terms_of

from recsys_fed.federation.secure_aggregation import silo
from recsys_fed.federation.secure_aggregation.errors import NotAdmittedError, TermsError
from recsys_fed.federation.secure_aggregation.terms import RoundTerms, check_terms, least_threshold

KEYS = identities(7)
TERMS = terms_of(KEYS, threshold=6, colluding=2)


def test_terms_travel_and_every_field_changes_their_digest() -> None:
    assert RoundTerms.from_bytes(TERMS.to_bytes()) == TERMS
    changes = {"run": "b", "round": 4, "attempt": 1, "request": "0" * 64, "threshold": 7, "colluding": 1}
    changes |= {"entries": 6, "bits": 34, "silos": TERMS.silos[:6]}
    digests = {replace(TERMS, **{name: value}).digest for name, value in changes.items()}
    assert len(digests | {TERMS.digest}) == len(changes) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"silos": TERMS.silos[:2], "threshold": 2, "colluding": 0},
        {"silos": tuple(reversed(TERMS.silos))},
        {"silos": (*TERMS.silos, TERMS.silos[-1])},
        {"silos": (*TERMS.silos[:-1], "z" * 64)},
        {"silos": (*TERMS.silos[:-1], TERMS.silos[-1].upper())},
        {"threshold": 4},
        {"threshold": 8},
        {"threshold": 6.0},
        {"threshold": True},
        {"colluding": 5},
        {"colluding": -1},
        {"bits": 40},
        {"bits": 1},
        {"entries": 0},
        {"entries": 2**31 + 1},
        {"round": -1},
        {"run": ""},
        {"request": "0" * 63},
    ],
)
def test_terms_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(TermsError, match="Expected"):
        replace(TERMS, **change)


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"[]", TERMS.to_bytes() + b" ", TERMS.to_bytes().replace(b'"version":1', b'"version":2')],
)
def test_other_texts_are_no_terms(text: bytes) -> None:
    with pytest.raises(TermsError):
        RoundTerms.from_bytes(text)


def test_two_sets_of_survivors_cannot_both_have_enough_signatures() -> None:
    for n in range(3, 60):
        for colluding in range(0, n - 1):
            threshold = least_threshold(n, colluding)
            honest_needed = 2 * (threshold - colluding)
            assert honest_needed > n - colluding
            assert threshold - colluding >= 2
            # One less would break one of the two.
            assert 2 * (threshold - 1 - colluding) <= n - colluding or threshold - 1 - colluding < 2


def test_a_silo_insists_on_its_own_settings() -> None:
    own, accepted = KEYS[0].public_key, accepting(TERMS)
    check_terms(TERMS, accepted, own=own)
    with pytest.raises(NotAdmittedError, match="admitted silos only") as caught:
        check_terms(TERMS, replace(accepted, admitted=frozenset(TERMS.silos[:-1])), own=own)
    assert caught.value.culprit == TERMS.silos[-1]
    with pytest.raises(TermsError, match="at least 5 silos whose noise counts"):
        check_terms(TERMS, replace(accepted, least_contributors=5), own=own)
    with pytest.raises(TermsError, match="colluding >= 3"):
        check_terms(TERMS, replace(accepted, least_colluding=3), own=own)
    with pytest.raises(NotAdmittedError):
        silo.advertise(terms_of(KEYS[:3]), KEYS[6], accepted)
