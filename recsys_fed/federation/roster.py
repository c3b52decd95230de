"""The roster: names and ledger keys of the admitted silos. The server checks greetings against its own copy, and each
silo that takes part in secure aggregation against the copy that its own operator has taken in.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.signing import parse_public_key


def read_roster(path: Path) -> dict[str, str]:
    """Name -> ledger key.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is no roster.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Expected the roster of admitted silos at {path}, there is no such file.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): parse_public_key(str(key)) for name, key in found.items()}
    except (ValueError, AttributeError, ConfigurationError) as error:
        raise DataFormatError(f"Expected names and ledger keys of silos in {path}: {error}") from error


def write_roster(path: Path, roster: Mapping[str, str]) -> None:
    """Write name -> ledger key; readers see the old file or the whole new one."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(dict(roster), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)
