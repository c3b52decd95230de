"""Which model version is served: taken over in one assignment, and back again.

versions/VERSION/   a packed model (`packing`), the first digits of its hash as its name
current.json        the version in use and the one before it; replaced last, so a crash leaves one of both

A fingerprint knows files again without reading them with heavy libraries.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from recsys_fed.errors import ConfigurationError, DataNotFoundError
from recsys_fed.files import write_whole
from recsys_fed.serving.packed_model import RECORD, PackedModel, read_packed_model
from recsys_fed.serving.search import Search, TitleIndex, search_of

DIGITS = 16
_CURRENT = "current.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A version with what is built on it. A request takes one of these and uses nothing of another."""

    release: PackedModel
    search: Search

    @cached_property
    def titles(self) -> TitleIndex:
        """Words of the catalogue."""
        return TitleIndex(self.release)

    @property
    def name(self) -> str:
        """The first digits of the version."""
        return self.release.version[:DIGITS]


class Versions:
    """The versions of a folder, and the one in use."""

    def __init__(self, folder: Path, *, search: str = "exact") -> None:
        self._folder, self._how = folder, search
        self._loaded: dict[str, Served] = {}
        names = self._pointers()
        if not names:
            raise DataNotFoundError(f"There is no model version in {folder}. Give --model once.")
        self.current = self.load(names[0])
        self.previous = self.load(names[1]) if len(names) > 1 and self._there(names[1]) else None

    def names(self) -> list[str]:
        """All versions of the folder, the newest last."""
        found = [p for p in (self._folder / "versions").iterdir() if (p / RECORD).is_file()]
        return [path.name for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))]

    def load(self, name: str) -> Served:
        """A version by "current", "previous", or its first digits; ready to serve, not yet in use.

        Raises:
            ConfigurationError: no version, or more than one, begins so.
        """
        if name == "current" and hasattr(self, "current"):
            return self.current
        if name == "previous" and getattr(self, "previous", None) is not None:
            served: Served = self.previous  # type: ignore[assignment]
            return served
        found = [known for known in self.names() if known.startswith(name[:DIGITS])] if name else []
        if len(found) != 1:
            raise ConfigurationError(
                f"Expected the first digits of one model version that is kept: {len(found)} match. See /v1/models."
            )
        if found[0] not in self._loaded:
            release = read_packed_model(self._folder / "versions" / found[0])
            self._loaded[found[0]] = Served(release=release, search=search_of(release, self._how))
        return self._loaded[found[0]]

    def use(self, served: Served) -> None:
        """Serve this version from now on; what was served before can be rolled back to."""
        if served is self.current:
            return
        point_to(self._folder, served.name, before=self.current.name)
        self.current, self.previous = served, self.current
        self._loaded = {v.name: v for v in (self.current, self.previous)}

    def before(self) -> Served:
        """The version to roll back to; raises ConfigurationError where there is none."""
        if self.previous is None:
            raise ConfigurationError("There is no version before this one to go back to.")
        return self.previous

    def _pointers(self) -> list[str]:
        path = self._folder / _CURRENT
        if not path.is_file():
            return []
        record = json.loads(path.read_text(encoding="utf-8"))
        return [str(record[name]) for name in ("current", "previous") if record.get(name)]

    def _there(self, name: str) -> bool:
        return (self._folder / "versions" / name / RECORD).is_file()


def point_to(folder: Path, name: str, *, before: str | None = None) -> None:
    """Write which version is in use, durably and in one step."""
    record = {"current": name[:DIGITS], "previous": before and before[:DIGITS]}
    write_whole(folder / _CURRENT, json.dumps(record))


def items_in_use(folder: Path) -> frozenset[str] | None:
    """Items of the version in use; None before there is one."""
    path = folder / _CURRENT
    if not path.is_file():
        return None
    name = str(json.loads(path.read_text(encoding="utf-8"))["current"])
    record = json.loads((folder / "versions" / name / RECORD).read_text(encoding="utf-8"))
    return frozenset(map(str, record["item_ids"]))


def adopt(folder: Path, name: str, *, new: bool) -> None:
    """At a start: use a version that was just packed, or the first one. One that was there before is left alone.

    So a roll-back outlives a restart with the same model.
    """
    path = folder / _CURRENT
    if not path.is_file():
        point_to(folder, name)
    elif new:
        point_to(folder, name, before=str(json.loads(path.read_text(encoding="utf-8"))["current"]))


# Changes when a version imports something else from the same file: it is imported once more then.
_IMPORT = "2"


def fingerprint_of(path: Path) -> str:
    """What a file or folder is known by: names, sizes and times of its files, as a digest."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    lines = [_IMPORT]
    lines += [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.is_file()]
    return sha256("\n".join(lines).encode()).hexdigest()


def model_version(content: bytes, *beside: Path | None) -> str:
    """The version of a model's file, and of the residual and effects that it is served with: SHA-256, hex."""
    digest = sha256(content)
    for path in filter(None, beside):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def packed_version(model: Path, residual: Path | None, folder: Path, *, effects: Path | None = None) -> str | None:
    """The version of a model that is packed in the folder already; None where it is not, or there is no such file."""
    if not model.is_file() or (residual is not None and not residual.is_file()):
        return None
    version = model_version(model.read_bytes(), residual, effects)
    return version if (folder / "versions" / version[:DIGITS] / RECORD).is_file() else None
