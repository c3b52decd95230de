"""ClientApp of one silo: greet, and answer each round's request with a noisy sum, masked where the round is.

An exception's text may hold what must not leave a silo (a path, a row, a count), so the server gets to see
the text of refusals only, which are about its own request; everything else stays in the silo's log.
"""

import traceback
from collections.abc import Callable
from functools import wraps
from logging import ERROR, WARNING

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.logger import log

from client import masked_rounds
from client.context import message_log, open_silo, public_facts, training_of
from client.deployed import DeployedSilo
from client.state import Silo
from recsys_fed.errors import BudgetExceededError, ProtocolError
from recsys_fed.federation.admission import sign_greeting
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.plan import check_plan_version
from recsys_fed.federation.release import OnFailure
from recsys_fed.federation.wire import (
    Invitation,
    blob_from_records,
    blob_to_records,
    conclusion_from_records,
    greeting_to_records,
    invitation_from_records,
    masked_request_from_records,
    masked_to_records,
    request_from_records,
    update_to_records,
)
from recsys_fed.ledger.records import certify_run
from recsys_fed.models.device import return_large_arrays, use_threads
from recsys_fed.signing import sha256

# Flower's code for an exception in a ClientApp.
_RAISED = 1
_Handler = Callable[[Message, Context], Message]

app = ClientApp()


def _operators_note(asked: str, message: Message, context: Context) -> OnFailure:
    """Tell the silo's operator, and nobody else, why an answer holds nobody's data."""

    def note(error: Exception) -> None:
        message_log(context).failed(asked, error, **public_facts(message, context))
        log(ERROR, "This silo answers for nobody:\n%s", "".join(traceback.format_exception(error)))

    return note


def _guard(asked: str) -> Callable[[_Handler], _Handler]:
    """Turn exceptions into error replies that say no more than the server may know; log what became of a message."""

    def guard(handler: _Handler) -> _Handler:
        @wraps(handler)
        def guarded(message: Message, context: Context) -> Message:
            noted, facts = message_log(context), public_facts(message, context)
            try:
                reply = handler(message, context)
            except (BudgetExceededError, ProtocolError) as error:
                noted.refused(asked, error, **facts)
                log(WARNING, "This silo refused to answer: %.400s", error)
                reason = f"{type(error).__name__}: {error}"
            except Exception as error:  # noqa: BLE001  (whatever it is, its text stays here)
                noted.failed(asked, error, **facts)
                log(ERROR, "This silo could not answer:\n%s", traceback.format_exc())
                reason = "the silo could not answer; the reason is in its own log"
            else:
                noted.answered(asked, **facts)
                return reply
            return Message(Error(code=_RAISED, reason=reason), reply_to=message)

        return guarded

    return guard


@app.query()
@_guard("greet")
def greet(message: Message, context: Context) -> Message:
    """Say which public catalogue this silo holds; nothing about its users, who are not looked at."""
    invitation = Invitation()
    if message.has_content() and len(message.content):
        invitation = invitation_from_records(message.content)
        check_plan_version(invitation.plan)
    silo = open_silo(context)
    silo.build_on(invitation.earlier, run=training_of(context))
    greeting = Greeting(
        silo=silo.name,
        catalogue_hash=silo.catalogue.content_hash,
        n_items=silo.catalogue.n_items,
        simulated=not isinstance(silo, DeployedSilo) or silo.settings.simulated,
    )
    signed = sign_greeting(greeting, silo.key, run=training_of(context), node=context.node_id)
    return Message(greeting_to_records(signed), reply_to=message)


@app.train()
@_guard("train")
def train(message: Message, context: Context) -> Message:
    """Answer a request: what it is first, then the charge, then the computation, then the release."""
    silo = open_silo(context)
    failed = _operators_note("train", message, context)
    use_threads(silo.config.threads)
    return_large_arrays()
    if "delivery" in message.content:
        request, delivery = masked_request_from_records(message.content)
        masked = masked_rounds.masked_release(silo, context, request, delivery, on_failure=failed)
        return Message(masked_to_records(masked), reply_to=message)
    request = request_from_records(message.content)
    update = silo.release(request, run=training_of(context), on_failure=failed)
    return Message(update_to_records(update), reply_to=message)


# The exchanges of a masked round, around `train`: which message is asked, which one answers, and what is done.
_EXCHANGES: dict[str, tuple[str, str, Callable[[Silo, Context, bytes], bytes]]] = {
    "advertise": ("terms", "keys", masked_rounds.advertise),
    "share": ("roster", "shares", masked_rounds.share),
    "confirm": ("survivors", "confirmation", masked_rounds.confirm),
    "unmask": ("confirmations", "unmasking", masked_rounds.unmask),
}


def _exchange(asked: str, answered: str, step: Callable[[Silo, Context, bytes], bytes]) -> _Handler:
    def handler(message: Message, context: Context) -> Message:
        content = step(open_silo(context), context, blob_from_records(asked, message.content))
        return Message(blob_to_records(answered, content), reply_to=message)

    return handler


for _action, _kind in _EXCHANGES.items():
    app.query(_action)(_guard(_action)(_exchange(*_kind)))


@app.query("conclude")
@_guard("conclude")
def conclude(message: Message, context: Context) -> Message:
    """Take the released item embeddings and sign what this silo did for them."""
    silo = open_silo(context)
    told = conclusion_from_records(message.content)
    model = told.model
    if isinstance(silo, DeployedSilo):
        silo.check_model(model)
        silo.check_earlier(told.earlier, run=training_of(context))
    certificate = certify_run(
        silo.ledger,
        silo.key,
        run=training_of(context),
        federation=silo.federation,
        model=sha256(model),
        tables=told.tables,
        earlier=told.earlier,
        user_weights=silo.config.user_weights,
    )
    if isinstance(silo, DeployedSilo):
        silo.state.take(model)
        try:
            silo.keep(model)
        except Exception as error:  # noqa: BLE001  (it may depend on users: the answer must not)
            _operators_note("conclude", message, context)(error)
    return Message(blob_to_records("certificate", certificate), reply_to=message)
