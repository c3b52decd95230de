"""The end of a run: every silo gets the released model and signs what it did for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from logging import WARNING

from flwr.app import Message
from flwr.common.logger import log
from flwr.serverapp import Grid

from recsys_fed.certificates.certificate import Certificate, read_certificate
from recsys_fed.errors import DataFormatError, LedgerIntegrityError, ProtocolError
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.wire import blob_from_records, blob_to_records
from recsys_fed.models.items import ItemEmbeddings, item_embeddings_bytes
from recsys_fed.signing import sha256


@dataclass(frozen=True, kw_only=True)
class Collected:
    """Signed certificates by silo, and why the others are missing."""

    certificates: dict[str, bytes] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def collect_certificates(
    grid: Grid, greetings: Mapping[int, Greeting], model: ItemEmbeddings, *, run: str
) -> Collected:
    """Send the model to every silo that greeted, and keep the certificates that hold."""
    content = item_embeddings_bytes(model)
    records = blob_to_records("conclusion", content)
    messages = [Message(records, node, "query.conclude") for node in greetings]
    collected = Collected()
    for reply in _sort_by_node(grid.send_and_receive(messages)):
        greeting = greetings[reply.metadata.src_node_id]
        try:
            signed = _read_certificate(reply)
            _check(read_certificate(signed), greeting, run=run, model=sha256(content))
            collected.certificates[greeting.silo] = signed
        except (ProtocolError, DataFormatError, LedgerIntegrityError) as error:
            collected.missing.append(f"{greeting.silo}: {error}")
            log(WARNING, "no certificate of %s: %s", greeting.silo, error)
    silent = {greeting.silo for greeting in greetings.values()} - collected.certificates.keys()
    named = {line.split(":")[0] for line in collected.missing}
    collected.missing.extend(f"{silo}: no answer" for silo in sorted(silent - named))
    return collected


def _read_certificate(reply: Message) -> bytes:
    if reply.has_error():
        raise ProtocolError(f"Expected a certificate, got an error: {reply.error.reason}")
    return blob_from_records("certificate", reply.content)


def _check(certificate: Certificate, greeting: Greeting, *, run: str, model: str) -> None:
    facts = {
        "silo": (greeting.silo, certificate.terms.silo),
        "key": (greeting.public_key, certificate.terms.public_key),
        "run": (run, certificate.run),
        "model": (model, certificate.model),
    }
    for name, (expected, got) in facts.items():
        if expected != got:
            raise ProtocolError(f"Expected a certificate of the {name} {expected}, got {got}.")


def _sort_by_node(replies: Iterable[Message]) -> list[Message]:
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)
