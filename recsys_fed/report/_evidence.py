"""Figures of a dossier: each is read from a file by a JSON Pointer (RFC 6901), and the file is named by its SHA-256.

An address of a figure is ROLE#POINTER, such as `metrics#/epsilon`; `*` in a pointer stands for each key of a mapping
and for each different value in a list. Roles are the kinds of files that a run, a silo or a federation keeps.
"""

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys_fed.certificates.run import verify_run
from recsys_fed.deployment.federation import FILE as FEDERATION_SETTINGS
from recsys_fed.deployment.federation import FederationFolder
from recsys_fed.errors import DataFormatError, DataNotFoundError
from recsys_fed.federation.run_files import CERTIFICATES, EMBEDDINGS, EVENTS, FEDERATION
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.ledger.records import export_ledger
from recsys_fed.ledger.verification import verification_record
from recsys_fed.report.privacy import run_record
from recsys_fed.report.report_file import AUDIT
from recsys_fed.signing import sha256
from recsys_fed.silo.settings import FILE as SILO
from recsys_fed.silo.settings import read_silo_settings
from recsys_fed.simulation.record import CONFIG, METRICS

_GUESS = "(e^epsilon + delta) / (1 + e^epsilon)"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file that figures come from.

    Attributes:
        name: S1, S2, ...; file: as the dossier names it, relative to the folder that it is about.
        sha256: of its bytes; of a folder that of the lines that `sha256sum *` prints in it.
        read_by: how to see what pointers point into.
        record: that.
    """

    name: str
    file: str
    sha256: str
    read_by: str
    record: Any


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure, with the pointers into its source that it comes from; `formula` where it is not what stands there."""

    label: str
    value: Any
    source: Source
    pointers: tuple[str, ...]
    formula: str = ""

    def to_record(self) -> dict[str, Any]:
        """Return it as JSON values, with the file and its SHA-256."""
        return {
            "label": self.label,
            "value": self.value,
            "shown": shown(self.value),
            "source": self.source.name,
            "file": self.source.file,
            "sha256": self.source.sha256,
            "pointers": list(self.pointers),
            "formula": self.formula,
        }


def shown(value: Any) -> str:
    """A value as the dossier shows it: numbers with four figures, "none" for nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return str(value) if value not in (None, "") else "none"


class Evidence:
    """The sources of a dossier by role, in the order in which they were found."""

    def __init__(self, sources: Mapping[str, Sequence[Source]]) -> None:
        self._sources = sources

    @property
    def sources(self) -> list[Source]:
        """All of them, each once."""
        return list({source.name: source for found in self._sources.values() for source in found}.values())

    def of(self, role: str) -> Sequence[Source]:
        """Those of a role."""
        return self._sources.get(role, ())

    def figures(self, label: str, addresses: Sequence[str]) -> list[Figure]:
        """The figures at the first address where there are any."""
        for address in addresses:
            role, _, pointer = address.partition("#")
            found = [
                Figure(
                    label=_label(label, (*_silo_of(role, source), *keys)),
                    value=value,
                    source=source,
                    pointers=(place,),
                )
                for source in self.of(role)
                for place, keys, value in _at(source.record, pointer.split("/")[1:])
            ]
            if found:
                return found
        return []

    def best_guess(self, label: str) -> list[Figure]:
        """How often somebody who tosses for a person's taking part, even odds, can be right at most.

        Of an (epsilon, delta)-private release the true positive rate is at most e^epsilon times the false positive
        rate plus delta, and so with the roles changed: the mean of both rights is at most
        (e^epsilon + delta) / (1 + e^epsilon) (arXiv 1311.0776).
        """
        places = {"worst": ("/spending/epsilon", "/spending/delta"), "verified": ("/epsilon_in_all", "/delta")}
        for role, pointers in places.items():
            for source in self.of(role):
                values = [value for p in pointers for _, _, value in _at(source.record, p.split("/")[1:])]
                if len(values) == len(pointers) and None not in values:
                    guess = _best_guess(float(values[0]), float(values[1]))
                    return [Figure(label=label, value=guess, source=source, pointers=pointers, formula=_GUESS)]
        return []


def _best_guess(epsilon: float, delta: float) -> float:
    """At most 1."""
    return min(1.0, 1 / (1 + math.exp(-epsilon)) + delta / (1 + math.exp(min(epsilon, 700.0))))


def _silo_of(role: str, source: Source) -> tuple[str, ...]:
    return (source.record["terms"]["silo"],) if role == "ledger" and source.record["holds"] else ()


def _label(label: str, keys: Sequence[str]) -> str:
    return ", ".join([label, *keys])


def _at(record: Any, parts: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Pointer, keys in the place of `*`, and value of everything at a pointer; nothing where it does not lead."""
    if not parts:
        if not isinstance(record, Mapping):
            yield "", (), record
        return
    head, rest = parts[0], parts[1:]
    if head == "*" and isinstance(record, list):
        seen = list[Any]()
        for number, inner in enumerate(record):
            for place, keys, value in _at(inner, rest):
                if value not in seen:
                    seen.append(value)
                    yield f"/{number}{place}", keys, value
    elif isinstance(record, Mapping):
        for key in sorted(record, key=lambda key: (len(key), key)) if head == "*" else [_plain(head)]:
            if key in record:
                named = (key,) if head == "*" else ()
                for place, keys, value in _at(record[key], rest):
                    yield f"/{_escaped(key)}{place}", (*named, *keys), value
    elif isinstance(record, list) and head.isdecimal() and int(head) < len(record):
        for place, keys, value in _at(record[int(head)], rest):
            yield f"/{head}{place}", keys, value


