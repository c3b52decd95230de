"""ClientApp of one silo: greet, and answer each round's request with a noised sum.

An exception's text may hold what must not leave a silo (a path, a row, a count), so the server gets to see
the text of refusals only, which are about its own request; everything else stays in the silo's log.
"""

import traceback
from collections.abc import Callable
from functools import wraps
from logging import ERROR

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.logger import log

from client.state import open_silo, spent_events, with_event
from recsys_fed.errors import BudgetExceededError, ProtocolError
from recsys_fed.federation.release import answer, check_budget, release_event
from recsys_fed.federation.update import Greeting
from recsys_fed.federation.wire import greeting_to_records, request_from_records, update_to_records
from recsys_fed.models.device import use_threads

# Flower's code for an exception in a ClientApp.
_RAISED = 1
_Handler = Callable[[Message, Context], Message]

app = ClientApp()


def _guarded(handler: _Handler) -> _Handler:
    """Turn exceptions into error replies that say no more than the server may know."""

    @wraps(handler)
    def guarded(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except (BudgetExceededError, ProtocolError) as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception:  # noqa: BLE001  (whatever it is, its text stays here)
            log(ERROR, "This silo could not answer:\n%s", traceback.format_exc())
            reason = "the silo could not answer; the reason is in its own log"
        return Message(Error(code=_RAISED, reason=reason), reply_to=message)

    return guarded


@app.query()
@_guarded
def greet(message: Message, context: Context) -> Message:
    """Say which public catalogue this silo holds; nothing about its users."""
    silo = open_silo(context)
    greeting = Greeting(
        silo=silo.name,
        catalogue_hash=silo.catalogue.content_hash,
        n_items=silo.catalogue.n_items,
    )
    return Message(greeting_to_records(greeting), reply_to=message)


@app.train()
@_guarded
def train(message: Message, context: Context) -> Message:
    """Answer a request: the budget first, then the computation, the noise and the release."""
    silo = open_silo(context)
    use_threads(silo.config.threads)
    request = request_from_records(message.content)
    silo.check_request(request)
    spent = spent_events(context.state)
    # By the silo's own count of releases: a round that is asked for twice gets fresh noise.
    randomness = silo.randomness(len(spent))
    event = release_event(request, noise_source=randomness.noise.name)
    check_budget(spent, event, silo.guarantee)
    # Charged before the computation: a release that fails half-way stays charged.
    with_event(context.state, event)
    update = answer(request, silo.trainer, silo.histories, silo=silo.name, randomness=randomness)
    return Message(update_to_records(update), reply_to=message)
