"""Small ledgers: one key, its terms, releases of a known size, a clock that is set by hand, and an export."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.ledger.entries import Entry
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.signing import SigningKey

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"\7" * 32))
OTHER_KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(b"\x0b" * 32))


class HandClock:
    """A clock that goes on by a second each time it is read, and goes where it is told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 31, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time


def terms(epsilon: float = float("inf"), *, key: SigningKey = KEY, **others: object) -> LedgerTerms:
    """Terms of a silo that keeps to epsilon at delta 1e-6."""
    promise = Guarantee(epsilon=epsilon, delta=1e-6, max_silos_per_user=others.pop("max_silos_per_user", 1))
    return LedgerTerms(silo="north", public_key=key.public_key, guarantee=promise, declared_users=1000, **others)


def created(url: str | Path, epsilon: float = float("inf"), **options: object) -> Ledger:
    """A new ledger with the kit's key."""
    return Ledger.create(str(url), key=KEY, terms=terms(epsilon), **options)


def event(noise_multiplier: float = 10.0, **others: object) -> ReleaseEvent:
    """An event of a silo in earnest."""
    fields = {"released": "item counts", "l2_clip_norm": 1.0, "round": 0, "stage": "item counts"}
    fields |= {"noise_source": "operating-system", "trainer": "spectral"}
    return ReleaseEvent(noise_multiplier=noise_multiplier, **(fields | others))


def digest(content: bytes | str) -> str:
    """SHA-256 in hexadecimal digits, computed here."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def charge(ledger: Ledger, request: str, *, run: str = "run", keep: bool = True, **fields: object) -> Entry:
    """Charge a request of this name; `fields` are those of `event`, and an allowance."""
    options = {name: fields.pop(name) for name in ("allowance", "schedule") if name in fields}
    asked = event(**fields)
    return ledger.charge(asked, run=run, request=digest(request), code_version="1.0", keep=keep, **options)


def charged(ledger: Ledger, name: str, *, run: str = "run", **fields: object) -> Entry:
    """Charge a request of this name in the run's next round, and settle the bytes that are its name."""
    before = ledger.newest(1, run=run)
    number = before[0].body.event.round + 1 if before else 0
    entry = charge(ledger, name, run=run, **({"round": number} | fields))
    assert settle(ledger, name, name.encode(), run=run) == name.encode()
    return entry


def settle(ledger: Ledger, request: str, payload: bytes, *, run: str = "run") -> bytes:
    """Settle the bytes that answer the request of this name."""
    return ledger.settle(run=run, request=digest(request), payload=payload)


def kept(ledger: Ledger, request: str, *, run: str = "run") -> bytes | None:
    """What the ledger keeps of the request of this name."""
    return ledger.kept_payload(run=run, request=digest(request))


def export(ledger: Ledger) -> bytes:
    """The ledger as JSON lines."""
    return b"".join(entry.line() + b"\n" for entry in ledger.entries())
