"""What a silo has agreed to since it joined: versions of terms, rosters and catalogues, each signed and in order.

They are beside the entries, not among them: an entry says what was released and bears on the budget; an agreement
says under what. Both are signed by the silo's key of the time, for purposes that never fit each other.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from recsys_fed import checks
from recsys_fed.errors import DataFormatError, LedgerIntegrityError
from recsys_fed.ledger.entries import NOTHING_BEFORE
from recsys_fed.ledger.storage import agreements_table
from recsys_fed.ledger.transactions import keys_until_now
from recsys_fed.signing import (
    SigningKey,
    canonical,
    parse_canonical,
    require_keys,
    sha256,
    text_of,
    verify_signature,
)

WHAT = ("terms", "roster", "catalogue")
_PURPOSE = "agreement"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One of them.

    Attributes:
        what: one of WHAT. version: as the federation counts. digest: SHA-256 of the content.
        time: UTC, by the silo's clock. public_key: the ledger's key then, which signed this.
        previous: hash of the agreement before, 64 zeros before the first.
    """

    what: str
    version: int
    digest: str
    time: str
    public_key: str
    previous: str

    def __post_init__(self) -> None:
        checks.one_of(WHAT, what=self.what)
        checks.at_least(0, version=self.version)

    @property
    def content(self) -> bytes:
        """The one text that is signed."""
        return canonical(asdict(self))

    @property
    def hash(self) -> str:
        """SHA-256 of the text."""
        return sha256(self.content)

    @classmethod
    def from_content(cls, content: bytes) -> Self:
        """Read it; raises DataFormatError for anything else."""
        known: Any = require_keys(parse_canonical(content), {f.name for f in fields(cls)}, "an agreement")
        if type(known["version"]) is not int:
            raise DataFormatError("Expected the version of what was agreed to.")
        texts = {name: text_of(known, name) for name in ("what", "digest", "time", "public_key", "previous")}
        return cls(version=known["version"], **texts)


def append_agreement(
    connection: Connection, what: str, *, version: int, digest: str, time: str, key: SigningKey
) -> Agreement:
    """Sign an agreement and write it after those before; raises as `read_agreements`."""
    before = read_agreements(connection)
    made = Agreement(
        what=what,
        version=version,
        digest=digest,
        time=time,
        public_key=key.public_key,
        previous=before[-1].hash if before else NOTHING_BEFORE,
    )
    row = {"number": len(before), "content": made.content, "signature": key.sign(_PURPOSE, made.content)}
    connection.execute(agreements_table.insert().values(**row))
    return made


def read_agreements(connection: Connection) -> list[Agreement]:
    """All of them in order, each signed by a key that the ledger has or had.

    Raises:
        LedgerIntegrityError: a signature or the chain does not hold.
    """
    if not sa.inspect(connection).has_table("agreements"):
        return []
    keys, found = keys_until_now(connection), list[Agreement]()
    for row in connection.execute(sa.select(agreements_table).order_by(agreements_table.c.number)):
        content = bytes(row.content)
        try:
            agreement = Agreement.from_content(content)
        except DataFormatError as error:
            raise LedgerIntegrityError(f"Agreement {row.number} of the ledger is damaged: {error}") from error
        known = agreement.public_key in keys
        signed = known and verify_signature(agreement.public_key, _PURPOSE, content, row.signature)
        expected = found[-1].hash if found else NOTHING_BEFORE
        if not signed or agreement.previous != expected or row.number != len(found):
            raise LedgerIntegrityError(f"Agreement {row.number} of the ledger is not as the silo signed it.")
        found.append(agreement)
    return found
