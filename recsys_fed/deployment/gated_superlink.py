"""flower-superlink with the gate in front of it: `python -m recsys_fed.deployment.gated_superlink ARGUMENTS`.

The arguments are those of flower-superlink; `federation serve` runs this. Two settings come from the environment.
"""

import os
from pathlib import Path

from flwr.superlink import extensions
from flwr.superlink.cli.flower_superlink import flower_superlink
from starlette.middleware import Middleware

from recsys_fed.deployment.gate import Gate
from recsys_fed.logs import EventLog

MOST_BYTES, LOG = "RECSYS_FED_MOST_MESSAGE_BYTES", "RECSYS_FED_SERVER_LOG"
_DEFAULT_MOST = 256 << 20


def main() -> None:
    """Put the gate outermost and run Flower's own command."""
    log = EventLog(Path(os.environ[LOG]) if os.environ.get(LOG) else None)
    gate = Middleware(Gate, most_bytes=int(os.environ.get(MOST_BYTES, _DEFAULT_MOST)), log=log)
    own = extensions.get_middleware
    extensions.get_middleware = lambda: (gate, *own())
    flower_superlink()


if __name__ == "__main__":
    main()
