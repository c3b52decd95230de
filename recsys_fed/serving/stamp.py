"""How files are known again without reading them with heavy libraries."""

from hashlib import sha256
from pathlib import Path

from recsys_fed.serving.release import RECORD
from recsys_fed.serving.versions import DIGITS

# Changes when a version imports something else from the same file: it is imported once more then.
_IMPORT = "2"


def stamp_of(path: Path) -> str:
    """What a file or folder is known by: names, sizes and times of its files, as a digest."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    lines = [_IMPORT]
    lines += [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files if file.is_file()]
    return sha256("\n".join(lines).encode()).hexdigest()


def version_of(content: bytes, residual: Path | None) -> str:
    """The version of a model's file, and of the residual that it is served with: SHA-256, hex."""
    digest = sha256(content)
    if residual is not None:
        digest.update(residual.read_bytes())
    return digest.hexdigest()


def packed_version(model: Path, residual: Path | None, folder: Path) -> str | None:
    """The version of a model that is packed in the folder already; None where it is not, or there is no such file."""
    if not model.is_file() or (residual is not None and not residual.is_file()):
        return None
    version = version_of(model.read_bytes(), residual)
    return version if (folder / "versions" / version[:DIGITS] / RECORD).is_file() else None
