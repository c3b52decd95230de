"""What a silo calls a run in its ledger and its certificate."""

import re

from flwr.app import Context

from recsys_fed.errors import ProtocolError

# Names as `federation train` makes them, and Flower's numbers.
_NAME = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)


def training_of(context: Context) -> str:
    """The training's name, which outlives a restart of the server, else Flower's number of the run.

    Raises:
        ProtocolError: the server sent something else as a name.
    """
    name = str(context.run_config.get("training", "")) or str(context.run_id)
    if not _NAME.fullmatch(name):
        raise ProtocolError(f"Expected the name of a training in letters, digits and hyphens, got {name!r:.80}.")
    return name
