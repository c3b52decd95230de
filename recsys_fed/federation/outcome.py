"""What the server keeps of a run: the model, every release event, bytes and refusals."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys_fed.federation.schedule import Schedule
from recsys_fed.federation.update import Update
from recsys_fed.models.items import ItemEmbeddings, save_item_embeddings

EVENTS, EMBEDDINGS, FEDERATION = "events.jsonl", "item_embeddings.safetensors", "federation.json"


@dataclass(kw_only=True)
class FederationLog:
    """Writes as the run goes on; without a folder it only counts."""

    folder: Path | None
    totals: dict[str, Any] = field(
        default_factory=lambda: {"rounds": 0, "bytes_up": 0, "bytes_down": 0, "refused": []}
    )

    def started(self, schedule: Schedule) -> None:
        """Start the files of a run; what an earlier run left there is replaced."""
        self.totals |= {"planned_rounds": len(schedule.stages), "noise_multiplier": schedule.noise_multiplier}
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / EVENTS).write_text("")
            self._write_totals(self.folder)

    def round_done(self, updates: list[Update], *, bytes_down: int, bytes_up: int, refused: list[str]) -> None:
        """Add a round: one line of events.jsonl a release."""
        self.totals["rounds"] += 1
        self.totals["bytes_up"] += bytes_up
        self.totals["bytes_down"] += bytes_down
        self.totals["refused"] += refused
        if self.folder is None:
            return
        ordered = sorted(updates, key=lambda update: (len(update.silo), update.silo))
        lines = [json.dumps({"silo": u.silo, **u.event.to_dict()}, sort_keys=True) + "\n" for u in ordered]
        with (self.folder / EVENTS).open("a") as file:
            file.writelines(lines)

    def finished(self, model: ItemEmbeddings) -> None:
        """Write the totals, then the model: where the model is, the run is complete."""
        self.totals["embedding_dim"] = model.embedding_dim
        if self.folder is not None:
            self._write_totals(self.folder)
            save_item_embeddings(model, self.folder / EMBEDDINGS)

    def _write_totals(self, folder: Path) -> None:
        partial = folder / (FEDERATION + ".part")
        partial.write_text(json.dumps(self.totals, indent=2, sort_keys=True) + "\n")
        partial.replace(folder / FEDERATION)
