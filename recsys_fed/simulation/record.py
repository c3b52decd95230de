"""metrics.json and config.toml: what a run was, what it cost and what it reached."""

import json
import math
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.protocols import protocol_of
from recsys_fed.data.silo import ties_of
from recsys_fed.data.simulated import SimulatedFederation
from recsys_fed.federation.noise_split import masking_of
from recsys_fed.models.device import resolve_device
from recsys_fed.privacy.accounting import epsilon_of_history
from recsys_fed.privacy.events import PrivacyEvent
from recsys_fed.privacy.guarantee import Guarantee, guarantee_of
from recsys_fed.settings_file import Value, to_toml
from recsys_fed.versions import versions

METRICS, CONFIG = "metrics.json", "config.toml"
NOT_PRIVATISED = "simulation: metrics not privatised"
NOISE_NOTES = {
    "per-silo": "every silo adds its own whole noise",
    "distributed": "noise once on the sum, as under secure aggregation: private only against those who see the sum",
}
MASKED_NOTE = "secure aggregation: the server sees sums of at least {threshold} silos, and noise once on them"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run left behind and what was measured on it."""

    metrics: Mapping[str, float]
    popularity: Mapping[str, float]
    groups: Mapping[str, Mapping[str, Any]]
    ratings: Mapping[str, Mapping[str, Mapping[str, float]]] | None
    totals: Mapping[str, Any]
    events: str
    seconds: Mapping[str, float]


def metrics_record(
    config: FederationConfig, federation: SimulatedFederation, measured: Measured, *, engine: str
) -> dict[str, object]:
    """The record that metrics.json holds; every value is JSON, an infinite epsilon is the text "inf"."""
    guarantee, masking = guarantee_of(config), masking_of(config)
    spent = spent_by_silo(measured.events, guarantee)
    return {
        "data": federation.dataset.name,
        "data_note": federation.dataset.note,
        "data_findings": {f.rule: f.count for f in federation.dataset.report.findings},
        "data_notes": {note.rule: note.count for note in federation.dataset.report.notes},
        "n_users": federation.train.shape[0],
        "n_items": federation.train.shape[1],
        "n_interactions": len(federation.dataset.interactions),
        "n_held_out": int(federation.test.nnz),
        "n_silos": config.silos,
        "trainer": config.trainer,
        "noise": config.noise,
        "secure_aggregation": vars(masking) if masking is not None else None,
        "noise_note": NOISE_NOTES[config.noise] if masking is None else MASKED_NOTE.format(**vars(masking)),
        **({"user_weights": config.user_weights} if config.user_weights else {}),
        "epsilon": finite(config.epsilon),
        "delta": config.delta,
        "epsilon_spent": {silo: finite(epsilon) for silo, epsilon in spent.items()},
        "guarantee": guarantee.sentence(),
        "noise_multiplier": measured.totals["noise_multiplier"],
        "declared_users": config.declared_users,
        "rounds": measured.totals["rounds"],
        "embedding_dim": measured.totals["embedding_dim"],
        "seed": config.seed,
        "engine": engine,
        "device": str(resolve_device(config.device)),
        "seconds": {name: round(value, 3) for name, value in measured.seconds.items()},
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "bytes_up": measured.totals["bytes_up"],
        "bytes_down": measured.totals["bytes_down"],
        "refused": measured.totals["refused"],
        "note": NOT_PRIVATISED,
        "metrics": dict(measured.metrics) | (dict(measured.ratings["model"]["overall"]) if measured.ratings else {}),
        "private_metrics": measured.totals["private_metrics"],
        "popularity": dict(measured.popularity),
        **({"by_attribute": measured.groups} if measured.groups else {}),
        **({"ratings": measured.ratings} if measured.ratings else {}),
        **({"public_users": measured.totals["public_users"]} if "public_users" in measured.totals else {}),
        **({"next_item": _next_item_record(federation)} if config.target == "next" else {}),
        "versions": versions(),
    }


def _next_item_record(federation: SimulatedFederation) -> dict[str, object]:
    """What has to be said beside figures of the next item."""
    return {
        "ties": ties_of(federation.dataset.interactions),
        "note": "an item that a user has several times counts once, at the last time; items of a history are not "
        "recommended again; of equal times (ties: pairs of neighbours) the later row is later",
    }


def protocol_record(data: SimulationConfig) -> dict[str, object]:
    """Which part of the data the metrics are of, and where a protocol is named, what it reports and says."""
    protocol = protocol_of(data)
    record: dict[str, object] = {"name": data.protocol, "held_out": data.held_out}
    if protocol is not None:
        record |= {"metrics": list(protocol.metrics), "note": protocol.note}
    return record


def spent_by_silo(events: str, guarantee: Guarantee) -> dict[str, float]:
    """Epsilon that a user of every silo has spent, recomputed from the lines of events.jsonl by both accountants."""
    by_silo: dict[str, list[PrivacyEvent]] = {}
    for line in events.splitlines():
        record = json.loads(line)
        event = PrivacyEvent(
            noise_multiplier=record["noise_multiplier"],
            sampling_probability=record["sampling_probability"],
            steps=record["steps"],
            slack=record["slack"],
        )
        by_silo.setdefault(record["silo"], []).append(event)
    return {
        silo: epsilon_of_history(guarantee.over_silos_kinds(history), delta=guarantee.delta)
        for silo, history in by_silo.items()
    }


def write_run(folder: Path, settings: Mapping[str, Value], record: Mapping[str, object]) -> None:
    """Write metrics.json and config.toml, which repeats the run: `recsys-fed simulate config.toml`."""
    kept = {key: value for key, value in settings.items() if key not in ("output", "catalogue")}
    (folder / CONFIG).write_text(to_toml(kept), encoding="utf-8")
    (folder / METRICS).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def finite(value: float) -> float | str:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else "inf"


def peak_rss_mb() -> float:
    """Peak resident memory of this process or, where larger, of a finished child, in MB."""
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(peaks) * unit / 1e6
