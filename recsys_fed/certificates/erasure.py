"""What a silo signs when a user leaves: which released models may still hold something of that user, and how much.

A receipt names the user by the silo's pseudonym, so that the silo can tell whose it is and nobody else can. All else
in it follows from the ledger, which is public: it holds nothing of what the user did, not even whether the user was
ever there. A training is listed if the silo released anything for it before the receipt was signed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from recsys_fed.certificates.certificate import Head
from recsys_fed.certificates.terms import LedgerTerms, epsilon_from_record, epsilon_to_record
from recsys_fed.errors import DataFormatError, LedgerIntegrityError
from recsys_fed.signing import SigningKey, canonical, parse_canonical, require_keys, text_of, verify_signature

_VERSION = 1
_PURPOSE = "erasure receipt"


@dataclass(frozen=True, kw_only=True)
class PastTraining:
    """A training that may have counted the user.

    Attributes:
        run: its id. first, last: UTC times of the silo's first and last release for it.
        releases: how many. epsilon: what they cost together, the larger of PLD and PRV at the delta of the terms.
    """

    run: str
    first: str
    last: str
    releases: int
    epsilon: float

    def to_record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return vars(self) | {"epsilon": epsilon_to_record(self.epsilon)}

    @classmethod
    def from_record(cls, record: object) -> Self:
        """Read it; raises DataFormatError for anything else."""
        known = require_keys(record, {f.name for f in fields(cls)}, "a training of a receipt")
        if type(known["releases"]) is not int:
            raise DataFormatError("Expected the number of releases of a training.")
        texts = {name: text_of(known, name) for name in ("run", "first", "last")}
        return cls(releases=known["releases"], epsilon=epsilon_from_record(known["epsilon"]), **texts)


@dataclass(frozen=True, kw_only=True)
class ErasureReceipt:
    """See the module.

    Attributes:
        user: the pseudonym.
        time: UTC; no training that begins later counts the user.
        terms: of the ledger, with the limit that held then.
        head: of the ledger when this was signed.
        trainings: before then, the first one first.
        epsilon_in_all: what all of them cost together.
    """

    user: str
    time: str
    terms: LedgerTerms
    head: Head
    trainings: tuple[PastTraining, ...]
    epsilon_in_all: float

    def statement(self) -> str:
        """What the receipt says, in words."""
        if not self.trainings:
            return "No model was ever trained with this silo's users. No training counts this user."
        spent = replace(self.terms.guarantee, epsilon=self.epsilon_in_all)
        bound = spent.sentence(seen="all that these trainings released from")
        return (
            f"From {self.time} on no training of this silo counts this user. {len(self.trainings)} "
            f"{'training' if len(self.trainings) == 1 else 'trainings'} before may have: the models hold no vector, "
            "history or id of any user, but sums to which this user's rows may have added, and these cannot be taken "
            f"out again. What they can tell of the user is bounded. {bound}"
        )

    def to_record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "version": _VERSION,
            "user": self.user,
            "time": self.time,
            "terms": self.terms.to_record(),
            "head": vars(self.head),
            "trainings": [training.to_record() for training in self.trainings],
            "epsilon_in_all": epsilon_to_record(self.epsilon_in_all),
            "statement": self.statement(),
        }

    @classmethod
    def from_record(cls, record: object) -> Self:
        """Read it; raises DataFormatError for anything else."""
        known = require_keys(record, {f.name for f in fields(cls)} | {"version", "statement"}, "an erasure receipt")
        if known["version"] != _VERSION:
            raise DataFormatError(f"Expected an erasure receipt of version {_VERSION}, got {known['version']!r}.")
        if not isinstance(known["trainings"], list) or not isinstance(known["terms"], Mapping):
            raise DataFormatError("Expected an erasure receipt with its terms and trainings.")
        return cls(
            user=text_of(known, "user"),
            time=text_of(known, "time"),
            terms=LedgerTerms.from_record(known["terms"]),
            head=Head.from_record(known["head"]),
            trainings=tuple(map(PastTraining.from_record, known["trainings"])),
            epsilon_in_all=epsilon_from_record(known["epsilon_in_all"]),
        )


def sign_receipt(receipt: ErasureReceipt, key: SigningKey) -> bytes:
    """Return the receipt as the one text that its signature covers."""
    record = receipt.to_record()
    return canonical({"receipt": record, "signature": key.sign(_PURPOSE, canonical(record))})


def read_receipt(text: bytes) -> ErasureReceipt:
    """Read a signed receipt and check that the key in its terms signed it, words and all.

    Raises:
        DataFormatError: it is something else.
        LedgerIntegrityError: the signature does not hold, or its words are not those of its figures.
    """
    record = require_keys(parse_canonical(text.strip()), {"receipt", "signature"}, "a signed erasure receipt")
    receipt = ErasureReceipt.from_record(record["receipt"])
    content = canonical(record["receipt"])
    if not verify_signature(receipt.terms.public_key, _PURPOSE, content, text_of(record, "signature")):
        raise LedgerIntegrityError(f"The receipt of {receipt.terms.silo} is not signed by its key.")
    if record["receipt"]["statement"] != receipt.statement():
        raise LedgerIntegrityError("The words of the receipt are not those of its figures.")
    return receipt
