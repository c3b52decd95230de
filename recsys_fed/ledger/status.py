"""What a ledger says about itself, as JSON values: its budget and its last entries. Nothing is verified."""

from collections.abc import Sequence
from typing import Any

from recsys_fed.certificates.terms import epsilon_to_record
from recsys_fed.ledger.entries import Entry, Limit, Release
from recsys_fed.ledger.ledger import Ledger


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
    return record | {"epsilon_limit": epsilon_to_record(entry.body.guarantee.epsilon), "silo": entry.body.silo}


def _over_silos(k: int) -> str:
    if k == 1:
        return "a user is in one silo only: over all silos, what counts is the silo that has spent most"
    return f"a user may be in {k} silos: every release counts {k} times here, as if {k} silos had released alike"
