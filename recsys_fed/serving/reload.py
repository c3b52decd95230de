"""New models: noticed, packed in a process of their own, loaded in a thread, then taken over in one assignment."""

import asyncio
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from recsys_fed.errors import ConfigurationError, DataFormatError
from recsys_fed.serving._service import RecommendationService
from recsys_fed.serving.versions import DIGITS, Served, packed_version

# Names of a run's files (`federation.run_files`, `simulation.runner`).
MODEL_FILE, CATALOGUE_FILE = "item_embeddings.safetensors", "catalogue.parquet"
_PACK_SECONDS = 600.0
_FAILED = "Looking for a new model failed; the service's log says why."
_log = logging.getLogger("recsys_fed.serving")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where new models come from.

    Attributes:
        place: a model's file that is replaced when there is a new one, or the state folder of a silo that takes part
            in training, whose current.json names the newest.
        catalogue: the public items.
        weights: the residual's file, see `packing`; or the state folder of a silo, which has one for each model: a
            model without one is not taken over until it is there. None serves without.
    """

    place: Path
    catalogue: Path
    weights: Path | None = None

    @property
    def model(self) -> Path:
        """The newest model's file; it need not be there."""
        named = _current(self.place)
        return self.place if named is None else self.place / f"model-{named}.safetensors"

    @property
    def residual(self) -> Path | None:
        """The residual of the newest model; it need not be there."""
        named = None if self.weights is None else _current(self.weights)
        return self.weights if self.weights is None or named is None else self.weights / f"residual-{named}.npy"

    @property
    def effects(self) -> Path | None:
        """The effects of attributes and contexts that `silo residual` wrote beside the residual, if it did."""
        named = None if self.weights is None else _current(self.weights)
        path = None if self.weights is None or named is None else self.weights / f"effects-{named}.npz"
        return path if path is not None and path.is_file() else None

    @property
    def files(self) -> list[str]:
        """What `packing` is told of the residual and the effects."""
        found = []
        for flag, path in (("--residual", self.residual), ("--effects", self.effects)):
            found += [flag, str(path)] if path is not None else []
        return found

    def stamp(self) -> tuple[str, int, int, int] | None:
        """Changes when there is a new model or residual; None where there is none, or none that can be served yet."""
        residual = self.residual
        try:
            status = self.model.stat()
            beside = 0 if residual is None else residual.stat().st_mtime_ns
        except OSError:
            return None
        return self.model.name, status.st_mtime_ns, status.st_size, beside


def _current(folder: Path) -> str | None:
    """The name of the newest model in a silo's state folder; None for other places."""
    pointer = folder / "current.json"
    if not pointer.is_file():
        return None
    return str(json.loads(pointer.read_text(encoding="utf-8"))["model"])[:DIGITS]


class ModelReloader:
    """Takes over models of a source. One at a time; requests go on meanwhile, on the version before."""

    def __init__(self, service: RecommendationService, folder: Path, source: ModelSource | None) -> None:
        self._service, self._folder, self._source = service, folder, source
        self._stamp = source.stamp() if source is not None else None
        self._lock = asyncio.Lock()
        self.problem = ""

    async def take(self) -> Served:
        """Pack, load and serve the source's model as it is now.

        Raises:
            ConfigurationError: there is no source. DataFormatError: its model was refused; nothing changed.
        """
        if self._source is None:
            raise ConfigurationError("There is no model to take over from: the service was started without --model.")
        async with self._lock:
            self._stamp = self._source.stamp()
            version = await _pack_in_subprocess(self._source, self._folder)
            return await self._serve(version)

    async def activate(self, version: str) -> Served:
        """Serve a version that is kept."""
        async with self._lock:
            return await self._serve(version)

    async def look(self) -> None:
        """Take over if the source's file has changed. What is refused is reported, not served, nor tried again.

        Whatever else goes wrong is raised, and tried again at the next look.
        """
        try:
            await self._look()
        except Exception:
            self._stamp, self.problem = None, _FAILED
            self._service.telemetry.count("model_watch_failures")
            raise
        if self.problem == _FAILED:
            self.problem = ""

    async def _look(self) -> None:
        stamp = self._source.stamp() if self._source is not None else None
        if stamp is None or stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            if not await asyncio.to_thread(self._known):
                await self.take()
            self.problem = ""
        except (DataFormatError, ConfigurationError) as error:
            # The reason names files, which is for the log alone.
            self.problem = "The last model was refused; the service's log says why."
            _log.error("model refused: %s", error)
            self._service.telemetry.count("model_refusals")

    def _known(self) -> bool:
        """Whether the source's model is a version that is kept: it was served before, and perhaps rolled back."""
        source = self._source
        if source is None:
            return False
        return packed_version(source.model, source.residual, self._folder, effects=source.effects) is not None

    async def _serve(self, version: str) -> Served:
        served = await asyncio.to_thread(self._load, version)
        self._service.use(served)
        return served

    def _load(self, version: str) -> Served:
        """A version with all that the first request would otherwise have to wait for."""
        served = self._service.versions.load(version)
        _ = served.release.row_of, served.release.category_rows, served.release.norms
        return served


async def _pack_in_subprocess(source: ModelSource, folder: Path) -> str:
    """Pack in a process of its own; returns the version. Raises DataFormatError with its reason."""
    arguments = [str(source.model), str(source.catalogue), str(folder), *source.files]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "recsys_fed.serving.packing", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        output, errors = await asyncio.wait_for(process.communicate(), timeout=_PACK_SECONDS)
    except TimeoutError as error:
        process.kill()
        raise DataFormatError(f"A model was not packed within {_PACK_SECONDS:g} s.") from error
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise DataFormatError(f"The model was refused, nothing changed. {lines[-1]}")
    return output.decode().strip()
