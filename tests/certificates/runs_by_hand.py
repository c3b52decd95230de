"""The folder of a finished run, made from real ledgers without training anything."""

import json
from dataclasses import dataclass

from recsys_fed.certificates.terms import LedgerTerms
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import certify_run
from recsys_fed.privacy.events import ReleaseEvent
from recsys_fed.privacy.guarantee import Guarantee
from recsys_fed.signing import SigningKey, sha256

MODEL = b"the item embeddings of this run"


@dataclass
class HandMadeSilo:
    """A silo with its ledger."""

    ledger: Ledger
    key: SigningKey
    path: str
    name: str


def release_of(
    noise_multiplier, *, round=0, noise_share=1.0, sampling_probability=1.0, steps=1, threshold=0, colluding=0
):
    return ReleaseEvent(
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
        steps=steps,
        released="item embeddings",
        l2_clip_norm=1.0,
        round=round,
        stage="subspace",
        noise_source="operating-system",
        noise_share=noise_share,
        threshold=threshold,
        colluding=colluding,
        trainer="spectral",
    )


def made_silo(folder, name, *, epsilon=20.0, delta=1e-6, k=1):
    key, path = SigningKey.generate(), str(folder / f"{name}.sqlite")
    terms = LedgerTerms(
        silo=name,
        public_key=key.public_key,
        guarantee=Guarantee(epsilon=epsilon, delta=delta, max_silos_per_user=k),
        declared_users=1_000,
    )
    return HandMadeSilo(Ledger.create(path, key=key, terms=terms, durable=False), key, path, name)


def charged(silo, event, *, run):
    """Charge one release; return the name of its draw."""
    return silo.ledger.charge(event, run=run, request=sha256(b"request"), code_version="0", keep=False).draw


def made_run(folder, silos, events, *, run="7", model=MODEL):
    """Charge `events` of each silo (by name), and write the files of the run."""
    (folder / "certificates").mkdir(parents=True)
    lines = []
    for silo in silos:
        for event in events[silo.name]:
            line = {"silo": silo.name, "payload": charged(silo, event, run=run), **event.to_dict()}
            lines.append(json.dumps(line, sort_keys=True))
    for number, silo in enumerate(silos):
        content = certify_run(silo.ledger, silo.key, run=run, model=sha256(model))
        (folder / "certificates" / f"{number:04}-{silo.name}.json").write_bytes(content + b"\n")
    (folder / "events.jsonl").write_text("".join(line + "\n" for line in lines))
    (folder / "item_embeddings.safetensors").write_bytes(model)
    return folder
