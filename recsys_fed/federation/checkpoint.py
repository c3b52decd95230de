"""What a server needs to go on after a crash: the trainer's state between two rounds, and where the run is.

One file, replaced after each round: a safetensors container of the state's tensors whose metadata holds the rest as
JSON. It holds nothing that was not released: public facts, noised sums and what follows from them. Its size does not
grow with the number of rounds. A state is a frozen dataclass of tensors, numbers, texts and further such
dataclasses; what follows from the configuration and the public catalogue is not written but made again.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from recsys_fed.config import FederationConfig, flat
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.federation.schedule import Schedule
from recsys_fed.signing import canonical
from recsys_fed.trainers.trainer import PublicFacts

FILE = "checkpoint.safetensors"
_METADATA, _VERSION = "recsys-fed checkpoint", 1
_TENSOR, _BEGUN = "tensor", "as at the beginning"
# What may differ between the runs before and after an interruption.
_FREE = {
    "output", "catalogue", "roster", "resume", "threads", "device", "minimum-silos", "silos", "robust", "trim",
}  # fmt: skip


def save_checkpoint(schedule: Schedule, path: Path, *, begun: Schedule) -> None:
    """Write the run as it stands; the file is the old one or the whole new one, also after a power failure.

    Tensors that are still those with which the run has begun are not written: they follow from its settings.
    """
    tensors, record = _taken_apart(schedule.state, begun.state)
    facts = {
        "version": _VERSION,
        "round": schedule.round,
        "rounds": len(schedule.stages),
        "noise_multiplier": schedule.noise_multiplier,
        "catalogue_hash": schedule.facts.catalogue_hash,
        "silos": schedule.config.silos,
        "config": _compared(schedule.config),
        "metrics": {name: dict(values) for name, values in schedule.metrics.items()},
        "state": record,
    }
    text = json.dumps(facts, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(save(tensors, metadata={_METADATA: text}))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def resume_schedule(begun: Schedule, path: Path) -> Schedule:
    """The run of a checkpoint, from one that was just begun with the same settings.

    Raises:
        DataNotFoundError: there is no checkpoint.
        DataFormatError: it is something else.
        ConfigurationError: it is of another run: other settings, catalogue, plan or noise. It names what differs.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Expected a checkpoint at {path}, there is no such file. Start anew.")
    try:
        with safe_open(path, framework="pt") as file:
            facts: Mapping[str, Any] = json.loads((file.metadata() or {})[_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        expected = {
            "version": _VERSION,
            "rounds": len(begun.stages),
            "noise_multiplier": begun.noise_multiplier,
            "catalogue_hash": begun.facts.catalogue_hash,
            "silos": begun.config.silos,
            "config": _compared(begun.config),
        }
        for name, value in expected.items():
            if facts[name] != value:
                raise ConfigurationError(f"Expected a checkpoint of {name} {value!r}, {path} has {facts[name]!r}.")
        state = _put_together(begun.state, facts["state"], tensors)
        return replace(begun, state=state, round=facts["round"], metrics=facts["metrics"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise DataFormatError(f"Expected a checkpoint in {path}, got another file: {error}.") from error


def checkpointed_silos(path: Path) -> int:
    """For how many silos the run of a checkpoint was planned; raises as `resume_schedule`."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(json.loads((file.metadata() or {})[_METADATA])["silos"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataFormatError(f"Expected a checkpoint in {path}, got another file: {error}.") from error


def _compared(config: FederationConfig) -> str:
    """The settings that must be the same, as one text."""
    keys = {name: str(value) for name, value in flat(config).items() if name not in _FREE}
    return canonical(keys).decode()


def _taken_apart(state: Any, begun: Any, prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
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
            tensors[name] = value.detach().cpu().contiguous()
            record[declared.name] = _TENSOR
        elif is_dataclass(value):
            inner, record[declared.name] = _taken_apart(value, None, name + ".")
            tensors |= inner
        elif value is None or isinstance(value, bool | int | float | str):
            record[declared.name] = [value]
        else:
            raise ConfigurationError(f"Expected a state of tensors, numbers and texts, {name} is another thing.")
    return tensors, record


def _put_together(begun: Any, record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    """The reverse; public facts, and tensors of the beginning, are those of the run that was just begun."""
    state = _rebuilt(type(begun), record, tensors, "", facts=begun.facts)
    kept = {name: getattr(begun, name) for name, value in record.items() if value == _BEGUN}
    return replace(state, **kept)


def _rebuilt(
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
        elif isinstance(kept, Mapping):
            values[declared.name] = _rebuilt(_dataclass_of(expected), kept, tensors, name + ".", facts=facts)
        else:
            (values[declared.name],) = record[declared.name]
    return kind(**values)


def _dataclass_of(hint: Any) -> type:
    """The dataclass in a type such as `NoisedPopularity | None`."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    found = [option for option in options if is_dataclass(option)]
    if len(found) != 1 or not isinstance(found[0], type):
        raise TypeError(f"no single dataclass in {hint}")
    return found[0]
