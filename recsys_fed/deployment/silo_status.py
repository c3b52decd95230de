"""What the operator of a silo wants to see at a glance: budget, model in use, and what the server has asked."""

from contextlib import closing
from pathlib import Path
from typing import Any

from recsys_fed.errors import DataNotFoundError
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.silo.messages import message_counts
from recsys_fed.silo.secret import SiloSecret, passphrase
from recsys_fed.silo.settings import SiloSettings
from recsys_fed.silo.state import StateFolder


def silo_status(settings: SiloSettings) -> dict[str, Any]:
    """The silo's own figures as JSON values; they are for its operator and are never sent.

    Raises:
        LedgerError: the ledger cannot be read.
        KeyFileError: the silo's secret cannot.
    """
    with closing(Ledger.open(settings.ledger)) as ledger:
        spent, limit = ledger.spending().epsilon, ledger.terms().guarantee.epsilon
        releases = ledger.releases()
    messages = message_counts(Path(settings.folder))
    return {
        "name": settings.name,
        "address": settings.address,
        "epsilon_spent": spent,
        "epsilon_limit": limit,
        "releases": releases,
        "model": _model(settings),
        "messages_answered": dict(sorted(messages.answered.items())),
        "messages_refused": dict(sorted(messages.refused.items())),
        "messages_failed": dict(sorted(messages.failed.items())),
        "last_message": messages.last,
    }


def _model(settings: SiloSettings) -> str:
    """Hash of the model in use; "" before the first training."""
    secret = SiloSecret.load(Path(settings.secret_key), passphrase=passphrase())
    try:
        return StateFolder(Path(settings.state), secret).current()
    except DataNotFoundError:
        return ""
