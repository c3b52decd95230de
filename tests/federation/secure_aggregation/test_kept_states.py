"""A silo whose process ends after every message goes on from the bytes of its state, in one order only."""

import numpy as np
import pytest
from masked_round import Round, identities, inputs_of, terms_of

from recsys_fed.errors import DataFormatError
from recsys_fed.federation.secure_aggregation.errors import ReplayedMessageError, objection_of
from recsys_fed.federation.secure_aggregation.silo_state import (
    Advertised,
    Confirmed,
    Masked,
    Shared,
    state_of,
    state_to_bytes,
)

KINDS = (Advertised, Shared, Masked, Confirmed)


def through_bytes(round_: Round) -> dict[type, bytes]:
    """Replace every silo's state by what its bytes say; the bytes of silo 0's, by kind."""
    kept = {}
    for i, state in round_.states.items():
        content = state_to_bytes(state)
        round_.states[i] = state_of(content, type(state))
        assert state_to_bytes(round_.states[i]) == content
        if i == 0:
            kept[type(state)] = content
    return kept


@pytest.mark.parametrize(("n", "drops"), [(4, {}), (5, {1: 2, 3: 3}), (40, {7: 2})])
def test_a_round_in_which_every_step_is_another_process(n, drops):
    terms = terms_of(identities(n), threshold=max(3, n - 5), entries=20) if n == 40 else terms_of(identities(n))
    inputs, kept = inputs_of(terms), {}
    round_ = Round(identities(n), terms, drops=drops)
    round_.keys_step()
    kept |= through_bytes(round_)
    round_.shares_step()
    kept |= through_bytes(round_)
    round_.input_step(inputs)
    kept |= through_bytes(round_)
    round_.confirmation_step()
    kept |= through_bytes(round_)
    np.testing.assert_array_equal(round_.unmasking_step(), round_.survivors(inputs))
    assert set(kept) == set(KINDS)
    for kind, content in kept.items():
        for other in set(KINDS) - {kind}:
            with pytest.raises(ReplayedMessageError, match="in its turn"):
                state_of(content, other)


def test_no_state_is_no_round_and_other_bytes_are_refused():
    with pytest.raises(ReplayedMessageError, match="state is none"):
        state_of(b"", Masked)
    with pytest.raises(DataFormatError):
        state_of(b'{"held":{},"roster":{},"sharers":[],"state":"Masked"}', Masked)
    with pytest.raises(DataFormatError):
        state_of(b"nonsense", Masked)


def test_what_is_kept_after_the_input_does_not_hold_the_silos_own_secrets():
    """Its self mask and its mask key are with its neighbours then, in shares; it keeps one share of each."""
    round_ = Round(identities(4), terms_of(identities(4)))
    round_.keys_step()
    secrets = round_.states[0].secrets
    round_.shares_step()
    round_.input_step(inputs_of(round_.terms))
    content = state_to_bytes(round_.states[0])
    for secret in (secrets.sealing, secrets.masking, secrets.self_mask):
        assert secret.hex().encode() not in content


def test_an_objection_travels_as_its_name_and_text():
    error = objection_of("ForgedShareError: Expected the share")
    assert (type(error).__name__, str(error)) == ("ForgedShareError", "Expected the share")
    assert objection_of("BudgetExceededError: Expected") is None
    assert objection_of("anything") is None
