"""ClientApp of one silo: greet, and answer each round's request with a noised sum."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.state import open_silo, spent_events, with_event
from recsys_fed.federation.release import answer, check_budget, release_event
from recsys_fed.federation.update import Greeting
from recsys_fed.federation.wire import greeting_to_records, request_from_records, update_to_records
from recsys_fed.models.device import use_threads

app = ClientApp()


@app.query()
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
def train(message: Message, context: Context) -> Message:
    """Answer a request: the budget first, then the computation, the noise and the release."""
    silo = open_silo(context)
    use_threads(silo.config.threads)
    request = request_from_records(message.content)
    silo.check_catalogue(request.catalogue_hash)
    randomness = silo.randomness(request.round)
    event = release_event(request, noise_source=randomness.noise.name)
    check_budget(spent_events(context.state), event, silo.guarantee)
    # Charged before the computation: a release that fails half-way stays charged.
    with_event(context.state, event)
    update = answer(request, silo.trainer, silo.histories, silo=silo.name, randomness=randomness)
    return Message(update_to_records(update), reply_to=message)
