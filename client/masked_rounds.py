"""The silo's half of a masked round over messages: each exchange in its turn, each state used once.

The state between two exchanges is in Flower's context of the run, which a node keeps in memory. It is taken out
before anything is done with it, and put back by the step that succeeds: after an error, or the last step, nothing is
left. Whoever holds a copy of it cannot use it again: the ledger's database knows which state is next (see
`ledger.transactions`).
"""

from flwr.app import ConfigRecord, Context

from client.context import training_of
from client.state import Silo
from recsys_fed.federation.messages import MaskedUpdate, Request
from recsys_fed.federation.noise_split import check_terms_of
from recsys_fed.federation.release import OnFailure
from recsys_fed.federation.secure_aggregation import silo as protocol
from recsys_fed.federation.secure_aggregation.errors import TermsError
from recsys_fed.federation.secure_aggregation.silo_state import (
    Advertised,
    Confirmed,
    KeptState,
    Masked,
    Shared,
    state_of,
    state_to_bytes,
)
from recsys_fed.federation.secure_aggregation.terms import RoundTerms
from recsys_fed.signing import sha256

_RECORD, _KEY = "masked-round", "state"
# Before the bytes of a state that is used up, while the answer to it is computed.
_CLAIMED = b"claimed"


def advertise(silo: Silo, context: Context, terms_message: bytes) -> bytes:
    """Answer a round's terms with fresh keys; a round that was under way before is over.

    Raises:
        TermsError, NotAdmittedError: this silo does not accept the terms.
    """
    _take(context)
    terms = RoundTerms.from_bytes(terms_message)
    if silo.accepted is None:
        raise TermsError("Secure aggregation is disabled in this silo.")
    if terms.run != training_of(context):
        raise TermsError(f"Expected terms of run {training_of(context)}, got some of another run.")
    state, message = protocol.advertise(terms, silo.key, silo.accepted)
    content = state_to_bytes(state)
    silo.ledger.begin_states(run=silo.run_in_ledger(terms.run), state=sha256(content))
    _keep(context, content)
    return message


def share(silo: Silo, context: Context, roster: bytes) -> bytes:
    """Check everybody's keys and answer with sealed shares."""
    used = _take(context)
    state, message = protocol.share(state_of(used, Advertised), silo.key, roster)
    _keep(context, _replace_state(silo, context, used, state))
    return message


def masked_release(
    silo: Silo, context: Context, request: Request, delivery: bytes, *, on_failure: OnFailure
) -> MaskedUpdate:
    """Open the neighbours' shares, and answer the request with masked integers.

    Guarantees: nothing private is read before the shares have opened and the release is charged; from then on there
    is an answer, whatever the private data is; the state is used before this returns. The integers are masked once
    and kept nowhere: whoever asks again, with keys of another attempt, gets other noise, which is charged again.

    Raises:
        SecureAggregationError: the shares or the request do not hold; nothing is charged.
        BudgetExceededError: it would exceed the ledger's limit; nothing is charged.
    """
    silo.check_request(request, run=training_of(context))
    used = _take(context)
    ready = protocol.receive(state_of(used, Shared), silo.key, delivery)
    check_terms_of(request, ready.roster.terms)
    # The state is used up before the charge: of two processes with a copy of it one is charged.
    claim = _CLAIMED + used
    silo.ledger.consume_state(run=silo.run_in_ledger(training_of(context)), used=sha256(used), after=sha256(claim))
    masked = silo.masked_input(request, run=training_of(context), on_failure=on_failure)
    state, message = protocol.mask(ready, silo.key, masked.integers)
    _keep(context, _replace_state(silo, context, claim, state))
    return MaskedUpdate(
        silo=silo.name,
        content=message,
        event=masked.event,
        catalogue_hash=request.catalogue_hash,
        nonce=masked.nonce,
    )


def confirm(silo: Silo, context: Context, survivors: bytes) -> bytes:
    """Sign who survived."""
    used = _take(context)
    state, message = protocol.confirm(state_of(used, Masked), silo.key, survivors)
    _keep(context, _replace_state(silo, context, used, state))
    return message


def unmask(silo: Silo, context: Context, confirmations: bytes) -> bytes:
    """Reveal one share of each neighbour's, if enough silos have signed the same survivors."""
    used = _take(context)
    message = protocol.unmask(state_of(used, Confirmed), silo.key, confirmations)
    silo.ledger.consume_state(run=silo.run_in_ledger(training_of(context)), used=sha256(used), after="")
    return message


def _take(context: Context) -> bytes:
    """The state, which is no longer in the context then; b"" if there is none."""
    record = context.state.config_records.get(_RECORD)
    if record is None:
        return b""
    content = record[_KEY]
    del context.state[_RECORD]
    return content if isinstance(content, bytes) else b""


def _replace_state(silo: Silo, context: Context, used: bytes, after: KeptState) -> bytes:
    """Use the state for good; the bytes of the one after it."""
    content = state_to_bytes(after)
    silo.ledger.consume_state(run=silo.run_in_ledger(training_of(context)), used=sha256(used), after=sha256(content))
    return content


def _keep(context: Context, content: bytes) -> None:
    context.state[_RECORD] = ConfigRecord({_KEY: content})
