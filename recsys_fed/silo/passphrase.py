"""The passphrase of key files, from the environment: it is in no file and on no command line."""

import os

VARIABLE = "RECSYS_FED_PASSPHRASE"


def passphrase() -> str | None:
    """The passphrase, or None where there is none."""
    return os.environ.get(VARIABLE) or None
