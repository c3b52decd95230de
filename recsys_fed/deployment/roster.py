"""Which silos are admitted: files in the operator's folder, brought into line with what Flower has registered."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recsys_fed.deployment._keys import Admission, read_admission
from recsys_fed.deployment.federation import (
    ROSTER,
    FederationFolder,
    nodes_command,
    register_command,
    unregister_command,
)
from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.admission import write_roster
from recsys_fed.files import file_lock
from recsys_fed.flower import ask_flower

_GONE, _NUMBERS = "unregistered", "nodes.json"
Say = Callable[[Sequence[str]], None]


@dataclass(frozen=True, kw_only=True)
class _Node:
    """An admitted silo and its `status`: not registered, registered, online or offline."""

    name: str
    status: str


def admit(folder: FederationFolder, file: Path) -> Admission:
    """Take a silo's public key file into the roster, also in the place of the keys that the silo had before.

    Raises:
        ConfigurationError: the name or one of the keys is taken, or was revoked; or the new keys of an admitted silo
            are not signed by its ledger key.
        DataError: it is no such file.
    """
    folder.settings()
    read = read_admission(file)
    found, there = replace(read, key_before="", approval=""), admitted_silos(folder)
    if found in there:
        return found
    before = next((k for k in there if (k.name, k.ledger_key) == (found.name, read.key_before)), None)
    if read.key_before and before is None:
        raise ConfigurationError(
            f"Expected new keys of an admitted silo, {found.name!r} is not admitted with the ledger key "
            f"{read.key_before[:16]}...."
        )
    gone = _read_all(folder.revoked)
    names = {known.name for known in (*there, *gone) if known != before}
    # A silo whose ledger another federation shares keeps its node key here.
    own = {before.node_key} if before is not None else set()
    for known in (*there, *gone, *_read_all(folder.replaced)):
        if found.name in names or {found.node_key, found.ledger_key} & {known.node_key, known.ledger_key} - own:
            raise ConfigurationError(
                f"Expected a name and keys of its own for {found.name!r}, another silo has or had one of them. Let "
                "the silo make new keys; `silo change-keys` makes them for one that is admitted."
            )
    if before is not None:
        folder.replaced.mkdir(exist_ok=True)
        gone_by = _file(folder.replaced, before)
        _file(folder.admitted, before).replace(gone_by.with_stem(f"{gone_by.stem}-{before.ledger_key[:16]}"))
    _file(folder.admitted, found).write_text(found.line(), encoding="utf-8")
    publish_roster(folder)
    return found


def surplus(folder: FederationFolder) -> str:
    """What is wrong with more admitted silos than the terms are for; "" where there are not more."""
    there, planned = len(admitted_silos(folder)), folder.settings().training.silos
    if there <= planned:
        return ""
    return (
        f"{there} silos are admitted, the terms are for {planned}: noise and averages are planned for {planned}. "
        f"Revoke one, or set new terms: recsys-fed federation terms {folder.path} --set silos={there}."
    )


def revoke(folder: FederationFolder, name: str) -> Admission:
    """Take a silo out of the roster for ever; raises ConfigurationError if it is not in it."""
    for known in admitted_silos(folder):
        if known.name == name:
            _file(folder.admitted, known).replace(_file(folder.revoked, known))
            publish_roster(folder)
            return known
    there = ", ".join(sorted(known.name for known in admitted_silos(folder))) or "none"
    raise ConfigurationError(f"Expected the name of an admitted silo ({there}), got {name!r}.")


def admitted_silos(folder: FederationFolder) -> list[Admission]:
    """All admitted silos by name."""
    return _read_all(folder.admitted)


def publish_roster(folder: FederationFolder, path: Path | None = None) -> None:
    """Write the roster of all admitted silos to a file, by default the one that is handed to silos."""
    roster = {known.name: known.ledger_key for known in admitted_silos(folder)}
    write_roster(folder.public / ROSTER if path is None else path, roster)


def synchronise(folder: FederationFolder, *, say: Say) -> None:
    """Register with a running SuperLink who is admitted, unregister everybody else.

    Raises:
        EngineError: the SuperLink does not answer.
    """
    # A server that starts and `federation admit` would register the same key twice.
    with file_lock(folder.flower_home / "nodes.lock", wait=True):
        known = _numbers(folder)
        wanted = {silo.node_key for silo in admitted_silos(folder)}
        there = {number for number, _ in _list_nodes(folder)}
        for number in there - {known[key] for key in wanted if key in known}:
            _flower(folder, unregister_command(number), say=say)
        for silo in admitted_silos(folder):
            if known.get(silo.node_key) not in there:
                answer = _flower(folder, register_command(_file(folder.admitted, silo), name=silo.name), say=say)
                known[silo.node_key] = str(answer["node-id"])
        kept = {key: number for key, number in known.items() if key in wanted}
        (folder.flower_home / _NUMBERS).write_text(json.dumps(kept, sort_keys=True) + "\n")


def nodes(folder: FederationFolder) -> list[_Node]:
    """The admitted silos as a running SuperLink sees them; raises EngineError if it does not answer."""
    known, status = _numbers(folder), dict(_list_nodes(folder))
    return [
        _Node(name=silo.name, status=status.get(known.get(silo.node_key, ""), "not registered"))
        for silo in admitted_silos(folder)
    ]


def heard_of(folder: FederationFolder) -> dict[str, float]:
    """When the server last heard of each admitted silo, Unix time; of one that has not come yet, 0."""
    found = {}
    for silo in admitted_silos(folder):
        file = folder.heard / _file(folder.admitted, silo).name
        found[silo.name] = file.stat().st_mtime if file.exists() else 0.0
    return found


def missing_silos(folder: FederationFolder) -> str:
    """The admitted silos that are not online, with what they are instead; "" if all are."""
    return ", ".join(f"{node.name} is {node.status}" for node in nodes(folder) if node.status != "online")


def _list_nodes(folder: FederationFolder) -> list[tuple[str, str]]:
    """Number and status of the nodes that Flower has registered."""
    listed = _flower(folder, nodes_command()).get("nodes", [])
    return [(str(node["node-id"]), str(node["status"])) for node in listed if node["status"] != _GONE]


def _numbers(folder: FederationFolder) -> dict[str, str]:
    """Flower's number of each node key: Flower tells it once, when a node is registered."""
    path = folder.flower_home / _NUMBERS
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _flower(folder: FederationFolder, command: list[str], *, say: Say | None = None) -> dict[str, Any]:
    if say is not None:
        say(command)
    return ask_flower(command, folder.flower_home)


def _read_all(folder: Path) -> list[Admission]:
    return sorted((read_admission(path) for path in folder.glob("*.pub")), key=lambda known: known.name)


def _file(folder: Path, known: Admission) -> Path:
    """Named after the key, which unlike the silo's name is safe in a path."""
    digits = base64.b64decode(known.node_key)[-8:].hex()
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in known.name)
    return folder / f"{plain[:40]}-{digits}.pub"
