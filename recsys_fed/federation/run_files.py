"""What the server keeps of a run in a folder: the model, every release event, bytes and refusals, and a checkpoint.

The checkpoint is what a server needs to go on after a crash: the trainer's state between two rounds, and where the
run is. One file, replaced after each round: a safetensors container of the state's tensors whose metadata holds the
rest as JSON. It holds nothing that was not released: public facts, noisy sums and what follows from them. Its size
does not grow with the number of rounds but by what a trainer's state keeps of each: spectral, of few rounds, keeps
each round's table. A state is a frozen dataclass of tensors, numbers, texts and further such
dataclasses; what follows from the configuration and the public catalogue is not written but made again.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from recsys_fed.certificates.certificate import read_certificate
from recsys_fed.config import FederationConfig, current_noise, flat
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError, LedgerIntegrityError
from recsys_fed.federation.kept_releases import RELEASES, put_releases_together, take_releases_apart
from recsys_fed.federation.messages import Released, Request
from recsys_fed.federation.schedule import Schedule
from recsys_fed.files import append_lines, write_whole
from recsys_fed.logs import EventLog, Field
from recsys_fed.models.items import ItemEmbeddings, item_embeddings_bytes, save_item_embeddings
from recsys_fed.signing import canonical, sha256
from recsys_fed.trainers.trainer import PublicFacts

EVENTS, EMBEDDINGS, FEDERATION = "events.jsonl", "item_embeddings.safetensors", "federation.json"
CERTIFICATES, LOG = "certificates", "log.jsonl"
FILE = "checkpoint.safetensors"
# Where it is there when a round has its checkpoint, the run ends.
STOP = "stop-after-round"
# In the totals: a line for each silo without a certificate.
MISSING = "certificates_missing"
_METADATA, _VERSION = "recsys-fed checkpoint", 1
_TENSOR, _TENSORS, _BEGUN = "tensor", "tensors", "as at the beginning"
# What may differ between the runs before and after an interruption.
_FREE = {
    "output", "catalogue", "earlier", "roster", "resume", "threads", "device", "minimum-silos", "silos", "robust",
    "trim",
}  # fmt: skip


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
        if schedule.public_users is not None:
            # What is public of them, so that who reads a run knows that it had their help.
            self.totals["public_users"] = {
                "users": schedule.public_users.n_users,
                "interactions": len(schedule.public_users.items),
                "catalogue_hash": schedule.facts.catalogue_hash,
            }
        self.totals["refused"] += refused
        self._say("training started", rounds=len(schedule.stages), round=schedule.round, refused=len(refused))
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not schedule.round:
                write_whole(self.folder / EVENTS, "")
            self._write_totals(self.folder)

    def _go_on(self, folder: Path, done: int) -> None:
        """Take up what was kept until the checkpoint: later lines are of a round that will be done again."""
        if (folder / FEDERATION).is_file():
            self.totals |= json.loads((folder / FEDERATION).read_text())
        self.totals["rounds"] = done
        lines = (folder / EVENTS).read_text().splitlines(keepends=True) if (folder / EVENTS).is_file() else []
        kept = (line for line in lines if line.endswith("\n") and json.loads(line)["round"] < done)
        write_whole(folder / EVENTS, "".join(kept))

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
        lines = (json.dumps(_line(one), sort_keys=True) + "\n" for one in ordered)
        append_lines(self.folder / EVENTS, "".join(lines))

    def finished(
        self,
        model: ItemEmbeddings,
        certificates: Mapping[str, bytes],
        *,
        missing: Sequence[str],
        metrics: Mapping[str, Mapping[str, float]],
        releases: bytes,
    ) -> None:
        """Write the releases, the certificates, the totals, then the model: where the model is, the run is complete.

        `releases` is their file, see `kept_releases`; `missing` says of each silo without a certificate why there is
        none; `metrics` are what the silos measured, each with the standard deviation of its noise. A run that goes on
        for the certificates that it lacked keeps those that it has.
        """
        if self.folder is not None:
            model_hash = sha256(item_embeddings_bytes(model))
            certificates = _certificates_of(self.folder / CERTIFICATES, model_hash, run=self.training) | dict(
                certificates
            )
            missing = [line for line in missing if line.partition(":")[0] not in certificates]
        self.totals |= {"embedding_dim": model.embedding_dim, MISSING: list(missing)}
        self.totals["private_metrics"] = {name: dict(values) for name, values in metrics.items()}
        if self.folder is None:
            return
        self._add_events(_unheard(self.folder / EVENTS, certificates))
        write_whole(self.folder / RELEASES, releases)
        _write_certificates(self.folder / CERTIFICATES, certificates)
        self._write_totals(self.folder)
        save_item_embeddings(model, self.folder / EMBEDDINGS)
        self._say("training finished", silos=len(certificates), refused=len(missing))

    def _say(self, event: str, **fields: Field) -> None:
        log = EventLog(self.folder / LOG if self.folder is not None else None)
        log.write(event, training=self.training, **fields)

    def _write_totals(self, folder: Path) -> None:
        write_whole(folder / FEDERATION, json.dumps(self.totals, indent=2, sort_keys=True) + "\n")


def _unheard(events: Path, certificates: Mapping[str, bytes]) -> list[Released]:
    """What silos have charged and the events lack: the answer was lost, or is of a round that was done again."""
    heard = {(line["silo"], line["payload"]) for line in map(json.loads, events.read_text().splitlines())}
    return [
        Released(silo=silo, payload=release.payload, event=release.event)
        for silo, content in certificates.items()
        for release in read_certificate(content).releases
        if (silo, release.payload) not in heard
    ]


def _certificates_of(folder: Path, model_hash: str, *, run: str) -> dict[str, bytes]:
    """Signed certificates of a run and its model that are there already, by silo."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = path.read_bytes().strip()
        with suppress(DataFormatError, LedgerIntegrityError):
            known = read_certificate(content)
            if (known.run, known.model) == (run, model_hash):
                found[known.terms.silo] = content
    return found