def _plain(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


_READ: dict[str, Callable[[Path], Any]] = {
    "JSON": lambda path: json.loads(path.read_text(encoding="utf-8")),
    "TOML": lambda path: tomllib.loads(path.read_text(encoding="utf-8")),
    "JSON, a value a line": _lines,
    "recsys-fed privacy verify FILE --json": lambda path: verification_record(str(path)),
    "recsys-fed privacy verify-run on the folder above, --json": lambda path: run_record(
        verify_run(path, events=path.parent / EVENTS, model=path.parent / EMBEDDINGS)
    ),
}
_JSON, _TOML, _LINES, _VERIFY, _VERIFY_RUN = _READ


def gather_evidence(folder: Path, *, audit: Path | None, exports: Path) -> Evidence:
    """Find and read what a folder has.

    Args:
        folder: of a run, of an audit with its run, of a silo or of a federation.
        audit: audit.json, or its folder, where it is not in `folder`.
        exports: folder for exports of the ledgers: a ledger grows, and its export is what figures were read from.

    Raises:
        DataNotFoundError: there is nothing of the kind.
        DataFormatError: a file is not what its name says.
    """
    run = _run_in(folder)
    training = max(run.glob("training-*"), key=lambda path: (len(path.name), path.name), default=run)
    ledgers = _export_ledgers(folder, training, exports)
    audited = audit if audit is None or audit.is_file() else audit / AUDIT
    files: dict[str, tuple[Sequence[Path], str]] = {
        "metrics": ([run / METRICS], _JSON),
        "config": ([run / CONFIG], _TOML),
        "totals": ([training / FEDERATION], _JSON),
        "events": ([training / EVENTS], _LINES),
        "verified": ([training / CERTIFICATES], _VERIFY_RUN),
        "silo": ([folder / SILO], _TOML),
        "federation": ([folder / FEDERATION_SETTINGS], _TOML),
        "audit": ([audited or folder / AUDIT], _JSON),
        "ledger": (ledgers, _VERIFY),
    }
    found: dict[str, list[Source]] = {}
    count = 0
    for role, (paths, read_by) in files.items():
        for path in paths:
            if path.is_file() or (path.is_dir() and any(path.iterdir())):
                count += 1
                source = _source(path, read_by, name=f"S{count}", folder=folder)
                found.setdefault(role, []).append(source)
    if not found:
        raise DataNotFoundError(f"Cannot find a run, an audit, a silo or a federation in {folder}.")
    if audited is not None and "audit" not in found:
        raise DataNotFoundError(f"Cannot find an audit at {audited}.")
    held = [one for one in found.get("ledger", ()) if one.record["holds"]]
    if held:
        worst = max(held, key=lambda one: float(one.record["spending"]["epsilon"]))
        found["worst"] = [worst]
        path = ledgers[found["ledger"].index(worst)]
        found["entries"] = [_source(path, _LINES, name=f"S{count + 1}", folder=folder)]
    return Evidence(found)


def _run_in(folder: Path) -> Path:
    """Of a federation the newest training that has certificates, of an audit its run."""
    trainings = [path.parent for path in FederationFolder(folder).trainings.glob(f"*/{CERTIFICATES}")]
    if trainings:
        return max(trainings)
    return folder / "run" if (folder / AUDIT).is_file() and (folder / "run").is_dir() else folder


def _export_ledgers(folder: Path, training: Path, exports: Path) -> list[Path]:
    """Write the export of each ledger and return where they are: of a silo its own, of a simulation all silos'."""
    addresses = {
        path.parent.name: str(path)
        for path in sorted(
            training.glob("ledgers/*/ledger.sqlite"), key=lambda path: (len(path.parent.name), path.parent.name)
        )
    }
    if (folder / SILO).is_file():
        settings = read_silo_settings(folder)
        addresses = {"silo": settings.ledger}
    written = []
    for name, address in addresses.items():
        exports.mkdir(parents=True, exist_ok=True)
        path = exports / f"ledger-{name}.jsonl"
        path.unlink(missing_ok=True)
        export_ledger(Ledger.open(address), path)
        written.append(path)
    return written


def _source(path: Path, read_by: str, *, name: str, folder: Path) -> Source:
    try:
        record = _READ[read_by](path)
    except (ValueError, KeyError, TypeError) as error:
        raise DataFormatError(f"Expected {path} to be {read_by}: {error}.") from error
    inside = path.resolve().is_relative_to(folder.resolve())
    file = path.resolve().relative_to(folder.resolve()).as_posix() if inside else path.name
    return Source(name=name, file=file, sha256=_digest(path), read_by=read_by, record=record)


def _digest(path: Path) -> str:
    if path.is_file():
        return sha256(path.read_bytes())
    lines = (f"{sha256(one.read_bytes())}  {one.name}\n" for one in sorted(path.iterdir()) if one.is_file())
    return sha256("".join(lines).encode())
