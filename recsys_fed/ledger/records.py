"""What a ledger says to others: its status as JSON values, its entries as JSON lines, a signed certificate of a run.

Nothing is verified here. An exported line holds one entry, which anybody can keep, move and verify without a
database; everything in a certificate comes from the ledger.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys_fed.certificates.certificate import TOLERANCE, Certificate, CertifiedRelease, Head, sign_certificate
from recsys_fed.certificates.erasure import ErasureReceipt, PastTraining, sign_receipt
from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.errors import ConfigurationError, LedgerError, LedgerIntegrityError
from recsys_fed.files import whole_file
from recsys_fed.ledger.entries import Entry, KeyChange, Limit, Release, run_name, utc_text
from recsys_fed.ledger.ledger import Ledger, now
from recsys_fed.signing import SigningKey
from recsys_fed.versions import versions


def status_record(ledger: Ledger, *, deltas: Sequence[float] = (), newest_runs: int = 10) -> dict[str, Any]:
    """Return the terms, what is spent and left at the ledger's delta and at others, and what the last runs cost."""
    terms, last = ledger.terms(), ledger.entry(ledger.head().number)
    promise = terms.guarantee
    return {
        "ledger": ledger.place,
        "terms": terms.to_record(),
        "entries": last.number + 1,
        "releases": ledger.releases(),
        "last_entry": entry_record(last),
        "spending": [ledger.spending(delta=delta).to_dict() for delta in dict.fromkeys((promise.delta, *deltas))],
        "runs": [
            {"run": run, "releases": releases, "epsilon": epsilon_to_record(ledger.spending(run=run).epsilon)}
            for run, releases in ledger.runs(newest=newest_runs)
        ],
        "over_silos": _over_silos(promise.max_silos_per_user),
        "guarantee": promise.sentence(),
        "verified": False,
    }


def log_record(ledger: Ledger, *, last: int, run: str | None = None, epsilon: bool = False) -> list[dict[str, Any]]:
    """Return the last entries (of a run); with `epsilon` also what the ledger had spent after each of them."""
    records = []
    for entry in ledger.newest(last, run=run):
        record = entry_record(entry)
        if epsilon:
            record["epsilon_until_then"] = epsilon_to_record(ledger.spending(until=entry.number).epsilon)
        records.append(record)
    return records


def entry_record(entry: Entry) -> dict[str, Any]:
    """One entry, flat."""
    record: dict[str, Any] = {"number": entry.number, "time": entry.time, "kind": entry.kind, "hash": entry.hash}
    if isinstance(entry.body, Release):
        event = entry.body.event
        return record | {
            "run": entry.body.run,
            "round": event.round,
            "stage": event.stage,
            "released": event.released,
            "noise_multiplier": event.noise_multiplier,
            "sampling_probability": event.sampling_probability,
            "steps": event.steps,
            "payload": entry.body.payload,
            "code_version": entry.body.code_version,
        }
    if isinstance(entry.body, Limit):
        return record | {"epsilon_limit": epsilon_to_record(entry.body.epsilon), "reason": entry.body.reason}
    if isinstance(entry.body, KeyChange):
        return record | {"public_key": entry.body.public_key, "reason": entry.body.reason}
    return record | {"epsilon_limit": epsilon_to_record(entry.body.guarantee.epsilon), "silo": entry.body.silo}


def _over_silos(k: int) -> str:
    if k == 1:
        return "a user is in one silo only: over all silos, what counts is the silo that has spent most"
    return f"a user may be in {k} silos: every release counts {k} times here, as if {k} silos had released alike"


def export_lines(ledger: Ledger) -> Iterator[bytes]:
    """Yield the lines, each with its end, byte for byte what is stored: verifying them verifies the ledger."""
    for row in ledger.rows():
        # The canonical record of entry and signature, see `entries.Entry.line`.
        yield b'{"entry":' + bytes(row.content) + b',"signature":"' + str(row.signature).encode() + b'"}\n'


def export_ledger(ledger: Ledger, path: Path) -> int:
    """Write all lines to a new file and return how many there are; the file is there once it is complete.

    Raises:
        ConfigurationError: there is a file already.
        LedgerError: it cannot be written.
    """
    if path.exists():
        raise ConfigurationError(f"There is a file at {path} already. Choose another name.")
    try:
        with whole_file(path) as file:
            count = sum(1 for line in export_lines(ledger) if file.write(line))
    except OSError as error:
        raise LedgerError(f"Cannot write the export {path}: {error}. The ledger is as it was.") from error
    return count


