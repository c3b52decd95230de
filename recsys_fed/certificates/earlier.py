"""What proves to a silo which trainings a new one builds on: certificates, before anything is charged.

A server that builds on earlier trainings shows silos the certificates of each. They name the SHA-256 of what was
released, and silos signed them when the training ended, so whoever made up a release later has no signature for it.

The guarantee of the new training does not rest on this. What a silo contributes depends on its users, on the
request's tables and on fresh noise; its sensitivity and its noise are the same for all tables, those of a liar too
(`federation.plan`), and accountants compose releases that were asked for with regard to earlier ones. What the check
is for: that a certificate which names earlier releases is true of them, that their number, from which sizes and
stages follow, is no server's invention, and that a training is refused before it costs anything.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from recsys_fed.certificates.certificate import Certificate, read_certificate
from recsys_fed.errors import DataFormatError, LedgerIntegrityError, ProtocolError


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """A training that another one builds on: its id, and SHA-256 of the tables that it released."""

    run: str
    tables: str


def joined(certificates: Iterable[bytes]) -> bytes:
    """Certificates of one training as one text, a line each."""
    return b"\n".join(content.strip() for content in certificates)


def proven_releases(
    trainings: Sequence[bytes], *, run: str, trusts: Callable[[Certificate], bool]
) -> tuple[EarlierRun, ...]:
    """What certificates prove of each earlier training.

    Args:
        trainings: of each the certificates as `joined` makes them, oldest first.
        run: the one that builds on them.
        trusts: whether a certificate, whose signature holds, is one of a silo that is known: this one or another.

    Raises:
        ProtocolError: a certificate does not hold, those of one training disagree, none is of a silo that is known,
            or a training is named twice. It says which training.
    """
    found: list[EarlierRun] = []
    for number, content in enumerate(trainings, start=1):
        what = f"earlier training {number}"
        try:
            certificates = [read_certificate(line) for line in content.splitlines()]
        except (DataFormatError, LedgerIntegrityError) as error:
            raise ProtocolError(f"Expected certificates of {what} that hold: {error}") from error
        named = {(certificate.run, certificate.tables) for certificate in certificates}
        if len(named) != 1:
            raise ProtocolError(f"Expected certificates of {what} that name one training and its tables.")
        ((name, tables),) = named
        if not tables or name in {run, *(one.run for one in found)}:
            raise ProtocolError(f"Expected {what} to be one by itself that kept its tables, got {name!r:.80}.")
        if not [certificate for certificate in certificates if trusts(certificate)]:
            raise ProtocolError(
                f"Nobody whom this silo knows has signed what training {name!r:.80} released. Its operator takes in "
                "the roster (`recsys-fed silo roster`), or the training starts without that one."
            )
        found.append(EarlierRun(run=name, tables=tables))
    return tuple(found)