def _write_certificates(folder: Path, certificates: Mapping[str, bytes]) -> None:
    """Write one file a silo; those of an earlier run there are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.json"):
        stale.unlink()
    for number, (silo, content) in enumerate(certificates.items()):
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in silo)
        write_whole(folder / f"{number:04}-{name[:64]}.json", content + b"\n")


def _line(released: Released) -> dict[str, Any]:
    return {"silo": released.silo, "payload": released.payload, **released.event.to_dict()}


def save_checkpoint(schedule: Schedule, path: Path, *, begun: Schedule) -> None:
    """Write the run as it stands; the file is the old one or the whole new one, also after a power failure.

    Tensors that are still those with which the run has begun are not written: they follow from its settings.
    """
    tensors, record = _take_apart(schedule.state, begun.state)
    kept, releases = take_releases_apart(schedule.releases)
    facts = {
        "version": _VERSION,
        "round": schedule.round,
        "rounds": len(schedule.stages),
        "stages": _names(schedule),
        "noise_multiplier": schedule.noise_multiplier,
        "catalogue_hash": schedule.facts.catalogue_hash,
        "silos": schedule.config.silos,
        "config": canonical(_fixed_settings(schedule.config)).decode(),
        "metrics": {name: dict(values) for name, values in schedule.metrics.items()},
        "state": record,
        "releases": releases,
    }
    text = json.dumps(facts, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(tensors | kept, metadata={_METADATA: text}))


def resume_schedule(begun: Schedule, path: Path) -> Schedule:
    """The run of a checkpoint, from one that was just begun with the same settings.

    Raises:
        DataNotFoundError: there is no checkpoint.
        DataFormatError: it is something else.
        ConfigurationError: it is of another run: other settings, catalogue, plan or noise. It names what differs.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find a checkpoint at {path}. Start anew.")
    try:
        with safe_open(path, framework="pt") as file:
            facts: Mapping[str, Any] = json.loads((file.metadata() or {})[_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        expected = {
            "version": _VERSION,
            "catalogue_hash": begun.facts.catalogue_hash,
            "silos": begun.config.silos,
        }
        for name, value in expected.items():
            if facts[name] != value:
                raise ConfigurationError(f"Expected a checkpoint of {name} {value!r}, {path} has {facts[name]!r}.")
        _check_settings(facts["config"], begun.config, path=path)
        stages = facts.get("stages", _names(begun))
        planned = (facts["rounds"], facts["noise_multiplier"], stages)
        if planned != (len(begun.stages), begun.noise_multiplier, _names(begun)):
            raise ConfigurationError(
                f"The checkpoint {path} is of another plan: an earlier version planned the rounds of this trainer "
                "otherwise. What its rounds have cost stays in the silos' ledgers. Start anew."
            )
        state = _put_together(begun.state, facts["state"], tensors)
        # Earlier versions kept no releases: of their rounds there are none.
        releases = put_releases_together(tensors, facts.get("releases", []))
        return replace(begun, state=state, round=facts["round"], metrics=facts["metrics"], releases=releases)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise DataFormatError(f"Expected a checkpoint in {path}, got another file: {error}.") from error


def _names(schedule: Schedule) -> list[str]:
    return [stage.name for stage in schedule.stages]


def checkpointed_silos(path: Path) -> int:
    """For how many silos the run of a checkpoint was planned; raises as `resume_schedule`."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(json.loads((file.metadata() or {})[_METADATA])["silos"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataFormatError(f"Expected a checkpoint in {path}, got another file: {error}.") from error


def _fixed_settings(config: FederationConfig) -> dict[str, str]:
    """The settings that must be the same."""
    return {name: str(value) for name, value in flat(config).items() if name not in _FREE}


def _check_settings(kept: str, config: FederationConfig, *, path: Path) -> None:
    """Refuse a checkpoint of other settings; one that an older version wrote may lack some, and use older words."""
    stored = _fixed_settings(FederationConfig()) | json.loads(kept)
    stored["noise"] = current_noise(stored["noise"])
    asked = _fixed_settings(config)
    for name in sorted(stored.keys() | asked.keys()):
        if stored.get(name) != asked.get(name):
            raise ConfigurationError(
                f"Expected a checkpoint of {name} = {asked.get(name)}, {path} has {stored.get(name)}. "
                "Resume with the settings of the checkpoint, or start anew."
            )


def _take_apart(state: Any, begun: Any, prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by dotted name, but for those of the beginning, and everything else."""
    tensors: dict[str, torch.Tensor] = {}
    record: dict[str, Any] = {}
    for declared in fields(state):
        value, name = getattr(state, declared.name), prefix + declared.name
        if isinstance(value, PublicFacts):
            continue
        if isinstance(value, torch.Tensor) and value is getattr(begun, declared.name, None):
            record[declared.name] = _BEGUN
        elif isinstance(value, torch.Tensor):
            tensors[name] = _own_copy(value)
            record[declared.name] = _TENSOR
        elif isinstance(value, tuple) and all(isinstance(one, torch.Tensor) for one in value):
            tensors |= {f"{name}.{number}": _own_copy(one) for number, one in enumerate(value)}
            record[declared.name] = {_TENSORS: len(value)}
        elif is_dataclass(value):
            inner, record[declared.name] = _take_apart(value, None, name + ".")
            tensors |= inner
        elif value is None or isinstance(value, bool | int | float | str):
            record[declared.name] = [value]
        else:
            raise ConfigurationError(f"Expected a state of tensors, numbers and texts, {name} is another thing.")
    return tensors, record


def _own_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Parts of a state may be one tensor; a file of tensors takes each by itself."""
    return tensor.detach().cpu().contiguous().clone()


def _put_together(begun: Any, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    """The reverse; public facts, and tensors of the beginning, are those of the run that was just begun."""
    state = _rebuild(type(begun), record, tensors, "", facts=begun.facts)
    kept = {name: getattr(begun, name) for name, value in record.items() if value == _BEGUN}
    return replace(state, **kept)


def _rebuild(
    kind: type, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], prefix: str, *, facts: PublicFacts
) -> Any:
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for declared in fields(kind):
        name, expected = prefix + declared.name, hints[declared.name]
        kept = record.get(declared.name)
        if expected is PublicFacts:
            values[declared.name] = facts
        elif kept == _TENSOR:
            values[declared.name] = tensors[name]
        elif kept == _BEGUN:
            values[declared.name] = None
        elif isinstance(kept, Mapping) and kept.keys() == {_TENSORS}:
            values[declared.name] = tuple(tensors[f"{name}.{number}"] for number in range(kept[_TENSORS]))
        elif isinstance(kept, Mapping):
            values[declared.name] = _rebuild(_dataclass_of(expected), kept, tensors, name + ".", facts=facts)
        else:
            (values[declared.name],) = record[declared.name]
    return kind(**values)


def _dataclass_of(hint: Any) -> type:
    """The dataclass in a type such as `NoisyPopularity | None`."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    found = [option for option in options if is_dataclass(option)]
    if len(found) != 1 or not isinstance(found[0], type):
        raise TypeError(f"no single dataclass in {hint}")
    return found[0]