def certify_run(
    ledger: Ledger,
    key: SigningKey,
    *,
    run: str,
    model: str,
    tables: str = "",
    earlier: Sequence[str] = (),
    federation: str = "",
    user_weights: str = "",
) -> bytes:
    """Return the signed certificate of a run.

    Args:
        ledger: of the silo.
        key: that of the ledger.
        run: id of the run, as its federation says it. federation: of several that share the ledger.
        model: SHA-256 of the item embeddings that the run released, "" if there are none.
        tables: that of the released tables which the server keeps for later trainings.
        earlier: those of the trainings that this one has pooled, oldest first.
        user_weights: the rule of what users count, of the silo's own settings.
    """
    # The head first: should another run write meanwhile, all that is said here is about what the head covers.
    head, name = ledger.head(), run_name(federation, run)
    entries = [entry for entry in ledger.releases_of(name) if entry.number <= head.number]
    certificate = Certificate(
        terms=ledger.terms(until=head.number),
        run=run,
        time=utc_text(now()),
        genesis=ledger.entry(0).hash,
        head=Head(number=head.number, hash=head.hash),
        releases=tuple(_certify(entry, entry.body) for entry in entries if isinstance(entry.body, Release)),
        epsilon_of_run=_figures(ledger.spending(run=name, until=head.number).by_accountant),
        epsilon_in_all=_figures(ledger.spending(until=head.number).by_accountant),
        model=model,
        versions=versions(),
        tables=tables,
        earlier=tuple(earlier),
        user_weights=user_weights,
    )
    return sign_certificate(certificate, key)


def certify_erasure(ledger: Ledger, key: SigningKey, *, user: str) -> bytes:
    """Return the signed receipt of a user who takes no part from now on; `user` is the pseudonym."""
    return sign_receipt(_erasure_until(ledger, ledger.head(), user=user, time=utc_text(now())), key)


def check_receipt(receipt: ErasureReceipt, ledger: Ledger) -> None:
    """Compare a receipt with the ledger of its silo.

    Raises:
        LedgerIntegrityError: the ledger lacks what the receipt names, or says something else of it.
    """
    if ledger.terms(until=0).silo != receipt.terms.silo:
        raise LedgerIntegrityError("Expected a receipt of this ledger's silo, it is another silo's.")
    if receipt.head.number > ledger.head().number or ledger.entry(receipt.head.number).hash != receipt.head.hash:
        raise LedgerIntegrityError(
            f"Expected entry {receipt.head.number} as the receipt names it, the ledger lacks it."
        )
    held = _erasure_until(ledger, receipt.head, user=receipt.user, time=receipt.time)
    if (held.terms, *map(_plain, held.trainings)) != (receipt.terms, *map(_plain, receipt.trainings)):
        raise LedgerIntegrityError("The receipt lists other trainings, or other terms, than the ledger.")
    for said, found in zip(_epsilons(receipt), _epsilons(held), strict=True):
        if not (said == found or math.isclose(said, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE)):
            raise LedgerIntegrityError(f"The receipt says epsilon {said:.4f}, by the ledger it is {found:.4f}.")


def _plain(training: PastTraining) -> tuple[str, str, str, int]:
    return training.run, training.first, training.last, training.releases


def _epsilons(receipt: ErasureReceipt) -> list[float]:
    return [receipt.epsilon_in_all, *(training.epsilon for training in receipt.trainings)]


def _erasure_until(ledger: Ledger, head: Head, *, user: str, time: str) -> ErasureReceipt:
    found: dict[str, list[str]] = {}
    for entry in ledger.entries():
        if entry.number <= head.number and isinstance(entry.body, Release):
            found.setdefault(entry.body.run, []).append(entry.time)
    return ErasureReceipt(
        user=user,
        time=time,
        terms=ledger.terms(until=head.number),
        head=head,
        trainings=tuple(
            PastTraining(
                run=run,
                first=times[0],
                last=times[-1],
                releases=len(times),
                epsilon=ledger.spending(run=run, until=head.number).epsilon,
            )
            for run, times in found.items()
        ),
        epsilon_in_all=ledger.spending(until=head.number).epsilon,
    )


def _certify(entry: Entry, release: Release) -> CertifiedRelease:
    return CertifiedRelease(number=entry.number, hash=entry.hash, payload=release.payload, event=release.event)


def _figures(by_accountant: Mapping[str, float]) -> dict[str, float | str]:
    return {name: epsilon_to_record(value) for name, value in by_accountant.items()}
