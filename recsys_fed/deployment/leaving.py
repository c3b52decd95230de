"""A user leaves a silo: the list, what the silo keeps, its service, a receipt, in an order that a crash may cut."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from recsys_fed.errors import StoreBusyError
from recsys_fed.files import OWNER_ONLY, write_whole
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import certify_erasure
from recsys_fed.signing import SigningKey
from recsys_fed.silo.opt_out import OptOuts, forget_in_service
from recsys_fed.silo.secret import Pseudonyms, SiloSecret, passphrase
from recsys_fed.silo.settings import SiloSettings
from recsys_fed.silo.state import StateFolder


def leave(settings: SiloSettings, secret: SiloSecret, users: Sequence[str], *, receipts: Path) -> Iterator[str]:
    """Leave users out of whatever comes later, remove what is kept of them, and write a receipt each.

    They are noted first: no training that begins from then on counts them, whatever fails afterwards. A receipt is
    written once all that is the silo's own is done; its name is the pseudonym.

    Yields:
        What was done, and what is left to do, in lines for the operator.

    Raises:
        KeyFileError, DataError, LedgerError: something cannot be read or written. Call it again.
    """
    names = OptOuts(settings, Pseudonyms(secret)).add(users)
    yield f"{len(names)} users take no part from now on"
    changed = StateFolder(Path(settings.state), secret).remove_users(frozenset(names))
    if changed:
        yield "they are removed from what the silo keeps of its trainings"
    if changed and settings.personalisation == "silo-trusted":
        yield (
            f"the silo's own model is fitted anew without them: recsys-fed silo residual {settings.folder}; versions "
            "of the service that were packed with the one before can be deleted once it has taken over the new one"
        )
    try:
        if settings.service and not forget_in_service(settings):
            yield "the service's log keeps copies while somebody reads an older state; the service removes them then"
    except StoreBusyError:
        yield "the service's log is locked: the service forgets them within a second, or when it is started"
    receipts.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = SigningKey.load(Path(settings.ledger_key), passphrase=passphrase())
    with closing(Ledger.open(settings.ledger, key=key)) as ledger:
        for name in names:
            path = receipts / f"{name}.json"
            write_whole(path, certify_erasure(ledger, key, user=name), mode=OWNER_ONLY)
            yield f"wrote the receipt {path}"
