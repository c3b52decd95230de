"""What the server keeps of a run: the model, every release event, bytes and refusals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys_fed.federation.schedule import Schedule
from recsys_fed.federation.update import Released, Request
from recsys_fed.logs import EventLog, Field
from recsys_fed.models.items import ItemEmbeddings, save_item_embeddings

EVENTS, EMBEDDINGS, FEDERATION = "events.jsonl", "item_embeddings.safetensors", "federation.json"
CERTIFICATES, LOG = "certificates", "log.jsonl"


@dataclass(kw_only=True)
class FederationLog:
    """Writes as the run goes on; without a folder it only counts."""

    folder: Path | None
    training: str = ""
    totals: dict[str, Any] = field(
        default_factory=lambda: {"rounds": 0, "bytes_up": 0, "bytes_down": 0, "refused": []}
    )

    def started(self, schedule: Schedule, *, refused: Sequence[str] = ()) -> None:
        """Start the files of a run in the place of an earlier one's, or go on with those of a resumed one."""
        if self.folder is not None and schedule.round:
            self._go_on(self.folder, schedule.round)
        self.totals |= {"planned_rounds": len(schedule.stages), "noise_multiplier": schedule.noise_multiplier}
        self.totals["refused"] += refused
        self._say("training started", rounds=len(schedule.stages), round=schedule.round, refused=len(refused))
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not schedule.round:
                (self.folder / EVENTS).write_text("")
            self._write_totals(self.folder)

    def _go_on(self, folder: Path, done: int) -> None:
        """Take up what was kept until the checkpoint: later lines are of a round that will be done again."""
        if (folder / FEDERATION).is_file():
            self.totals |= json.loads((folder / FEDERATION).read_text())
        self.totals["rounds"] = done
        lines = (folder / EVENTS).read_text().splitlines(keepends=True) if (folder / EVENTS).is_file() else []
        partial = folder / (EVENTS + ".part")
        partial.write_text(
            "".join(line for line in lines if line.endswith("\n") and json.loads(line)["round"] < done)
        )
        partial.replace(folder / EVENTS)

    def round_begun(self, asked: Request) -> None:
        """Say which round is under way."""
        self._say("round begun", round=asked.round + 1, stage=asked.stage)

    def round_done(self, released: list[Released], *, bytes_down: int, bytes_up: int, refused: list[str]) -> None:
        """Add a round: one line of events.jsonl a release."""
        self.totals["rounds"] += 1
        self.totals["bytes_up"] += bytes_up
        self.totals["bytes_down"] += bytes_down
        self.totals["refused"] += refused
        self._say(
            "round finished",
            round=self.totals["rounds"],
            answered=len(released),
            refused=len(refused),
            bytes_down=bytes_down,
            bytes_up=bytes_up,
        )
        if self.folder is not None:
            self._write_totals(self.folder)
        self._add_events(released)

    def round_abandoned(self, released: list[Released], *, refused: list[str]) -> None:
        """Keep what silos have released, and charged, for a round that came to nothing."""
        self.totals["refused"] += refused
        self._say("round abandoned", round=self.totals["rounds"] + 1, answered=len(released), refused=len(refused))
        self._add_events(released)
        if self.folder is not None:
            self._write_totals(self.folder)

    def _add_events(self, released: list[Released]) -> None:
        if self.folder is None:
            return
        # By silo; of one silo in the order in which they came.
        ordered = sorted(released, key=lambda one: (len(one.silo), one.silo))
        with (self.folder / EVENTS).open("a") as file:
            file.writelines(json.dumps(_line(one), sort_keys=True) + "\n" for one in ordered)

    def finished(
        self,
        model: ItemEmbeddings,
        certificates: Mapping[str, bytes],
        *,
        missing: Sequence[str],
        metrics: Mapping[str, Mapping[str, float]],
    ) -> None:
        """Write the certificates, the totals, then the model: where the model is, the run is complete.

        `missing` says of each silo without a certificate why there is none; `metrics` are what the silos
        measured, each with the standard deviation of its noise.
        """
        self.totals |= {"embedding_dim": model.embedding_dim, "certificates_missing": list(missing)}
        self.totals["private_metrics"] = {name: dict(values) for name, values in metrics.items()}
        if self.folder is None:
            return
        write_certificates(self.folder / CERTIFICATES, certificates)
        self._write_totals(self.folder)
        save_item_embeddings(model, self.folder / EMBEDDINGS)
        self._say("training finished", silos=len(certificates), refused=len(missing))

    def _say(self, event: str, **fields: Field) -> None:
        log = EventLog(self.folder / LOG if self.folder is not None else None)
        log.write(event, training=self.training, **fields)

    def _write_totals(self, folder: Path) -> None:
        partial = folder / (FEDERATION + ".part")
        partial.write_text(json.dumps(self.totals, indent=2, sort_keys=True) + "\n")
        partial.replace(folder / FEDERATION)


def write_certificates(folder: Path, certificates: Mapping[str, bytes]) -> None:
    """Write one file a silo; those of an earlier run there are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.json"):
        stale.unlink()
    for number, (silo, content) in enumerate(certificates.items()):
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in silo)
        (folder / f"{number:04}-{name[:64]}.json").write_bytes(content + b"\n")


def _line(released: Released) -> dict[str, Any]:
    return {"silo": released.silo, "payload": released.payload, **released.event.to_dict()}
