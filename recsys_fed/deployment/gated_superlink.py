"""flower-superlink with the gate in front of it: `python -m recsys_fed.deployment.gated_superlink ARGUMENTS`.

The arguments are those of flower-superlink; `federation serve` runs this. Two settings come from the environment.

What a SuperLink answers to whom: silos reach the Fleet API only, the operator's own machine everything.

Flower serves the API of nodes and the API that starts runs and admits nodes on one port, and authenticates callers
of the first only. Without this gate whoever reaches the port could admit a key of their own, or start an app.
"""

import os
from collections.abc import Collection
from pathlib import Path

from flwr.superlink import extensions
from flwr.superlink.cli.flower_superlink import flower_superlink
from starlette.middleware import Middleware

from recsys_fed.gate import Application, Gate, Refusal, Scope, Send
from recsys_fed.logs import EventLog

_FOR_SILOS = ("/v1/fleet/",)
_FOR_ALL = ("/health",)
_OPERATORS = frozenset({"127.0.0.1", "::1"})


class SuperLinkGate(Gate):
    """In front of all of Flower's own: 403 or 413 and a line of the log for what is refused."""

    def __init__(
        self, application: Application, *, most_bytes: int, log: EventLog, operators: Collection[str] = _OPERATORS
    ) -> None:
        super().__init__(application, most_bytes=most_bytes)
        self._log, self._operators = log, operators

    def admit(self, scope: Scope) -> None:
        """Silos reach the fleet's paths, everybody whether the server is alive, operators all."""
        path, caller = str(scope.get("path", "")), (scope.get("client") or ("",))[0]
        if not (path in _FOR_ALL or path.startswith(_FOR_SILOS) or caller in self._operators):
            raise Refusal(403, "Only the operator's own machine may ask this.", {"connection": "close"})

    async def refuse(self, refusal: Refusal, send: Send) -> None:
        """Answer, and write down that it was refused."""
        self._log.write("request refused", reason=refusal.detail)
        await super().refuse(refusal, send)


MOST_BYTES, LOG = "RECSYS_FED_MOST_MESSAGE_BYTES", "RECSYS_FED_SERVER_LOG"
_DEFAULT_MOST = 256 << 20


def main() -> None:
    """Put the gate outermost and run Flower's own command."""
    log = EventLog(Path(os.environ[LOG]) if os.environ.get(LOG) else None)
    gate = Middleware(SuperLinkGate, most_bytes=int(os.environ.get(MOST_BYTES, _DEFAULT_MOST)), log=log)
    own = extensions.get_middleware
    extensions.get_middleware = lambda: (gate, *own())
    flower_superlink()


if __name__ == "__main__":
    main()
